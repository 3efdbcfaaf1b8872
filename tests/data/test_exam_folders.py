"""Folders of DICOM exams as archives write them: series in one folder, copies, localizers, exams that lack a plane."""

from __future__ import annotations

import logging
import re
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from monai.transforms import LoadImaged

from medssl_monai.core import DataError, hash_case
from medssl_monai.data import inference_records
from medssl_monai.data.phantoms.knee.dicom import write_dicom_series
from medssl_monai.data.phantoms.knee.image import Series
from medssl_monai.data.readers import image_header, is_image_path, list_series, read_image

PLANES = ("sagittal", "coronal", "axial")
READER = "medssl_monai.data.readers.MedicalImageReader"
AXES = {
    "sagittal": [[0, 0, -4.0], [0.5, 0, 0], [0, -0.5, 0]],
    "coronal": [[0.5, 0, 0], [0, 0, 4.0], [0, -0.5, 0]],
    "axial": [[-0.5, 0, 0], [0, -0.5, 0], [0, 0, 4.0]],
}


def voxels(exam: str, plane: str) -> np.ndarray:
    """Another volume for every exam and plane; the coronal one has most slices."""
    rng = np.random.default_rng([ord(letter) for letter in exam + plane])
    return rng.integers(0, 4000, (6, 5, 3 + len(plane) % 6)).astype(np.uint16)


def write(folder: Path, exam: str, plane: str) -> Path:
    """A series with DICOM's names, for it to lie where a test wants it."""
    values, affine = voxels(exam, plane), np.eye(4)
    affine[:3, :3] = AXES[plane]
    affine[:3, 3] = [3.0, -7.0, 11.0]
    write_dicom_series(folder, values, Series(plane, affine, values.shape, 4.0), exam, {}, "test")  # type: ignore[arg-type]
    return folder


def flat(folder: Path, exam: str, planes: tuple[str, ...] = PLANES) -> None:
    """All series of an exam in one folder, their files told apart by a prefix."""
    folder.mkdir(parents=True, exist_ok=True)
    for plane in planes:
        made = write(folder / "part", exam, plane)
        for path in sorted(made.iterdir()):
            path.rename(folder / f"{plane[:2]}{path.name}")
        made.rmdir()


def proper(folder: Path, exam: str, planes: tuple[str, ...] = PLANES) -> None:
    for number, plane in enumerate(planes):
        write(folder / f"SER{number}", exam, plane)


def change(folder: Path, **elements: object) -> None:
    for path in folder.iterdir():
        one = pydicom.dcmread(path)
        for keyword, value in elements.items():
            setattr(one, keyword, value)
        one.save_as(path)


def found(root: Path, plane: str) -> dict[str, np.ndarray]:
    """Exams by name with the voxels that inference reads."""
    load = LoadImaged("image", reader=READER, image_only=True)
    return {record["name"]: load(record)["image"].numpy() for record in inference_records(root, plane=plane)}


def expect(root: Path, plane: str, **exams: str) -> None:
    """Names of exams as they should be found, each with whose voxels it should have."""
    result = found(root, plane)
    assert set(result) == set(exams)
    for name, exam in exams.items():
        np.testing.assert_array_equal(result[name], voxels(exam, plane))


@pytest.mark.parametrize("plane", PLANES)
class TestSeriesInOneFolder:
    def test_beside_an_exam_of_a_folder_a_series(self, tmp_path: Path, plane: str) -> None:
        proper(tmp_path / "E0", "a")
        flat(tmp_path / "E1", "b")
        expect(tmp_path, plane, E0="a", E1="b")

    def test_two_such_exams(self, tmp_path: Path, plane: str) -> None:
        flat(tmp_path / "E0", "a")
        flat(tmp_path / "E1", "b")
        expect(tmp_path, plane, E0="a", E1="b")
        expect(tmp_path / "E1", plane, E1="b")

    def test_an_exam_of_one_series_beside_it(self, tmp_path: Path, plane: str) -> None:
        flat(tmp_path / "E0", "a")
        write(tmp_path / "E1", "b", plane)
        expect(tmp_path, plane, E0="a", E1="b")

    def test_the_rest_of_the_study_belongs_to_the_exam(self, tmp_path: Path, plane: str) -> None:
        flat(tmp_path / "E0/first", "a", ("sagittal", "axial"))
        write(tmp_path / "E0/second", "a", "coronal")
        proper(tmp_path / "E1", "b")
        expect(tmp_path, plane, E0="a", E1="b")

    def test_deeper_folders(self, tmp_path: Path, plane: str) -> None:
        flat(tmp_path / "site/E0/DICOM", "a")
        expect(tmp_path, plane, **{"site/E0/DICOM": "a"})


