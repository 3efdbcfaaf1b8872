"""The command ``medssl check``: exit codes, the table, pure JSON."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from medssl_monai.apps.cli import main


@pytest.fixture
def folder(tmp_path):
    """A clean set of six training and two test pictures."""
    rng = np.random.default_rng(0)
    content = {"name": "tiny", "task": "binary", "labels": ["no", "yes"]}
    for split, number in (("training", 6), ("test", 2)):
        content[split] = []
        for n in range(number):
            Image.fromarray(rng.integers(0, 256, (8, 9), dtype=np.uint8)).save(tmp_path / f"{split}{n}.png")
            item = {"image": f"{split}{n}.png", "label": n % 2, "subject": f"subject:{split}{n}"}
            content[split].append(item)
    (tmp_path / "datalist.json").write_text(json.dumps(content))
    return tmp_path


def test_a_clean_set_exits_with_zero_and_says_what_it_holds(folder, capsys):
    assert main(["check", str(folder), "--no-progress"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "tiny: binary, 8 files read"
    assert [" ".join(line.split()) for line in lines[1:5]] == [
        "training 6 items of 6 subjects no 3, yes 3",
        "test 2 items of 2 subjects no 1, yes 1",
        "2-D 8 images of 9 x 8",
        "values channels 1 (8); type uint8 (8); from 0 to 255",
    ]
    assert lines[-1] == "No problems found."


def test_problems_are_grouped_by_kind_one_line_each_and_exit_with_one(folder, capsys):
    (folder / "training1.png").unlink()
    (folder / "training2.png").write_bytes(b"")
    (folder / "test0.png").write_bytes((folder / "training0.png").read_bytes())
    assert main(["check", str(folder), "--no-progress", "--workers", "1"]) == 1
    out = capsys.readouterr().out
    assert "\nMissing files (1)\n  training  training1.png  no such file. Put the file there, or take" in out
    assert "\nFiles without content (1)\n  training  training2.png  the file has no bytes. Copy it again" in out
    assert "\n  training / test  test0.png  shows the same pixels as training0.png (training). Keep it in one" in out
    assert out.endswith("\n3 problems.\n")


def test_json_is_all_there_is_on_stdout_and_the_bar_is_on_stderr(folder, capsys):
    (folder / "training1.png").unlink()
    assert main(["check", str(folder), "--json"]) == 1
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert (report["ok"], report["counts"]) == (False, {"missing": 1})
    assert report["problems"][0] == {
        "file": "training1.png", "kind": "missing", "message": "no such file", "split": "training",
        "advice": "Put the file there, or take the item out of the datalist.",
    }  # fmt: skip
    assert "8/8" in captured.err


def test_channels_can_be_asked_for(folder, capsys):
    assert main(["check", str(folder), "--no-progress", "--in-channels", "3"]) == 1
    assert capsys.readouterr().out.count("1 channel found, 3 was asked for") == 8


def test_notes_are_set_apart_and_are_no_problem(folder, capsys):
    content = json.loads((folder / "datalist.json").read_text())
    Image.fromarray(np.eye(8, dtype=np.uint8)).save(folder / "more.png")
    content["unlabeled"] = [{"image": "more.png", "subject": "subject:training0"}]
    (folder / "datalist.json").write_text(json.dumps(content))
    assert main(["check", str(folder), "--no-progress"]) == 0
    assert (
        "\nNote: Subjects in more than one split (1)\n  training / unlabeled  training0.png" in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workers", "0"], "--workers must be at least 1 (found 0)"),
        (["--in-channels", "-1"], "--in-channels must be"),
    ],
)
def test_options_out_of_range_are_errors(folder, capsys, arguments, message):
    assert main(["check", str(folder), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_folder_without_a_datalist_is_an_error(tmp_path, capsys):
    assert main(["check", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert "no datalist.json here. Make one with `medssl prepare" in captured.err
    assert captured.out == ""
