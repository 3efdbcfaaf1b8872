"""Every format but DICOM: arrays, metadata, headers, damage; finding images; MONAI's LoadImaged."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import tifffile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from monai.data import NibabelReader, PILReader
from monai.data.utils import list_data_collate
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged
from PIL import Image, ImageFile, ImageOps

from medssl_monai.core import DataError
from medssl_monai.data.readers import MedicalImageReader, find_images, image_header, is_image_path, read_image
from medssl_monai.data.readers.common import IMAGE_SUFFIXES, suffix_of
from medssl_monai.data.readers.partners import data_files

READER = "medssl_monai.data.readers.MedicalImageReader"
RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (6, 9), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (6, 9, 3), dtype=np.uint16)
VOLUME = RNG.integers(-900, 900, (4, 5, 6), dtype=np.int16)
AFFINE = np.array([[0.0, -0.8, 0.3, 4.0], [1.1, 0.0, 0.0, -7.0], [0.0, 0.2, 2.5, 9.0], [0, 0, 0, 1.0]])
SMOOTH = np.add.outer(np.arange(120), np.arange(170))[..., None] * np.ones(3, int) % 256


def quiet(path: Path) -> tuple[np.ndarray, dict]:
    """Read and fail on any warning; the header must say what came."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        array, meta = read_image(path)
        header = image_header(path)
    has_channels = not np.isnan(meta["original_channel_dim"])
    assert header.shape == tuple(meta["spatial_shape"]) == array.shape[: len(header.shape)]
    assert header.channels == (array.shape[-1] if has_channels else 1)
    assert header.dtype == array.dtype
    assert array.dtype.isnative
    if header.affine is not None:
        np.testing.assert_allclose(header.affine, meta["affine"], atol=1e-6)
        lengths = np.sqrt((header.affine[:3, : len(header.shape)] ** 2).sum(0))
        np.testing.assert_allclose(header.spacing, lengths, rtol=1e-5)
    return array, meta


# --- NIfTI ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".NII.GZ", ""])
@pytest.mark.parametrize("image_class", [nib.Nifti1Image, nib.Nifti2Image])
def test_nifti_as_monai_reads_it(tmp_path: Path, suffix: str, image_class: type) -> None:
    content = image_class(VOLUME, AFFINE).to_bytes()
    path = tmp_path / f"image{suffix}"
    path.write_bytes(gzip.compress(content) if suffix.lower().endswith("gz") else content)
    array, meta = quiet(path)
    np.testing.assert_array_equal(array, VOLUME)
    np.testing.assert_allclose(meta["affine"], AFFINE, atol=1e-6)
    assert meta["space"] == "RAS"
    assert np.isnan(meta["original_channel_dim"])


def test_nifti_scaling_big_endian_and_channels_equal_monais_reader(tmp_path: Path) -> None:
    channels = RNG.normal(size=(4, 5, 6, 3)).astype(np.float32)
    scaled = nib.Nifti1Image(VOLUME, AFFINE)
    scaled.header.set_slope_inter(0.5, 10)
    images = {
        "channels": nib.Nifti1Image(channels, AFFINE),
        "one_channel": nib.Nifti1Image(VOLUME[..., None], AFFINE),
        "scaled": scaled,
        "big_endian": nib.Nifti1Image(VOLUME, AFFINE, nib.Nifti1Header(endianness=">")),
        "flat": nib.Nifti1Image(VOLUME[:, :, 0], AFFINE),
    }
    for name, image in images.items():
        path = tmp_path / f"{name}.nii.gz"
        nib.save(image, path)
        array, meta = quiet(path)
        reader = NibabelReader()
        expected, expected_meta = reader.get_data(reader.read(path))
        np.testing.assert_array_equal(array, expected, err_msg=name)
        for key in ("affine", "original_affine", "spatial_shape", "original_channel_dim"):
            np.testing.assert_array_equal(meta[key], expected_meta[key], err_msg=f"{name} {key}")
    assert quiet(tmp_path / "scaled.nii.gz")[0].max() == (VOLUME * 0.5 + 10).max()


def test_nifti_sform_that_contradicts_the_voxel_size_gives_way_to_the_qform(tmp_path: Path) -> None:
    image = nib.Nifti1Image(VOLUME, np.diag([2.0, 2.0, 3.0, 1.0]))
    image.set_qform(np.diag([2.0, 2.0, 3.0, 1.0]), code=1)
    image.header["srow_x"] = [9.0, 0, 0, 0]
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(image.to_bytes()))
    meta = quiet(tmp_path / "a.nii.gz")[1]
    expected = NibabelReader().read(tmp_path / "a.nii.gz").affine
    np.testing.assert_array_equal(meta["affine"], expected)
    assert meta["affine"][0, 0] == 2


