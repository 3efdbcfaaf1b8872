"""``medssl prepare``: options, summary, messages and exit codes."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from medssl_monai.apps.cli import main
from medssl_monai.apps.prepare import summary
from medssl_monai.data.datalist import Datalist, Item, load_datalist
from medssl_monai.data.prepare import PREPARERS


@pytest.fixture
def source(tmp_path):
    """Folders ``cat`` (12 images) and ``dog`` (8), two images a subject."""
    for index in range(20):
        folder = tmp_path / "pets" / ("cat" if index < 12 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4), index, np.uint8)).save(folder / f"P{index // 2}_{index}.png")
    (tmp_path / "pets" / "notes.md").write_text("x")
    return tmp_path / "pets"


def command(*arguments):
    return main(["prepare", *map(str, arguments)])


def test_folder(source, tmp_path, capsys, caplog):
    options = ("--classes", "dog,cat", "--subject-regex", r"^(P\d)_", "--split", "60/20/20", "--link")
    code = command("folder", source, tmp_path / "out", *options)
    printed = capsys.readouterr().out
    assert code == 0
    datalist = load_datalist(tmp_path / "out")
    assert datalist.labels == ["dog", "cat"]
    assert {split: len(items) for split, items in datalist.splits.items()} == {
        "training": 12,
        "validation": 4,
        "test": 4,
    }
    assert "pets: binary, 2 classes" in printed
    assert "all                  12 (6)       4 (2)  4 (2)  20 (10)" in printed
    assert "cat" in printed
    assert f"Written: {tmp_path / 'out' / 'datalist.json'}. Next: medssl check {tmp_path / 'out'}" in printed
    assert "left alone, no class of this dataset: notes.md" in caplog.text
    assert (tmp_path / "out/cat/P0_0.png").is_symlink()


def test_the_warning_about_subjects_comes_once_and_names_the_option(source, tmp_path, capsys):
    for name in ("one", "two"):
        assert command("folder", source, tmp_path / name) == 0
        errors = capsys.readouterr().err
        assert errors.count("warning: no subject information: every file counts as its own patient") == 1
        assert "--subject-regex" in errors


def test_errors_have_exit_code_2(source, tmp_path, capsys):
    assert command("folder", source, tmp_path / "out", "--classes", "cat,dgo") == 2
    assert "medssl: --classes: there is no class folder 'dgo'" in capsys.readouterr().err
    assert command("folder", source, source / "out") == 2
    assert "OUT lies inside SOURCE" in capsys.readouterr().err


@pytest.mark.parametrize(
    "layout",
    ["folder", "table", "nifti", "acdc", "btcv", "chaos", "chaoyang", "ham10000", "isic2016", "isic2018", "kneemri",
     "medmnist", "mhist", "mrnet", "mura"],
)  # fmt: skip
def test_every_layout_explains_its_options(layout, capsys):
    assert layout in PREPARERS
    with pytest.raises(SystemExit) as caught:
        command(layout, "--help")
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    for name in (*PREPARERS.get(layout).option_names(), "split", "seed", "link", "overwrite", "name", "license"):
        assert f"--{name.replace('_', '-')}" in printed


def test_options_of_a_layout_reach_it(source, tmp_path):
    rows = [f"{path.parent.name}/{path.stem},{i % 2},{i}" for i, path in enumerate(sorted(source.glob("*/*.png")))]
    (source / "list.csv").write_text("\n".join(["id,sick,age", *rows[:-1], rows[-1].replace(",1,", ",,")]) + "\n")
    code = command(
        "table", source / "list.csv", tmp_path / "out", "--image-column", "id", "--label-column", "sick", "--unlabeled",
        "--image-suffix", ".png", "--columns", "age", "--subject-regex", r"^(P\d)_", "--seed", "3", "--name", "mine",
        "--modality", "photo", "--license", "CC0",
    )  # fmt: skip
    assert code == 0
    datalist = load_datalist(tmp_path / "out")
    assert (datalist.name, datalist.modality, datalist.license) == ("mine", "photo", "CC0")
    assert sorted(item.columns["age"] for split, item in datalist if split != "unlabeled") == list(range(19))


def test_a_needed_option_is_asked_for(source, tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        command("nifti", source, tmp_path / "out")
    assert caught.value.code == 2
    assert "the following arguments are required: --image" in capsys.readouterr().err


def test_summary_counts_positives_and_subjects():
    items = [Item(f"{i}.png", (i % 2, int(i < 3)), f"subject:{i // 2}") for i in range(6)]
    pool = [Item("u.png", None, "subject:9")]
    text = summary(Datalist("knee", "multilabel", ["acl", "meniscus"], {"training": items, "unlabeled": pool}))
    assert text.splitlines() == [
        "knee: multilabel, 2 classes",
        "",
        "images (subjects)  training  unlabeled  total",
        "all                   6 (3)      1 (1)  7 (4)",
        "acl                   3 (3)      0 (0)  3 (3)",
        "meniscus              3 (2)      0 (0)  3 (2)",
    ]
    masks = Datalist("ct", "segmentation", {0: "background", 1: "liver"}, {"training": [Item("i", "m", "subject:1")]})
    assert summary(masks).splitlines()[0] == "ct: segmentation, 1 class besides the background"
    assert len(summary(masks).splitlines()) == 4
