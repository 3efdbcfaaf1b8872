"""Point estimates of a classifier from class indices (N,) and probabilities (N, C).

Three conventions stand side by side, because they answer different questions: AUROC (ranking, no threshold), one class
against the rest at a threshold (what the published skin-lesion tables call accuracy), and the highest probability
(top-1, what a reader expects of accuracy).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import confusion_matrix as _confusion_matrix
from sklearn.metrics import roc_auc_score

from medssl_monai.metrics.checks import (
    BoolArray,
    FloatArray,
    IntArray,
    as_classes,
    as_scores,
    check_fraction,
    check_same_length,
    one_vs_rest,
)
from medssl_monai.metrics.weighted import PAPER_THRESHOLD, decisions


class MacroAverage(NamedTuple):
    """Mean over classes.

    Attributes:
        value: the mean; NaN when no class entered.
        n_classes: number of classes that entered.
    """

    value: float
    n_classes: int


@dataclass(frozen=True)
class OneVsRest:
    """Rates of the decisions "this class or not", each (C,); NaN where a class has no such case.

    Attributes:
        accuracy: right decisions among all cases.
        sensitivity: right decisions among the class's cases.
        specificity: right decisions among the other cases.
    """

    accuracy: FloatArray
    sensitivity: FloatArray
    specificity: FloatArray

    def mean(self) -> dict[str, float]:
        """Mean over the classes for which a rate is defined, by name of the rate."""
        return {name: _macro(values).value for name, values in vars(self).items()}


def one_vs_rest_auroc(y_true: ArrayLike, probabilities: ArrayLike) -> FloatArray:
    """AUROC of each class against the rest, (C,); NaN for a class that no case or every case has.

    Args:
        y_true: class indices (N,), or a 0/1 table (N, C) when a case may carry several labels.
        probabilities: scores (N, C); they need not add up to 1.

    Raises:
        ValueError: for shapes or labels that do not fit.
    """
    scores = as_scores(probabilities, "probabilities", ndim=(2,))
    truth = one_vs_rest(y_true, scores.shape[1])
    check_same_length(y_true=truth, probabilities=scores)
    aurocs = np.full(scores.shape[1], math.nan)
    for k in range(scores.shape[1]):
        if 0 < truth[:, k].sum() < len(truth):
            aurocs[k] = roc_auc_score(truth[:, k], scores[:, k])
    return aurocs


def macro_auroc(y_true: ArrayLike, probabilities: ArrayLike) -> MacroAverage:
    """Mean of :func:`one_vs_rest_auroc` over the classes for which it is defined, and their number."""
    return _macro(one_vs_rest_auroc(y_true, probabilities))


def one_vs_rest_rates(
    y_true: ArrayLike, probabilities: ArrayLike, threshold: float | Sequence[float] | None = PAPER_THRESHOLD
) -> OneVsRest:
    """Accuracy, sensitivity and specificity of each class against the rest.

    The default, 0.18 for every class, is the convention behind the "accuracy" of the SRC-MT and SRCL tables (averaged
    over 7 classes, a classifier that never names a rare class already scores high). It serves comparison with those
    tables only and is no top-1 accuracy.

    Args:
        y_true: class indices (N,), or a 0/1 table (N, C).
        probabilities: scores (N, C).
        threshold: a class is called from this probability on; one number, one for each class (operating points chosen
            on validation), or ``None`` for the class of highest probability.

    Raises:
        ValueError: for shapes, labels or thresholds that do not fit.
    """
    scores = as_scores(probabilities, "probabilities", ndim=(2,))
    if threshold is None or np.ndim(threshold) == 0:
        truth, called = decisions(y_true, scores, None if threshold is None else check_fraction(threshold, "threshold"))  # type: ignore[arg-type]
    else:
        limits = np.asarray(threshold, dtype=np.float64)
        if limits.shape != (scores.shape[1],):
            raise ValueError(f"threshold has shape {limits.shape}; expected one for each of {scores.shape[1]} classes")
        truth = one_vs_rest(y_true, scores.shape[1])
        check_same_length(y_true=truth, probabilities=scores)
        called = scores >= limits
    right = truth == called
    return OneVsRest(right.mean(axis=0), _share(right, truth), _share(right, ~truth))


def top1_accuracy(y_true: ArrayLike, probabilities: ArrayLike) -> float:
    """Share of cases whose most probable class is the true one."""
    labels, called = _top1(y_true, probabilities)
    return float((labels == called).mean())


def balanced_top1_accuracy(y_true: ArrayLike, probabilities: ArrayLike) -> float:
    """Mean over the classes present of the share of their cases found by the most probable class."""
    return one_vs_rest_rates(y_true, probabilities, None).mean()["sensitivity"]


def balanced_label_accuracy(y_true: ArrayLike, probabilities: ArrayLike, threshold: float = 0.5) -> float:
    """Mean of sensitivity and specificity at ``threshold``, averaged over labels that are each there or not.

    A label that every case has, or none, enters with the one rate it has.

    Args:
        y_true: 0/1 table (N, L).
        probabilities: (N, L).
        threshold: a label is called from this probability on.
    """
    rates = one_vs_rest_rates(y_true, probabilities, threshold)
    return _macro(np.nanmean([rates.sensitivity, rates.specificity], axis=0)).value


def confusion_matrix(y_true: ArrayLike, probabilities: ArrayLike) -> IntArray:
    """Counts (C, C): row is the true class, column the most probable one."""
    labels, called = _top1(y_true, probabilities)
    classes = np.shape(probabilities)[1]
    return np.asarray(_confusion_matrix(labels, called, labels=np.arange(classes)), dtype=np.int64)


def _top1(y_true: ArrayLike, probabilities: ArrayLike) -> tuple[IntArray, IntArray]:
    scores = as_scores(probabilities, "probabilities", ndim=(2,))
    labels = as_classes(y_true, scores.shape[1])
    check_same_length(y_true=labels, probabilities=scores)
    return labels, scores.argmax(axis=1)


def _share(right: BoolArray, chosen: BoolArray) -> FloatArray:
    counts = chosen.sum(axis=0).astype(np.float64)
    hits = (right & chosen).sum(axis=0).astype(np.float64)
    return np.asarray(np.divide(hits, counts, out=np.full(len(counts), math.nan), where=counts > 0))


def _macro(values: FloatArray) -> MacroAverage:
    defined = values[~np.isnan(values)]
    return MacroAverage(float(defined.mean()) if len(defined) else math.nan, len(defined))
