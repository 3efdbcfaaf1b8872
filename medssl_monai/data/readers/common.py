"""What all image readers share: formats and suffixes, recognition by content, metadata, headers, errors."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from monai.utils import MetaKeys, SpaceKeys
from numpy.typing import NDArray

from medssl_monai.core import DataError, did_you_mean
from medssl_monai.data.readers.partners import data_files

Format = Literal["nifti", "nrrd", "metaimage", "dicom", "raster", "numpy"]
Loaded: TypeAlias = tuple[NDArray[Any], dict[str, Any]]

FORMAT_SUFFIXES: dict[Format, tuple[str, ...]] = {
    "nifti": (".nii", ".nii.gz", ".hdr"),
    "nrrd": (".nrrd", ".nhdr"),
    "metaimage": (".mha", ".mhd"),
    "dicom": (".dcm", ".dicom", ".ima"),
    "raster": (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"),
    "numpy": (".npy",),
}
IMAGE_SUFFIXES: tuple[str, ...] = tuple(suffix for group in FORMAT_SUFFIXES.values() for suffix in group)
FORMAT_NAMES: dict[Format, str] = {
    "nifti": "NIfTI", "nrrd": "NRRD", "metaimage": "MetaImage", "dicom": "DICOM", "raster": "image", "numpy": ".npy",
}  # fmt: skip
_MAGIC: tuple[tuple[int, bytes, Format], ...] = (
    (128, b"DICM", "dicom"),
    (0, b"\x89PNG\r\n\x1a\n", "raster"),
    (0, b"\xff\xd8\xff", "raster"),
    (0, b"II*\0", "raster"),
    (0, b"MM\0*", "raster"),
    (0, b"II+\0", "raster"),
    (0, b"MM\0+", "raster"),
    (0, b"NRRD000", "nrrd"),
    (0, b"\x93NUMPY", "numpy"),
    (344, b"n+1\0", "nifti"),
    (4, b"n+2\0\r\n\x1a\n", "nifti"),
)
GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True)
class ImageHeader:
    """What is known of an image without its voxels.

    Attributes:
        shape: spatial shape, in the axis order of the loaded array ((W, H) or (X, Y, Z)).
        channels: number of channels; 1 where the array has no channel axis.
        dtype: type of the array that the reader returns.
        spacing: mm between voxels along each spatial axis; ``None`` where the file does not say.
        affine: (4, 4) voxel-to-world matrix in RAS millimetres; ``None`` where the file does not say.
    """

    shape: tuple[int, ...]
    channels: int
    dtype: np.dtype[Any]
    spacing: tuple[float, ...] | None = None
    affine: NDArray[np.float64] | None = None


def suffix_of(path: Path) -> str:
    """The file's suffix as the table of formats has it, lower case (``.nii.gz`` counts as one)."""
    name = path.name.lower()
    known = [suffix for suffix in IMAGE_SUFFIXES if name.endswith(suffix) and name != suffix]
    return max(known, key=len) if known else path.suffix.lower()


def format_by_suffix(path: Path) -> Format | None:
    """Format by the name alone; ``None`` for an unknown suffix."""
    suffix = suffix_of(path)
    return next((kind for kind, suffixes in FORMAT_SUFFIXES.items() if suffix in suffixes), None)


def format_by_content(path: Path) -> Format | None:
    """Format by the file's first bytes; ``None`` where they do not tell (MetaImage, DICOM without preamble)."""
    with open(path, "rb") as stream:
        head = stream.read(352)
    if head.startswith(GZIP_MAGIC):
        try:
            with gzip.open(path, "rb") as stream:
                head = stream.read(352)
        except (OSError, EOFError, zlib.error):
            return None
    return next((kind for offset, magic, kind in _MAGIC if head[offset : offset + len(magic)] == magic), None)


