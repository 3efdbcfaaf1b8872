"""Arms: chains of stages that go on where they were stopped, and the table of their results."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_bundle import make_bundle

from medssl_monai.apps import arms
from medssl_monai.apps.arms import Arm, StageFailedError, run_arm, run_arms
from medssl_monai.apps.cli import main
from medssl_monai.core import ConfigError
from medssl_monai.metrics import paired_bootstrap


class Processes:
    """Stands for ``subprocess.run``: the same command line, in this process."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self.environments: list[dict[str, str]] = []
        self.timeouts: list[float | None] = []

    def __call__(self, command: list[str], **kwargs: Any) -> Any:
        self.commands.append(command)
        self.environments.append(kwargs["env"])
        self.timeouts.append(kwargs["timeout"])
        assert command[1:3] == ["-m", "medssl_monai.apps"]
        # the error stream alone: redirecting is for the whole process, and run_arms prints from another thread
        with contextlib.redirect_stderr(kwargs["stdout"]):
            code = main(command[3:])
        return subprocess.CompletedProcess(command, code)

    @property
    def stages(self) -> list[str]:
        return [command[5] for command in self.commands]


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Processes:
    made = Processes()
    monkeypatch.setattr(arms.subprocess, "run", made)
    return made


@pytest.fixture
def bundle(tmp_path: Path) -> str:
    return str(make_bundle(tmp_path / "b"))


STAGES = ("train", "evaluate")


def test_a_complete_arm_is_not_run_again(bundle: str, tmp_path: Path, processes: Processes) -> None:
    arm, folder = Arm("x", STAGES, {"rate": 0.25, "seed": 2}), tmp_path / "x"
    assert run_arm(bundle, arm, folder, threads=3) is True
    assert processes.stages == ["train", "evaluate"]
    assert (folder / "models" / "runs.txt").read_text() == "train 0.25 plain 2\n"
    train, evaluate = processes.commands
    # a stage is given the keys it understands; training goes on from its checkpoint where there is one
    assert {"rate=0.25", "seed=2", "resume=true"} <= set(train)
    assert "seed=2" in evaluate
    assert not {"rate=0.25", "resume=true"} & set(evaluate)
    assert processes.environments[0]["OMP_NUM_THREADS"] == "3"
    assert {path.name for path in folder.glob("*.log")} == {"train.log", "evaluate.log"}

    assert run_arm(bundle, arm, folder) is True
    assert len(processes.stages) == 2
    (folder / "evaluate.stage.json").unlink()
    assert run_arm(bundle, arm, folder) is True
    assert processes.stages[2:] == ["evaluate"]


def test_other_overrides_run_the_stages_again(bundle: str, tmp_path: Path, processes: Processes) -> None:
    run_arm(bundle, Arm("x", STAGES, {"seed": 1}), tmp_path / "x")
    run_arm(bundle, Arm("x", STAGES, {"seed": 2}), tmp_path / "x")
    assert processes.stages == ["train", "evaluate"] * 2


def test_what_follows_a_stage_that_was_run_again_is_run_again(
    bundle: str, tmp_path: Path, processes: Processes
) -> None:
    run_arm(bundle, Arm("x", STAGES, {"rate": 0.1}), tmp_path / "x")
    run_arm(bundle, Arm("x", STAGES, {"rate": 0.4}), tmp_path / "x")  # a key of the train stage alone
    assert json.loads((tmp_path / "x" / "eval" / "metrics.json").read_text())["metrics"]["acc"]["estimate"] == 0.4


def test_a_failure_shows_the_log_s_tail_and_runs_nothing_behind_it(
    bundle: str, tmp_path: Path, processes: Processes
) -> None:
    arm, folder = Arm("x", STAGES, {"regime": "broken"}), tmp_path / "x"
    with pytest.raises(StageFailedError) as caught:
        run_arm(bundle, arm, folder)
    message = str(caught.value)
    assert message.startswith(f"{folder / 'train.log'}: stage train of x failed:\n")
    assert message.endswith("medssl: x.png: the data is broken. Mend it.")
    assert len(message.splitlines()) <= 6
    assert processes.stages == ["train"]
    assert not any(json.loads(path.read_text())["complete"] for path in folder.glob("*.stage.json"))
    # the next call tries again
    with pytest.raises(StageFailedError):
        run_arm(bundle, arm, folder)
    assert processes.stages == ["train"] * 2


def test_a_key_no_stage_understands(bundle: str, tmp_path: Path, processes: Processes) -> None:
    with pytest.raises(ConfigError, match=r"^x: no stage understands 'rat'\. Did you mean 'rate'\?$"):
        run_arm(bundle, Arm("x", STAGES, {"rat": 1}), tmp_path / "x")
    assert processes.commands == []


def test_no_stage_is_begun_behind_the_deadline(bundle: str, tmp_path: Path, processes: Processes) -> None:
    assert run_arm(bundle, Arm("x", STAGES), tmp_path / "x", deadline=time.monotonic() - 1) is False
    assert processes.commands == []
    assert run_arm(bundle, Arm("x", STAGES), tmp_path / "x", deadline=time.monotonic() + 100) is True
    assert all(timeout is not None and 0 < timeout <= 100 for timeout in processes.timeouts)
    # what is complete is complete, deadline or not
    assert run_arm(bundle, Arm("x", STAGES), tmp_path / "x", deadline=time.monotonic() - 1) is True


