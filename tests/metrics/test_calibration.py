"""Temperature scaling and calibration measures against closed forms, loops and another optimiser."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn.metrics import brier_score_loss, log_loss

from medssl_monai.metrics import (
    apply_temperature,
    brier_score,
    calibrate_temperature,
    calibration_curve,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
)


def drawn_from_logits(n=4000, classes=4, seed=0):
    """Logits that are calibrated by construction: the label is drawn from their softmax."""
    random = np.random.default_rng(seed)
    logits = 2 * random.normal(size=(n, classes))
    labels = np.array([random.choice(classes, p=row) for row in softmax(logits, axis=1)])
    return logits, labels


class TestTemperature:
    @pytest.mark.parametrize("factor", [0.4, 1.0, 3.0])
    def test_recovers_the_factor_calibrated_logits_were_multiplied_with(self, factor):
        logits, labels = drawn_from_logits()
        assert fit_temperature(factor * logits, labels) == pytest.approx(factor, rel=0.06)

    def test_equals_lbfgs_on_the_same_likelihood(self):
        logits, labels = drawn_from_logits(300, seed=1)
        scale = torch.zeros((), dtype=torch.float64, requires_grad=True)
        given_logits, target = torch.tensor(2.5 * logits), torch.tensor(labels)
        optimiser = torch.optim.LBFGS([scale], max_iter=100, line_search_fn="strong_wolfe", tolerance_grad=1e-12)

        def closure():
            optimiser.zero_grad()
            loss = torch.nn.functional.cross_entropy(given_logits / scale.exp(), target)
            loss.backward()
            return loss

        optimiser.step(closure)
        assert fit_temperature(2.5 * logits, labels) == pytest.approx(scale.exp().item(), rel=1e-5)

    def test_multiplying_the_logits_multiplies_the_temperature(self):
        logits, labels = drawn_from_logits(200)
        assert fit_temperature(4 * logits, labels) == pytest.approx(4 * fit_temperature(logits, labels), rel=1e-5)

    def test_improves_likelihood_and_leaves_the_decision(self):
        logits, labels = drawn_from_logits(500)
        fit = calibrate_temperature(3 * logits, labels)
        assert fit.nll_after < fit.nll_before
        before = softmax(3 * logits, axis=1)
        after = apply_temperature(before, fit.temperature)
        assert negative_log_likelihood(before, labels) == pytest.approx(fit.nll_before)
        assert negative_log_likelihood(after, labels) == pytest.approx(fit.nll_after)
        np.testing.assert_array_equal(before.argmax(1), after.argmax(1))
        assert expected_calibration_error(after, labels) < expected_calibration_error(before, labels) / 2

    def test_probabilities_are_scaled_as_their_logits_are(self):
        logits = np.random.default_rng(3).normal(size=(20, 5)) * 8
        np.testing.assert_allclose(apply_temperature(softmax(logits, axis=1), 2.7), softmax(logits / 2.7, axis=1))

    def test_zero_probabilities_and_extreme_temperatures_stay_finite(self):
        scaled = apply_temperature([[1.0, 0.0], [0.6, 0.4]], 0.001)
        np.testing.assert_allclose(scaled, [[1, 0], [1, 0]], atol=1e-12)

    @pytest.mark.parametrize(
        ("logits", "labels", "reason"),
        [
            (np.eye(3), [0, 1, 2], "only 3 validation cases; 10 are needed"),
            (np.random.default_rng(0).normal(size=(20, 3)), [1] * 20, "all validation cases are of one class"),
            (np.eye(3)[np.arange(30) % 3] * 5, np.arange(30) % 3, "every validation case is classified rightly"),
        ],
    )
    def test_stays_1_with_a_reason_when_it_cannot_be_fitted(self, logits, labels, reason, caplog):
        fit = calibrate_temperature(logits, labels)
        assert fit.temperature == 1.0
        assert fit.nll_before == fit.nll_after
        assert reason in fit.reason
        with caplog.at_level(logging.WARNING):
            assert fit_temperature(logits, labels) == 1.0
        assert reason in caplog.text
        json.dumps(fit.to_json(), allow_nan=False)

    def test_logits_of_tiny_scale_get_the_lower_bound(self):
        logits, labels = drawn_from_logits(300)
        fit = calibrate_temperature(1e-4 * logits, labels)
        assert fit.temperature == 0.05
        assert fit.reason.startswith("at the lower bound")

    def test_useless_logits_get_the_upper_bound(self):
        labels = np.arange(40) % 2
        logits = np.stack([labels, 1 - labels], axis=1) * 9.0  # always the wrong class, very sure
        fit = calibrate_temperature(logits, labels)
        assert fit.temperature == 20
        assert fit.reason.startswith("at the upper bound")


class TestCurve:
    def test_by_hand(self):
        p = np.array([[0.95, 0.05], [0.92, 0.08], [0.7, 0.3], [0.35, 0.65], [1.0, 0.0]])
        curve = calibration_curve(p, [0, 1, 0, 0, 0], bins=10)
        np.testing.assert_array_equal(curve.count, [0, 0, 0, 0, 0, 0, 2, 0, 0, 3])  # 0.7 and 0.65; the rest above 0.9
        assert curve.confidence[6] == pytest.approx(0.675)
        assert curve.accuracy[6] == 0.5
        assert curve.confidence[9] == pytest.approx((0.95 + 0.92 + 1) / 3)
        assert curve.accuracy[9] == pytest.approx(2 / 3)
        assert np.isnan(curve.accuracy[0])
        assert curve.ece == pytest.approx((2 * 0.175 + 3 * abs(2 / 3 - 0.956667)) / 5, abs=1e-6)
        assert curve.to_json()["accuracy"][0] is None
        json.dumps(curve.to_json(), allow_nan=False)

    def test_a_confidence_on_an_edge_lies_in_the_bin_below(self):
        curve = calibration_curve([[0.5, 0.5], [0.5, 0.5], [0.25, 0.75]], [0, 1, 1], bins=2)
        assert curve.count.tolist() == [2, 1]  # 0.5 is the upper end of the first bin
        assert calibration_curve([[1.0, 0.0]], [0], bins=4).count.tolist() == [0, 0, 0, 1]

    @settings(max_examples=30, deadline=None)
    @given(st.integers(0, 10_000), st.integers(1, 15), st.integers(2, 5))
    def test_ece_equals_a_loop(self, seed, bins, classes):
        random = np.random.default_rng(seed)
        p, y = random.dirichlet(np.ones(classes), 40), random.integers(0, classes, 40)
        expected = 0.0
        for b in range(bins):
            inside = [i for i in range(40) if b / bins < p[i].max() <= (b + 1) / bins]
            if inside:
                right = sum(p[i].argmax() == y[i] for i in inside) / len(inside)
                sure = sum(p[i].max() for i in inside) / len(inside)
                expected += abs(right - sure) * len(inside) / 40
        assert expected_calibration_error(p, y, bins) == pytest.approx(expected, abs=1e-12)

    def test_quantile_bins_hold_equal_counts(self):
        logits, labels = drawn_from_logits(1000)
        curve = calibration_curve(softmax(logits, axis=1), labels, bins=8, strategy="quantile")
        assert curve.count.sum() == 1000
        assert curve.count.min() >= 124
        assert curve.count.max() <= 126

    def test_quantile_bins_of_equal_confidences_merge(self):
        curve = calibration_curve([[0.8, 0.2]] * 5, [0, 0, 0, 0, 1], strategy="quantile")
        assert curve.count.tolist() == [5]
        assert curve.ece == pytest.approx(0)

    def test_calibrated_by_construction(self):
        logits, labels = drawn_from_logits(20_000, seed=4)
        assert expected_calibration_error(softmax(logits, axis=1), labels) < 0.015


def test_brier_and_likelihood_equal_scikit_learn():
    random = np.random.default_rng(0)
    p, y = random.dirichlet(np.ones(4), 100), random.integers(0, 4, 100)
    assert negative_log_likelihood(p, y) == pytest.approx(log_loss(y, p, labels=range(4)))
    assert brier_score(p, y) == pytest.approx(np.mean([((p[i] - np.eye(4)[y[i]]) ** 2).sum() for i in range(100)]))
    assert brier_score(p[:, :2] / p[:, :2].sum(1, keepdims=True), y % 2) == pytest.approx(
        2 * brier_score_loss(y % 2, p[:, 1] / p[:, :2].sum(1))
    )


def test_likelihood_of_an_impossible_case_is_finite():
    assert negative_log_likelihood([[1.0, 0.0]], [1]) == pytest.approx(-np.log(np.finfo(float).eps))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: calibration_curve([[2.0, -1.0]], [0]), "are not probabilities: values from -1 to 2.*apply softmax"),
        (lambda: calibration_curve([[0.5, 0.1]], [0]), "row sums from 0.6 to 0.6"),
        (lambda: calibration_curve([[1.0]], [0]), r"shape \(1, 1\); expected \(N, C\) with at least two classes"),
        (lambda: calibration_curve([[0.5, 0.5]], [0], bins=0), "bins is 0; expected at least one"),
        (lambda: calibration_curve([[0.5, 0.5]], [0], strategy="equal"), "strategy is 'equal'; expected 'uniform'"),
        (lambda: brier_score([[0.5, 0.5]], [2]), "labels holds labels 2; expected class indices 0 to 1"),
        (lambda: apply_temperature([[0.5, 0.5]], 0), "temperature is 0; expected a positive number"),
        (lambda: fit_temperature([[0.5], [0.1]], [0, 0]), r"logits have shape \(2, 1\); expected \(N, C\)"),
        (lambda: fit_temperature([[0.5, 1]], [0, 0]), "labels has 2, logits has 1"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
