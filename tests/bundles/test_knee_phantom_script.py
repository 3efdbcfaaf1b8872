"""The script that runs the knee bundle on phantoms: what it refuses to mix in one folder."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    sys.path.insert(0, str(REPOSITORY / "scripts"))
    try:
        return importlib.import_module("contrastive_knee_phantom")
    finally:
        sys.path.remove(str(REPOSITORY / "scripts"))


class Call:
    """The script's command with stages that are not run: which (arm, plane) it would have run, on how many exams."""

    def __init__(self, script: ModuleType, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.script, self.out, self.monkeypatch = script, out, monkeypatch
        self.made: list[dict[str, Any]] = []
        self.arms: list[str] = []
        monkeypatch.setattr(script, "make_phantom", lambda kind, out, **options: self.made.append(options))
        monkeypatch.setattr(script, "run", self.run)

    def run(self, chain: Any, arms: Any, jobs: int) -> bool:
        self.arms += [arm.name for arm in arms]
        return False

    def __call__(self, *options: str) -> int:
        self.monkeypatch.setattr(sys, "argv", ["script", "--out", str(self.out), *options])
        code: int = self.script.main()
        return code


@pytest.fixture
def call(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    return Call(script, tmp_path / "out", monkeypatch)


def test_the_same_settings_go_on(call: Call) -> None:
    assert call("--exams", "12", "--severity", "3") == 1  # not complete
    before = (call.out / "settings.json").read_bytes()
    assert call("--exams", "12", "--severity", "3.0", "--jobs", "1", "--max-minutes", "2") == 1
    assert (call.out / "settings.json").read_bytes() == before
    assert [made["subjects"] for made in call.made] == [12, 12]
    assert call.made[0]["severity"] == 3.0


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--exams", "40", r"\(exams: found 160, asked for 40\)"),
        ("--severity", "1", r"\(severity: found 2\.0, asked for 1\.0\)"),
        ("--epochs", "3", r"\(epochs: found 20, asked for 3\)"),
        ("--pretrain-epochs", "3", r"\(pretrain_epochs: found 60, asked for 3\)"),
    ],
)
def test_other_settings_are_named_before_anything_is_made(call: Call, option: str, value: str, message: str) -> None:
    call()
    with pytest.raises(SystemExit, match=rf"out holds a run with other settings {message}: .*another --out"):
        call(option, value)
    assert len(call.made) == 1


@pytest.mark.parametrize(
    ("constant", "key", "name"),
    [
        ("DATA", "size", "data size"), ("SMALL", "width", "network width"),
        ("PRETRAIN", "batch_size", "pretrain batch_size"), ("TRAIN", "learning_rate", "train learning_rate"),
    ],
)  # fmt: skip
def test_sizes_and_settings_of_the_script_itself(
    call: Call, script: ModuleType, monkeypatch: pytest.MonkeyPatch, constant: str, key: str, name: str
) -> None:
    call()
    old = getattr(script, constant)[key]
    monkeypatch.setitem(getattr(script, constant), key, 48)
    with pytest.raises(SystemExit, match=rf"\({name}: found {old}, asked for 48\)"):
        call()


def test_a_folder_of_before_says_what_it_does_not_know(call: Call) -> None:
    call.out.mkdir()
    (call.out / "settings.json").write_text(json.dumps({"epochs": 20, "pretrain_epochs": 60}))
    with pytest.raises(SystemExit, match=r"exams: found nothing recorded, asked for 160; severity: found nothing"):
        call()


def test_shares_of_the_labels_have_folders_of_their_own(call: Call) -> None:
    call("--labels", "1.0,0.1")
    call("--labels", "0.104")
    assert call.arms == ["combo_100", "scratch_100", "combo_10", "scratch_10", "combo_10.4", "scratch_10.4"]
