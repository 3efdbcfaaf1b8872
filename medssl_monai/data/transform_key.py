"""A key for what a chain of transforms does: class, arguments, code of our own and versions; the same in every process.

MONAI can hash transforms by pickling them; but pickles of equal objects differ (shared strings, order of sets), do not
see a changed method, and lambdas have none.
"""

from __future__ import annotations

import copyreg
import enum
import functools
import hashlib
import inspect
import io
import logging
import platform
import threading
import types
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import ImageReader, MetaTensor
from monai.utils import TraceKeys

from medssl_monai.core import ConfigError, text_digest
from medssl_monai.data.code_references import (
    References,
    built_on,
    package_version,
    slots,
    version_of_class,
    version_of_function,
)

_PACKAGES = ("medssl-monai", "monai", "torch", "numpy", "scipy", "nibabel", "itk", "pydicom", "pillow", "scikit-image")
_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(...), type(NotImplemented))
_NAMED = (torch.dtype, torch.device, np.dtype, torch.Size, torch.memory_format, range, slice)
_ALIASES = (types.GenericAlias, types.UnionType)
# what a transform has done so far (draws made, tracing in this thread, files read) is no part of what it does
_STATE = (np.random.RandomState, np.random.Generator, torch.Generator, threading.local)
_READER_STATE = ("filenames", "has_series")
# what Python keeps in a class besides the members that were written
_CLASS_STATE = {
    "__dict__", "__weakref__", "__module__", "__doc__", "__qualname__", "__firstlineno__", "__static_attributes__",
    "__annotations__", "__parameters__", "__orig_bases__", "__dataclass_fields__", "__dataclass_params__", "_abc_impl",
}  # fmt: skip
_DESCRIPTORS = (
    types.MemberDescriptorType, types.GetSetDescriptorType, types.WrapperDescriptorType, types.MethodWrapperType,
    types.MethodDescriptorType, types.ClassMethodDescriptorType,
)  # fmt: skip


def transform_key(transforms: Iterable[Any]) -> str:
    """SHA-256, hexadecimal, of what ``transforms`` compute.

    Noticed is a change of

    - a transform's class, attributes and place in the chain;
    - the bytecode, defaults, closure and attributes of the user's own functions, and the members of own classes and
      their own ancestors. Own is what no version stands for: everything outside the standard library and outside
      packages that have a version and lie in ``site-packages`` or ``dist-packages`` (a package installed in editable
      mode is own, and so is this package);
    - every global such code names, as it is now: numbers, texts, arrays and containers by content, own functions,
      classes and objects in the same way as above, own modules by the attributes read off them (all, when the module
      itself is handed on), modules imported inside a function by the names taken from them;
    - the versions of Python, of the packages that read and transform images, and of each package named by the above.

    Not noticed is a change of files that a transform reads by itself, of environment variables, of what is looked up
    by a text (``getattr(module, name)``, ``globals()[name]``, ``eval``), of compiled modules of the user's own, and
    of installed packages edited in place under the same version. Loggers count by their name. A changed docstring
    or a renamed variable gives another key too: the items are prepared once more.

    Raises:
        ConfigError: when a setting or a global cannot be described, so that a change of it would go unnoticed.
    """
    parts = [f"python {platform.python_version()}", *(f"{name} {package_version(name)}" for name in _PACKAGES)]
    work = _Description()
    for number, transform in enumerate(transforms):
        try:
            parts += [*work.describe(transform, ())]
            work.describe_globals()
        except _IndescribableError as error:
            raise ConfigError(
                f"transform {number} ({type(transform).__name__}) cannot be a part of the cache key: {error} has no "
                "comparable value", where="cache_dir",
                advice="Put it behind the first random transform, or give it plain settings (numbers, texts, arrays).",
            ) from error  # fmt: skip
    return text_digest(parts + sorted(work.globals))


def value_texts(values: Mapping[Any, Any]) -> list[str]:
    """Texts that differ where the entries of a mapping differ, whatever they hold.

    Arrays and tensors count by type, shape and content (``MetaTensor`` with its metadata), everything else as in
    :func:`transform_key`; the order of the entries does not.

    Raises:
        ValueError: when an entry has neither content nor code to compare; the message names it.
    """
    work = _Description()
    try:
        parts = sorted(
            "\0".join([*work.describe(key, ()), *work.describe_named("the entry ", repr(key), value, ())])
            for key, value in values.items()
        )
        work.describe_globals()
    except _IndescribableError as error:
        raise ValueError(f"{error} has no comparable value") from error
    return parts + sorted(work.globals)


