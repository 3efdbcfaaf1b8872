"""Layouts ``isic2016``, ``mhist``, ``chaoyang`` and ``mura`` on miniatures of what is published."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medssl_monai.core import DataError
from medssl_monai.data.check import check_dataset
from medssl_monai.data.datalist import Datalist
from medssl_monai.data.prepare import prepare_dataset

Draw = Callable[[Path], Path]


def lines(error: pytest.ExceptionInfo[DataError]) -> list[str]:
    return [line.strip() for line in str(error.value).splitlines()]


def counts(datalist: Datalist) -> dict[str, int]:
    return {split: len(items) for split, items in datalist.splits.items()}


def sound(folder: Path) -> bool:
    report = check_dataset(folder, progress=False, workers=1)
    assert [(problem.file, problem.message) for problem in report.problems] == []
    return report.facts["files"] > 0


@pytest.mark.filterwarnings("ignore:no subject")
class TestIsic2016:
    @pytest.fixture
    def isic(self, tmp_path: Path, draw: Draw) -> Path:
        """20 training images, labelled in words, and 8 test images, labelled in numbers; tables without header."""
        for part, first, count in (("Training", 0, 20), ("Test", 100, 8)):
            rows = []
            for i in range(first, first + count):
                draw(tmp_path / "in" / f"ISBI2016_ISIC_Part3_{part}_Data" / f"ISIC_{i:07d}.jpg")
                malignant = i % 4 == 0
                value = ("malignant" if malignant else "benign") if part == "Training" else f"{float(malignant)}"
                rows.append(f"ISIC_{i:07d},{value}")
            (tmp_path / "in" / f"ISBI2016_ISIC_Part3_{part}_GroundTruth.csv").write_text("\n".join(rows))
        return tmp_path

    def prepare(self, folder: Path, **options: Any) -> Datalist:
        return prepare_dataset("isic2016", folder / "in", folder / "out", **options)

    def test_the_published_test_part_is_kept(self, isic: Path) -> None:
        datalist = self.prepare(isic, split="60/20/20")
        assert (datalist.task, datalist.labels, datalist.license) == ("binary", ["benign", "malignant"], "CC0")
        assert counts(datalist) == {"training": 15, "validation": 5, "test": 8}
        for split, item in datalist:
            number = int(item.name[-11:-4])
            assert item.label == int(number % 4 == 0)
            assert (number >= 100) == (split == "test")
        assert sum(item.label for item in datalist.splits["validation"]) in (1, 2)  # type: ignore[misc]
        assert sound(isic / "out")

    def test_training_alone_is_split(self, isic: Path, caplog: pytest.LogCaptureFixture) -> None:
        (isic / "in/ISBI2016_ISIC_Part3_Test_GroundTruth.csv").unlink()
        assert counts(self.prepare(isic, split="50/25/25")) == {"training": 10, "validation": 5, "test": 5}
        assert "the test part is left out: ISBI2016_ISIC_Part3_Test_GroundTruth.csv is not here" in caplog.text

    def test_it_says_that_lesions_are_not_published(self, isic: Path) -> None:
        with pytest.warns(UserWarning, match="ISIC 2016 does not publish which images show one lesion or patient"):
            self.prepare(isic)

    def test_all_problems(self, isic: Path, draw: Draw, caplog: pytest.LogCaptureFixture) -> None:
        table = isic / "in/ISBI2016_ISIC_Part3_Training_GroundTruth.csv"
        table.write_text("image,label\nISIC_0000001,benin\nISIC_0000002,benign\nISIC_0000002,benign\nISIC_9,benign")
        with pytest.raises(DataError) as caught:
            self.prepare(isic)
        assert lines(caught)[1:-1] == [
            "row 1: diagnosis 'label' is not benign (0) or malignant (1)",
            "row 2: diagnosis 'benin' is not benign (0) or malignant (1)",
            "row 4: image 'ISIC_0000002' has a row already",
            "row 5: no image 'ISIC_9' (.jpg, .png) below SOURCE",
        ]
        table.write_text("ISIC_0000001\n")
        with pytest.raises(DataError, match="row 1: 1 cells, expected image, diagnosis"):
            self.prepare(isic)

    def test_images_without_a_row_and_tables_twice(
        self, isic: Path, draw: Draw, caplog: pytest.LogCaptureFixture
    ) -> None:
        draw(isic / "in/ISBI2016_ISIC_Part3_Test_Data/ISIC_0009999.jpg")
        self.prepare(isic)
        assert "left alone, without ground truth: ISBI2016_ISIC_Part3_Test_Data/ISIC_0009999.jpg" in caplog.text
        table = isic / "in/ISBI2016_ISIC_Part3_Training_GroundTruth.csv"
        (isic / "in/more").mkdir()
        (isic / "in/more" / table.name).write_text("x")
        with pytest.raises(DataError, match=r"2 files are called ISBI2016_ISIC_Part3_Training_GroundTruth.csv. Keep"):
            self.prepare(isic)
        (isic / "in/more" / table.name).unlink()
        table.rename(isic / table.name)
        table.symlink_to(isic / table.name)
        with pytest.raises(DataError, match=r"GroundTruth.csv: is a symbolic link that leads out of the source"):
            self.prepare(isic)
        table.unlink()
        with pytest.raises(DataError, match=r"no ISBI2016_ISIC_Part3_Training_GroundTruth.csv here \(found "):
            self.prepare(isic)


@pytest.mark.filterwarnings("ignore:no subject")
class TestMhist:
    header = ("Image Name", "Majority Vote Label", "Number of Annotators who Selected SSA (Out of 7)", "Partition")

    def write(self, folder: Path, rows: list[tuple[object, ...]]) -> None:
        with open(folder / "in/annotations.csv", "w", newline="") as stream:
            csv.writer(stream).writerows([self.header, *rows])

    def rows(self) -> list[tuple[object, ...]]:
        return [
            (f"MHIST_{i:03d}.png", "SSA" if i % 8 > 3 else "HP", i % 8, "test" if i % 4 == 0 else "train")
            for i in range(32)
        ]

    @pytest.fixture
    def mhist(self, tmp_path: Path, draw: Draw) -> Path:
        for row in self.rows():
            draw(tmp_path / "in/images" / str(row[0]))
        self.write(tmp_path, self.rows())
        return tmp_path

    def prepare(self, folder: Path, **options: Any) -> Datalist:
        return prepare_dataset("mhist", folder / "in", folder / "out", **options)

    def test_labels_votes_and_partition(self, mhist: Path) -> None:
        datalist = self.prepare(mhist, split="60/20/20")
        assert (datalist.task, datalist.labels, datalist.modality) == ("binary", ["HP", "SSA"], "histopathology")
        assert counts(datalist) == {"training": 18, "validation": 6, "test": 8}
        known = {row[0]: row for row in self.rows()}
        for split, item in datalist:
            row = known[item.name.removeprefix("images/")]
            assert (datalist.labels[item.label], dict(item.columns)) == (row[1], {"ssa_votes": row[2]})  # type: ignore[index]
            assert (split == "test") == (row[3] == "test")
        assert "Research Use Agreement" in datalist.license
        assert sound(mhist / "out")

    def test_all_problems(self, mhist: Path, draw: Draw, caplog: pytest.LogCaptureFixture) -> None:
        rows = self.rows()
        self.write(mhist, [("MHIST_000.png", "SSA", 4, "trian"), ("MHIST_001.png", "ssa", 4, "train"), rows[2], rows[2],
                           ("MHIST_999.png", "HP", 0, "test")])  # fmt: skip
        with pytest.raises(DataError) as caught:
            self.prepare(mhist)
        assert lines(caught)[1:-1] == [
            "row 2: Partition 'trian' is not known. Did you mean 'train'?",
            "row 3: Majority Vote Label 'ssa' is not a class. Known: HP, SSA.",
            "row 5: image 'MHIST_002' has a row already",
            "row 6: no image 'MHIST_999' (.jpg, .png) below SOURCE",
        ]
        self.write(mhist, rows[:-1])
        self.prepare(mhist)
        assert "left alone, named in no row of annotations.csv: images/MHIST_031.png" in caplog.text
        (mhist / "in/annotations.csv").unlink()
        with pytest.raises(DataError, match=r"expected a table with the columns Image Name, Majority Vote Label, Par"):
            self.prepare(mhist)


@pytest.mark.filterwarnings("ignore:no subject")
class TestChaoyang:
    def entry(self, part: str, case: int, tile: int, votes: tuple[int, int, int]) -> dict[str, Any]:
        label = max(set(votes), key=votes.count)
        name = f"{part}/{case}{('', '_2', '-1')[tile % 3]}-IMG{tile:03d}x007-{label}.JPG"
        return {"label": label, "name": name, **{f"label_{r}": v for r, v in zip("ABC", votes)}}

    @pytest.fixture
    def chaoyang(self, tmp_path: Path, draw: Draw) -> Path:
        """Cases 500 to 511 with four patches to train; to test the cases 520 to 527 with three."""
        train = [self.entry("train", 500 + i // 4, i, (i % 4, i // 4 % 4, i % 4)) for i in range(48)]
        test = [self.entry("test", 520 + i // 3, i, (i % 4, i % 4, i % 4)) for i in range(24)]
        self.write(tmp_path, train, test)
        for one in [*train, *test]:
            draw(tmp_path / "in" / one["name"])
        return tmp_path

    def write(self, folder: Path, train: list[Any], test: list[Any]) -> None:
        (folder / "in").mkdir(exist_ok=True)
        plain = {part: [{k: one[k] for k in ("label", "name") if k in one} for one in entries]
                 for part, entries in (("train", train), ("test", test))}  # fmt: skip
        (folder / "in/train.json").write_text(json.dumps(plain["train"]))
        (folder / "in/test.json").write_text(json.dumps(plain["test"]))
        (folder / "in/train_label.json").write_text(json.dumps(train))

    def read(self, folder: Path) -> tuple[list[Any], list[Any]]:
        return (
            json.loads((folder / "in/train_label.json").read_text()),
            json.loads((folder / "in/test.json").read_text()),
        )

    def prepare(self, folder: Path, **options: Any) -> Datalist:
        return prepare_dataset("chaoyang", folder / "in", folder / "out", **options)

    def test_labels_cases_and_opinions(self, chaoyang: Path) -> None:
        datalist = self.prepare(chaoyang, split="60/20/20")
        classes = ["normal", "serrated", "adenocarcinoma", "adenoma"]
        assert (datalist.task, datalist.labels) == ("multiclass", classes)
        assert counts(datalist) == {"training": 36, "validation": 12, "test": 24}
        train, test = self.read(chaoyang)
        for split, item in datalist:
            (one,) = [one for one in train + test if one["name"] == item.name]
            assert (item.label, item.subject) == (one["label"], f"subject:{item.name.split('/')[1][:3]}")
            opinions = {f"rater_{r}": classes[one[f"label_{r}"]] for r in "ABC"} if split != "test" else {}
            assert dict(item.columns) == opinions
        assert "no distribution" in datalist.license
        assert sound(chaoyang / "out")

    def test_a_split_that_divides_cases(self, chaoyang: Path, draw: Draw, caplog: pytest.LogCaptureFixture) -> None:
        train, test = self.read(chaoyang)
        test.append(self.entry("test", 500, 99, (1, 1, 1)))
        draw(chaoyang / "in" / test[-1]["name"])
        self.write(chaoyang, train, test)
        datalist = self.prepare(chaoyang)
        note = "published split is kept, but 1 cases have patches in training and test: figures are too good"
        assert note in caplog.text
        assert note in datalist.description
        assert {item.subject for _, item in datalist} == {None}
        assert len(datalist.splits["test"]) == 25
        whole = self.prepare(chaoyang, by_case=True, overwrite=True)
        assert whole.name == "chaoyang-by-case"
        groups = [{item.subject for item in items} for items in whole.splits.values()]
        assert sum(map(len, groups)) == 20
        assert counts(whole)["test"] != 25
        assert sound(chaoyang / "out")

    def test_without_single_opinions(self, chaoyang: Path) -> None:
        (chaoyang / "in/train_label.json").unlink()
        assert all(not item.columns for _, item in self.prepare(chaoyang))

    def test_all_problems(self, chaoyang: Path) -> None:
        train, test = self.read(chaoyang)
        (chaoyang / "in" / train[0]["name"]).unlink()
        train[1]["label"] = 4
        train[2] = {"label": 1}
        train[3]["label_B"] = "1"
        train.append(train[4])
        test[0]["name"] = "../x.JPG"
        self.write(chaoyang, train, test)
        with pytest.raises(DataError) as caught:
            self.prepare(chaoyang)
        name = [one.get("name") for one in train]
        assert lines(caught)[1:-1] == [
            f"train.json[1]: {name[1]}: label 4; expected a class from 0 to 3",
            "train.json[2]: no 'name' of a patch",
            f"train_label.json[1]: {name[1]}: label 4; expected a class from 0 to 3",
            "train_label.json[2]: no 'name' of a patch",
            f"train_label.json[3]: {name[3]}: label_B '1'; expected a class from 0 to 3",
            f"train.json: {name[0]} does not exist",
            f"train.json: {name[4]} is listed already",
            "test.json: ../x.JPG leads out of the image folder by '..'; it is not followed",
        ]

    def test_faulty_lists(self, chaoyang: Path) -> None:
        (chaoyang / "in/test.json").write_text("{}")
        with pytest.raises(DataError, match=r"test.json: a list of patches is needed \(found dict\)"):
            self.prepare(chaoyang)
        (chaoyang / "in/test.json").write_text("[1]")
        with pytest.raises(DataError, match=r"test.json\[0\]: no 'name' of a patch"):
            self.prepare(chaoyang)
        (chaoyang / "in/test.json").unlink()
        with pytest.raises(DataError, match=r"in: no test.json here. SOURCE is the folder the archive was unpacked in"):
            self.prepare(chaoyang)
        (chaoyang / "x.json").write_text("[]")
        (chaoyang / "in/test.json").symlink_to(chaoyang / "x.json")
        with pytest.raises(DataError, match=r"test.json: is a symbolic link that leads out of the source"):
            self.prepare(chaoyang)


class TestMura:
    @pytest.fixture
    def mura(self, tmp_path: Path, draw: Draw) -> Path:
        """24 training studies of 16 patients and 8 of 8 others to validate; two images a study, one of every third."""
        root = tmp_path / "in/MURA-v1.1"
        for part, count, first in (("train", 24, 1), ("valid", 8, 11185)):
            studies, images = [], []
            for i in range(count):
                patient = first + (i % 16 if part == "train" else i)
                kind = ("positive", "negative")[i // 2 % 2]
                body = ("ELBOW", "WRIST")[i % 2]
                study = f"MURA-v1.1/{part}/XR_{body}/patient{patient:05d}/study{1 + i // 16}_{kind}/"
                studies.append(f"{study},{int(kind == 'positive')}")
                for k in range(1 if i % 3 == 0 else 2):
                    images.append(f"{study}image{k + 1}.png")
                    path = root.parent / images[-1]
                    draw(path.with_name(f"{part}{i}_{k}.png")).rename(path)
            (root / f"{part}_labeled_studies.csv").write_text("\n".join(studies))
            (root / f"{part}_image_paths.csv").write_text("\n".join(images))
        return tmp_path

    def prepare(self, folder: Path, **options: Any) -> Datalist:
        return prepare_dataset("mura", folder / "in", folder / "out", **options)

    def test_labels_patients_and_body_parts(self, mura: Path) -> None:
        datalist = self.prepare(mura, split="60/20/20")
        assert (datalist.task, datalist.labels) == ("binary", ["normal", "abnormal"])
        assert sum(counts(datalist).values()) == 40 + 13
        assert counts(datalist)["test"] == 13
        for split, item in datalist:
            part, body, patient, study, _ = item.name.split("/")
            assert (part == "valid") == (split == "test")
            assert (item.label, item.subject) == (int(study.endswith("positive")), f"subject:{patient}")
            assert dict(item.columns) == {"body_part": body.removeprefix("XR_").lower()}
        groups = [{item.subject for item in items} for items in datalist.splits.values()]
        assert sum(map(len, groups)) == 16 + 8
        assert "no redistribution" in datalist.license
        assert sound(mura / "out")

    def test_training_alone_is_split(self, mura: Path, caplog: pytest.LogCaptureFixture) -> None:
        for path in (mura / "in/MURA-v1.1").glob("valid_*.csv"):
            path.unlink()
        datalist = prepare_dataset("mura", mura / "in/MURA-v1.1", mura / "out")
        assert set(counts(datalist)) == {"training", "validation", "test"}
        assert all(item.name.startswith("train/") for _, item in datalist)
        assert "published validation part, which would be the test part, is not here" in caplog.text

    def test_all_problems(self, mura: Path, draw: Draw, caplog: pytest.LogCaptureFixture) -> None:
        root = mura / "in/MURA-v1.1"
        studies = (root / "train_labeled_studies.csv").read_text().split()
        images = (root / "train_image_paths.csv").read_text().split()
        names = [line.split(",")[0].removeprefix("MURA-v1.1/").rstrip("/") for line in studies]
        changed = [studies[0].replace(",1", ",0"), studies[1].replace(",1", ",2"), *studies[2:], studies[2],
                   studies[3].replace("train", "valid"), "MURA-v1.1/train/ELBOW/patient1/,1"]  # fmt: skip
        (root / "train_labeled_studies.csv").write_text("\n".join(changed))
        gone = images.pop()  # the last image of the last study, which has two
        (root / "train_image_paths.csv").write_text("\n".join([*images[3:], images[3]]))
        (root.parent / images[4]).unlink()
        with pytest.raises(DataError) as caught:
            self.prepare(mura)
        table, paths = "train_labeled_studies.csv row", "train_image_paths.csv"
        assert lines(caught)[1:-1] == [
            f"{table} 1: label 0 of study {names[0]}, whose name says positive",
            f"{table} 2: 'MURA-v1.1/{names[1]}/', '2'; expected a study's folder in train/ and 0 or 1",
            f"{table} 25: study {names[2]} has a row already",
            f"{table} 26: 'MURA-v1.1/{names[3].replace('train', 'valid')}/', '0'; expected a study's folder in train/ "
            "and 0 or 1",
            f"{table} 27: 'MURA-v1.1/train/ELBOW/patient1/', '1'; expected a study's folder in train/ and 0 or 1",
            f"{paths} row 2: {images[4]} does not exist",
            f"{paths} row {len(images) - 2}: {images[3]} has a row already",
        ]
        assert gone.endswith("image2.png")

    def test_studies_and_images_that_do_not_fit(self, mura: Path, caplog: pytest.LogCaptureFixture) -> None:
        root = mura / "in/MURA-v1.1"
        images = (root / "train_image_paths.csv").read_text().split()
        (root / "train_image_paths.csv").write_text("\n".join(images[:-1]))
        self.prepare(mura)
        assert f"left alone, named in no image_paths.csv: {images[-1].removeprefix('MURA-v1.1/')}" in caplog.text
        (root / "train_image_paths.csv").write_text("\n".join([*images[1:], "MURA-v1.1/train/XR_HAND/image1.png"]))
        study = images[0].removeprefix("MURA-v1.1/").rpartition("/")[0]
        with pytest.raises(DataError) as caught:
            self.prepare(mura, overwrite=True)
        assert lines(caught)[1:-1] == [
            f"train_image_paths.csv row {len(images)}: MURA-v1.1/train/XR_HAND/image1.png is of no study in "
            "train_labeled_studies.csv",
            f"train_image_paths.csv: no image of study {study}",
        ]

    def test_missing_tables(self, mura: Path) -> None:
        root = mura / "in/MURA-v1.1"
        (root / "valid_labeled_studies.csv").unlink()
        with pytest.raises(DataError, match=r"valid_labeled_studies.csv: does not exist"):
            self.prepare(mura)
        (root / "train_image_paths.csv").unlink()
        with pytest.raises(DataError, match=r"no folders with train_image_paths.csv in SOURCE \(found MURA-v1.1\)"):
            self.prepare(mura)
        with pytest.raises(DataError, match=r"the folder that the archive was unpacked in is needed"):
            prepare_dataset("mura", root / "train_labeled_studies.csv", mura / "out")
