"""The sigmoid ramp at hand-worked points."""

import itertools
import math

import numpy as np
import pytest

from medssl_monai.losses import sigmoid_ramp_up


@pytest.mark.parametrize(
    ("progress", "length", "exponent"),
    [(0, 30, -5), (15, 30, -1.25), (7.5, 30, -2.8125), (30, 30, 0), (99, 30, 0), (-1, 30, -5), (0, 0, 0), (5, 0, 0)],
)
def test_values(progress, length, exponent):
    assert sigmoid_ramp_up(progress, length) == pytest.approx(math.exp(exponent), rel=1e-12)


def test_it_never_falls():
    values = [sigmoid_ramp_up(progress, 30) for progress in np.linspace(-5, 40, 200)]
    assert all(a <= b for a, b in itertools.pairwise(values))


@pytest.mark.parametrize("length", [-1, math.nan, math.inf])
def test_wrong_lengths_are_refused(length):
    with pytest.raises(ValueError, match=r"length: expected a finite number of epochs >= 0, got"):
        sigmoid_ramp_up(1, length)


def test_wrong_progress_is_refused():
    with pytest.raises(ValueError, match=r"progress: expected a finite number of epochs, got nan"):
        sigmoid_ramp_up(math.nan, 30)
