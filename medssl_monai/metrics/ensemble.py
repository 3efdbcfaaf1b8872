"""Weighted soft voting of several models (the planes of an exam): weights from accuracies, votes from scores."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from medssl_monai.metrics.checks import BoolArray, FloatArray, as_scores

ACCURACY_MARGIN = 1e-3
"""Accuracies are clamped to [0.5 + margin, 1 - margin]: no weight is negative, zero or infinite."""

_SUM_TOLERANCE = 1e-6


def ensemble_weights(accuracies: ArrayLike) -> FloatArray:
    """Weights of M models for each of C labels: log-odds of accuracy (thesis eq. 3.2, 4.20), normalised to sum 1.

    ``w[m, c] = ln(acc / (1 - acc))``, divided by its sum over the models. Accuracies are clamped to [0.501, 0.999]
    first, so that a model at or below chance has next to no vote, a perfect one does not silence the others by an
    infinite weight, and models that are all at the floor vote alike.

    Args:
        accuracies: (M, C) accuracies in [0, 1] on *validation* cases; an array, nested lists or a CPU tensor.

    Returns:
        Weights (M, C), float64, non-negative; each column sums to 1.

    Raises:
        ValueError: for another shape, no model, NaN, or values outside [0, 1].
    """
    given = as_scores(accuracies, "accuracies", ndim=(2,))
    if given.min() < 0 or given.max() > 1:
        raise ValueError(
            f"accuracies lie in [0, 1]; found {given.min():.4g} to {given.max():.4g} (percentages? divide by 100)"
        )
    clamped = np.clip(given, 0.5 + ACCURACY_MARGIN, 1 - ACCURACY_MARGIN)
    odds = np.log(clamped / (1 - clamped))
    return np.asarray(odds / odds.sum(axis=0))


def weighted_vote(scores: ArrayLike, weights: ArrayLike, present: ArrayLike | None = None) -> FloatArray:
    """Weighted average of M models' scores (thesis eq. 3.1, 4.19): ``sum over m of weights[m, c] scores[m, n, c]``.

    Args:
        scores: (M, N, C) probabilities; an array, nested lists or a CPU tensor.
        weights: (M, C) of :func:`ensemble_weights`; non-negative, each column sums to 1.
        present: (M, N), true where a model has a score for the case; the weights of the others are then divided by
            their sum, so that they sum to 1 again. Scores that are not present may be anything, NaN too. ``None``:
            all are there.

    Returns:
        Scores (N, C), float64.

    Raises:
        ValueError: for shapes that do not fit, weights that are negative or do not sum to 1, NaN among the scores, or
            a case that no model has a score for.
    """
    table = np.asarray(scores, dtype=np.float64)
    if table.ndim != 3:
        raise ValueError(f"scores has shape {table.shape}; expected (M, N, C): models, cases, labels")
    models, cases, labels = table.shape
    votes = as_scores(weights, "weights", ndim=(2,))
    if votes.shape != (models, labels):
        raise ValueError(f"weights has shape {votes.shape}; scores {table.shape} need ({models}, {labels})")
    totals = votes.sum(axis=0)
    if votes.min() < 0 or np.abs(totals - 1).max() > _SUM_TOLERANCE:
        raise ValueError(
            f"weights must be non-negative and sum to 1 over the models; found a smallest of {votes.min():.4g} and "
            f"sums {np.array2string(totals, precision=4)}"
        )
    if present is None:
        return np.asarray(np.einsum("mnc,mc->nc", as_scores(table, "scores", ndim=(3,)), votes))
    there: BoolArray = np.asarray(present, dtype=np.bool_)
    if there.shape != (models, cases):
        raise ValueError(f"present has shape {there.shape}; scores {table.shape} need ({models}, {cases})")
    if not there.any(axis=0).all():
        raise ValueError(f"case {int(np.argmin(there.any(axis=0)))} has no score of any model")
    kept = as_scores(np.where(there[..., None], table, 0.0), "scores", ndim=(3,))
    shares = there[..., None] * votes[:, None, :]
    return np.asarray((shares * kept).sum(axis=0) / shares.sum(axis=0))
