"""Distributions share resamples or refuse to be combined."""

from __future__ import annotations

import numpy as np
import pytest

from medssl_monai.metrics import average_distributions, bootstrap_distribution

Y = np.array([0, 1, 1, 0, 1, 0])
A = np.array([0.1, 0.8, 0.4, 0.3, 0.9, 0.6])
B = A[::-1].copy()


def test_average_over_training_runs_keeps_the_resamples_paired():
    runs = [bootstrap_distribution("auroc", Y, score, n_boot=50) for score in (A, B)]
    mean = average_distributions(runs)
    np.testing.assert_allclose(mean.values, (runs[0].values + runs[1].values) / 2)
    assert mean.estimate == pytest.approx((runs[0].estimate + runs[1].estimate) / 2)


def test_difference_of_averages_is_a_distribution_too():
    a = bootstrap_distribution("auroc", Y, A, n_boot=50)
    assert (a - a).interval().high == 0


@pytest.mark.parametrize("other", [{"seed": 1}, {"n_boot": 40}, {"groups": [1, 1, 2, 2, 3, 3]}])
def test_other_resamples_are_refused(other):
    a = bootstrap_distribution("auroc", Y, A, n_boot=50)
    b = bootstrap_distribution("auroc", Y, B, **{"n_boot": 50, **other})
    with pytest.raises(ValueError, match="the distributions come from different resamples"):
        a - b


def test_nothing_to_average():
    with pytest.raises(ValueError, match="no distributions to average"):
        average_distributions([])


@pytest.mark.parametrize("level", [(0, 101), (-1, 50), (50, 50)])
def test_impossible_levels(level):
    with pytest.raises(ValueError, match="expected two percentiles, 0 <= low < high <= 100"):
        bootstrap_distribution("auroc", Y, A, n_boot=5).interval(level)


def test_percentiles_are_numpys_over_the_defined_resamples():
    distribution = bootstrap_distribution("auroc", Y, A, n_boot=400)
    assert 0 < distribution.n_undefined < 100
    low, high = np.nanpercentile(distribution.values, [10, 90])
    interval = distribution.interval((10, 90))
    assert (interval.low, interval.high) == (low, high)
