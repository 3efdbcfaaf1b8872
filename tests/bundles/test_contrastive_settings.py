"""Keys of both contrastive bundles: what reaches the loss, and what is refused before any image is prepared."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigParser

from medssl_monai.apps.run import parse_overrides, resolve_config, root_cause, run_stage
from medssl_monai.core import ConfigError, DataError
from medssl_monai.data import load_datalist
from medssl_monai.data.phantoms import make_phantom

IMAGES = "contrastive_image_classification"
KNEE = "contrastive_knee_mri_classification"

pytestmark = pytest.mark.bundle


def made(bundle: str, *overrides: str, key: str = "loss", stage: str = "pretrain") -> Any:
    """A part of a stage's configuration, with overrides as on the command line."""
    config, _ = resolve_config(bundle, stage, parse_overrides(overrides))
    return ConfigParser(config).get_parsed_content(key)


@pytest.fixture(scope="module")
def knees(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("knees") / "data"
    make_phantom("knee", folder, subjects=12, size=32, split=(0.6, 0.2, 0.2), field_of_view=96.0, severity=2.5)
    return folder


# --- what reaches the loss
@pytest.mark.parametrize("bundle", [IMAGES, KNEE])
@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["loss_name=dystress", "loss_settings={profile: linear}"], {"profile": "linear", "tau_min": 0.1}),
        (
            ["loss_name=dystress", "tau_min=0.07", "loss_settings={shift: -0.4, scale: 0.7}"],
            {"tau_min": 0.07, "shift": -0.4, "scale": 0.7},
        ),
        (
            ["loss_name=dclw", "loss_settings={sigma: 0.3, detach_weights: true}"],
            {"sigma": 0.3, "detach_weights": True},
        ),
        (
            ["loss_name=combo", "loss_settings={contrastive_temperature: 0.5, average: pairs}"],
            {"temperature": 0.25, "contrastive_temperature": 0.5, "average": "pairs"},
        ),
        (["loss_name=mio_v2", "loss_settings={temperature: 0.4}"], {"temperature": 0.4, "version": 2}),
        (["loss_name=nt_xent", "loss_settings={temperature: null}"], {"temperature": 0.1}),
        (["loss_name=nt_xent", "loss_settings=null", "temperature=0.3"], {"temperature": 0.3}),
    ],
)
def test_settings_reach_the_loss(bundle: str, overrides: list[str], expected: dict[str, Any]) -> None:
    loss = made(bundle, *overrides)
    assert {key: getattr(loss, key) for key in expected} == expected
    assert loss.gather_distributed is True


@pytest.mark.parametrize("bundle", [IMAGES, KNEE])
def test_the_loss_as_it_is_made_is_a_setting_of_resume(bundle: str) -> None:
    """However a value was given, it is told apart; and another way of saying the same is the same."""

    def setting(*overrides: str) -> str:
        text = made(bundle, "loss_name=dystress", *overrides, key="settings::loss")
        assert isinstance(text, str)
        return text

    plain = setting()
    assert plain.startswith("DySTreSSLoss(tau_min=0.1, tau_max=0.2, profile='cosine'")
    assert setting("loss_settings={profile: linear}") == setting("loss::profile=linear") != plain
    assert setting("tau_max=0.3") == setting("loss::tau_max=0.3") == plain.replace("tau_max=0.2", "tau_max=0.3")
    assert setting("loss_settings={profile: cosine}") == plain
    moco = ConfigParser(resolve_config(bundle, "pretrain", {"loss_name": "moco"})[0])
    assert moco.get_parsed_content("settings::loss") == "None"
    assert made(bundle, "loss_settings={profile: linear}", key="settings::loss_settings") == {"profile": "linear"}


