"""Entries of a test report, whatever its labels: figures with intervals, cautions on few subjects, subgroups."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

from medssl_monai.metrics.checks import BoolArray, IntArray
from medssl_monai.metrics.distribution import Distribution, finite
from medssl_monai.metrics.subgroups import subgroups_of

MIN_SUBJECTS = 10
"""Below this number of subjects no interval is given: a percentile interval of so few says more than is known."""

_MANY_UNDEFINED = 0.05
_MOST_UNDEFINED = 0.5


class Cases(Protocol):
    """Test cases of a report."""

    @property
    def n_subjects(self) -> int:
        """Number of subjects."""

    def take(self, cases: IntArray, /) -> Any:
        """The cases at these places."""


T = TypeVar("T", bound=Cases)


@dataclass(frozen=True)
class ClassSides:
    """Cases and subjects with a class, and without it.

    Attributes:
        cases: number of cases, by whether they have the class.
        subjects: number of subjects likewise; one may be on both sides.
    """

    cases: dict[bool, int]
    subjects: dict[bool, int]

    @classmethod
    def of(cls, truth: BoolArray, subjects: IntArray) -> ClassSides:
        """Count; ``truth`` (N,) says which cases have the class."""
        sides = {True: truth, False: ~truth}
        return cls(
            {side: int(members.sum()) for side, members in sides.items()},
            {side: n_distinct(subjects[members]) for side, members in sides.items()},
        )

    @property
    def withheld(self) -> str:
        """Why the class gets no intervals; empty where it gets them."""
        fewest = min(self.subjects.values())
        if fewest >= MIN_SUBJECTS:
            return ""
        return too_few_subjects(fewest, self.subjects[True] <= self.subjects[False])

    def entries(self, found: Mapping[str, Distribution]) -> dict[str, dict[str, Any]]:
        """Figures of the class for JSON; ``n`` of a sensitivity counts its cases, of a specificity the others."""
        entries = {metric: interval_entry(one, self.withheld) for metric, one in found.items()}
        for metric, entry in entries.items():
            if metric.endswith(("sensitivity", "specificity")):
                side = metric.endswith("sensitivity")
                entry.update(n=self.cases[side], n_subjects=self.subjects[side])
        return entries


def few_subjects_warnings(sides: Mapping[str, ClassSides], n_subjects: int) -> list[str]:
    """A caution that names the classes without intervals, if there are any; ``sides`` by name of the class."""
    few = [f"{name} ({one.subjects[True]} of {n_subjects})" for name, one in sides.items() if one.withheld]
    if not few:
        return []
    return [
        f"fewer than {MIN_SUBJECTS} subjects with, or without, the class: {', '.join(few)}; "
        "no interval is given for these classes, and means over classes rest on them too"
    ]


def subgroup_table(
    cases: T, columns: Mapping[str, Sequence[Any]], figures: Callable[[T], Mapping[str, Any]], warnings: list[str]
) -> dict[str, dict[str, Any]]:
    """Figures of the cases of each value of each column, where there are subjects enough.

    Args:
        cases: all test cases.
        columns: by name, (N,) values each.
        figures: of some of the cases.
        warnings: cautions on columns are added to it.
    """
    table: dict[str, dict[str, Any]] = {}
    for column, values in columns.items():
        groups = subgroups_of(column, values)
        if groups.warning:
            warnings.append(groups.warning)
        table[column] = {}
        for value, members in groups.cases.items():
            chosen: T = cases.take(members)
            n_subjects = chosen.n_subjects
            enough = n_subjects >= MIN_SUBJECTS
            table[column][value] = {
                "n": len(members),
                "n_subjects": n_subjects,
                "metrics": figures(chosen) if enough else None,
                "reason": None if enough else too_few_subjects(n_subjects),
            }
    return table


def interval_entry(distribution: Distribution, withheld: str = "") -> dict[str, Any]:
    """One metric for JSON; ``withheld`` says why its intervals are not shown."""
    intervals = {
        f"interval_{share}": distribution.interval(((100 - share) / 2, (100 + share) / 2)) for share in (90, 95)
    }
    ends = {name: [finite(one.low), finite(one.high)] for name, one in intervals.items()}
    defined = all(end is not None for pair in ends.values() for end in pair)
    note = next(iter(intervals.values())).note
    reason = None if defined else note
    if defined and distribution.n_undefined > _MOST_UNDEFINED * len(distribution.values):
        # what is left describes only the resamples that happen to draw every rare class
        reason, defined = note, False
    if finite(distribution.estimate) is not None and withheld:
        reason, defined = withheld, False
    return {
        "estimate": finite(distribution.estimate),
        **{name: pair if defined else None for name, pair in ends.items()},
        "n": distribution.n,
        "n_subjects": distribution.n_groups,
        "n_undefined": distribution.n_undefined,
        "reason": reason,
    }


def metric_warnings(metrics: Mapping[str, Mapping[str, Any]], n_boot: int) -> list[str]:
    """Which figures are undefined, or rest on fewer resamples than were drawn."""
    found = []
    for name, entry in metrics.items():
        if entry["estimate"] is None:
            found.append(f"{name} is undefined: {entry['reason']}")
        elif entry["interval_90"] is not None and entry["n_undefined"] > _MANY_UNDEFINED * n_boot:
            found.append(
                f"{name}: {entry['n_undefined']} of {n_boot} resamples lack a class and were dropped; "
                "the interval describes the others"
            )
    return found


def too_few_subjects(number: int, with_class: bool | None = None) -> str:
    """Why there is no interval: this number of subjects, with or without a class (``None``: in all)."""
    side = "" if with_class is None else (" with this class" if with_class else " without this class")
    return f"only {number} subjects{side}; no interval below {MIN_SUBJECTS}"


def n_distinct(values: IntArray) -> int:
    """Number of distinct values."""
    return len(np.unique(values))
