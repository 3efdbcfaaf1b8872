"""Calibration: does a confidence of 80 % mean 80 % right? Temperature scaling, reliability curve, ECE, Brier, NLL."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from medssl_monai.metrics.checks import (
    FloatArray,
    IntArray,
    as_classes,
    as_probabilities,
    as_scores,
    check_same_length,
    one_vs_rest,
)
from medssl_monai.metrics.distribution import finite

TEMPERATURE_BOUNDS = (0.05, 20.0)
MIN_CALIBRATION_CASES = 10

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TemperatureFit:
    """Temperature fitted on validation cases, stored with the model.

    Attributes:
        temperature: logits are divided by it; 1 leaves them as they are.
        nll_before: mean negative log-likelihood of the validation cases at temperature 1.
        nll_after: the same at ``temperature``.
        n: number of validation cases.
        reason: why the temperature was not fitted or is at a bound; empty otherwise.
    """

    temperature: float
    nll_before: float
    nll_after: float
    n: int
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**vars(self), "reason": self.reason or None}


def calibrate_temperature(logits: ArrayLike, labels: ArrayLike) -> TemperatureFit:
    """Fit one temperature by the validation cases' likelihood (Guo et al. 2017, On Calibration of Modern Networks).

    The likelihood is convex in 1 / T, so a bounded scalar search finds its one minimum. With fewer than 10 cases or
    only one class among them the temperature stays 1; so it does when every case is classified rightly, because the
    likelihood then asks for T = 0 (such cases cannot tell how much confidence is too much). Logits without information
    ask for T = infinity and get the upper bound, 20.

    Args:
        logits: (N, C) before softmax.
        labels: (N,) class indices.

    Raises:
        ValueError: for shapes, labels or logits that cannot be used.
    """
    scores = as_scores(logits, "logits", ndim=(2,))
    if scores.shape[1] < 2:
        raise ValueError(f"logits have shape {scores.shape}; expected (N, C) with at least two classes")
    truth = as_classes(labels, scores.shape[1], "labels")
    check_same_length(labels=truth, logits=scores)
    before = _nll(scores, truth, 1.0)
    kept = TemperatureFit(1.0, before, before, len(truth))

    def unfitted(reason: str) -> TemperatureFit:
        return TemperatureFit(**{**vars(kept), "reason": reason})

    if len(truth) < MIN_CALIBRATION_CASES:
        return unfitted(f"only {len(truth)} validation cases; {MIN_CALIBRATION_CASES} are needed to fit a temperature")
    if len(np.unique(truth)) < 2:
        return unfitted("all validation cases are of one class; a temperature needs at least two")
    if (scores[np.arange(len(truth)), truth] == scores.max(axis=1)).all():
        return unfitted("every validation case is classified rightly, which asks for ever more confidence")
    low, high = (math.log(bound) for bound in TEMPERATURE_BOUNDS)
    found = minimize_scalar(
        lambda t: _nll(scores, truth, math.exp(t)), bounds=(low, high), method="bounded", options={"xatol": 1e-8}
    )
    temperature, reason = math.exp(float(found.x)), ""
    if temperature < TEMPERATURE_BOUNDS[0] * 1.001:
        temperature, reason = TEMPERATURE_BOUNDS[0], "at the lower bound: the logits are far too close together"
    elif temperature > TEMPERATURE_BOUNDS[1] * 0.999:
        temperature, reason = TEMPERATURE_BOUNDS[1], "at the upper bound: the logits hardly tell the classes apart"
    return TemperatureFit(temperature, before, _nll(scores, truth, temperature), len(truth), reason)


def fit_temperature(logits: ArrayLike, labels: ArrayLike) -> float:
    """The temperature of :func:`calibrate_temperature`; a reason not to fit one is logged as a warning."""
    fit = calibrate_temperature(logits, labels)
    if fit.reason:
        _logger.warning("temperature %.4g: %s", fit.temperature, fit.reason)
    return fit.temperature


def apply_temperature(probabilities: ArrayLike, temperature: float) -> FloatArray:
    """Probabilities (N, C) as softmax gives them when the logits are divided by ``temperature``.

    Logits are known from their softmax up to a constant a case, which softmax drops again: ``p ** (1 / T)``,
    normalised.

    Raises:
        ValueError: for values that are not probabilities, or a temperature that is not positive.
    """
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature is {temperature}; expected a positive number")
    given = as_probabilities(probabilities)
    scaled = (given / given.max(axis=1, keepdims=True)) ** (1 / temperature)  # the maximum keeps tiny T from underflow
    return np.asarray(scaled / scaled.sum(axis=1, keepdims=True))


@dataclass(frozen=True)
class CalibrationCurve:
    """Confidence and accuracy of the most probable class in bins of confidence.

    Attributes:
        edges: (bins + 1,) limits of the bins.
        confidence: (bins,) mean confidence; NaN in an empty bin.
        accuracy: (bins,) share of right cases; NaN in an empty bin.
        count: (bins,) number of cases.
    """

    edges: FloatArray
    confidence: FloatArray
    accuracy: FloatArray
    count: IntArray

    @property
    def ece(self) -> float:
        """Expected calibration error: mean distance of accuracy and confidence, weighted by the bins' counts."""
        filled = self.count > 0
        gap = np.abs(self.accuracy[filled] - self.confidence[filled])
        return float((gap * self.count[filled]).sum() / self.count.sum())

    def to_json(self) -> dict[str, Any]:
        """Plain lists for JSON; empty bins hold ``None``."""
        return {
            "edges": self.edges.tolist(),
            "confidence": [finite(value) for value in self.confidence],
            "accuracy": [finite(value) for value in self.accuracy],
            "count": self.count.tolist(),
        }

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> CalibrationCurve:
        """The curve that :meth:`to_json` wrote."""
        edges, confidence, accuracy = (
            np.array([math.nan if value is None else value for value in entry[name]], dtype=np.float64)
            for name in ("edges", "confidence", "accuracy")
        )
        return cls(edges, confidence, accuracy, np.array(entry["count"], dtype=np.int64))