# --- what is refused at once: with no dataset to read, so that nothing can have been prepared
@pytest.mark.parametrize("bundle", [IMAGES, KNEE])
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["loss_name=mocco", "momentum=0.9"], r"^loss_name: unknown contrastive loss 'mocco'\. Did you mean 'moco'\?$"),
        (
            ["loss_name=moco", "loss_settings={sigma: 0.3}"],
            r"^loss_settings: loss_settings is not read with loss_name moco \(found \{'sigma': 0\.3\}, expected null\)",
        ),
        (["loss_name=moco", "tau_min=0.1"], r"^tau_min: tau_min is not read with loss_name moco \(found 0\.1"),
        (["loss_name=moco", "chunk_size=8"], r"^chunk_size: chunk_size is not read with loss_name moco"),
        (["loss_name=moco", "micro_batch_size=4"], r"^micro_batch_size: MoCo does not run by micro-batches"),
        (["loss_name=dcl", "momentum=0.9"], r"^momentum: momentum is read with loss_name moco only, not with dcl"),
        (["loss_name=dcl", "queue_size=0"], r"^queue_size: queue_size is read with loss_name moco only, not with dcl"),
        (
            ["loss_name=dclw", "loss_settings={sigme: 1}"],
            r"^loss_settings: .*takes no 'sigme'.* Did you mean 'sigma'\?$",
        ),
        (
            ["loss_name=dclw", "loss_settings=sigma=1"],
            r"^loss_settings: .* are no mapping \(found 'sigma=1', expected \{",
        ),
        (["loss_name=dclw", "loss_settings=[sigma]"], r"^loss_settings: .* are no mapping \(found \['sigma'\], exp"),
        (
            ["loss_name=dcl", "temperature=0.1", "loss_settings={temperature: 0.2}"],
            r"^loss_settings: temperature is given twice \(found 0\.2, expected only temperature=0\.1\)",
        ),
        (["loss_name=dcl", "temperature=0"], r"^temperature: expected a finite number above 0, got 0\.$"),
        (
            ["loss_name=dystress", "temperature=0.1"],
            r"^loss_name: .*takes no 'temperature'.*It has tau_min and tau_max",
        ),
        (
            ["optimizer_name=adamw", "sgd_momentum=0.9"],
            r"^sgd_momentum: the optimiser 'adamw' does not read sgd_momentum",
        ),
        (["optimizer_name=sgdd"], r"^optimizer_name: unknown optimiser 'sgdd'\. Did you mean 'sgd'\?"),
        (["lr_warmup=1.0"], r"^lr_warmup: share of the warm-up \(found 1\.0, expected a share of max_epochs"),
        (["lr_scaling=sqr"], r"^lr_scaling: unknown rule 'sqr'\. Did you mean 'sqrt'\?"),
        (["max_grad_norm=-1"], r"^max_grad_norm: largest norm of the gradient \(found -1, expected a number above 0"),
        (["micro_batch_size=2.5"], r"^micro_batch_size: samples of a micro-batch \(found 2\.5, expected 1 or more"),
        (["micro_batch_size=abc"], r"^micro_batch_size: samples of a micro-batch \(found 'abc', expected 1 or more"),
        (["cache_rate=7"], r"^cache_rate: cache rate \(found 7, expected a share of the images, from 0 to 1\)"),
        (["image_size=4"], r"^image_size: image size \(found 4, expected a whole number of pixels, 8 or more\)"),
        (["loss_name=moco", "momentum=1.5"], r"^momentum: momentum of the encoder of the keys \(found 1\.5, expected"),
    ],
)
def test_pre_training_refuses(bundle: str, overrides: list[str], message: str, tmp_path: Path) -> None:
    keys = {"dataset_dir": str(tmp_path / "none"), "backbone": "resnet18", **parse_overrides(overrides)}
    with pytest.raises(ConfigError, match=message):
        run_stage(bundle, "pretrain", keys, ["smoke"], tmp_path / "run")
    assert not (tmp_path / "run/models").exists()


