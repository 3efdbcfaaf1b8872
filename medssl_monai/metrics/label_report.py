"""The report on labels that are each there or not: binary and multilabel tasks, every number with its interval."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from medssl_monai.metrics.checks import (
    BoolArray,
    FloatArray,
    IntArray,
    check_class_names,
    check_fraction,
    check_same_length,
)
from medssl_monai.metrics.distribution import Distribution, average_distributions
from medssl_monai.metrics.label_calibration import (
    apply_label_temperatures,
    as_label_probabilities,
    as_label_table,
    label_calibration,
    label_calibration_curve,
    mean_calibration,
)
from medssl_monai.metrics.label_metrics import average_precision_kernel, f1_kernel
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
from medssl_monai.metrics.weighted import Rate, auroc_kernel, mean_kernel, ratio_kernel

#: a label is called from this probability on where no operating point was set
HALF = 0.5

#: figure over all labels: figure of a label whose mean it is
_MEANS = {
    "macro_auroc": "auroc",
    "macro_average_precision": "average_precision",
    "ovr_accuracy": "ovr_accuracy",
    "ovr_sensitivity": "ovr_sensitivity",
    "ovr_specificity": "ovr_specificity",
    "accuracy": "accuracy",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "balanced_accuracy": "balanced_accuracy",
    "f1": "f1",
    "brier": "brier",
}


def decision_thresholds(
    class_names: Sequence[str], operating_points: Mapping[str, Mapping[str, Any]] | None
) -> FloatArray:
    """Probability from which each label is called, (L,): its operating point, 0.5 where none was set."""
    points = operating_points or {}
    limits = [(points.get(name) or {}).get("threshold") for name in class_names]
    return np.array([HALF if limit is None else limit for limit in limits], dtype=np.float64)


@dataclass(frozen=True)
class _Cases:
    """Test cases and how they are resampled."""

    truth: BoolArray
    probabilities: FloatArray  # as served
    raw: FloatArray  # before temperature scaling
    subjects: IntArray
    limits: FloatArray
    threshold: float
    n_boot: int
    seed: int

    def take(self, cases: IntArray) -> _Cases:
        fields = {name: getattr(self, name)[cases] for name in ("truth", "probabilities", "raw", "subjects")}
        return _Cases(**fields, limits=self.limits, threshold=self.threshold, n_boot=self.n_boot, seed=self.seed)

    @property
    def called(self) -> BoolArray:
        return np.asarray(self.probabilities >= self.limits)

    @property
    def n_subjects(self) -> int:
        return n_distinct(self.subjects)


def multilabel_report(
    y_true: ArrayLike,
    probabilities: ArrayLike,
    groups: Sequence[Hashable] | None,
    class_names: Sequence[str],
    *,
    threshold: float = HALF,
    operating_points: Mapping[str, Mapping[str, Any]] | None = None,
    temperatures: Sequence[float] | None = None,
    columns: Mapping[str, Sequence[Any]] | None = None,
    n_boot: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Everything `evaluate` says of labels that are each there or not, ready for JSON.

    It has the shape of :func:`~medssl_monai.metrics.classification_report`, with ``exclusive`` false. A label is called
    from its operating point on, from 0.5 where none was set (which ``warnings`` names). Of each label (``per_class``)
    and as means over the labels (``metrics``) there are AUROC, average precision, accuracy, sensitivity, specificity,
    their mean (``balanced_accuracy``), F1 and Brier score (0 to 1), and the ``ovr_`` figures at ``threshold``, which
    take the probabilities before temperature scaling. ``subset_accuracy``, where there are several labels, is the share
    of cases whose every label is right. A figure that a label does not have (AUROC, average precision and balanced
    accuracy need both sides) is left out of the mean; ``n_classes`` counts the labels that entered.
    ``confusion_matrices`` are [[TN, FP], [FN, TP]] by label. ``calibration`` holds each label's (``per_class``), the
    means over labels, and the curve over all labels' decisions.

    Labels, subgroups and test sets of fewer than 10 subjects (of either side of a label) get no interval.

    Args:
        y_true: 0/1 table (N, L); with one label also (N,).
        probabilities: (N, L), before temperature scaling.
        groups: (N,) subject ids; ``None`` counts each case as its own subject and warns.
        class_names: L names.
        threshold: of the ``ovr_`` figures.
        operating_points: as returned by :func:`~medssl_monai.metrics.choose_operating_points` on validation.
        temperatures: one a label, as fitted on validation, or ``None``.
        columns: by name, (N,) values each, for the subgroup table.
        n_boot: number of resamples.
        seed: seed of the resamples.

    Raises:
        ValueError: for shapes, labels, probabilities, groups, names, operating points or columns that do not fit.
    """
    given = as_label_probabilities(probabilities)
    names = check_class_names(class_names, given.shape[1])
    truth = as_label_table(y_true, given.shape[1]) == 1
    check_same_length(y_true=truth, probabilities=given)
    check_same_length(y_true=truth, **{f"column {name!r}": values for name, values in (columns or {}).items()})
    unknown = sorted(set(operating_points or {}) - set(names))
    if unknown:
        raise ValueError(f"operating points for {unknown}, which are no labels; labels are {names}")
    codes = group_codes(groups, len(truth))
    cases = _Cases(
        truth=truth,
        probabilities=given if temperatures is None else apply_label_temperatures(given, temperatures),
        raw=given,
        subjects=np.arange(len(truth)) if codes is None else codes,
        limits=decision_thresholds(names, operating_points),
        threshold=check_fraction(threshold, "threshold"),
        n_boot=n_boot,
        seed=seed,
    )
    warnings: list[str] = []
    if codes is None:
        warnings.append("no subject ids: each case counts as its own subject, intervals may be too narrow")
    unset = [name for name in names if ((operating_points or {}).get(name) or {}).get("threshold") is None]
    if operating_points and unset:
        warnings.append(f"no operating point of {', '.join(unset)}: called from a probability of {HALF} on")
    of_labels, metrics = _figures(cases)
    warnings += metric_warnings(metrics, n_boot)
    # scikit-learn's multilabel_confusion_matrix takes a single column for the classes of exclusive ones
    counts = [np.bincount(2 * truth[:, k] + cases.called[:, k], minlength=4) for k in range(len(names))]
    return {
        "exclusive": False,
        "n": len(truth),
        "n_subjects": cases.n_subjects,
        "n_boot": n_boot,
        "seed": seed,
        "threshold": cases.threshold,
        "class_names": names,
        "metrics": metrics,
        "per_class": _per_label(cases, names, of_labels, operating_points, warnings),
        "confusion_matrices": {name: one.reshape(2, 2).tolist() for name, one in zip(names, counts)},
        "calibration": _calibration(cases, names, temperatures),
        "subgroups": subgroup_table(cases, columns or {}, lambda part: _figures(part)[1], warnings),
        "warnings": warnings,
    }


