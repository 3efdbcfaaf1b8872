"""Expressions and imports: what does not parse, binds less than it seems to, or uses names that nothing binds."""

from __future__ import annotations

import ast
import builtins
import importlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from monai.bundle import ConfigExpression, ReferenceResolver

from medssl_monai.apps.bundle_check.quiet import cause
from medssl_monai.apps.bundle_check.report import Problem
from medssl_monai.apps.bundle_check.source import Bundle, Stage, texts
from medssl_monai.core import did_you_mean

#: what MONAI binds without an import
_GLOBALS = {"monai", "torch", "np", "numpy"}


def expression_problems(bundle: Bundle, stage: Stage) -> Iterator[Problem]:
    """All ``$`` strings of the stage's own file."""
    imported = _imported(stage)
    bound = _GLOBALS | set(dir(builtins)) | set(imported)
    for where, text in texts(stage.file.content):
        if where.split("::")[0] == "imports" and not text.startswith("$"):
            what = f"{text!r} has no '$', so nothing is imported"
            yield stage.file.problem("MONAI", where, what, f"Write '${text}'.")
        if not ConfigExpression.is_expression(text) or "" in ReferenceResolver.match_refs_pattern(text):
            continue  # a lone '@' is told where references are checked
        code = expression_code(text)
        try:
            statements = ast.parse(code).body
        except (SyntaxError, ValueError) as error:
            what = f"{text!r} is not a Python expression ({getattr(error, 'msg', error)})"
            yield stage.file.problem("MONAI", where, what, "Mend it, or take the '$' away if it is a text.")
            continue
        if statements and isinstance(statements[0], ast.Import | ast.ImportFrom):
            yield from _import_problems(bundle, stage, where, text, statements)
        elif len(statements) != 1 or not isinstance(statements[0], ast.Expr):
            what = f"{text!r} is a statement; MONAI evaluates one expression"
            yield stage.file.problem("MONAI", where, what, "Write an expression, or put the code into a package.")
        else:
            for name in sorted(_free(statements[0]) - bound):
                mend = f"Import it under 'imports' ('$import {name}' or '$from ... import {name}')."
                near = did_you_mean(name, bound - set(dir(builtins)))
                mend = near.strip() if "Did you mean" in near else mend
                yield stage.file.problem("MONAI", where, f"{text!r} uses {name!r}, which nothing binds", mend)
            yield from _attribute_problems(bundle, stage, where, statements[0], imported)


def expression_code(text: str) -> str:
    """The Python of an expression, its references replaced as MONAI replaces them."""
    references = ReferenceResolver.match_refs_pattern(text)
    return ReferenceResolver.update_refs_pattern(text, dict.fromkeys(references))[1:].lstrip(" \t")


def _imported(stage: Stage) -> dict[str, ast.Import | ast.ImportFrom]:
    """Names that the import statements of all the stage's files bind, the first of each statement."""
    names = {}
    for file in stage.files:
        for _, text in texts(file.content):
            if text.startswith("$") and "import" in text:
                try:
                    first = ast.parse(text[1:].lstrip()).body[0]
                except (SyntaxError, ValueError, IndexError):
                    continue
                if isinstance(first, ast.Import | ast.ImportFrom):
                    names[first.names[0].asname or first.names[0].name] = first
    return names


def _attribute_problems(
    bundle: Bundle, stage: Stage, where: str, node: ast.AST, imported: dict[str, ast.Import | ast.ImportFrom]
) -> Iterator[Problem]:
    """``torch.devise``: what a module that an expression names does not have."""
    inner = {id(n.value) for n in ast.walk(node) if isinstance(n, ast.Attribute)}
    for chain in ast.walk(node):
        if not isinstance(chain, ast.Attribute) or id(chain) in inner:
            continue
        parts = ast.unparse(chain).split(".")
        if not all(part.isidentifier() for part in parts):
            continue
        found: Any = _module(bundle, parts[0], imported)
        for depth, part in enumerate(parts[1:], start=1):
            if not isinstance(found, ModuleType):
                break
            if not hasattr(found, part) and not _has_module(found, part):
                near = did_you_mean(part, [name for name in dir(found) if not name.startswith("_")])
                what = f"{'.'.join(parts[:depth])} has no {part!r}"
                mend = near.strip() if "Did you mean" in near else "Mend the name."
                yield stage.file.problem("MONAI", where, what, mend)
                break
            found = getattr(found, part, None)


def _has_module(package: ModuleType, name: str) -> bool:
    return hasattr(package, "__path__") and importlib.util.find_spec(f"{package.__name__}.{name}") is not None


