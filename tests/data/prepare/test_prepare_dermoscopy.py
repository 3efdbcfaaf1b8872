"""Layouts ``ham10000`` and ``isic2018`` on miniatures of what is published."""

from __future__ import annotations

import csv

import pytest

from medssl_monai.core import DataError
from medssl_monai.data.prepare import prepare_dataset

CLASSES = ["akiec", "bcc", "bkl", "df", "mel", "nv", "vasc"]
ISIC = ["MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC"]


def write_csv(path, header, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])


def items(datalist):
    return {item.name: (split, item) for split, item in datalist}


class TestHam10000:
    header = ("lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization", "dataset")

    @pytest.fixture
    def ham(self, tmp_path, draw):
        """42 images of 21 lesions, two image folders as published, and files that do not belong."""
        rows = []
        for i in range(42):
            age = "" if i == 5 else f"{40 + i}.0"
            rows.append((f"HAM_{i // 2}", f"ISIC_{i}", CLASSES[i // 2 % 7], "histo", age, "male", "back", "rosendahl"))
            draw(tmp_path / "in" / f"HAM10000_images_part_{1 + i % 2}" / f"ISIC_{i}.jpg")
        write_csv(tmp_path / "in/HAM10000_metadata.csv", self.header, rows)
        write_csv(tmp_path / "in/hmnist_8_8_L.csv", ("pixel0000", "label"), [(1, 2)])
        return tmp_path

    def prepare(self, folder, **options):
        return prepare_dataset("ham10000", folder / "in", folder / "out", **options)

    def test_labels_lesions_and_columns(self, ham):
        datalist = self.prepare(ham)
        assert (datalist.name, datalist.modality, datalist.license) == ("ham10000", "dermoscopy", "CC BY-NC 4.0")
        assert (datalist.task, datalist.labels) == ("multiclass", CLASSES)
        for i in range(42):
            _, item = items(datalist)[f"HAM10000_images_part_{1 + i % 2}/ISIC_{i}.jpg"]
            assert (item.label, item.subject) == (i // 2 % 7, f"subject:HAM_{i // 2}")
            expected = {"age": 40 + i, "sex": "male", "localization": "back", "dx_type": "histo"}
            assert dict(item.columns) == {k: v for k, v in expected.items() if not (k == "age" and i == 5)}
        parts = [{item.subject for item in part} for part in datalist.splits.values()]
        assert sum(map(len, parts)) == 21

    def test_a_tab_separated_table_without_suffix(self, ham):
        text = (ham / "in/HAM10000_metadata.csv").read_text()
        (ham / "in/HAM10000_metadata.csv").unlink()
        (ham / "in/HAM10000_metadata").write_text(text.replace(",", "\t"))
        assert len(self.prepare(ham)) == 42

    def test_several_tables(self, ham):
        rows = [("HAM_1", "ISIC_0", "nv"), ("HAM_2", "ISIC_1", "mel"), ("HAM_3", "ISIC_2", "bcc")]
        write_csv(ham / "in/more/other.csv", ("lesion_id", "image_id", "dx"), rows)
        with pytest.raises(
            DataError, match=r"2 tables fit: HAM10000_metadata.csv, more/other.csv\. Name one with --table"
        ):
            self.prepare(ham)
        assert len(self.prepare(ham, table="more/other.csv")) == 3
        with pytest.raises(
            DataError, match=r"no none\.csv here .*expected a table with the columns lesion_id, image_id, dx"
        ):
            self.prepare(ham, table="none.csv")

    def test_images_without_a_row_are_named(self, ham, draw, caplog):
        draw(ham / "in/masks/ISIC_3_segmentation.png")
        assert len(self.prepare(ham)) == 42
        assert "named in no row of HAM10000_metadata.csv: masks/ISIC_3_segmentation.png" in caplog.text

    def test_an_archive_that_holds_images_twice(self, ham, draw):
        draw(ham / "in/again/ISIC_3.jpg")
        assert "HAM10000_images_part_2/ISIC_3.jpg" in items(self.prepare(ham))
        (ham / "in/again/ISIC_3.jpg").write_bytes(b"another")
        with pytest.raises(
            DataError, match=r"row 5: image 'ISIC_3' is there 2 times with different content: HAM.*, again/"
        ):
            self.prepare(ham, overwrite=True)

    def test_all_row_problems(self, ham, draw):
        (ham / "in/linked").symlink_to(ham)
        (ham / "in/ISIC_90.jpg").symlink_to(draw(ham / "secret.jpg"))
        rows = [
            ("HAM_1", "ISIC_0", "nv"), ("HAM_1", "ISIC_77", "nv"), ("HAM_1", "ISIC_1", "nevus"), ("", "ISIC_2", "nv"),
            ("HAM_1", "ISIC_0", "nv"), ("HAM_1", "ISIC_90", "nv"), ("HAM_1", "../secret", "nv"),
        ]  # fmt: skip
        write_csv(ham / "in/HAM10000_metadata.csv", ("lesion_id", "image_id", "dx"), rows)
        with pytest.raises(DataError) as caught:
            self.prepare(ham)
        lines = [line.strip() for line in str(caught.value).splitlines()]
        assert lines[1:-1] == [
            "row 3: no image 'ISIC_77' (.jpg, .png) below SOURCE",
            "row 4: dx 'nevus' is not a class. Known: akiec, bcc, bkl, df, mel, nv, vasc.",
            "row 5: lesion_id is empty",
            "row 6: image 'ISIC_0' has a row already",
            "row 7: image 'ISIC_90' is a symbolic link that leads out of the source; it is not followed",
            "row 8: no image '../secret' (.jpg, .png) below SOURCE",
        ]
        assert lines[-1] == "Nothing was written. Folders that are symbolic links are not entered: linked."

    def test_source_is_a_file(self, ham):
        with pytest.raises(DataError, match=r"the folder with the table and the images is needed"):
            prepare_dataset("ham10000", ham / "in/HAM10000_metadata.csv", ham / "out")


class TestIsic2018:
    def publish(self, source, draw, part, count, start):
        rows = []
        for i in range(start, start + count):
            draw(source / f"ISIC2018_Task3_{part}_Input" / f"ISIC_{i}.jpg")
            rows.append((f"ISIC_{i}", *(f"{float(k == i // 2 % 7)}" for k in range(7))))
        name = f"ISIC2018_Task3_{part}_GroundTruth"
        write_csv(source / name / f"{name}.csv", ("image", *ISIC), rows)

    @pytest.fixture
    def isic(self, tmp_path, draw):
        """56 training images of 28 lesions with the lesion groupings, as the challenge publishes them."""
        source = tmp_path / "in"
        self.publish(source, draw, "Training", 56, 0)
        (source / "ISIC2018_Task3_Training_Input/LICENSE.txt").write_text("CC-BY-NC")
        rows = [(f"ISIC_{i}", f"HAM_{i // 2}", "histopathology") for i in range(56)]
        write_csv(
            source / "ISIC2018_Task3_Training_LesionGroupings.csv",
            ("image", "lesion_id", "diagnosis_confirm_type"),
            rows,
        )
        return tmp_path

    def prepare(self, folder, **options):
        return prepare_dataset("isic2018", folder / "in", folder / "out", **options)

    def test_training_alone_is_split_by_lesion(self, isic):
        datalist = self.prepare(isic)
        assert (datalist.task, datalist.labels, datalist.license) == ("multiclass", ISIC, "CC BY-NC 4.0")
        for i in range(56):
            _, item = items(datalist)[f"ISIC2018_Task3_Training_Input/ISIC_{i}.jpg"]
            assert (item.label, item.subject) == (i // 2 % 7, f"subject:HAM_{i // 2}")
            assert item.columns["diagnosis_confirm_type"] == "histopathology"
        parts = [{item.subject for item in part} for part in datalist.splits.values()]
        assert len(parts) == 3
        assert sum(map(len, parts)) == 28

    def test_published_validation_and_test_are_kept(self, isic, draw, caplog):
        self.publish(isic / "in", draw, "Validation", 7, 100)
        self.publish(isic / "in", draw, "Test", 14, 200)
        datalist = self.prepare(isic)
        assert {split: len(part) for split, part in datalist.splits.items()} == {
            "training": 56, "validation": 7, "test": 14,
        }  # fmt: skip
        assert all("_Test_Input" in item.name for item in datalist.splits["test"])
        assert "21 of 77 images have no subject" in caplog.text

    def test_validation_is_carved_from_training_when_only_test_is_there(self, isic, draw):
        self.publish(isic / "in", draw, "Test", 14, 200)
        splits = self.prepare(isic).splits
        assert len(splits["test"]) == 14
        assert len(splits["training"]) + len(splits["validation"]) == 56
        assert splits["validation"]
        assert all("_Training_Input" in item.name for item in splits["validation"])

    def test_test_images_without_truth_stay_out_of_everything(self, isic, draw, caplog):
        draw(isic / "in/ISIC2018_Task3_Test_Input/ISIC_900.jpg")
        self.publish(isic / "in", draw, "Validation", 7, 100)
        for path in (isic / "in/ISIC2018_Task3_Validation_Input").iterdir():
            path.unlink()
        assert len(self.prepare(isic)) == 56
        assert "the test part is left out: its ground truth is not here" in caplog.text
        assert "the validation part is left out: ISIC2018_Task3_Validation_Input has no images here" in caplog.text

    def test_without_groupings_it_warns(self, isic):
        (isic / "in/ISIC2018_Task3_Training_LesionGroupings.csv").unlink()
        with pytest.warns(
            UserWarning, match=r"its own patient.*Put ISIC2018_Task3_Training_LesionGroupings.csv into SOURCE"
        ):
            self.prepare(isic)

    def test_all_row_problems(self, isic, draw, caplog):
        truth = isic / "in/ISIC2018_Task3_Training_GroundTruth/ISIC2018_Task3_Training_GroundTruth.csv"
        rows = [("ISIC_0", 1, 1, 0, 0, 0, 0, 0), ("ISIC_99", 1, 0, 0, 0, 0, 0, 0), ("ISIC_60", 1, 0, 0, 0, 0, 0, 0)]
        write_csv(truth, ("image", *ISIC), rows)
        draw(isic / "in/ISIC2018_Task3_Training_Input/ISIC_60.jpg")
        with pytest.raises(DataError) as caught:
            self.prepare(isic)
        assert [line.strip() for line in str(caught.value).splitlines()][1:4] == [
            "row 2: exactly one class must be 1 and the others 0, found 1, 1, 0, 0, 0, 0, 0",
            "row 3: no image 'ISIC_99' (.jpg, .png) below SOURCE",
            "row 4: image 'ISIC_60' has no lesion in ISIC2018_Task3_Training_LesionGroupings.csv",
        ]

    def test_images_without_truth_are_named(self, isic, draw, caplog):
        draw(isic / "in/ISIC2018_Task3_Training_Input/ISIC_60.jpg")
        assert len(self.prepare(isic)) == 56
        assert "left alone, without ground truth: ISIC2018_Task3_Training_Input/ISIC_60.jpg" in caplog.text

    def test_faulty_folders(self, isic, tmp_path):
        truth = isic / "in/ISIC2018_Task3_Training_GroundTruth/ISIC2018_Task3_Training_GroundTruth.csv"
        content = truth.read_text()
        (isic / "in/copy").mkdir()
        (isic / "in/copy" / truth.name).write_text(content)
        with pytest.raises(DataError, match=r"2 files are called ISIC2018_Task3_Training_GroundTruth.csv. Keep one"):
            self.prepare(isic)
        (isic / "in/copy" / truth.name).unlink()
        truth.write_text(content.replace("VASC", "VASCULAR"))
        with pytest.raises(DataError, match=r"column VASC is missing \(found image, MEL, .*expected image, MEL"):
            self.prepare(isic)
        truth.unlink()
        truth.symlink_to(isic / "elsewhere.csv")
        (isic / "elsewhere.csv").write_text(content)
        with pytest.raises(DataError, match=r"GroundTruth.csv: is a symbolic link that leads out of the source"):
            self.prepare(isic)
        truth.unlink()
        with pytest.raises(DataError, match=r"no ISIC2018_Task3_Training_GroundTruth.csv here .*unpacked in"):
            self.prepare(isic)


@pytest.mark.real
def test_real_ham10000(real_data, tmp_path):
    datalist = prepare_dataset("ham10000", real_data / "ham10000", tmp_path / "out", link=True)
    with open(real_data / "ham10000/metadata.csv", newline="") as stream:
        rows = {row["image_id"]: row for row in csv.DictReader(stream)}
    assert len(datalist) == len(rows) == 5069
    for _, item in datalist:
        row = rows[item.name.removeprefix("images/").removesuffix(".jpg")]
        assert (CLASSES[item.label], item.subject) == (row["dx"], f"subject:{row['lesion_id']}")
        assert (f"{item.columns['age']:.1f}" if "age" in item.columns else "") == row["age"]
    parts = [{item.subject for item in part} for part in datalist.splits.values()]
    assert sum(map(len, parts)) == 3689
    shares = [len(part) / 5069 for part in datalist.splits.values()]
    assert shares == pytest.approx([0.7, 0.1, 0.2], abs=0.002)