def _kernels(cases: _Cases, k: int) -> dict[str, Kernel]:
    """Figures of a label, by name."""
    truth, score, called = cases.truth[:, k], cases.probabilities[:, k], cases.called[:, k]
    kernels = {"auroc": auroc_kernel(truth, score), "average_precision": average_precision_kernel(truth, score)}
    for kind in ("accuracy", "sensitivity", "specificity"):
        rate = Rate(kind, cases.threshold)  # type: ignore[arg-type]
        kernels[f"ovr_{kind}"] = rate.prepare(truth, cases.raw[:, k])
    for kind in ("accuracy", "sensitivity", "specificity"):
        kernels[kind] = Rate(kind).prepare(truth, called)  # type: ignore[arg-type]
    kernels["balanced_accuracy"] = mean_kernel([kernels["sensitivity"], kernels["specificity"]])
    kernels["f1"] = f1_kernel(truth, called)
    kernels["brier"] = ratio_kernel(((score - truth) ** 2)[None], np.ones((1, len(score))))
    return kernels


def _figures(cases: _Cases) -> tuple[list[dict[str, Distribution]], dict[str, dict[str, Any]]]:
    """Distributions of each label's figures, and the entries of the figures over all labels."""
    n_labels = cases.truth.shape[1]
    kernels = {f"{k} {name}": one for k in range(n_labels) for name, one in _kernels(cases, k).items()}
    if n_labels > 1:
        right = (cases.truth == cases.called).all(axis=1).astype(np.float64)[None]
        kernels["subset_accuracy"] = ratio_kernel(right, np.ones_like(right))
    found = Resampler(len(cases.truth), cases.subjects, cases.n_boot, cases.seed).distribute(kernels)
    of_labels = [
        {name.partition(" ")[2]: one for name, one in found.items() if name.startswith(f"{k} ")}
        for k in range(n_labels)
    ]
    withheld = "" if cases.n_subjects >= MIN_SUBJECTS else too_few_subjects(cases.n_subjects)
    entries = {}
    for name, part in _MEANS.items():
        usable = [one[part] for one in of_labels if not np.isnan(one[part].estimate)]
        mean = average_distributions(usable or [one[part] for one in of_labels])
        entries[name] = {**interval_entry(mean, withheld), "n_classes": len(usable)}
    if n_labels > 1:
        entries["subset_accuracy"] = {**interval_entry(found["subset_accuracy"], withheld), "n_classes": n_labels}
    return of_labels, entries


