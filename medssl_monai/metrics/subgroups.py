"""Columns of a datalist (age, sex, site, ...) as the named groups of a subgroup table."""

from __future__ import annotations

import math
import numbers
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medssl_monai.metrics.checks import IntArray

UNKNOWN = "unknown"
OTHER = "other"
MAX_GROUPS = 20
_MAX_DISTINCT_NUMBERS = 10
_MISSING_WORDS = {"", UNKNOWN, "nan", "none", "null", "n/a"}


@dataclass(frozen=True)
class Subgroups:
    """A column cut into groups.

    Attributes:
        cases: indices of the cases by group name, in reading order; ``unknown`` is last.
        warning: what was pooled; empty otherwise.
    """

    cases: dict[str, IntArray]
    warning: str = ""


def subgroups_of(name: str, values: Sequence[Any]) -> Subgroups:
    """Cut a column into groups.

    Numbers of a column whose name contains the word ``age`` are cut into decades, other numbers with more than ten
    distinct values into quartiles (named by their smallest and largest value). Everything else is taken as it is;
    beyond 20 values the rarest are pooled as ``other``. Missing values (``None``, NaN, empty, "unknown") form the
    group ``unknown``. Numbers written as text are text.

    Args:
        name: name of the column.
        values: (N,) one value a case.
    """
    known = [i for i, value in enumerate(values) if not _missing(value)]
    warning = ""
    if known and all(isinstance(values[i], numbers.Real) and not isinstance(values[i], bool) for i in known):
        labels, order = _cut_numbers(name, np.array([float(values[i]) for i in known]))
    else:
        labels = [str(values[i]).strip() for i in known]
        order = sorted(set(labels))
    if len(order) > MAX_GROUPS:
        frequent = {label for label, _ in Counter(labels).most_common(MAX_GROUPS - 1)}
        warning = (
            f"column {name!r} has {len(order)} values; the {len(frequent)} most frequent are shown, "
            f"the others are pooled as {OTHER!r}"
        )
        labels = [label if label in frequent else OTHER for label in labels]
        order = [label for label in order if label in frequent and label != OTHER] + [OTHER]
    by_name: dict[str, list[int]] = {label: [] for label in order}
    for case, label in zip(known, labels):
        by_name[label].append(case)
    if len(known) < len(values):
        chosen = set(known)
        by_name[UNKNOWN] = [i for i in range(len(values)) if i not in chosen]
    return Subgroups({label: np.array(cases, dtype=np.int64) for label, cases in by_name.items()}, warning)


def _cut_numbers(name: str, found: np.ndarray[Any, np.dtype[np.float64]]) -> tuple[list[str], list[str]]:
    distinct = np.unique(found)
    if "age" in re.split(r"[^a-z]+", name.lower()):
        decades = np.floor(found / 10).astype(int)
        return [_decade(d) for d in decades], [_decade(d) for d in np.unique(decades)]
    if len(distinct) <= _MAX_DISTINCT_NUMBERS:
        return [f"{value:g}" for value in found], list(dict.fromkeys(f"{value:g}" for value in distinct))
    place = np.searchsorted(np.quantile(found, [0.25, 0.5, 0.75]), found, side="left")
    names = {int(q): f"{found[place == q].min():g} to {found[place == q].max():g}" for q in np.unique(place)}
    return [names[int(q)] for q in place], list(dict.fromkeys(names.values()))


def _decade(decade: int) -> str:
    return f"{10 * decade}-{10 * decade + 9}"


def _missing(value: Any) -> bool:
    if value is None:
        return True
    if isinstance(value, numbers.Real):
        return not math.isfinite(value)
    return str(value).strip().lower() in _MISSING_WORDS
