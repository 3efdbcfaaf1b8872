"""Files of tensors: whole or not there; the newest and the one before it; damage is noticed."""

from __future__ import annotations

import contextlib
import logging
import resource
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medssl_monai.core import CheckpointError, OutputError
from medssl_monai.handlers import load_tensors, save_tensors
from medssl_monai.handlers.storage import CheckpointFile, content_digest

STATE: dict[str, Any] = {
    "objects": {
        "network": {"a": torch.arange(6.0).reshape(2, 3), "empty": torch.empty(0), "scalar": torch.tensor(3)},
        "optimizer": {"state": {0: {"step": 1}}, "groups": [{"lr": 0.1, "betas": (0.9, 0.99), "foreach": None}]},
        "half": torch.ones(3, dtype=torch.bfloat16),
    },
    "epoch": 3,
}


def test_the_digest_survives_saving_and_loading(tmp_path: Path) -> None:
    save_tensors(STATE, tmp_path / "a.pt")
    assert content_digest(load_tensors(tmp_path / "a.pt")) == content_digest(STATE)
    assert content_digest({"a": np.float64(0.1)}) == content_digest({"a": 0.1})
    # how a tensor lies in memory is not what it says
    assert content_digest(torch.arange(6).reshape(2, 3).T) == content_digest(torch.tensor([[0, 3], [1, 4], [2, 5]]))
    with pytest.raises(TypeError, match="a checkpoint holds tensors and plain values, not PosixPath"):
        content_digest({"a": [tmp_path]})


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(PLAIN, PLAIN)
def test_other_content_has_another_digest(one: Any, other: Any) -> None:
    assert (content_digest(one) == content_digest(other)) == (repr(one) == repr(other))


@pytest.mark.parametrize(
    "other",
    [
        torch.tensor([1.0, 2.0]).double(), torch.tensor([[1.0, 2.0]]), torch.tensor([1.0, 2.0000002]),
        torch.tensor([1, 2]), [1.0, 2.0],
    ],
)  # fmt: skip
def test_tensors_differ_in_type_shape_and_values(other: Any) -> None:
    assert content_digest(torch.tensor([1.0, 2.0])) != content_digest(other)


def states(tmp_path: Path, number: int) -> CheckpointFile:
    file = CheckpointFile(tmp_path / "checkpoint.pt")
    for epoch in range(1, number + 1):
        file.save({**STATE, "epoch": epoch})
    return file


