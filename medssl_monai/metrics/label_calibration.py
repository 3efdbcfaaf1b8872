"""Calibration of labels that are each there or not: one temperature a label, observed share against probability."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, logit

from medssl_monai.metrics.calibration import CalibrationCurve, bin_means, calibrate_temperature
from medssl_monai.metrics.checks import FloatArray, IntArray, as_binary, as_scores, check_same_length

_logger = logging.getLogger(__name__)


def as_label_table(values: ArrayLike, num_labels: int, name: str = "y_true") -> IntArray:
    """Labels 0/1 of shape (N, L); with one label also (N,).

    Raises:
        ValueError: for another shape or other values.
    """
    table = as_binary(values, name)
    table = table[:, None] if table.ndim == 1 and num_labels == 1 else table
    if table.ndim != 2 or table.shape[1] != num_labels:
        raise ValueError(f"{name} has shape {np.shape(values)}; expected (N, {num_labels}), one column a label")
    return table


def as_label_probabilities(values: ArrayLike, name: str = "probabilities") -> FloatArray:
    """Probabilities (N, L), each from 0 to 1; rows need not add up to 1.

    Raises:
        ValueError: for another shape or values outside [0, 1] (logits, for example).
    """
    scores = as_scores(values, name, ndim=(2,))
    if scores.min() < 0 or scores.max() > 1:
        raise ValueError(
            f"{name} are not probabilities: values from {scores.min():.4g} to {scores.max():.4g}; apply the sigmoid to "
            "logits first"
        )
    return scores


def fit_label_temperatures(logits: ArrayLike, labels: ArrayLike, names: Sequence[str]) -> list[float]:
    """A temperature for each label, by the rules of :func:`~medssl_monai.metrics.calibrate_temperature`.

    A label of logit z is a pair of classes with logits 0 and z, whose softmax is the sigmoid of z. A reason not to fit
    a label's temperature, which is 1 then, is logged as a warning.

    Args:
        logits: (N, L) before the sigmoid.
        labels: 0/1 table (N, L); with one label also (N,).
        names: L names, for the warnings.

    Raises:
        ValueError: for shapes, labels or logits that cannot be used.
    """
    scores = as_scores(logits, "logits", ndim=(2,))
    truth = as_label_table(labels, scores.shape[1], "labels")
    check_same_length(labels=truth, logits=scores)
    temperatures = []
    for k, name in enumerate(names):
        fit = calibrate_temperature(np.stack([np.zeros(len(scores)), scores[:, k]], axis=1), truth[:, k])
        if fit.reason:
            _logger.warning("%s: temperature %.4g: %s", name, fit.temperature, fit.reason)
        temperatures.append(fit.temperature)
    return temperatures


def apply_label_temperatures(probabilities: ArrayLike, temperatures: Sequence[float]) -> FloatArray:
    """Probabilities (N, L) as the sigmoid gives them when each label's logit is divided by its temperature.

    Raises:
        ValueError: for values that are not probabilities, or temperatures that are not L positive numbers.
    """
    given = as_label_probabilities(probabilities)
    divisors = np.asarray(temperatures, dtype=np.float64)
    if divisors.shape != (given.shape[1],) or not (np.isfinite(divisors) & (divisors > 0)).all():
        raise ValueError(f"temperatures are {list(temperatures)}; expected {given.shape[1]} positive numbers")
    return np.asarray(expit(logit(given) / divisors))


def label_calibration_curve(probability: ArrayLike, labels: ArrayLike, bins: int = 10) -> CalibrationCurve:
    """Reliability of one label's probability: share of cases with the label against its mean probability, in bins.

    Unlike the curve of exclusive classes, which takes the confidence in the class that is called, it reaches from 0
    to 1. ``confidence`` is the mean probability of a bin, ``accuracy`` the share of its cases that have the label.

    Args:
        probability: (N,) of the label.
        labels: 0/1 (N,).
        bins: number of bins of equal width.

    Raises:
        ValueError: for shapes, labels or probabilities that do not fit, or fewer than one bin.
    """
    given = as_label_probabilities(np.asarray(probability)[:, None])
    truth = as_label_table(labels, 1, "labels")
    check_same_length(labels=truth, probability=given)
    if bins < 1:
        raise ValueError(f"bins is {bins}; expected at least one")
    return bin_means(given[:, 0], truth[:, 0], np.linspace(0, 1, bins + 1))


def label_calibration(probability: ArrayLike, labels: ArrayLike) -> dict[str, Any]:
    """ECE, Brier score (0 to 1), negative log likelihood (nats) and curve of one label, ready for JSON."""
    curve = label_calibration_curve(probability, labels)
    p, y = np.asarray(probability, dtype=np.float64), np.asarray(labels).reshape(-1).astype(np.float64)
    likelihood = np.where(y == 1, p, 1 - p)
    nll = float(-np.log(np.maximum(likelihood, np.finfo(np.float64).eps)).mean())
    return {"ece": curve.ece, "brier": float(((p - y) ** 2).mean()), "nll": nll, "curve": curve.to_json()}


def mean_calibration(parts: Sequence[dict[str, Any]], pooled: CalibrationCurve) -> dict[str, Any]:
    """Means of the labels' figures beside the curve over the decisions of all labels."""
    means = {name: math.fsum(part[name] for part in parts) / len(parts) for name in ("ece", "brier", "nll")}
    return {**means, "curve": pooled.to_json()}
