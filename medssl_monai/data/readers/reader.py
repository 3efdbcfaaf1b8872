"""One reader for every image a study may hold, whatever its format: arrays, places and errors alike."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from monai.data.image_reader import ImageReader
from monai.utils import MetaKeys
from numpy.typing import NDArray

from medssl_monai.core import DataError
from medssl_monai.data.readers.common import (
    FORMAT_NAMES,
    IMAGE_SUFFIXES,
    ImageHeader,
    Loaded,
    format_by_content,
    format_by_suffix,
    format_of,
)
from medssl_monai.data.readers.dicom import (
    describe_series,
    dicom_header,
    names_series,
    read_dicom,
    scan_folder,
    visible_files,
)
from medssl_monai.data.readers.itk_images import read_itk, volume_header, volume_io
from medssl_monai.data.readers.nifti import nifti_header, read_nifti
from medssl_monai.data.readers.npy import numpy_header, read_numpy
from medssl_monai.data.readers.pictures import raster_header, read_raster

__all__ = [
    "IMAGE_SUFFIXES",
    "ImageHeader",
    "MedicalImageReader",
    "find_images",
    "image_header",
    "is_image_path",
    "read_image",
]

AnyPath = str | PathLike[str]


def read_image(path: AnyPath, *, channel_dim: int | None = None) -> Loaded:
    """Read one image of any supported format.

    Axes follow MONAI: the first counts columns (x), the second rows (y), the third slices; channels come last. The
    affine maps these indices to RAS millimetres. A DICOM series folder gives (X, Y, Z), a single DICOM file (W, H).

    Args:
        path: a file, a folder with a DICOM series, or one series of a folder (``FOLDER/SeriesInstanceUID=1.2.3``).
        channel_dim: axis of the channels in ``.npy`` arrays, which do not say it themselves.

    Returns:
        the array and MONAI's metadata: ``spatial_shape``, ``original_channel_dim`` and, where the format knows the
        image's place, ``affine``, ``original_affine`` and ``space``.

    Raises:
        DataError: when the file or folder is missing, empty, damaged, cut short or of a kind that cannot be read.
    """
    path = Path(path).expanduser()
    if path.is_dir() or names_series(path):
        return read_dicom(path)
    kind = format_of(path)
    if kind == "nifti":
        return read_nifti(path)
    if kind == "nrrd" or kind == "metaimage":
        return read_itk(path, volume_io(path, kind), FORMAT_NAMES[kind])
    if kind == "dicom":
        return read_dicom(path)
    if kind == "raster":
        return read_raster(path)
    return read_numpy(path, channel_dim)


def image_header(path: AnyPath, *, channel_dim: int | None = None) -> ImageHeader:
    """Shape, channels, type, spacing and affine of an image, as :func:`read_image` would give it, at little cost.

    Voxels are not read, except where a picture may have an alpha channel (dropped when it hides nothing).

    Args:
        path: a file, a folder with a DICOM series, or one series of a folder (``FOLDER/SeriesInstanceUID=1.2.3``).
        channel_dim: axis of the channels in ``.npy`` arrays.

    Raises:
        DataError: as :func:`read_image` does, as far as the header shows it.
    """
    path = Path(path).expanduser()
    if path.is_dir() or names_series(path):
        return dicom_header(path)
    kind = format_of(path)
    if kind == "nifti":
        return nifti_header(path)
    if kind == "nrrd" or kind == "metaimage":
        return volume_header(path, kind)
    if kind == "dicom":
        return dicom_header(path)
    if kind == "raster":
        return raster_header(path)
    return numpy_header(path, channel_dim)


def is_image_path(path: AnyPath) -> bool:
    """Whether a path names an image that can be read.

    A known suffix is enough; of a file with another suffix or none the first bytes are looked at; of a folder,
    whether a DICOM file lies below it. A path that does not exist is judged by its suffix.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        return any(_is_dicom(file) for file in visible_files(path))
    return names_series(path) or format_by_suffix(path) is not None or _content_format(path) is not None


def _content_format(path: Path) -> str | None:
    try:
        return format_by_content(path)
    except OSError:  # missing or not ours to open: nothing that can be read
        return None


def _is_dicom(path: Path) -> bool:
    return path.name.upper() != "DICOMDIR" and "dicom" in (format_by_suffix(path), _content_format(path))


