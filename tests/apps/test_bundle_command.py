"""``medssl bundle``: list and copy."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_bundle import make_bundle

from medssl_monai.apps.cli import main

NAME = "srcl_skin_lesion_classification"


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bundle", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == sorted(lines)
    assert any(line.startswith(f"{NAME}  0.") for line in lines)


def test_copy_of_a_shipped_bundle_runs_from_its_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bundle", "copy", NAME, str(tmp_path / "new" / "mine")]) == 0
    copy = tmp_path / "new" / "mine" / NAME
    assert capsys.readouterr().out == f"{copy}\n"
    assert {"configs/metadata.json", "configs/train.yaml", "LICENSE"} <= files(copy)
    assert main(["run", str(copy), "train", "--dry-run"]) == 0
    assert f"bundle_root: {copy}" in capsys.readouterr().out


def test_what_runs_have_written_is_left_behind(tmp_path: Path) -> None:
    source = make_bundle(tmp_path / "a")
    own = files(source)
    for name in ("models/model.pt", "eval/metrics.json", "configs/__pycache__/x.pyc"):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text("")
    assert main(["bundle", "copy", str(source), str(tmp_path / "b")]) == 0
    assert files(tmp_path / "b" / source.name) == own


def test_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = make_bundle(tmp_path / "a")
    assert main(["bundle", "copy", str(source), str(tmp_path / "a")]) == 2
    assert f"medssl: {source}: exists already. Name another folder, or remove it first." in capsys.readouterr().err
    assert main(["bundle", "copy", "srcl", str(tmp_path)]) == 2
    assert "no bundle 'srcl'" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert main(["bundle", "copy", str(source), str(tmp_path / "file")]) == 2
    assert "an output folder is needed here, but this is a file" in capsys.readouterr().err
