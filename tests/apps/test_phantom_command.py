"""``medssl phantom``."""

from __future__ import annotations

import argparse

import numpy as np
import pytest
from PIL import Image

from medssl_monai.apps import phantom
from medssl_monai.core import ConfigError, OutputError
from medssl_monai.data.datalist import load_datalist
from medssl_monai.data.phantoms import contact_sheet
from medssl_monai.data.phantoms.knee.sheet import knee_sheet


def medssl(*words):
    parser = argparse.ArgumentParser(prog="medssl")
    phantom.add_parser(parser.add_subparsers())
    arguments = parser.parse_args([str(word) for word in words])
    return arguments.command(arguments)


def test_it_writes_the_dataset_and_the_sheet(tmp_path, capsys):
    out, sheet = tmp_path / "data", tmp_path / "pictures" / "sheet.png"
    options = ["--subjects", 24, "--seed", 3, "--size", 32, "--split", "50/25/25", "--unlabeled-fraction", 0.25]
    assert (
        medssl("phantom", "skin_lesions", out, *options, "--balance", 1, "--image-format", "jpg", "--sheet", sheet) == 0
    )
    datalist = load_datalist(out)
    with Image.open(sheet) as image:
        np.testing.assert_array_equal(np.asarray(image), contact_sheet(datalist))
    assert next(iter(datalist))[1].name.endswith(".jpg")
    counts = [sum(item.label == c for _, item in datalist) for c in range(7)]
    printed = capsys.readouterr().out.splitlines()
    table = {line.split()[0]: line.split()[1:] for line in printed[1:6]}
    assert table["split"] == ["images", "subjects", "akiec", "bcc", "bkl", "df", "mel", "nv", "vasc"]
    assert [sum(int(table[s][2 + c]) for s in ("training", "validation", "test")) for c in range(7)] == counts
    assert table["unlabeled"] == [str(len(datalist.splits["unlabeled"])), table["unlabeled"][1], *["-"] * 7]
    assert sum(int(table[s][1]) for s in datalist.splits) == 24
    assert printed[-1] == f"contact sheet: {sheet}"


def test_errors(tmp_path, capsys):
    with pytest.raises(
        ConfigError, match=r"--sheet: the contact sheet is a picture \(found s.txt, expected .png or .jpg\)"
    ):
        medssl("phantom", "skin_lesions", tmp_path / "o", "--sheet", "s.txt")
    assert not (tmp_path / "o").exists()
    (tmp_path / "mine").write_text("")
    with pytest.raises(OutputError, match=r"phantom.json"):
        medssl("phantom", "skin_lesions", tmp_path)
    for words, message in [
        (["nothing", tmp_path], "invalid choice: 'nothing' (choose from"),
        (["skin_lesions", tmp_path, "--split", "70/30"], "three percentages that sum to 100, as 70/10/20, got '70/30'"),
        (["skin_lesions", tmp_path, "--split", "a/b/c"], "three percentages"),
        (["skin_lesions", tmp_path, "--image-format", "gif"], "invalid choice: 'gif'"),
        (["skin_lesions"], "the following arguments are required: OUT"),
    ]:
        with pytest.raises(SystemExit) as exit_:
            medssl("phantom", *words)
        assert exit_.value.code == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(("text", "expected"), [("70/10/20", (0.7, 0.1, 0.2)), ("0/0/100", (0, 0, 1))])
def test_split(text, expected):
    assert phantom.parse_split(text) == pytest.approx(expected)


def test_knee_exams(tmp_path, capsys):
    out, sheet = tmp_path / "data", tmp_path / "sheet.png"
    options = ["--exams", 4, "--size", 32, "--seed", 1, "--split", "50/25/25", "--acl", 0.5, "--dicom", 1]
    assert medssl("phantom", "knee", out, *options, "--abnormal", 0.75, "--sheet", sheet) == 0
    datalist = load_datalist(out)
    assert len({item.subject for _, item in datalist}) == len(datalist) == 4
    printed = capsys.readouterr().out.splitlines()
    assert printed[1].split() == ["split", "images", "subjects", "abnormal", "acl", "meniscus"]
    counts = [[int(cell) for cell in line.split()[3:]] for line in printed[2:5]]
    assert np.sum(counts, 0).tolist() == np.sum([item.label for _, item in datalist], 0).tolist()
    with Image.open(sheet) as image:
        np.testing.assert_array_equal(np.asarray(image), knee_sheet())
    assert sorted(path.name for path in (out / "dicom" / "E00000").iterdir()) == ["axial", "coronal", "sagittal"]
    with pytest.raises(ConfigError, match="a tear cannot be more frequent than abnormality"):
        medssl("phantom", "knee", tmp_path / "o", "--exams", 4, "--acl", 0.5, "--abnormal", 0.2)
