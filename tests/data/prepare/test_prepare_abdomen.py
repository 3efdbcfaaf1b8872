"""Layouts ``chaos`` and ``btcv``, and ``nifti`` on prepared CHAOS scans."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.uid import generate_uid

from medssl_monai.core import ConfigError, DataError
from medssl_monai.data import Datalist, segmentation_datalist, select_budget
from medssl_monai.data.check import check_dataset
from medssl_monai.data.phantoms.knee.dicom import write_dicom_series
from medssl_monai.data.phantoms.knee.image import Series
from medssl_monai.data.prepare import prepare_dataset
from medssl_monai.data.prepare.btcv import ORGANS

SHAPE = (10, 8, 6)  # columns, rows, slices; all differ so that a swap shows
GREY = np.array([0, 63, 126, 189, 252], np.uint8)
#: columns to the left, rows to the back, oblique and with slices upward, in RAS mm
AFFINE = np.array([[-1.4, 0.0, 0.2, 90.0], [0.0, -1.5, 0.3, 70.0], [0.1, 0.2, 7.7, -40.0], [0, 0, 0, 1.0]])
AFFINE[:3, 1] -= AFFINE[:3, 0] * (AFFINE[:3, 0] @ AFFINE[:3, 1]) / (AFFINE[:3, 0] @ AFFINE[:3, 0])
NORMAL = np.cross(AFFINE[:3, 0], AFFINE[:3, 1])
AFFINE[:3, 2] = 7.7 * NORMAL / np.linalg.norm(NORMAL)


def sound(folder: Path) -> None:
    report = check_dataset(folder, progress=False, workers=1)
    assert [(problem.file, problem.message) for problem in report.problems] == []


def volume(path: Path) -> tuple[np.ndarray, np.ndarray]:
    image = nib.load(path)
    return np.asarray(image.dataobj), image.affine


def scan(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    mask = rng.integers(0, 5, SHAPE).astype(np.uint8)
    return rng.integers(0, 900, SHAPE).astype(np.uint16), mask


def write_slices(folder: Path, image: np.ndarray, name: str) -> list[int]:
    """A series as CHAOS publishes it: names against the order of positions, and a UID of its own in each file.

    Returns:
        The number of the slice in each file, in the order of the names.
    """
    series = Series("axial", AFFINE, SHAPE, 7.7)
    write_dicom_series(folder / "written", image, series, "P", {}, f"{folder}")
    numbers = list(range(SHAPE[2]))[::-1]
    for place, number in enumerate(numbers):
        one = pydicom.dcmread(folder / "written" / f"{number + 1:04d}.dcm")
        one.SeriesInstanceUID = generate_uid(entropy_srcs=[str(folder), str(number)])
        one.save_as(folder / name.format(place + 1))
    shutil.rmtree(folder / "written")
    return numbers


def write_masks(folder: Path, mask: np.ndarray, numbers: list[int], name: str) -> None:
    folder.mkdir(parents=True)
    for place, number in enumerate(numbers):
        Image.fromarray(mask[:, :, number].T.copy()).save(folder / name.format(place + 1))


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Patients 1, 2, 5 and 10 of the MR training part, 3 of the test part, and two CT patients."""
    source = tmp_path_factory.mktemp("chaos")
    for patient in (1, 2, 5, 10):
        root = source / "Train_Sets" / "MR" / str(patient)
        image, mask = scan(patient)
        numbers = write_slices(root / "T2SPIR" / "DICOM_anon", image, "IMG-0002-{:05d}.dcm")
        write_masks(root / "T2SPIR" / "Ground", GREY[mask], numbers, "IMG-0002-{:05d}.png")
        for phase, first in (("InPhase", 2), ("OutPhase", 1)):
            image = scan(100 * first + patient)[0]
            numbers = write_slices(root / "T1DUAL" / "DICOM_anon" / phase, image, f"IMG-{first}-" + "{:05d}.dcm")
        write_masks(root / "T1DUAL" / "Ground", GREY[mask] - (mask > 0), numbers, "IMG-2-{:05d}.png")
    write_slices(source / "Test_Sets" / "MR" / "3" / "T2SPIR" / "DICOM_anon", scan(3)[0], "IMG-0003-{:05d}.dcm")
    for patient in (1, 4):
        root = source / "Train_Sets" / "CT" / str(patient)
        image, mask = scan(50 + patient)
        numbers = write_slices(root / "DICOM_anon", image, "i{:04d},0000b.dcm")
        write_masks(root / "Ground", mask == 1, numbers, "liver_GT_{:03d}.png")
    return source


