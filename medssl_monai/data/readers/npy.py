"""NumPy's ``.npy`` arrays; pickles are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl_monai.core import DataError
from medssl_monai.data.readers.common import ImageHeader, Loaded, damaged_file, spatial_metadata


def read_numpy(path: Path, channel_dim: int | None = None) -> Loaded:
    """Read a ``.npy`` array; pickles are refused.

    Args:
        path: the file.
        channel_dim: axis of the channels, which the file does not say; moved to the end. ``None`` = no channels.

    Raises:
        DataError: when the file is damaged, holds pickled objects, no numbers, or lacks the channel axis.
    """
    array = _open_numpy(path, None)
    array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    if channel_dim is not None:
        if not -array.ndim <= channel_dim < array.ndim:
            raise DataError(f"has no axis {channel_dim} for the channels", where=path, found=f"shape {array.shape}")
        array = np.moveaxis(array, channel_dim, -1)
    has_channels = channel_dim is not None
    shape = array.shape[:-1] if has_channels else array.shape
    return array, spatial_metadata(shape, affine=None, has_channels=has_channels)


def numpy_header(path: Path, channel_dim: int | None = None) -> ImageHeader:
    """Header of a ``.npy`` file; the values stay on disk."""
    array = _open_numpy(path, "r")
    shape, channels = list(array.shape), 1
    if channel_dim is not None:
        if not -array.ndim <= channel_dim < array.ndim:
            raise DataError(f"has no axis {channel_dim} for the channels", where=path, found=f"shape {array.shape}")
        channels = shape.pop(channel_dim)
    return ImageHeader(tuple(shape), channels, array.dtype.newbyteorder("="))


def _open_numpy(path: Path, mmap_mode: Any) -> NDArray[Any]:
    with damaged_file(path, ".npy", EOFError, OSError, ValueError):
        try:
            array: NDArray[Any] = np.load(path, mmap_mode=mmap_mode, allow_pickle=False)
        except ValueError as error:
            if "pickle" in str(error) or "object" in str(error).lower():
                raise DataError(
                    "holds pickled Python objects, which are never unpickled",
                    where=path,
                    expected="a plain array of numbers",
                    advice="Save it again with numpy.save(path, array.astype('float32'), allow_pickle=False).",
                ) from error
            raise
    if array.dtype.kind not in "biuf" or array.ndim < 2:
        raise DataError(
            "is not an image",
            where=path,
            found=f"type {array.dtype}, shape {array.shape}",
            expected="numbers in two or more axes",
        )
    return array
