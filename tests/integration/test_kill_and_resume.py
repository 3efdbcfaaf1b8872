"""A run that is killed anywhere and resumed ends with the numbers of one never stopped, whatever its workers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from medssl_monai.apps.run import run_stage
from medssl_monai.core import DataError, OutputError
from medssl_monai.data.phantoms import make_phantom
from medssl_monai.handlers.storage import CheckpointFile

BUNDLE = "srcl_skin_lesion_classification"
CHECKPOINTS = {"pretrain": "pretrain_checkpoint.pt", "train": "checkpoint.pt"}
NETWORKS = {"pretrain": "pretrain.pt", "train": "model.pt"}
HISTORIES = {"pretrain": "pretrain_history.json", "train": "history.json"}
STEPS, EPOCHS, EVERY = 5, 3, 2

pytestmark = pytest.mark.bundle


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("killed") / "data"
    make_phantom("skin_lesions", folder, subjects=140, seed=2, size=32, balance=1.0)
    return folder


def keys(data: Path, **more: Any) -> dict[str, Any]:
    return {
        "dataset_dir": str(data), "max_epochs": EPOCHS, "steps_per_epoch": STEPS, "checkpoint_every": EVERY,
        "regime": "srcl_joint", "label_fraction": 0.6, "teacher_warmup": 0.3, **more,
    }  # fmt: skip


def overrides(stage: str, data: Path, **more: Any) -> dict[str, Any]:
    chosen = keys(data, **more)
    return chosen if stage == "train" else {k: v for k, v in chosen.items() if k not in ("regime", "teacher_warmup")}


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both stages, never stopped."""
    root = tmp_path_factory.mktemp("whole")
    for stage in ("pretrain", "train"):
        run_stage(BUNDLE, stage, overrides(stage, data), ["smoke"], root)
    return root


def start(stage: str, data: Path, root: Path, place: str, step: int, **more: Any) -> subprocess.Popen[str]:
    return start_task(BUNDLE, stage, overrides(stage, data, **more), root, place, step)


def start_task(
    bundle: str, stage: str, chosen: dict[str, Any], root: Path, place: str, step: int
) -> subprocess.Popen[str]:
    task = {
        "bundle": bundle, "stage": stage, "overrides": chosen, "run_dir": str(root), "place": place, "step": step,
    }  # fmt: skip
    return subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("killed_stage.py")), json.dumps(task)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, errors = process.communicate(timeout=200)
    return process.returncode, errors


def rows(root: Path, stage: str) -> list[dict[str, Any]]:
    content = json.loads((root / "models" / HISTORIES[stage]).read_text())
    return [{k: v for k, v in row.items() if k != "seconds"} for row in content]


def assert_equal_runs(root: Path, whole: Path, stage: str) -> None:
    assert rows(root, stage) == rows(whole, stage)
    one, other = (torch.load(folder / "models" / NETWORKS[stage], weights_only=True) for folder in (root, whole))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)
    states = [CheckpointFile(folder / "models" / CHECKPOINTS[stage]).load()[0] for folder in (root, whole)]
    assert [state["iteration"] for state in states] == [STEPS * EPOCHS] * 2
    teachers = [state["objects"].get("teacher", {}).get("module", {}) for state in states]
    assert all(torch.equal(teachers[0][key], teachers[1][key]) for key in teachers[1])


@pytest.mark.parametrize("stage", ["pretrain", "train"])
@pytest.mark.parametrize(
    ("place", "step", "workers"), [("step", 8, 0), ("write", 6, 1), ("write", 10, 0), ("step", 4, 2)]
)
def test_killed_and_resumed(
    stage: str, place: str, step: int, workers: int, data: Path, whole: Path, tmp_path: Path
) -> None:
    code, errors = finish(start(stage, data, tmp_path, place, step, num_workers=workers))
    assert code == -signal.SIGKILL, errors[-2000:]
    models = tmp_path / "models"
    left = list(models.glob(f".{CHECKPOINTS[stage]}.*.tmp"))
    assert bool(left) == (place == "write")
    # the newest checkpoint before the kill: every second step, and the epoch's end
    saved = CheckpointFile(models / CHECKPOINTS[stage]).load()[0]["iteration"]
    ends = [s for s in range(1, step) if s % STEPS == 0 or (s % EVERY == 0)]
    assert saved == ends[-1]
    run_stage(BUNDLE, stage, overrides(stage, data, resume=True, num_workers=workers), ["smoke"], tmp_path)
    assert list(models.glob(".*.tmp")) == []
    assert_equal_runs(tmp_path, whole, stage)


