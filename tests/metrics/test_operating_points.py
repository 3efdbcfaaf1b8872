"""Operating points against an exhaustive search over thresholds."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medssl_monai.metrics import choose_operating_points, one_vs_rest_rates


def case(seed=0, n=80, classes=3, decimals=2):
    random = np.random.default_rng(seed)
    y = np.concatenate([np.repeat(np.arange(classes), 5), random.integers(0, classes, n - 5 * classes)])
    p = random.dirichlet(np.ones(classes), n)
    p[np.arange(n), y] += 0.4
    return y, np.round(p / 1.4, decimals)


def rates_at(y, score, threshold):
    called = score >= threshold
    return called[y].mean(), (~called[~y]).mean()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["youden", "sensitivity@0.90", "sensitivity@1.0", "sensitivity@0.5"]))
def test_equals_an_exhaustive_search(seed, rule):
    y, p = case(seed)
    points = choose_operating_points(y, p, ["a", "b", "c"], rule=rule)
    for k, name in enumerate("abc"):
        point, truth = points[name], y == k
        every = [rates_at(truth, p[:, k], t) for t in np.unique(p[:, k])]
        achieved = rates_at(truth, p[:, k], point["threshold"])
        assert (point["sensitivity"], point["specificity"]) == pytest.approx(achieved)  # what it says it has, it has
        if rule == "youden":
            best = max(sens + spec for sens, spec in every)
            assert sum(achieved) == pytest.approx(best)
            equals = [sens for sens, spec in every if sens + spec >= best - 1e-9]
            assert achieved[0] == pytest.approx(max(equals))
        else:
            target = float(rule.split("@")[1])
            assert achieved[0] >= target - 1e-9
            assert achieved[1] == pytest.approx(max(spec for sens, spec in every if sens >= target - 1e-9))
        assert (point["n_positive"], point["n_negative"]) == (truth.sum(), (~truth).sum())
        assert point["reason"] is None
    json.dumps(points, allow_nan=False)


def test_thresholds_lie_midway_between_called_and_uncalled():
    y = np.array([0] * 5 + [1] * 5)
    score = np.array([0.1, 0.1, 0.2, 0.2, 0.3, 0.7, 0.8, 0.8, 0.9, 0.9])
    points = choose_operating_points(y, np.stack([1 - score, score], axis=1), ["healthy", "ill"])
    assert points["ill"]["threshold"] == pytest.approx(0.5)
    assert points["ill"]["rule"] == "youden"


def test_of_equal_youden_points_the_more_sensitive_is_taken():
    y = np.array([1] * 5 + [0] * 5)
    score = np.array([0.9, 0.8, 0.7, 0.3, 0.2, 0.6, 0.5, 0.1, 0.1, 0.1])
    # called from 0.7 on: 3/5 + 5/5; from 0.2 on: 5/5 + 3/5, the same sum
    point = choose_operating_points(y, np.stack([1 - score, score], axis=1), ["a", "b"])["b"]
    assert (point["sensitivity"], point["specificity"]) == pytest.approx((1.0, 0.6))
    assert point["threshold"] == pytest.approx(0.15)


def test_calling_everything_takes_the_lowest_score():
    y = np.array([0] * 5 + [1] * 5)
    score = np.full(10, 0.25)
    point = choose_operating_points(y, np.stack([1 - score, score], axis=1), ["a", "b"])["b"]
    assert (point["threshold"], point["sensitivity"], point["specificity"]) == (0.25, 1.0, 0.0)


def test_neighbouring_floats_do_not_call_the_lower_one():
    low = 0.5
    high = np.nextafter(low, 1)
    y = np.array([0] * 5 + [1] * 5)
    score = np.where(y == 1, high, low)
    point = choose_operating_points(y, np.stack([1 - score, score], axis=1), ["a", "b"])["b"]
    assert rates_at(y == 1, score, point["threshold"]) == (1, 1)


def test_thresholds_transfer_to_the_rates():
    y, p = case(3)
    points = choose_operating_points(y, p, ["a", "b", "c"])
    rates = one_vs_rest_rates(y, p, [points[name]["threshold"] for name in "abc"])
    np.testing.assert_allclose(rates.sensitivity, [points[name]["sensitivity"] for name in "abc"])


def test_rare_classes_get_no_threshold_and_a_reason():
    y = np.array([0] * 20 + [1] * 4 + [2] * 6)
    p = np.random.default_rng(0).dirichlet(np.ones(3), 30)
    points = choose_operating_points(y, p, ["nevus", "melanoma", "keratosis"])
    assert points["melanoma"]["threshold"] is None
    assert points["melanoma"]["sensitivity"] is None
    assert points["melanoma"]["reason"] == "only 4 positive validation cases; 5 are needed to choose a threshold"
    assert points["keratosis"]["threshold"] is not None
    one_side = choose_operating_points([0] * 20 + [1] * 3, p[:23, :2], ["a", "b"])
    assert one_side["a"]["reason"] == "only 3 negative validation cases; 5 are needed to choose a threshold"


def test_several_labels_a_case():
    random = np.random.default_rng(1)
    table, p = random.integers(0, 2, (60, 2)), random.random((60, 2))
    points = choose_operating_points(table, p, ["acl", "meniscus"], rule="sensitivity@0.8")
    assert points["acl"]["n_positive"] == table[:, 0].sum()
    assert points["meniscus"]["sensitivity"] >= 0.8


@pytest.mark.parametrize("rule", ["best", "sensitivity@", "sensitivity@0", "sensitivity@1.2", "sensitivity@high"])
def test_unknown_rules(rule):
    with pytest.raises(ValueError, match=f"rule is '{rule}'; expected 'youden' or 'sensitivity@0.90'"):
        choose_operating_points(*case(), ["a", "b", "c"], rule=rule)


@pytest.mark.parametrize(
    ("names", "message"),
    [(["a", "b"], "2 class names .* for 3 columns"), (["a", "b", "a"], "class names must differ")],
)
def test_class_names(names, message):
    with pytest.raises(ValueError, match=message):
        choose_operating_points(*case(), names)
