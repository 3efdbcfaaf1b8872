"""Files are whole or not there; output folders; JSON."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from medssl_monai.core import (
    DataError,
    FolderLock,
    OutputError,
    atomic_path,
    make_folder,
    read_json,
    write_json,
    write_text,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_whole_with_the_permissions_of_an_ordinary_one(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b.txt"
    umask = os.umask(0o027)
    try:
        with atomic_path(target) as temporary:
            assert temporary.parent == target.parent
            temporary.write_text("new")
            assert not target.exists()
    finally:
        os.umask(umask)
    assert target.read_text() == "new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    write_text(target, "größer")
    assert target.read_bytes() == "größer".encode()
    assert names(target.parent) == ["b.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_leaves_the_old_file_and_no_temporary_one(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "b.txt"
    target.write_text("old")

    def broken_off() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        broken_off()
    assert target.read_text() == "old"
    assert names(tmp_path) == ["b.txt"]


def test_a_folder_in_the_place_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "model.pt").mkdir()
    with pytest.raises(OutputError, match=r"model\.pt: a file is to be written here, but this is a folder"):
        write_text(tmp_path / "model.pt", "x")
    assert names(tmp_path) == ["model.pt"]


def test_a_file_in_the_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    for folder in (tmp_path / "out", tmp_path / "out" / "deeper" / "still"):
        with pytest.raises(
            OutputError, match=r"/out: an output folder is needed here, but this is a file\. Name anoth"
        ):
            make_folder(folder)
        with pytest.raises(OutputError, match=r"/out: an output folder is needed here"):
            write_text(folder / "x.txt", "x")
    assert make_folder(tmp_path / "p" / "q") == tmp_path / "p" / "q"
    assert make_folder(tmp_path / "p" / "q").is_dir()


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    with pytest.raises(OutputError, match=r"x\.txt: cannot be written \(Permission denied\)"):
        write_text(tmp_path / "x.txt", "x")
    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(OutputError, match=r"new: the folder cannot be made \(Permission denied\)"):
        make_folder(tmp_path / "new")


def test_json_round_trip(tmp_path: Path) -> None:
    content = {"ä": [1, 2.5, None, True], "nested": {"x": "y"}}
    write_json(tmp_path / "a.json", content)
    assert read_json(tmp_path / "a.json") == content
    assert "ä" in (tmp_path / "a.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), np.float64("nan")])
def test_json_has_no_word_for_nan(tmp_path: Path, value: float) -> None:
    write_json(tmp_path / "a.json", {"old": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"metric": value})
    assert read_json(tmp_path / "a.json") == {"old": 1}


def test_unreadable_json(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.json: file not found"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_text('{"a": 1,\n "b" 2}')
    with pytest.raises(DataError, match=r"a\.json: not valid JSON: .* at line 2, column 6"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"a\.json: cannot be read"):
        read_json(tmp_path / "a.json")
    with pytest.raises(DataError, match=r"cannot be read"):
        read_json(tmp_path)


def test_a_folder_has_one_run_at_a_time(tmp_path: Path) -> None:
    first, second = FolderLock(tmp_path / "new"), FolderLock(tmp_path / "new")
    first.acquire()
    with pytest.raises(OutputError) as caught:
        second.acquire()
    assert str(caught.value).startswith(f"{tmp_path / 'new'}: another run is writing in this folder (found process ")
    assert f"process {os.getpid()} on " in str(caught.value)
    assert str(caught.value).endswith("Wait for it, stop it, or name another folder.")
    first.release()
    first.release()
    second.acquire()
    second.release()


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    code = "import os, sys, medssl_monai.core as c; c.FolderLock(sys.argv[1]).acquire(); os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == -9
    lock = FolderLock(tmp_path)
    lock.acquire()
    lock.release()
