"""Weighted metrics against scikit-learn's sample weights and pairwise counting."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from medssl_monai.metrics import AUROC, METRICS, BalancedAccuracy, MacroAUROC, Mean, Rate


def auroc_by_pairs(y, score, weight):
    won = total = 0.0
    for i in np.flatnonzero(y == 1):
        for j in np.flatnonzero(y == 0):
            pair = weight[i] * weight[j]
            total += pair
            won += pair * (1.0 if score[i] > score[j] else 0.5 if score[i] == score[j] else 0.0)
    return won / total if total else np.nan


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 1), st.integers(0, 4), st.floats(0, 3, allow_subnormal=False)), min_size=2, max_size=15
    )
)
def test_auroc_counts_weighted_pairs_ties_half(cases):
    y, score, weight = (np.array(column) for column in zip(*cases))
    weight = np.round(weight, 2)
    ours = AUROC().prepare(y, score)(weight[:, None])[0]
    np.testing.assert_allclose(ours, auroc_by_pairs(y, score, weight), atol=1e-12)


def test_auroc_takes_fractional_weights_as_scikit_learn_does():
    random = np.random.default_rng(0)
    y, score, weights = random.integers(0, 2, 50), random.integers(0, 9, 50), random.random((50, 7))
    expected = [roc_auc_score(y, score, sample_weight=column) for column in weights.T]
    np.testing.assert_allclose(AUROC().prepare(y, score)(weights), expected, atol=1e-12)


def test_weights_of_one_give_the_plain_estimate():
    random = np.random.default_rng(1)
    y, p = random.integers(0, 3, 60), random.dirichlet(np.ones(3), 60)
    for name in METRICS:
        truth, score = (y, p) if name.startswith(("macro", "ovr")) else ((y == 1).astype(int), p[:, 1])
        metric = METRICS.get(name)
        weighted = metric.prepare(truth, score)(np.ones((60, 3)))[2]
        assert metric(truth, score) == pytest.approx(weighted, rel=1e-14), name


def test_several_labels_a_case():
    y = np.array([[1, 0], [1, 1], [0, 1], [0, 0]])
    score = np.array([[0.9, 0.3], [0.4, 0.8], [0.6, 0.7], [0.1, 0.5]])
    assert MacroAUROC()(y, score) == pytest.approx((0.75 + 1.0) / 2)
    assert Rate("sensitivity", 0.5)(y, score) == pytest.approx((0.5 + 1.0) / 2)
    assert Rate("specificity", 0.5)(y, score) == pytest.approx((0.5 + 0.5) / 2)
    with pytest.raises(ValueError, match="name a threshold, the highest score decides nothing"):
        Rate("sensitivity")(y, score)


def test_macro_auroc_leaves_out_classes_the_sample_lacks_but_not_ones_a_resample_lacks():
    y = np.array([0, 1, 0, 1, 2])
    p = np.array(
        [
            [0.6, 0.3, 0.05, 0.05],
            [0.2, 0.7, 0.05, 0.05],
            [0.5, 0.4, 0.05, 0.05],
            [0.3, 0.3, 0.2, 0.2],
            [0.1, 0.1, 0.7, 0.1],
        ]
    )
    aurocs = [roc_auc_score(y == k, p[:, k]) for k in range(3)]  # no case is of class 3
    assert MacroAUROC()(y, p) == pytest.approx(np.mean(aurocs))
    without_class_2 = np.array([1.0, 1, 1, 1, 0])[:, None]
    assert np.isnan(MacroAUROC().prepare(y, p)(without_class_2)[0])


def test_balanced_accuracy_of_a_single_class_is_its_recall():
    assert BalancedAccuracy()([1, 1, 1, 1], [0.9, 0.8, 0.2, 0.7]) == 0.75


def test_a_threshold_calls_the_class_from_its_value_on():
    assert Rate("sensitivity", 0.18)([1, 1], [0.18, 0.17]) == 0.5


def test_mean_needs_no_labels_but_checks_those_it_gets():
    assert Mean()(None, [0.5, 0.7]) == pytest.approx(0.6)
    with pytest.raises(ValueError, match="y_true has 3, y_score has 2"):
        Mean()([1, 2, 3], [0.5, 0.7])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Rate("accuracy", 1.5), "threshold is 1.5; expected a number from 0 to 1"),
        (lambda: AUROC()([[0, 1]], [0.1]), r"y_true has shape \(1, 2\); expected \(N,\)"),
        (lambda: Rate("accuracy")([[0, 1]], [0.1]), r"y_true has shape \(1, 2\); expected \(N,\) for scores"),
        (lambda: MacroAUROC()([[0, 1, 0]], [[0.1, 0.2]]), "y_true has 3 columns; the scores have 2"),
        (lambda: MacroAUROC()([0], [[0.1, 0.2], [0.3, 0.4]]), "y_true has 1, y_score has 2"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
