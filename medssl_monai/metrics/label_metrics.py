"""Metrics of labels that are each there or not, for weighted cases: average precision, F1, all labels right."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from medssl_monai.metrics.checks import BoolArray, FloatArray, as_binary, as_scores, check_fraction, check_same_length
from medssl_monai.metrics.resampling import Kernel
from medssl_monai.metrics.weighted import METRICS, WeightedMetric, _undefined, ratio_kernel


def average_precision_kernel(positive: BoolArray, score: FloatArray) -> Kernel:
    """Weighted average precision of ``score`` (n,) for the cases ``positive`` (n,).

    The sum over the distinct scores, from the highest, of the precision down to it times the recall it adds; without
    interpolation, as scikit-learn's ``average_precision_score``. Undefined where either side has no case left.
    """
    if positive.all() or not positive.any():
        return _undefined
    order = np.argsort(-score, kind="stable")
    sorted_positive = positive[order].astype(np.float64)[:, None]
    last = np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1)  # of the cases of one score

    def kernel(weights: FloatArray) -> FloatArray:
        called = np.cumsum(weights[order], axis=0)[last]
        found = np.cumsum(weights[order] * sorted_positive, axis=0)[last]
        total = found[-1]
        precision = np.divide(found, called, out=np.zeros_like(found), where=called > 0)
        gained = np.diff(found, axis=0, prepend=0.0)
        usable = (total > 0) & (called[-1] > total)
        mean = np.einsum("kb,kb->b", precision, gained)
        return np.asarray(np.divide(mean, total, out=np.full_like(total, np.nan), where=usable))

    return kernel


def f1_kernel(truth: BoolArray, called: BoolArray) -> Kernel:
    """Weighted F1, ``2 TP / (2 TP + FP + FN)``, of decisions (n,); undefined without a positive or called case."""
    top = 2.0 * (truth & called).astype(np.float64)
    bottom = truth.astype(np.float64) + called.astype(np.float64)
    return ratio_kernel(top[None], bottom[None])


@dataclass(frozen=True)
class AveragePrecision(WeightedMetric):
    """Average precision (area under the precision-recall curve) of scores (N,) for labels 0/1 (N,)."""

    def prepare(self, y_true: ArrayLike, y_score: ArrayLike) -> Kernel:
        """See :meth:`WeightedMetric.prepare`."""
        truth, score = _single(y_true, y_score)
        return average_precision_kernel(truth, score)


@dataclass(frozen=True)
class F1(WeightedMetric):
    """F1 of the decisions ``score >= threshold`` for scores (N,) and labels 0/1 (N,).

    Args:
        threshold: positive from this score on.
    """

    threshold: float = 0.5

    def __post_init__(self) -> None:
        check_fraction(self.threshold, "threshold")

    def prepare(self, y_true: ArrayLike, y_score: ArrayLike) -> Kernel:
        """See :meth:`WeightedMetric.prepare`."""
        truth, score = _single(y_true, y_score)
        return f1_kernel(truth, score >= self.threshold)


def _single(y_true: ArrayLike, y_score: ArrayLike) -> tuple[BoolArray, FloatArray]:
    score, truth = as_scores(y_score, ndim=(1,)), as_binary(y_true)
    if truth.ndim != 1:
        raise ValueError(f"y_true has shape {truth.shape}; expected (N,)")
    check_same_length(y_true=truth, y_score=score)
    return truth == 1, score


for _name, _metric in {"average_precision": AveragePrecision(), "f1": F1()}.items():
    METRICS.register(_name)(_metric)
