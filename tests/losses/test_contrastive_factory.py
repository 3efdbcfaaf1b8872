"""Contrastive losses by name: the right class with the right settings, and messages for what cannot be."""

import inspect

import pytest
import torch

from medssl_monai.core import ConfigError
from medssl_monai.losses import (
    BinaryContrastiveLoss,
    ComboContrastiveLoss,
    DCLLoss,
    DCLWLoss,
    DySTreSSLoss,
    EuclideanInfoNCELoss,
    MIOLoss,
    NTXentLoss,
    contrastive_loss,
)

DEFAULTS = {
    "nt_xent": (NTXentLoss, {"temperature": 0.1}),
    "dcl": (DCLLoss, {"temperature": 0.1}),
    "dclw": (DCLWLoss, {"temperature": 0.1, "sigma": 0.5, "detach_weights": False}),
    "binary": (BinaryContrastiveLoss, {"temperature": 0.25}),
    "euclidean": (EuclideanInfoNCELoss, {"temperature": 0.33, "normalize": True}),
    "combo": (ComboContrastiveLoss, {"temperature": 0.25, "contrastive_temperature": 0.33, "average": "expectations"}),
    "mio_v1": (MIOLoss, {"version": 1, "temperature": 0.2}),
    "mio_v2": (MIOLoss, {"version": 2, "temperature": 0.2}),
    "mio_v3": (MIOLoss, {"version": 3, "temperature": 0.2}),
    "dystress": (
        DySTreSSLoss,
        {"tau_min": 0.1, "tau_max": 0.2, "profile": "cosine", "shift": None, "scale": None, "detach_temperature": True},
    ),
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_names_and_their_defaults(name):
    kind, settings = DEFAULTS[name]
    taken = [key for key in inspect.signature(kind).parameters if key != "version"]
    loss = contrastive_loss(name, **dict.fromkeys(taken))  # None keeps every default
    assert type(loss) is kind
    assert {key: getattr(loss, key) for key in settings} == settings
    assert loss.gather_distributed is False
    assert loss.chunk_size is None


@pytest.mark.parametrize("name", DEFAULTS)
def test_settings_reach_the_loss(name):
    temperature = {} if name == "dystress" else {"temperature": 0.7}
    loss = contrastive_loss(name, gather_distributed=True, chunk_size=3, **temperature)
    assert (loss.gather_distributed, loss.chunk_size) == (True, 3)
    assert name == "dystress" or loss.temperature == 0.7
    assert loss(torch.randn(4, 3), torch.randn(4, 3)).isfinite()


def test_settings_of_one_loss():
    assert contrastive_loss("combo", average="pairs").average == "pairs"
    assert contrastive_loss("dclw", sigma=0.3, detach_weights=True).detach_weights is True
    assert contrastive_loss("euclidean", normalize=False).normalize is False
    loss = contrastive_loss("dystress", tau_min=0.07, shift=-0.4, scale=0.7)
    assert (loss.tau_min, loss.shift, loss.scale) == (0.07, -0.4, 0.7)


def test_an_unknown_name_is_refused_with_the_closest():
    with pytest.raises(ConfigError, match=r"^loss_name: unknown contrastive loss 'ntxent'. Did you mean 'nt_xent'\?$"):
        contrastive_loss("ntxent")
    with pytest.raises(ConfigError, match=r"Known: binary, combo, dcl, dclw, dystress, euclidean, mio_v1, .*nt_xent"):
        contrastive_loss("cross")


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        (
            "dystress",
            {"temperature": 0.1},
            r"loss_name: the contrastive loss 'dystress' takes no 'temperature' \(found temperature=0.1, expected one "
            r"of tau_min, tau_max, .*\). Leave it out, or set it to null.",
        ),
        ("nt_xent", {"temprature": 0.1}, r"takes no 'temprature'.* Did you mean 'temperature'\?"),
        # who gathers is a matter of the run: it is not among what one can choose
        (
            "mio_v1",
            {"version": 3, "gather_distributed": True},
            r"^loss_name: .*takes no 'version' \(found version=3, expected one of temperature, chunk_size\)",
        ),
        ("dystress", {"temperature": 0.1}, r"set it to null\. It has tau_min and tau_max\.$"),
    ],
)
def test_a_setting_that_the_loss_does_not_take_is_refused(name, settings, message):
    with pytest.raises(ConfigError, match=message):
        contrastive_loss(name, **settings)