@pytest.fixture
def chaos(published: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may spoil."""
    return Path(shutil.copytree(published, tmp_path / "in"))


def prepare(source: Path, **options: object) -> Datalist:
    options = {"split": "50/0/50", **options}
    return prepare_dataset("chaos", source, source.parent / "out", **options)  # type: ignore[arg-type]


class TestChaos:
    def test_images_and_masks_lie_where_the_slices_do(self, chaos: Path) -> None:
        datalist = prepare(chaos)
        assert (datalist.name, datalist.modality, datalist.license) == ("chaos-t2spir", "MR", "CC BY-SA 4.0")
        assert datalist.organs == {1: "liver", 2: "right kidney", 3: "left kidney", 4: "spleen"}
        sound(datalist.root)
        for patient in (1, 2, 5, 10):
            image, mask = scan(patient)
            for kind, expected in (("images", image), ("labels", mask)):
                voxels, affine = volume(datalist.root / kind / f"{patient}.nii.gz")
                np.testing.assert_array_equal(voxels, expected)
                assert voxels.dtype == expected.dtype
                np.testing.assert_allclose(affine, AFFINE, atol=1e-4)

    def test_patients_and_the_part_without_masks(self, chaos: Path, caplog: pytest.LogCaptureFixture) -> None:
        datalist = prepare(chaos)
        assert "the publisher keeps the masks of Test_Sets back: 1 scans are unlabelled" in caplog.text
        items = {item.subject: item for _, item in datalist}
        assert set(items) == {f"subject:MR{number}" for number in (1, 2, 3, 5, 10)}
        assert [item.name for item in datalist.splits["unlabeled"]] == ["images/3.nii.gz"]
        assert (len(datalist.splits["training"]), len(datalist.splits["test"])) == (2, 2)
        np.testing.assert_array_equal(volume(datalist.root / "images/3.nii.gz")[0], scan(3)[0])
        budget = select_budget(segmentation_datalist(datalist.root), label_budget=1)
        assert (budget.n_labels, len(budget.unlabeled)) == (1, 2)

    def test_it_goes_on_and_leaves_the_source_alone(self, chaos: Path, snapshot) -> None:
        before = snapshot(chaos)
        datalist = prepare(chaos)
        written = snapshot(datalist.root)
        (datalist.root / "datalist.json").unlink()
        (datalist.root / "labels" / "5.nii.gz").unlink()
        prepare(chaos)
        again = snapshot(datalist.root)
        assert {path: digest for path, (_, digest) in again.items()} == {p: d for p, (_, d) in written.items()}
        assert snapshot(chaos) == before

    @pytest.mark.parametrize(("sequence", "first"), [("t1dual-in", 2), ("t1dual-out", 1)])
    def test_the_phases_share_their_masks(self, chaos: Path, sequence: str, first: int) -> None:
        """The masks are named as the slices in phase; those out of phase pair in the order of the names."""
        shutil.rmtree(chaos / "Test_Sets")
        datalist = prepare(chaos, sequence=sequence)
        for patient in (1, 10):
            image, mask = volume(datalist.root / f"images/{patient}.nii.gz")[0], scan(patient)[1]
            np.testing.assert_array_equal(image, scan(100 * first + patient)[0])
            np.testing.assert_array_equal(volume(datalist.root / f"labels/{patient}.nii.gz")[0], mask)
        assert "unlabeled" not in datalist.splits

    def test_ct(self, chaos: Path) -> None:
        datalist = prepare(chaos, sequence="ct")
        assert (datalist.organs, datalist.modality) == ({1: "liver"}, "CT")
        assert {item.subject for _, item in datalist} == {"subject:CT1", "subject:CT4"}
        for patient in (1, 4):
            image, mask = scan(50 + patient)
            np.testing.assert_array_equal(volume(datalist.root / f"images/{patient}.nii.gz")[0], image)
            np.testing.assert_array_equal(volume(datalist.root / f"labels/{patient}.nii.gz")[0], mask == 1)

    def test_the_training_part_alone(self, chaos: Path) -> None:
        datalist = prepare_dataset("chaos", chaos / "Train_Sets", chaos.parent / "out", split="100/0/0")
        assert len(datalist) == 4

    def test_names_with_numbers_of_any_length(self, chaos: Path) -> None:
        """Slices 1 to 12 without leading zeros: by plain text 10 would come before 2."""
        root = chaos / "Train_Sets" / "CT" / "4"
        for suffix, kind in ((".dcm", "DICOM_anon"), (".png", "Ground")):
            for place, path in enumerate(sorted((root / kind).iterdir())):
                path.rename(root / kind / f"{kind}{place * 3}{suffix}")
        datalist = prepare(chaos, sequence="ct")
        np.testing.assert_array_equal(volume(datalist.root / "labels/4.nii.gz")[0], scan(54)[1] == 1)

    def test_all_that_is_wrong_is_told_at_once(self, chaos: Path) -> None:
        train = chaos / "Train_Sets" / "MR"
        (train / "1/T2SPIR/Ground/IMG-0002-00003.png").unlink()
        Image.fromarray(np.full((8, 10), 80, np.uint8)).save(train / "2/T2SPIR/Ground/IMG-0002-00001.png")
        Image.fromarray(np.zeros((10, 8), np.uint8)).save(train / "5/T2SPIR/Ground/IMG-0002-00002.png")
        (train / "10/T2SPIR/DICOM_anon/IMG-0002-00001.dcm").write_bytes(b"no slice")
        (train / "12/T2SPIR/DICOM_anon").mkdir(parents=True)
        (train / "13").mkdir()
        with pytest.raises(DataError) as caught:
            prepare(chaos)
        lines = [line.strip() for line in str(caught.value).splitlines()][1:]
        at = "Train_Sets/MR/{}/T2SPIR/{}"
        assert lines[:6] == [
            f"{at.format(1, 'Ground')}: holds 5 masks for 6 slices",
            f"{at.format(2, 'Ground')}: IMG-0002-00001.png holds grey values that stand for no organ: 80",
            f"{at.format(5, 'Ground')}: IMG-0002-00002.png has 8 x 10 pixels, its slice 10 x 8",
            f"{at.format(10, 'DICOM_anon')}: IMG-0002-00001.dcm: holds no DICOM image (found not a DICOM file)",
            f"{at.format(12, 'DICOM_anon')}: holds no .dcm file",
            f"{at.format(13, 'DICOM_anon')}: does not exist",
        ]
        assert not (chaos.parent / "out").exists()

    def test_sources_that_are_none(self, chaos: Path, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"no folders of MR patients here .*Train_Sets/MR/1/T2SPIR/DICOM_anon"):
            prepare(chaos / "Test_Sets" / "MR")
        with pytest.raises(DataError, match="a folder is needed, but this is a file"):
            prepare(chaos / "Train_Sets/CT/1/Ground/liver_GT_001.png")
        with pytest.raises(ConfigError, match=r"--sequence: expected t2spir or t1dual-in or t1dual-out or ct"):
            prepare(chaos, sequence="t2")
        outside = tmp_path / "outside.png"
        shutil.move(chaos / "Train_Sets/CT/1/Ground/liver_GT_001.png", outside)
        (chaos / "Train_Sets/CT/1/Ground/liver_GT_001.png").symlink_to(outside)
        with pytest.raises(DataError, match=r"CT/1/Ground: is a symbolic link that leads out of the source"):
            prepare(chaos, sequence="ct")

    @pytest.mark.real
    def test_real_ct(self, real_data: Path, tmp_path: Path) -> None:
        """A part of a published series: the mask lies on the liver, on the person's right, and nowhere else."""
        patient = tmp_path / "in" / "Train_Sets" / "CT" / "3"
        shutil.copytree(real_data / "chaos_ct_dicom" / "DICOM", patient / "DICOM_anon")
        shutil.copytree(real_data / "chaos_ct_dicom" / "Ground", patient / "Ground")
        datalist = prepare(tmp_path / "in", sequence="ct", split="100/0/0")
        sound(datalist.root)
        image, affine = volume(datalist.root / "images/3.nii.gz")
        mask, same = volume(datalist.root / "labels/3.nii.gz")
        np.testing.assert_array_equal(affine, same)
        assert (image.shape, image.dtype, mask.dtype) == ((512, 512, 12), np.int16, np.uint8)
        np.testing.assert_allclose(np.linalg.norm(affine[:3, :3], axis=0), [0.7265625, 0.7265625, 2.0])
        inside = image[mask == 1]
        assert 100 < inside.mean() < 180  # Hounsfield units of a liver in the portal phase
        for turned in (mask[::-1], mask[:, ::-1], mask[:, :, ::-1], mask.transpose(1, 0, 2)):
            assert image[turned == 1].std() > 4 * inside.std()
        middle = [(affine @ np.append(np.argwhere(where).mean(0), 1.0))[0] for where in (mask == 1, image > -300)]
        assert middle[0] > middle[1] + 30  # mm


class TestBtcv:
    @pytest.fixture
    def btcv(self, tmp_path: Path) -> Path:
        """Six training scans and two test scans, as the archive unpacks."""
        raw = tmp_path / "in" / "RawData"
        rng = np.random.default_rng(0)
        for number in range(1, 9):
            part = "Training" if number < 7 else "Testing"
            self.save(raw / part / "img" / f"img{number:04d}.nii.gz", rng.integers(-900, 900, SHAPE).astype(np.int16))
            if number < 7:
                values = rng.integers(0, 14 if number % 2 else 8, SHAPE).astype(np.uint8)
                self.save(raw / part / "label" / f"label{number:04d}.nii.gz", values)
        return tmp_path / "in"

    @staticmethod
    def save(path: Path, values: np.ndarray) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(values, AFFINE), path)

    def test_the_published_files_are_carried_over(self, btcv: Path, caplog: pytest.LogCaptureFixture) -> None:
        datalist = prepare_dataset("btcv", btcv, btcv.parent / "out", split="50/0/50")
        sound(datalist.root)
        assert (datalist.name, datalist.modality, datalist.task) == ("btcv", "CT", "segmentation")
        assert list(datalist.organs.values())[:6] == [
            "spleen", "right kidney", "left kidney", "gallbladder", "esophagus", "liver",
        ]  # fmt: skip
        assert datalist.organs == {value: name for value, name in ORGANS.items() if value}
        assert len(datalist.organs) == 13
        assert "the publisher keeps the masks of Testing back: 2 scans are unlabelled" in caplog.text
        assert {item.name for item in datalist.splits["unlabeled"]} == {
            f"RawData/Testing/img/img000{number}.nii.gz" for number in (7, 8)
        }
        for split in ("training", "test"):
            for item in datalist.splits[split]:
                number = item.subject.removeprefix("subject:")
                assert item.name == f"RawData/Training/img/img{number}.nii.gz"
                assert item.label == f"RawData/Training/label/label{number}.nii.gz"
                assert (datalist.root / item.name).read_bytes() == (btcv / item.name).read_bytes()
        some = segmentation_datalist(datalist.root, ["spleen", "right kidney", "left kidney", "liver"])
        assert list(some.organs) == [1, 2, 3, 6]

    def test_below_the_folder_and_linked(self, btcv: Path) -> None:
        datalist = prepare_dataset("btcv", btcv / "RawData", btcv.parent / "out", link=True)
        item = next(iter(datalist))[1]
        assert item.name.startswith("Training/img/")
        assert (datalist.root / item.name).is_symlink()

    def test_all_that_is_wrong_is_told_at_once(self, btcv: Path) -> None:
        training = btcv / "RawData" / "Training"
        (training / "label/label0001.nii.gz").unlink()
        (training / "img/img0002.nii.gz").unlink()
        self.save(training / "label/label0003.nii.gz", np.full(SHAPE, 14, np.uint8))
        self.save(training / "label/label0004.nii.gz", np.ones(SHAPE[::-1], np.uint8))
        self.save(training / "label/label0005.nii.gz", np.full(SHAPE, 0.5, np.float32))
        (training / "img/img0006.nii.gz").write_bytes(b"nothing")
        with pytest.raises(DataError) as caught:
            prepare_dataset("btcv", btcv, btcv.parent / "out")
        lines = [line.strip() for line in str(caught.value).splitlines()][1:]
        at = "RawData/Training"
        assert lines[:5] == [
            f"{at}/img/img0001.nii.gz: there is no mask label0001.nii.gz",
            f"{at}/label/label0002.nii.gz: there is no image img0002.nii.gz",
            f"{at}/label/label0003.nii.gz holds 14, which stands for no organ (0 to 13)",
            f"{at}/label/label0004.nii.gz has shape (6, 8, 10), its image (10, 8, 6)",
            f"{at}/label/label0005.nii.gz is not a mask: it holds values such as 0.5",
        ]
        assert lines[5].startswith("img0006.nii.gz cannot be read (")
        with pytest.raises(DataError, match=r"no training images here .*RawData/Training/img/img0001.nii.gz"):
            prepare_dataset("btcv", btcv / "RawData" / "Testing", btcv.parent / "out")


@pytest.mark.real
def test_prepared_chaos_scans_by_pattern(real_data: Path, tmp_path: Path) -> None:
    """The call that the documentation gives."""
    datalist = prepare_dataset(
        "nifti", real_data / "chaos_t2spir", tmp_path / "out", image="image_{subject}.nii.gz",
        label="label_{subject}.nii.gz", labels="1=liver,2=right kidney,3=left kidney,4=spleen", name="chaos-t2spir",
        modality="MR", license="CC BY-SA 4.0", split="50/0/50", link=True,
    )  # fmt: skip
    sound(datalist.root)
    assert {split: len(items) for split, items in datalist.splits.items()} == {"training": 5, "test": 5}
    for _, item in datalist:
        mask, affine = volume(datalist.root / str(item.label))
        sides = [(affine @ np.append(np.argwhere(mask == value).mean(0), 1.0))[0] for value in datalist.organs]
        assert min(sides[0], sides[1]) > max(sides[2], sides[3])  # RAS: liver and right kidney on the right
