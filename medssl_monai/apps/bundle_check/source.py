"""Reads a bundle's files: content, line numbers, duplicate keys; which files are stages and which override others."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import chdir
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import yaml
from monai.bundle import ConfigParser
from monai.bundle.utils import merge_kv

from medssl_monai.apps.bundle_check.report import Problem

#: declared by a bundle that lives by the house rules
PACKAGE = "medssl-monai"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same in C, where PyYAML was built with it
_SUFFIXES = (".json", ".yaml", ".yml")
#: numbers with an exponent, of which YAML 1.1 reads many as texts
EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$|[-+]?\d+\.\d*[eE]\d+$")


#: parts of the names of configurations
_STAGES = ("train", "eval", "infer")


@dataclass
class ConfigFile:
    """A JSON or YAML file.

    Attributes:
        path: where it lies.
        name: path relative to the bundle.
        content: what it holds; ``None`` where it cannot be read.
        lines: line of each key, by id.
        problems: what is wrong with it as a file.
    """

    path: Path
    name: str
    content: dict[str, Any] | None = None
    lines: dict[str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def line(self, key: str) -> int | None:
        """Line of a key, or of the nearest one above it."""
        parts = key.split("::")
        return next((n for i in range(len(parts), 0, -1) if (n := self.lines.get("::".join(parts[:i])))), None)

    def problem(self, rule: Any, key: str, what: str, advice: str = "") -> Problem:
        """A problem of this file, with its line."""
        return Problem(rule, self.name, key, what, advice, self.line(key) if key else None)


@dataclass
class Stage:
    """A configuration as it is run: a file alone, or the files that it overrides before it.

    Attributes:
        name: the file's name without ending.
        file: the file itself.
        files: all files in the order in which they are merged; ``file`` is the last.
        kind: kind of MONAI's workflow; ``None`` where the file does not tell.
        parser: the merged configuration, macros expanded where they can be.
        problems: what cannot be merged.
        meant: keys that stand under a misspelt name, filled by the check of keys, also with those of the files before:
            that they are missing is no problem of its own.
    """

    name: str
    file: ConfigFile
    files: list[ConfigFile]
    kind: Literal["train", "infer"] | None
    parser: ConfigParser
    problems: list[Problem]
    meant: set[str] = field(default_factory=set)

    def is_meant(self, place: str) -> bool:
        """Whether a place, or what holds it, stands under a misspelt name."""
        return any(place == key or place.startswith(f"{key}::") for key in self.meant)


@dataclass
class Bundle:
    """A bundle's files.

    Attributes:
        root: its folder.
        metadata_file: ``configs/metadata.json``, with ``content`` ``None`` where it is missing or damaged.
        configs: the other configuration files by name without ending.
    """

    root: Path
    metadata_file: ConfigFile
    configs: dict[str, ConfigFile]

    @property
    def metadata(self) -> dict[str, Any]:
        """Content of the metadata; empty where there is none."""
        return self.metadata_file.content or {}

    @cached_property
    def house(self) -> bool:
        """Whether the bundle requires our package (or names it, where its metadata cannot be read)."""
        if self.metadata_file.content is not None:
            packages = self.metadata.get("required_packages_version", {})
            return isinstance(packages, dict) and any(str(p).replace("_", "-") == PACKAGE for p in packages)
        return self.names_package

    @cached_property
    def names_package(self) -> bool:
        """Whether the configurations use our package."""
        found = (text for file in self.configs.values() for _, text in texts(file.content))
        return any(PACKAGE.replace("-", "_") + "." in text for text in found)

    @cached_property
    def stages(self) -> dict[str, Stage]:
        """The configurations that can be read, with those that they override; without those these cannot be read."""
        readable = {n: f for n, f in self.configs.items() if f.content is not None and n != "study"}
        readable = {n: f for n, f in readable.items() if _is_config(n, f.content or {})}
        alone = [n for n, f in readable.items() if self.house or _stands_alone(f)]
        result = {}
        for name, file in readable.items():
            bases = [] if name in alone else _bases(name, alone, [n for n in self.configs if n != "study"])
            if any(self.configs[base].content is None for base in bases):
                continue
            files = [readable[base] for base in bases] + [file]
            with chdir(self.root):  # macros name files relative to the folder that a bundle is run from
                parser, problems = merge(files, self.metadata)
            result[name] = Stage(name, file, files, _kind(name, parser), parser, problems)
        return result


def read_bundle(root: Path) -> Bundle:
    """Read what a bundle's ``configs`` folder holds; what is damaged is kept as a problem of its file."""
    configs = {}
    for path in sorted((root / "configs").glob("*")):
        if path.suffix.lower() in _SUFFIXES and path.name != "metadata.json":
            configs[path.stem] = read_config(path, root)
    return Bundle(root, read_config(root / "configs" / "metadata.json", root), configs)


