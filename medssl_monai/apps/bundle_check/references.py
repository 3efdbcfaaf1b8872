"""References to what does not exist, macros, and keys that nothing reads."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any

from monai.bundle import ConfigExpression, ConfigParser, ReferenceResolver
from monai.bundle.properties import InferProperties, TrainProperties
from monai.utils.enums import BundlePropertyConfig

from medssl_monai.apps.bundle_check.report import Problem
from medssl_monai.apps.bundle_check.source import Bundle, Stage, plain_id, texts
from medssl_monai.apps.run import VOCABULARY
from medssl_monai.core import did_you_mean

#: read by MONAI, MONAI Label or Deploy without a reference
_READ = {
    "imports", "initialize", "run", "finalize", "_meta_", "bundle_root", "output_dir", "ckpt_dir", "network",
    "displayable_configs", "pre_transforms", "post_transforms", "detector", "detector_ops", "train", "validate",
    "features_layer", "encoder_layer",
}  # fmt: skip
_PROGRAMS = {"imports", "initialize", "run", "finalize"}
_PROPERTIES = {str(p[BundlePropertyConfig.ID]) for p in (*TrainProperties.values(), *InferProperties.values())}


def reference_problems(bundle: Bundle, stage: Stage) -> Iterator[Problem]:
    """``@a::b`` and ``%a::b`` of the stage's own file that lead nowhere."""
    file = stage.file
    for where, text in texts(file.content):
        if not any(sign in text for sign in "@%"):
            continue
        try:
            absolute = ConfigParser.resolve_relative_ids(where, text)
        except ValueError as error:
            yield file.problem("MONAI", where, str(error), "Take away a separator, or name the place from the top.")
            continue
        if absolute.startswith("%"):
            yield from _macro_problems(bundle, stage, where, absolute[1:])
            continue
        for reference in ReferenceResolver.match_refs_pattern(absolute):
            if not reference:
                what = f"a lone '@' in {text!r} refers to the whole configuration"
                yield file.problem("MONAI", where, what, "Use torch.matmul, or take the '@' out of the text.")
            elif reference not in stage.parser and not stage.is_meant(reference):
                what = f"refers to {reference!r}, which does not exist"
                yield file.problem("MONAI", where, what, _nearest(stage.parser, reference))


def _macro_problems(bundle: Bundle, stage: Stage, where: str, macro: str) -> Iterator[Problem]:
    path, place = ConfigParser.split_path_id(macro)
    parser = stage.parser
    if path:
        target = bundle.root / path
        if not target.is_file():
            what = f"copies from {path}, which does not exist"
            yield stage.file.problem("MONAI", where, what, "Name it relative to the bundle's folder.")
            return
        parser = ConfigParser(ConfigParser.load_config_file(str(target)))
    if place and place not in parser and (path or not stage.is_meant(place)):
        what = f"copies {place!r}, which does not exist"
        yield stage.file.problem("MONAI", where, what, _nearest(parser, place))


def _nearest(parser: ConfigParser, reference: str) -> str:
    """Advice for a reference: the nearest key at the level at which it leaves the configuration."""
    parts = reference.split("::")
    for depth in range(len(parts)):
        if "::".join(parts[: depth + 1]) not in parser:
            node: Any = parser["::".join(parts[:depth])] if depth else parser.config
            if isinstance(node, list):
                return f"The list has {len(node)} items, counted from 0."
            if not isinstance(node, dict):
                return f"{'::'.join(parts[:depth])!r} has no parts in the configuration."
            keys = [key for key in node if not str(key).startswith("_")]
            close = difflib.get_close_matches(parts[depth], map(str, keys), n=1, cutoff=0.6)
            return did_you_mean(parts[depth], keys).strip() if close else "Define it, or take the reference out."
    return ""