def _module(bundle: Bundle, name: str, imported: dict[str, ast.Import | ast.ImportFrom]) -> ModuleType | None:
    """The installed module that a name is bound to; ``None`` for anything else, and for the bundle's own code."""
    statement = imported.get(name)
    path = {"np": "numpy"}.get(name, name) if name in _GLOBALS else ""
    if statement is not None:
        path = statement.names[0].name
        if isinstance(statement, ast.ImportFrom):
            path = f"{statement.module}.{path}"
    if not path or (bundle.root / path.split(".")[0]).is_dir():
        return None
    try:
        return importlib.import_module(path)
    except ImportError:  # a class or function, or told where imports are checked
        return None


def _free(node: ast.AST) -> set[str]:
    """Names an expression reads and does not bind itself."""
    names = [n for n in ast.walk(node) if isinstance(n, ast.Name)]
    own = {n.id for n in names if not isinstance(n.ctx, ast.Load)}
    own |= {n.arg for n in ast.walk(node) if isinstance(n, ast.arg)}
    return {n.id for n in names if isinstance(n.ctx, ast.Load)} - own - {"__local_refs"}


def _import_problems(
    bundle: Bundle, stage: Stage, where: str, text: str, statements: list[ast.stmt]
) -> Iterator[Problem]:
    file, first = stage.file, statements[0]
    if not isinstance(first, ast.Import | ast.ImportFrom):
        return
    alias = first.names[0]
    if len(first.names) > 1 or len(statements) > 1:
        what = f"{text!r} binds {alias.asname or alias.name!r} only: MONAI reads the first name of an import"
        yield file.problem("MONAI", where, what, "Write one line a name.")
    if isinstance(first, ast.Import) and "." in alias.name and alias.asname is None:
        package, _, module = alias.name.rpartition(".")
        what = f"{text!r} binds nothing that an expression can name"
        yield file.problem("MONAI", where, what, f"Write '$from {package} import {module}', or give it a name by 'as'.")
    module = alias.name if isinstance(first, ast.Import) else f"{first.module or ''}"
    yield from _module_problems(bundle, stage, where, module, alias.name if isinstance(first, ast.ImportFrom) else None)


def _module_problems(bundle: Bundle, stage: Stage, where: str, module: str, attribute: str | None) -> Iterator[Problem]:
    file = stage.file
    if local_file(bundle.root, module) is not None:
        return  # of the bundle itself: not executed here
    top = module.split(".")[0]
    if (bundle.root / top).is_dir():
        what = f"the bundle's folder {top!r} has no module {module!r}"
        yield file.problem("MONAI", where, what, "Add it, or mend the name.")
        return
    if importlib.util.find_spec(top) is None:
        yield missing_package(bundle, stage, where, top)
        return
    try:
        loaded = importlib.import_module(module)
    except Exception as error:
        yield file.problem("MONAI", where, f"{module!r} cannot be imported ({cause(error)})", "Mend the name.")
        return
    if attribute not in (None, "*") and not hasattr(loaded, str(attribute)):
        found = importlib.util.find_spec(f"{module}.{attribute}") if hasattr(loaded, "__path__") else None
        if found is None:
            names = [name for name in dir(loaded) if not name.startswith("_")]
            near = did_you_mean(str(attribute), names)
            mend = near.strip() if "Did you mean" in near else "Mend the name."
            yield file.problem("MONAI", where, f"{module} has no {attribute!r}", mend)


def missing_package(bundle: Bundle, stage: Stage, where: str, top: str) -> Problem:
    """The problem of a package that is not installed, by whether the metadata says that it is needed."""
    packages = {**_mapping(bundle, "required_packages_version"), **_mapping(bundle, "optional_packages_version")}
    declared = any(str(key).replace("-", "_").lower() == top.lower() for key in packages)
    mend = "Install it to have this checked." if declared else "Mend the name, or state it in the metadata."
    rest = "" if declared else ", and 'required_packages_version' does not name it"
    return stage.file.problem("MONAI", where, f"the package {top!r} is not installed{rest}", mend)


def _mapping(bundle: Bundle, key: str) -> dict[str, object]:
    found = bundle.metadata.get(key)
    return found if isinstance(found, dict) else {}


def local_file(root: Path, module: str) -> Path | None:
    """The bundle's own file of a module such as ``scripts.net``; ``None`` where it has none."""
    base = root.joinpath(*module.split(".")) if module else root / " "
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)
