"""DeLong's test against its definition over all pairs, and against resampling."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from medssl_monai.metrics import bootstrap_distribution, delong_test


def slow_delong(y, a, b):
    """Structural components from the kernel over all pairs, covariances from their definition (DeLong 1988)."""
    positives, negatives = np.flatnonzero(y == 1), np.flatnonzero(y == 0)
    m, n = len(positives), len(negatives)
    v10, v01 = np.zeros((2, m)), np.zeros((2, n))
    for r, score in enumerate((a, b)):
        for i, p in enumerate(positives):
            for j, q in enumerate(negatives):
                psi = 1.0 if score[p] > score[q] else 0.5 if score[p] == score[q] else 0.0
                v10[r, i] += psi / n
                v01[r, j] += psi / m
    aucs = v10.mean(axis=1)

    def covariance(v):
        s = np.zeros((2, 2))
        for r in range(2):
            for t in range(2):
                s[r, t] = sum((v[r, i] - aucs[r]) * (v[t, i] - aucs[t]) for i in range(v.shape[1])) / (v.shape[1] - 1)
        return s

    s = covariance(v10) / m + covariance(v01) / n
    return aucs, s[0, 0] + s[1, 1] - 2 * s[0, 1]


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 12), st.integers(2, 12), st.integers(0, 10_000), st.sampled_from([0, 3]))
def test_equals_the_definition_with_and_without_ties(m, n, seed, decimals):
    random = np.random.default_rng(seed)
    y = random.permutation([1] * m + [0] * n)
    a, b = (np.round(random.normal(size=m + n) * 2 + y, decimals) for _ in range(2))
    result = delong_test(y, a, b)
    aucs, variance = slow_delong(y, a, b)
    assert (result.auroc_a, result.auroc_b) == pytest.approx(tuple(aucs), abs=1e-12)
    assert result.variance == pytest.approx(variance, abs=1e-12)
    if variance > 1e-9:
        z = (aucs[0] - aucs[1]) / np.sqrt(variance)
        assert result.z == pytest.approx(z, rel=1e-6, abs=1e-9)
        assert result.p == pytest.approx(2 * (1 - norm.cdf(abs(z))), abs=1e-9)


def test_variance_agrees_with_the_paired_bootstrap():
    random = np.random.default_rng(0)
    y = random.integers(0, 2, 400)
    a, b = random.normal(size=400) + y, random.normal(size=400) + 0.5 * y
    result = delong_test(y, a, b)
    difference = bootstrap_distribution("auroc", y, a, n_boot=2000) - bootstrap_distribution("auroc", y, b, n_boot=2000)
    assert result.difference == pytest.approx(roc_auc_score(y, a) - roc_auc_score(y, b))
    assert np.sqrt(result.variance) == pytest.approx(difference.values.std(), rel=0.08)
    assert result.p < 0.01


def test_p_values_are_uniform_when_there_is_no_difference():
    random = np.random.default_rng(2)
    y = np.repeat([0, 1], 50)
    p = [delong_test(y, random.normal(size=100) + y, random.normal(size=100) + y).p for _ in range(400)]
    assert np.mean(np.array(p) < 0.05) == pytest.approx(0.05, abs=0.03)
    assert np.mean(p) == pytest.approx(0.5, abs=0.06)


def test_identical_scores_do_not_differ():
    result = delong_test([0, 1, 0, 1], [1, 2, 3, 4], [1, 2, 3, 4])
    assert (result.difference, result.variance, result.z, result.p) == (0, 0, 0, 1)


def test_a_difference_without_variance_has_no_p_value():
    result = delong_test([0, 0, 1, 1], [1, 2, 3, 4], [4, 3, 2, 1])
    assert (result.difference, result.variance) == (1, 0)
    assert result.to_json()["z"] is None
    assert result.to_json()["p"] is None
    json.dumps(result.to_json(), allow_nan=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0, 1, 1], [1, 2, 3], [1, 2, 3]), "2 positive and 1 negative cases; the variance needs at least two of each"),
        (([0, 1, 1], [1, 2], [1, 2, 3]), "y_true has 3, score_a has 2, score_b has 3"),
        (([0, 1, 3], [1, 2, 3], [1, 2, 3]), "y_true holds labels 0, 1, 3"),
        (([[0], [1]], [1, 2], [1, 2]), r"y_true has shape \(2, 1\); expected \(N,\)"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        delong_test(*arguments)
