"""The demonstration, small: every step, the table, and the picture's path last."""

from __future__ import annotations

from pathlib import Path

import pytest

from medssl_monai.apps.cli import main


@pytest.mark.bundle
def test_demo_ends_with_the_path_of_its_picture(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["demo", "--out", str(tmp_path), "--subjects", "150", "--epochs", "2", "--label-fraction", "0.5"]
    assert main(arguments) == 0
    lines = capfd.readouterr().out.strip().splitlines()
    assert Path(lines[-1]) == tmp_path / "summary.png"
    assert Path(lines[-1]).read_bytes().startswith(b"\x89PNG")
    table = [line for line in lines if line.startswith("|")]
    assert [row.split("|")[1].strip() for row in table[2:]] == ["supervised", "srcl"]
    assert any(line.startswith("srcl - supervised: macro AUROC") for line in lines)
    # a second call runs nothing again
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.stage.json")}
    assert main(arguments) == 0
    assert stamps == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.stage.json")}
