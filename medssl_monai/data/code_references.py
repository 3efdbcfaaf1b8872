"""What a function's bytecode refers to, and whether the version of an installed package stands for it."""

from __future__ import annotations

import dis
import functools
import importlib
import importlib.util
import platform
import sys
import sysconfig
import types
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from typing import Any

_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: made by a class statement, not in C


def package_version(package: str) -> str:
    """Version of a distribution, or ``absent``."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def installed_version(module: str) -> str | None:
    """Version that stands for a module's code, or ``None`` for code that may be edited between versions.

    A version stands for the standard library and for packages that have one and lie in ``site-packages`` or
    ``dist-packages``; not for this package.
    """
    package = module.partition(".")[0]
    place = _place(package)
    if package == "medssl_monai" or place is None:
        return None
    if {"site-packages", "dist-packages"} & set(Path(place).parts):
        named = getattr(sys.modules.get(package), "__version__", None)
        return str(named) if named is not None else _distribution_version(package)
    inside = place in ("built-in", "frozen") or any(Path(place).is_relative_to(folder) for folder in _library())
    return platform.python_version() if inside and package in sys.stdlib_module_names else None


def version_of_function(function: types.FunctionType) -> str | None:
    """:func:`installed_version` of where a function was written; its ``__module__`` may be another's (``wraps``)."""
    name = function.__globals__.get("__name__")
    module = sys.modules.get(name) if isinstance(name, str) else None
    if module is None or vars(module) is not function.__globals__:
        return None
    return installed_version(module.__name__)


def version_of_class(cls: type) -> str | None:
    """:func:`installed_version` of a class's module; ``None`` for classes run from a text without a module."""
    if not isinstance(cls.__module__, str):
        return "compiled"
    if cls.__module__ == "builtins" and cls.__flags__ & _HEAP_TYPE:
        return None
    return installed_version(cls.__module__)


class References:
    """A list of the globals that code refers to, each once: what is found while it is emptied joins it.

    Attributes:
        waiting: names, with their module, and values of what is to be described next.
    """

    def __init__(self) -> None:
        self.waiting: list[tuple[str, Any]] = []
        self._found: set[tuple[int, str, bool]] = set()

    def add_function(self, function: types.FunctionType) -> None:
        """Put what a function's code names on the list."""
        for chain in _chains(function.__code__):
            self._follow(function.__globals__, chain)
        for name, taken in _imports(function.__code__, function.__globals__):
            module = _imported(name) if installed_version(name) is None else None
            if module is None:
                self._wait({}, name, f"imported {installed_version(name)}")
            for attribute in taken if module else ():
                if attribute not in vars(module):
                    _imported(f"{name}.{attribute}")  # a submodule; the import puts it there
                self._follow(vars(module), (attribute,))
            if module and not taken:
                self.add_module(module)

    def _follow(self, names: dict[str, Any], chain: tuple[str, ...]) -> None:
        name, *rest = chain
        value = names.get(name, names.get("__getattr__"))  # neither: a builtin, or not there
        if rest and isinstance(value, types.ModuleType) and installed_version(value.__name__) is None:
            self._wait(names, name, f"module {value.__name__}", part=True)
            self._follow(vars(value), tuple(rest))
        elif name in names or "__getattr__" in names:
            self._wait(names, name, value)

    def add_module(self, module: types.ModuleType) -> str:
        """Its name and version; an own module that is handed on as a whole may be used in every part."""
        known = installed_version(module.__name__)
        if known is None:
            for name, value in vars(module).items():
                if not name.startswith("__") or name == "__getattr__":
                    self._wait(vars(module), name, value)
        return f"module {module.__name__} {known}"

    def _wait(self, names: dict[str, Any], name: str, value: Any, part: bool = False) -> None:
        place = (id(names) if names else 0, name, part)
        if place not in self._found:
            self._found.add(place)
            self.waiting.append((f"{names.get('__name__', '')}.{name}".lstrip("."), value))


def built_on(value: Any) -> type:
    """The type in C that a value's class derives from; any but ``object`` may keep content outside the attributes."""
    return next(ancestor for ancestor in type(value).__mro__ if not ancestor.__flags__ & _HEAP_TYPE)


def slots(value: Any) -> dict[str, Any]:
    """What an object keeps in ``__slots__``."""
    kept = {}
    for ancestor in type(value).__mro__:
        for name, member in vars(ancestor).items() if "__slots__" in vars(ancestor) else ():
            if isinstance(member, types.MemberDescriptorType) and hasattr(value, name):
                kept[name] = getattr(value, name)
    return kept


def _chains(code: types.CodeType) -> Iterator[tuple[str, ...]]:
    """Global names a code object and those nested in it load, each with the attributes read off it at once.

    ``helpers.limits.scale`` is ``("helpers", "limits", "scale")``.
    """
    chain: tuple[str, ...] = ()
    for step in dis.get_instructions(code):
        if step.opname in ("EXTENDED_ARG", "CACHE"):
            continue
        if chain and step.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            chain += (step.argval,)
            continue
        if chain:
            yield chain
        chain = (step.argval,) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME") else ()
    for nested in code.co_consts:
        if isinstance(nested, types.CodeType):
            yield from _chains(nested)


def _imports(code: types.CodeType, names: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Modules a code object imports while it runs, in full, each with the names taken from it (none: all of it).

    ``names`` are the function's globals, which say where relative imports start.
    """
    steps = [step for step in dis.get_instructions(code) if step.opname not in ("EXTENDED_ARG", "CACHE")]
    for level, taken, step in zip(steps, steps[1:], steps[2:]):
        if step.opname == "IMPORT_NAME":
            package = names.get("__package__") or str(names.get("__name__", "")).rpartition(".")[0]
            try:
                module = importlib.util.resolve_name("." * level.argval + step.argval, package)
            except ImportError:  # raised again, with its own words, when the function runs
                continue
            yield module, taken.argval or ()
    for nested in code.co_consts:
        if isinstance(nested, types.CodeType):
            yield from _imports(nested, names)


def _imported(module: str) -> types.ModuleType | None:
    """A module as an import statement in a function would get it; ``None`` where there is none."""
    try:
        return importlib.import_module(module)
    except ImportError:
        return None


def _place(package: str) -> str | None:
    """File or folder of a top-level package, without importing it."""
    module = sys.modules.get(package)
    if module is not None:
        folders = list(getattr(module, "__path__", ()))
        origin = getattr(getattr(module, "__spec__", None), "origin", None)
        return getattr(module, "__file__", None) or (folders[0] if folders else origin)
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    return spec.origin or next(iter(spec.submodule_search_locations or ()), None)


@functools.cache
def _library() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    return paths["stdlib"], paths["platstdlib"]


@functools.cache
def _distribution_version(package: str) -> str | None:
    names = packages_distributions().get(package)
    return " ".join(f"{name} {version(name)}" for name in sorted(set(names))) if names else None
