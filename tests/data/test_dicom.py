"""DICOM files and series: order, place, values, choice of series, and what is refused."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, Orientationd, Spacingd
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    MRImageStorage,
    RLELossless,
    generate_uid,
)

from medssl_monai.core import DataError
from medssl_monai.data.readers import find_images, image_header, read_image
from medssl_monai.data.readers.dicom import read_dicom, series_stack

READER = "medssl_monai.data.readers.MedicalImageReader"
SHAPE = (7, 5, 6)
RAS = np.diag([-1.0, -1.0, 1.0])
Edit = Callable[[Dataset, int], None]


def rotation(degrees: tuple[float, float, float]) -> np.ndarray:
    """Rotation matrix written out, axis after axis."""
    a, b, c = np.deg2rad(degrees)
    x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return x @ y @ z


def phantom() -> tuple[np.ndarray, np.ndarray]:
    """An int16 volume of distinct values and its oblique, anisotropic affine in LPS."""
    volume = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE) * 3 - 200
    affine = np.eye(4)
    affine[:3, :3] = rotation((20.0, -15.0, 10.0)) @ np.diag([0.7, 0.9, 3.5])
    affine[:3, 3] = [-31.0, 12.5, 140.25]
    return volume, affine


def new_slice(pixels: np.ndarray, affine: np.ndarray, k: int, series: str, name: str = "axial T2") -> FileDataset:
    """One MR slice; pixels are (x, y) as in the volume, the affine is in LPS."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = MRImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID = MRImageStorage, meta.MediaStorageSOPInstanceUID
    ds.PatientName, ds.PatientID = "Secret^Person", "S3CRET"
    ds.Modality, ds.SeriesInstanceUID, ds.StudyInstanceUID = "MR", series, "1.2.3"
    ds.SeriesNumber, ds.SeriesDescription = 5, name
    ds.InstanceNumber = 1000 - 37 * k % 101  # no order at all
    ds.SliceThickness = 1.0  # not the distance
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    directions = affine[:3, :3] / spacing
    ds.ImageOrientationPatient = [f"{v:.10f}" for v in [*directions[:, 0], *directions[:, 1]]]
    ds.ImagePositionPatient = [f"{v:.8f}" for v in affine[:3, 3] + k * affine[:3, 2]]
    ds.PixelSpacing = [f"{spacing[1]:.8f}", f"{spacing[0]:.8f}"]
    ds.Columns, ds.Rows = pixels.shape[:2]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = pixels.dtype.itemsize * 8
    ds.HighBit, ds.PixelRepresentation = ds.BitsStored - 1, int(pixels.dtype.kind == "i")
    ds.PixelData = np.ascontiguousarray(np.swapaxes(pixels, 0, 1)).tobytes()
    return ds


def write_series(
    folder: Path, volume: np.ndarray | None = None, affine: np.ndarray | None = None, edit: Edit | None = None,
    series: str | None = None, prefix: str = "", name: str = "axial T2", skip: tuple[int, ...] = (),
) -> list[Path]:  # fmt: skip
    """Write a series with shuffled names that have no suffix; returns the paths in slice order."""
    if volume is None or affine is None:
        volume, affine = phantom()
    series = series or generate_uid()
    folder.mkdir(parents=True, exist_ok=True)
    names = np.random.default_rng(3).permutation(volume.shape[2])
    paths = []
    for k in range(volume.shape[2]):
        if k in skip:
            continue
        ds = new_slice(volume[:, :, k], affine, k, series, name)
        if edit:
            edit(ds, k)
        paths.append(folder / f"{prefix}{names[k]:03d}")
        ds.save_as(paths[-1], enforce_file_format=True)
    return paths


