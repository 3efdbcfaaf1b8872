"""``medssl protocol --untrained`` on a run that is there: the very weights that the run began with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from test_protocol import make_data

from medssl_monai.apps.cli import main
from medssl_monai.apps.run import run_stage

BUNDLE = "contrastive_image_classification"
#: one step at learning rate 0 leaves the weights (not the statistics of BatchNorm) as they were
KEYS: dict[str, Any] = {
    "image_size": 16, "width": 0.125, "stem": "imagenet", "seed": 5, "max_epochs": 1, "steps_per_epoch": 1,
    "batch_size": 8, "learning_rate": 0.0, "watch_items": 16,
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset, a run that was pre-trained, and one that was trained from scratch."""
    root = tmp_path_factory.mktemp("untrained")
    data = str(make_data(root / "data"))
    run_stage(BUNDLE, "pretrain", {"dataset_dir": data, **KEYS}, [], root / "run")
    keys = {key: value for key, value in KEYS.items() if key != "watch_items"}
    run_stage(BUNDLE, "train", {"dataset_dir": data, "pretrained": None, **keys}, [], root / "scratch")
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "copy")
    return tmp_path / "copy"


def call(*arguments: object) -> int:
    return main(["protocol", "knn", *map(str, arguments), "--untrained"])


def weights(path: Path, prefix: str = "") -> dict[str, torch.Tensor]:
    state = torch.load(path, weights_only=True)
    learnt = {key: value for key, value in state.items() if key.endswith(("weight", "bias")) and key.startswith(prefix)}
    return {key.removeprefix(prefix): value for key, value in learnt.items()}


def test_weights_are_those_of_the_first_step(root: Path) -> None:
    models = root / "run/models"
    before = (root / "run/models/pretrain.pt").read_bytes()
    assert main(["protocol", "knn", str(root / "run"), str(root / "data")]) == 0
    kept = (root / "run/eval/protocols/knn/metrics.json").read_bytes()
    assert call(root / "run", root / "data") == 0
    begun, after = weights(models / "untrained.pt"), weights(models / "pretrain.pt")
    assert begun.keys() == after.keys()
    assert len(begun) > 40
    assert all(torch.equal(begun[key], after[key]) for key in begun)
    # as the run was prepared, and beside its results
    content = json.loads((root / "run/eval/protocols/untrained/knn/metrics.json").read_text())
    assert content["protocol"]["encoder"]["stage"] == "untrained"
    assert (content["settings"]["image_size"], content["settings"]["stem"]) == (16, "imagenet")
    assert content["protocol"]["encoder"]["n_features"] == 64
    assert (root / "run/eval/protocols/knn/metrics.json").read_bytes() == kept
    assert (models / "pretrain.pt").read_bytes() == before


def test_a_run_that_was_trained_from_scratch(root: Path) -> None:
    models = root / "scratch/models"
    assert call(models / "model.pt", root / "data", "--bundle", BUNDLE) == 0
    begun, after = weights(models / "untrained.pt"), weights(models / "model.pt", "encoder.")
    assert begun.keys() == after.keys()
    assert all(torch.equal(begun[key], after[key]) for key in begun)


def test_overrides_overlays_and_the_seed_win(root: Path) -> None:
    recorded = root / "run/models/untrained_config.yaml"
    path = root / "run/models/untrained.pt"
    assert call(root / "run", root / "data") == 0
    own = weights(path)
    for arguments in (("--seed", 6), ("seed=6",)):
        assert call(root / "run", root / "data", *arguments) == 0
        assert yaml.safe_load(recorded.read_text())["seed"] == 6
        assert not torch.equal(weights(path)["body.conv1.weight"], own["body.conv1.weight"])
    assert call(root / "run", root / "data", "--seed", 5) == 0
    assert torch.equal(weights(path)["body.conv1.weight"], own["body.conv1.weight"])
    assert call(root / "run", root / "data", "width=0.25") == 0
    assert len(weights(path)["body.conv1.weight"]) == 2 * len(own["body.conv1.weight"])
    assert call(root / "run", root / "data", "--overlay", "smoke") == 0
    assert yaml.safe_load(recorded.read_text())["image_size"] == 32
    assert call(root / "run", root / "data", "--overlay", "smoke", "image_size=24") == 0
    assert yaml.safe_load(recorded.read_text())["image_size"] == 24


def test_a_run_that_began_with_another_encoder_is_refused(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = root / "run/models/pretrain_config.yaml"
    config = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**config, "pretrained": "elsewhere/pretrain.pt"}))
    assert call(root / "run", root / "data") == 2
    said = capsys.readouterr().err
    assert "this run began with an encoder that was pre-trained before (found pretrained=elsewhere/pretrain.pt)" in said
    assert call(root / "run", root / "data", "pretrained=null") == 0


def test_what_does_not_belong_to_the_run_is_refused(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(root / "run", root / "data", "--bundle", "srcl_skin_lesion_classification") == 2
    said = capsys.readouterr().err
    assert f"this run is of another bundle (found --bundle srcl_skin_lesion_classification, expected {BUNDLE}" in said
    assert call(root / "run", root / "data", "image_sise=8") == 2
    assert "Did you mean 'image_size'?" in capsys.readouterr().err
    (root / "run/models/pretrain_config.yaml").unlink()
    assert call(root / "run", root / "data", "--bundle", BUNDLE) == 2
    said = capsys.readouterr().err
    assert "how this run began is not recorded beside its weights (expected pretrain_config.yaml or train_" in said
    assert not (root / "run/models/untrained.pt").exists()