def test_a_stage_that_outlives_the_deadline_is_stopped_and_not_complete(
    bundle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(command: list[str], **kwargs: Any) -> None:
        raise subprocess.TimeoutExpired(command, kwargs["timeout"])

    monkeypatch.setattr(arms.subprocess, "run", slow)
    assert run_arm(bundle, Arm("x", STAGES), tmp_path / "x", deadline=time.monotonic() + 5) is False
    assert not any(json.loads(path.read_text())["complete"] for path in (tmp_path / "x").glob("*.stage.json"))


def test_arms_side_by_side(
    bundle: str, tmp_path: Path, processes: Processes, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = [Arm("a", STAGES, {"rate": 0.1}), Arm("b", STAGES, {"rate": 0.4})]
    assert run_arms(bundle, chosen, tmp_path / "runs") == {"a": True, "b": True}
    out = capsys.readouterr().out
    assert "a: complete" in out
    assert "b: complete" in out
    assert len(processes.commands) == 4
    assert run_arms(bundle, chosen, tmp_path / "other", max_minutes=0) == {"a": False, "b": False}
    assert "a: not complete" in capsys.readouterr().out


def test_a_failing_arm_does_not_stop_the_others(bundle: str, tmp_path: Path, processes: Processes) -> None:
    chosen = [Arm("bad", STAGES, {"regime": "broken"}), Arm("worse", STAGES, {"zzz": 1}), Arm("good", STAGES)]
    with pytest.raises(StageFailedError, match="stage train of bad failed"):
        run_arms(bundle, chosen, tmp_path / "runs")
    assert (tmp_path / "runs" / "good" / "evaluate.stage.json").is_file()


@pytest.mark.parametrize("value", [None, True, 3, 0.25, "text", 'it\'s "ä": #1', [1, "a"], {"k": None}])
def test_every_plain_value_survives_the_command_line(bundle: str, tmp_path: Path, value: Any) -> None:
    from medssl_monai.apps.run import parse_overrides

    command = arms._command(bundle, "train", Arm("x", STAGES, {"regime": value}), tmp_path)
    (pair,) = [text for text in command if text.startswith("regime=")]
    assert parse_overrides([pair]) == {"regime": value}


def test_a_small_number_survives_the_command_line(bundle: str, tmp_path: Path) -> None:
    test_every_plain_value_survives_the_command_line(bundle, tmp_path, 1e-5)


# --- results
@pytest.fixture
def results(bundle: str, tmp_path: Path, processes: Processes) -> Path:
    folder = tmp_path / "runs"
    run_arms(bundle, [Arm("a", STAGES, {"rate": 0.1}), Arm("b", STAGES, {"rate": 0.4})], folder)
    for name, seconds in (("a", 30.0), ("b", 96.0)):
        for stage in STAGES:
            marker = folder / name / f"{stage}.stage.json"
            marker.write_text(json.dumps({**json.loads(marker.read_text()), "seconds": seconds}))
    return folder


def test_predictions_are_read_again(results: Path) -> None:
    names, subjects, labels, probabilities = arms.read_predictions(results / "a")
    assert names == [f"{i}.png" for i in range(12)]
    assert subjects == ["0.png", *(f"s{i}" for i in range(1, 12))]  # without a subject an image stands for itself
    assert labels.tolist() == [0, 1] * 6
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, atol=1e-12)
    np.testing.assert_allclose(probabilities[1], [0.45, 0.55], atol=1e-6)


def test_difference_of_two_arms_is_paired_by_image(results: Path) -> None:
    path = results / "b" / "eval" / "predictions.csv"
    header, *rows = path.read_text().splitlines()
    path.write_text("\n".join([header, *reversed(rows)]) + "\n")  # another order of the same images
    found = arms.paired_difference("macro_auroc", [(results / "a", results / "b")], seed=4)
    _, subjects, labels, a = arms.read_predictions(results / "a")
    _, _, _, b = arms.read_predictions(results / "b")
    expected = paired_bootstrap("macro_auroc", labels, a, b[::-1], groups=subjects, seed=4)
    assert (found.estimate, found.low, found.high) == (expected.estimate, expected.low, expected.high)


def test_table(results: Path) -> None:
    assert arms.arm_seconds(results / "a") == 60.0
    rows = arms.results_table(results, ["b", "a"], {"acc": "accuracy", "none": "nothing"})
    assert rows == [
        ["arm", "labels (train + validation)", "accuracy", "nothing", "minutes"],
        ["b", "8 + 2", "0.400 [0.000, 1.000]", "undefined", "3.2"],
        ["a", "8 + 2", "0.100 [0.000, 1.000]", "undefined", "1.0"],
    ]
    assert arms.markdown_table([["arm", "x"], ["long name", "1"]]).splitlines() == [
        "| arm       | x |",
        "|-----------|---|",
        "| long name | 1 |",
    ]
    assert arms.format_entry({"estimate": 0.5}) == "0.500"
