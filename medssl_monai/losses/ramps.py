"""Schedules of loss weights over training."""

from __future__ import annotations

import math


def sigmoid_ramp_up(progress: float, length: float) -> float:
    """Ramp from exp(-5) to 1: ``exp(-5 (1 - t)^2)`` with ``t = progress / length`` held in 0..1 (mean teacher).

    Args:
        progress: epochs done, a float: half an epoch counts.
        length: epochs until the ramp is at 1; with 0 it is 1 from the start.

    Returns:
        The factor of the consistency weight.

    Raises:
        ValueError: when ``length`` is negative or either is not finite.
    """
    if not math.isfinite(progress):
        raise ValueError(f"progress: expected a finite number of epochs, got {progress!r}")
    if not math.isfinite(length) or length < 0:
        raise ValueError(f"length: expected a finite number of epochs >= 0, got {length!r}")
    if length == 0:
        return 1.0
    t = min(max(progress / length, 0.0), 1.0)
    return math.exp(-5.0 * (1.0 - t) ** 2)
