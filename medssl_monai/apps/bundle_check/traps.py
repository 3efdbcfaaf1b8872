"""Traps of MONAI's configuration format: what is read without an error and means something else."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Any

from monai.bundle import workflows as monai_workflows
from monai.bundle.properties import InferProperties, TrainProperties
from monai.utils.enums import BundleProperty, BundlePropertyConfig

from medssl_monai.apps.bundle_check.data_keys import data_key_problems
from medssl_monai.apps.bundle_check.expressions import expression_code
from medssl_monai.apps.bundle_check.report import Problem
from medssl_monai.apps.bundle_check.source import EXPONENT, Bundle, ConfigFile, Stage, texts

_PERSONAL = re.compile(r"(?:^|['\"])(/(?:home|localhome|root|Users)/\w|[A-Za-z]:[\\/]Users)")
_ABSOLUTE = re.compile(r"(/[\w.-]+(/[\w.-]+)*/?|[A-Za-z]:[\\/].*)$")


def trap_problems(bundle: Bundle, stage: Stage, notes: list[str]) -> Iterator[Problem]:
    """All traps in the stage's own file."""
    file = stage.file
    for where, text in texts(file.content):
        yield from _hash_problems(bundle, file, where, text)
        if _PERSONAL.search(text):
            mend = "Make it relative to bundle_root, or let the user give it."
            yield file.problem("model zoo", where, f"a path of somebody's own machine ({text!r})", mend)
        elif _is_absolute(text):
            if bundle.house:
                mend = "Make it relative to bundle_root."
                yield file.problem("house", where, f"an absolute path ({text!r})", mend)
            else:
                notes.append(f"{file.name} {where}: absolute path {text!r}, which the user must override")
        # what is unquoted in YAML has been told where the file is read
        if EXPONENT.match(text) and not any(known.key == where for known in file.problems):
            what = f"{text!r} is a text, not a number"
            yield file.problem("MONAI", where, what, "Write it without quotation marks, as in 1.0e-4.")
    for key in file.content or {}:
        if bundle.house and "#" in str(key):
            yield file.problem("house", str(key).replace("#", "::"), "'#' as separator", "Write '::'.")
    yield from data_key_problems(bundle, stage)
    if stage.kind == "train":
        yield from _handler_problems(stage)


def _is_absolute(text: str) -> bool:
    """Whether a text, or a text inside an expression, is an absolute path; what is added to a path is none."""
    if not text.startswith("$"):
        return bool(_ABSOLUTE.match(text))
    try:
        nodes = list(ast.walk(ast.parse(expression_code(text))))
    except (SyntaxError, ValueError):  # reported where expressions are checked
        return False
    added = {id(node.right) for node in nodes if isinstance(node, ast.BinOp)}
    added |= {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values[1:]}
    constants = [node for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    # a single step such as '/' or '/x' is as often an argument of replace or split
    found = [str(node.value) for node in constants if id(node) not in added]
    return any(_ABSOLUTE.match(value) and len(re.findall(r"[\\/]\w", value)) > 1 for value in found)


def _hash_problems(bundle: Bundle, file: ConfigFile, where: str, text: str) -> Iterator[Problem]:
    """``#`` is the old separator: in references it is right, anywhere else it is rewritten to ``::`` without a word."""
    if "#" not in text:
        return
    rest = re.sub(r"[@%]#*\w*(?:(?:#|::)\w*)*", "", text) if text.startswith(("$", "@", "%")) else text
    if text.startswith("%"):
        rest = ""
    if "#" in rest:
        what = f"'#' in {text!r} is rewritten to '::'"
        yield file.problem("MONAI", where, what, "Write it without '#': it cannot be escaped.")
    elif bundle.house:
        yield file.problem("house", where, f"'#' as separator in {text!r}", "Write '::'.")


def _handler_problems(stage: Stage) -> Iterator[Problem]:
    """What makes ``check_properties`` stumble: it takes every handler for a mapping with a target."""
    handlers = stage.parser.get("train::handlers")
    if handlers is None:
        return
    if not isinstance(handlers, list):
        what = f"{type(handlers).__name__} instead of a list: MONAI's check_properties stops with an error here"
        yield stage.file.problem("MONAI", "train::handlers", what, "Write the handlers as a list.")
        return
    for index, handler in enumerate(handlers):
        if not isinstance(handler, dict) or "_target_" not in handler:
            what = f"{handler!r} is no component: MONAI's check_properties stops with an error here"
            mend = "Write the handler itself in this place, and refer to it from elsewhere."
            yield stage.file.problem("MONAI", f"train::handlers::{index}", what, mend)


def logging_problems(bundle: Bundle) -> Iterator[Problem]:
    """What MONAI would refuse in ``logging.conf``."""
    path = bundle.root / "configs" / "logging.conf"
    if not path.is_file():
        return
    try:
        monai_workflows._reject_executable_logging_config(str(path))
    except ValueError as error:
        what = str(error).split(": ", 1)[-1].split(" (see http")[0].replace(str(path), path.name)
        mend = "Use classes of logging and logging.handlers, and plain values as args."
        yield Problem("MONAI", "configs/logging.conf", "", what, mend)


def property_problems(stage: Stage) -> Iterator[Problem]:
    """MONAI's properties by their ids alone: required ones that are missing, optional ones in the wrong place."""
    if stage.kind is None or stage.is_meant("train::trainer"):
        return  # without it, a training's configuration is not known as one
    parser, file = stage.parser, stage.file
    for name, prop in (TrainProperties if stage.kind == "train" else InferProperties).items():
        place, reference = str(prop[BundlePropertyConfig.ID]), prop.get(BundlePropertyConfig.REF_ID)
        if prop[BundleProperty.REQUIRED]:
            if place not in parser and not stage.is_meant(place):
                what = f"MONAI's required property {name!r} is missing here"
                yield file.problem("MONAI", place, what, "Define it under this name.")
        elif reference:
            holders = _validation_handlers(parser) if name in ("evaluator", "val_interval") else [""]
            for holder in holders:
                at = f"{holder}::{reference}" if holder else str(reference)
                yield from _optional_problems(file, name, place, at, parser.get(at))
    if "run" not in parser and not stage.is_meant("run"):
        mend = "`python -m monai.bundle run` evaluates this list."
        yield file.problem("model zoo", "run", "the key is missing", mend)


def _optional_problems(file: ConfigFile, name: str, place: str, at: str, value: Any) -> Iterator[Problem]:
    """MONAI wants the holder of an optional property to refer to it by its own id, or to be an expression."""
    if value is None or (isinstance(value, str) and value.startswith("$")):
        return
    mend = f"Define it as {place!r} and write '@{place}' here."
    if not isinstance(value, str):
        what = "the value stands here itself, which stops MONAI's check_properties with an error"
        yield file.problem("MONAI", at, what, mend)
    elif value.replace("#", "::") != f"@{place}":
        what = f"is {value!r}, but MONAI looks for its property {name!r} under {place!r}"
        yield file.problem("MONAI", at, what, mend)


def _validation_handlers(parser: Any) -> list[str]:
    handlers = parser.get("train::handlers")
    listed = enumerate(handlers) if isinstance(handlers, list) else ()
    return [f"train::handlers::{i}" for i, h in listed if _is_validation(h)]


def _is_validation(handler: Any) -> bool:
    return isinstance(handler, dict) and handler.get("_target_") == "ValidationHandler"
