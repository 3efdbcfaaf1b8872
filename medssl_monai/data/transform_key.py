"""A key for what a chain of transforms does: class, arguments, code of our own and versions; the same in every process.

MONAI can hash transforms by pickling them; but pickles of equal objects differ (shared strings, order of sets), do not
see a changed method, and lambdas have none.
"""

from __future__ import annotations

import enum
import functools
import inspect
import sys
import threading
import types
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import ImageReader

from medssl_monai.core import ConfigError, text_digest

_PACKAGES = ("medssl-monai", "monai", "torch", "numpy", "scipy", "nibabel", "itk", "pydicom", "pillow", "scikit-image")
_PLAIN = (type(None), bool, int, float, complex, str, bytes)
_NAMED = (torch.dtype, torch.device, np.dtype, torch.Size, torch.memory_format, range, slice)
# what a transform has done so far (draws made, tracing in this thread, files read) is no part of what it does
_STATE = (np.random.RandomState, np.random.Generator, torch.Generator, threading.local)
_READER_STATE = ("filenames", "has_series")


def transform_key(transforms: Iterable[Any]) -> str:
    """SHA-256, hexadecimal, of what ``transforms`` compute.

    It covers each transform's class and attributes, the source code of classes and functions that belong to no package
    of a known version (the user's own and this package's), and the versions of the packages that read and transform
    images.

    Raises:
        ConfigError: when an attribute cannot be described, so that a change of it would go unnoticed.
    """
    parts = [f"{name} {_version(name)}" for name in _PACKAGES]
    for number, transform in enumerate(transforms):
        try:
            parts += _describe(transform, ())
        except _IndescribableError as error:
            raise ConfigError(
                f"transform {number} ({type(transform).__name__}) cannot be a part of the cache key: its setting "
                f"{error} has no comparable value", where="cache_dir",
                advice="Put it behind the first random transform, or give it plain settings (numbers, texts, arrays).",
            ) from error  # fmt: skip
    return text_digest(parts)


class _IndescribableError(TypeError):
    """A value that has neither content nor code to compare."""


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def _describe(value: Any, above: tuple[int, ...]) -> Iterator[str]:
    """Texts that differ where values differ; ``above`` are the ids of the objects this one is a part of."""
    if isinstance(value, enum.Enum):
        yield f"{_name(type(value))}.{value.name}"
    elif isinstance(value, _PLAIN):
        yield f"{type(value).__name__} {value!r}"
    elif isinstance(value, (*_NAMED, np.generic)):
        yield f"{_name(type(value))} {value!r}"
    elif isinstance(value, Path):
        yield f"path {value}"
    elif isinstance(value, (torch.Tensor, np.ndarray)):
        yield f"{_name(type(value))} {value.dtype} {tuple(value.shape)}"
        yield _content(value)
    elif id(value) in above:
        yield f"above {above[::-1].index(id(value))}"
    else:
        yield from _describe_parts(value, (*above, id(value)))


def _content(array: torch.Tensor | np.ndarray) -> str:
    if isinstance(array, np.ndarray):
        return repr(array.tolist()) if array.dtype == object else array.tobytes().hex()
    plain = torch.as_tensor(array.detach().cpu()).flatten().contiguous()
    return plain.view(torch.uint8).numpy().tobytes().hex()


def _describe_parts(value: Any, above: tuple[int, ...]) -> Iterator[str]:
    if isinstance(value, Mapping):
        entries = sorted(["\0".join([*_describe(k, above), *_describe(v, above)]) for k, v in value.items()])
        yield f"{_name(type(value))} of {len(entries)}"
        yield from entries
    elif isinstance(value, (set, frozenset)):
        yield f"set of {len(value)}"
        yield from sorted("\0".join(_describe(entry, above)) for entry in value)
    elif isinstance(value, (list, tuple)):
        yield f"{_name(type(value))} of {len(value)}"
        for entry in value:
            yield from _describe(entry, above)
    elif isinstance(value, types.ModuleType):
        yield f"module {value.__name__} {getattr(value, '__version__', '')}"
    elif isinstance(value, type):
        yield from _code(value)
    elif isinstance(value, functools.partial):
        yield "partial"
        yield from _describe([value.func, value.args, value.keywords], above)
    elif isinstance(value, types.MethodType):
        yield f"method {value.__func__.__qualname__}"
        yield from _describe(value.__self__, above)
    elif isinstance(value, types.FunctionType):
        yield from _function(value, above)
    elif isinstance(value, (types.BuiltinFunctionType, np.ufunc)):
        yield f"function {getattr(value, '__module__', '')}.{value.__name__}"
    else:
        yield from _object(value, above)


def _object(value: Any, above: tuple[int, ...]) -> Iterator[str]:
    attributes = getattr(value, "__dict__", None)
    if attributes is None:
        raise _IndescribableError(f"of type {_name(type(value))}")
    yield from _code(type(value))
    for name, entry in sorted(attributes.items()):
        if isinstance(entry, _STATE) or (isinstance(value, ImageReader) and name in _READER_STATE):
            continue
        yield f".{name}"
        try:
            yield from _describe(entry, above)
        except _IndescribableError as error:
            raise _IndescribableError(f"{name} {error}" if str(error).startswith("of ") else str(error)) from error


def _code(cls: type) -> Iterator[str]:
    """Name of a class, with the source of itself and its ancestors outside packages whose version is known."""
    for ancestor in cls.__mro__:
        yield _name(ancestor)
        if not _versioned(ancestor.__module__):
            try:
                yield inspect.getsource(ancestor)
            except (OSError, TypeError):  # made in an interactive session: its methods' code stands for it
                for name, member in sorted(vars(ancestor).items()):
                    if isinstance(member, types.FunctionType):
                        yield name
                        yield from _function(member, ())


def _function(function: types.FunctionType, above: tuple[int, ...]) -> Iterator[str]:
    yield f"function {function.__module__}.{function.__qualname__}"
    if _versioned(function.__module__) and not function.__closure__ and "<lambda>" not in function.__qualname__:
        return
    yield from _bytecode(function.__code__)
    yield from _describe([function.__defaults__, function.__kwdefaults__], above)
    for cell in function.__closure__ or ():
        yield from _describe(cell.cell_contents, above)


def _bytecode(code: types.CodeType) -> Iterator[str]:
    yield f"{code.co_code.hex()} {code.co_names} {code.co_varnames}"
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _bytecode(constant)
        elif constant is ...:
            yield "..."
        else:
            yield from _describe(constant, ())  # the order of a constant set differs between processes


def _versioned(module: str) -> bool:
    """Whether a module belongs to a package whose version stands for its code; ours is edited between versions."""
    package = module.split(".")[0]
    return package != "medssl_monai" and (
        package in sys.stdlib_module_names or getattr(sys.modules.get(package), "__version__", None) is not None
    )


def _name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
