"""The report of a classifier on a test set: every number with its interval, its n and its number of subjects."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from medssl_monai.metrics.calibration import (
    apply_temperature,
    brier_score,
    calibration_curve,
    negative_log_likelihood,
)
from medssl_monai.metrics.checks import (
    FloatArray,
    IntArray,
    as_classes,
    as_probabilities,
    check_class_names,
    check_fraction,
    check_same_length,
)
from medssl_monai.metrics.classification import confusion_matrix
from medssl_monai.metrics.distribution import Distribution
from medssl_monai.metrics.report_entries import (
    MIN_SUBJECTS,
    ClassSides,
    few_subjects_warnings,
    interval_entry,
    metric_warnings,
    n_distinct,
    subgroup_table,
    too_few_subjects,
)
from medssl_monai.metrics.resampling import Kernel, Resampler, group_codes
from medssl_monai.metrics.weighted import (
    AUROC,
    PAPER_THRESHOLD,
    Accuracy,
    BalancedAccuracy,
    MacroAUROC,
    Rate,
)


@dataclass(frozen=True)
class _Cases:
    """Test cases and how they are resampled."""

    labels: IntArray
    probabilities: FloatArray  # as served
    raw: FloatArray  # before temperature scaling
    subjects: IntArray
    threshold: float
    n_boot: int
    seed: int

    def take(self, cases: IntArray) -> _Cases:
        fields = {name: getattr(self, name)[cases] for name in ("labels", "probabilities", "raw", "subjects")}
        return _Cases(**fields, threshold=self.threshold, n_boot=self.n_boot, seed=self.seed)

    @property
    def n_subjects(self) -> int:
        return n_distinct(self.subjects)

    def distribute(self, kernels: Mapping[str, Kernel]) -> dict[str, Distribution]:
        return Resampler(len(self.labels), self.subjects, self.n_boot, self.seed).distribute(kernels)


def classification_report(
    y_true: ArrayLike,
    probabilities: ArrayLike,
    groups: Sequence[Hashable] | None,
    class_names: Sequence[str],
    *,
    threshold: float = PAPER_THRESHOLD,
    operating_points: Mapping[str, Mapping[str, Any]] | None = None,
    temperature: float | None = None,
    columns: Mapping[str, Sequence[Any]] | None = None,
    n_boot: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Everything `evaluate` says of a classifier of exclusive classes, ready for JSON (no NaN: ``None`` and a reason).

    Entries of a metric hold ``estimate``, ``interval_90`` and ``interval_95`` (percentiles over resampled subjects),
    ``n``, ``n_subjects``, ``n_undefined`` (resamples that lack a class, dropped) and ``reason`` (why a value is
    ``None``). Metrics are ``macro_auroc``; ``ovr_accuracy``, ``ovr_sensitivity``, ``ovr_specificity`` (each class
    against the rest at ``threshold``, averaged: the published tables' convention); ``top1_accuracy`` and
    ``balanced_top1_accuracy``. Per class there are also the rates of the most probable class and of the operating
    point; ``n`` of a sensitivity counts the class's cases, of a specificity the others.

    Classes, subgroups and test sets of fewer than 10 subjects get no interval; classes are named in ``warnings``.
    With a ``temperature`` all figures are those of the scaled probabilities, which are what is served, and operating
    points must have been chosen on that scale; only the ``ovr_`` figures at ``threshold`` take the probabilities as
    given, because the published tables do.

    Args:
        y_true: (N,) class indices of the test cases.
        probabilities: (N, C), before temperature scaling; rows add up to 1.
        groups: (N,) subject ids; ``None`` counts each case as its own subject and warns.
        class_names: C names.
        threshold: one-vs-rest threshold.
        operating_points: as returned by :func:`~medssl_monai.metrics.choose_operating_points` on validation.
        temperature: as fitted on validation, or ``None``.
        columns: by name, (N,) values each, for the subgroup table.
        n_boot: number of resamples.
        seed: seed of the resamples.

    Raises:
        ValueError: for shapes, labels, probabilities, groups, class names, operating points or columns that do not fit.
    """
    given = as_probabilities(probabilities)
    names = check_class_names(class_names, given.shape[1])
    labels = as_classes(y_true, given.shape[1])
    check_same_length(y_true=labels, probabilities=given)
    check_same_length(y_true=labels, **{f"column {name!r}": values for name, values in (columns or {}).items()})
    unknown = sorted(set(operating_points or {}) - set(names))
    if unknown:
        raise ValueError(f"operating points for {unknown}, which are no classes; classes are {names}")
    codes = group_codes(groups, len(labels))
    subjects = np.arange(len(labels)) if codes is None else codes
    served = given if temperature is None else apply_temperature(given, temperature)
    cases = _Cases(labels, served, given, subjects, check_fraction(threshold, "threshold"), n_boot, seed)

    warnings: list[str] = []
    if codes is None:
        warnings.append("no subject ids: each case counts as its own subject, intervals may be too narrow")
    metrics = _headline(cases)
    warnings += metric_warnings(metrics, n_boot)
    return {
        "n": len(labels),
        "n_subjects": cases.n_subjects,
        "n_boot": n_boot,
        "seed": seed,
        "threshold": cases.threshold,
        "class_names": names,
        "metrics": metrics,
        "per_class": _per_class(cases, names, operating_points, warnings),
        "confusion_matrix": confusion_matrix(labels, served).tolist(),
        "calibration": _calibration(cases, temperature),
        "subgroups": subgroup_table(cases, columns or {}, _headline, warnings),
        "warnings": warnings,
    }