def test_killed_momentum_contrast_goes_on_with_its_queue(data: Path, tmp_path: Path) -> None:
    """Pre-training of the image bundle: network, momentum encoder, queue and watch as in a run never stopped."""
    bundle = "contrastive_image_classification"
    chosen = {
        "dataset_dir": str(data), "max_epochs": EPOCHS, "steps_per_epoch": STEPS, "checkpoint_every": EVERY,
        "loss_name": "moco", "watch_items": 16,
    }  # fmt: skip
    run_stage(bundle, "pretrain", chosen, ["smoke"], tmp_path / "whole")
    code, errors = finish(start_task(bundle, "pretrain", chosen, tmp_path / "parts", "step", 8))
    assert code == -signal.SIGKILL, errors[-2000:]
    run_stage(bundle, "pretrain", {**chosen, "resume": True}, ["smoke"], tmp_path / "parts")
    assert_equal_runs(tmp_path / "parts", tmp_path / "whole", "pretrain")
    states = [
        CheckpointFile(tmp_path / name / "models" / CHECKPOINTS["pretrain"]).load()[0]["objects"]
        for name in ("parts", "whole")
    ]
    assert int(states[1]["queue"]["count"]) == min(STEPS * EPOCHS * 8, len(states[1]["queue"]["features"]))
    for name, value in states[1]["queue"].items():
        assert torch.equal(states[0]["queue"][name], value), name
    for name, value in states[1]["momentum_encoder"]["module"].items():
        assert torch.equal(states[0]["momentum_encoder"]["module"][name], value), name


def test_killed_from_outside_at_any_moment(data: Path, whole: Path, tmp_path: Path) -> None:
    process = start("train", data, tmp_path, "step", 10**6)
    checkpoint = tmp_path / "models" / "checkpoint.pt"
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    finish(process)
    assert checkpoint.exists()
    run_stage(BUNDLE, "train", overrides("train", data, resume=True), ["smoke"], tmp_path)
    assert_equal_runs(tmp_path, whole, "train")


def test_sigterm_saves_and_the_evaluation_of_the_resumed_run_is_the_same(
    data: Path, whole: Path, tmp_path: Path
) -> None:
    code, errors = finish(start("train", data, tmp_path, "sigterm", 7, num_workers=1))
    assert code == 128 + signal.SIGTERM, errors[-2000:]
    assert "ended by SIGTERM; resume=True goes on from step 7" in errors
    assert "Traceback" not in errors
    run_stage(BUNDLE, "train", overrides("train", data, resume=True), ["smoke"], tmp_path)
    assert_equal_runs(tmp_path, whole, "train")
    reports = []
    for root in (tmp_path, whole):
        run_stage(BUNDLE, "evaluate", {"dataset_dir": str(data)}, ["smoke"], root)
        reports.append(json.loads((root / "eval" / "metrics.json").read_text()))
    assert reports[0] == reports[1]


def test_a_dataset_changed_since_the_checkpoint_is_refused(data: Path, whole: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(data, tmp_path / "data"))
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    before = {path: path.read_bytes() for path in (run / "models").glob("*.pt")}
    image = sorted((copy / "images").iterdir())[0]
    shutil.copyfile(sorted((copy / "images").iterdir())[1], image)
    with pytest.raises(DataError, match="the dataset has changed since this checkpoint"):
        run_stage(BUNDLE, "train", overrides("train", copy, resume=True), ["smoke"], run)
    assert {path: path.read_bytes() for path in (run / "models").glob("*.pt")} == before


def test_a_second_run_in_the_folder_is_refused(data: Path, tmp_path: Path) -> None:
    process = start("train", data, tmp_path, "step", 10**6, max_epochs=500)
    try:
        checkpoint = tmp_path / "models" / "checkpoint.pt"
        deadline = time.monotonic() + 120
        while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        with pytest.raises(OutputError, match=rf"another run is writing in this folder \(found process {process.pid}"):
            run_stage(BUNDLE, "train", overrides("train", data), ["smoke"], tmp_path)
    finally:
        process.kill()
        finish(process)