def test_nifti_vector_axis_and_rgb_voxels(tmp_path: Path) -> None:
    vector = RNG.normal(size=(4, 5, 6, 1, 2)).astype(np.float32)
    nib.save(nib.Nifti1Image(vector, AFFINE), tmp_path / "vector.nii.gz")
    with pytest.raises(AssertionError):  # what a plain reading gives is not what is wanted
        np.testing.assert_array_equal(NibabelReader().read(tmp_path / "vector.nii.gz").shape, (4, 5, 6, 2))
    array, meta = quiet(tmp_path / "vector.nii.gz")
    np.testing.assert_array_equal(array, vector[:, :, :, 0])
    colours = np.zeros((4, 5, 6), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    colours["G"], colours["B"] = 7, 9
    nib.save(nib.Nifti1Image(colours, AFFINE), tmp_path / "rgb.nii")
    array, meta = quiet(tmp_path / "rgb.nii")
    assert array.shape == (4, 5, 6, 3)
    assert (array == [0, 7, 9]).all()
    assert meta["original_channel_dim"] == -1


def test_nifti_extension_longer_than_the_header(tmp_path: Path) -> None:
    image = nib.Nifti1Image(VOLUME, AFFINE)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"x" * 200_000))
    nib.save(image, tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(quiet(tmp_path / "a.nii.gz")[0], VOLUME)


@pytest.mark.parametrize("keep", [0.5, 0.99, 10, 353, -4])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_cut_nifti_is_refused(tmp_path: Path, suffix: str, keep: float) -> None:
    path = tmp_path / f"cut{suffix}"
    nib.save(nib.Nifti1Image(RNG.normal(size=(9, 9, 9)), AFFINE), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep) if isinstance(keep, float) else keep])
    with pytest.raises(DataError, match=rf"cut{suffix}: cannot be read as NIfTI: .*damaged, cut short"):
        read_image(path)


def test_flipped_bit_in_compressed_nifti_is_refused(tmp_path: Path) -> None:
    volume = RNG.integers(-900, 900, (40, 40, 40), dtype=np.int16)
    content = bytearray(gzip.compress(nib.Nifti1Image(volume, AFFINE).to_bytes(), compresslevel=0))
    content[-60] ^= 1  # a voxel; the file unpacks, but its checksum disagrees
    (tmp_path / "a.nii.gz").write_bytes(content)
    lax = np.asanyarray(nib.load(tmp_path / "a.nii.gz").dataobj)  # nibabel takes the wrong voxel as it comes
    assert (lax != volume).sum() == 1
    with pytest.raises(DataError, match="cannot be read as NIfTI: CRC check failed"):
        read_image(tmp_path / "a.nii.gz")


def test_nifti_without_volume_or_with_complex_numbers(tmp_path: Path) -> None:
    image = nib.Nifti1Image(VOLUME, np.eye(4))
    image.header.set_sform(np.diag([1.0, 0.0, 1.0, 1.0]), code=1)
    image.header["qform_code"] = 0
    (tmp_path / "flat.nii").write_bytes(image.header.binaryblock + bytes(4) + VOLUME.tobytes(order="F"))
    for read in (read_image, image_header):
        with pytest.raises(DataError, match=r"flat.nii: its affine maps voxels to no volume .*three indep.*qform"):
            read(tmp_path / "flat.nii")
    nib.save(nib.Nifti1Image(VOLUME.astype(np.complex64), AFFINE), tmp_path / "complex.nii")
    with pytest.raises(DataError, match=r"complex.nii: holds complex numbers. Save the magnitude"):
        read_image(tmp_path / "complex.nii")


@pytest.mark.real
def test_real_nifti_equals_simpleitk(real_data: Path) -> None:
    for path in [
        real_data / "totalsegmentator_sample/example_ct_sm.nii.gz",
        *sorted((real_data / "chaos_t2spir").glob("image_1*.nii.gz"))[:2],
    ]:
        array, meta = quiet(path)
        image = sitk.ReadImage(str(path))
        np.testing.assert_allclose(array, sitk.GetArrayFromImage(image).transpose(2, 1, 0))
        for index in ((0, 0, 0), (5, 9, 3)):
            world = np.array(image.TransformIndexToPhysicalPoint(index)) * [-1, -1, 1]
            np.testing.assert_allclose((meta["affine"] @ [*index, 1])[:3], world, atol=1e-3)