def _headline(cases: _Cases) -> dict[str, dict[str, Any]]:
    metrics = {
        "macro_auroc": MacroAUROC(),
        "ovr_accuracy": Rate("accuracy", cases.threshold),
        "ovr_sensitivity": Rate("sensitivity", cases.threshold),
        "ovr_specificity": Rate("specificity", cases.threshold),
        "top1_accuracy": Accuracy(),
        "balanced_top1_accuracy": BalancedAccuracy(),
    }
    kernels = {
        name: metric.prepare(cases.labels, cases.raw if name.startswith("ovr_") else cases.probabilities)
        for name, metric in metrics.items()
    }
    n_subjects = cases.n_subjects
    withheld = "" if n_subjects >= MIN_SUBJECTS else too_few_subjects(n_subjects)
    present = n_distinct(cases.labels)
    classes = cases.probabilities.shape[1]
    entering = {
        "macro_auroc": present if present > 1 else 0,
        "ovr_accuracy": classes,
        "ovr_sensitivity": present,
        "ovr_specificity": classes - (present == 1),
        "balanced_top1_accuracy": present,
    }
    entries = {name: interval_entry(one, withheld) for name, one in cases.distribute(kernels).items()}
    for name, number in entering.items():
        entries[name]["n_classes"] = number
    return entries


def _per_class(
    cases: _Cases,
    names: list[str],
    operating_points: Mapping[str, Mapping[str, Any]] | None,
    warnings: list[str],
) -> dict[str, dict[str, Any]]:
    table: dict[str, dict[str, Any]] = {}
    sides: dict[str, ClassSides] = {}
    called = cases.probabilities.argmax(axis=1)
    for k, name in enumerate(names):
        truth, score = cases.labels == k, cases.probabilities[:, k]
        point = (operating_points or {}).get(name)
        limit = None if point is None else point["threshold"]
        kernels = {"auroc": AUROC().prepare(truth, score)}
        for kind in ("accuracy", "sensitivity", "specificity"):
            published = Rate(kind, cases.threshold)  # type: ignore[arg-type]
            kernels[f"ovr_{kind}"] = published.prepare(truth, cases.raw[:, k])
        for kind in ("sensitivity", "specificity"):
            kernels[f"top1_{kind}"] = Rate(kind).prepare(truth, called == k)  # type: ignore[arg-type]
            if limit is not None:
                kernels[f"point_{kind}"] = Rate(kind, limit).prepare(truth, score)  # type: ignore[arg-type]
        sides[name] = ClassSides.of(truth, cases.subjects)
        entries = sides[name].entries(cases.distribute(kernels))
        points = {kind: entries.pop(f"point_{kind}", None) for kind in ("sensitivity", "specificity")}
        table[name] = {"n": sides[name].cases[True], "n_subjects": sides[name].subjects[True], **entries}
        if operating_points is not None:
            reason = None if limit is not None else (point or {}).get("reason") or "no operating point was stored"
            table[name]["operating_point"] = {"threshold": limit, **points, "reason": reason}
    warnings += few_subjects_warnings(sides, cases.n_subjects)
    return table


def _calibration(cases: _Cases, temperature: float | None) -> dict[str, Any]:
    def describe(probabilities: FloatArray) -> dict[str, Any]:
        curve = calibration_curve(probabilities, cases.labels)
        return {
            "ece": curve.ece,
            "brier": brier_score(probabilities, cases.labels),
            "nll": negative_log_likelihood(probabilities, cases.labels),
            "curve": curve.to_json(),
        }

    after = None if temperature is None else describe(cases.probabilities)
    return {
        "temperature": temperature,
        "before": describe(cases.raw),
        "after": after,
        "reason": "no temperature was fitted" if after is None else None,
    }