class TestTheAddressOfASeries:
    def test_is_read_as_the_series_in_a_folder_of_its_own(self, tmp_path: Path) -> None:
        flat(tmp_path / "mixed", "a")
        images, _ = list_series(tmp_path / "mixed")
        assert len(images) == len({image.path for image in images}) == 3
        for image in images:
            plane = str(image.slices[0].header.SeriesDescription).split()[0]
            alone = write(tmp_path / plane, "a", plane)
            (values, meta), (expected, place) = read_image(image.path), read_image(alone)
            np.testing.assert_array_equal(values, expected)
            np.testing.assert_array_equal(meta["affine"], place["affine"])
            header, other = image_header(image.path), image_header(alone)
            assert (header.shape, header.dtype, header.spacing) == (other.shape, other.dtype, other.spacing)
            assert image.header().shape == other.shape
            assert is_image_path(image.path)

    def test_of_no_series(self, tmp_path: Path) -> None:
        flat(tmp_path / "E0", "a")
        with pytest.raises(DataError, match=r"E0: no such DICOM series in this folder \(found 3 others, .* 1\.2\.3\)"):
            read_image(tmp_path / "E0/SeriesInstanceUID=1.2.3")
        assert not is_image_path(tmp_path / "gone/SeriesInstanceUID=1.2.3")


class TestCopies:
    def test_in_the_exam_are_read_once(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        proper(tmp_path / "E0", "a")
        proper(tmp_path / "E1", "b")
        shutil.copytree(tmp_path / "E0/SER0", tmp_path / "E0/SER9")
        with caplog.at_level(logging.WARNING):
            expect(tmp_path, "sagittal", E0="a", E1="b")
        assert told(caplog) == [f"1 DICOM series lie twice in their exam and are read once: exams {hash_case('E0')}"]

    def test_of_some_slices_are_left_out(self, tmp_path: Path) -> None:
        proper(tmp_path / "E0", "a")
        shutil.copytree(tmp_path / "E0/SER0", tmp_path / "E0/OLD")
        (tmp_path / "E0/OLD/0002.dcm").unlink()
        with pytest.warns(UserWarning, match=r"E0/OLD: copies of some slices in .*E0/SER0, left out"):
            expect(tmp_path, "sagittal", E0="a")

    def test_halves_of_a_series_are_no_copies(self, tmp_path: Path) -> None:
        write(tmp_path / "E0/sag/1", "a", "sagittal")
        (tmp_path / "E0/sag/2").mkdir()
        (tmp_path / "E0/sag/1/0002.dcm").rename(tmp_path / "E0/sag/2/0002.dcm")
        expect(tmp_path, "sagittal", E0="a")

    @pytest.mark.parametrize("layout", [proper, flat])
    def test_in_another_exam_are_refused(self, tmp_path: Path, layout: object) -> None:
        layout(tmp_path / "E0", "a")  # type: ignore[operator]
        shutil.copytree(tmp_path / "E0", tmp_path / "E1")
        message = "exams 'E0' and 'E1' hold the same DICOM series .*Take the copy out of the exam"
        with pytest.raises(DataError, match=message):
            inference_records(tmp_path, plane="axial")

    def test_two_series_of_a_plane_in_one_folder_are_named(self, tmp_path: Path) -> None:
        flat(tmp_path / "E0", "a")
        change(write(tmp_path / "new", "a", "axial"), SeriesInstanceUID="2.25.1", SeriesDescription="again")
        for path in (tmp_path / "new").iterdir():
            path.rename(tmp_path / "E0" / f"again{path.name}")
        message = r"E0, again \(series .*slices\): exam 'E0' has two axial images \(found .*E0, axial PD FS .*as well\)"
        with pytest.raises(DataError, match=message):
            inference_records(tmp_path, plane="axial")
        assert set(found(tmp_path, "coronal")) == {"E0"}


def test_localizers_and_scouts_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    flat(tmp_path / "E0", "a")
    localizer = write(tmp_path / "E0/scout", "c", "sagittal")
    change(localizer, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    single = write(tmp_path / "one", "d", "axial") / "0001.dcm"
    single.rename(tmp_path / "E0/z.dcm")
    shutil.rmtree(tmp_path / "one")
    with caplog.at_level(logging.WARNING):
        expect(tmp_path, "sagittal", E0="a")
    assert "not looked at among the exams: 1 single image beside a series, 1 series of localizers" in caplog.text


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "medssl_monai.data.exams"]


class TestExamsThatLackThePlane:
    def test_are_counted(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        proper(tmp_path / "E0", "a")
        flat(tmp_path / "E1", "b", ("sagittal", "axial"))
        with caplog.at_level(logging.WARNING):
            expect(tmp_path, "axial", E0="a", E1="b")
            assert not told(caplog)
            expect(tmp_path, "coronal", E0="a")
        (message,) = told(caplog)
        assert message == (
            f"1 of 2 exams have no coronal image and get no prediction: exams {hash_case('E1')}. By name they are "
            "those of the folder that inference.csv lacks."
        )

    def test_are_named_where_none_has_it(self, tmp_path: Path) -> None:
        proper(tmp_path / "E0", "a", ("sagittal",))
        proper(tmp_path / "E1", "b", ("sagittal", "axial"))
        message = (
            "no image to predict here: no exam of 2 shows the coronal plane (E0, E1) (found sagittal of 2, axial of "
            "1). Name another plane"
        )
        with pytest.raises(DataError, match=re.escape(message)):
            inference_records(tmp_path, plane="coronal")

    def test_an_exam_of_nothing_but_localizers(self, tmp_path: Path) -> None:
        change(write(tmp_path / "E0/1", "a", "axial"), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
        with pytest.raises(DataError, match=r"no exam of 1 shows the axial plane \(E0\) \(found localizers only\)"):
            inference_records(tmp_path, plane="axial")


def test_a_folder_without_images(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError, match=r"no image in this folder \(expected files with"):
        inference_records(tmp_path, plane="axial")