def read_config(path: Path, root: Path) -> ConfigFile:
    """Read a JSON or YAML file with its line numbers."""
    file = ConfigFile(path, path.relative_to(root).as_posix())
    if not path.is_file():
        return file
    mend = "Mend the file; nothing else in it was checked."
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix.lower() == ".json":
            content = json.loads(text)
            try:
                # a tab is white space to JSON only
                node = yaml.compose(text.replace("\t", " "), _LOADER)
            except yaml.YAMLError:
                node = None
        else:
            node = yaml.compose(text, _LOADER)
            content = yaml.load(text, _LOADER)  # noqa: S506 (a safe loader)
    except json.JSONDecodeError as error:
        what = f"not valid JSON: {error.msg} (column {error.colno})"
        file.problems.append(Problem("MONAI", file.name, "", what, mend, error.lineno))
        return file
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        what = f"not valid YAML: {getattr(error, 'problem', None) or error}"
        file.problems.append(Problem("MONAI", file.name, "", what, mend, mark.line + 1 if mark else None))
        return file
    except (OSError, UnicodeDecodeError) as error:
        file.problems.append(Problem("MONAI", file.name, "", f"cannot be read ({error})", "Write it as UTF-8."))
        return file
    if node is not None:
        _walk(node, "", file, path.suffix.lower() == ".json")
    if not isinstance(content, dict) and not any(word in path.stem for word in (*_STAGES, "study", "metadata")):
        content = {}  # a table that a configuration may read, a list of colours say
    if not isinstance(content, dict):
        what = f"holds {type(content).__name__} where keys and values are expected"
        file.problems.append(Problem("MONAI", file.name, "", what, "Write a mapping."))
        return file
    file.content = content
    return file


def _walk(node: yaml.Node, where: str, file: ConfigFile, is_json: bool) -> None:
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key_node, value_node in node.value:
            key, line = str(key_node.value), key_node.start_mark.line + 1
            place = f"{where}::{plain_id(key)}" if where else plain_id(key)
            file.lines[place] = line
            if key in seen:
                what = f"the key stands twice (first in line {seen[key]}); MONAI takes the last one without an error"
                file.problems.append(Problem("MONAI", file.name, place, what, "Remove one of them.", line))
            seen[key] = line
            _walk(value_node, place, file, is_json)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            file.lines[f"{where}::{index}"] = item.start_mark.line + 1
            _walk(item, f"{where}::{index}", file, is_json)
    elif isinstance(node, yaml.ScalarNode) and not is_json and _is_mistaken_number(node):
        what = f"YAML reads {node.value} as text, not as a number"
        mend = "Write the point and the sign of the exponent, as in 1.0e-4."
        file.problems.append(Problem("MONAI", file.name, where, what, mend, node.start_mark.line + 1))


def _is_mistaken_number(node: yaml.ScalarNode) -> bool:
    plain = not node.style and node.tag == "tag:yaml.org,2002:str"
    return plain and bool(EXPONENT.match(node.value))


def plain_id(key: str) -> str:
    """A key as an id: ``+a#b`` and ``a::b`` are the place ``a::b``."""
    return key.removeprefix("+").replace("#", "::")


def texts(node: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """All strings of a configuration with their ids; free-text descriptions are left out."""
    if isinstance(node, str):
        yield where, node
    elif isinstance(node, dict):
        for key, value in node.items():
            if key != "_desc_":
                yield from texts(value, f"{where}::{plain_id(str(key))}" if where else plain_id(str(key)))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from texts(value, f"{where}::{index}" if where else str(index))


def components(node: Any, where: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """All mappings of a configuration with their ids."""
    if isinstance(node, dict):
        yield where, node
        for key, value in node.items():
            yield from components(value, f"{where}::{plain_id(str(key))}" if where else plain_id(str(key)))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from components(value, f"{where}::{index}" if where else str(index))


def merge(files: list[ConfigFile], metadata: dict[str, Any]) -> tuple[ConfigParser, list[Problem]]:
    """The files merged as MONAI merges them, macros expanded where that is possible; and what cannot be merged."""
    parser, problems = ConfigParser({}), []
    for file in files:
        for key, value in deepcopy(file.content or {}).items():
            try:
                merge_kv(parser, str(key), value)
            except (KeyError, ValueError, IndexError, TypeError) as error:
                what = f"cannot be merged onto {', '.join(f.name for f in files[:-1]) or 'the file'} ({error})"
                problems.append(file.problem("MONAI", plain_id(str(key)), what, "Define what stands above it first."))
    content: Any = parser.config
    content["_meta_"] = deepcopy(metadata)
    before = deepcopy(content)
    try:
        parser.resolve_macro_and_relative_ids()  # type: ignore[no-untyped-call]
    except (KeyError, ValueError, OSError, IndexError, TypeError):
        return ConfigParser(before), problems  # the macro to blame is found where references are checked
    return parser, problems


def _is_config(name: str, content: dict[str, Any]) -> bool:
    """Whether a file of ``configs`` is a configuration, and not a datalist or a table of names."""
    if any(word in name for word in _STAGES) or {
        "imports",
        "run",
        "initialize",
        "bundle_root",
    } & set(content):
        return True
    return any("_target_" in mapping for _, mapping in components(content))


def _stands_alone(file: ConfigFile) -> bool:
    content = file.content or {}
    if "network_def" in content:
        return True
    nodes = [content.get("evaluator"), *(content.get(a, {}).get(b) for a, b in _ENGINES if _is_mapping(content, a))]
    return any(isinstance(node, dict) and "_target_" in node for node in nodes)


_ENGINES = (("train", "trainer"), ("validate", "evaluator"))


def _is_mapping(content: dict[str, Any], key: str) -> bool:
    return isinstance(content.get(key, {}), dict)


def _bases(name: str, alone: list[str], names: list[str]) -> list[str]:
    """The files that an override such as ``multi_gpu_train`` or ``evaluate`` is merged onto."""
    chain = []
    if "infer" in name:
        chain = ["inference"]
    elif "eval" in name:
        chain = ["evaluate"] if "evaluate" in alone else ["train", "evaluate"]
    elif "train" in name or "train" in alone:
        chain = ["train"]
    return [base for base in chain if base in names and base != name]


def _kind(name: str, parser: ConfigParser) -> Literal["train", "infer"] | None:
    if "infer" in name:
        return "infer"
    if "train" in name or "train::trainer" in parser:
        return "train"
    return "infer" if "evaluator" in parser or "evaluat" in name else None