def format_of(path: Path) -> Format:
    """Format of an existing file: what its content says, else what its suffix says.

    Raises:
        DataError: when the file is missing, empty, unreadable or of no known format.
    """
    try:
        if path.stat().st_size == 0:
            raise DataError("the file is empty", where=path, advice="Copy it again from its source.")
        kind = format_by_content(path) or format_by_suffix(path)
    except FileNotFoundError as error:
        raise DataError(
            "no such file or folder", where=path, advice="Check the path; paths in a datalist are relative to it."
        ) from error
    except OSError as error:
        raise DataError(f"cannot be opened ({error.strerror or error})", where=path) from error
    if kind is None:
        suffix = suffix_of(path)
        hint = did_you_mean(suffix, IMAGE_SUFFIXES) if suffix else ""
        raise DataError(
            "not an image format that can be read",
            where=path,
            found=f"suffix {suffix!r}" if suffix else "no suffix and unknown content",
            expected=f"{', '.join(IMAGE_SUFFIXES)}, or a folder with a DICOM series",
            advice=hint.strip() if hint.startswith(" Did") else None,
        )
    return kind


def spatial_metadata(
    spatial_shape: tuple[int, ...], *, affine: NDArray[np.float64] | None, has_channels: bool
) -> dict[str, Any]:
    """The metadata MONAI's transforms look at, the same keys for every format so that formats mix in one batch.

    Args:
        spatial_shape: shape without the channel axis.
        affine: (4, 4) voxel-to-RAS matrix; ``None`` for images without a place in the world.
        has_channels: whether the array's last axis holds channels.
    """
    meta: dict[str, Any] = {
        MetaKeys.SPATIAL_SHAPE.value: np.asarray(spatial_shape),
        # MONAI's mark for "no channel axis" is not-a-number
        MetaKeys.ORIGINAL_CHANNEL_DIM.value: -1 if has_channels else float("nan"),
    }
    if affine is not None:
        meta[MetaKeys.AFFINE.value] = affine.copy()
        meta[MetaKeys.ORIGINAL_AFFINE.value] = affine.copy()
        meta[MetaKeys.SPACE.value] = SpaceKeys.RAS.value
    return meta


def column_lengths(affine: NDArray[np.float64], rank: int) -> tuple[float, ...]:
    """Voxel spacing in mm along the first ``rank`` axes of an affine."""
    return tuple(float(length) for length in np.linalg.norm(affine[:3, :rank], axis=0))


def checked_affine(affine: NDArray[np.float64], path: Path) -> NDArray[np.float64]:
    """A copy of an affine that can be inverted.

    Raises:
        DataError: when it has values that are not finite or axes that depend on one another.
    """
    affine = np.array(affine, dtype=np.float64)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise DataError(
            "its affine maps voxels to no volume",
            where=path,
            found=np.array2string(affine[:3, :3], precision=3).replace("\n", ""),
            expected="three independent, finite axes",
            advice="Mend the qform or sform, or convert the image anew from its DICOM files.",
        )
    return affine


def check_data_files(path: Path) -> None:
    """Make sure that the files beside a header that hold its voxels are there.

    Raises:
        DataError: naming the first that is missing.
    """
    for file in data_files(path):
        if not file.is_file():
            raise DataError(
                "its data file is missing",
                where=path,
                found=f"no file {os.path.relpath(file, path.parent)!r} beside it",
                advice="Copy the header and its data file together, into one folder.",
            )


def last_line(error: BaseException) -> str:
    """The last line with words of a library's message, which is where ITK and zlib say what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else type(error).__name__


@contextmanager
def damaged_file(path: Path, kind: str, *errors: type[Exception]) -> Iterator[None]:
    """Turn a library's exceptions of the given types into a :class:`DataError` that names the file."""
    try:
        yield
    except DataError:
        raise
    except errors as error:
        raise DataError(
            f"cannot be read as {kind}: {last_line(error)}",
            where=path,
            advice="The file is damaged, cut short or of an unusual kind: copy it again, or leave it out.",
        ) from error
