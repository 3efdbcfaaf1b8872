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
        ("nt_xent", {"temprature": 0.1}, "takes no 'temprature'.* Did you mean 'temperature'?"),
        ("mio_v1", {"version": 3}, r"takes no 'version' \(found version=3, expected one of temperature, gather_"),
    ],
)
def test_a_setting_that_the_loss_does_not_take_is_refused(name, settings, message):
    with pytest.raises(ConfigError, match=message):
        contrastive_loss(name, **settings)


def test_a_value_that_the_loss_refuses():
    with pytest.raises(ValueError, match="temperature: expected a finite number above 0, got -1"):
        contrastive_loss("binary", temperature=-1)
