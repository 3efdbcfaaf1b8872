"""What a check of a dataset found: problems, notes, facts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

KINDS: Mapping[str, str] = {
    "datalist": "Entries that break the data contract",
    "key": "Unknown or misspelt keys",
    "outside": "Paths that leave the dataset's folder",
    "missing": "Missing files",
    "unreadable": "Files that cannot be read",
    "empty": "Files without content",
    "not-finite": "NaN or infinite values",
    "channels": "Images with another number of channels or dimensions",
    "shape": "Masks that do not fit the shape of their image",
    "affine": "Masks that do not lie where their image lies",
    "mask-value": "Masks with values that are not in 'labels'",
    "label": "Labels that are not in 'labels'",
    "class": "Classes without a training item",
    "split": "Empty splits",
    "subject": "Subjects in more than one split",
    "leakage": "The same image in more than one split",
    "duplicate": "The same image more than once",
    "organ": "Masks that show no organ",
    "axes": "Volumes whose axes are not at right angles",
    "plane": "Exams without an image that others have",
    "link": "Files that are links out of the dataset's folder",
    "reader": "Remarks of the readers",
}


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        file: path relative to the dataset's folder (``datalist.json`` where the entry itself is wrong).
        kind: one of :data:`KINDS`.
        message: what is wrong, with what was found and what was expected.
        advice: what would mend it.
        split: split of the item, or the splits, joined by ``" / "``; empty where there is none.
    """

    file: str
    kind: str
    message: str
    advice: str
    split: str = ""


@dataclass
class CheckReport:
    """Everything a check found.

    Attributes:
        folder: the dataset's folder.
        problems: what must be mended.
        notes: what deserves a look and is no error.
        facts: what the dataset holds (items, subjects and classes of each split, sizes, channels, types, intensities).
    """

    folder: Path
    problems: list[Problem] = field(default_factory=list)
    notes: list[Problem] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    @property
    def counts(self) -> dict[str, int]:
        """Number of problems of each kind that occurs, in the order of :data:`KINDS`."""
        found = Counter(problem.kind for problem in self.problems)
        return {kind: found[kind] for kind in KINDS if found[kind]}

    def to_json(self) -> dict[str, Any]:
        """The report as plain values."""
        return {
            "folder": str(self.folder),
            "ok": self.ok,
            "counts": self.counts,
            "problems": [asdict(problem) for problem in self.problems],
            "notes": [asdict(note) for note in self.notes],
            "facts": self.facts,
        }
