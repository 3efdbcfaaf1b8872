"""Comparisons of training runs on one test set: subjects resampled jointly, Holm's correction, annotation saved.

The intervals say how figures would vary with other test *subjects*, for the networks that were trained. How they vary
with another training (initialisation, order of batches) is shown apart, by the values of the single seeds.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from medssl_monai.metrics.checks import (
    as_classes,
    as_probabilities,
    as_scores,
    check_class_names,
    check_same_length,
    one_vs_rest,
)
from medssl_monai.metrics.distribution import Distribution, average_distributions
from medssl_monai.metrics.report_entries import MIN_SUBJECTS, n_distinct, too_few_subjects
from medssl_monai.metrics.resampling import Kernel, Resampler, group_codes
from medssl_monai.metrics.weighted import Accuracy, BalancedAccuracy, auroc_kernel

#: figure and class; the class of a figure over all classes is ""
Figure = tuple[str, str]
Run = TypeVar("Run", bound=Hashable)

#: figures over all classes of exclusive classes; a 0/1 label table has the first one only
HEADLINE = ("macro_auroc", "balanced_top1_accuracy", "top1_accuracy")


def joint_distributions(
    y_true: ArrayLike,
    scores: Mapping[Run, ArrayLike],
    groups: Sequence[Hashable] | None,
    class_names: Sequence[str],
    n_boot: int = 1000,
    seed: int = 0,
) -> dict[Run, dict[Figure, Distribution]]:
    """Figures of several runs on the same test cases and on the same resamples of whole subjects.

    All distributions share their resamples, so that they may be averaged over seeds
    (:func:`~medssl_monai.metrics.average_distributions`) and subtracted (``a - b``) resample by resample.

    Figures are ``auroc`` of each class against the rest, ``macro_auroc`` (its mean over the classes that have positive
    and negative cases), and for exclusive classes ``balanced_top1_accuracy`` and ``top1_accuracy``.

    Args:
        y_true: class indices (N,), or a 0/1 table (N, C) where a case may carry several labels.
        scores: for each run (N, C): probabilities of exclusive classes, or any scores for a 0/1 table.
        groups: (N,) subject of each case; ``None`` makes each case its own subject.
        class_names: C names.
        n_boot: number of resamples.
        seed: seed of the resamples.

    Returns:
        For each run, each figure's distribution under its name and class.

    Raises:
        ValueError: for no runs, or labels, scores, groups or names that do not fit.
    """
    if not scores:
        raise ValueError("no runs: there is nothing to compare")
    names = check_class_names(class_names, len(class_names))
    exclusive = np.ndim(y_true) == 1
    kernels: dict[str, Kernel] = {}
    places: dict[str, tuple[Run, Figure]] = {}
    usable: list[str] = []
    n = 0
    for run, values in scores.items():
        table = as_probabilities(values, f"scores of {run!r}") if exclusive else as_scores(values, ndim=(2,))
        check_class_names(names, table.shape[1])
        truth = one_vs_rest(as_classes(y_true, len(names)) if exclusive else y_true, len(names))
        check_same_length(y_true=truth, **{f"scores of {run!r}": table})
        usable = [name for k, name in enumerate(names) if truth[:, k].any() and not truth[:, k].all()]
        n = len(truth)
        figures = {("auroc", name): auroc_kernel(truth[:, k], table[:, k]) for k, name in enumerate(names)}
        if exclusive:
            figures["balanced_top1_accuracy", ""] = BalancedAccuracy().prepare(y_true, table)
            figures["top1_accuracy", ""] = Accuracy().prepare(y_true, table)
        for figure, kernel in figures.items():
            places[str(len(places))] = (run, figure)
            kernels[str(len(kernels))] = kernel
    found: dict[Run, dict[Figure, Distribution]] = {run: {} for run in scores}
    for place, distribution in Resampler(n, groups, n_boot, seed).distribute(kernels).items():
        run, figure = places[place]
        found[run][figure] = distribution
    for one in found.values():
        # the mean of the classes' curves is the macro AUROC, resample by resample: no need to compute it again
        one["macro_auroc", ""] = average_distributions([one["auroc", name] for name in usable or names])
    return found


def withheld_intervals(
    y_true: ArrayLike, groups: Sequence[Hashable] | None, class_names: Sequence[str]
) -> dict[str, str]:
    """Classes whose figures get no interval, with the reason: fewer than 10 subjects with, or without, the class.

    The class "" stands for the figures over all classes, which get none below 10 subjects.

    Args:
        y_true: class indices (N,) or a 0/1 table (N, C).
        groups: (N,) subject of each case, or ``None``.
        class_names: C names.
    """
    truth = one_vs_rest(y_true, len(class_names))
    codes = group_codes(groups, len(truth))
    subjects = np.arange(len(truth)) if codes is None else codes
    reasons = {}
    for k, name in enumerate(class_names):
        sides = [n_distinct(subjects[truth[:, k]]), n_distinct(subjects[~truth[:, k]])]
        if min(sides) < MIN_SUBJECTS:
            reasons[name] = too_few_subjects(min(sides), sides[0] <= sides[1])
    if n_distinct(subjects) < MIN_SUBJECTS:
        reasons[""] = too_few_subjects(n_distinct(subjects))
    return reasons


def bootstrap_p_value(difference: Distribution) -> float:
    """Two-sided p-value of "the difference is 0", read from its bootstrap distribution.

    ``p = min(1, 2 (1 + min(#{d <= 0}, #{d >= 0})) / (B + 1))`` over the B resamples on which the difference is defined
    (Davison & Hinkley 1997, *Bootstrap Methods and their Application*, 4.4, for the added ones): p < 0.05 just where
    the 95 % percentile interval leaves 0 out, up to the added ones. Its smallest value is 2 / (B + 1). NaN where the
    difference or every resample of it is undefined.
    """
    values = difference.values[~np.isnan(difference.values)]
    if math.isnan(difference.estimate) or not len(values):
        return math.nan
    beyond = min(int((values <= 0).sum()), int((values >= 0).sum()))
    return min(1.0, 2 * (1 + beyond) / (len(values) + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values (Holm 1979), in the order given.

    ``p_holm(i) = max over j <= i of min(1, (m - j + 1) p(j))`` with p(1) <= ... <= p(m). NaN (a comparison that could
    not be made) stays NaN but counts in m, so that a missing comparison never makes the others look better.

    Raises:
        ValueError: for a value outside [0, 1].
    """
    given = np.asarray(p_values, dtype=np.float64)
    bad = given[(given < 0) | (given > 1)]
    if len(bad):
        raise ValueError(f"p-values lie in [0, 1]; found {bad[0]}")
    order = np.argsort(given, kind="stable")  # NaN last
    adjusted = np.empty(len(given))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(given[order] * (len(given) - np.arange(len(given)))))
    return [float(value) for value in adjusted]


@dataclass(frozen=True)
class AnnotationSaved:
    """Labels an arm can do without, see :func:`annotation_saved`.

    Attributes:
        budget: name of the smallest sufficient budget; ``None`` where there is none.
        labels: labels it uses, training and validation together.
        labels_full: labels of the reference.
        saved_fraction: ``1 - labels / labels_full``.
        margin: largest loss that counts as none.
        larger_insufficient: names of larger budgets that miss the margin, which makes the smallest one doubtful.
    """

    budget: str | None
    labels: int | None
    labels_full: int
    saved_fraction: float | None
    margin: float
    larger_insufficient: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "larger_insufficient": list(self.larger_insufficient)}


def annotation_saved(
    candidates: Mapping[str, tuple[int, Distribution]], labels_full: int, margin: float = 0.01
) -> AnnotationSaved:
    """The smallest budget whose figure is not worse than the reference by more than ``margin``.

    A budget suffices where the lower end of the 90 % interval of its paired difference to the reference (the
    supervised arm with all labels) exceeds ``-margin``: a one-sided test of non-inferiority at 5 %.

    Args:
        candidates: by budget, the labels it uses and the difference budget - reference.
        labels_full: labels of the reference.
        margin: largest loss that counts as none.

    Raises:
        ValueError: for a margin that is not positive or a number of labels below 1.
    """
    if not margin > 0:
        raise ValueError(f"margin is {margin}; expected a positive number")
    if labels_full < 1 or any(labels < 1 for labels, _ in candidates.values()):
        raise ValueError("every budget uses at least one label")
    ordered = sorted(candidates.items(), key=lambda entry: entry[1][0])
    enough = [difference.interval((5, 95)).low > -margin for _, (_, difference) in ordered]
    if not any(enough):
        return AnnotationSaved(None, None, labels_full, None, margin)
    first = enough.index(True)
    budget, (labels, _) = ordered[first]
    missing = tuple(name for (name, _), fits in zip(ordered[first:], enough[first:]) if not fits)
    return AnnotationSaved(budget, labels, labels_full, 1 - labels / labels_full, margin, missing)
