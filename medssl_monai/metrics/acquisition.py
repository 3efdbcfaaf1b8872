"""Which cases are worth labelling next: uncertain ones that cover what no labelled case is near to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from medssl_monai.metrics.checks import FloatArray, IntArray, as_probabilities, as_scores, check_same_length
from medssl_monai.metrics.embedding import _chunks, _embeddings, _unit

Strategy = Literal["uncertainty_coverage", "uncertainty", "coverage"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)


@dataclass(frozen=True)
class Choice:
    """A batch of cases in the order they were chosen.

    Attributes:
        indices: rows of the candidates, shape (K,).
        distances: of each chosen case to the nearest labelled or earlier chosen one, on unit embeddings (0 to 2);
            infinite for the first where nothing is labelled.
        to_labelled: of *every* candidate to the nearest labelled case, shape (N,); infinite where nothing is labelled.
        nearest_labelled: row of that labelled case, shape (N,); -1 where nothing is labelled.
    """

    indices: IntArray
    distances: FloatArray
    to_labelled: FloatArray
    nearest_labelled: IntArray


def predictive_entropy(probabilities: ArrayLike, *, exclusive: bool = True) -> FloatArray:
    """Entropy of predictions, shape (N,), from 0 (certain) to 1 (all classes alike).

    Args:
        probabilities: calibrated probabilities, shape (N, C).
        exclusive: one class a case: entropy over the classes divided by ``log C``. ``False``, several labels a case:
            the mean over labels of the binary entropy in bits.

    Raises:
        ValueError: for another shape, or values that are not probabilities.
    """
    if exclusive:
        shares = as_probabilities(probabilities)
        return np.asarray(_plogp(shares).sum(axis=1) / np.log(shares.shape[1])).clip(0.0, 1.0)
    shares = as_scores(probabilities, "probabilities", ndim=(2,))
    if shares.min() < 0 or shares.max() > 1:
        raise ValueError(f"probabilities reach from {shares.min():.4g} to {shares.max():.4g}; expected 0 to 1")
    return np.asarray((_plogp(shares) + _plogp(1 - shares)).mean(axis=1) / np.log(2)).clip(0.0, 1.0)


def choose_batch(
    candidates: ArrayLike,
    uncertainty: ArrayLike,
    names: Sequence[str],
    k: int,
    *,
    labelled: ArrayLike | None = None,
    subjects: Sequence[str] | None = None,
    per_subject: int | None = None,
    strategy: Strategy = "uncertainty_coverage",
    floor: float = 0.1,
) -> Choice:
    """Choose the ``k`` cases to label next, as one batch.

    The rule is greedy weighted k-centre (Dyer & Frieze 1985): again and again the case of largest ``w d`` is taken,
    with ``d`` its distance on unit embeddings to the nearest labelled or already chosen case and ``w = floor + (1 -
    floor) u`` its weight, ``u`` its uncertainty. Without weights this is the core-set rule of Sener & Savarese (2018),
    whose covering radius is at most twice the best one; with them the factor is ``min(3, 1 + max w / min w)`` where
    no case is labelled yet. The floor bounds that ratio: a case the classifier is sure of is still asked for when it
    lies ten times as far from all labels as an uncertain one, because classifiers are often sure of what they have
    never seen. A near-duplicate of a labelled or chosen case has ``d`` near 0 and comes last, however uncertain.

    The choice is deterministic: equal scores are decided by uncertainty, then by name.

    Args:
        candidates: embeddings of the cases without label, shape (N, D).
        uncertainty: of each, from 0 to 1, shape (N,).
        names: of each, for ties.
        k: number of cases; fewer are chosen where there are no more, or ``per_subject`` allows no more.
        labelled: embeddings of the labelled cases, shape (L, D); ``None`` or no rows where there are none. The first
            choice is then the most uncertain case.
        subjects: of each candidate; needed with ``per_subject``.
        per_subject: at most so many cases of one subject; ``None`` sets no limit.
        strategy: ``uncertainty_coverage`` (the rule above), ``coverage`` (all weights 1) or ``uncertainty`` (the most
            uncertain ones, wherever they lie).
        floor: weight of a case without uncertainty, in (0, 1].

    Raises:
        ValueError: for shapes that do not fit, values out of range, or an unknown strategy.
    """
    points, weights = _embeddings(candidates, "candidates"), as_scores(uncertainty, "uncertainty", ndim=(1,))
    check_same_length(candidates=points, uncertainty=weights, names=names, subjects=subjects)
    _check(weights, k, subjects, per_subject, strategy, floor)
    points = _unit(points, "candidates")
    to_labelled, nearest = _nearest(points, labelled)
    order = np.lexsort((np.asarray(names, dtype=str), -weights))  # most uncertain first, then by name
    if strategy == "uncertainty":
        score = weights
    else:
        score = np.ones(len(points)) if strategy == "coverage" else floor + (1 - floor) * weights
    distance, open_, taken = to_labelled.copy(), np.ones(len(points), dtype=bool), Counter[str]()
    groups = None if subjects is None else np.asarray(subjects, dtype=str)
    chosen: list[int] = []
    reached: list[float] = []
    while len(chosen) < k and open_.any():
        gain = score if strategy == "uncertainty" else _product(score, distance)
        best = int(order[np.where(open_, gain, -1.0)[order].argmax()])  # argmax takes the first of equal ones
        chosen.append(best)
        reached.append(float(distance[best]))
        open_[best] = False
        if groups is not None and per_subject is not None:
            taken[groups[best]] += 1
            if taken[groups[best]] == per_subject:
                open_ &= groups != groups[best]
        distance = np.minimum(distance, _distance(points @ points[best]))
    return Choice(np.array(chosen, dtype=np.int64), np.array(reached), to_labelled, nearest)


def coverage_radius(points: ArrayLike, centres: ArrayLike) -> float:
    """Largest distance of a point to its nearest centre, on unit embeddings (0 to 2): what k-centre keeps small.

    Args:
        points: shape (N, D).
        centres: shape (M, D).

    Raises:
        ValueError: for shapes that do not fit, or a row of zeros.
    """
    return float(_nearest(_unit(_embeddings(points, "points"), "points"), centres)[0].max())


def _product(weights: FloatArray, distance: FloatArray) -> FloatArray:
    """``w d``; where nothing is labelled or chosen yet all are infinitely far, and the weight decides."""
    return weights * distance if np.isfinite(distance).all() else weights


def _nearest(points: FloatArray, labelled: ArrayLike | None) -> tuple[FloatArray, IntArray]:
    """Distance and row of the nearest labelled embedding of each unit point."""
    if labelled is None or not len(np.asarray(labelled)):
        return np.full(len(points), np.inf), np.full(len(points), -1, dtype=np.int64)
    known = _unit(_embeddings(labelled, "labelled"), "labelled")
    if known.shape[1] != points.shape[1]:
        raise ValueError(f"labelled cases have {known.shape[1]} features, candidates {points.shape[1]}")
    distances, rows = np.empty(len(points)), np.empty(len(points), dtype=np.int64)
    for start, stop in _chunks(len(points), len(known)):
        cosines = points[start:stop] @ known.T
        rows[start:stop] = cosines.argmax(axis=1)
        distances[start:stop] = _distance(cosines.max(axis=1))
    return distances, rows


def _distance(cosine: FloatArray) -> FloatArray:
    """Euclidean distance of unit vectors, free of rounding, so that equal cases tie: below 1e-6 there is none."""
    squared = np.asarray(2.0 - 2.0 * cosine)
    return np.asarray(np.sqrt(np.where(squared < 1e-12, 0.0, squared))).round(9)


def _plogp(shares: FloatArray) -> FloatArray:
    return np.asarray(-shares * np.log(np.where(shares > 0, shares, 1.0)))


def _check(
    weights: FloatArray, k: int, subjects: Sequence[str] | None, per_subject: int | None, strategy: str, floor: float
) -> None:
    if weights.min() < 0 or weights.max() > 1:
        raise ValueError(f"uncertainty reaches from {weights.min():.4g} to {weights.max():.4g}; expected 0 to 1")
    if strategy not in STRATEGIES:
        raise ValueError(f"unknown strategy {strategy!r}; expected one of {', '.join(STRATEGIES)}")
    for name, value in (("k", k), ("per_subject", per_subject)):
        if value is not None and (isinstance(value, bool) or int(value) != value or value < 1):
            raise ValueError(f"{name}: expected a whole number of at least 1, got {value!r}")
    if per_subject is not None and subjects is None:
        raise ValueError("per_subject is given without the subjects of the candidates")
    if not 0 < floor <= 1:
        raise ValueError(f"floor: expected a weight in (0, 1], got {floor!r}")
