"""What the bundle check finds: problems, one line each, and notes on what was not checked or how."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

#: whose rule a problem breaks: MONAI itself stumbles over it; the model zoo asks for it; ours, for bundles that
#: require our package
Rule = Literal["MONAI", "model zoo", "house"]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        rule: whose rule it is.
        file: path relative to the bundle.
        key: place in the file, ``a::b::0``; empty for the file as a whole.
        what: what is wrong, with what was found.
        advice: what would mend it, a full sentence.
        line: line of the file, from 1; ``None`` where unknown.
    """

    rule: Rule
    file: str
    key: str
    what: str
    advice: str = ""
    line: int | None = None

    def text(self) -> str:
        """One line for people."""
        place = self.file + (f":{self.line}" if self.line else "") + (f" {self.key}" if self.key else "")
        stop = "" if self.what.endswith((".", "?", "!")) else "."
        return " ".join(f"[{self.rule}] {place}: {self.what}{stop} {self.advice}".split())

    def to_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "rule": self.rule, "file": self.file, "line": self.line, "key": self.key, "what": self.what,
            "advice": self.advice,
        }  # fmt: skip


@dataclass
class BundleReport:
    """All that was found in one bundle.

    Attributes:
        folder: the bundle.
        version: as its metadata says, where it can be read.
        house: whether the house rules were applied.
        problems: what is wrong, without repetitions.
        notes: what was skipped and why, and how the rest was checked.
    """

    folder: Path
    version: str = ""
    house: bool = False
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, problems: Iterable[Problem]) -> None:
        """Append problems, leaving out those of a place that has the same one already."""
        for problem in problems:
            if problem not in self.problems:
                self.problems.append(problem)

    def lines(self) -> list[str]:
        """The verdict, then a line a problem; notes stand behind the verdict."""
        number = len(self.problems)
        verdict = f"{number} problem{'s'[: number != 1]}" if number else "no problems"
        head = f"{self.folder.name} {self.version}".strip() + f": {verdict}"
        return ["; ".join([head, *self.notes]), *(f"  {problem.text()}" for problem in self.problems)]

    def to_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "bundle": self.folder.name, "folder": str(self.folder), "version": self.version,
            "house_rules": self.house, "problems": [problem.to_json() for problem in self.problems],
            "notes": self.notes,
        }  # fmt: skip