# --- NRRD, MetaImage --------------------------------------------------------------------------------------------------


def write_itk(path: Path, array: np.ndarray, channels: bool = False) -> sitk.Image:
    """Write an array (x, y, z[, c]) with an oblique place."""
    order = (2, 1, 0, 3) if channels else tuple(range(array.ndim))[::-1]
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(order)), isVector=channels)
    if image.GetDimension() == 3:
        image.SetSpacing((0.7, 1.1, 3.0))
        image.SetOrigin((5.0, -6.0, 7.0))
        image.SetDirection((0.0, -1.0, 0.0, 0.6, 0.0, -0.8, 0.8, 0.0, 0.6))
    sitk.WriteImage(image, str(path))
    return image


@pytest.mark.parametrize("suffix", [".nrrd", ".nhdr", ".mha", ".mhd"])
@pytest.mark.parametrize("channels", [0, 2, 3, 5])
@pytest.mark.parametrize(
    "dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64"]
)
def test_itk_formats_keep_every_type_and_place(tmp_path: Path, suffix: str, channels: int, dtype: str) -> None:
    shape = (4, 5, 6, channels) if channels else (4, 5, 6)
    volume = RNG.integers(0, 120, shape).astype(dtype)
    image = write_itk(tmp_path / f"v{suffix}", volume, channels=bool(channels))
    array, meta = quiet(tmp_path / f"v{suffix}")
    np.testing.assert_array_equal(array, volume)
    assert array.dtype == dtype
    for index in ((0, 0, 0), (3, 1, 5)):
        world = np.array(image.TransformIndexToPhysicalPoint(index)) * [-1, -1, 1]
        np.testing.assert_allclose((meta["affine"] @ [*index, 1])[:3], world, atol=1e-5)
    assert meta["space"] == "RAS"


def test_itk_integers_that_cannot_be_exact_are_refused(tmp_path: Path) -> None:
    write_itk(tmp_path / "big.nrrd", np.full((2, 2, 2), 2**60, dtype=np.int64))
    with pytest.raises(DataError, match=r"big.nrrd: holds integers beyond 2\^53"):
        read_image(tmp_path / "big.nrrd")


def test_flat_and_four_dimensional_itk_images(tmp_path: Path) -> None:
    write_itk(tmp_path / "flat.mha", GREY.T)
    array, meta = quiet(tmp_path / "flat.mha")
    np.testing.assert_array_equal(array, GREY.T)
    assert tuple(meta["spatial_shape"]) == (9, 6)
    series = RNG.normal(size=(4, 5, 6, 3)).astype(np.float32)
    image = sitk.GetImageFromArray(series.transpose(3, 2, 1, 0), isVector=False)
    sitk.WriteImage(image, str(tmp_path / "time.nrrd"))
    array, meta = quiet(tmp_path / "time.nrrd")
    np.testing.assert_array_equal(array, series)
    assert meta["original_channel_dim"] == -1


@pytest.mark.parametrize("keep", [0.5, 30, -5])
@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_cut_itk_formats_are_refused(tmp_path: Path, suffix: str, keep: float) -> None:
    path = tmp_path / f"cut{suffix}"
    write_itk(path, VOLUME)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep) if isinstance(keep, float) else keep])
    with pytest.raises(DataError, match=rf"cut{suffix}: cannot be read as (NRRD|MetaImage): .*cut short"):
        read_image(path)


@pytest.mark.parametrize("suffix", [".nhdr", ".mhd"])
def test_missing_data_file_is_named(tmp_path: Path, suffix: str) -> None:
    write_itk(tmp_path / f"v{suffix}", VOLUME)
    for data in (*tmp_path.glob("*.raw*"), *tmp_path.glob("*.zraw")):
        data.unlink(missing_ok=True)
    for read in (read_image, image_header):
        with pytest.raises(DataError, match=rf"v{suffix}: its data file is missing \(found no file 'v.*raw.*Copy"):
            read(tmp_path / f"v{suffix}")