def find_images(folder: AnyPath) -> list[Path]:
    """All images below a folder, sorted, hidden files left out.

    A DICOM series of several files is one entry: the folder that holds all of them. A DICOM file that is its series'
    only one is an entry of its own, unless a larger series claims its folder.

    Raises:
        DataError: when the folder is missing, is a file, or holds no image.

    Warns:
        UserWarning: when one folder holds several series, of which the reader takes the largest.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise DataError(
            "no such folder" if not folder.exists() else "is a file, not a folder",
            where=folder,
            advice="Check the path.",
        )
    found = scan_folder(folder)
    images = {path for path in found.not_dicom if is_image_path(path)}
    claimed: dict[Path, list[str]] = {}
    singles: list[tuple[Path, str]] = []
    for slices in found.series.values():
        files = {one.path for one in slices}
        if len(files) == 1:
            singles.append((files.pop(), describe_series(slices)))
        else:
            claimed.setdefault(common_folder(files), []).append(describe_series(slices))
    for path, description in singles:
        if path.parent in claimed:
            claimed[path.parent].append(description)
        else:
            images.add(path)
    for parent, names in claimed.items():
        if len(names) > 1:
            warnings.warn(
                f"{parent}: {len(names)} DICOM series in one folder, the largest will be read: {'; '.join(names)}. "
                "Separate them into folders to read each.",
                UserWarning,
                stacklevel=2,
            )
    images.update(claimed)
    if not images:
        raise no_image(folder)
    return sorted(images)


def no_image(folder: Path) -> DataError:
    """The error of a folder in which there is nothing to read."""
    return DataError(
        "no image in this folder", where=folder,
        expected=f"files with {', '.join(IMAGE_SUFFIXES)}, or DICOM series folders",
        advice="Check the path; hidden files are not looked at.",
    )  # fmt: skip


def common_folder(files: set[Path]) -> Path:
    """The folder that holds all of these files, in itself or below it."""
    parents = {path.parent for path in files}
    first, *rest = parents
    return next(p for p in [first, *first.parents] if all(other.is_relative_to(p) for other in rest))


class MedicalImageReader(ImageReader):
    """MONAI reader for NIfTI, NRRD, MetaImage, DICOM files and series folders, PNG/JPEG/TIFF/BMP and ``.npy``.

    Use it as ``LoadImaged(keys="image", reader="medssl_monai.data.readers.MedicalImageReader")`` or pass an instance.
    Several files for one item are stacked as channels, as MONAI's readers do; their shapes and affines must agree.

    Args:
        channel_dim: axis of the channels in ``.npy`` arrays, which do not say it themselves; ``None`` = no channels.
    """

    def __init__(self, channel_dim: int | None = None) -> None:
        super().__init__()
        self.channel_dim = channel_dim

    def verify_suffix(self, filename: Sequence[AnyPath] | AnyPath) -> bool:
        """Whether all named files and folders are images that can be read (see :func:`is_image_path`)."""
        return all(is_image_path(path) for path in _paths(filename))

    def read(self, data: Sequence[AnyPath] | AnyPath, **kwargs: Any) -> tuple[Path, ...]:
        """Note what is to be read; :meth:`get_data` reads it.

        MONAI's ``LoadImage`` answers an exception raised *here* by trying its other readers, of which one may accept
        what this one rightly refuses (a series of mixed sizes, a picture cut short). Raised in :meth:`get_data` it
        reaches the user.

        Args:
            data: one path or several.
            kwargs: none are known; any is a ``TypeError``.
        """
        if kwargs:
            raise TypeError(f"MedicalImageReader.read takes no options, found {', '.join(kwargs)}")
        return _paths(data)

    def get_data(self, img: Sequence[Path]) -> Loaded:
        """Read the images noted by :meth:`read`.

        Returns:
            as :func:`read_image`; several images are stacked on a new first axis, or joined along their channels.

        Raises:
            DataError: when an image cannot be read or several do not fit onto one another.
        """
        loaded = [read_image(path, channel_dim=self.channel_dim) for path in img]
        return loaded[0] if len(loaded) == 1 else _as_channels(loaded, img)


def _paths(data: Sequence[AnyPath] | AnyPath) -> tuple[Path, ...]:
    return (Path(data),) if isinstance(data, str | PathLike) else tuple(Path(path) for path in data)


def _as_channels(loaded: Sequence[Loaded], paths: Sequence[Path]) -> Loaded:
    """Images of one shape and place as the channels of one array."""
    (first, meta), where = loaded[0], paths[0]
    affine: NDArray[np.float64] = meta.get(MetaKeys.AFFINE, np.eye(4))
    for (array, other), path in zip(loaded[1:], paths[1:], strict=True):
        if array.shape != first.shape:
            raise DataError(
                "cannot be a channel beside the first image", where=path, found=f"shape {array.shape}",
                expected=f"shape {first.shape} of {where}", advice="Resample the images onto one grid.",
            )  # fmt: skip
        if not np.allclose(other.get(MetaKeys.AFFINE, np.eye(4)), affine, atol=1e-3):
            raise DataError(
                "cannot be a channel beside the first image", where=path, found="another affine",
                expected=f"the affine of {where}", advice="Resample the images onto one grid.",
            )  # fmt: skip
    arrays = [array for array, _ in loaded]
    if np.isnan(meta[MetaKeys.ORIGINAL_CHANNEL_DIM]):
        return np.stack(arrays), {**meta, MetaKeys.ORIGINAL_CHANNEL_DIM.value: 0}
    return np.concatenate(arrays, axis=-1), meta
