"""The report of a segmentation on test scans: every figure with its interval, its n and its number of subjects."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medssl_monai.metrics.checks import FloatArray, IntArray, check_same_length
from medssl_monai.metrics.distribution import Distribution
from medssl_monai.metrics.report_entries import (
    MIN_SUBJECTS,
    interval_entry,
    metric_warnings,
    n_distinct,
    subgroup_table,
    too_few_subjects,
)
from medssl_monai.metrics.resampling import Kernel, Resampler, group_codes
from medssl_monai.metrics.segmentation import CASES, OrganScore, organ_table
from medssl_monai.metrics.weighted import ratio_kernel

FIGURES = ("dice", "hd95_mm", "volume_bias_ml", "volume_error_ml", "volume_error_percent")
"""Figures of an organ; the headline figures are their means over organs, ``mean_dice`` and so on."""


@dataclass(frozen=True)
class _Cases:
    """Tables (N, O) of the figures, NaN where undefined, and how scans are resampled."""

    tables: Mapping[str, FloatArray]
    subjects: IntArray
    organs: list[str]
    n_boot: int
    seed: int

    def take(self, cases: IntArray) -> _Cases:
        tables = {name: table[cases] for name, table in self.tables.items()}
        return _Cases(tables, self.subjects[cases], self.organs, self.n_boot, self.seed)

    @property
    def n_subjects(self) -> int:
        return n_distinct(self.subjects)

    def table(self, figure: str, organ: str) -> FloatArray:
        """A figure of one organ (N, 1), or of all of them (N, O)."""
        table = self.tables[figure]
        return table[:, [self.organs.index(organ)]] if organ else table

    def distribute(self) -> dict[tuple[str, str], Distribution]:
        """Every figure, over all organs ("") and of each, on the same resamples."""
        kernels = {
            (figure, name): _mean(self.table(figure, name)) for figure in self.tables for name in ("", *self.organs)
        }
        keys = {f"{figure}/{name}": (figure, name) for figure, name in kernels}
        resampler = Resampler(len(self.subjects), self.subjects, self.n_boot, self.seed)
        found = resampler.distribute({text: kernels[key] for text, key in keys.items()})
        return {keys[text]: distribution for text, distribution in found.items()}


def _mean(table: FloatArray) -> Kernel:
    """Mean over organs of the mean over the scans where an organ's figure is defined."""
    defined = np.isfinite(table)
    return ratio_kernel(np.where(defined, table, 0).T, defined.T.astype(np.float64))


def segmentation_distributions(
    scores: Sequence[Sequence[OrganScore]],
    groups: Sequence[Hashable] | None,
    *,
    n_boot: int = 1000,
    seed: int = 0,
) -> dict[tuple[str, str], Distribution]:
    """Bootstrap distributions of every figure, to compare models of the same scans.

    Args:
        scores: of N scans, each of the same organs; see :func:`~medssl_monai.metrics.organ_scores`.
        groups: (N,) subject ids; whole subjects are drawn. ``None`` counts each scan as its own subject.
        n_boot: number of resamples.
        seed: seed of the resamples: those of one seed and the same groups can be subtracted.

    Returns:
        By figure (of :data:`FIGURES`) and organ; the organ ``""`` is the mean over organs of their means over scans.

    Raises:
        ValueError: for no scan, scans of different organs, or groups that do not fit.
    """
    return _cases(scores, groups, n_boot, seed).distribute()