def key_problems(bundle: Bundle, stage: Stage, notes: list[str]) -> Iterator[Problem]:
    """Keys of the stage's own file that nothing reads: at the top, and in the sections ``train`` and ``validate``.

    Where the house rules do not hold, a key without a likeness to a known one is only noted: somebody's own tool may
    read it.
    """
    read = _read_ids(stage)
    unread = []
    before = {file.name for file in stage.files[:-1]}
    stage.meant |= {key for other in bundle.stages.values() if other.file.name in before for key in other.meant}
    for key, value in (stage.file.content or {}).items():
        place = plain_id(str(key))
        if place == "_imports_":
            mend = "Name the list 'imports'."
            yield stage.file.problem("MONAI", place, "MONAI has no key '_imports_': nothing is imported", mend)
        elif "::" not in place and place in ("train", "validate") and _is_section(value):
            unread += [f"{place}::{sub}" for sub in value if not _is_read(f"{place}::{sub}", read)]
        elif _is_program(value) and place not in _PROGRAMS:
            near = difflib.get_close_matches(place, _PROGRAMS - set(stage.file.content or {}), n=1, cutoff=0.75)
            if near and not _is_read(place, read):
                stage.meant.add(near[0])
                what = "is run by nothing but '--run_id'"
                yield stage.file.problem("MONAI", place, what, f"Did you mean {near[0]!r}?")
        elif not _is_read(place, read) and not _is_override(stage, place):
            unread.append(place)
    wanted = _wanted(stage) if unread else set()
    for place in unread:
        parent, _, name = place.rpartition("::")
        options = [key.rpartition("::")[2] for key in wanted if key.rpartition("::")[0] == parent]
        near = difflib.get_close_matches(name, options, n=1, cutoff=0.75)
        meant = f"{parent}::{near[0]}" if near and parent else "".join(near)
        if near and _is_elsewhere(bundle, stage, place) and not _is_known(bundle, stage, meant):
            continue  # the key is right, and the reference misspelt: told where references are checked
        if near:
            stage.meant.add(meant)
            yield stage.file.problem("MONAI", place, "nothing reads this key", f"Did you mean {near[0]!r}?")
        elif bundle.house:
            yield stage.file.problem("house", place, "nothing reads this key", "Remove it, or refer to it.")
        else:
            notes.append(f"nothing in {stage.file.name} reads {place!r}")


def _is_known(bundle: Bundle, stage: Stage, place: str) -> bool:
    return place in {*VOCABULARY, *_READ, *_PROPERTIES} or _is_elsewhere(bundle, stage, place)


def _is_elsewhere(bundle: Bundle, stage: Stage, place: str) -> bool:
    """Whether a configuration that this stage is not merged from defines the place."""
    names = {file.name for file in stage.files}
    others = (ConfigParser(file.content or {}) for file in bundle.configs.values() if file.name not in names)
    return any(place in parser for parser in others)


def _wanted(stage: Stage) -> set[str]:
    """Ids that something would read and that do not exist, and the keys that an override could be meant to replace."""
    names = set(VOCABULARY) | _READ | _PROPERTIES
    for _, text in texts(stage.file.content):
        names |= set(ReferenceResolver.match_refs_pattern(text))
    replaceable = {plain_id(str(key)) for file in stage.files[:-1] for key in file.content or {}}
    return {name for name in names if name not in stage.parser} | replaceable


def _is_section(value: Any) -> bool:
    return isinstance(value, dict) and "_target_" not in value


def _is_program(value: Any) -> bool:
    """A list of expressions, which can be run by name with ``--run_id``."""
    return isinstance(value, list) and bool(value) and all(ConfigExpression.is_expression(item) for item in value)


def _is_override(stage: Stage, place: str) -> bool:
    """Whether the key replaces one of the files before it, whose own check says whether it is read."""
    first = place.split("::")[0]
    others = [plain_id(str(key)).split("::")[0] for file in stage.files[:-1] for key in file.content or {}]
    return first in others


def _read_ids(stage: Stage) -> set[str]:
    found = set(VOCABULARY) | _READ | _PROPERTIES
    for node in (stage.parser.config, *(file.content for file in stage.files)):  # macros are expanded in the parser
        for where, text in texts(node):
            try:
                absolute = ConfigParser.resolve_relative_ids(where, text)
            except ValueError:  # reported where references are checked
                continue
            found |= set(ReferenceResolver.match_refs_pattern(absolute))
            if absolute.startswith("%"):
                path, place = ConfigParser.split_path_id(absolute[1:])
                found |= {place} - {""} if not path else set()
    return found


def _is_read(place: str, read: set[str]) -> bool:
    """Whether a place, a part of it or what holds it is read; that a section as a whole is known says nothing."""
    above = read - {"train", "validate", ""}
    return place in read or any(r.startswith(f"{place}::") or place.startswith(f"{r}::") for r in above)
