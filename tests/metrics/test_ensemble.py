"""Ensemble weights and votes: by hand, by loops, and what may not be asked of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medssl_monai.metrics import ensemble_weights, weighted_vote


def by_loops(accuracies):
    """Equation 4.20 as printed, clamped and normalised, one number at a time."""
    models, labels = len(accuracies), len(accuracies[0])
    weights = [[0.0] * labels for _ in range(models)]
    for c in range(labels):
        odds = []
        for m in range(models):
            accuracy = min(max(float(accuracies[m][c]), 0.501), 0.999)
            odds.append(math.log(accuracy) - math.log(1 - accuracy))
        for m in range(models):
            weights[m][c] = odds[m] / sum(odds)
    return weights


def test_by_hand():
    """Accuracies 0.9, 0.75 and 0.5: log-odds ln 9, ln 3 = half of it, and next to nothing."""
    weights = ensemble_weights([[0.9], [0.75]])
    assert weights[:, 0] == pytest.approx([2 / 3, 1 / 3])
    floor = math.log(0.501 / 0.499)
    total = math.log(9) + math.log(3) + floor
    assert ensemble_weights([[0.9], [0.75], [0.2]])[:, 0] == pytest.approx(
        [math.log(9) / total, math.log(3) / total, floor / total]
    )
    votes = weighted_vote([[[1.0], [0.0]], [[0.0], [0.3]]], [[2 / 3], [1 / 3]])
    assert votes == pytest.approx(np.array([[2 / 3], [0.1]]))


def test_ends():
    assert ensemble_weights([[0.5, 0.1], [0.3, 0.5], [0.0, 0.5]]) == pytest.approx(np.full((3, 2), 1 / 3))
    assert ensemble_weights([[1.0], [1.0]]) == pytest.approx(np.full((2, 1), 0.5))
    assert ensemble_weights([[1.0], [0.5]])[0, 0] > 0.999
    assert ensemble_weights([[0.7, 0.6]]) == pytest.approx(np.ones((1, 2)))


@given(arrays(np.float64, st.tuples(st.integers(1, 5), st.integers(1, 4)), elements=st.floats(0, 1)))
def test_weights_equal_the_loops_and_sum_to_one(accuracies):
    weights = ensemble_weights(accuracies)
    np.testing.assert_allclose(weights, by_loops(accuracies), rtol=1e-9)
    np.testing.assert_allclose(weights.sum(0), 1)
    assert (weights > 0).all()
    np.testing.assert_allclose(ensemble_weights(accuracies[::-1]), weights[::-1])


def test_votes_equal_loops():
    random = np.random.default_rng(0)
    scores, weights = random.random((3, 7, 2)), ensemble_weights(random.random((3, 2)))
    present = random.random((3, 7)) < 0.6
    present[0] = True
    whole, partial = weighted_vote(scores, weights), weighted_vote(np.where(present[..., None], scores, np.nan),
                                                                   weights, present)  # fmt: skip
    for n in range(7):
        for c in range(2):
            assert whole[n, c] == pytest.approx(sum(weights[m, c] * scores[m, n, c] for m in range(3)))
            there = [m for m in range(3) if present[m, n]]
            share = sum(weights[m, c] for m in there)
            assert partial[n, c] == pytest.approx(sum(weights[m, c] * scores[m, n, c] for m in there) / share)
    np.testing.assert_array_equal(weighted_vote(scores, weights, np.ones((3, 7), bool)).round(12), whole.round(12))
    assert whole.min() >= scores.min()
    assert whole.max() <= scores.max()


def test_tensors():
    scores, accuracies = torch.rand(2, 4, 3), torch.tensor([[0.9, 0.6, 0.7], [0.8, 0.8, 0.4]])
    weights = ensemble_weights(accuracies)
    np.testing.assert_allclose(weights, by_loops(accuracies.double().tolist()), rtol=1e-9)
    votes = weighted_vote(scores, torch.from_numpy(weights))
    torch.testing.assert_close(
        torch.from_numpy(votes).float(), (scores * torch.from_numpy(weights)[:, None]).sum(0).float()
    )


@pytest.mark.parametrize(
    ("accuracies", "message"),
    [
        ([0.5, 0.6], r"accuracies has shape \(2,\); expected \(N, C\)"),
        ([[90.0]], r"lie in \[0, 1\]; found 90 to 90 \(percentages\? divide by 100\)"),
        ([[-0.1, 0.5]], r"found -0.1 to 0.5"),
        ([[math.nan]], "accuracies holds 1 values that are NaN"),
        (np.empty((0, 2)), "accuracies is empty"),
    ],
)
def test_wrong_accuracies(accuracies, message):
    with pytest.raises(ValueError, match=message):
        ensemble_weights(accuracies)


SCORES = np.full((2, 3, 1), 0.5)
HALVES = [[0.5], [0.5]]


@pytest.mark.parametrize(
    ("scores", "weights", "present", "message"),
    [
        (SCORES[0], HALVES, None, r"scores has shape \(3, 1\); expected \(M, N, C\)"),
        (SCORES, [[0.5, 0.5]], None, r"weights has shape \(1, 2\); scores \(2, 3, 1\) need \(2, 1\)"),
        (SCORES, [[0.9], [0.9]], None, r"sum to 1 over the models; found a smallest of 0.9 and sums \[1.8\]"),
        (SCORES, [[1.5], [-0.5]], None, "non-negative"),
        (SCORES * math.nan, HALVES, None, "scores holds 6 values that are NaN"),
        (SCORES * math.nan, HALVES, np.ones((2, 3), bool), "scores holds 6 values that are NaN"),
        (SCORES, HALVES, np.ones((3, 2), bool), r"present has shape \(3, 2\); scores \(2, 3, 1\) need \(2, 3\)"),
        (SCORES, HALVES, [[1, 0, 1], [1, 0, 0]], "case 1 has no score of any model"),
        (SCORES[:, :0], HALVES, None, "scores is empty"),
    ],
)
def test_wrong_votes(scores, weights, present, message):
    with pytest.raises(ValueError, match=message):
        weighted_vote(scores, weights, present)
