"""The SRCL bundle on two processes, started as users start it, against the same stages in one."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medssl_monai.apps.run import resolve_config, run_stage
from medssl_monai.core import ConfigError, bundle_dir, overlay_path
from medssl_monai.handlers import read_features

BUNDLE = "srcl_skin_lesion_classification"

pytestmark = pytest.mark.bundle


def torchrun(*arguments: str, cwd: Path | None = None) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nnodes=1", "--nproc_per_node=2"]
    return subprocess.Popen(
        [*command, *arguments], cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def finish(process: subprocess.Popen[str], timeout: float = 240) -> str:
    """The error stream of a process that has ended well."""
    try:
        _, errors = process.communicate(timeout=timeout)
    finally:
        process.kill()
    assert process.returncode == 0, errors[-4000:]
    return errors


def start_stage(stage: str, root: Path, **keys: object) -> subprocess.Popen[str]:
    pairs = [f"{key}={json.dumps(value)}" for key, value in keys.items()]
    return torchrun(
        "-m", "medssl_monai.apps", "run", BUNDLE, stage, *pairs, "--overlay", "smoke", "--overlay", "multi_gpu",
        "--run-dir", str(root),
    )  # fmt: skip


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if "tfevents" not in path.name}


def times_logged(text: str, line: str) -> int:
    return sum(line in one for one in text.splitlines())


KEYS = {"label_fraction": 1.0, "batch_size": 4}


class TestTwoProcesses:
    """Each stage once; the tests of a later one use what an earlier one wrote."""

    @pytest.fixture(scope="class")
    def roots(self, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
        """Run folders of two processes and of one."""
        return tmp_path_factory.mktemp("two"), tmp_path_factory.mktemp("one")

    def test_pretrain_through_monai(self, roots: tuple[Path, Path], lesions: Path) -> None:
        two, one = roots
        files = ["configs/pretrain.yaml", str(overlay_path("smoke")), str(overlay_path("multi_gpu"))]
        errors = finish(
            torchrun(
                "-m", "monai.bundle", "run", "--config_file", str(files), "--meta_file", "configs/metadata.json",
                "--logging_file", "configs/logging.conf", "--dataset_dir", str(lesions), "--batch_size", "4",
                "--ckpt_dir", str(two / "models"), "--output_dir", str(two / "eval"),
                cwd=bundle_dir(BUNDLE),
            )
        )  # fmt: skip
        for line in ("estimate: about", "epoch 1/2", "epoch 2/2", "labels: "):
            assert times_logged(errors, f"INFO {line}") == 1, line  # one process speaks
        run_stage(BUNDLE, "pretrain", {"dataset_dir": str(lesions)}, ["smoke"], one)
        written = names(two)
        assert written == names(one) - {"models/pretrain_config.yaml", "models/pretrain_run.json"}  # `medssl run` alone
        histories = [json.loads((root / "models/pretrain_history.json").read_text()) for root in roots]
        assert [row["epoch"] for row in histories[0]] == [row["epoch"] for row in histories[1]] == [1, 2]
        for row, expected in zip(*histories):
            # 2 x 4 images are those of 1 x 8; batch statistics and dropout are not
            assert row["supcon"] == pytest.approx(expected["supcon"], rel=0.2)
        state = torch.load(two / "models/pretrain.pt", weights_only=True)
        assert state.keys() == torch.load(one / "models/pretrain.pt", weights_only=True).keys()

    def test_train_stopped_by_sigterm_and_resumed(self, roots: tuple[Path, Path], lesions: Path) -> None:
        two, one = roots
        keys = {"dataset_dir": str(lesions), "batch_size": 4, "labeled_batch_size": 2, "max_epochs": 3}
        process = start_stage("train", two, **keys, checkpoint_every=1)
        checkpoint = two / "models/checkpoint.pt"
        deadline = time.monotonic() + 200
        while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=120)
        assert process.returncode != 0
        assert checkpoint.exists(), errors[-4000:]
        assert not (two / "models/serving.json").exists()
        assert "ended by SIGTERM; resume=True goes on from step" in errors
        errors = finish(start_stage("train", two, **keys, checkpoint_every=1, resume=True))
        assert times_logged(errors, "INFO resumed after epoch") == 1
        history = json.loads((two / "models/history.json").read_text())
        assert [row["epoch"] for row in history] == [1, 2, 3]
        assert all(np.isfinite(row["loss"]) and "val_macro_auroc" in row for row in history)
        run_stage(
            BUNDLE,
            "train",
            {**keys, "batch_size": 8, "labeled_batch_size": 4, "pretrained": str(two / "models/pretrain.pt")},
            ["smoke"],
            one,
        )
        assert {name for name in names(two / "models") if "previous" not in name} == {
            name for name in names(one / "models") if "previous" not in name
        } - {"pretrain_config.yaml", "pretrain_run.json"}
        model = torch.load(two / "models/model.pt", weights_only=True)
        assert model.keys() == torch.load(one / "models/model.pt", weights_only=True).keys()

    def test_evaluation_is_that_of_one_process(self, roots: tuple[Path, Path], lesions: Path) -> None:
        two, one = roots
        errors = finish(start_stage("evaluate", two, dataset_dir=str(lesions)))
        assert times_logged(errors, "INFO wrote metrics.json") == 1
        alone = one / "alone"
        keys = {"dataset_dir": str(lesions), "ckpt_dir": str(two / "models"), "output_dir": str(alone)}
        run_stage(BUNDLE, "evaluate", keys, ["smoke"])
        assert names(two / "eval") - {"tensorboard", "tensorboard/pretrain"} == names(alone)
        metrics = [json.loads((folder / "metrics.json").read_text()) for folder in (two / "eval", alone)]
        assert_close(metrics[0], metrics[1])
        tables = [rows(folder / "predictions.csv") for folder in (two / "eval", alone)]
        assert [row["image"] for row in tables[0]] == [row["image"] for row in tables[1]]
        features = [read_features(folder / "features.npz") for folder in (two / "eval", alone)]
        assert list(features[0].case) == list(features[1].case)
        np.testing.assert_allclose(features[0].embeddings, features[1].embeddings, rtol=1e-4, atol=1e-5)


def test_contrastive_pre_training_compares_the_images_of_both(lesions: Path, tmp_path: Path) -> None:
    """A step of 2 x 8 images is that of 16 in one process by micro-batches of 8: equal BatchNorm groups, one loss."""
    bundle, keys = "contrastive_image_classification", {"loss_name": "nt_xent", "max_epochs": 1, "steps_per_epoch": 1}
    pairs = [f"{key}={json.dumps(value)}" for key, value in {**keys, "dataset_dir": str(lesions)}.items()]
    process = torchrun(
        "-m", "medssl_monai.apps", "run", bundle, "pretrain", *pairs, "--overlay", "smoke", "--overlay", "multi_gpu",
        "batch_size=8", "--run-dir", str(tmp_path / "two"),
    )  # fmt: skip
    assert times_logged(finish(process), "INFO epoch 1/1") == 1
    overrides = {"dataset_dir": str(lesions), **keys, "batch_size": 16, "micro_batch_size": 8}
    run_stage(bundle, "pretrain", overrides, ["smoke"], tmp_path / "one")
    rows = [json.loads((tmp_path / name / "models/pretrain_history.json").read_text())[0] for name in ("two", "one")]
    assert rows[0]["loss"] == pytest.approx(rows[1]["loss"], rel=1e-4)
    states = [torch.load(tmp_path / name / "models/pretrain.pt", weights_only=True) for name in ("two", "one")]
    for key, value in states[1].items():
        if key.endswith("weight"):
            torch.testing.assert_close(states[0][key], value, rtol=1e-3, atol=1e-5)
    assert names(tmp_path / "two") == names(tmp_path / "one")


def assert_close(value: Any, expected: Any) -> None:
    """Equal but for the last digits: batches of other sizes are summed in another order."""
    if isinstance(expected, dict):
        assert value.keys() == expected.keys()
        for key in expected:
            assert_close(value[key], expected[key])
    elif isinstance(expected, list):
        assert len(value) == len(expected)
        for one, other in zip(value, expected):
            assert_close(one, other)
    elif isinstance(expected, float):
        assert value == pytest.approx(expected, rel=1e-4, abs=1e-6)
    else:
        assert value == expected


def test_a_process_that_fails_does_not_hang_the_other() -> None:
    start = time.monotonic()
    process = torchrun(str(Path(__file__).with_name("failing_rank.py")))
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "case.png: cannot be prepared" in errors
    assert time.monotonic() - start < 60


@pytest.mark.parametrize("stage", ["pretrain", "train", "evaluate", "inference"])
def test_without_the_overlay_torchrun_is_refused(
    stage: str, lesions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="torchrun started 2 processes, but the configuration is that of one"):
        run_stage(BUNDLE, stage, {"dataset_dir": str(lesions)}, ["smoke"], tmp_path)
    assert not tmp_path.joinpath("models").exists() or names(tmp_path / "models") == set()


@pytest.mark.parametrize("stage", ["pretrain", "train", "evaluate", "inference"])
def test_overlay_fits_every_stage_and_one_process(stage: str) -> None:
    config, _ = resolve_config(BUNDLE, stage, {}, ["smoke", "multi_gpu", "cpu"])
    assert config["distributed"] is True
    assert config["device"] == "$torch.device('cpu')"
    assert "$join_processes(@distributed, @device)" in config["initialize"]
    assert config["finalize"][-1] == "$leave_processes()"
