"""Pickled NumPy arrays, read without ever running what a pickle may ask for."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl_monai.core import DataError

_REBUILD = np.empty(0).__reduce__()[0]
_SCALAR = np.float64(0).__reduce__()[0]
_FROM_BUFFER = np.empty(0).__reduce_ex__(5)[0]


class _ForbiddenGlobalError(Exception):
    """A pickle asks for something else than the parts of an array."""


class _Latin1:
    """What protocol 2 writes bytes as: ``_codecs.encode(text, "latin1")``, and no other codec."""

    __slots__ = ()

    def __call__(self, text: str, encoding: str) -> bytes:
        if encoding not in ("latin1", "latin-1"):
            raise _ForbiddenGlobalError(f"_codecs.encode with {encoding!r}")
        return text.encode("latin-1")


# NumPy 2 moved numpy.core to numpy._core; the objects are taken from here, nothing is imported by a pickle's word.
_ALLOWED: dict[tuple[str, str], Callable[[], Any]] = {
    **{(f"numpy.{core}.multiarray", "_reconstruct"): lambda: _REBUILD for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): lambda: _SCALAR for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): lambda: _FROM_BUFFER for core in ("core", "_core")},
    ("numpy", "ndarray"): lambda: np.ndarray,
    ("numpy", "dtype"): lambda: np.dtype,
    ("_codecs", "encode"): _Latin1,
}


class _ArrayUnpickler(pickle.Unpickler):
    """Admits the few globals that arrays are made of."""

    def find_class(self, module: str, name: str, /) -> Any:
        if (module, name) not in _ALLOWED:
            raise _ForbiddenGlobalError(f"{module}.{name}")
        return _ALLOWED[module, name]()


def load_pickled_array(path: Path) -> NDArray[Any]:
    """Read a pickle of one NumPy array of numbers, of any protocol and of Python 2 or 3.

    Args:
        path: the file.

    Raises:
        DataError: when the pickle asks for anything else than an array, naming it; nothing of it is then run. Also when
            it is damaged or holds something else than numbers.
    """
    advice = "Download the file again from its publisher; do not open it by other means."
    try:
        with open(path, "rb") as stream:
            # Python 2 wrote an array's bytes as text; latin1 maps them one to one.
            array = _ArrayUnpickler(stream, encoding="latin1").load()
    except _ForbiddenGlobalError as error:
        raise DataError(
            f"is a pickle that asks for {error}, which is no part of an array and is not run", where=path,
            expected="a pickled NumPy array", advice=advice,
        )  from error  # fmt: skip
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror or error})", where=path) from error
    except Exception as error:  # a damaged pickle can raise anything while it is put together
        raise DataError(
            f"cannot be read as a pickled array ({type(error).__name__}: {error})", where=path, advice=advice
        ) from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
        found = f"type {array.dtype}" if isinstance(array, np.ndarray) else type(array).__name__
        raise DataError("holds no array of numbers", where=path, found=found, expected="a pickled NumPy array")
    return array