class _IndescribableError(TypeError):
    """A value that has neither content nor code to compare."""

    def __init__(self, kind: str, owner: str = "its setting ", path: str = "") -> None:
        super().__init__(f"{owner}{path}{' ' if path else ''}of type {kind}")
        self.kind, self.owner, self.path = kind, owner, path


class _Description:
    """Texts that differ where values differ; what code refers to is described once, so that recursion ends."""

    def __init__(self) -> None:
        self.globals: list[str] = []
        self._references = References()

    def describe_globals(self) -> None:
        """Describe what the code met so far refers to, what that refers to, and so on."""
        while self._references.waiting:
            name, value = self._references.waiting.pop()
            try:
                self.globals.append("\0".join([f"global {name}", *self.describe(value, ())]))
            except _IndescribableError as error:
                inside = f" ({error.owner}{error.path})" if error.path else ""
                raise _IndescribableError(error.kind, "the global ", name + inside) from error

    def describe(self, value: Any, above: tuple[int, ...]) -> Iterator[str]:
        """Texts of a value; ``above`` are the ids of the objects this one is a part of."""
        if isinstance(value, _PLAIN) and not isinstance(value, enum.Enum) and type(value).__module__ == "builtins":
            yield f"{type(value).__name__} {value!r}"
        elif isinstance(value, (*_NAMED, np.generic)):
            yield f"{_name(type(value))} {value!r}"
        elif isinstance(value, Path):
            yield f"path {value}"
        elif isinstance(value, logging.Logger):
            yield f"logger {value.name}"
        elif id(value) in above:
            yield f"above {above[::-1].index(id(value))}"
        elif isinstance(value, (torch.Tensor, np.ndarray)):
            yield from self._content(value, (*above, id(value)))
        else:
            yield from self._parts(value, (*above, id(value)))

    def _content(self, array: torch.Tensor | np.ndarray, above: tuple[int, ...]) -> Iterator[str]:
        """Type, shape, a digest of the bytes, and what a class of arrays keeps beside them (the affine, a mask)."""
        if isinstance(array, torch.Tensor):
            if array.layout != torch.strided or array.is_nested or array.is_quantized or array.is_meta:
                kind = "on no device" if array.is_meta else "quantized" if array.is_quantized else f"({array.layout})"
                raise _IndescribableError(f"{_name(type(array))} {kind}")
            plain = array.detach().as_subclass(torch.Tensor).cpu().resolve_conj().resolve_neg().flatten().contiguous()
            content = plain.view(torch.uint8).numpy()
        elif array.dtype.hasobject:
            yield from self.describe(array.tolist(), above)
            content = np.empty(0, np.uint8)
        else:
            content = np.frombuffer(np.ascontiguousarray(np.asarray(array)).tobytes(), np.uint8)
        yield f"{_name(type(array))} {array.dtype} {tuple(array.shape)} {hashlib.sha256(content.data).hexdigest()}"
        if isinstance(array, MetaTensor):
            # what was applied before is for inverting only, and names objects by their place in memory
            pending = [{k: v for k, v in step.items() if k != TraceKeys.ID} for step in array.pending_operations]
            for name, value in (("meta", array.meta), ("pending_operations", pending), ("is_batch", array.is_batch)):
                yield from self.describe_named("its setting ", name, value, above)
        elif type(array) not in (torch.Tensor, torch.nn.Parameter, np.ndarray, np.memmap):
            yield from self._class(type(array), above)
            yield from self._attributes(array, above)

    def _parts(self, value: Any, above: tuple[int, ...]) -> Iterator[str]:
        if isinstance(value, _ALIASES):
            yield f"alias {value!r}"
        elif isinstance(value, type):
            yield from self._class(value, above)
        elif isinstance(value, types.ModuleType):
            yield self._references.add_module(value)
        elif isinstance(value, enum.Enum):
            yield from [f"{_name(type(value))}.{value.name}", *self.describe(value.value, above)]
        elif isinstance(value, (Mapping, set, frozenset, list, tuple)):
            yield from self._container(value, above)
        elif isinstance(value, functools.partial):
            yield from ["partial", *self.describe([value.func, value.args, value.keywords], above)]
        elif isinstance(value, types.MethodType):
            yield from ["method", *self.describe([value.__func__, value.__self__], above)]
        elif isinstance(value, (staticmethod, classmethod)):
            yield from [type(value).__name__, *self.describe(value.__func__, above)]
        elif isinstance(value, property):
            yield from ["property", *self.describe([value.fget, value.fset, value.fdel], above)]
        elif isinstance(value, functools.cached_property):
            yield from ["cached property", *self.describe(value.func, above)]
        elif isinstance(value, types.FunctionType):
            yield from self._function(value, above)
        elif isinstance(value, _DESCRIPTORS):
            yield f"descriptor {value.__qualname__}"
        elif isinstance(value, (types.BuiltinFunctionType, np.ufunc)):
            yield f"function {getattr(value, '__module__', '')}.{value.__name__}"
            owner = getattr(value, "__self__", None)
            if not isinstance(owner, (types.ModuleType, type)):  # {"a": 1}.get
                yield from self.describe(owner, above)
        else:
            yield from self._object(value, above)

    def _container(self, value: Any, above: tuple[int, ...]) -> Iterator[str]:
        if type(value).__module__ != "builtins":
            yield from self._class(type(value), above)
            yield from self._attributes(value, above)
        yield f"{_name(type(value))} of {len(value)}"
        if isinstance(value, Mapping):
            yield from sorted("\0".join([*self.describe(k, above), *self.describe(v, above)]) for k, v in value.items())
        elif isinstance(value, (set, frozenset)):
            yield from sorted("\0".join(self.describe(entry, above)) for entry in value)
        else:
            for entry in value:
                yield from self.describe(entry, above)

    def _object(self, value: Any, above: tuple[int, ...]) -> Iterator[str]:
        """Class and attributes; what keeps content elsewhere (a pattern, a kind of text) tells how it is made anew."""
        if isinstance(value, io.IOBase):
            raise _IndescribableError(_name(type(value)))
        yield from self._class(type(value), above)
        if built_on(value) is object and (hasattr(value, "__dict__") or slots(value)):
            yield from self._attributes(value, above)
            return
        try:
            remake: Any = copyreg.dispatch_table.get(type(value))
            made = remake(value) if remake else value.__reduce_ex__(2)
        except TypeError as error:
            raise _IndescribableError(_name(type(value))) from error
        if isinstance(made, str):
            yield f"named {getattr(value, '__module__', '')}.{made}"
        else:
            yield from self.describe([list(part) if isinstance(part, Iterator) else part for part in made], above)

    def _attributes(self, value: Any, above: tuple[int, ...]) -> Iterator[str]:
        for name, entry in sorted({**getattr(value, "__dict__", {}), **slots(value)}.items()):
            if isinstance(entry, _STATE) or (isinstance(value, ImageReader) and name in _READER_STATE):
                continue
            yield f".{name}"
            yield from self.describe_named("its setting ", name, entry, above)

    def describe_named(self, owner: str, name: str, value: Any, above: tuple[int, ...]) -> Iterator[str]:
        """A part of something; of a refusal, its name is told unless a part further inside has told its own."""
        try:
            yield from self.describe(value, above)
        except _IndescribableError as error:
            raise error if error.path else _IndescribableError(error.kind, owner, name) from error

    def _class(self, cls: type, above: tuple[int, ...]) -> Iterator[str]:
        """Name and version of a class and its ancestors; for own ones what they and their methods are made of."""
        for ancestor in (*cls.__mro__, *inspect.getmro(type(cls))[:-2]):
            known = version_of_class(ancestor)
            yield f"class {_name(ancestor)} {known}"
            if known is None:
                for name, member in sorted(vars(ancestor).items()):
                    if name not in _CLASS_STATE:
                        yield f"member {name}"
                        yield from self.describe_named(f"the member of {_name(ancestor)} ", name, member, above)

    def _function(self, function: types.FunctionType, above: tuple[int, ...]) -> Iterator[str]:
        known = version_of_function(function)
        yield f"function {function.__module__}.{function.__qualname__} {known}"
        if known is not None and not function.__closure__ and "<lambda>" not in function.__qualname__:
            return
        yield from self._bytecode(function.__code__)
        yield from self.describe([function.__defaults__, function.__kwdefaults__], above)
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or ()):
            if cell != types.CellType():  # an empty one: the variable has not been set yet
                yield from self.describe_named("the variable ", name, cell.cell_contents, above)
        if known is None:
            yield from self.describe(vars(function), above)
            self._references.add_function(function)

    def _bytecode(self, code: types.CodeType) -> Iterator[str]:
        yield f"{code.co_code.hex()} {code.co_exceptiontable.hex()} {code.co_names} {code.co_varnames}"
        yield f"{code.co_flags} {code.co_argcount} {code.co_posonlyargcount} {code.co_kwonlyargcount}"
        yield f"{code.co_freevars} {code.co_cellvars}"
        for constant in code.co_consts:
            # the order of a constant set differs between processes
            yield from self._bytecode(constant) if isinstance(constant, types.CodeType) else self.describe(constant, ())


def _name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