_THREADS = """
import os, sys, warnings
from concurrent.futures import ThreadPoolExecutor
changes, here = [], os.getcwd()
sys.addaudithook(lambda event, found: changes.append(found[0]) if event == "os.chdir" else None)
from medssl_monai.data.readers import read_image
warnings.simplefilter("error", DeprecationWarning)
with ThreadPoolExecutor(4) as pool:
    values = list(pool.map(lambda path: int(read_image(path)[0].sum()), sys.argv[1:]))
other = {str(place) for place in changes if os.path.isdir(place)} - {here}
print(values, sorted(other))
"""


def test_the_working_directory_stays_while_threads_read(tmp_path: Path) -> None:
    # ITK's lazy loader changes it while it loads a module: relative paths of other threads are then not found
    for suffix in (".nrrd", ".nhdr", ".mha", ".mhd"):
        write_itk(tmp_path / f"v{suffix}", VOLUME)
    write_itk(tmp_path / "colours.mha", VOLUME[..., None].repeat(3, -1), channels=True)
    tifffile.imwrite(tmp_path / "deep.tif", DEEP)
    sitk.WriteImage(sitk.GetImageFromArray(DEEP, isVector=True), str(tmp_path / "deep.png"))
    names = ["v.mha", "v.nrrd", "v.mhd", "v.nhdr", "colours.mha", "deep.tif", "deep.png", *["v.mhd"] * 20]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    call = [sys.executable, "-c", _THREADS, *names]
    run = subprocess.run(call, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    once, deep = int(VOLUME.sum()), int(DEEP.sum())
    assert run.stdout.strip() == f"{[once] * 4 + [3 * once, deep, deep] + [once] * 20} []"


def test_data_files_of_headers(tmp_path: Path) -> None:
    for name in ("s1.raw", "s2.raw", "s10.raw", "café 1.raw"):
        (tmp_path / name).write_bytes(b"0")
    cases = {
        "plain.mhd": ("NDims = 3\r\nElementDataFile = a.raw \r\n", ["a.raw"]),
        "accent.mhd": ("ElementDataFile = café 1.raw", ["café 1.raw"]),
        "local.mha": ("ElementDataFile = LOCAL\nElementDataFile = x.raw\n", []),
        "beside.mha": ("ElementDataFile = sub/x.raw\n", ["sub/x.raw"]),
        "list.mhd": ("ElementDataFile = LIST 2\ns1.raw\ns2.raw\n", ["s1.raw", "s2.raw"]),
        "pattern.mhd": ("ElementDataFile = s%d.raw 1 10 1\n", ["s1.raw", "s10.raw", "s2.raw"]),
        "none.mhd": ("NDims = 3\n", []),
        "a.nhdr": ("NRRD0004\ntype: short\ndata file: a.raw\n", ["a.raw"]),
        "old.nhdr": ("NRRD0004\ndatafile: a.raw\n", ["a.raw"]),
        "in.nrrd": ("NRRD0004\ntype: short\n\ndata file: voxels.raw\n", []),
        "out.nrrd": ("NRRD0004\ndata file: a.raw\n\n", ["a.raw"]),
        "pair.hdr": ("", ["pair.img"]),
        "PAIR.HDR": ("", ["PAIR.IMG"]),
        "other.nii": ("ElementDataFile = a.raw", []),
    }
    for name, (text, expected) in cases.items():
        (tmp_path / name).write_text(text, encoding="utf-8", newline="")
        assert data_files(tmp_path / name) == [tmp_path / one for one in expected], name
    assert data_files(tmp_path / "gone.mhd") == []


@pytest.mark.parametrize("pair", [nib.Nifti1Pair, nib.Nifti2Pair])
def test_nifti_pairs_are_read_by_their_header(tmp_path: Path, pair: type) -> None:
    image = pair(VOLUME, AFFINE)
    image.header.set_slope_inter(2, -5)
    nib.save(image, tmp_path / "v.hdr")
    array, meta = quiet(tmp_path / "v.hdr")
    np.testing.assert_allclose(array, 2.0 * VOLUME - 5)
    np.testing.assert_allclose(meta["affine"], AFFINE, atol=1e-5)
    assert find_images(tmp_path) == [tmp_path / "v.hdr"]
    content = (tmp_path / "v.img").read_bytes()
    (tmp_path / "v.img").write_bytes(content[:-7])
    with pytest.raises(DataError, match=r"v\.hdr: cannot be read as NIfTI: "):
        read_image(tmp_path / "v.hdr")
    (tmp_path / "v.img").unlink()
    for read in (read_image, image_header):
        with pytest.raises(DataError, match=r"v\.hdr: its data file is missing \(found no file 'v\.img' beside it"):
            read(tmp_path / "v.hdr")


def test_analyze_is_refused(tmp_path: Path) -> None:
    nib.save(nib.AnalyzeImage(VOLUME, np.eye(4)), tmp_path / "old.hdr")
    for read in (read_image, image_header):
        with pytest.raises(DataError, match=r"old\.hdr: is an Analyze header, which does not say .*Convert the volume"):
            read(tmp_path / "old.hdr")


# --- npy --------------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    npst.arrays(
        st.sampled_from([np.dtype(t) for t in ("uint8", "<i2", ">i2", "<f4", ">f8", "bool")]),
        npst.array_shapes(min_dims=2, max_dims=4, max_side=4),
    )
)
def test_npy_round_trip(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", array)
    loaded, meta = quiet(tmp_path / "a.npy")
    np.testing.assert_array_equal(loaded, array)
    assert tuple(meta["spatial_shape"]) == array.shape
    assert "affine" not in meta


@pytest.mark.parametrize("axis", [0, -1, 1])
def test_npy_channels_by_option(tmp_path: Path, axis: int) -> None:
    np.save(tmp_path / "a.npy", np.moveaxis(RGB, -1, axis))
    load = Compose([LoadImaged("image", reader=MedicalImageReader(channel_dim=axis)), EnsureChannelFirstd("image")])
    np.testing.assert_array_equal(load({"image": str(tmp_path / "a.npy")})["image"], np.moveaxis(RGB, -1, 0))
    header = image_header(tmp_path / "a.npy", channel_dim=axis)
    assert (header.shape, header.channels) == ((6, 9), 3)
    for read in (read_image, image_header):
        with pytest.raises(DataError, match=r"a.npy: has no axis 3 for the channels"):
            read(tmp_path / "a.npy", channel_dim=3)


class Bomb:
    """Would make a file when unpickled."""

    def __reduce__(self) -> tuple:
        return (open, ("unpickled", "w"))


@pytest.mark.parametrize("pure", [True, False])
def test_pickles_are_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pure: bool) -> None:
    monkeypatch.chdir(tmp_path)
    if pure:
        (tmp_path / "p.npy").write_bytes(pickle.dumps(Bomb()))
    else:
        np.save(tmp_path / "p.npy", np.array([Bomb()], dtype=object), allow_pickle=True)
    for read in (read_image, image_header):
        with pytest.raises(DataError, match=r"p.npy: holds pickled Python objects, which are never.*numpy.save"):
            read(tmp_path / "p.npy")
    with pytest.raises(DataError, match="pickled Python objects"):
        LoadImaged("image", reader=READER)({"image": "p.npy"})
    assert not (tmp_path / "unpickled").exists()


