"""What may be proposed for labelling and what is labelled: hand-made datasets, no network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from medssl_monai.apps._pools import _contents, find_pools
from medssl_monai.core import ConfigError, DataError, sampled_digest


def item(name: str, label: int | None = 0, subject: str | None = None) -> dict[str, Any]:
    entry: dict[str, Any] = {"image": name}
    if label is not None:
        entry["label"] = label
    if subject is not None:
        entry["subject"] = f"subject:{subject}"
    return entry


def picture(path: Path) -> None:
    """Noise that only a file of this name and folder holds; all such files have one size (of a BMP)."""
    pixels = np.random.default_rng(list(f"{path.parent.name}/{path.name}".encode())).integers(0, 256, (4, 4))
    Image.fromarray(pixels.astype(np.uint8)).save(path, format="BMP")


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Training t0 to t5, two of them of one subject; validation, test and unlabelled images."""
    folder = tmp_path / "data"
    folder.mkdir()
    content = {
        "name": "toy", "task": "binary", "labels": ["a", "b"],
        "training": [item(f"t{i}.png", i % 2, "twin" if i in (2, 3) else f"t{i}") for i in range(6)],
        "validation": [item("v0.png", 0, "v0"), item("v1.png", 1, "v1")],
        "test": [item("x0.png", 0, "x0"), item("x1.png", 1, "x1")],
        "unlabeled": [item("u0.png", None, "u0"), item("u1.png", None, "twin"), item("u2.png", None)],
    }  # fmt: skip
    for split in ("training", "validation", "test", "unlabeled"):
        for entry in content[split]:
            picture(folder / entry["image"])
    (folder / "datalist.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def models(tmp_path: Path, dataset: Path) -> Path:
    """A run that has used the labels of t0, t1 and v0."""
    folder = tmp_path / "run" / "models"
    folder.mkdir(parents=True)
    budget(folder)
    (folder / "train_config.yaml").write_text(yaml.safe_dump({"bundle_root": ".", "dataset_dir": str(dataset)}))
    return folder


def budget(models: Path, **keys: Any) -> None:
    content = {"dataset": "toy", "training": ["t0.png", "t1.png"], "validation": ["v0.png"], **keys}
    (models / "budget.json").write_text(json.dumps(content))


def names(cases: Any) -> list[str]:
    return [case.name for case in cases]


def test_training_outside_the_budget_and_the_unlabelled_are_candidates(dataset, models):
    pools = find_pools(dataset, models)
    assert names(pools.candidates) == ["t2.png", "t3.png", "t4.png", "t5.png", "u0.png", "u1.png", "u2.png"]
    assert names(pools.labelled) == ["t0.png", "t1.png", "v0.png"]
    assert pools.task == "binary"
    assert pools.notes == []


def test_subjects_that_validate_are_not_proposed(dataset, models):
    """Validation carved from training: the other images of its subject stay out, labelled or not."""
    budget(models, validation=["t2.png"])
    pools = find_pools(dataset, models)
    assert names(pools.candidates) == ["t4.png", "t5.png", "u0.png", "u2.png"]
    assert "t2.png" in names(pools.labelled)
    assert pools.notes == ["2 images of subjects that validate or test are not proposed"]


def test_subjects_that_test_are_not_proposed(dataset, models):
    content = json.loads((dataset / "datalist.json").read_text())
    content["test"].append(item("t5.png", 1, "other"))
    content["test"].append(item("x2.png", 1, "u0"))
    (dataset / "datalist.json").write_text(json.dumps(content))
    proposed = names(find_pools(dataset, models).candidates)
    assert not {"t5.png", "u0.png", "x0.png", "x1.png", "x2.png", "v1.png"} & set(proposed)


@pytest.mark.parametrize("case", ["none", "other"])
def test_without_a_budget_of_this_dataset_all_training_counts_as_labelled(case, dataset, models):
    if case == "none":
        (models / "budget.json").unlink()
    else:
        budget(models, dataset="elsewhere")
    pools = find_pools(dataset, models)
    assert names(pools.candidates) == ["u0.png", "u1.png", "u2.png"]
    assert names(pools.labelled) == [f"t{i}.png" for i in range(6)] + ["v0.png", "v1.png"]
    expected = "there is no budget.json" if case == "none" else "the run was trained on 'elsewhere'"
    assert pools.notes == [f"{expected}: all training items count as labelled"]


def test_labels_of_images_that_are_gone_are_counted(dataset, models):
    budget(models, training=["t0.png", "gone.png"])
    pools = find_pools(dataset, models)
    assert "t1.png" in names(pools.candidates)
    assert pools.notes == ["1 images whose labels the run used are no longer in the dataset"]


class TestPlainFolder:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        folder = tmp_path / "new"
        folder.mkdir()
        for name in ("n0.png", "n1.png"):
            picture(folder / name)
        return folder

    def test_the_recorded_dataset_gives_the_labelled(self, folder, models):
        pools = find_pools(folder, models)
        assert names(pools.candidates) == ["n0.png", "n1.png"]
        assert names(pools.labelled) == ["t0.png", "t1.png", "v0.png"]
        assert pools.notes == ["no subject information in a plain folder: every image counts as its own subject"]

    def test_images_of_the_dataset_itself(self, dataset, models):
        """The dataset's folder without its datalist: only what the datalist leaves free is proposed."""
        inner = dataset / "datalist.json"
        text = inner.read_text()
        elsewhere = dataset.parent / "list"
        elsewhere.mkdir()
        (elsewhere / "datalist.json").write_text(text.replace('"t', '"../data/t').replace('"v', '"../data/v'))
        pools = find_pools(dataset, models)
        free = set(names(pools.candidates))
        links = dataset.parent / "links"
        links.mkdir()
        for path in dataset.glob("*.png"):
            (links / path.name).symlink_to(path)
        assert set(names(find_pools(links, models).candidates)) == free
        assert "6 images are labelled already, validate or test in 'toy'" in find_pools(links, models).notes

    def test_a_dataset_that_has_moved_is_not_known(self, folder, models, dataset):
        dataset.rename(dataset.with_name("moved"))
        pools = find_pools(folder, models)
        assert pools.labelled == []
        assert "near-duplicates of them may be proposed (see --labelled)" in pools.notes[1]
        assert len(find_pools(folder, models, dataset.with_name("moved")).labelled) == 3

    def test_a_dataset_of_another_name_is_not_taken(self, folder, models, dataset):
        budget(models, dataset="elsewhere")
        assert find_pools(folder, models).labelled == []
        with pytest.raises(
            DataError, match=r"not the dataset whose labels the run used \(found toy, expected elsewhere\)"
        ):
            find_pools(folder, models, dataset)
        (models / "budget.json").unlink()
        with pytest.raises(DataError, match=r"expected no budget\.json in .*models"):
            find_pools(folder, models, dataset)


def copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(source.read_bytes())


class TestCopies:
    """Images are told by their bytes, whatever their names."""

    LEFT_OUT = (
        "{} candidates are copies (same content) of images that are labelled, validate or test, or of another image "
        "of those subjects: left out"
    )
    TWINS = "{} candidates are copies (same content) of another candidate: only the first by name counts"

    @pytest.mark.parametrize("original", ["x0.png", "v1.png", "t0.png", "v0.png"])
    def test_in_a_plain_folder(self, original, tmp_path, dataset, models):
        """Of test, validation (whose label was used or not) and training within the budget."""
        copy(dataset / original, tmp_path / "new" / "deep" / "other_name.png")
        picture(tmp_path / "new" / "n0.png")
        pools = find_pools(tmp_path / "new", models)
        assert names(pools.candidates) == ["n0.png"]
        assert pools.warnings == [self.LEFT_OUT.format(1)]

    def test_copies_of_what_may_be_proposed_may_be_proposed(self, tmp_path, dataset, models):
        copy(dataset / "t4.png", tmp_path / "new" / "n0.png")
        pools = find_pools(tmp_path / "new", models)
        assert names(pools.candidates) == ["n0.png"]
        assert pools.warnings == []

    def test_in_a_dataset(self, dataset, models):
        copy(dataset / "x1.png", dataset / "u0.png")
        copy(dataset / "t0.png", dataset / "t4.png")
        copy(dataset / "t5.png", dataset / "u2.png")
        pools = find_pools(dataset, models)
        assert names(pools.candidates) == ["t2.png", "t3.png", "t5.png", "u1.png"]
        assert pools.warnings == [self.LEFT_OUT.format(2), self.TWINS.format(1)]

    def test_of_another_image_of_a_subject_that_tests(self, tmp_path, dataset, models):
        budget(models, validation=["t2.png"])
        copy(dataset / "u1.png", tmp_path / "new" / "n0.png")  # of the subject of t2
        picture(tmp_path / "new" / "n1.png")
        assert names(find_pools(tmp_path / "new", models).candidates) == ["n1.png"]

    def test_of_several_the_first_by_name_stays(self, tmp_path, dataset, models):
        """Also where no dataset is known."""
        (models / "budget.json").unlink()
        for name in ("b.png", "a.png", "c.png"):
            copy(dataset / "t0.png", tmp_path / "new" / name)
        picture(tmp_path / "new" / "d.png")
        pools = find_pools(tmp_path / "new", models)
        assert names(pools.candidates) == ["a.png", "d.png"]
        assert pools.warnings == [self.TWINS.format(2)]

    @pytest.mark.parametrize("place", [100_000, 3])
    def test_one_byte_makes_another_image(self, place, tmp_path, dataset, models):
        """Within the file too, where its ends do not tell."""
        content = bytearray(200_000)
        (dataset / "x0.png").write_bytes(content)
        content[place] = 1
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / "n0.png").write_bytes(content)
        assert names(find_pools(tmp_path / "new", models).candidates) == ["n0.png"]

    def test_only_files_of_equal_size_are_opened(self, tmp_path, dataset, models, monkeypatch):
        opened: list[str] = []

        def note(path: Path) -> str:
            opened.append(path.name)
            return sampled_digest(path)

        monkeypatch.setattr("medssl_monai.apps._pools.sampled_digest", note)
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / "n0.png").write_bytes(b"another length")
        find_pools(tmp_path / "new", models)
        assert "n0.png" not in opened

    def test_of_series(self, tmp_path, dataset, models):
        """Folders count by the contents of their files, not by their names."""
        content = json.loads((dataset / "datalist.json").read_text())
        for name in ("sa", "sb", "sc"):
            content["unlabeled"].append(item(name, None, name))
        content["test"].append(item("tested", 0, "tested"))
        (dataset / "datalist.json").write_text(json.dumps(content))
        for series, slices in {"tested": "12", "sa": "21", "sb": "34", "sc": "33"}.items():
            (dataset / series).mkdir()
            for number, text in enumerate(slices):
                (dataset / series / f"{series}{number}.dcm").write_text(text)
        pools = find_pools(dataset, models)
        assert names(pools.candidates)[-2:] == ["sb", "sc"]
        assert "sa" not in names(pools.candidates)
        assert pools.warnings == [self.LEFT_OUT.format(1)]

    def test_originals_that_are_gone_are_counted(self, tmp_path, dataset, models):
        (dataset / "x0.png").unlink()
        picture_of = tmp_path / "new" / "n0.png"
        copy(dataset / "x1.png", picture_of.with_name("n1.png"))
        picture(picture_of)
        pools = find_pools(tmp_path / "new", models)
        assert names(pools.candidates) == ["n0.png"]
        assert "1 images of the dataset are not there: copies of them cannot be noticed" in pools.notes

    def test_nothing_but_copies(self, tmp_path, dataset, models):
        copy(dataset / "x0.png", tmp_path / "new" / "n0.png")
        with pytest.raises(DataError, match=r"no case is left to propose.*1 candidates are copies \(same content\)"):
            find_pools(tmp_path / "new", models)

    def test_a_file_that_cannot_be_read(self, tmp_path, dataset, models, monkeypatch):
        def refuse(path: Path) -> str:
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr("medssl_monai.apps._pools.sampled_digest", refuse)
        with pytest.raises(DataError, match=r"t0\.png: cannot be read \(Permission denied\)"):
            find_pools(dataset, models)


