"""Operating points: from which probability on a class is called, chosen on validation and stored with the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import roc_curve

from medssl_monai.metrics.checks import BoolArray, FloatArray, as_scores, check_class_names, check_same_length
from medssl_monai.metrics.checks import one_vs_rest as _one_vs_rest

MIN_CASES = 5
_TARGET = "sensitivity@"


def choose_operating_points(
    labels: ArrayLike, probabilities: ArrayLike, class_names: Sequence[str], *, rule: str = "youden"
) -> dict[str, dict[str, Any]]:
    """Choose a threshold for each class against the rest.

    Use VALIDATION cases only: a threshold chosen on the test cases makes their sensitivity and specificity too good.
    A class is called from the threshold on (``probability >= threshold``); thresholds lie midway between the last
    called and the first uncalled validation score, so that a new case just below the former is not lost.

    Args:
        labels: class indices (N,), or a 0/1 table (N, C) when a case may carry several labels.
        probabilities: (N, C).
        class_names: names of the C columns.
        rule: ``youden`` maximises sensitivity + specificity (of equals, the more sensitive);
            ``sensitivity@0.90`` takes the highest threshold that reaches this sensitivity.

    Returns:
        By class name: ``threshold``, the ``sensitivity`` and ``specificity`` it has on these validation cases,
        ``n_positive``, ``n_negative``, ``rule`` and ``reason``. With fewer than 5 positive or negative cases the first
        three are ``None`` and ``reason`` says so; it is ``None`` otherwise. Plain values, ready for JSON.

    Raises:
        ValueError: for shapes or labels that do not fit, or an unknown rule.
    """
    target = target_sensitivity(rule)
    scores = as_scores(probabilities, "probabilities", ndim=(2,))
    names = check_class_names(class_names, scores.shape[1])
    truth = _one_vs_rest(labels, scores.shape[1])
    check_same_length(labels=truth, probabilities=scores)
    return {name: _choose(truth[:, k], scores[:, k], target, rule) for k, name in enumerate(names)}


def target_sensitivity(rule: str) -> float | None:
    """The sensitivity a rule asks for; ``None`` for ``youden``.

    Raises:
        ValueError: for an unknown rule.
    """
    if rule == "youden":
        return None
    try:
        target = float(rule.removeprefix(_TARGET)) if rule.startswith(_TARGET) else -1.0
    except ValueError:
        target = -1.0
    if not 0 < target <= 1:
        raise ValueError(f"rule is {rule!r}; expected 'youden' or 'sensitivity@0.90' (a target above 0, up to 1)")
    return target


def _choose(positive: BoolArray, score: FloatArray, target: float | None, rule: str) -> dict[str, Any]:
    counts = {"n_positive": int(positive.sum()), "n_negative": int((~positive).sum()), "rule": rule}
    for kind in ("positive", "negative"):
        number = counts[f"n_{kind}"]
        if number < MIN_CASES:  # type: ignore[operator]
            reason = f"only {number} {kind} validation cases; {MIN_CASES} are needed to choose a threshold"
            return {"threshold": None, "sensitivity": None, "specificity": None, **counts, "reason": reason}
    false_rate, true_rate, thresholds = roc_curve(positive, score, drop_intermediate=False)
    # The first point calls nothing (threshold infinity); the rest fall from the highest score to the lowest.
    sensitivity, specificity, called_from = true_rate[1:], 1 - false_rate[1:], thresholds[1:]
    if target is None:
        gain = sensitivity + specificity
        best = int(np.flatnonzero(gain >= gain.max() - 1e-12)[-1])
    else:
        best = int(np.flatnonzero(sensitivity >= target - 1e-12)[0])
    threshold = float(called_from[best])
    if best + 1 < len(called_from):
        midway = 0.5 * (threshold + float(called_from[best + 1]))
        threshold = midway if midway > called_from[best + 1] else threshold
    return {
        "threshold": threshold,
        "sensitivity": float(sensitivity[best]),
        "specificity": float(specificity[best]),
        **counts,
        "reason": None,
    }
