"""Comparisons of runs, against loops over scikit-learn, hand-worked corrections and constructed cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score, roc_auc_score

from medssl_monai.metrics import Distribution, average_distributions, bootstrap_distribution
from medssl_monai.metrics.comparison import (
    annotation_saved,
    bootstrap_p_value,
    holm,
    joint_distributions,
    withheld_intervals,
)
from medssl_monai.metrics.resampling import Resampler

NAMES = ["a", "b", "c"]


def cases(n: int = 90, n_subjects: int = 40, seed: int = 0) -> tuple[np.ndarray, dict[str, np.ndarray], list[str]]:
    """Labels, probabilities of four runs (two arms, two seeds; ties among them) and subjects of several images."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, n)
    subjects = [f"s{i}" for i in random.integers(0, n_subjects, n)]
    scores = {}
    for name, signal in {"p0": 1.5, "p1": 1.2, "b0": 0.8, "b1": 0.9}.items():
        logits = random.normal(size=(n, 3)) + signal * np.eye(3)[labels]
        values = np.exp(logits).round(1) + 0.1
        scores[name] = values / values.sum(axis=1, keepdims=True)
    return labels, scores, subjects


def loop(labels: np.ndarray, scores: np.ndarray, subjects: list[str], n_boot: int, seed: int) -> dict[str, np.ndarray]:
    """Figures on every resample, case by case through scikit-learn."""
    drawn = np.concatenate(list(Resampler(len(labels), subjects, n_boot, seed).blocks()), axis=1).astype(int)
    # the weights are those of whole subjects
    for subject in set(subjects):
        rows = drawn[[i for i, one in enumerate(subjects) if one == subject]]
        assert (rows == rows[0]).all()
    found: dict[str, list[float]] = {key: [] for key in ("macro", "balanced", "top1", *NAMES)}
    for column in drawn.T:
        index = np.repeat(np.arange(len(labels)), column)
        truth, values = labels[index], scores[index]
        areas = [roc_auc_score(truth == k, values[:, k]) for k in range(3)]
        for key, value in zip(NAMES, areas):
            found[key].append(value)
        found["macro"].append(float(np.mean(areas)))
        found["balanced"].append(balanced_accuracy_score(truth, values.argmax(axis=1)))
        found["top1"].append(accuracy_score(truth, values.argmax(axis=1)))
    return {key: np.array(values) for key, values in found.items()}


def test_all_runs_share_resamples_and_equal_a_loop_over_scikit_learn() -> None:
    labels, scores, subjects = cases()
    found = joint_distributions(labels, scores, subjects, NAMES, n_boot=60, seed=3)
    expected = {run: loop(labels, values, subjects, 60, 3) for run, values in scores.items()}
    places = {
        ("macro_auroc", ""): "macro", ("balanced_top1_accuracy", ""): "balanced", ("top1_accuracy", ""): "top1",
        **{("auroc", name): name for name in NAMES},
    }  # fmt: skip
    for run in scores:
        assert set(found[run]) == set(places)
        for figure, key in places.items():
            np.testing.assert_allclose(found[run][figure].values, expected[run][key], atol=1e-12)
            assert found[run][figure].n_groups == len(set(subjects))
    # the claim: mean over seeds of the arms' difference, resample by resample
    primary, baseline = (
        average_distributions([found[f"{arm}{seed}"]["macro_auroc", ""] for seed in (0, 1)]) for arm in "pb"
    )
    difference = primary - baseline
    by_hand = (
        expected["p0"]["macro"] + expected["p1"]["macro"] - expected["b0"]["macro"] - expected["b1"]["macro"]
    ) / 2
    np.testing.assert_allclose(difference.values, by_hand, atol=1e-12)
    interval = difference.interval((2.5, 97.5))
    np.testing.assert_allclose([interval.low, interval.high], np.percentile(by_hand, (2.5, 97.5)), atol=1e-12)
    # pairing matters: the arms taken apart would give a wider interval
    apart = math.hypot(primary.values.std(), baseline.values.std())
    assert by_hand.std() < apart


def test_a_class_without_test_case_is_left_out_of_the_mean() -> None:
    labels, scores, subjects = cases()
    values = np.insert(scores["p0"], 1, 0.0, axis=1)
    found = joint_distributions(np.array([0, 2, 3])[labels], {"x": values}, subjects, ["a", "none", "b", "c"], 50)["x"]
    assert math.isnan(found["auroc", "none"].estimate)
    alone = joint_distributions(labels, {"x": scores["p0"]}, subjects, NAMES, 50)["x"]
    np.testing.assert_allclose(found["macro_auroc", ""].values, alone["macro_auroc", ""].values, atol=1e-12)