def _per_label(
    cases: _Cases,
    names: Sequence[str],
    of_labels: Sequence[Mapping[str, Distribution]],
    operating_points: Mapping[str, Mapping[str, Any]] | None,
    warnings: list[str],
) -> dict[str, dict[str, Any]]:
    table: dict[str, dict[str, Any]] = {}
    sides: dict[str, ClassSides] = {}
    for k, name in enumerate(names):
        sides[name] = ClassSides.of(cases.truth[:, k], cases.subjects)
        entries = sides[name].entries(of_labels[k])
        table[name] = {"n": sides[name].cases[True], "n_subjects": sides[name].subjects[True], **entries}
        table[name]["decision_threshold"] = float(cases.limits[k])
        if operating_points is not None:
            point = operating_points.get(name) or {}
            limit = point.get("threshold")
            rates = {kind: None if limit is None else entries[kind] for kind in ("sensitivity", "specificity")}
            reason = None if limit is not None else point.get("reason") or "no operating point was stored"
            table[name]["operating_point"] = {"threshold": limit, **rates, "reason": reason}
    warnings += few_subjects_warnings(sides, cases.n_subjects)
    return table


def _calibration(cases: _Cases, names: Sequence[str], temperatures: Sequence[float] | None) -> dict[str, Any]:
    reason = "no temperature was fitted" if temperatures is None else None
    scales = {"before": cases.raw, "after": None if temperatures is None else cases.probabilities}
    found: dict[str, list[dict[str, Any]]] = {
        scale: [label_calibration(values[:, k], cases.truth[:, k]) for k in range(len(names))]
        for scale, values in scales.items()
        if values is not None
    }
    per_class = {
        name: {
            "temperature": None if temperatures is None else float(temperatures[k]),
            **{scale: found[scale][k] if scale in found else None for scale in scales},
            "reason": reason,
        }
        for k, name in enumerate(names)
    }
    pooled = {
        scale: mean_calibration(found[scale], label_calibration_curve(values.ravel(), cases.truth.ravel()))
        if values is not None
        else None
        for scale, values in scales.items()
    }
    scaled = None if temperatures is None else {name: float(one) for name, one in zip(names, temperatures)}
    return {"temperature": scaled, **pooled, "per_class": per_class, "reason": reason}