def quiet(path: Path) -> tuple[np.ndarray, dict]:
    """Read and fail on any warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return read_image(path)


# --- place and values -------------------------------------------------------------------------------------------------


@pytest.mark.real
@pytest.mark.parametrize(
    "folder",
    [
        "mr_dicom/hanke_t1w",
        "mr_dicom/PGBM-003_T2reg",
        "chaos_ct_dicom/DICOM",
        "totalsegmentator_sample/example_ct_dicom",
    ],
)
def test_real_series_agrees_with_simpleitk(real_data: Path, folder: str) -> None:
    array, meta = quiet(real_data / folder)
    files = list((real_data / folder).iterdir())
    headers = [pydicom.dcmread(file, stop_before_pixels=True) for file in files]
    cosines = np.array(headers[0].ImageOrientationPatient, float)
    heights = [float(np.dot(np.cross(cosines[:3], cosines[3:]), h.ImagePositionPatient)) for h in headers]
    image = sitk.ReadImage([str(files[i]) for i in np.argsort(heights)])
    np.testing.assert_array_equal(array, sitk.GetArrayFromImage(image).transpose(2, 1, 0))
    rng = np.random.default_rng(0)
    for index in rng.integers(0, array.shape, (20, 3)).tolist():
        world = RAS @ image.TransformIndexToPhysicalPoint(index)
        np.testing.assert_allclose((meta["affine"] @ [*index, 1])[:3], world, atol=1e-3)
    header = image_header(real_data / folder)
    assert (header.shape, header.dtype, header.channels) == (array.shape, array.dtype, 1)
    np.testing.assert_allclose(header.spacing, image.GetSpacing(), atol=1e-4)
    np.testing.assert_array_equal(header.affine, meta["affine"])


@pytest.mark.real
def test_real_slices_equal_pydicom_by_hand(real_data: Path) -> None:
    array, _ = read_dicom(real_data / "chaos_ct_dicom/DICOM")
    headers = sorted(
        (pydicom.dcmread(file) for file in (real_data / "chaos_ct_dicom/DICOM").iterdir()),
        key=lambda ds: float(ds.ImagePositionPatient[2]),
    )
    for k, ds in enumerate(headers):
        np.testing.assert_array_equal(array[:, :, k], ds.pixel_array.T.astype(float) - 1000)


@pytest.mark.real
@pytest.mark.filterwarnings("ignore")
def test_real_label_lines_up_with_jpeg2000_series(real_data: Path) -> None:
    root = real_data / "totalsegmentator_sample"
    keys = ["image", "label"]
    load = Compose(
        [LoadImaged(keys, reader=READER), EnsureChannelFirstd(keys), Orientationd(keys, axcodes="RAS", labels=None)]
    )
    item = load({"image": str(root / "example_ct_dicom"), "label": str(root / "example_seg_dicom.nii.gz")})
    torch.testing.assert_close(item["image"].affine, item["label"].affine, atol=1e-3, rtol=0)
    image, label = item["image"].numpy()[0], item["label"].numpy()[0]
    for bone in (69, 70, 98, 99, 100, 101, 102):  # shoulder blades and ribs: bright where the label says, nowhere else
        here = label == bone
        brightness = np.median(image[here])
        assert brightness > 150, bone
        assert all(np.median(np.flip(image, axis)[here]) < 0.6 * brightness for axis in (0, 1)), bone


def test_order_and_affine_come_from_positions(tmp_path: Path) -> None:
    volume, affine = phantom()
    write_series(tmp_path / "series")
    array, meta = quiet(tmp_path / "series")
    np.testing.assert_array_equal(array, volume)
    np.testing.assert_allclose(meta["affine"], np.diag([-1, -1, 1, 1]) @ affine, atol=1e-5)
    assert image_header(tmp_path / "series").spacing == pytest.approx((0.7, 0.9, 3.5), abs=1e-5)
    assert meta["space"] == "RAS"
    assert np.isnan(meta["original_channel_dim"])
    assert tuple(meta["spatial_shape"]) == SHAPE


def test_slices_against_the_normal_are_turned(tmp_path: Path) -> None:
    volume, affine = phantom()
    down = affine.copy()
    down[:3, 2] *= -1
    write_series(tmp_path, volume, down)
    array, meta = quiet(tmp_path)
    np.testing.assert_array_equal(array, volume[:, :, ::-1])
    index = np.array([2, 3, 1, 1.0])
    np.testing.assert_allclose((meta["affine"] @ index)[:3], RAS @ (down @ [2, 3, SHAPE[2] - 1 - 1, 1])[:3], atol=1e-5)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_four_formats_give_one_volume(tmp_path: Path) -> None:
    volume, affine = phantom()
    write_series(tmp_path / "dicom")
    image = sitk.GetImageFromArray(volume.transpose(2, 1, 0))
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    paths = [tmp_path / name for name in ("v.nrrd", "v.mha", "v.mhd")]
    for path in paths:
        sitk.WriteImage(image, str(path))
    nib.save(nib.Nifti1Image(volume, np.diag([-1, -1, 1, 1]) @ affine), tmp_path / "v.nii.gz")
    load = LoadImaged("image", reader=READER)
    ras = Compose([EnsureChannelFirstd("image"), Orientationd("image", axcodes="RAS", labels=None)])
    even = Spacingd("image", pixdim=(1.0, 1.0, 1.3))
    loaded = {
        path.name: load({"image": str(path)})["image"] for path in (*paths, tmp_path / "v.nii.gz", tmp_path / "dicom")
    }
    turned = {name: ras({"image": image})["image"] for name, image in loaded.items()}
    reference = turned["v.nii.gz"]
    for name, result in turned.items():
        for key in ("affine", "original_affine", "spatial_shape", "space", "original_channel_dim"):
            np.testing.assert_allclose(
                *(np.asarray(x.meta[key], float) if key != "space" else 0 for x in (loaded[name], loaded["v.nii.gz"])),
                atol=1e-4, err_msg=f"{name} {key}",
            )  # fmt: skip
        assert loaded[name].meta["space"] == "RAS"
        assert set(loaded[name].meta) == set(loaded["v.nii.gz"].meta), name
        np.testing.assert_array_equal(result.numpy(), reference.numpy(), err_msg=name)
        np.testing.assert_allclose(result.affine, reference.affine, atol=1e-4, err_msg=name)
        np.testing.assert_allclose(
            even({"image": result})["image"], even({"image": reference})["image"], atol=0.05, err_msg=name
        )


def test_gantry_tilt_shears_the_affine_and_is_told(tmp_path: Path) -> None:
    volume, affine = phantom()
    tilted = affine.copy()
    tilted[:3, 2] += 0.5 * affine[:3, 1]

    def keep_orientation(ds: Dataset, k: int) -> None:
        ds.ImagePositionPatient = [f"{v:.8f}" for v in tilted[:3, 3] + k * tilted[:3, 2]]

    write_series(tmp_path, volume, affine, keep_orientation)
    angle = np.degrees(np.arctan(0.5 * 0.9 / 3.5))
    with pytest.warns(UserWarning, match=rf"stacked {angle:.1f} degrees off their normal"):
        array, meta = read_image(tmp_path)
    np.testing.assert_array_equal(array, volume)
    np.testing.assert_allclose(meta["affine"], np.diag([-1, -1, 1, 1]) @ tilted, atol=1e-5)


def test_single_file_is_a_plane_and_folder_of_one_a_volume(tmp_path: Path) -> None:
    volume, affine = phantom()
    path = write_series(tmp_path, volume[:, :, :1], affine)[0]
    plane, meta = quiet(path)
    np.testing.assert_array_equal(plane, volume[:, :, 0])
    np.testing.assert_allclose(
        meta["affine"][:, [0, 1, 3]], (np.diag([-1, -1, 1, 1]) @ affine)[:, [0, 1, 3]], atol=1e-5
    )
    deep, _ = quiet(tmp_path)
    assert deep.shape == (7, 5, 1)
    assert image_header(path).shape == (7, 5)
    assert image_header(path).spacing == pytest.approx((0.7, 0.9))


def test_file_without_orientation_carries_spacing_only(tmp_path: Path) -> None:
    def radiograph(ds: Dataset, _: int) -> None:
        del ds.ImagePositionPatient, ds.ImageOrientationPatient, ds.PixelSpacing
        ds.Modality, ds.ImagerPixelSpacing = "DX", ["0.2", "0.1"]

    volume, affine = phantom()
    path = write_series(tmp_path, volume[:, :, :1], affine, radiograph)[0]
    _, meta = quiet(path)
    np.testing.assert_allclose(meta["affine"], np.diag([0.1, 0.2, 1, 1]))


def test_rescale_is_per_slice(tmp_path: Path) -> None:
    volume, affine = phantom()

    def scale(ds: Dataset, k: int) -> None:
        ds.RescaleSlope, ds.RescaleIntercept = f"{1 + 0.25 * k}", f"{-10 * k}"

    write_series(tmp_path, volume, affine, scale)
    array, _ = quiet(tmp_path)
    expected = np.stack([volume[:, :, k] * (1 + 0.25 * k) - 10 * k for k in range(SHAPE[2])], -1)
    np.testing.assert_allclose(array, expected, rtol=1e-6)
    assert array.dtype == image_header(tmp_path).dtype == np.float32


@pytest.mark.parametrize(
    ("dtype", "bits", "modality", "ends"),
    [("uint16", 12, "DX", 4095), ("int16", 16, "MR", -1), ("uint8", 8, "CR", 255), ("uint16", 12, "CT", None)],
)
def test_monochrome1_is_turned_round_unless_measured(
    tmp_path: Path, dtype: str, bits: int, modality: str, ends: int | None
) -> None:
    volume = np.random.default_rng(1).integers(0, 200, SHAPE).astype(dtype)

    def invert(ds: Dataset, _: int) -> None:
        ds.PhotometricInterpretation, ds.Modality, ds.BitsStored, ds.HighBit = "MONOCHROME1", modality, bits, bits - 1

    write_series(tmp_path, volume, phantom()[1], invert)
    array, _ = quiet(tmp_path)
    np.testing.assert_array_equal(array.astype(int), volume if ends is None else ends - volume.astype(int))
    assert array.dtype == dtype


def test_modality_table_is_applied(tmp_path: Path) -> None:
    def table(ds: Dataset, _: int) -> None:
        item = Dataset()
        item.LUTDescriptor, item.ModalityLUTType = [256, 0, 16], "US"
        item["LUTData"] = pydicom.DataElement("LUTData", "US", [5 * v for v in range(256)])
        ds.ModalityLUTSequence = Sequence([item])

    volume = np.random.default_rng(1).integers(0, 255, SHAPE).astype(np.uint8)
    write_series(tmp_path, volume, phantom()[1], table)
    array, _ = quiet(tmp_path)
    np.testing.assert_array_equal(array, 5.0 * volume)
    assert image_header(tmp_path).dtype == array.dtype


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, RLELossless, DeflatedExplicitVRLittleEndian])
def test_compressed_slices(tmp_path: Path, syntax: str) -> None:
    def compress(ds: Dataset, _: int) -> None:
        if syntax == DeflatedExplicitVRLittleEndian:
            ds.file_meta.TransferSyntaxUID = syntax
        else:
            ds.compress(syntax, generate_instance_uid=False)

    volume = np.random.default_rng(2).integers(0, 4000, (64, 64, 3)).astype(np.uint16)
    write_series(tmp_path, volume, phantom()[1], compress)
    np.testing.assert_array_equal(quiet(tmp_path)[0], volume)


@pytest.mark.parametrize(
    "name", ["MR_small_jpeg_ls_lossless.dcm", "MR_small_jp2klossless.dcm", "MR_small_bigendian.dcm"]
)
def test_other_transfer_syntaxes_equal_the_plain_file(name: str) -> None:
    plain, _ = read_image(get_testdata_file("MR_small.dcm"))
    array, _ = read_image(get_testdata_file(name))
    np.testing.assert_array_equal(array, plain)
    assert array.dtype.isnative
    assert image_header(get_testdata_file(name)).dtype == array.dtype


def test_jpeg_lossless(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 4000, (9, 11)).astype(np.uint16)
    writer = sitk.ImageFileWriter()
    writer.SetFileName(str(tmp_path / "jpeg.dcm"))
    writer.UseCompressionOn()
    writer.SetCompressor("JPEG")
    writer.Execute(sitk.GetImageFromArray(pixels[None]))
    assert "JPEG Lossless" in pydicom.dcmread(tmp_path / "jpeg.dcm").file_meta.TransferSyntaxUID.name
    np.testing.assert_array_equal(read_image(tmp_path / "jpeg.dcm")[0], pixels.T)


@pytest.mark.parametrize(
    ("name", "tolerance"), [("SC_rgb_small_odd.dcm", 0), ("SC_rgb_dcmtk_+eb+cy+np.dcm", 2), ("examples_palette.dcm", 0)]
)
def test_colour_is_rgb_channels_last(name: str, tolerance: int) -> None:
    path = Path(str(get_testdata_file(name)))
    array, meta = read_image(path)
    reference = np.swapaxes(sitk.GetArrayFromImage(sitk.ReadImage(str(path)))[0], 0, 1)
    assert array.shape == reference.shape
    assert np.abs(array.astype(int) - reference).max() <= tolerance
    assert meta["original_channel_dim"] == -1
    header = image_header(path)
    assert (header.shape, header.channels, header.dtype) == (array.shape[:2], 3, array.dtype)


def test_unused_high_bits_are_cleared(tmp_path: Path) -> None:
    volume = np.random.default_rng(0).integers(0, 4096, SHAPE).astype(np.uint16)

    def overlay(ds: Dataset, k: int) -> None:
        ds.BitsStored, ds.HighBit = 12, 11
        ds.PixelData = (volume[:, :, k].T | 0x3000).astype(np.uint16).tobytes()

    write_series(tmp_path, volume, phantom()[1], overlay)
    np.testing.assert_array_equal(quiet(tmp_path)[0], volume)


def test_file_without_preamble(tmp_path: Path) -> None:
    volume, affine = phantom()
    ds = new_slice(volume[:, :, 0], affine, 0, generate_uid())
    with open(tmp_path / "old.dcm", "wb") as stream:
        pydicom.filewriter.write_dataset(pydicom.filebase.DicomFileLike(stream), _little_implicit(ds))
    np.testing.assert_array_equal(read_image(tmp_path / "old.dcm")[0], volume[:, :, 0])


def _little_implicit(ds: FileDataset) -> Dataset:
    plain = Dataset()
    plain.update({element.tag: element for element in ds})
    plain._read_implicit, plain._read_little = True, True
    return plain


# --- enhanced multi-frame ---------------------------------------------------------------------------------------------


def enhanced(order: np.ndarray) -> tuple[FileDataset, np.ndarray, np.ndarray]:
    volume, affine = phantom()
    ds = new_slice(volume[:, :, 0], affine, 0, generate_uid())
    orientation, spacing = ds.ImageOrientationPatient, ds.PixelSpacing
    del ds.ImagePositionPatient, ds.ImageOrientationPatient, ds.PixelSpacing, ds.SliceThickness
    shared = Dataset()
    shared.PlaneOrientationSequence = [Dataset()]
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = orientation
    shared.PixelMeasuresSequence = [Dataset()]
    shared.PixelMeasuresSequence[0].PixelSpacing = spacing
    frames = []
    for k in order:
        frame = Dataset()
        frame.PlanePositionSequence = [Dataset()]
        frame.PlanePositionSequence[0].ImagePositionPatient = [f"{v:.8f}" for v in affine[:3, 3] + k * affine[:3, 2]]
        frame.PixelValueTransformationSequence = [Dataset()]
        frame.PixelValueTransformationSequence[0].RescaleSlope = str(1 + int(k))
        frame.PixelValueTransformationSequence[0].RescaleIntercept = "7"
        frames.append(frame)
    ds.SharedFunctionalGroupsSequence, ds.PerFrameFunctionalGroupsSequence = [shared], frames
    ds.NumberOfFrames = len(order)
    ds.PixelData = np.ascontiguousarray(volume[:, :, order].transpose(2, 1, 0)).tobytes()
    return ds, volume, affine


def test_enhanced_file_is_a_volume(tmp_path: Path) -> None:
    ds, volume, affine = enhanced(np.array([3, 0, 5, 1, 4, 2]))
    ds.save_as(tmp_path / "enhanced.dcm", enforce_file_format=True)
    array, meta = quiet(tmp_path / "enhanced.dcm")
    np.testing.assert_array_equal(array, volume * (1 + np.arange(6)) + 7)
    np.testing.assert_allclose(meta["affine"], np.diag([-1, -1, 1, 1]) @ affine, atol=1e-5)
    header = image_header(tmp_path / "enhanced.dcm")
    assert (header.shape, header.dtype) == (SHAPE, array.dtype)
    np.testing.assert_array_equal(quiet(tmp_path)[0], array)
    assert find_images(tmp_path) == [tmp_path / "enhanced.dcm"]


def test_cine_and_segmentation_objects_are_refused(tmp_path: Path) -> None:
    ds, _, _ = enhanced(np.arange(6))
    del ds.PerFrameFunctionalGroupsSequence
    ds.save_as(tmp_path / "cine.dcm", enforce_file_format=True)
    with pytest.raises(DataError, match=r"cine.dcm: is a multi-frame DICOM without a place.*found 6 frames.*NIfTI"):
        read_image(tmp_path / "cine.dcm")
    ds.Modality = "SEG"
    ds.save_as(tmp_path / "seg.dcm", enforce_file_format=True)
    with pytest.raises(DataError, match=r"seg.dcm: is a DICOM segmentation object.*NIfTI label map"):
        read_image(tmp_path / "seg.dcm")


# --- which series, which files ----------------------------------------------------------------------------------------


def test_largest_series_is_read_and_others_named_without_patient(tmp_path: Path) -> None:
    volume, affine = phantom()
    write_series(tmp_path / "a" / "b")
    write_series(tmp_path, volume[:, :, :2], affine, series="1.2.3.99988877", prefix="scout", name="three planes")
    with pytest.warns(UserWarning, match="2 DICOM series; the largest is read") as caught:
        array, _ = read_image(tmp_path)
    np.testing.assert_array_equal(array, volume)
    text = " ".join(str(w.message) for w in caught)
    assert "axial T2 (series 5, UID ..." in text
    assert "Left out: three planes (series 5, UID ...99988877, 2 slices)" in text
    assert "Secret" not in text
    assert "S3CRET" not in text


def test_other_files_are_named_and_dicomdir_and_hidden_files_are_not(tmp_path: Path) -> None:
    write_series(tmp_path)
    shutil.copy(next(tmp_path.iterdir()), tmp_path / "DICOMDIR")
    (tmp_path / ".DS_Store").write_bytes(b"x")
    quiet(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "empty").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"2 files are not DICOM and left out: empty, notes.txt\.$"):
        read_image(tmp_path)


def test_objects_without_pixels_are_named(tmp_path: Path) -> None:
    volume, affine = phantom()
    write_series(tmp_path)
    report = new_slice(volume[:, :, 0], affine, 0, generate_uid())
    for keyword in ("PixelData", "Rows", "Columns", "BitsAllocated"):
        delattr(report, keyword)
    report.Modality = "SR"
    report.save_as(tmp_path / "report", enforce_file_format=True)
    with pytest.warns(UserWarning, match=r"1 DICOM files are left out: report: no pixels \(modality SR\)"):
        read_image(tmp_path)
    with pytest.raises(DataError, match=r"report: holds no DICOM image \(found no pixels"):
        read_image(tmp_path / "report")


def test_folder_without_dicom(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(
        DataError, match=r"no DICOM image in this folder \(found 1 other files, 0 DICOM.*Name the image"
    ):
        read_image(tmp_path)
    with pytest.raises(DataError, match=r"no DICOM image in this folder"):
        image_header(tmp_path)


def test_missing_slices_are_located(tmp_path: Path) -> None:
    _, affine = phantom()
    write_series(tmp_path, skip=(3, 4))
    height = float(np.cross(*(affine[:3, :2] / [0.7, 0.9]).T) @ (affine[:3, 3] + 2 * affine[:3, 2]))
    pattern = rf"usually 3.500 mm: 10.500 mm between slices 2 and 3 \(at {height:.2f} and .*about 2 missing\).*5.833 mm"
    with pytest.warns(UserWarning, match=pattern):
        array, meta = read_image(tmp_path)
    assert array.shape == (7, 5, 4)
    np.testing.assert_allclose((meta["affine"] @ [0, 0, 3, 1])[:3], RAS @ (affine @ [0, 0, 5, 1])[:3], atol=1e-5)


@pytest.mark.parametrize(("shift", "told"), [(0.03, False), (0.04, True)])
def test_spacing_tolerance_is_one_percent(tmp_path: Path, shift: float, told: bool) -> None:
    _, affine = phantom()
    normal = affine[:3, 2] / 3.5

    def move_last(ds: Dataset, k: int) -> None:
        if k == SHAPE[2] - 1:
            ds.ImagePositionPatient = [f"{v:.8f}" for v in affine[:3, 3] + (k * 3.5 + shift) * normal]

    write_series(tmp_path, edit=move_last)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read_image(tmp_path)
    assert bool(caught) == told


def test_slice_beside_the_line_is_told(tmp_path: Path) -> None:
    _, affine = phantom()

    def move(ds: Dataset, k: int) -> None:
        if k == 2:
            ds.ImagePositionPatient = [f"{v:.8f}" for v in (affine @ [2.0, 0, k, 1])[:3]]

    write_series(tmp_path, edit=move)
    with pytest.warns(UserWarning, match=r"slice 2 lies 1\.400 mm beside the line of the others"):
        read_image(tmp_path)


def test_several_volumes_in_one_series_are_refused(tmp_path: Path) -> None:
    series = generate_uid()
    for echo in (10, 80):
        write_series(tmp_path, series=series, prefix=f"e{echo}", edit=lambda ds, k, e=echo: setattr(ds, "EchoTime", e))
    pattern = r"several slices lie at one position \(found 12 slices at 6 positions, 2 echo times \(EchoTime\)"
    with pytest.raises(DataError, match=pattern):
        read_image(tmp_path)


def test_copied_files_are_left_out(tmp_path: Path) -> None:
    paths = write_series(tmp_path)
    shutil.copy(paths[2], tmp_path / "copy of it")
    with pytest.warns(UserWarning, match=r"1 of 7 files are copies of others \(same SOPInstanceUID"):
        array, _ = read_image(tmp_path)
    np.testing.assert_array_equal(array, phantom()[0])


def test_one_instance_uid_in_all_files_does_not_make_copies(tmp_path: Path) -> None:
    write_series(tmp_path, edit=lambda ds, k: setattr(ds, "SOPInstanceUID", "1.2.3.4"))
    np.testing.assert_array_equal(quiet(tmp_path)[0], phantom()[0])


def test_mixed_sizes_are_refused(tmp_path: Path) -> None:
    def smaller(ds: Dataset, k: int) -> None:
        if k == 1:
            ds.Rows = 4
            ds.PixelData = ds.PixelData[: 4 * 7 * 2]

    write_series(tmp_path, edit=smaller)
    pattern = r"differ in columns x rows x channels \(found 5 slices with \(7, 5, 1\); 1 slices with \(7, 4, 1\)"
    with pytest.raises(DataError, match=pattern):
        read_image(tmp_path)
    with pytest.raises(DataError, match=pattern):
        image_header(tmp_path)


def test_mixed_pixel_spacing_is_refused(tmp_path: Path) -> None:
    write_series(tmp_path, edit=lambda ds, k: setattr(ds, "PixelSpacing", [1, 1 + (k == 0)]))
    with pytest.raises(DataError, match=r"differ in pixel spacing \(found 5 slices with \(1.0, 1.0\); 1 slices"):
        read_image(tmp_path)


def _turn(*which: int) -> Edit:
    def edit(ds: Dataset, k: int) -> None:
        if k in which:
            values = list(ds.ImageOrientationPatient)
            ds.ImageOrientationPatient = [*values[3:], *[-v for v in values[:3]]]

    return edit


def test_scouts_of_another_orientation_are_left_out(tmp_path: Path) -> None:
    write_series(tmp_path, edit=_turn(0))
    with pytest.warns(UserWarning, match=r"1 of 6 slices have another orientation .*by orientation: 5, 1\)"):
        array, _ = read_image(tmp_path)
    np.testing.assert_array_equal(array, phantom()[0][:, :, 1:])


def test_no_orientation_in_the_majority_is_refused(tmp_path: Path) -> None:
    write_series(tmp_path, edit=_turn(0, 2, 4))
    with pytest.raises(DataError, match=r"several orientations.*found 2 orientations with 3, 3 slices.*localizer"):
        read_image(tmp_path)


def test_localizers_are_left_out(tmp_path: Path) -> None:
    def localizer(ds: Dataset, k: int) -> None:
        ds.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER" if k == 0 else "M"]

    write_series(tmp_path, edit=localizer)
    with pytest.warns(UserWarning, match="1 localizer images within the series are left out"):
        assert read_image(tmp_path)[0].shape == (7, 5, 5)


def test_slices_without_position_are_refused(tmp_path: Path) -> None:
    def forget(ds: Dataset, k: int) -> None:
        if k < 2:
            del ds.ImagePositionPatient

    write_series(tmp_path, edit=forget)
    with pytest.raises(DataError, match=r"without ImagePositionPatient.*cannot be put in order \(found 2 of 6 slices"):
        read_image(tmp_path)


@pytest.mark.parametrize(
    ("keyword", "value", "message"),
    [
        ("ImagePositionPatient", [1, 2], "ImagePositionPatient is not 3 finite numbers"),
        ("ImageOrientationPatient", [1, 0, 0, 1, 0, 0], "not two perpendicular unit vectors"),
        ("PixelSpacing", [0, 1], "PixelSpacing must be positive"),
        ("PixelSpacing", 1.5, "PixelSpacing is not 2 finite numbers"),
    ],
)
def test_impossible_geometry_is_refused(tmp_path: Path, keyword: str, value: list[float] | float, message: str) -> None:
    path = write_series(tmp_path, edit=lambda ds, k: setattr(ds, keyword, value))[0]
    with pytest.raises(DataError, match=message):
        read_image(path)


# --- damage -----------------------------------------------------------------------------------------------------------


def test_cut_pixels_are_refused_with_the_file_name(tmp_path: Path) -> None:
    path = write_series(tmp_path)[4]
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(
        DataError, match=rf"{path.name}: the pixels cannot be decoded \(Explicit VR Little Endian\).*cut short"
    ):
        read_image(tmp_path)


def test_cut_header_is_named(tmp_path: Path) -> None:
    path = write_series(tmp_path)[5]
    path.write_bytes(path.read_bytes()[:420])
    with pytest.warns(UserWarning, match=rf"1 DICOM files are left out: {path.name}: "):
        assert read_image(tmp_path)[0].shape == (7, 5, 5)
    with pytest.raises(DataError, match=rf"{path.name}: (holds no DICOM image|cannot be read as DICOM)"):
        read_image(path)


def test_cut_jpeg2000_is_refused(tmp_path: Path) -> None:
    def cut(ds: Dataset, _: int) -> None:
        ds.compress(JPEG2000Lossless, generate_instance_uid=False)
        ds.PixelData = pydicom.encaps.encapsulate(
            [next(pydicom.encaps.generate_frames(ds.PixelData, number_of_frames=1))[:60]]
        )

    volume = np.random.default_rng(2).integers(0, 4000, (64, 64, 1)).astype(np.uint16)
    path = write_series(tmp_path, volume, phantom()[1], cut)[0]
    with pytest.raises(DataError, match=r"the pixels cannot be decoded \(JPEG 2000"):
        read_image(path)


def test_monai_does_not_fall_back_to_a_laxer_reader(tmp_path: Path) -> None:
    write_series(tmp_path, edit=_turn(0, 2, 4))
    with pytest.raises(DataError, match="several orientations"):
        LoadImaged("image", reader=READER)({"image": str(tmp_path)})


def test_computed_tomography_keeps_whole_numbers(tmp_path: Path) -> None:
    def ct(ds: Dataset, _: int) -> None:
        ds.SOPClassUID, ds.Modality, ds.RescaleSlope, ds.RescaleIntercept = CTImageStorage, "CT", 1, -1024

    write_series(tmp_path, edit=ct)
    np.testing.assert_array_equal(quiet(tmp_path)[0], phantom()[0].astype(np.float32) - 1024)


# --- finding ----------------------------------------------------------------------------------------------------------


def test_find_images_counts_a_series_once(tmp_path: Path) -> None:
    volume, affine = phantom()
    write_series(tmp_path / "patient 1" / "t2")
    write_series(tmp_path / "patient 1" / "t1")
    series = generate_uid()  # one series over two folders
    for half in ("000", "001"):
        part = volume[:, :, :3] if half == "000" else volume[:, :, 3:]
        write_series(tmp_path / "patient 2" / half, part, affine, series=series)
    for number in range(3):  # radiographs: each its own series
        write_series(tmp_path / "chest", volume[:, :, :1], affine, prefix=f"r{number}_")
    np.save(tmp_path / "array.npy", volume)
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / ".hidden").mkdir()
    np.save(tmp_path / ".hidden" / "array.npy", volume)
    found = [path.relative_to(tmp_path).as_posix() for path in find_images(tmp_path)]
    radiographs = sorted(path.relative_to(tmp_path).as_posix() for path in (tmp_path / "chest").iterdir())
    assert found == ["array.npy", *radiographs, "patient 1/t1", "patient 1/t2", "patient 2"]


def test_find_images_tells_of_series_that_share_a_folder(tmp_path: Path) -> None:
    volume, affine = phantom()
    write_series(tmp_path / "p")
    write_series(tmp_path / "p", volume[:, :, :1], affine, prefix="scout", name="scout")
    with pytest.warns(UserWarning, match=r"p: 2 DICOM series in one folder, the largest will be read: .*scout"):
        assert find_images(tmp_path) == [tmp_path / "p"]


def test_stack_says_its_shape_without_pixels(tmp_path: Path) -> None:
    write_series(tmp_path)
    stack = series_stack(tmp_path)
    assert (stack.shape, stack.channels, stack.dtype) == (SHAPE, 1, np.int16)