def test_label_tables_have_no_top1_figures() -> None:
    random = np.random.default_rng(0)
    table, scores = random.integers(0, 2, (60, 2)), random.random((60, 2))
    found = joint_distributions(table, {"x": scores}, None, ["a", "b"], 40)["x"]
    assert set(found) == {("macro_auroc", ""), ("auroc", "a"), ("auroc", "b")}
    expected = bootstrap_distribution("macro_auroc", table, scores, n_boot=40)
    np.testing.assert_allclose(found["macro_auroc", ""].values, expected.values, atol=1e-12)


def test_what_cannot_be_compared() -> None:
    labels, scores, subjects = cases()
    with pytest.raises(ValueError, match="no runs: there is nothing to compare"):
        joint_distributions(labels, {}, subjects, NAMES)
    with pytest.raises(ValueError, match=r"every case needs one entry in each: y_true has 90, scores of 'x' has 89"):
        joint_distributions(labels, {"x": scores["p0"][1:]}, subjects, NAMES)
    with pytest.raises(ValueError, match=r"scores of 'x' are not probabilities"):
        joint_distributions(labels, {"x": scores["p0"] * 3}, subjects, NAMES)
    with pytest.raises(ValueError, match="2 class names"):
        joint_distributions(labels % 2, {"x": scores["p0"]}, subjects, ["a", "b"])
    with pytest.raises(ValueError, match="expected class indices 0 to 2"):
        joint_distributions(labels + 1, {"x": scores["p0"]}, subjects, NAMES)


def test_classes_of_few_subjects_get_no_interval() -> None:
    # class b: 9 subjects with many images; class c: in every subject but 9; class a: enough on both sides
    labels = np.array([0] * 30 + [1] * 40 + [2] * 30)
    subjects = [f"a{i}" for i in range(30)] + [f"b{i % 9}" for i in range(40)] + [f"c{i}" for i in range(30)]
    assert withheld_intervals(labels, subjects, NAMES) == {"b": "only 9 subjects with this class; no interval below 10"}
    keep = labels != 0
    found = withheld_intervals(labels[keep], [s for s, k in zip(subjects, keep) if k], NAMES)
    assert found["c"] == "only 9 subjects without this class; no interval below 10"
    assert found["a"] == "only 0 subjects with this class; no interval below 10"
    few = withheld_intervals(labels[:9], subjects[:9], NAMES)
    assert few[""] == "only 9 subjects; no interval below 10"


# --- p-values
def distribution(values: list[float], estimate: float = 0.1) -> Distribution:
    return Distribution(estimate, np.array(values, dtype=float), 10, 10, "key")


def test_p_value_by_hand() -> None:
    assert bootstrap_p_value(distribution([0.1] * 99)) == pytest.approx(2 / 100)
    assert bootstrap_p_value(distribution([0.1] * 94 + [-0.1] * 3 + [0.0] * 2)) == pytest.approx(2 * 6 / 100)
    assert bootstrap_p_value(distribution([-0.1] * 94 + [0.1] * 5)) == pytest.approx(2 * 6 / 100)
    # resamples that are not defined count neither as evidence nor as resamples
    assert bootstrap_p_value(distribution([0.1] * 49 + [math.nan] * 50)) == pytest.approx(2 / 50)
    # equal runs: every resample's difference is 0
    assert bootstrap_p_value(distribution([0.0] * 99, 0.0)) == 1
    assert math.isnan(bootstrap_p_value(distribution([math.nan] * 5)))
    assert math.isnan(bootstrap_p_value(distribution([0.1] * 5, math.nan)))


@given(st.lists(st.floats(-1, 1), min_size=200, max_size=300), st.floats(-0.5, 0.5))
def test_p_value_agrees_with_the_percentile_interval(values: list[float], shift: float) -> None:
    one = distribution([value + shift for value in values])
    p = bootstrap_p_value(one)
    assert 0 < p <= 1
    assert p == bootstrap_p_value(distribution([-value - shift for value in values], -0.1))
    # p above 5 % means that 0 lies in the 95 % interval, but for the step of the added ones and of interpolation
    interval = one.interval((2.5, 97.5))
    if p > 0.05 + 4 / len(values):
        assert interval.low <= 0 <= interval.high
    if p < 0.05 - 4 / len(values):
        assert not interval.low < 0 < interval.high


