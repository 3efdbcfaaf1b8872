"""make_phantom: recipes, folders it refuses, completion, splits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from medssl_monai.core import ConfigError, DataError, OutputError
from medssl_monai.data import phantoms
from medssl_monai.data.datalist import load_datalist
from medssl_monai.data.phantoms import PHANTOMS, Option, make_phantom


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantom") / "new" / "folder"
    return make_phantom("skin_lesions", folder, subjects=40, seed=1, size=32, unlabeled_fraction=0.5)


def test_the_folder_obeys_the_data_contract(dataset):
    read = load_datalist(dataset.root)
    assert read.to_json() == dataset.to_json()
    assert set(read.splits) == {"training", "validation", "test", "unlabeled"}
    assert all(item.label is None for item in read.splits["unlabeled"])
    assert all(item.label is not None for split, item in read if split != "unlabeled")
    groups = [{item.group for item in items} for items in read.splits.values()]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 40
    paths = [path for _, item in read for path in item.paths]
    assert sorted(paths) == sorted(str(p.relative_to(dataset.root)) for p in (dataset.root / "images").iterdir())


def test_unlabeled_fraction_is_taken_from_training_only(dataset, tmp_path):
    full = make_phantom("skin_lesions", tmp_path, subjects=40, seed=1, size=32)
    assert full.splits["test"] == dataset.splits["test"]
    assert full.splits["validation"] == dataset.splits["validation"]
    assert "unlabeled" not in full.splits
    names = {item.name for item in full.splits["training"]}
    kept, rest = ([item.name for item in dataset.splits[s]] for s in ("training", "unlabeled"))
    assert set(kept) | set(rest) == names
    assert len(kept) + len(rest) == len(names)
    assert 0.35 < len(rest) / len(names) < 0.65


def test_files_are_equal_byte_for_byte(dataset, tmp_path):
    again = make_phantom("skin_lesions", tmp_path, subjects=40, seed=1, size=32, unlabeled_fraction=0.5)
    assert contents(again.root) == contents(dataset.root)
    other = make_phantom("skin_lesions", tmp_path / "other", subjects=3, seed=2, size=32)
    assert all((dataset.root / item.name).read_bytes() != (other.root / item.name).read_bytes()
               for _, item in other if (dataset.root / item.name).exists())  # fmt: skip


def test_subjects_do_not_depend_on_how_many_there_are(dataset, tmp_path):
    few = make_phantom("skin_lesions", tmp_path, subjects=12, seed=1, size=32)
    labels = {item.name: item for _, item in few}
    full = {item.name: item for item in PHANTOMS.get("skin_lesions").items(_recipe(40)) for item in item}
    for name, item in labels.items():
        assert item == full[name]
        assert (few.root / name).read_bytes() == (dataset.root / name).read_bytes()


def _recipe(subjects):
    return phantoms.Recipe(
        "skin_lesions", subjects, 1, 32, (0.7, 0.1, 0.2), 0.0, {"balance": 0.0, "image_format": "png"}
    )


def test_a_whole_folder_is_left_and_a_broken_one_completed(tmp_path):
    make = {"kind": "skin_lesions", "out": tmp_path, "subjects": 6, "size": 32}
    datalist = make_phantom(**make)
    whole = contents(tmp_path)
    stamps = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    assert make_phantom(**make).to_json() == datalist.to_json()
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == stamps
    for damage in ("datalist.json", next(iter(datalist))[1].name):
        (tmp_path / damage).unlink()
        make_phantom(**make)
        assert contents(tmp_path) == whole
    (tmp_path / "datalist.json").write_text("{")
    make_phantom(**make)
    assert contents(tmp_path) == whole


def test_an_interrupted_run_leaves_no_datalist_and_is_completed(tmp_path, monkeypatch):
    phantom = PHANTOMS.get("skin_lesions")
    write = type(phantom).write

    def full_disk(self, recipe, subject, items, folder):
        if subject == 2:
            raise OSError(28, "No space left on device", str(folder / items[0].name))
        write(self, recipe, subject, items, folder)

    monkeypatch.setattr(type(phantom), "write", full_disk)
    with pytest.raises(OutputError, match=r"P00002_0.png: the images cannot be written \(No space left on device\)"):
        make_phantom("skin_lesions", tmp_path, subjects=4, size=32)
    assert not (tmp_path / "datalist.json").exists()
    monkeypatch.undo()
    assert len({item.group for _, item in make_phantom("skin_lesions", tmp_path, subjects=4, size=32)}) == 4


def test_folders_with_something_else_are_refused(tmp_path):
    (tmp_path / "a.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"not empty and holds no phantom.json.* Name an empty or new folder\."):
        make_phantom("skin_lesions", tmp_path, subjects=4)
    assert contents(tmp_path) == {"a.txt": b"mine"}
    with pytest.raises(OutputError, match=r"a\.txt: an output folder is needed here, but this is a file"):
        make_phantom("skin_lesions", tmp_path / "a.txt", subjects=4)
    out = tmp_path / "out"
    make_phantom("skin_lesions", out, subjects=4, size=32)
    before = contents(out)
    with pytest.raises(
        OutputError, match=r"holds another phantom \(found subjects 4, seed 0, expected subjects 5, seed 1\)"
    ):
        make_phantom("skin_lesions", out, subjects=5, seed=1, size=32)
    assert contents(out) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "skin_lesion"}, "unknown phantom 'skin_lesion'. Did you mean 'skin_lesions'?"),
        ({"balanced": 1.0}, "phantom skin_lesions has no option 'balanced'. Did you mean 'balance'?"),
        ({"balance": 1.5}, r"option balance is out of range \(found 1.5, expected 0 to 1\)"),
        ({"balance": "much"}, r"option balance must be of type float \(found 'much'\)"),
        ({"image_format": "jpeg"}, "option image_format cannot be 'jpeg'. Did you mean 'jpg'?"),
        ({"subjects": 0}, r"option subjects is out of range \(found 0, expected at least 1\)"),
        ({"subjects": 2.5}, r"option subjects must be of type int \(found 2.5\)"),
        ({"seed": -1}, "option seed is out of range"),
        ({"size": 8}, r"option size is out of range \(found 8, expected at least 32\)"),
        ({"unlabeled_fraction": float("nan")}, "option unlabeled_fraction is out of range|must be of type"),
        ({"unlabeled_fraction": 1.0}, r"leaves no labelled training item .* Lower unlabeled_fraction\."),
        ({"split": (0.5, 0.5)}, r"three fractions: training, validation, test \(found \[0.5, 0.5\]\)"),
        ({"split": (0.5, 0.5, 0.5)}, "fractions of a split must be non-negative and sum to 1"),
        ({"subjects": 2}, "subjects"),
    ],
)
def test_wrong_recipes(tmp_path, arguments, message):
    with pytest.raises((ConfigError, DataError), match=message):
        make_phantom(**{"kind": "skin_lesions", "out": tmp_path / "o", "subjects": 10, **arguments})
    assert not (tmp_path / "o").exists()


def test_option_types():
    assert Option(0.5, "").check("x", 1) == 1.0
    assert isinstance(Option(0.5, "").check("x", 1), float)
    assert Option(5, "", low=0).check("x", np.int64(3).item()) == 3
    with pytest.raises(ConfigError, match="of type int"):
        Option(5, "").check("x", True)


def test_the_recipe_is_written(dataset):
    recipe = json.loads((dataset.root / "phantom.json").read_text())
    assert recipe["kind"] == "skin_lesions"
    assert recipe["unlabeled_fraction"] == 0.5
    assert "seed 1" in dataset.description
