"""Arms: chains of stages that go on where they were stopped, and the table of their results."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_bundle import make_bundle
from study_bundle import make_dataset

from medssl_monai.apps import arms
from medssl_monai.apps._arm import step_command
from medssl_monai.apps.arms import Arm, StageFailedError, arm_complete, run_arm, run_arms
from medssl_monai.apps.cli import main
from medssl_monai.apps.processes import Stop
from medssl_monai.core import ConfigError, DataError
from medssl_monai.metrics import paired_bootstrap


class Processes:
    """Stands for ``run_process``: the same command line, in this process."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self.threads: list[int] = []

    def __call__(self, command: list[str], log: Path, threads: int, stop: Stop | None) -> int | None:
        self.commands.append(command)
        self.threads.append(threads)
        assert command[1:3] == ["-m", "medssl_monai.apps"]
        # the error stream alone: redirecting is for the whole process, and run_arms prints from another thread
        with log.open("a") as stream, contextlib.redirect_stderr(stream):
            return main(command[3:])

    @property
    def stages(self) -> list[str]:
        return [command[5] for command in self.commands]


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Processes:
    made = Processes()
    monkeypatch.setattr(arms, "run_process", made)
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
    assert processes.threads == [3, 3]
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
    assert run_arm(bundle, Arm("x", STAGES), tmp_path / "x", stop=Stop(0)) is False
    assert processes.commands == []
    assert run_arm(bundle, Arm("x", STAGES), tmp_path / "x", stop=Stop(2)) is True
    # what is complete is complete, deadline or not
    assert run_arm(bundle, Arm("x", STAGES), tmp_path / "x", stop=Stop(0)) is True


def test_a_stage_that_was_stopped_is_not_complete_and_goes_on(
    bundle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[list[str]] = []
    monkeypatch.setattr(arms, "run_process", lambda command, *rest: calls.append(command))
    checkpoint = tmp_path / "x" / "models" / "checkpoint.pt"
    assert run_arm(bundle, Arm("x", STAGES), tmp_path / "x") is False
    checkpoint.parent.mkdir()
    checkpoint.touch()  # what a stopped stage leaves
    assert run_arm(bundle, Arm("x", STAGES), tmp_path / "x") is False
    assert checkpoint.exists()
    assert calls[0] == calls[1]
    assert not any(json.loads(path.read_text())["complete"] for path in (tmp_path / "x").glob("*.stage.json"))
    # other settings start anew, from none of the checkpoints of those before
    (checkpoint.parent / "checkpoint.previous.pt").touch()
    (checkpoint.parent / "pretrain_checkpoint.pt").touch()
    run_arm(bundle, Arm("x", STAGES, {"rate": 0.3}), tmp_path / "x")
    assert [path.name for path in checkpoint.parent.iterdir()] == ["pretrain_checkpoint.pt"]


def test_a_record_tells_dataset_settings_and_overlays_apart_but_not_places(
    bundle: str, tmp_path: Path, processes: Processes
) -> None:
    data, overlay = make_dataset(tmp_path / "data"), tmp_path / "fast.yaml"
    overlay.write_text("seed: 3\n")
    arm = Arm("x", STAGES, {"dataset_dir": str(data)}, (str(overlay),))
    run_arm(bundle, arm, tmp_path / "x")
    assert arm_complete(bundle, arm, tmp_path / "x")
    moved = Path(shutil.move(data, tmp_path / "elsewhere"))
    (tmp_path / "x").rename(tmp_path / "y")
    assert arm_complete(bundle, Arm("x", STAGES, {"dataset_dir": str(moved)}, arm.overlays), tmp_path / "y")
    make_dataset(moved, license="another")
    assert not arm_complete(bundle, Arm("x", STAGES, {"dataset_dir": str(moved)}, arm.overlays), tmp_path / "y")
    make_dataset(moved)
    assert arm_complete(bundle, Arm("x", STAGES, {"dataset_dir": str(moved)}, arm.overlays), tmp_path / "y")
    image = moved / "test" / "0_0.png"  # an image that has changed makes another dataset, whatever the datalist says
    image.parent.mkdir()
    image.write_bytes(b"other pixels")
    assert not arm_complete(bundle, Arm("x", STAGES, {"dataset_dir": str(moved)}, arm.overlays), tmp_path / "y")
    image.unlink()
    overlay.write_text("seed: 4\n")
    assert not arm_complete(bundle, Arm("x", STAGES, {"dataset_dir": str(moved)}, arm.overlays), tmp_path / "y")


def test_other_code_runs_nothing_again_and_is_recorded(
    bundle: str, tmp_path: Path, processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "x"
    run_arm(bundle, Arm("x", STAGES), folder)
    first = arms.code_version(bundle)
    assert arms.arm_code(folder) == [first]
    configuration = Path(bundle) / "configs" / "evaluate.yaml"
    configuration.write_text("# a comment changes nothing\n" + configuration.read_text())
    assert arms.code_version(bundle) == first
    configuration.write_text(configuration.read_text() + "more: 1\n")
    second = arms.code_version(bundle)
    assert second != first
    run_arm(bundle, Arm("x", STAGES), folder)
    assert processes.stages == ["train", "evaluate"]
    (folder / "evaluate.stage.json").unlink()
    run_arm(bundle, Arm("x", STAGES), folder)
    assert sorted(arms.arm_code(folder)) == sorted([first, second])
    monkeypatch.setattr(arms, "__version__", "9.9")
    assert arms.code_version(bundle) == "9.9" + second[second.index("+") :]


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

    command = step_command(bundle, "train", Arm("x", STAGES, {"regime": value}), tmp_path)
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


def test_predictions_that_cannot_be_used_are_named(results: Path) -> None:
    path = results / "a" / "eval" / "predictions.csv"
    header, *rows = path.read_text().splitlines()
    path.write_text(header + "\n")
    with pytest.raises(DataError, match=r"predictions\.csv: the file holds no rows"):
        arms.read_predictions(results / "a")
    path.write_text("\n".join([header, rows[0].replace(",a,", ",[1;0],", 1)]) + "\n")
    with pytest.raises(DataError, match=r"not the predictions of a classifier of exclusive classes \('\[1;0\]'"):
        arms.read_predictions(results / "a")
    path.unlink()
    with pytest.raises(DataError, match=r"predictions\.csv: no predictions here"):
        arms.read_predictions(results / "a")


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