def test_p_values_of_equal_arms_are_uniform() -> None:
    """Coverage: two arms of the same quality differ 'significantly' in about 5 % of studies."""
    random = np.random.default_rng(0)
    below = 0
    for study in range(200):
        labels = random.integers(0, 2, 150)
        scores = {}
        for arm in "ab":
            p = 1 / (1 + np.exp(-random.normal(size=150) - (2 * labels - 1)))
            scores[arm] = np.stack([1 - p, p], axis=1)
        found = joint_distributions(labels, scores, None, ["no", "yes"], n_boot=200, seed=study)
        below += bootstrap_p_value(found["a"]["macro_auroc", ""] - found["b"]["macro_auroc", ""]) < 0.05
    # binomial(200, 0.05): 10 expected, standard deviation 3
    assert 2 <= below <= 20


# --- Holm
def test_holm_by_hand() -> None:
    # 0.01 x 4, 0.02 x 3, 0.03 x 2 = 0.06, then 0.04 x 1 lifted to 0.06
    np.testing.assert_allclose(holm([0.04, 0.01, 0.03, 0.02]), [0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.03]) == [0.03]
    assert holm([]) == []


def test_a_missing_comparison_counts_in_the_family() -> None:
    found = holm([math.nan, 0.01, 0.04])
    assert math.isnan(found[0])
    np.testing.assert_allclose(found[1:], [0.03, 0.08])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_against_its_stepwise_definition(values: list[float]) -> None:
    adjusted = holm(values)
    for alpha in (0.01, 0.05, 0.2):
        # step down: reject while p(j) <= alpha / (m - j + 1)
        rejected: set[int] = set()
        for step, index in enumerate(sorted(range(len(values)), key=values.__getitem__)):
            if values[index] * (len(values) - step) > alpha:
                break
            rejected.add(index)
        assert {index for index, p in enumerate(adjusted) if p <= alpha} == rejected


def test_p_values_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"p-values lie in \[0, 1\]; found 1\.5"):
        holm([0.1, 1.5])


# --- annotation saved
def difference(low: float, high: float = 0.5) -> Distribution:
    """A distribution whose 90 % interval starts at ``low``."""
    values = np.linspace(low, high, 1001)
    step = (high - low) / 900
    return distribution([*(low - step * np.arange(1, 51)), *values[:901], *(high + step * np.arange(1, 51))])


def test_the_smallest_budget_within_the_margin() -> None:
    assert difference(-0.02).interval((5, 95)).low == pytest.approx(-0.02, abs=1e-3)
    candidates = {
        "20pct": (200, difference(-0.004)),
        "5pct": (50, difference(-0.05)),
        "10pct": (100, difference(-0.008)),
    }
    found = annotation_saved(candidates, 1000)
    assert (found.budget, found.labels, found.labels_full, found.margin) == ("10pct", 100, 1000, 0.01)
    assert found.saved_fraction == pytest.approx(0.9)
    assert found.larger_insufficient == ()
    assert found.to_json()["larger_insufficient"] == []


def test_the_margin_itself_decides() -> None:
    candidates = {"10pct": (100, difference(-0.03))}
    assert annotation_saved(candidates, 1000).budget is None
    assert annotation_saved(candidates, 1000).saved_fraction is None
    assert annotation_saved(candidates, 1000, margin=0.05).budget == "10pct"
    exact = {"10pct": (100, distribution([-0.01] * 100))}
    assert annotation_saved(exact, 1000).budget is None  # exceeds, not reaches
    undefined = {"10pct": (100, distribution([math.nan] * 100))}
    assert annotation_saved(undefined, 1000).budget is None


def test_a_larger_budget_that_fails_makes_it_doubtful() -> None:
    candidates = {"5pct": (50, difference(-0.005)), "10pct": (100, difference(-0.02)), "20pct": (200, difference(0.0))}
    found = annotation_saved(candidates, 1000)
    assert (found.budget, found.larger_insufficient) == ("5pct", ("10pct",))


def test_what_annotation_saved_refuses() -> None:
    with pytest.raises(ValueError, match="margin is 0; expected a positive number"):
        annotation_saved({}, 10, margin=0)
    with pytest.raises(ValueError, match="every budget uses at least one label"):
        annotation_saved({"0pct": (0, difference(0))}, 10)
