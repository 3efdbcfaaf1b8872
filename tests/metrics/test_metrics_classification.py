"""Point estimates against scikit-learn and cases worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, multilabel_confusion_matrix, roc_auc_score

from medssl_monai.metrics import (
    balanced_top1_accuracy,
    confusion_matrix,
    macro_auroc,
    one_vs_rest_auroc,
    one_vs_rest_rates,
    top1_accuracy,
)

# Four cases, three classes, every rate can be read off:   true   at 0.18 called
Y = np.array([0, 0, 1, 2])
P = np.array(
    [
        [0.70, 0.20, 0.10],  # 0: 0 and 1
        [0.10, 0.75, 0.15],  # 0: 1
        [0.30, 0.60, 0.10],  # 1: 0 and 1
        [0.17, 0.18, 0.65],  # 2: 1 (0.18 counts) and 2
    ]
)


def random_case(n=300, seed=0):
    random = np.random.default_rng(seed)
    return random.choice(5, n, p=[0.6, 0.2, 0.1, 0.06, 0.04]), random.dirichlet(np.ones(5), n)


def test_one_vs_rest_at_0_18_by_hand():
    rates = one_vs_rest_rates(Y, P)
    np.testing.assert_allclose(rates.sensitivity, [1 / 2, 1, 1])
    np.testing.assert_allclose(rates.specificity, [1 / 2, 0, 1])
    np.testing.assert_allclose(rates.accuracy, [2 / 4, 1 / 4, 1])
    assert rates.mean() == pytest.approx({"accuracy": 7 / 12, "sensitivity": 5 / 6, "specificity": 1 / 2})


def test_top1_by_hand():
    assert top1_accuracy(Y, P) == 0.75
    assert balanced_top1_accuracy(Y, P) == pytest.approx((1 / 2 + 1 + 1) / 3)
    np.testing.assert_array_equal(confusion_matrix(Y, P), [[1, 1, 0], [0, 1, 0], [0, 0, 1]])


@pytest.mark.parametrize("threshold", [0.18, None, [0.1, 0.2, 0.3, 0.15, 0.4]])
def test_rates_equal_scikit_learns_tables(threshold):
    y, p = random_case()
    truth = np.eye(5, dtype=int)[y]
    called = np.eye(5, dtype=int)[p.argmax(1)] if threshold is None else (p >= np.array(threshold)).astype(int)
    tables = multilabel_confusion_matrix(truth, called)
    tn, fp, fn, tp = tables[:, 0, 0], tables[:, 0, 1], tables[:, 1, 0], tables[:, 1, 1]
    rates = one_vs_rest_rates(y, p, threshold)
    np.testing.assert_allclose(rates.sensitivity, tp / (tp + fn))
    np.testing.assert_allclose(rates.specificity, tn / (tn + fp))
    np.testing.assert_allclose(rates.accuracy, (tp + tn) / 300)


def test_a_classifier_that_always_says_the_common_class_is_accurate_in_the_published_sense():
    y = np.repeat(np.arange(7), [70, 10, 10, 4, 3, 2, 1])
    p = np.tile([1.0, 0, 0, 0, 0, 0, 0], (100, 1))
    assert one_vs_rest_rates(y, p).mean()["accuracy"] == pytest.approx((0.70 + 6 - 0.30) / 7)  # 0.914
    assert balanced_top1_accuracy(y, p) == pytest.approx(1 / 7)


def test_auroc_equals_scikit_learn():
    y, p = random_case()
    np.testing.assert_allclose(one_vs_rest_auroc(y, p), [roc_auc_score(y == k, p[:, k]) for k in range(5)])
    value, n_classes = macro_auroc(y, p)
    assert value == pytest.approx(roc_auc_score(y, p, multi_class="ovr"))
    assert n_classes == 5
    assert balanced_top1_accuracy(y, p) == pytest.approx(balanced_accuracy_score(y, p.argmax(1)))


def test_absent_and_universal_classes_are_undefined_not_zero():
    y, p = np.array([0, 0, 1, 1]), np.array([[0.5, 0.3, 0.2]] * 4)
    aurocs = one_vs_rest_auroc(y, p)
    assert aurocs[:2] == pytest.approx([0.5, 0.5])
    assert np.isnan(aurocs[2])
    assert macro_auroc(y, p) == (0.5, 2)
    everything = macro_auroc([1, 1], [[0.2, 0.8], [0.4, 0.6]])
    assert np.isnan(everything.value)
    assert everything.n_classes == 0
    assert np.isnan(one_vs_rest_rates(y, p).sensitivity[2])
    assert confusion_matrix(y, p).shape == (3, 3)


def test_several_labels_a_case():
    y = np.array([[1, 1], [0, 1], [1, 0]])
    p = np.array([[0.9, 0.2], [0.4, 0.8], [0.3, 0.1]])
    np.testing.assert_allclose(one_vs_rest_auroc(y, p), [0.5, 1.0])
    np.testing.assert_allclose(one_vs_rest_rates(y, p, 0.5).sensitivity, [0.5, 0.5])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: top1_accuracy([0, 3], P[:2]), "y_true holds labels 0, 3; expected class indices 0 to 2"),
        (lambda: top1_accuracy([0], P), "y_true has 1, probabilities has 4"),
        (
            lambda: top1_accuracy([[0], [1]], P[:2]),
            r"shape \(2, 1\); expected class indices of shape \(N,\)",
        ),
        (lambda: one_vs_rest_auroc([0], P[0]), r"probabilities has shape \(3,\); expected \(N, C\)"),
        (
            lambda: one_vs_rest_rates(Y, P, [0.1, 0.2]),
            r"shape \(2,\); expected one for each of 3 classes",
        ),
        (lambda: one_vs_rest_rates(Y, P, 18), "threshold is 18; expected a number from 0 to 1"),
        (lambda: macro_auroc([], P), "y_true is empty: there is nothing to evaluate"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
