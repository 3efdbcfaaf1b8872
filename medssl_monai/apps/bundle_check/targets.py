"""Components: every ``_target_`` must be importable and accept the arguments written beside it."""

from __future__ import annotations

import ast
import difflib
import importlib.util
import inspect
from collections.abc import Iterator
from functools import cache
from pydoc import ErrorDuringImport, locate
from typing import Any

from monai.bundle import ComponentLocator, ConfigComponent, ConfigParser

from medssl_monai.apps.bundle_check.expressions import local_file, missing_package
from medssl_monai.apps.bundle_check.own_code import own_parameters
from medssl_monai.apps.bundle_check.quiet import cause
from medssl_monai.apps.bundle_check.report import Problem
from medssl_monai.apps.bundle_check.source import Bundle, Stage, components, texts

_SPECIAL = ConfigComponent.non_arg_keys
_MODES = ("default", "callable", "debug")
_NAMED = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY


def target_problems(bundle: Bundle, stage: Stage) -> Iterator[Problem]:
    """All components of the merged configuration; macros' copies of its own parts are told where they are written."""
    config: Any = stage.parser.config
    written = (entry for file in stage.files for entry in texts(file.content))
    copies = {where for where, text in written if text.startswith("%") and not ConfigParser.split_path_id(text[1:])[0]}
    for where, node in components({key: value for key, value in config.items() if key != "_meta_"}):
        parts = where.split("::")
        if any("::".join(parts[:depth]) in copies for depth in range(1, len(parts) + 1)):
            continue
        near = [(key, n) for key in node for n in _likeness(str(key))]
        for key, special in near:
            what = f"unknown key {key!r}"
            yield stage.file.problem("MONAI", f"{where}::{key}", what, f"Did you mean {special!r}?")
        if "_target_" in node:
            spoiled = {key for key, _ in near}
            yield from _component_problems(bundle, stage, where, {k: v for k, v in node.items() if k not in spoiled})


def _likeness(key: str) -> list[str]:
    """The special key that another one is probably meant to be."""
    if key in _SPECIAL or not key.startswith("_") or key in ("_meta_", "_debug_"):
        return []
    return difflib.get_close_matches(key, sorted(_SPECIAL), n=1, cutoff=0.75)


def _component_problems(bundle: Bundle, stage: Stage, where: str, node: dict[str, Any]) -> Iterator[Problem]:
    file, target, place = stage.file, node["_target_"], f"{where}::_target_"
    mode = str(node.get("_mode_", "default"))
    if mode not in _MODES and not mode.startswith(("$", "@")):
        what = f"MONAI has no mode {mode!r} (found: {', '.join(_MODES)})"
        mend = "Write 'callable': with arguments it makes a functools.partial." if mode == "partial" else "Use one."
        yield file.problem("MONAI", f"{where}::_mode_", what, mend)
    elif mode == "debug":
        yield file.problem("MONAI", f"{where}::_mode_", "stops in the debugger", "Take '_mode_: debug' out.")
    if not isinstance(target, str) or not target:
        yield file.problem("MONAI", place, f"is {target!r}, not a name", "Name a class or function.")
        return
    if target.startswith(("$", "@")):
        return  # known only when the bundle runs
    if bundle.house and "." in target and not target.startswith(("medssl_monai.", "monai.", "torch.", "ignite.")):
        what = f"{target} is neither ours nor of MONAI, Ignite or torch"
        yield file.problem("house", place, what, "Put the code into the package.")
    found, problem = _resolve(bundle, stage, place, target)
    own = None if problem is not None or "." not in target else local_file(bundle.root, target.rpartition(".")[0])
    if problem is not None:
        yield problem
    elif own is not None:
        parameters = own_parameters(own.read_text(encoding="utf-8"), target.rpartition(".")[2])
        if parameters is not None:
            yield from _argument_problems(stage, where, node, target, parameters, set())
    elif found is not None and not callable(found):
        what = f"{target} is no class or function"
        yield file.problem("MONAI", place, what, "Refer to it by an expression, '$...'.")
    elif found is not None:
        try:
            parameters = list(inspect.signature(found).parameters.values())
        except (TypeError, ValueError):
            return  # built in C: its arguments cannot be seen
        yield from _argument_problems(stage, where, node, target, parameters, _inherited(found))


