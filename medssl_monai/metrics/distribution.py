"""A metric's bootstrap distribution and the intervals read from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from medssl_monai.metrics.checks import FloatArray


@dataclass(frozen=True)
class Interval:
    """A metric with its bootstrap percentile interval.

    Attributes:
        estimate: the metric on all cases; NaN where it is undefined.
        low: lower end, NaN where there is no interval.
        high: upper end, NaN where there is no interval.
        n: number of cases.
        n_groups: number of groups (subjects) resampled.
        n_undefined: resamples dropped because the metric is undefined on them (a class is missing).
        note: why there is no interval, or what limits it; empty when there is nothing to say.
    """

    estimate: float
    low: float
    high: float
    n: int
    n_groups: int
    n_undefined: int
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON; undefined numbers are ``None``, the note says why."""
        return {
            "estimate": finite(self.estimate),
            "low": finite(self.low),
            "high": finite(self.high),
            "n": self.n,
            "n_groups": self.n_groups,
            "n_undefined": self.n_undefined,
            "note": self.note or None,
        }


@dataclass(frozen=True)
class Distribution:
    """A metric's estimate and its value on every resample.

    Attributes:
        estimate: the metric on all cases.
        values: (n_boot,) values, in the order of the resamples; NaN where undefined.
        n: number of cases.
        n_groups: number of groups (subjects) resampled.
        key: fingerprint of cases, groups and seed: distributions of one key share their resamples.
    """

    estimate: float
    values: FloatArray
    n: int
    n_groups: int
    key: str

    @property
    def n_undefined(self) -> int:
        """Resamples on which the metric is undefined."""
        return int(np.isnan(self.values).sum())

    def interval(self, level: tuple[float, float] = (5, 95)) -> Interval:
        """Percentile interval; ``level`` (5, 95) is the 90 % interval, (2.5, 97.5) the 95 % one.

        Undefined resamples are left out and counted. With one group, an undefined estimate or no defined resample
        there is no interval: both ends are NaN and the note says why.

        Raises:
            ValueError: unless 0 <= low < high <= 100.
        """
        low, high = level
        if not 0 <= low < high <= 100:
            raise ValueError(f"level is {tuple(level)}; expected two percentiles, 0 <= low < high <= 100")
        ends = (math.nan, math.nan)
        n_undefined = self.n_undefined
        note = ""
        if math.isnan(self.estimate):
            note = "undefined on these cases (a class has no case, or every case)"
        elif self.n_groups < 2:
            note = "no interval: all cases are of one group (subject)"
        elif n_undefined == len(self.values):
            note = "no interval: undefined on every resample"
        else:
            if n_undefined:
                note = f"{n_undefined} of {len(self.values)} resamples lack a class and were dropped"
            defined = self.values[~np.isnan(self.values)] if n_undefined else self.values
            ends = tuple(float(end) for end in np.percentile(defined, level))  # type: ignore[assignment]
        return Interval(self.estimate, *ends, self.n, self.n_groups, n_undefined, note)

    def __sub__(self, other: Distribution) -> Distribution:
        """Paired difference, resample by resample; undefined where either is."""
        _check_keys([self, other])
        return replace(self, estimate=self.estimate - other.estimate, values=self.values - other.values)


def average_distributions(distributions: Sequence[Distribution]) -> Distribution:
    """Mean of several distributions over the same resamples (classes, or training runs with other seeds).

    A resample on which any of them is undefined is undefined.

    Raises:
        ValueError: for no distribution, or when the resamples differ.
    """
    if not distributions:
        raise ValueError("no distributions to average")
    _check_keys(distributions)
    return replace(
        distributions[0],
        estimate=float(np.mean([one.estimate for one in distributions])),
        values=np.mean([one.values for one in distributions], axis=0),
    )


def _check_keys(distributions: Sequence[Distribution]) -> None:
    if len({one.key for one in distributions}) > 1:
        raise ValueError(
            "the distributions come from different resamples; use the same cases, groups, n_boot and seed for all"
        )


def finite(value: float) -> float | None:
    """``value`` as a float, ``None`` for NaN and infinity (JSON has no word for them)."""
    return float(value) if math.isfinite(value) else None