def test_the_newest_and_the_one_before_are_kept(tmp_path: Path) -> None:
    file = states(tmp_path, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.previous.pt", "checkpoint.pt"]
    state, path = file.load()
    assert (state["epoch"], path) == (3, tmp_path / "checkpoint.pt")
    assert CheckpointFile(file.previous).load()[0]["epoch"] == 2
    assert torch.equal(state["objects"]["network"]["a"], STATE["objects"]["network"]["a"])
    # a process may be killed between the two renamings
    file.path.unlink()
    assert file.exists()
    assert file.load()[0]["epoch"] == 2


def damage(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "bit":
        # of the first tensor's numbers: torch loads the file without complaint
        position = data.index(np.arange(6, dtype=np.float32).tobytes())
        data[position + 5] ^= 1
        assert isinstance(torch.load(_written(path, data), weights_only=True), dict)
    else:
        _written(path, {"cut": data[: len(data) // 2], "empty": b"", "other": b"no checkpoint"}[how])


def _written(path: Path, data: bytes | bytearray) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("how", ["bit", "cut", "empty", "other"])
def test_a_damaged_newest_is_reported_and_the_one_before_used(
    tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = states(tmp_path, 2)
    damage(file.path, how)
    with caplog.at_level(logging.WARNING, logger="medssl_monai"):
        state, path = file.load()
    assert (state["epoch"], path) == (1, file.previous)
    reason = "damaged: its content is not what was written" if how == "bit" else "not a readable checkpoint"
    assert f"checkpoint.pt: {reason}" in caplog.text
    assert "The one before it is used instead: " in caplog.text
    damage(file.previous, how)
    with pytest.raises(CheckpointError, match=rf"checkpoint\.pt: {reason}"):
        file.load()


def test_files_of_others_are_no_checkpoints(tmp_path: Path) -> None:
    file = CheckpointFile(tmp_path / "checkpoint.pt")
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt: checkpoint not found"):
        file.load()
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt: checkpoint not found"):
        load_tensors(file.path)
    save_tensors({"weights": torch.ones(2)}, file.path)
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt: not a run's checkpoint"):
        file.load()


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    file = states(tmp_path, 1)
    for name in (".checkpoint.pt.abc.part.tmp", ".model.pt.abc.part.tmp", ".mine.tmp"):
        (tmp_path / name).write_text("half")
    file.clean()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mine.tmp", "checkpoint.pt"]


def resumed(tmp_path: Path) -> CheckpointFile:
    """A run that goes on from the one before, because the newest is damaged."""
    damage(states(tmp_path, 2).path, "cut")
    file = CheckpointFile(tmp_path / "checkpoint.pt")
    assert file.load()[0]["epoch"] == 1
    return file


def test_a_damaged_newest_never_takes_the_place_of_the_good_one_before(tmp_path: Path) -> None:
    file = resumed(tmp_path)
    file.save({"epoch": 2})
    assert [CheckpointFile(path).load()[0]["epoch"] for path in (file.path, file.previous)] == [2, 1]
    file.save({"epoch": 3})
    assert [CheckpointFile(path).load()[0]["epoch"] for path in (file.path, file.previous)] == [3, 2]


def test_a_kill_between_falling_back_and_the_next_save_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = resumed(tmp_path)
    real, renamed = Path.replace, []

    def killed(self: Path, target: Path) -> Path:
        renamed.append(target)
        if len(renamed) > 1:
            raise KeyboardInterrupt
        return real(self, target)

    for rename in range(2):
        renamed[:] = [Path("before")] * rename
        monkeypatch.setattr(Path, "replace", killed)
        with contextlib.suppress(KeyboardInterrupt):
            file.save({"epoch": 2})
        monkeypatch.setattr(Path, "replace", real)
        assert CheckpointFile(file.path).load()[0]["epoch"] in (1, 2)
        file = resumed(tmp_path)


def test_a_run_that_starts_anew_leaves_nothing_of_the_one_before(tmp_path: Path) -> None:
    states(tmp_path, 3)
    file = CheckpointFile(tmp_path / "checkpoint.pt")
    file.save({"epoch": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]
    assert file.load()[0]["epoch"] == 1
    file.save({"epoch": 2})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.previous.pt", "checkpoint.pt"]


def test_a_folder_in_the_checkpoint_s_place_is_refused_before_training(tmp_path: Path) -> None:
    file = states(tmp_path, 2)
    file.path.unlink()
    file.path.mkdir()
    with pytest.raises(OutputError, match=r"checkpoint\.pt: a file is to be written here, but this is a folder"):
        file.load()


FULL_DISK = """
    import resource, sys, torch
    from medssl_monai.core import OutputError, write_text
    from medssl_monai.handlers.storage import CheckpointFile
    file = CheckpointFile(sys.argv[1])
    file.save({"epoch": 1})
    file.save({"epoch": 2})
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
    for write in (lambda: file.save({"large": torch.zeros(100_000)}), lambda: write_text(sys.argv[2], "x" * 30_000)):
        try:
            write()
        except OutputError as error:
            print(error)
    print(file.load()[0], CheckpointFile(file.previous).load()[0])
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="the system has no limit of file sizes")
def test_a_disk_that_is_full_costs_nothing_that_was_there(tmp_path: Path) -> None:
    # a limit on the size of files stands for the full disk: the same failed write, and no disk is needed
    command = [sys.executable, "-c", textwrap.dedent(FULL_DISK), str(tmp_path / "c.pt"), str(tmp_path / "text.txt")]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    tensors, text, kept = result.stdout.splitlines()
    assert tensors.startswith(f"{tmp_path / 'c.pt'}: cannot be written, ")
    assert "MiB are free there" in tensors
    assert tensors.endswith("What was written before is whole, and resume=True goes on from it.")
    assert text.startswith(f"{tmp_path / 'text.txt'}: cannot be written (File too large; ")
    assert text.endswith("Free some space or raise the limit. What was there before is untouched.")
    assert kept == "{'epoch': 2} {'epoch': 1}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.previous.pt", "c.pt"]