def _resolve(bundle: Bundle, stage: Stage, place: str, target: str) -> tuple[Any, Problem | None]:
    """What a target names; ``None`` without a problem where that is not executed here."""
    file = stage.file
    if "." not in target:
        modules = _table().get(target)
        if modules is None:
            near = difflib.get_close_matches(target, _table(), n=1, cutoff=0.7)
            mend = f"Did you mean {near[0]!r}?" if near else "Write the full path, package.module.Class."
            return None, file.problem("MONAI", place, f"MONAI has no {target!r}, and only its names may be short", mend)
        return locate(f"{modules[0]}.{target}"), None
    module, _, name = target.rpartition(".")
    own = local_file(bundle.root, module)
    if own is not None:
        if name in _defined(own.read_text(encoding="utf-8")):
            return None, None
        return None, file.problem("MONAI", place, f"{module} does not define {name!r}", "Mend the name.")
    top = target.split(".")[0]
    if importlib.util.find_spec(top) is None:
        return None, missing_package(bundle, stage, place, top)
    try:
        found = locate(target)
    except ErrorDuringImport as error:
        return None, file.problem("MONAI", place, f"importing {target} fails ({cause(error.value)})", "")  # type: ignore[arg-type]
    if found is None:
        parent = locate(module)
        near = difflib.get_close_matches(name, dir(parent) if parent is not None else [], n=1, cutoff=0.6)
        mend = f"Did you mean '{module}.{near[0]}'?" if near else "Mend the path."
        return None, file.problem("MONAI", place, f"{target} does not exist", mend)
    return found, None


def _defined(code: str) -> set[str]:
    """Names that a module's top level binds, read without executing it."""
    try:
        body = ast.parse(code).body
    except SyntaxError:
        return set()
    names = {n.name for n in body if isinstance(n, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)}
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        names |= {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return names


def _argument_problems(
    stage: Stage,
    where: str,
    node: dict[str, Any],
    target: str,
    parameters: list[inspect.Parameter],
    inherited: set[str],
) -> Iterator[Problem]:
    """Arguments that are not taken, and those that are missing; one that is meant to be another is told once."""
    given = {str(key) for key in node if key not in _SPECIAL}
    names = [p.name for p in parameters if p.kind in _NAMED]
    missing = [p.name for p in parameters if p.kind in _NAMED and p.default is p.empty and p.name not in given]
    anything = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
    known = {*names, *inherited} if anything else set(names)
    for key in sorted(given - known):
        # what is accepted like anything else is a fault only where it is all but the name of a known argument
        options, cutoff = (known - given, 0.88) if anything else ([*names, *_SPECIAL], 0.6)
        near = difflib.get_close_matches(key, missing, n=1, cutoff=0.6)
        near = near or difflib.get_close_matches(key, options, n=1, cutoff=cutoff)
        missing = [name for name in missing if name not in near]
        if near or not anything:
            mend = f"Did you mean {near[0]!r}?" if near else f"It takes: {', '.join(names) or 'nothing'}."
            of_its_own = f"has no argument {key!r} of its own" if anything else f"takes no argument {key!r}"
            yield stage.file.problem("MONAI", f"{where}::{key}", f"{target} {of_its_own}", mend)
    disabled = str(node.get("_disabled_", "")).strip().lower() == "true"
    if node.get("_mode_", "default") != "default" or disabled:
        return
    for p in parameters:
        positional = p.kind is inspect.Parameter.POSITIONAL_ONLY and p.default is p.empty
        if positional or p.name in missing:
            mend = "It takes it by position only: use an expression, '$...'." if positional else "Give it."
            yield stage.file.problem("MONAI", where, f"{target} needs the argument {p.name!r}", mend)


def _inherited(found: Any) -> set[str]:
    """Named arguments of a class's bases, to which it passes what it does not know itself."""
    names: set[str] = set()
    for base in inspect.getmro(found)[1:-1] if inspect.isclass(found) else ():
        try:
            names |= {p.name for p in inspect.signature(base).parameters.values() if p.kind in _NAMED}
        except (TypeError, ValueError):
            continue
    return names


@cache
def _table() -> dict[str, list[str]]:
    """MONAI's classes and functions by short name, as its configurations find them."""
    locator = ComponentLocator()
    return locator._find_classes_or_functions(locator._find_module_names())
