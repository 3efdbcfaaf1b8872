"""Chaoyang (Zhu et al. 2022, doi:10.1109/TMI.2021.3125459): patches of colon slides, seen by three pathologists."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from medssl_monai.core import DataError, read_json
from medssl_monai.data.datalist import Split
from medssl_monai.data.prepare.layout import PREPARERS, Draft, Entry, Preparer, option
from medssl_monai.data.prepare.source import Material, brief, path_inside, raise_problems

CLASSES = ("normal", "serrated", "adenocarcinoma", "adenoma")
LICENSE = (
    "free for non-commercial purposes with a reference to the dataset; no distribution of the data or modified "
    "versions (https://github.com/bupt-ai-cz/HSA-NRL)"
)
_PARTS: dict[str, Split] = {"train": "training", "test": "test"}
_VOTES = "train_label.json"
_RATERS = ("A", "B", "C")


@PREPARERS.register("chaoyang")
@dataclass(frozen=True, kw_only=True)
class ChaoyangPreparer(Preparer):
    """The published labels are the majority's; what each pathologist said stays as columns ``rater_A`` to ``rater_C``.

    File names begin with the number of a case. The published split has patches of one case on both sides; it is kept,
    with every patch on its own, and said. ``by_case`` draws the split anew with whole cases.
    """

    help: ClassVar[str] = "Chaoyang: train.json, test.json (and train_label.json), train/ and test/ with the patches"
    subject_advice: ClassVar[str] = "Give --by-case for a split by the case numbers in the file names."

    by_case: bool = option(
        "draw the split anew by the case number in the file names; the published one divides cases", default=False
    )

    def read(self, source: Path) -> Draft:
        """See :meth:`Preparer.read`."""
        if not source.is_dir():
            raise DataError("the folder with train.json and test.json is needed, but this is a file", where=source)
        problems: list[str] = []
        listed = {part: _read(source, f"{part}.json", problems) for part in _PARTS}
        votes = {entry["name"]: entry for entry in listed["train"]}
        if (source / _VOTES).exists():
            votes |= {entry["name"]: entry for entry in _read(source, _VOTES, problems)}
        entries: list[Entry] = []
        seen: set[str] = set()
        for part, split in _PARTS.items():
            for one in listed[part]:
                name = one["name"]
                try:
                    if name in seen:
                        raise ValueError("is listed already")
                    seen.add(name)
                    material = Material.of_file(source, path_inside(source, name))
                except ValueError as error:
                    problems.append(f"{part}.json: {name} {error}")
                    continue
                columns = _opinions(votes.get(name, {}))
                entries.append(Entry(material, one["label"], _case(name), None if self.by_case else split, columns))
        raise_problems(problems, source)
        entries, notes = (entries, []) if self.by_case else _published(entries)
        return Draft(
            task="multiclass",
            labels=list(CLASSES),
            entries=entries,
            name="chaoyang-by-case" if self.by_case else "chaoyang",
            modality="histopathology",
            license=LICENSE,
            description=". ".join(("Chaoyang (Zhu et al. 2022, doi:10.1109/TMI.2021.3125459)", *notes)),
            notes=tuple(notes),
        )


def _published(entries: list[Entry]) -> tuple[list[Entry], list[str]]:
    """The published split; without cases, and said, where it divides them."""
    sides = {part: {entry.subject for entry in entries if entry.split == part} for part in _PARTS.values()}
    shared = (sides["training"] & sides["test"]) - {None}
    if not shared:
        return entries, []
    note = (
        f"The published split is kept, but {len(shared)} cases have patches in training and test: figures are too good "
        "and intervals too narrow. --by-case draws it anew"
    )
    return [replace(entry, subject=None) for entry in entries], [note]


def _case(name: str) -> str | None:
    """Number of the case: ``353042`` of ``train/353042_4-IMG005x014-1.JPG``."""
    match = re.match(r"([^-_.]+)[-_]", PurePosixPath(name).name)
    return match[1] if match else None


def _opinions(entry: dict[str, Any]) -> dict[str, str]:
    return {f"rater_{rater}": CLASSES[entry[f"label_{rater}"]] for rater in _RATERS if f"label_{rater}" in entry}


def _read(source: Path, name: str, problems: list[str]) -> list[dict[str, Any]]:
    """Entries of a published list that name an image and have labels of the four classes."""
    path = source / name
    if not path.is_file():
        raise DataError(f"no {name} here", where=source, advice="SOURCE is the folder the archive was unpacked in.")
    if not path.resolve().is_relative_to(source):
        raise DataError("is a symbolic link that leads out of the source; it is not followed", where=path)
    content = read_json(path)
    if not isinstance(content, list) or not content:
        raise DataError("a list of patches is needed", where=path, found=type(content).__name__)
    good = []
    for number, entry in enumerate(content):
        fault = _fault(entry)
        if fault:
            problems.append(f"{name}[{number}]: {fault}")
        else:
            good.append(entry)
    return good


def _fault(entry: Any) -> str | None:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        return "no 'name' of a patch"
    keys = ["label", *(key for rater in _RATERS if (key := f"label_{rater}") in entry)]
    wrong = [key for key in keys if type(entry.get(key)) is not int or entry[key] not in range(len(CLASSES))]
    shown = brief(f"{key} {entry.get(key)!r}" for key in wrong)
    return f"{entry['name']}: {shown}; expected a class from 0 to {len(CLASSES) - 1}" if wrong else None