def test_a_value_that_the_loss_refuses():
    with pytest.raises(ConfigError, match=r"^temperature: expected a finite number above 0, got -1\.$") as caught:
        contrastive_loss("binary", temperature=-1)
    assert isinstance(caught.value, ValueError)
    with pytest.raises(ConfigError, match=r"^tau_min: expected at most tau_max = 0\.2, got 0\.3\.$"):
        contrastive_loss("dystress", tau_min=0.3)


# --- the further settings of a configuration: one mapping


@pytest.mark.parametrize(
    ("name", "further"),
    [
        ("dystress", {"profile": "exponential"}),
        ("dystress", {"shift": -0.4, "scale": 0.7, "detach_temperature": False}),
        ("dclw", {"sigma": 0.3, "detach_weights": True}),
        ("combo", {"contrastive_temperature": 0.5, "average": "pairs"}),
        ("euclidean", {"normalize": False}),
        ("mio_v2", {"temperature": 0.5, "chunk_size": 3}),
    ],
)
def test_further_settings_reach_the_loss(name, further):
    loss = contrastive_loss(name, loss_settings={**further, "nothing": None}, chunk_size=None, temperature=None)
    assert {key: getattr(loss, key) for key in further} == further
    # and change its value, unless they only say how it is computed
    z1, z2 = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))
    values = [float(each(z1, z2)) for each in (loss, contrastive_loss(name, **further), contrastive_loss(name))]
    assert values[0] == values[1]
    assert abs(values[0] - values[2]) > 1e-4


@pytest.mark.parametrize("nothing", [None, {}, {"profile": None, "sigma": None}])
def test_no_further_settings_leave_the_defaults(nothing):
    for name in DEFAULTS:
        assert repr(contrastive_loss(name, loss_settings=nothing)) == repr(contrastive_loss(name))


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        (
            "dystress",
            {"tau_min": 0.07, "loss_settings": {"tau_min": 0.08}},
            r"^loss_settings: tau_min is given twice \(found 0\.08, expected only tau_min=0\.07\)\.$",
        ),
        (
            "dclw",
            {"loss_settings": {"sigmoid": 0.3}},
            r"^loss_settings: the contrastive loss 'dclw' takes no 'sigmoid' \(found sigmoid=0\.3, expected one of "
            r"temperature, sigma, detach_weights, chunk_size\)\. Leave it out, or set it to null\. Did you mean 'sigma",
        ),
        ("mio_v3", {"loss_settings": {"version": 2}}, r"^loss_settings: the contrastive loss 'mio_v3' takes no 'ver"),
        (
            "nt_xent",
            {"loss_settings": {3: 4}},
            r"^loss_settings: the contrastive loss 'nt_xent' takes no 3 \(found 3=4",
        ),
        ("dclw", {"loss_settings": {"sigma": -1}}, r"^loss_settings: sigma: expected a finite number above 0, got -1"),
        (
            "dystress",
            {"loss_settings": {"shift": -0.4}},
            r"^loss_settings: shift and scale: expected both, or neither for eq\. 6\.16, got shift=-0\.4, scale=None",
        ),
        (
            "dystress",
            {"tau_min": 0.3, "loss_settings": {"profile": "linear"}},
            r"^tau_min: expected at most tau_max = 0\.2, got 0\.3",
        ),
        (
            "dystress",
            {"loss_settings": {"profile": "line"}},
            r"^loss_settings: profile: expected .*got 'line'\. Did you mean 'linear'\?$",
        ),
        *(
            (
                "dystress",
                {"loss_settings": value},
                r"^loss_settings: the further settings of the loss are no mapping \(found .*, expected "
                r"\{name: value\}, such as \{profile: linear\}\)",
            )
            for value in ("profile=linear", "", ["profile"], [], 0, False)
        ),
    ],
)
def test_further_settings_that_cannot_be(name, settings, message):
    with pytest.raises(ConfigError, match=message):
        contrastive_loss(name, **settings)