def calibration_curve(
    probabilities: ArrayLike, labels: ArrayLike, bins: int = 10, strategy: Literal["uniform", "quantile"] = "uniform"
) -> CalibrationCurve:
    """Reliability of the most probable class.

    Args:
        probabilities: (N, C).
        labels: (N,) class indices.
        bins: number of bins.
        strategy: ``uniform`` bins of equal width over [0, 1], or ``quantile`` bins of (nearly) equal count; confidences
            that occur often may merge quantile bins.

    Raises:
        ValueError: for shapes or labels that do not fit, fewer than one bin or an unknown strategy.
    """
    given, truth = _checked(probabilities, labels)
    if bins < 1:
        raise ValueError(f"bins is {bins}; expected at least one")
    confidence, right = given.max(axis=1), given.argmax(axis=1) == truth
    if strategy == "uniform":
        edges = np.linspace(0, 1, bins + 1)
    elif strategy == "quantile":
        edges = np.unique(np.quantile(confidence, np.linspace(0, 1, bins + 1)))
        if len(edges) == 1:
            edges = np.repeat(edges, 2)
    else:
        raise ValueError(f"strategy is {strategy!r}; expected 'uniform' or 'quantile'")
    return bin_means(confidence, right, edges)


def bin_means(confidence: FloatArray, right: NDArray[Any], edges: FloatArray) -> CalibrationCurve:
    """Means of confidences (N,) and outcomes (N,) in bins (low, high], the first one closed: 1.0 lies in the last."""
    bins = len(edges) - 1
    place = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    sums = [np.bincount(place, weights=values.astype(np.float64), minlength=bins) for values in (confidence, right)]
    means = [np.divide(total, count, out=np.full(bins, math.nan), where=count > 0) for total in sums]
    return CalibrationCurve(edges, means[0], means[1], count.astype(np.int64))


def expected_calibration_error(probabilities: ArrayLike, labels: ArrayLike, bins: int = 10) -> float:
    """ECE over bins of equal width (see :func:`calibration_curve`); 0 is perfect."""
    return calibration_curve(probabilities, labels, bins).ece


def brier_score(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Mean squared distance of the probabilities from the one-hot truth, summed over classes: 0 (best) to 2."""
    given, truth = _checked(probabilities, labels)
    return float(((given - one_vs_rest(truth, given.shape[1])) ** 2).sum(axis=1).mean())


def negative_log_likelihood(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Mean of -log p(true class) in nats; probabilities below 2.2e-16 count as that, so that it stays finite."""
    given, truth = _checked(probabilities, labels)
    true = given[np.arange(len(truth)), truth]
    return float(-np.log(np.maximum(true, np.finfo(np.float64).eps)).mean())


def _checked(probabilities: ArrayLike, labels: ArrayLike) -> tuple[FloatArray, IntArray]:
    given = as_probabilities(probabilities)
    truth = as_classes(labels, given.shape[1], "labels")
    check_same_length(labels=truth, probabilities=given)
    return given, truth


def _nll(logits: FloatArray, labels: IntArray, temperature: float) -> float:
    return float(-log_softmax(logits / temperature, axis=1)[np.arange(len(labels)), labels].mean())