def segmentation_report(
    scores: Sequence[Sequence[OrganScore]],
    groups: Sequence[Hashable] | None,
    *,
    columns: Mapping[str, Sequence[Any]] | None = None,
    n_boot: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Everything `evaluate` says of a segmentation, ready for JSON (no NaN: ``None`` and a reason).

    Entries of a figure hold ``estimate``, ``interval_90`` and ``interval_95`` (percentiles over resampled subjects),
    ``n`` and ``n_subjects`` (scans and subjects for which it is defined), ``n_undefined`` (resamples without any such
    scan, dropped) and ``reason`` (why a value is ``None``). Figures are ``dice``, ``hd95_mm`` (mm),
    ``volume_bias_ml`` (predicted minus true volume), ``volume_error_ml`` and ``volume_error_percent`` (its size).
    ``metrics`` holds their means over organs (``mean_dice``, ...), ``per_class`` those of each organ, with ``cases``:
    in how many scans it is in truth and prediction (``both``), ``missed``, ``invented`` or ``absent`` from both. A
    missed or invented organ has Dice 0 and no HD95; an absent one enters no figure but the volumes in ml.

    Fewer than 10 subjects get no interval.

    Args:
        scores: of N scans, each of the same organs; see :func:`~medssl_monai.metrics.organ_scores`.
        groups: (N,) subject ids; ``None`` counts each scan as its own subject and warns.
        columns: by name, (N,) values each, for the subgroup table.
        n_boot: number of resamples.
        seed: seed of the resamples.

    Raises:
        ValueError: for no scan, scans of different organs, or groups or columns that do not fit.
    """
    cases = _cases(scores, groups, n_boot, seed)
    check_same_length(scores=scores, **{f"column {name!r}": values for name, values in (columns or {}).items()})
    warnings: list[str] = []
    if groups is None:
        warnings.append("no subject ids: each scan counts as its own subject, intervals may be too narrow")
    entries = _entries(cases)
    metrics = {f"mean_{figure}": entries[figure, ""] for figure in FIGURES}
    warnings += metric_warnings(metrics, n_boot)
    per_class: dict[str, dict[str, Any]] = {}
    for k, name in enumerate(cases.organs):
        found = [row[k].case for row in scores]
        shown = [one in ("both", "missed") for one in found]
        per_class[name] = {
            "n": sum(shown),
            "n_subjects": n_distinct(cases.subjects[np.array(shown)]),
            **{figure: entries[figure, name] for figure in FIGURES},
            "cases": {case: found.count(case) for case in CASES},
        }
    warnings += _warnings(per_class)
    return {
        "n": len(scores),
        "n_subjects": cases.n_subjects,
        "n_boot": n_boot,
        "seed": seed,
        "class_names": cases.organs,
        "metrics": metrics,
        "per_class": per_class,
        "subgroups": subgroup_table(cases, columns or {}, _headline, warnings),
        "warnings": warnings,
    }


def _cases(scores: Sequence[Sequence[OrganScore]], groups: Sequence[Hashable] | None, n_boot: int, seed: int) -> _Cases:
    bias = organ_table(scores, "volume_error_ml")
    tables = {
        "dice": organ_table(scores, "dice"),
        "hd95_mm": organ_table(scores, "hd95_mm"),
        "volume_bias_ml": bias,
        "volume_error_ml": np.abs(bias),
        "volume_error_percent": np.abs(organ_table(scores, "volume_error_percent")),
    }
    codes = group_codes(groups, len(scores))
    subjects = np.arange(len(scores)) if codes is None else codes
    return _Cases(tables, subjects, [one.organ for one in scores[0]], n_boot, seed)


def _entries(cases: _Cases) -> dict[tuple[str, str], dict[str, Any]]:
    entries = {}
    for (figure, name), distribution in cases.distribute().items():
        table = np.isfinite(cases.table(figure, name))
        defined = table.any(axis=1)
        n_subjects = n_distinct(cases.subjects[defined])
        withheld = "" if n_subjects >= MIN_SUBJECTS else too_few_subjects(n_subjects)
        entry = interval_entry(distribution, withheld)
        entry.update(n=int(defined.sum()), n_subjects=n_subjects)
        if entry["estimate"] is None:
            entry["reason"] = "defined for no scan"
        entries[figure, name] = entry
        if not name:
            entry["n_classes"] = int(table.any(axis=0).sum())
    return entries


def _headline(cases: _Cases) -> dict[str, dict[str, Any]]:
    entries = _entries(cases)
    return {f"mean_{figure}": entries[figure, ""] for figure in FIGURES}


def _warnings(per_class: Mapping[str, Mapping[str, Any]]) -> list[str]:
    said = {
        "missed": "left empty where the truth shows it: Dice 0, and no HD95",
        "invented": "predicted where the truth is empty: Dice 0, and no HD95",
        "absent": "in neither truth nor prediction: no Dice, the scan is left out of the organ's figures",
    }
    warnings = []
    for case, text in said.items():
        counts = [f"{name} ({one['cases'][case]})" for name, one in per_class.items() if one["cases"][case]]
        if counts:
            warnings.append(f"{text}; scans by organ: {', '.join(counts)}")
    return warnings