def test_npy_that_is_cut_or_no_image(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", VOLUME)
    content = (tmp_path / "a.npy").read_bytes()
    for keep in (len(content) // 2, 9, len(content) - 1):
        (tmp_path / "cut.npy").write_bytes(content[:keep])
        with pytest.raises(DataError, match=r"cut.npy: cannot be read as .npy: .*cut short"):
            read_image(tmp_path / "cut.npy")
    for array, found in ((np.array(["a"] * 4).reshape(2, 2), "type <U1"), (np.arange(3), r"shape \(3,\)")):
        np.save(tmp_path / "no.npy", array)
        with pytest.raises(DataError, match=rf"no.npy: is not an image \(found .*{found}"):
            read_image(tmp_path / "no.npy")


# --- pictures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("pixels", "suffix"), [(RGB, ".png"), (GREY, ".png"), (RGB, ".bmp"), (SMOOTH, ".jpg")])
def test_plain_pictures_equal_monais_reader(tmp_path: Path, pixels: np.ndarray, suffix: str) -> None:
    path = tmp_path / f"p{suffix}"
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    array, meta = quiet(path)
    reader = PILReader()
    expected, expected_meta = reader.get_data(reader.read(path))
    np.testing.assert_array_equal(array, expected)
    assert array.dtype == expected.dtype
    for key in ("spatial_shape", "original_channel_dim"):
        np.testing.assert_array_equal(meta[key], expected_meta[key])
    ours, theirs = (
        Compose([LoadImaged("i", reader=name), EnsureChannelFirstd("i")])({"i": str(path)})["i"]
        for name in (READER, "PILReader")
    )
    torch.testing.assert_close(ours, theirs)
    assert ours.shape == (pixels.shape[2] if pixels.ndim == 3 else 1, pixels.shape[1], pixels.shape[0])
    torch.testing.assert_close(ours.affine, theirs.affine)


def test_palettes_become_colours(tmp_path: Path) -> None:
    image = Image.fromarray(RGB // 64 * 64).quantize(64)
    image.save(tmp_path / "p.png")
    np.testing.assert_array_equal(quiet(tmp_path / "p.png")[0], np.asarray(image.convert("RGB")).transpose(1, 0, 2))
    image.save(tmp_path / "t.png", transparency=int(np.asarray(image)[0, 0]))
    array, _ = quiet(tmp_path / "t.png")
    assert array.shape == (9, 6, 4)
    assert array[0, 0, 3] == 0
    np.testing.assert_array_equal(array[..., 3] == 0, (np.asarray(image) == np.asarray(image)[0, 0]).T)


@pytest.mark.parametrize("grey", [True, False])
def test_alpha_stays_only_where_it_hides_something(tmp_path: Path, grey: bool) -> None:
    pixels = GREY[..., None] if grey else RGB
    alpha = np.full((6, 9, 1), 255, np.uint8)
    Image.fromarray(np.concatenate([pixels, alpha], -1)).save(tmp_path / "opaque.png")
    np.testing.assert_array_equal(quiet(tmp_path / "opaque.png")[0], np.squeeze(pixels).swapaxes(0, 1))
    alpha[2, 3] = 9
    both = np.concatenate([pixels, alpha], -1)
    Image.fromarray(both).save(tmp_path / "veiled.png")
    np.testing.assert_array_equal(quiet(tmp_path / "veiled.png")[0], both.swapaxes(0, 1))


def test_one_and_sixteen_bits_keep_their_values(tmp_path: Path) -> None:
    mask = GREY > 100
    for suffix in (".png", ".tif"):
        Image.fromarray(mask).save(tmp_path / f"mask{suffix}")
        array, _ = quiet(tmp_path / f"mask{suffix}")
        assert array.dtype == np.uint8
        np.testing.assert_array_equal(array, mask.T * 255)
        sitk.WriteImage(sitk.GetImageFromArray(DEEP[..., 0]), str(tmp_path / f"deep{suffix}"))
        array, _ = quiet(tmp_path / f"deep{suffix}")
        assert array.dtype == np.uint16
        np.testing.assert_array_equal(array, DEEP[..., 0].T)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bit_colours_are_not_cut_to_eight(tmp_path: Path, suffix: str) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(DEEP, isVector=True), str(tmp_path / f"deep{suffix}"))
    assert np.asarray(Image.open(tmp_path / f"deep{suffix}")).dtype == np.uint8  # what Pillow makes of it
    array, meta = quiet(tmp_path / f"deep{suffix}")
    assert array.dtype == np.uint16
    np.testing.assert_array_equal(array, DEEP.swapaxes(0, 1))
    assert meta["original_channel_dim"] == -1
    assert "affine" not in meta


@pytest.mark.parametrize("dtype", ["int16", "int32", "uint32", "float32"])
def test_tiff_number_types(tmp_path: Path, dtype: str) -> None:
    info = np.iinfo(dtype) if dtype[0] != "f" else None
    pixels = RNG.integers(info.min, info.max, (6, 9)).astype(dtype) if info else RNG.normal(size=(6, 9)).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", pixels)
    array, _ = quiet(tmp_path / "a.tif")
    np.testing.assert_array_equal(array, pixels.T)


def test_png_header_sees_an_orientation_behind_the_pixels_without_decoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    exif = Image.Exif()
    exif[0x0112] = 6
    chunk = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
    behind = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    (tmp_path / "b.png").write_bytes(content[:-12] + behind + content[-12:])
    array, _ = quiet(tmp_path / "b.png")
    np.testing.assert_array_equal(array, RGB[::-1])  # a quarter turn: rows from below become columns

    def refuse(self: ImageFile.ImageFile) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", refuse)
    assert image_header(tmp_path / "a.png").shape == (9, 6)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(SMOOTH.astype(np.uint8)).save(tmp_path / "a.jpg", exif=exif)
    expected = ImageOps.exif_transpose(Image.open(tmp_path / "a.jpg"))
    array, _ = quiet(tmp_path / "a.jpg")
    np.testing.assert_array_equal(array, np.asarray(expected).swapaxes(0, 1))
    # Colours of 16 bits take another way through the code, and must turn the same
    small = io.BytesIO()
    Image.fromarray((DEEP // 257).astype(np.uint8)).save(small, "PNG", exif=exif)
    turned = np.asarray(ImageOps.exif_transpose(Image.open(small))).swapaxes(0, 1)
    sitk.WriteImage(sitk.GetImageFromArray(DEEP // 257 * 257, isVector=True), str(tmp_path / "d.png"))
    content = (tmp_path / "d.png").read_bytes()
    chunk = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
    after_header = 8 + 25
    (tmp_path / "d.png").write_bytes(
        content[:after_header]
        + struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        + content[after_header:]
    )  # fmt: skip
    array, _ = quiet(tmp_path / "d.png")
    np.testing.assert_array_equal(array, turned.astype(np.uint16) * 257)


def test_deep_tiff_that_would_lose_values_is_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "d.tif", DEEP, photometric="rgb", extratags=[(274, 3, 1, 6)])
    for read in (read_image, image_header):
        with pytest.raises(DataError, match=r"d.tif: is a TIFF with colours of 16 bits .*orientation 6.*Save it"):
            read(tmp_path / "d.tif")


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    Image.fromarray(SMOOTH.astype(np.uint8)).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    array, _ = quiet(tmp_path / "a.jpg")
    np.testing.assert_allclose(array.astype(int), SMOOTH.swapaxes(0, 1), atol=12)


def test_lab_is_refused(tmp_path: Path) -> None:
    Image.new("LAB", (4, 4)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"a.tif: colours cannot be converted to RGB \(found mode LAB\). Save it"):
        read_image(tmp_path / "a.tif")


def test_first_of_several_pages_with_a_warning(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "pages.tif", np.stack([GREY, 255 - GREY, GREY]), photometric="minisblack")
    with pytest.warns(UserWarning, match=r"pages.tif: 3 pages, only the first is read"):
        array, _ = read_image(tmp_path / "pages.tif")
    np.testing.assert_array_equal(array, GREY.T)


@pytest.mark.parametrize("tolerant", [False, True])
@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        (".jpg", {}),
        (".jpg", {"progressive": True}),
        (".png", {}),
        (".tif", {}),
        (".tif", {"compression": "tiff_lzw"}),
        (".bmp", {}),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_cut_pictures_are_refused_even_where_pillow_was_told_to_take_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, options: dict, tolerant: bool
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", tolerant)
    path = tmp_path / f"cut{suffix}"
    Image.fromarray(SMOOTH.astype(np.uint8)).save(path, **options)
    content = path.read_bytes()
    for share in (0.02, 0.5, 0.9):
        path.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(DataError, match=rf"cut{suffix}: cannot be read as an image: .*cut short"):
            read_image(path)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is tolerant


def test_far_too_large_pictures_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(DataError, match=r"a.png: cannot be read as an image: Image size \(54 pixels\) exceeds limit"):
        read_image(tmp_path / "a.png")


# --- which files ------------------------------------------------------------------------------------------------------


def test_content_counts_more_than_the_suffix(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    for name in ("b.jpg", "c", "d.dcm", "e.xyz"):
        (tmp_path / name).write_bytes((tmp_path / "a.png").read_bytes())
        np.testing.assert_array_equal(quiet(tmp_path / name)[0], RGB.swapaxes(0, 1))
        assert is_image_path(tmp_path / name)


@pytest.mark.parametrize("read", [read_image, image_header])
def test_paths_that_are_no_images(tmp_path: Path, read: Callable) -> None:
    with pytest.raises(DataError, match=r"none.png: no such file or folder. Check the path"):
        read(tmp_path / "none.png")
    (tmp_path / "empty.nii.gz").touch()
    with pytest.raises(DataError, match=r"empty.nii.gz: the file is empty"):
        read(tmp_path / "empty.nii.gz")
    (tmp_path / "image.nrd").write_text("hello")
    with pytest.raises(
        DataError, match=r"image.nrd: not an image .*suffix '.nrd', expected .nii.*Did you mean '.nrrd'"
    ):
        read(tmp_path / "image.nrd")
    (tmp_path / "words").write_text("hello")
    with pytest.raises(DataError, match=r"words: not an image format .*found no suffix and unknown content"):
        read(tmp_path / "words")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match="folder: no DICOM image in this folder"):
        read(tmp_path / "folder")


@pytest.mark.parametrize("suffix", [s for s in IMAGE_SUFFIXES if s not in (".nhdr", ".mhd")])
def test_noise_under_any_suffix_is_a_data_error(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"noise{suffix}"
    for size in (1, 200, 3000):
        path.write_bytes(np.random.default_rng(size).bytes(size))
        for read in (read_image, image_header):
            with pytest.raises(DataError, match=f"noise{suffix}: "):
                read(path)


def test_suffixes() -> None:
    assert suffix_of(Path("a.b.NII.GZ")) == ".nii.gz"
    assert suffix_of(Path("a.seg.nrrd")) == ".nrrd"
    assert suffix_of(Path("CT.1.3.12")) == ".12"
    assert is_image_path("not/there.Tiff")
    assert not is_image_path("not/there.txt")
    assert not is_image_path(".png")


def test_find_images(tmp_path: Path) -> None:
    for name in ("b/2.png", "b/10.png", "a.jpg", ".c.png", ".d/e.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(RGB).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("x")
    assert [p.relative_to(tmp_path).as_posix() for p in find_images(tmp_path)] == ["a.jpg", "b/10.png", "b/2.png"]
    assert not is_image_path(tmp_path / "b")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: no image in this folder \(expected files with .nii"):
        find_images(tmp_path / "empty")
    with pytest.raises(DataError, match=r"gone: no such folder"):
        find_images(tmp_path / "gone")
    with pytest.raises(DataError, match=r"a.jpg: is a file, not a folder"):
        find_images(tmp_path / "a.jpg")


# --- MONAI ------------------------------------------------------------------------------------------------------------


def test_formats_mix_in_one_batch(tmp_path: Path) -> None:
    write_itk(tmp_path / "a.nrrd", VOLUME)
    nib.save(nib.Nifti1Image(VOLUME, AFFINE), tmp_path / "b.nii.gz")
    load = Compose([LoadImaged("image", reader=READER), EnsureChannelFirstd("image")])
    items = [load({"image": str(tmp_path / name)}) for name in ("a.nrrd", "b.nii.gz")]
    batch = list_data_collate(items)["image"]
    assert batch.shape == (2, 1, 4, 5, 6)
    np.testing.assert_allclose(batch.affine[1], AFFINE, atol=1e-6)


def test_several_files_become_channels(tmp_path: Path) -> None:
    paths = [tmp_path / f"{k}.nii.gz" for k in range(3)]
    for k, path in enumerate(paths):
        nib.save(nib.Nifti1Image(VOLUME + k, AFFINE), path)
    load = Compose([LoadImaged("image", reader=MedicalImageReader()), EnsureChannelFirstd("image")])
    image = load({"image": [str(path) for path in paths]})["image"]
    np.testing.assert_array_equal(image, np.stack([VOLUME, VOLUME + 1, VOLUME + 2]))
    Image.fromarray(RGB).save(tmp_path / "a.png")
    both = load({"image": [str(tmp_path / "a.png")] * 2})["image"]
    np.testing.assert_array_equal(both, np.concatenate([RGB, RGB], -1).transpose(2, 1, 0))
    nib.save(nib.Nifti1Image(VOLUME, np.eye(4)), paths[1])
    with pytest.raises(DataError, match=r"1.nii.gz: cannot be a channel beside the first image \(found another affine"):
        load.transforms[0]({"image": [str(path) for path in paths]})
    nib.save(nib.Nifti1Image(VOLUME[1:], AFFINE), paths[1])
    with pytest.raises(
        DataError, match=r"1.nii.gz: cannot be a channel .*shape \(3, 5, 6\), expected shape \(4, 5, 6\)"
    ):
        load.transforms[0]({"image": [str(path) for path in paths]})


def test_reader_interface(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    reader = MedicalImageReader()
    assert reader.verify_suffix(str(tmp_path / "a.png"))
    assert not reader.verify_suffix([tmp_path / "a.png", tmp_path / "b.txt"])
    with pytest.raises(TypeError, match="takes no options, found mode"):
        reader.read(tmp_path / "a.png", mode="r")
    # A path that cannot be read gets through `read`, so that MONAI does not ask its other readers
    assert reader.read("nowhere.png") == (Path("nowhere.png"),)
    with pytest.raises(DataError, match=r"nowhere.png: no such file"):
        LoadImaged("image", reader=READER)({"image": "nowhere.png"})