@pytest.mark.parametrize(
    ("bundle", "override", "message"),
    [
        (IMAGES, "crop_scale=0.5", r"rgb_views: crop_scale must be \(smallest, largest\), above 0.*got 0\.5"),
        (IMAGES, "blur_prob=2", r"rgb_views: blur_prob must lie in \[0, 1\], got 2"),
        (KNEE, "crop_scale=0.5", r"mr_views: crop_scale must be \(smallest, largest\), above 0.*got 0\.5"),
        (KNEE, "cutout_prob=2", r"mr_views: cutout_prob must lie in \[0, 1\], got 2"),
    ],
)
def test_views_that_cannot_be(bundle: str, override: str, message: str, tmp_path: Path) -> None:
    """Told before the data are looked at, which are not there."""
    keys = {"dataset_dir": str(tmp_path / "none"), **parse_overrides([override])}
    with pytest.raises(Exception) as caught:
        run_stage(bundle, "pretrain", keys, ["smoke"], tmp_path / "run")
    assert re.search(message, str(root_cause(caught.value)))


@pytest.mark.parametrize(
    ("batch_size", "rate", "said"),
    [(8, 8**0.5 / 10, 0), (2000, None, 1)],  # all images in one batch: by the root of their number
)
def test_the_rate_is_scaled_by_the_batch_that_is_trained(
    batch_size: int, rate: float | None, said: int, lesions: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = len(load_datalist(lesions).splits["training"])
    overrides = [f"dataset_dir={lesions}", "learning_rate=0.1", "lr_scaling=sqrt", "backbone=resnet18", "width=0.125"]
    config, _ = resolve_config(IMAGES, "pretrain", parse_overrides([*overrides, f"batch_size={batch_size}"]))
    parser = ConfigParser(config)
    with caplog.at_level("WARNING"):
        optimizer = parser.get_parsed_content("optimizer")
    sampler = parser.get_parsed_content("train::sampler")
    expected = 0.1 * sampler.size**0.5 if rate is None else rate
    assert 8 < sampler.size <= images
    assert optimizer.param_groups[0]["lr"] == pytest.approx(expected)
    assert sum(f"batch_size: 2000 asked, {sampler.size} used" in text for text in caplog.messages) == said


@pytest.mark.parametrize("bundle", [IMAGES, KNEE])
@pytest.mark.parametrize("overrides", [["loss_name=moco", "momentum=0.99"], ["loss_settings={}", "micro_batch_size=4"]])
def test_keys_that_are_read_come_as_far_as_the_data(bundle: str, overrides: list[str], tmp_path: Path) -> None:
    keys = {"dataset_dir": str(tmp_path / "none"), "backbone": "resnet18", **parse_overrides(overrides)}
    with pytest.raises(DataError, match=r"none: no datalist\.json here"):
        run_stage(bundle, "pretrain", keys, ["smoke"], tmp_path / "run")


@pytest.mark.parametrize(("bundle", "dataset"), [(IMAGES, "SeededCacheDataset"), (KNEE, "CachedVolumeDataset")])
def test_training_refuses(
    bundle: str, dataset: str, lesions: Path, knees: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepared(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("images were prepared")

    monkeypatch.setattr(f"medssl_monai.data.{dataset}", prepared)
    data = lesions if bundle == IMAGES else knees
    keys = {"dataset_dir": str(data), "pretrained": None, "backbone": "resnet18", "optimizer_name": "adam"}
    with pytest.raises(
        ConfigError, match=r"^sgd_momentum: the optimiser 'adam' does not read sgd_momentum \(found 0\.9"
    ):
        run_stage(bundle, "train", {**keys, "sgd_momentum": 0.9}, ["smoke"], tmp_path)
    with pytest.raises(Exception, match="images were prepared"):
        run_stage(bundle, "train", keys, ["smoke"], tmp_path)


# --- resuming
def test_a_run_is_not_resumed_with_another_loss(lesions: Path, tmp_path: Path) -> None:
    keys = {
        "dataset_dir": str(lesions), "loss_name": "dclw", "max_epochs": 2, "steps_per_epoch": 1, "watch_items": 16,
        "loss_settings": {"sigma": 0.3},
    }  # fmt: skip

    def run(**more: Any) -> None:
        run_stage(IMAGES, "pretrain", {**keys, **more}, ["smoke"], tmp_path)

    run(**{"train::trainer::max_epochs": 1})
    message = r"other settings: loss: 'DCLWLoss\(temperature=0\.1, sigma=0\.3, .*there, 'DCLWLoss\(.*{}.*\)' here"
    with pytest.raises(ConfigError, match=message.format(r"sigma=0\.4") + r"; loss_settings: \{'sigma': 0\.3\} there"):
        run(loss_settings={"sigma": 0.4}, resume=True)
    with pytest.raises(ConfigError, match=message.format("detach_weights=True") + r"\. Give the same"):
        run(resume=True, **{"loss::detach_weights": True})
    with pytest.raises(ConfigError, match=message.format(r"temperature=0\.5") + r"\. Give the same"):
        run(resume=True, **{"loss::temperature": 0.5})
    run(resume=True)
    assert len(json.loads((tmp_path / "models/pretrain_history.json").read_text())) == 2


# --- the ensemble's exams
def test_the_ensemble_measures_labelled_test_exams(knees: Path, tmp_path: Path) -> None:
    """Not those of unknown truth; and where there is none, not a missing key but what to do."""
    _, *expected = [item.name for item in load_datalist(knees).splits["test"]]
    assert expected
    content = json.loads((knees / "datalist.json").read_text())
    first, *others = content["test"]
    del first["label"]
    datasets = {
        "some": {**content, "test": [first, *others]},
        "none": {k: v for k, v in content.items() if k != "test"},
    }
    for name, entries in datasets.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "datalist.json").write_text(json.dumps(entries))

    def items(name: str, *overrides: str) -> Any:
        return made(KNEE, f"dataset_dir={tmp_path / name}", *overrides, key="ensemble::items", stage="ensemble")

    assert [item.name for item in items("some")] == expected
    assert items("none", "new_exams=true") is None
    with pytest.raises(RuntimeError) as caught:
        items("none")
    cause = root_cause(caught.value)
    assert isinstance(cause, DataError)
    assert "no labelled test image" in str(cause)


SRCL = "srcl_skin_lesion_classification"


@pytest.mark.parametrize(
    ("bundle", "stage", "override", "message"),
    [
        (IMAGES, "train", "batch_size=0", "batch_size: batch size"),
        (IMAGES, "train", "val_interval=0", "val_interval: val interval"),
        (IMAGES, "train", "optimizer_name=adagrad", "optimizer_name"),
        (KNEE, "pretrain", "load_size=0", "load_size: load size"),
        (KNEE, "train", "load_size=2", "load_size: load size"),
        (IMAGES, "train", "operating_rule=foo", "operating_rule: rule of the operating points"),
        (KNEE, "train", "operating_rule=sensitivity@2", "operating_rule: rule of the operating points"),
        (SRCL, "train", "operating_rule=0.9", "operating_rule: rule of the operating points"),
        (KNEE, "train", "percentiles=[99, 1]", "percentiles: percentiles that become 0 and 1"),
        (KNEE, "pretrain", "percentiles=[0.5]", "percentiles: percentiles that become 0 and 1"),
        (KNEE, "train", "lr_warmup=1.0", "lr_warmup: share of the warm-up"),
        (SRCL, "train", "max_epochs=0", "max_epochs: max epochs"),
        (SRCL, "train", "learning_rate=-1", "learning_rate"),
        (SRCL, "pretrain", "image_size=4", "image_size: image size"),
    ],
)
def test_stages_refuse_values_before_they_look_at_data(
    bundle: str, stage: str, override: str, message: str, tmp_path: Path
) -> None:
    """The folder of the data is not even there."""
    with pytest.raises(Exception, match=r".") as caught:  # of MONAI's own; the root cause is looked at
        run_stage(bundle, stage, {**parse_overrides([override]), "dataset_dir": str(tmp_path / "none")}, [], tmp_path)
    cause = root_cause(caught.value)
    assert isinstance(cause, ConfigError)
    assert message in str(cause)
