"""Bootstrap intervals of any metric, resampling whole subjects: 1,000 resamples of a usual test set take milliseconds.

Intervals are percentile intervals (thesis ch. 3 reports 5-95 %). The same ``seed`` and groups give the same resamples
whatever the metric, so that metrics and models are compared on common ground.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.exceptions import UndefinedMetricWarning

from medssl_monai.metrics.checks import FloatArray, check_same_length
from medssl_monai.metrics.distribution import Distribution, Interval
from medssl_monai.metrics.resampling import Kernel, Resampler
from medssl_monai.metrics.weighted import METRICS, WeightedMetric

Metric = str | WeightedMetric | Callable[[Any, Any], float]
Groups = Sequence[Hashable] | NDArray[Any] | None


def bootstrap_distribution(
    metric: Metric,
    y_true: ArrayLike | None,
    y_score: ArrayLike,
    groups: Groups = None,
    n_boot: int = 1000,
    seed: int = 0,
) -> Distribution:
    """A metric's value on every resample, from which intervals of several levels, differences and means are read.

    Args:
        metric: a registered name (``auroc``, ``macro_auroc``, ``accuracy``, ``balanced_accuracy``, ``sensitivity``,
            ``specificity``, ``ovr_accuracy``, ``ovr_sensitivity``, ``ovr_specificity``, ``mean``), a
            :class:`WeightedMetric`, or any function ``metric(y_true, y_score) -> float``. Named metrics evaluate all
            resamples at once; a function is called once a resample, on the very same resamples. A resample for which
            a function returns NaN or raises ``ValueError`` (scikit-learn: a class is missing) is undefined; an error
            on the full sample is the caller's and is raised.
        y_true: labels, (N,) or (N, C); ``None`` where the metric needs none (``mean``).
        y_score: scores, (N,) or (N, C).
        groups: (N,) subject of each case; whole subjects are drawn. ``None``: each case is its own subject.
        n_boot: number of resamples.
        seed: seed of the draws.

    Raises:
        ValueError: for shapes, labels, scores or groups that cannot be used; the message says which.
        ConfigError: for an unknown metric name.
    """
    scores = np.asarray(y_score)
    truth = None if y_true is None else np.asarray(y_true)
    if scores.ndim == 0 or not len(scores):
        raise ValueError(f"y_score is empty (shape {scores.shape}): there is nothing to evaluate")
    check_same_length(y_true=truth, y_score=scores)
    resampler = Resampler(len(scores), groups, n_boot, seed)
    return resampler.distribute({"metric": kernel_of(metric, truth, scores)})["metric"]


def bootstrap_interval(
    metric: Metric,
    y_true: ArrayLike | None,
    y_score: ArrayLike,
    groups: Groups = None,
    n_boot: int = 1000,
    level: tuple[float, float] = (5, 95),
    seed: int = 0,
) -> Interval:
    """A metric with its bootstrap percentile interval; whole groups (subjects) are resampled with replacement.

    Undefined resamples (a class is missing) are dropped and counted in ``n_undefined``. When all cases are of one
    group there is no interval: its ends are NaN (``None`` in JSON) and ``note`` says so.

    Args:
        metric: name, :class:`WeightedMetric` or function, see :func:`bootstrap_distribution`.
        y_true: labels, (N,) or (N, C).
        y_score: scores, (N,) or (N, C).
        groups: (N,) subject of each case, or ``None``.
        n_boot: number of resamples.
        level: lower and upper percentile; (5, 95) is the 90 % interval.
        seed: seed of the draws.

    Raises:
        ValueError: see :func:`bootstrap_distribution`; also for an impossible ``level``.
    """
    return bootstrap_distribution(metric, y_true, y_score, groups, n_boot, seed).interval(level)


def paired_bootstrap(
    metric: Metric,
    y_true: ArrayLike | None,
    score_a: ArrayLike,
    score_b: ArrayLike,
    groups: Groups = None,
    n_boot: int = 1000,
    level: tuple[float, float] = (5, 95),
    seed: int = 0,
) -> Interval:
    """Difference ``metric(a) - metric(b)`` of two models on the same cases, both on the same resamples.

    Arguments and errors are those of :func:`bootstrap_interval`; both scores must have one shape.
    """
    if np.shape(score_a) != np.shape(score_b):
        raise ValueError(
            f"score_a has shape {np.shape(score_a)} and score_b {np.shape(score_b)}; a paired comparison needs both "
            "models' scores of the same cases in the same order"
        )
    a, b = (bootstrap_distribution(metric, y_true, score, groups, n_boot, seed) for score in (score_a, score_b))
    return (a - b).interval(level)


def kernel_of(metric: Metric, y_true: NDArray[Any] | None, y_score: NDArray[Any]) -> Kernel:
    """The kernel of a metric given by name, as an object or as a function."""
    found = METRICS.get(metric) if isinstance(metric, str) else metric
    if isinstance(found, WeightedMetric):
        return found.prepare(y_true, y_score)  # type: ignore[arg-type]  # a metric that needs labels says so itself
    function = found
    function(y_true, y_score)  # an error on the full sample is no matter of a missing class

    def kernel(weights: FloatArray) -> FloatArray:
        values = np.full(weights.shape[1], math.nan)
        for column, counts in enumerate(weights.T.astype(np.int64)):
            cases = np.repeat(np.arange(len(counts)), counts)
            try:
                values[column] = function(None if y_true is None else y_true[cases], y_score[cases])
            except ValueError:
                continue  # stays NaN: counted as undefined
        return values

    def quiet(weights: FloatArray) -> FloatArray:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UndefinedMetricWarning)
            return kernel(weights)

    return quiet
