"""Stacks of slices (slices, rows, columns), written as ``.npy`` in the axes of our readers: columns, rows, slices.

Such publications state no voxel spacing. NIfTI would make one up, so the volumes stay arrays.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl_monai.core import DataError
from medssl_monai.data.prepare.source import Material
from medssl_monai.data.readers import image_header
from medssl_monai.data.readers.npy import read_numpy

AXES = "arrays of columns, rows, slices; the publisher states no voxel spacing"


def npy_bytes(array: NDArray[Any]) -> bytes:
    """An array as the content of a ``.npy`` file."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()


def stack_material(target: str, load: Callable[[], NDArray[Any]]) -> Material:
    """A stack as it will stand in the prepared dataset.

    Args:
        target: path of the ``.npy`` file.
        load: reads the stack, (slices, rows, columns).
    """
    return Material.of_bytes(target, lambda: npy_bytes(load().transpose(2, 1, 0)))


def npy_stack(target: str, path: Path) -> Material:
    """The material of a published ``.npy`` stack; its header is checked, its values are read when they are written.

    Raises:
        ValueError: with the reason, ready to follow the file's name, when it is no such stack.
    """
    try:
        header = image_header(path)
    except DataError as error:
        raise ValueError(f"cannot be read ({error.what})") from error
    check_stack(header.shape, header.dtype)
    return stack_material(target, lambda: read_numpy(path)[0])


def check_stack(shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Check that an array can be a stack of slices.

    Raises:
        ValueError: with the reason, ready to follow the file's name.
    """
    if len(shape) != 3 or 0 in shape or dtype.kind not in "iuf":
        raise ValueError(
            f"is no stack of slices: shape {shape}, type {dtype}; expected (slices, rows, columns) of numbers"
        )
    if shape[0] == shape[1] != shape[2]:
        raise ValueError(f"seems to have its slices last: shape {shape}; expected (slices, rows, columns)")
