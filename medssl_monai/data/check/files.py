"""Reading one file of a dataset, for the check: what is in it, or why it cannot be read."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl_monai.core import DataError
from medssl_monai.data.readers import read_image

_MANY_VALUES = 256  # a mask with more values than this is no mask; the rest are not listed
_NO_CHANNELS = "no_channel"
_COPY = "Copy it again from its source."


@dataclass(frozen=True)
class FileFacts:
    """What one file holds.

    Attributes:
        path: relative to the dataset's folder.
        fault: kind of problem that kept the file from being read, or that it has by itself; empty for none.
        message: the fault in words.
        advice: what would mend it.
        shape: spatial shape, in the reader's axis order.
        channels: number of channels; 1 where there is no channel axis.
        dtype: type of the values as read.
        affine: (4, 4) voxel-to-world matrix in mm; ``None`` where the file has none.
        low: smallest finite value.
        high: largest finite value.
        values: for masks, the distinct values (at most 257 of them).
        digest: hash of the content, the same whatever the format it is stored in; empty for masks and faults.
    """

    path: str
    fault: str = ""
    message: str = ""
    advice: str = ""
    shape: tuple[int, ...] = ()
    channels: int = 1
    dtype: str = ""
    affine: NDArray[np.float64] | None = None
    low: float = 0.0
    high: float = 0.0
    values: tuple[float, ...] = ()
    digest: str = ""

    @property
    def readable(self) -> bool:
        """Whether the file gave an array."""
        return bool(self.dtype)


def read_facts(root: Path, path: str, *, is_mask: bool) -> FileFacts:
    """Read a file and describe it; a fault is part of the answer, never an exception.

    Args:
        root: the dataset's folder.
        path: path relative to it.
        is_mask: collect the distinct values instead of the digest.
    """
    full = root / path
    try:
        if not full.exists():
            return FileFacts(
                path, "missing", "no such file", "Put the file there, or take the item out of the datalist."
            )
        if full.is_file() and full.stat().st_size == 0:
            return FileFacts(path, "empty", "the file has no bytes", _COPY)
        array, meta = read_image(full)
    except DataError as error:
        return FileFacts(path, "unreadable", _said(error), error.advice or _COPY)
    except Exception as error:  # a damaged file can raise anything inside the formats' libraries
        text = str(error).strip().splitlines()[:1] or ["no reason given"]
        return FileFacts(path, "unreadable", f"cannot be read ({type(error).__name__}: {text[0]})", _COPY)
    return _describe(path, np.asarray(array), meta, is_mask=is_mask)


def _said(error: DataError) -> str:
    details = [f"{word} {value}" for word, value in (("found", error.found), ("expected", error.expected)) if value]
    return f"{error.what} ({', '.join(details)})" if details else error.what


def _describe(path: str, array: NDArray[Any], meta: dict[str, Any], *, is_mask: bool) -> FileFacts:
    channel_dim = meta.get("original_channel_dim", _NO_CHANNELS)
    has_channels = channel_dim != _NO_CHANNELS and not (isinstance(channel_dim, float) and np.isnan(channel_dim))
    if has_channels:
        array = np.moveaxis(array, int(channel_dim), -1)
    shape = tuple(int(n) for n in (array.shape[:-1] if has_channels else array.shape))
    channels = int(array.shape[-1]) if has_channels else 1
    if array.size == 0:
        return FileFacts(path, "empty", f"the image has no pixels (shape {array.shape})", "Export it again.")
    bad = 0 if array.dtype.kind in "biu" else int(array.size - np.count_nonzero(np.isfinite(array)))
    finite = array if not bad else array[np.isfinite(array)]
    low, high = (finite.min(), finite.max()) if finite.size else (np.float64(0), np.float64(0))
    fault, message, advice = "", "", ""
    if bad:
        fault, message = "not-finite", f"{bad} of {array.size} values are NaN or infinite"
        advice = "Replace them by the background value, or leave the item out."
    elif not is_mask and low == high:
        fault, message = "empty", f"every value is {low:g}: the image shows nothing"
        advice = "Export it again, or leave the item out."
    affine = meta.get("affine")
    return FileFacts(
        path, fault, message, advice, shape, channels, str(array.dtype),
        affine=None if affine is None else np.asarray(affine, dtype=np.float64),
        low=float(low), high=float(high),
        values=distinct_values(finite) if is_mask else (),
        digest="" if is_mask or fault else content_digest(array, has_channels=has_channels),
    )  # fmt: skip


def distinct_values(array: NDArray[Any]) -> tuple[float, ...]:
    """The distinct values in ascending order, the first 257 of them."""
    if array.size == 0:
        return ()
    if array.dtype.kind in "biu":
        low, high = int(array.min()), int(array.max())
        if high - low < 2**16:  # counting is many times faster than sorting
            offsets = np.subtract(array, low, dtype=np.int64) if low else array
            return tuple(float(v + low) for v in np.flatnonzero(np.bincount(offsets.ravel()))[: _MANY_VALUES + 1])
    return tuple(float(value) for value in np.unique(array)[: _MANY_VALUES + 1])


def content_digest(array: NDArray[Any], *, has_channels: bool) -> str:
    """Hash of an image's values that does not depend on how they are stored.

    Values count, not their type (the same numbers as 8-bit integers or as floats are the same), axes of length one do
    not, three equal colour channels are one grey channel, and a 2-D image is the same as its transpose (formats differ
    in the order of the axes).

    Args:
        array: finite values.
        has_channels: whether the last axis holds channels.
    """
    if has_channels and array.shape[-1] > 1 and (array == array[..., :1]).all():
        array, has_channels = array[..., 0], False
    rank = array.ndim - has_channels
    array = array.reshape([n for n in array.shape[:rank] if n > 1] + list(array.shape[rank:]))
    array = _plainest(array)
    digest = _digest(array)
    if array.ndim - has_channels == 2:
        digest = min(digest, _digest(np.swapaxes(array, 0, 1)))
    return digest


def _plainest(array: NDArray[Any]) -> NDArray[Any]:
    """The same values in the narrowest type that holds them all exactly."""
    low, high = array.min(), array.max()
    is_small = max(abs(float(low)), abs(float(high))) < 2**53
    if array.dtype.kind in "biu" or (is_small and bool((np.rint(array) == array).all())):
        dtype = np.result_type(np.min_scalar_type(int(low)), np.min_scalar_type(int(high)))
        return array.astype(dtype)
    with np.errstate(over="ignore"):
        single = array.astype(np.float32)
    return single if bool((single == array).all()) else array.astype(np.float64)


def _digest(array: NDArray[Any]) -> str:
    digest = hashlib.blake2b(f"{array.dtype.kind}{array.dtype.itemsize}{array.shape}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
