"""Layouts ``mrnet``, ``kneemri`` and ``acdc`` on miniatures of what is published."""

from __future__ import annotations

import csv
import pickle
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged

from medssl_monai.core import ConfigError, DataError
from medssl_monai.data import classification_datalist, evaluation_records
from medssl_monai.data.check import check_dataset
from medssl_monai.data.prepare import prepare_dataset

PLANES = ("sagittal", "coronal", "axial")
LABELS = ("abnormal", "acl", "meniscus")
GROUPS = ("NOR", "MINF", "DCM", "HCM", "RV")
LOADING = Compose(
    [LoadImaged("image", reader="medssl_monai.data.readers.MedicalImageReader"), EnsureChannelFirstd("image")]
)


def lines(error: pytest.ExceptionInfo[DataError]) -> list[str]:
    return [line.strip() for line in str(error.value).splitlines()]


def sound(folder: Path) -> bool:
    report = check_dataset(folder, progress=False, workers=1)
    assert [(problem.file, problem.message) for problem in report.problems] == []
    return report.facts["files"] > 0


def stack(path: Path, seed: int, slices: int = 3, shape: tuple[int, int] = (6, 5)) -> np.ndarray:
    """A published stack (slices, rows, columns); rows and columns differ so that a swap shows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, (slices, *shape)).astype(np.uint8)
    np.save(path, values)
    return values


def vector(number: int) -> tuple[int, int, int]:
    return (number % 4 > 0, number % 4 == 2, number % 4 == 3)


class TestMrnet:
    @pytest.fixture
    def mrnet(self, tmp_path: Path) -> Path:
        """24 training exams from 0000 and 8 validation exams from 1130, as the archive unpacks."""
        root = tmp_path / "in" / "MRNet-v1.0"
        for part, first, count in (("train", 0, 24), ("valid", 1130, 8)):
            for number in range(first, first + count):
                for k, plane in enumerate(PLANES):
                    stack(root / part / plane / f"{number:04d}.npy", 10 * number + k, slices=3 + number % 3)
            for k, label in enumerate(LABELS):
                rows = [f"{number:04d},{int(vector(number)[k])}" for number in range(first, first + count)]
                (root / f"{part}-{label}.csv").write_text("\n".join(rows) + "\n")
        return tmp_path

    def prepare(self, folder: Path, **options: object):
        return prepare_dataset("mrnet", folder / "in", folder / "out", **options)

    def test_exams_labels_and_parts(self, mrnet: Path) -> None:
        datalist = self.prepare(mrnet, split="60/20/20")
        assert (datalist.task, datalist.labels, datalist.modality) == ("multilabel", list(LABELS), "MR")
        assert {split: len(items) for split, items in datalist.splits.items()} == {
            "training": 18, "validation": 6, "test": 8,
        }  # fmt: skip
        for split, item in datalist:
            part, exam = item.name.split("/")
            assert part == ("valid" if split == "test" else "train")
            assert (item.subject, item.label) == (f"subject:{exam}", vector(int(exam)))
            assert item.image == {plane: f"{part}/{exam}/{plane}.npy" for plane in PLANES}
        # carved with all labels in proportion: 24 exams show each rare label 6 times, a quarter is carved
        shown = np.sum([item.label for item in datalist.splits["validation"]], axis=0)
        np.testing.assert_allclose(shown, [4.5, 1.5, 1.5], atol=0.5)
        assert "no redistribution" in datalist.license
        assert "non-commercial" in datalist.license
        assert sound(mrnet / "out")

    def test_the_axes_are_those_of_a_series(self, mrnet: Path) -> None:
        """Row r, column c of published slice s is found at [0, c, r, s], as from DICOM or NIfTI."""
        datalist = self.prepare(mrnet)
        for plane in PLANES:
            for record in classification_datalist(mrnet / "out", LABELS, exclusive=False, plane=plane).records("test"):
                published = np.load(mrnet / "in/MRNet-v1.0/valid" / plane / f"{Path(record['name']).name}.npy")
                image = np.asarray(LOADING(record)["image"])
                assert image.shape == (1, 5, 6, len(published))
                for s, r, c in [(0, 0, 0), (1, 5, 2), (2, 3, 4)]:
                    assert image[0, c, r, s] == published[s, r, c]
                np.testing.assert_array_equal(image[0], published.transpose(2, 1, 0))
        assert len(datalist) == 32

    def test_paper_protocol(self, mrnet: Path, caplog: pytest.LogCaptureFixture) -> None:
        datalist = self.prepare(mrnet, paper_protocol=True)
        assert {split: len(items) for split, items in datalist.splits.items()} == {"training": 24, "validation": 8}
        assert datalist.name == "mrnet-paper-protocol"
        assert (
            "whatever is chosen on it (checkpoint, ensemble weights, thresholds) and then measured on it is optimi"
            in (datalist.description)
        )
        assert "paper protocol: the published validation part is `validation` and there is no test part" in caplog.text
        assert sound(mrnet / "out")
        with pytest.raises(DataError, match="no labelled test image"):
            evaluation_records(datalist)

    def test_source_may_be_the_folder_itself(self, mrnet: Path) -> None:
        datalist = prepare_dataset("mrnet", mrnet / "in/MRNet-v1.0", mrnet / "out")
        assert len(datalist) == 32

    def test_training_alone_is_split(self, mrnet: Path) -> None:
        root = mrnet / "in/MRNet-v1.0"
        for path in [*root.glob("valid/*/*.npy"), *root.glob("valid-*.csv")]:
            path.unlink()
        for folder in [*root.glob("valid/*"), root / "valid"]:
            folder.rmdir()
        datalist = self.prepare(mrnet, split="50/25/25")
        assert {split: len(items) for split, items in datalist.splits.items()} == {
            "training": 12, "validation": 6, "test": 6,
        }  # fmt: skip
        assert "validation part is missing" in datalist.description
        with pytest.raises(
            DataError, match=r"the published validation part is not here \(expected valid/ and valid-\*"
        ):
            self.prepare(mrnet, paper_protocol=True)

    def test_ids_that_went_through_a_spreadsheet(self, mrnet: Path) -> None:
        path = mrnet / "in/MRNet-v1.0/train-acl.csv"
        path.write_text("\n".join(f"{int(line[:4])},{line[5:]}.0" for line in path.read_text().split()))
        assert sorted(item.subject for item in self.prepare(mrnet).splits["test"])[0] == "subject:1130"

    def test_a_second_call_writes_nothing(self, mrnet: Path, snapshot) -> None:
        self.prepare(mrnet)
        before = snapshot(mrnet / "out")
        self.prepare(mrnet)
        assert snapshot(mrnet / "out") == before

    def test_all_problems(self, mrnet: Path, tmp_path: Path) -> None:
        root = mrnet / "in/MRNet-v1.0"
        (root / "train/coronal/0003.npy").unlink()
        (root / "train/axial/0004.npy").write_bytes((root / "train/axial/0004.npy").read_bytes()[:150])
        np.save(root / "train/axial/0005.npy", np.zeros((6, 6, 3), np.uint8))
        np.save(root / "train/axial/0006.npy", np.zeros((6, 6), np.uint8))
        np.save(root / "train/axial/0007.npy", np.array([None]), allow_pickle=True)
        stack(tmp_path / "elsewhere.npy", 1)
        (root / "train/axial/0008.npy").unlink()
        (root / "train/axial/0008.npy").symlink_to(tmp_path / "elsewhere.npy")
        stack(root / "valid/axial/1200.npy", 1)
        acl = root / "train-acl.csv"
        rows = acl.read_text().split()
        acl.write_text("\n".join([*rows[:1], "0001,2", "exam,0", *rows[2:], rows[2]]))
        with open(root / "valid-acl.csv", "a") as stream:
            stream.write("0000,1\n")
        for label in ("abnormal", "meniscus"):
            with open(root / f"valid-{label}.csv", "a") as stream:
                stream.write("0000,1\n")
        with pytest.raises(DataError) as caught:
            self.prepare(mrnet)
        found = lines(caught)
        damaged = found.pop(7)
        assert damaged.startswith("exam 0004: train/axial/0004.npy cannot be read (cannot be read as .npy: ")
        assert found[0].endswith("MRNet-v1.0: 15 problems:")
        shape = "expected (slices, rows, columns)"
        assert found[1:-1] == [
            "train-acl.csv row 2: '0001', '2'; expected an exam's number and 0 or 1",
            "train-acl.csv row 3: 'exam', '0'; expected an exam's number and 0 or 1",
            "train-acl.csv row 26: exam 0002 has a row already",
            "exam 0001: no row in train-acl.csv",
            "exam 0000: stands in train-*.csv and in valid-*.csv",
            "exam 0003: train/coronal/0003.npy does not exist",
            f"exam 0005: train/axial/0005.npy seems to have its slices last: shape (6, 6, 3); {shape}",
            f"exam 0006: train/axial/0006.npy is no stack of slices: shape (6, 6), type uint8; {shape} of numbers",
            "exam 0007: train/axial/0007.npy cannot be read (holds pickled Python objects, which are never unpickled)",
            "exam 0008: train/axial/0008.npy is a symbolic link that leads out of the source; it is not followed",
            *[f"exam 0000: valid/{plane}/0000.npy does not exist" for plane in PLANES],
            "valid/axial/1200.npy: exam 1200 has no row in valid-*.csv",
        ]
        assert found[-1].startswith("Nothing was written. Unpack the published archive again")
        assert not (mrnet / "out").exists()

    def test_missing_tables(self, mrnet: Path) -> None:
        root = mrnet / "in/MRNet-v1.0"
        (root / "valid-acl.csv").unlink()
        with pytest.raises(DataError, match=r"valid-acl.csv: does not exist. Each label has a table"):
            self.prepare(mrnet)
        for path in root.glob("train-*.csv"):
            path.unlink()
        with pytest.raises(DataError, match=r"no folders with train-abnormal.csv, .*found MRNet-v1.0.*was unpacked in"):
            self.prepare(mrnet)
        with pytest.raises(
            DataError, match=r"the folder that the archive was unpacked in is needed, but this is a file"
        ):
            prepare_dataset("mrnet", root / "valid-abnormal.csv", mrnet / "out")

    def test_linked_tables_and_folders(self, mrnet: Path) -> None:
        root = mrnet / "in/MRNet-v1.0"
        (root / "train-acl.csv").rename(mrnet / "train-acl.csv")
        (root / "train-acl.csv").symlink_to(mrnet / "train-acl.csv")
        with pytest.raises(DataError, match=r"train-acl.csv: is a symbolic link that leads out of the source"):
            self.prepare(mrnet)
        root.rename(mrnet / "MRNet-v1.0")
        root.symlink_to(mrnet / "MRNet-v1.0")
        with pytest.raises(DataError, match=r"MRNet-v1.0: is a symbolic link that leads out of the source"):
            self.prepare(mrnet)


class TestKneeMri:
    header = ("examId", "seriesNo", "aclDiagnosis", "kneeLR", "roiX", "roiY", "roiZ", "roiHeight", "roiWidth",
              "roiDepth", "volumeFilename")  # fmt: skip

    def rows(self, count: int = 60) -> list[list[object]]:
        """Exams of one or two series; grades 0, 0, 0, 1, 1, 2 in turn."""
        rows: list[list[object]] = []
        for i in range(count):
            name = f"{400000 + i}-{7 + i % 2}.pck"
            rows.append([400000 + i // 2 * 2, 7 + i % 2, (0, 0, 0, 1, 1, 2)[i // 2 % 6], i % 2, 1, 2, 3, 4, 5, 6, name])
        return rows

    def publish(self, source: Path, rows: list[list[object]], folders: bool) -> None:
        source.mkdir(parents=True)
        for i, row in enumerate(rows):
            folder = f"vol{1 + i // 6:02d}" if folders else "volumetric_data"
            path = source / folder / str(row[-1])
            path.parent.mkdir(exist_ok=True)
            values = np.random.default_rng(i).integers(0, 4096, (3, 5, 4)).astype(np.uint16)
            path.write_bytes(pickle.dumps(values, protocol=i % 6))
        self.write_table(source, rows)

    def write_table(self, source: Path, rows: list[list[object]]) -> None:
        with open(source / "metadata.csv", "w", newline="") as stream:
            csv.writer(stream).writerows([self.header, *rows])

    def test_the_split_of_the_thesis(self, tmp_path: Path) -> None:
        self.publish(tmp_path / "in", self.rows(), folders=True)
        datalist = prepare_dataset("kneemri", tmp_path / "in", tmp_path / "out")
        assert (datalist.task, datalist.labels) == ("binary", ["no complete tear", "complete tear"])
        assert datalist.license == "CC BY-NC-ND 4.0"
        parts = {split: {item.name.split("/")[0] for item in items} for split, items in datalist.splits.items()}
        assert parts == {
            "training": {"vol08", "vol04", "vol03", "vol09", "vol06", "vol07"},
            "validation": {"vol10", "vol05"},
            "test": {"vol01", "vol02"},
        }
        known = {str(row[-1]).removesuffix(".pck"): row for row in self.rows()}
        for _, item in datalist:
            row = known[Path(item.name).stem]
            assert (item.label, item.subject) == (int(row[2] == 2), f"subject:{row[0]}")
            assert dict(item.columns) == {"kneeLR": row[3]}
        assert sound(tmp_path / "out")

    def test_grades_and_values(self, tmp_path: Path) -> None:
        self.publish(tmp_path / "in", self.rows(), folders=True)
        datalist = prepare_dataset("kneemri", tmp_path / "in", tmp_path / "out", task="multiclass")
        assert (datalist.task, datalist.labels) == ("multiclass", ["healthy", "partial", "complete"])
        known = {str(row[-1]).removesuffix(".pck"): i for i, row in enumerate(self.rows())}
        for _, item in datalist:
            i = known[Path(item.name).stem]
            assert item.label == self.rows()[i][2]
            published = np.random.default_rng(i).integers(0, 4096, (3, 5, 4))
            image = np.asarray(LOADING({"image": str(tmp_path / "out" / item.name)})["image"])
            np.testing.assert_array_equal(image[0], published.transpose(2, 1, 0))

    def test_one_folder_is_drawn_by_exam(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        self.publish(tmp_path / "in", self.rows(), folders=False)
        datalist = prepare_dataset("kneemri", tmp_path / "in", tmp_path / "out", split="60/20/20")
        assert {split: len(items) for split, items in datalist.splits.items()} == {
            "training": 36, "validation": 12, "test": 12,
        }  # fmt: skip
        groups = [{item.subject for item in items} for items in datalist.splits.values()]
        assert sum(map(len, groups)) == 30
        assert "lie in no folders vol01 to vol10, by which the thesis splits: exams are drawn" in caplog.text

    def test_parts_of_volume_folders(self, tmp_path: Path) -> None:
        self.publish(tmp_path / "in", self.rows(), folders=True)
        (tmp_path / "in/vol08").rename(tmp_path / "in/vol08_02")
        splits = prepare_dataset("kneemri", tmp_path / "in", tmp_path / "out").splits
        assert any(item.name.startswith("vol08_02/") for item in splits["training"])

    def test_all_problems(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        rows = self.rows(12)
        self.publish(tmp_path / "in", rows, folders=True)
        rows[0][2] = 3
        rows[1][0] = ""
        rows[3][-1] = rows[2][-1]
        rows[4][-1] = "gone.pck"
        (tmp_path / "in/vol02").rename(tmp_path / "in/other")
        (tmp_path / "in/vol01" / str(rows[5][-1])).write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
        (tmp_path / "in/other" / str(rows[6][-1])).write_bytes(pickle.dumps(np.zeros((4, 4))))
        (tmp_path / "in/vol01" / str(rows[7][-1])).write_bytes(b"again")
        outside = tmp_path / "outside.pck"
        outside.write_bytes(pickle.dumps(np.zeros((2, 3, 4))))
        (tmp_path / "in/other" / str(rows[8][-1])).unlink()
        (tmp_path / "in/other" / str(rows[8][-1])).symlink_to(outside)
        self.write_table(tmp_path / "in", rows)
        with pytest.raises(DataError) as caught:
            prepare_dataset("kneemri", tmp_path / "in", tmp_path / "out")
        assert lines(caught)[1:-1] == [
            "row 2: aclDiagnosis '3' is not 0 (healthy), 1 (partial) or 2 (complete)",
            "row 3: examId is empty",
            "row 5: volume '400002-7.pck' has a row already",
            "row 6: no volume 'gone.pck' below SOURCE",
            "row 7: volume 'vol01/400005-8.pck' is a pickle that asks for os.system, which is no part of an array and "
            "is not run",
            "row 8: volume 'other/400006-7.pck' is no stack of slices: shape (4, 4), type float64; expected (slices, "
            "rows, columns) of numbers",
            "row 9: volume '400007-8.pck' is there 2 times: other/400007-8.pck, vol01/400007-8.pck",
            "row 10: volume '400008-7.pck' is a symbolic link that leads out of the source; it is not followed",
            "3 volumes lie in no folder vol01 to vol10, the others do: other/400009-8.npy, other/400010-7.npy, "
            "other/400011-8.npy",
        ]
        assert not (tmp_path / "out").exists()

    def test_volumes_without_a_row_and_a_missing_table(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        rows = self.rows()
        self.publish(tmp_path / "in", rows, folders=False)
        self.write_table(tmp_path / "in", rows[:-1])
        assert len(prepare_dataset("kneemri", tmp_path / "in", tmp_path / "out")) == 59
        assert f"left alone, named in no row of metadata.csv: {rows[-1][-1]}" in caplog.text
        (tmp_path / "in/metadata.csv").unlink()
        with pytest.raises(DataError, match=r"expected a table with the columns examId, aclDiagnosis, volumeFilename"):
            prepare_dataset("kneemri", tmp_path / "in", tmp_path / "out")
        with pytest.raises(ConfigError, match=r"--task: expected binary or multiclass \(found 'regression'\)"):
            prepare_dataset("kneemri", tmp_path / "in", tmp_path / "out", task="regression")


class TestAcdc:
    @pytest.fixture
    def acdc(self, tmp_path: Path) -> Path:
        """Patients 001 to 020 of the five groups in turn and 101 to 110 to test, as the archive unpacks."""
        for number in [*range(1, 21), *range(101, 111)]:
            part = "training" if number < 100 else "testing"
            self.patient(tmp_path / "in" / part / f"patient{number:03d}", number)
        return tmp_path

    def patient(self, folder: Path, number: int) -> None:
        folder.mkdir(parents=True)
        info = {"ED": 1, "ES": 7 + number % 5, "Group": GROUPS[number % 5], "Height": 160.5 + number, "NbFrame": 30,
                "Weight": 70.0 + number}  # fmt: skip
        (folder / "Info.cfg").write_text("".join(f"{key}: {value}\n" for key, value in info.items()))
        for phase in ("ED", "ES"):
            stem = f"{folder.name}_frame{info[phase]:02d}"
            image = np.random.default_rng(number + info[phase]).integers(0, 999, (6, 5, 3)).astype(np.int16)
            mask = np.zeros((6, 5, 3), np.uint8)
            mask[0, 0, 0], mask[1:3], mask[4, 0] = 1, 2, 3
            for suffix, values in (("", image), ("_gt", mask)):
                nib.save(nib.Nifti1Image(values, np.diag([1.5, 1.5, 10, 1])), folder / f"{stem}{suffix}.nii.gz")

    def prepare(self, folder: Path, **options: object):
        return prepare_dataset("acdc", folder / "in", folder / "out", **options)

    def test_diagnoses(self, acdc: Path) -> None:
        datalist = self.prepare(acdc)
        assert (datalist.task, datalist.labels, datalist.name) == ("multiclass", list(GROUPS), "acdc-ed")
        assert datalist.license == "CC BY-NC-SA 4.0"
        assert {split: len(items) for split, items in datalist.splits.items()} == {
            "training": 15, "validation": 5, "test": 10,
        }  # fmt: skip
        for split, item in datalist:
            part, patient, file = item.name.split("/")
            number = int(patient.removeprefix("patient"))
            assert (part == "testing") == (split == "test")
            assert file == f"{patient}_frame01.nii.gz"
            assert (item.label, item.subject) == (number % 5, f"subject:{patient}")
            assert dict(item.columns) == {"height": 160.5 + number, "weight": 70.0 + number}
            assert (acdc / "out" / item.name).read_bytes() == (acdc / "in" / item.name).read_bytes()
        assert sound(acdc / "out")

    def test_end_of_systole(self, acdc: Path) -> None:
        for _, item in self.prepare(acdc, frame="ES"):
            number = int(Path(item.name).name[7:10])
            assert item.name.endswith(f"_frame{7 + number % 5:02d}.nii.gz")

    def test_masks(self, acdc: Path) -> None:
        datalist = self.prepare(acdc, task="segmentation")
        assert datalist.labels == {0: "background", 1: "right ventricle", 2: "myocardium", 3: "left ventricle"}
        for _, item in datalist:
            assert item.label == item.name.replace("_frame01", "_frame01_gt")
            assert item.columns["group"] == GROUPS[int(Path(item.name).name[7:10]) % 5]
        assert sound(acdc / "out")

    def test_test_patients_without_a_diagnosis_stay_out(self, acdc: Path, caplog: pytest.LogCaptureFixture) -> None:
        for path in (acdc / "in/testing").glob("*/Info.cfg"):
            path.write_text("ED: 1\nES: 9\n")
        datalist = self.prepare(acdc, split="50/25/25")
        assert {split: len(items) for split, items in datalist.splits.items()} == {
            "training": 10, "validation": 5, "test": 5,
        }  # fmt: skip
        assert "the testing part is left out: its Info.cfg files name no group" in caplog.text

    def test_source_may_be_the_training_folder(self, acdc: Path) -> None:
        datalist = prepare_dataset("acdc", acdc / "in/training", acdc / "out")
        assert len(datalist) == 20
        assert set(datalist.splits) == {"training", "validation", "test"}

    def test_all_problems(self, acdc: Path) -> None:
        training = acdc / "in/training"
        (training / "patient001/Info.cfg").unlink()
        (training / "patient002/Info.cfg").write_text("\n")
        (training / "patient003/Info.cfg").write_text("ED: 1\nGroup: MNIF\n")
        (training / "patient004/Info.cfg").write_text("ES: 1\nGroup: RV\n")
        (training / "patient005/patient005_frame01.nii.gz").unlink()
        (training / "patient006/patient006_frame01_gt.nii.gz").write_bytes(b"x")
        with pytest.raises(DataError) as caught:
            self.prepare(acdc, task="segmentation")
        found = lines(caught)
        assert found[1:6] == [
            "training/patient001/Info.cfg does not exist",
            "training/patient002/Info.cfg is empty",
            "training/patient003: group 'MNIF' is not known. Did you mean 'MINF'?",
            "training/patient004: Info.cfg names no frame ED",
            "training/patient005: patient005_frame01.nii.gz does not exist",
        ]
        assert found[6].startswith("training/patient006: ")
        assert len(found) == 8
        (acdc / "empty").mkdir()
        with pytest.raises(DataError, match=r"no patient folders here \(found nothing, expected training/patient001/"):
            prepare_dataset("acdc", acdc / "empty", acdc / "out")

    @pytest.fixture
    def copies(self, tmp_path: Path) -> Path:
        """npz volumes of 20 patients with labels.csv."""
        (tmp_path / "in").mkdir()
        rows = ["file,patient,group,slices,height,width"]
        for number in range(20):
            stem = f"patient{number:03d}_frame01"
            image = np.random.default_rng(number).integers(0, 999, (3, 6, 5)).astype(np.uint16)
            np.savez(tmp_path / "in" / f"{stem}.npz", image=image, label=(image % 4).astype(np.uint8))
            rows.append(f"{stem},patient{number:03d},{GROUPS[number % 5]},3,6,5")
        (tmp_path / "in/labels.csv").write_text("\n".join(rows))
        return tmp_path

    def test_npz_copies(self, copies: Path) -> None:
        datalist = self.prepare(copies, task="segmentation", split="50/25/25")
        for _, item in datalist:
            with np.load(copies / "in" / item.name.replace(".npy", ".npz")) as archive:
                for path, key in ((item.name, "image"), (item.label, "label")):
                    loaded = np.asarray(LOADING({"image": str(copies / "out" / path)})["image"])
                    np.testing.assert_array_equal(loaded[0], archive[key].transpose(2, 1, 0))
        assert sound(copies / "out")

    def test_problems_of_npz_copies(self, copies: Path, caplog: pytest.LogCaptureFixture) -> None:
        source = copies / "in"
        image = np.zeros((3, 6, 5), np.uint16)
        np.savez(source / "patient001_frame01.npz", label=image)
        np.savez(source / "patient002_frame01.npz", image=image[0])
        (source / "patient003_frame01.npz").write_bytes(b"x")
        (source / "patient004_frame01.npz").unlink()
        np.savez(source / "patient005_frame01.npz", image=np.array([None]))
        text = (source / "labels.csv").read_text().replace("patient006,MINF", "patient006,XYZ")
        (source / "labels.csv").write_text(text.replace("patient007,DCM", ",DCM") + "\npatient000_frame01,p,RV,3,6,5")
        with pytest.raises(DataError) as caught:
            self.prepare(copies)
        assert lines(caught)[1:-1] == [
            "labels.csv row 3: 'patient001_frame01.npz': array 'image' is missing",
            "labels.csv row 4: 'patient002_frame01.npz': array 'image' is no stack of slices: shape (6, 5), type uint16"
            "; expected (slices, rows, columns) of numbers",
            "labels.csv row 5: 'patient003_frame01.npz': not an npz file",
            "labels.csv row 6: 'patient004_frame01.npz' does not exist",
            "labels.csv row 7: 'patient005_frame01.npz': array 'image' holds pickled Python objects, which are never "
            "loaded: they can run code",
            "labels.csv row 8: group 'XYZ' is not known. Known: DCM, HCM, MINF, NOR, RV.",
            "labels.csv row 9: the patient is empty",
            "labels.csv row 22: 'patient000_frame01' has a row already",
        ]
        with pytest.raises(DataError, match=r"labels.csv: the npz volumes are those of frame ED. Leave --frame out"):
            self.prepare(copies, frame="ES")

    def test_faulty_options(self, acdc: Path) -> None:
        with pytest.raises(ConfigError, match="--frame: expected ED or ES"):
            self.prepare(acdc, frame="ed")
        with pytest.raises(ConfigError, match="--task: expected multiclass or segmentation"):
            self.prepare(acdc, task="binary")


@pytest.mark.real
@pytest.mark.parametrize("task", ["multiclass", "segmentation"])
def test_real_cardiac_volumes(real_data: Path, tmp_path: Path, task: str) -> None:
    source = real_data / "acdc"
    datalist = prepare_dataset("acdc", source, tmp_path / "out", task=task, split="60/20/20")
    with open(source / "labels.csv", newline="") as stream:
        rows = {row["patient"]: row for row in csv.DictReader(stream)}
    assert len(datalist) == len(rows) == 40
    for _, item in datalist:
        row = rows[(item.subject or "").removeprefix("subject:")]
        group = GROUPS[item.label] if task == "multiclass" else item.columns["group"]  # type: ignore[index]
        assert group == row["group"]
        shape = tuple(int(row[key]) for key in ("width", "height", "slices"))
        assert np.load(tmp_path / "out" / item.name, mmap_mode="r").shape == shape
    if task == "multiclass":
        counts = [np.bincount([item.label for item in items]).tolist() for items in datalist.splits.values()]
        assert np.ptp(counts, axis=1).max() <= 1
    assert sound(tmp_path / "out")
