"""Metrics of weighted cases, evaluated on many resamples at once.

A metric is prepared once for its cases (sorting, decisions) and then maps weights (n, b) to b values. Rates are ratios
of two matrix products; the AUROC is the weighted Mann-Whitney statistic, ties counting one half.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from medssl_monai.core import Registry
from medssl_monai.metrics.checks import (
    BoolArray,
    FloatArray,
    as_binary,
    as_classes,
    as_scores,
    check_fraction,
    check_same_length,
    one_vs_rest,
)
from medssl_monai.metrics.resampling import Kernel

PAPER_THRESHOLD = 0.18
"""One-vs-rest threshold of the published skin-lesion tables (SRC-MT, SRCL); for comparison with them only."""


class WeightedMetric(ABC):
    """A metric that knows how to weight its cases."""

    @abstractmethod
    def prepare(self, y_true: ArrayLike, y_score: ArrayLike) -> Kernel:
        """Kernel from weights (n, b) to values (b,); NaN where a class the sample holds has no weight left.

        Raises:
            ValueError: for labels or scores the metric cannot use.
        """

    def __call__(self, y_true: ArrayLike, y_score: ArrayLike) -> float:
        """The metric with every case counted once; NaN where it is undefined."""
        return float(self.prepare(y_true, y_score)(np.ones((len(np.asarray(y_score)), 1)))[0])


def auroc_kernel(positive: BoolArray, score: FloatArray) -> Kernel:
    """Weighted AUROC of ``score`` (n,) for the cases ``positive`` (n,): P(positive above negative) + P(tie) / 2."""
    positives, negatives = np.flatnonzero(positive), np.flatnonzero(~positive)
    if not len(positives) or not len(negatives):
        return _undefined
    negatives = negatives[np.argsort(score[negatives], kind="stable")]
    below = np.searchsorted(score[negatives], score[positives], side="left")
    up_to = np.searchsorted(score[negatives], score[positives], side="right")
    tied = bool((below != up_to).any())

    def kernel(weights: FloatArray) -> FloatArray:
        # lower[k] is the weight of the k lowest negatives; a tied negative counts half, hence the mean of both ends.
        lower = np.zeros((len(negatives) + 1, weights.shape[1]))
        np.cumsum(weights[negatives], axis=0, out=lower[1:])
        won = 0.5 * (lower[below] + lower[up_to]) if tied else lower[below]
        chosen = weights[positives]
        return _divide(np.einsum("pb,pb->b", chosen, won), chosen.sum(axis=0) * lower[-1])

    return kernel


def ratio_kernel(numerators: FloatArray, denominators: FloatArray) -> Kernel:
    """Mean over rows k of ``sum(w * numerators[k]) / sum(w * denominators[k])``; both are (K, n).

    A row without denominator in the sample is left out; one that loses its denominator in a resample makes that
    resample undefined.
    """
    kept = denominators.sum(axis=1) > 0
    if not kept.any():
        return _undefined
    top, bottom = numerators[kept], denominators[kept]

    def kernel(weights: FloatArray) -> FloatArray:
        return np.asarray(_divide(top @ weights, bottom @ weights).mean(axis=0))

    return kernel


def mean_kernel(kernels: list[Kernel]) -> Kernel:
    """Mean of several kernels; undefined where one is."""

    def kernel(weights: FloatArray) -> FloatArray:
        return np.asarray(np.mean([one(weights) for one in kernels], axis=0))

    return kernel


def _undefined(weights: FloatArray) -> FloatArray:
    return np.full(weights.shape[1], math.nan)


def _divide(top: FloatArray, bottom: FloatArray) -> FloatArray:
    return np.divide(top, bottom, out=np.full_like(top, math.nan), where=bottom > 0)


@dataclass(frozen=True)
class AUROC(WeightedMetric):
    """Area under the ROC curve of scores (N,) for labels 0/1 (N,)."""

    def prepare(self, y_true: ArrayLike, y_score: ArrayLike) -> Kernel:
        """See :meth:`WeightedMetric.prepare`."""
        score, truth = as_scores(y_score, ndim=(1,)), as_binary(y_true)
        if truth.ndim != 1:
            raise ValueError(f"y_true has shape {truth.shape}; expected (N,)")
        check_same_length(y_true=truth, y_score=score)
        return auroc_kernel(truth == 1, score)


@dataclass(frozen=True)
class MacroAUROC(WeightedMetric):
    """Mean one-vs-rest AUROC of scores (N, C) over the classes that have positive and negative cases.

    Labels are class indices (N,) or a 0/1 table (N, C). Which classes enter is decided on the whole sample.
    """

    def prepare(self, y_true: ArrayLike, y_score: ArrayLike) -> Kernel:
        """See :meth:`WeightedMetric.prepare`."""
        scores = as_scores(y_score, ndim=(2,))
        truth = one_vs_rest(y_true, scores.shape[1])
        check_same_length(y_true=truth, y_score=scores)
        usable = np.flatnonzero(truth.any(axis=0) & ~truth.all(axis=0))
        if not len(usable):
            return _undefined
        return mean_kernel([auroc_kernel(truth[:, k], scores[:, k]) for k in usable])


@dataclass(frozen=True)
class Rate(WeightedMetric):
    """Share of right decisions: over all cases, over the positives or over the negatives.

    Scores (N,) with labels 0/1 (N,) make one decision a case, ``score >= threshold``. Scores (N, C) make one decision
    a case and class against the rest, and the rate is the mean over the classes for which it is defined.

    Args:
        kind: ``accuracy``, ``sensitivity`` or ``specificity``.
        threshold: positive from this score on; ``None`` takes 0.5 for scores (N,) and the highest score of the row
            for scores (N, C).
    """

    kind: Literal["accuracy", "sensitivity", "specificity"]
    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.threshold is not None:
            check_fraction(self.threshold, "threshold")

    def prepare(self, y_true: ArrayLike, y_score: ArrayLike) -> Kernel:
        """See :meth:`WeightedMetric.prepare`."""
        truth, decided = decisions(y_true, y_score, self.threshold)
        if self.kind == "accuracy":
            return ratio_kernel((truth == decided).T.astype(np.float64), np.ones(truth.T.shape))
        chosen = truth if self.kind == "sensitivity" else ~truth
        return ratio_kernel((chosen & (truth == decided)).T.astype(np.float64), chosen.T.astype(np.float64))


@dataclass(frozen=True)
class Accuracy(WeightedMetric):
    """Share of cases classified rightly: highest score for (N, C), ``score >= 0.5`` for scores (N,) of a 0/1 label."""

    def prepare(self, y_true: ArrayLike, y_score: ArrayLike) -> Kernel:
        """See :meth:`WeightedMetric.prepare`."""
        if np.ndim(y_score) == 1:
            return Rate("accuracy").prepare(y_true, y_score)
        scores = as_scores(y_score, ndim=(2,))
        labels = as_classes(y_true, scores.shape[1])
        check_same_length(y_true=labels, y_score=scores)
        right = (scores.argmax(axis=1) == labels).astype(np.float64)[None]
        return ratio_kernel(right, np.ones_like(right))


@dataclass(frozen=True)
class BalancedAccuracy(WeightedMetric):
    """Mean recall over the classes present: at the highest score for (N, C), at 0.5 for scores (N,) of a 0/1 label."""

    def prepare(self, y_true: ArrayLike, y_score: ArrayLike) -> Kernel:
        """See :meth:`WeightedMetric.prepare`."""
        if np.ndim(y_score) == 1:
            kinds: tuple[Literal["sensitivity", "specificity"], ...] = ("sensitivity", "specificity")
            labels = as_binary(y_true)
            present = [kind for kind, label in zip(kinds, (1, 0)) if (labels == label).any()]
            return mean_kernel([Rate(kind).prepare(labels, y_score) for kind in present])
        return Rate("sensitivity").prepare(y_true, y_score)


@dataclass(frozen=True)
class Mean(WeightedMetric):
    """Mean of per-case values ``y_score`` (N,), such as Dice; labels may be ``None`` and only need the same length."""

    def prepare(self, y_true: ArrayLike | None, y_score: ArrayLike) -> Kernel:
        """See :meth:`WeightedMetric.prepare`."""
        values = as_scores(y_score, ndim=(1,))
        check_same_length(y_true=None if y_true is None else np.asarray(y_true), y_score=values)
        return ratio_kernel(values[None], np.ones((1, len(values))))


def decisions(y_true: ArrayLike, y_score: ArrayLike, threshold: float | None) -> tuple[BoolArray, BoolArray]:
    """Truth and decision, (N, 1) for scores (N,) and (N, C) for scores (N, C); see :class:`Rate` for the threshold."""
    scores = as_scores(y_score)
    if scores.ndim == 1:
        truth = as_binary(y_true)
        if truth.ndim != 1:
            raise ValueError(f"y_true has shape {truth.shape}; expected (N,) for scores (N,)")
        check_same_length(y_true=truth, y_score=scores)
        return (truth == 1)[:, None], (scores >= (0.5 if threshold is None else threshold))[:, None]
    table = one_vs_rest(y_true, scores.shape[1])
    check_same_length(y_true=table, y_score=scores)
    if threshold is not None:
        return table, scores >= threshold
    if np.ndim(y_true) == 2:
        raise ValueError("cases may carry several labels here: name a threshold, the highest score decides nothing")
    return table, scores.argmax(axis=1)[:, None] == np.arange(scores.shape[1])


METRICS: Registry[WeightedMetric] = Registry("metric")
for _name, _metric in {
    "auroc": AUROC(),
    "macro_auroc": MacroAUROC(),
    "accuracy": Accuracy(),
    "balanced_accuracy": BalancedAccuracy(),
    "sensitivity": Rate("sensitivity"),
    "specificity": Rate("specificity"),
    "ovr_accuracy": Rate("accuracy", PAPER_THRESHOLD),
    "ovr_sensitivity": Rate("sensitivity", PAPER_THRESHOLD),
    "ovr_specificity": Rate("specificity", PAPER_THRESHOLD),
    "mean": Mean(),
}.items():
    METRICS.register(_name)(_metric)