def test_nothing_left(dataset, models):
    content = json.loads((dataset / "datalist.json").read_text())
    del content["unlabeled"]
    (dataset / "datalist.json").write_text(json.dumps(content))
    (models / "budget.json").unlink()
    with pytest.raises(DataError, match=r"no case is left to propose \(found there is no budget\.json.*Put unlabelled"):
        find_pools(dataset, models)


def test_exams_are_proposed_by_the_plane_of_the_run(tmp_path: Path) -> None:
    data, models = tmp_path / "data", tmp_path / "models"
    models.mkdir()
    content: dict[str, Any] = {"name": "knees", "task": "binary", "labels": ["a", "b"]}
    for split, exams in (("training", ("t0", "t1", "t2")), ("test", ("x0",)), ("unlabeled", ("u0",))):
        content[split] = []
        for exam in exams:
            (data / exam).mkdir(parents=True)
            paths = {plane: f"{exam}/{plane}.bmp" for plane in ("sagittal", "axial")}
            for path in paths.values():
                picture(data / path)
            content[split].append(item(paths, 1 if split != "unlabeled" else None, exam))  # type: ignore[arg-type]
    (data / "datalist.json").write_text(json.dumps(content))
    used = {"dataset": "knees", "training": ["t0"], "validation": [], "counts": {}}
    (models / "budget.json").write_text(json.dumps(used))
    with pytest.raises(ConfigError, match="plane: the dataset's images are exams of several planes"):
        find_pools(data, models)
    pools = find_pools(data, models, plane="axial")
    assert {case.name: case.record["image"] for case in pools.candidates} == {
        exam: f"{data}/{exam}/axial.bmp" for exam in ("t1", "t2", "u0")
    }
    assert [case.name for case in pools.labelled] == ["t0"]


def test_images_with_equal_headers_are_told_apart_by_their_voxels(tmp_path: Path) -> None:
    for name, voxels in (("a", b"1234"), ("b", b"1235"), ("c", b"1234")):
        (tmp_path / f"{name}.hdr").write_bytes(b"the same")
        (tmp_path / f"{name}.img").write_bytes(voxels)
    one, other, copy = _contents([tmp_path / f"{name}.hdr" for name in "abc"]).values()
    assert one == copy != other
