"""DeLong's test: do two correlated AUROCs on the same independent cases differ?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import norm, rankdata

from medssl_monai.metrics.checks import BoolArray, FloatArray, as_binary, as_scores, check_same_length
from medssl_monai.metrics.distribution import finite


@dataclass(frozen=True)
class DeLongResult:
    """Outcome of :func:`delong_test`.

    Attributes:
        auroc_a: AUROC of the first model.
        auroc_b: AUROC of the second model.
        difference: ``auroc_a - auroc_b``.
        variance: estimated variance of the difference.
        z: ``difference / sqrt(variance)``; NaN where the variance is 0 but the AUROCs differ.
        p: two-sided p-value of the normal approximation; NaN as ``z``.
    """

    auroc_a: float
    auroc_b: float
    difference: float
    variance: float
    z: float
    p: float

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON; NaN becomes ``None``."""
        return {name: finite(value) for name, value in vars(self).items()}


def delong_test(y_true: ArrayLike, score_a: ArrayLike, score_b: ArrayLike) -> DeLongResult:
    """Test of equal AUROC of two scores on the same cases (DeLong et al. 1988; by midranks, Sun & Xu 2014).

    It takes O(n log n) and assumes independent cases: with several images a subject use
    :func:`~medssl_monai.metrics.paired_bootstrap`, which resamples subjects.

    Args:
        y_true: labels 0/1, (N,).
        score_a: scores of the first model, (N,).
        score_b: scores of the second model, (N,).

    Raises:
        ValueError: for other shapes or labels, or fewer than two positive or two negative cases.
    """
    a, b = as_scores(score_a, "score_a", ndim=(1,)), as_scores(score_b, "score_b", ndim=(1,))
    labels = as_binary(y_true)
    if labels.ndim != 1:
        raise ValueError(f"y_true has shape {labels.shape}; expected (N,)")
    check_same_length(y_true=labels, score_a=a, score_b=b)
    positive = labels == 1
    m, n = int(positive.sum()), int((~positive).sum())
    if min(m, n) < 2:
        raise ValueError(f"{m} positive and {n} negative cases; the variance needs at least two of each")
    (auc_a, v10_a, v01_a), (auc_b, v10_b, v01_b) = _placements(positive, a), _placements(positive, b)
    # The variance of a difference needs no 2x2 covariance: it is the variance of the placements' differences.
    variance = float(np.var(v10_a - v10_b, ddof=1) / m + np.var(v01_a - v01_b, ddof=1) / n)
    difference = auc_a - auc_b
    undecided = 0.0 if difference == 0 else math.nan
    z = difference / math.sqrt(variance) if variance > 0 else undecided
    return DeLongResult(auc_a, auc_b, difference, variance, z, float(2 * norm.sf(abs(z))))


def _placements(positive: BoolArray, score: FloatArray) -> tuple[float, FloatArray, FloatArray]:
    """AUROC, each positive's share of negatives below it, each negative's share of positives above it."""
    m, n = int(positive.sum()), int((~positive).sum())
    ranks = rankdata(score)
    above = (ranks[positive] - rankdata(score[positive])) / n
    below = 1 - (ranks[~positive] - rankdata(score[~positive])) / m
    return float(above.mean()), above, below
