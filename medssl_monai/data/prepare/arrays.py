"""npz files of plain arrays; what is pickled in them is never loaded."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from medssl_monai.core import DataError

_HEADERS: dict[tuple[int, int], Callable[[Any], tuple[tuple[int, ...], bool, np.dtype[Any]]]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


class Archive:
    """Arrays of an npz file, read one at a time (the larger MedMNIST+ files do not fit into memory at once).

    Args:
        path: the file.

    Raises:
        DataError: when it is no npz file; the methods: when an array is missing, damaged or pickled.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not zipfile.is_zipfile(path):
            raise DataError("not an npz file", where=path)
        with zipfile.ZipFile(path) as archive:
            self.keys = [name.removesuffix(".npy") for name in archive.namelist()]
        self._held: tuple[str, np.ndarray] | None = None

    def header(self, key: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Shape and type of an array without reading it; pickled content is refused here."""
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(f"{key}.npy") as stream:
                shape, _, dtype = _HEADERS[np.lib.format.read_magic(stream)](stream)
        except (ValueError, KeyError, zipfile.BadZipFile, EOFError) as error:
            raise DataError(f"array {key!r} cannot be read ({error})", where=self.path) from error
        if dtype.hasobject:
            raise DataError(
                f"array {key!r} holds pickled Python objects, which are never loaded: they can run code",
                where=self.path,
                advice="Download the file again from its publisher.",
            )
        return shape, dtype

    def read(self, key: str) -> np.ndarray:
        """An array; the last one read is kept."""
        if self._held is None or self._held[0] != key:
            self._held = None
            try:
                with np.load(self.path, allow_pickle=False) as archive:
                    self._held = (key, archive[key])
            except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
                raise DataError(f"array {key!r} cannot be read ({error})", where=self.path) from error
        return self._held[1]
