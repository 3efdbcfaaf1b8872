"""NIfTI through nibabel and MONAI's reader, with its checksums looked at."""

from __future__ import annotations

import gzip
import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.data.image_reader import NibabelReader
from monai.data.utils import correct_nifti_header_if_necessary
from monai.utils import MetaKeys
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from numpy.lib.recfunctions import structured_to_unstructured

from medssl_monai.core import DataError
from medssl_monai.data.readers.common import (
    GZIP_MAGIC,
    ImageHeader,
    Loaded,
    check_data_files,
    checked_affine,
    column_lengths,
    damaged_file,
    spatial_metadata,
)
from medssl_monai.data.readers.partners import data_files

_ERRORS = (ImageFileError, HeaderDataError, OSError, EOFError, ValueError, OverflowError, zlib.error, struct.error)
_HEADER_SIZES = (348, 540)  # NIfTI-1 and NIfTI-2


def _open(path: Path, *, header_only: bool) -> Any:
    """The nibabel image of a NIfTI file, compressed or not, whatever its suffix.

    A compressed file is unpacked whole, because only then is its checksum looked at; nibabel alone stops reading
    where the voxels end and takes damaged ones as they come.
    """
    with open(path, "rb") as stream:
        start = stream.read(_HEADER_SIZES[1])
    compressed = start.startswith(GZIP_MAGIC)
    if path.suffix.lower() == ".hdr" and not compressed and start[344:348] != b"n+1\0" and start[4:8] != b"n+2\0":
        return correct_nifti_header_if_necessary(_open_pair(path, start))  # type: ignore[no-untyped-call]
    if not compressed and path.name.lower().endswith(".nii"):
        image: Any = nib.load(path)
    else:
        opened: Any = gzip.open if compressed else open
        with opened(path, "rb") as stream:
            start = stream.read(_HEADER_SIZES[1])
            image_class, offset = _class_and_offset(start)
            # Extensions stand before the voxels and are part of what nibabel calls the header
            rest = stream.read(max(offset - len(start), 0) if header_only else -1)
        image = image_class.from_stream(BytesIO(start + rest))
    return correct_nifti_header_if_necessary(image)  # type: ignore[no-untyped-call]


def _open_pair(path: Path, start: bytes) -> Any:
    """The nibabel image of a NIfTI header and the ``.img`` file beside it."""
    image_class, _ = _class_and_offset(start)
    is_first = image_class is nib.Nifti1Image
    if (start[344:348] if is_first else start[4:8]) != (b"ni1\0" if is_first else b"ni2\0"):
        raise DataError(
            "is an Analyze header, which does not say where left and right are",
            where=path,
            expected="a header of a NIfTI pair, or one .nii file",
            advice="Convert the volume anew from its DICOM files, or to .nii by a tool that knows its orientation.",
        )
    check_data_files(path)
    pair: Any = nib.Nifti1Pair if is_first else nib.Nifti2Pair
    holders = {"header": path, "image": data_files(path)[0]}
    return pair.from_file_map({kind: nib.FileHolder(str(file)) for kind, file in holders.items()})


def _class_and_offset(start: bytes) -> tuple[Any, int]:
    """The nibabel class for a file that starts so, and where its voxels begin."""
    sizes = {int.from_bytes(start[:4], order, signed=False) for order in ("little", "big")}  # type: ignore[arg-type]
    image_class = nib.Nifti2Image if _HEADER_SIZES[1] in sizes else nib.Nifti1Image
    size = _HEADER_SIZES[image_class is nib.Nifti2Image]
    if len(start) < size or size not in sizes:
        raise ImageFileError("no NIfTI header at the start of the file")
    return image_class, int(image_class.header_class(start[:size], check=False)["vox_offset"])  # type: ignore[no-untyped-call]


def read_nifti(path: Path) -> Loaded:
    """Read a NIfTI-1 or NIfTI-2 file, or a pair of ``.hdr`` and ``.img`` by its header, as MONAI's reader does.

    Beyond MONAI's reader: checksums of compressed files are verified, the idle fourth axis of five-dimensional
    (vector) files is dropped and RGB voxels become a channel axis.

    Raises:
        DataError: when the file is damaged, cut short, an Analyze header or holds complex numbers.
    """
    reader = NibabelReader()
    with damaged_file(path, "NIfTI", *_ERRORS):
        image = _open(path, header_only=False)
        reader.filenames = (str(path),)
        array, meta = reader.get_data(image)
        # A memory-mapped file would fail later, and change with the file
        array = np.array(array, dtype=array.dtype.newbyteorder("="), copy=isinstance(array, np.memmap) or None)
    if array.dtype.names:
        array = structured_to_unstructured(array)
    if array.dtype.kind == "c":
        raise DataError("holds complex numbers", where=path, advice="Save the magnitude as its own image.")
    if array.ndim == 5 and array.shape[3] == 1:
        array = array[:, :, :, 0]
    shape = tuple(int(size) for size in meta[MetaKeys.SPATIAL_SHAPE])
    if array.ndim > len(shape) + 1:
        raise DataError("has more than one axis beside space", where=path, found=f"shape {array.shape}")
    return array, spatial_metadata(
        shape, affine=checked_affine(image.affine, path), has_channels=array.ndim > len(shape)
    )


def nifti_header(path: Path) -> ImageHeader:
    """Header of a NIfTI file; the voxels are not read."""
    with damaged_file(path, "NIfTI", *_ERRORS):
        image = _open(path, header_only=True)
        stored = image.header.get_data_dtype()
        slope, intercept = image.dataobj.slope, image.dataobj.inter
    affine = checked_affine(image.affine, path)
    shape = image.shape[:3]
    components = len(stored.names) if stored.names else 1
    dtype = np.dtype(np.uint8) if stored.names else stored
    if (slope, intercept) != (1.0, 0.0):
        dtype = np.dtype(np.float64)
    return ImageHeader(
        shape=tuple(int(size) for size in shape),
        channels=int(np.prod(image.shape[3:])) * components,
        dtype=dtype.newbyteorder("="),
        spacing=column_lengths(affine, len(shape)),
        affine=affine,
    )
