"""Data keys that start with another one's name: MONAI 1.6's ``Spacingd`` takes those for metadata and fails."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Any

from medssl_monai.apps.bundle_check.expressions import expression_code
from medssl_monai.apps.bundle_check.report import Problem
from medssl_monai.apps.bundle_check.source import Bundle, Stage, components, texts

#: entries of a record that are dictionaries, which MONAI keeps beside an image on purpose
_BESIDE = ("_meta_dict", "_transforms")
_SPACING = ("Spacingd", "SpacingD", "SpacingDict")


def data_key_problems(bundle: Bundle, stage: Stage) -> Iterator[Problem]:
    """Keys that transforms of the stage's own file name, or that its expressions and lists of records make."""
    prefixes: set[str] = set()
    spaced: set[str] = set()
    config: Any = stage.parser.config
    for _, node in components({k: v for k, v in config.items() if k != "_meta_"}):
        if "_target_" in node:
            prefixes |= set(_words(node.get("keys")))
        if str(node.get("_target_", "")).split(".")[-1] in _SPACING:
            spaced |= set(_words(node.get("keys")))
    named = list(_named(stage))
    found: dict[str, tuple[str, set[str]]] = {}
    for key, where in named:
        found.setdefault(key, (where, {key for key, _ in named}))
    for where, keys, extends in _records(stage):
        for key in keys:
            # a mapping that lacks the image is a record only where it is added to another one
            found.setdefault(key, (where, prefixes if extends else prefixes & keys))
    for key, (where, others) in found.items():
        for other in sorted(others):
            if not key.startswith(f"{other}_") or key.endswith(_BESIDE) or not (bundle.house or other in spaced):
                continue
            what = f"the data key {key!r} starts with {other!r} and '_', which Spacingd takes for metadata"
            mend = f"Name it the other way round, as in {'_'.join(reversed(key.split('_', 1)))!r}."
            yield stage.file.problem("MONAI" if other in spaced else "house", where, what, mend)


def _named(stage: Stage) -> Iterator[tuple[str, str]]:
    for where, node in components(stage.file.content):
        for name in ("keys", "names", "output_keys"):
            # what a component's own list of names is good for is known only where it has a target
            for key in _words(node.get(name)) if "_target_" in node else ():
                yield key, f"{where}::{name}"


def _records(stage: Stage) -> Iterator[tuple[str, set[str], bool]]:
    """Mappings that can be records of a dataset: place, their keys as far as written, and whether they add to others.

    They are the mappings without a target in lists, and ``{...}`` and ``dict(...)`` in expressions.
    """
    for where, mapping in components(stage.file.content):
        if "_target_" not in mapping and where.rpartition("::")[2].isdigit():
            yield where, set(_words(list(mapping))), False
    for where, text in texts(stage.file.content):
        if not text.startswith("$"):
            continue
        try:
            nodes = list(ast.walk(ast.parse(expression_code(text))))
        except (SyntaxError, ValueError):  # reported where expressions are checked
            continue
        for node in nodes:
            if isinstance(node, ast.Dict):
                keys = [key.value for key in node.keys if isinstance(key, ast.Constant)]
                yield where, set(_words(keys)), None in node.keys
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
                names = [word.arg for word in node.keywords]
                yield where, set(_words(names)), bool(node.args) or None in names


def _words(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [v for v in values if isinstance(v, str) and re.fullmatch(r"\w+", v)]
