"""NRRD and MetaImage, and pictures Pillow cannot hold, through ITK and MONAI's reader."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import itk
import numpy as np
from monai.data.image_reader import ITKReader
from monai.utils import MetaKeys
from numpy.typing import NDArray

from medssl_monai.core import DataError
from medssl_monai.data.readers.common import (
    ImageHeader,
    Loaded,
    check_data_files,
    checked_affine,
    column_lengths,
    damaged_file,
    last_line,
    spatial_metadata,
)

# ITK's Python packages hold only some pixel types; what they lack is read in the next wider one and brought back.
_ITK_TYPES: dict[str, tuple[str, str, str]] = {  # component -> NumPy type, ITK type of an image, of a vector image
    "unsigned_char": ("uint8", "UC", "UC"),
    "char": ("int8", "SS", "SS"),
    "signed_char": ("int8", "SS", "SS"),
    "short": ("int16", "SS", "SS"),
    "unsigned_short": ("uint16", "US", "US"),
    "int": ("int32", "SI", "D"),
    "unsigned_int": ("uint32", "UI", "D"),
    "long": ("int64", "D", "D"),
    "unsigned_long": ("uint64", "D", "D"),
    "long_long": ("int64", "D", "D"),
    "unsigned_long_long": ("uint64", "D", "D"),
    "float": ("float32", "F", "F"),
    "double": ("float64", "D", "D"),
}
_EXACT_INTEGERS = 2**53  # of a float64


def _load_itk() -> None:
    # at first use, for it takes seconds; the lock that Python keeps for each module makes it happen once. By name,
    # because the cache key imports whatever the code of a reader names
    importlib.import_module("medssl_monai.data.readers.itk_modules")


def image_io(name: str) -> Any:
    """A new object of one of ITK's file formats, such as ``PNGImageIO``."""
    _load_itk()
    return getattr(itk, name).New()


def read_itk(path: Path, io: Any, kind: str) -> Loaded:
    """Read a file through a named ITK image format, every pixel type and number of components.

    Args:
        path: the file.
        io: an ITK ``ImageIO`` object, so that the content decides and not the suffix.
        kind: the format's name, for messages.

    Raises:
        DataError: when the file is damaged, cut short, or its separate data file is missing.
    """
    dtype, _, _ = itk_header(path, io, kind)
    components = int(io.GetNumberOfComponents())
    _load_itk()
    with damaged_file(path, kind, RuntimeError):
        rank = min(max(int(io.GetNumberOfDimensions()), 2), 4)
        _, scalar, vector = _ITK_TYPES[io.GetComponentTypeAsString(io.GetComponentType())]
        pixel = getattr(itk, scalar if components == 1 else vector)
        image_type = itk.Image[pixel, rank] if components == 1 else itk.VectorImage[pixel, rank]
        reader = itk.ImageFileReader[image_type].New(FileName=str(path), ImageIO=io)
        reader.Update()
        array, meta = ITKReader().get_data(reader.GetOutput())
    array = _exact_cast(np.array(array, order="K"), dtype, path)
    affine = np.eye(4)
    size = meta[MetaKeys.AFFINE].shape[0] - 1
    affine[:size, :size] = meta[MetaKeys.AFFINE][:size, :size]
    affine[:size, 3] = meta[MetaKeys.AFFINE][:size, -1]
    shape = tuple(int(length) for length in meta[MetaKeys.SPATIAL_SHAPE])
    if array.ndim > len(shape) + 1:
        raise DataError("has more than one axis beside space", where=path, found=f"shape {array.shape}")
    return array, spatial_metadata(shape, affine=checked_affine(affine, path), has_channels=array.ndim > len(shape))


def _exact_cast(array: NDArray[Any], dtype: np.dtype[Any], path: Path) -> NDArray[Any]:
    if array.dtype == dtype:
        return array
    if dtype.itemsize == 8 and array.size and np.abs(array).max() >= _EXACT_INTEGERS:
        raise DataError("holds integers beyond 2^53, which cannot be read exactly", where=path, found=str(dtype))
    return array.astype(dtype)


def itk_header(path: Path, io: Any, kind: str) -> tuple[np.dtype[Any], tuple[int, ...], NDArray[np.float64]]:
    """Let an ITK format read a file's header.

    Returns:
        the array's type, all axis lengths (without components) and the (4, 4) affine in RAS.
    """
    try:
        io.SetFileName(str(path))
        io.ReadImageInformation()
    except RuntimeError as error:
        raise DataError(
            f"cannot be read as {kind}: {last_line(error)}",
            where=path,
            advice="The header is damaged or cut short: copy the file again from its source.",
        ) from error
    component = io.GetComponentTypeAsString(io.GetComponentType())
    if component not in _ITK_TYPES:
        raise DataError("pixel type cannot be read", where=path, found=component, expected=", ".join(_ITK_TYPES))
    rank = int(io.GetNumberOfDimensions())
    lps = np.eye(4)
    for axis in range(min(rank, 3)):
        lps[: min(rank, 3), axis] = np.asarray(io.GetDirection(axis))[:3] * io.GetSpacing(axis)
        lps[axis, 3] = io.GetOrigin(axis)
    return (
        np.dtype(_ITK_TYPES[component][0]),
        tuple(int(io.GetDimensions(axis)) for axis in range(rank)),
        np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps,
    )


def volume_io(path: Path, kind: str) -> Any:
    """The ITK format object for ``nrrd`` or ``metaimage``; a header's separate data file must exist."""
    check_data_files(path)  # ITK reports a missing one as a damaged header
    return image_io("NrrdImageIO" if kind == "nrrd" else "MetaImageIO")


def volume_header(path: Path, kind: str) -> ImageHeader:
    """Header of a NRRD or MetaImage file; the voxels are not read."""
    io = volume_io(path, kind)
    dtype, lengths, affine = itk_header(path, io, "NRRD" if kind == "nrrd" else "MetaImage")
    shape = lengths[:3]
    channels = int(io.GetNumberOfComponents()) * int(np.prod(lengths[3:]))
    return ImageHeader(shape, channels, dtype, column_lengths(affine, len(shape)), affine)
