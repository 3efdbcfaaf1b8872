"""Figures of labels that are each there or not: scikit-learn, loops in float64, cases repeated by hand."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from sklearn.calibration import calibration_curve
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    brier_score_loss,
    f1_score,
    log_loss,
    multilabel_confusion_matrix,
    recall_score,
    roc_auc_score,
)

from medssl_monai.metrics import (
    apply_label_temperatures,
    balanced_label_accuracy,
    bootstrap_distribution,
    bootstrap_interval,
    choose_operating_points,
    decision_thresholds,
    fit_label_temperatures,
    label_calibration_curve,
    multilabel_report,
)
from medssl_monai.metrics.label_metrics import F1, AveragePrecision

NAMES = ["abnormal", "acl", "meniscus"]


def cases(n: int = 240, seed: int = 0, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """0/1 table, logits and subjects (two cases each), with labels that occur with each other."""
    rng = np.random.default_rng(seed)
    truth = (rng.random((n, 3)) < [0.6, 0.2, 0.4]).astype(int)
    truth[:, 0] |= truth[:, 1]
    logits = scale * (1.3 * (2 * truth - 1) + 1.5 * rng.standard_normal((n, 3)))
    return truth, logits, [f"p{i // 2}" for i in range(n)]


def sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values))


POINTS = {
    "abnormal": {"threshold": 0.35, "reason": None}, "acl": {"threshold": 0.62, "reason": None},
    "meniscus": {"threshold": None, "reason": "only 3 positive validation cases"},
}  # fmt: skip
LIMITS = np.array([0.35, 0.62, 0.5])


def full_report(**changes: Any) -> tuple[dict[str, Any], np.ndarray, np.ndarray, np.ndarray]:
    truth, logits, subjects = cases()
    arguments: dict[str, Any] = {"operating_points": POINTS, "temperatures": [2.0, 0.5, 1.0], "n_boot": 60, **changes}
    report = multilabel_report(truth, sigmoid(logits), subjects, NAMES, **arguments)
    return report, truth, sigmoid(logits), sigmoid(logits / [2.0, 0.5, 1.0])


def test_every_figure_of_a_label_is_scikit_learn_s() -> None:
    report, truth, raw, served = full_report(threshold=0.3)
    assert report["exclusive"] is False
    expected: dict[str, list[float]] = {}
    for k, name in enumerate(NAMES):
        y, p, called = truth[:, k], served[:, k], served[:, k] >= LIMITS[k]
        want = {
            "auroc": roc_auc_score(y, p),
            "average_precision": average_precision_score(y, p),
            "accuracy": accuracy_score(y, called),
            "sensitivity": recall_score(y, called),
            "specificity": recall_score(1 - y, ~called),
            "balanced_accuracy": balanced_accuracy_score(y, called),
            "f1": f1_score(y, called),
            "brier": brier_score_loss(y, p),
            "ovr_accuracy": accuracy_score(y, raw[:, k] >= 0.3),
            "ovr_sensitivity": recall_score(y, raw[:, k] >= 0.3),
            "ovr_specificity": recall_score(1 - y, raw[:, k] < 0.3),
        }
        found = {metric: report["per_class"][name][metric]["estimate"] for metric in want}
        assert found == pytest.approx(want, abs=1e-12)
        for metric, value in want.items():
            expected.setdefault(metric, []).append(value)
    means = {
        {"auroc": "macro_auroc", "average_precision": "macro_average_precision"}.get(metric, metric): np.mean(values)
        for metric, values in expected.items()
    }
    means["subset_accuracy"] = accuracy_score(truth, served >= LIMITS)
    assert {name: entry["estimate"] for name, entry in report["metrics"].items()} == pytest.approx(means, abs=1e-12)
    assert next(iter(report["metrics"])) == "macro_auroc"  # the page's answer
    matrices = multilabel_confusion_matrix(truth, served >= LIMITS)
    assert report["confusion_matrices"] == {name: m.tolist() for name, m in zip(NAMES, matrices)}
    assert report["warnings"] == ["no operating point of meniscus: called from a probability of 0.5 on"]
    json.dumps(report, allow_nan=False)


def test_operating_points_and_counts() -> None:
    report, truth, _, served = full_report()
    point = report["per_class"]["acl"]["operating_point"]
    assert point["threshold"] == 0.62
    assert point["sensitivity"]["estimate"] == pytest.approx(recall_score(truth[:, 1], served[:, 1] >= 0.62))
    assert point["sensitivity"]["n"] == truth[:, 1].sum()
    assert point["specificity"]["n"] == (1 - truth[:, 1]).sum()
    assert report["per_class"]["meniscus"]["operating_point"] == {
        "threshold": None, "sensitivity": None, "specificity": None, "reason": "only 3 positive validation cases",
    }  # fmt: skip
    assert [report["per_class"][name]["decision_threshold"] for name in NAMES] == LIMITS.tolist()
    assert report["per_class"]["acl"]["n"] == truth[:, 1].sum()
    assert (report["n"], report["n_subjects"]) == (240, 120)
    assert decision_thresholds(NAMES, None).tolist() == [0.5] * 3


def test_intervals_are_those_of_loops_over_resampled_subjects() -> None:
    report, truth, _, served = full_report()
    subjects = [f"p{i // 2}" for i in range(240)]

    def macro(metric: Any) -> Any:
        return lambda y, p: float(np.mean([metric(y[:, k], p[:, k], LIMITS[k]) for k in range(3)]))

    wanted = {
        "macro_auroc": macro(lambda y, p, t: roc_auc_score(y, p)),
        "macro_average_precision": macro(lambda y, p, t: average_precision_score(y, p)),
        "f1": macro(lambda y, p, t: f1_score(y, p >= t)),
        "subset_accuracy": lambda y, p: float((y == (p >= LIMITS)).all(axis=1).mean()),
        "brier": macro(lambda y, p, t: np.mean((y - p) ** 2)),
    }
    for name, function in wanted.items():
        slow = bootstrap_interval(function, truth, served, groups=subjects, n_boot=60, level=(2.5, 97.5))
        assert report["metrics"][name]["interval_95"] == pytest.approx([slow.low, slow.high], abs=1e-12)


def test_one_label_as_indices() -> None:
    truth, logits, subjects = cases()
    report = multilabel_report(truth[:, 1], sigmoid(logits[:, [1]]), subjects, ["acl"], n_boot=20)
    table = multilabel_report(truth[:, [1]], sigmoid(logits[:, [1]]), subjects, ["acl"], n_boot=20)
    assert report == table
    assert "subset_accuracy" not in report["metrics"]
    assert report["metrics"]["macro_auroc"]["estimate"] == pytest.approx(roc_auc_score(truth[:, 1], logits[:, 1]))
    called = logits[:, 1] >= 0
    matrix = [[int(((truth[:, 1] == a) & (called == b)).sum()) for b in (0, 1)] for a in (0, 1)]
    assert report["confusion_matrices"] == {"acl": matrix}


def test_a_label_that_is_never_or_always_there() -> None:
    truth, logits, subjects = cases()
    truth[:, 1], truth[:, 2] = 0, 1
    report = multilabel_report(truth, sigmoid(logits), subjects, NAMES, n_boot=30)
    json.dumps(report, allow_nan=False)
    assert report["metrics"]["macro_auroc"]["estimate"] == pytest.approx(roc_auc_score(truth[:, 0], logits[:, 0]))
    assert report["metrics"]["macro_auroc"]["n_classes"] == 1
    assert report["metrics"]["sensitivity"]["n_classes"] == 2
    for name in ("acl", "meniscus"):
        assert report["per_class"][name]["auroc"]["estimate"] is None
        assert "undefined" in report["per_class"][name]["auroc"]["reason"]
    called = logits[:, 1] >= 0
    assert report["confusion_matrices"]["acl"] == [[int((~called).sum()), int(called.sum())], [0, 0]]
    assert (
        "fewer than 10 subjects with, or without, the class: acl (0 of 120), meniscus (120 of 120); no interval "
        "is given for these classes, and means over classes rest on them too"
    ) in report["warnings"]
    alone = multilabel_report(np.zeros(40, int), np.full((40, 1), 0.2), None, ["acl"], n_boot=5)
    assert alone["confusion_matrices"] == {"acl": [[40, 0], [0, 0]]}
    assert alone["metrics"]["macro_auroc"]["estimate"] is None


def test_fewer_than_ten_subjects_of_a_side_have_no_interval() -> None:
    truth, logits, subjects = cases()
    rare = np.zeros(240, int)
    rare[[0, 40, 80]] = 1
    truth[:, 1] = rare
    report = multilabel_report(truth, sigmoid(logits), subjects, NAMES, n_boot=30)
    entry = report["per_class"]["acl"]["auroc"]
    assert entry["estimate"] is not None
    assert entry["interval_90"] is None
    assert entry["reason"] == "only 3 subjects with this class; no interval below 10"
    assert report["per_class"]["abnormal"]["auroc"]["interval_90"] is not None
    tiny = multilabel_report(truth[:16], sigmoid(logits[:16]), subjects[:16], NAMES, n_boot=30)
    assert tiny["metrics"]["accuracy"]["reason"] == "only 8 subjects; no interval below 10"


def test_subgroups_are_reports_of_their_cases() -> None:
    truth, logits, subjects = cases()
    site = ["a" if i < 160 else "b" if i < 230 else "c" for i in range(240)]
    report = multilabel_report(truth, sigmoid(logits), subjects, NAMES, columns={"site": site}, n_boot=20)
    own = multilabel_report(truth[:160], sigmoid(logits[:160]), subjects[:160], NAMES, n_boot=20)
    assert report["subgroups"]["site"]["a"]["metrics"] == own["metrics"]
    assert report["subgroups"]["site"]["c"]["metrics"] is None
    assert report["subgroups"]["site"]["c"]["reason"] == "only 5 subjects; no interval below 10"


def test_calibration_of_each_label() -> None:
    report, truth, raw, served = full_report()
    for scale, values in (("before", raw), ("after", served)):
        sums = dict.fromkeys(("ece", "brier", "nll"), 0.0)
        for k, name in enumerate(NAMES):
            found = report["calibration"]["per_class"][name][scale]
            share, mean = calibration_curve(truth[:, k], values[:, k], n_bins=10)
            curve = found["curve"]
            filled = [j for j, count in enumerate(curve["count"]) if count]
            assert [curve["accuracy"][j] for j in filled] == pytest.approx(share)
            assert [curve["confidence"][j] for j in filled] == pytest.approx(mean)
            counts = np.array(curve["count"])[filled]
            want = {
                "ece": float((np.abs(share - mean) * counts).sum() / 240),
                "brier": brier_score_loss(truth[:, k], values[:, k]),
                "nll": log_loss(truth[:, k], values[:, k]),
            }
            assert {key: found[key] for key in want} == pytest.approx(want)
            sums = {key: sums[key] + want[key] / 3 for key in want}
        assert {key: report["calibration"][scale][key] for key in sums} == pytest.approx(sums)
        assert sum(report["calibration"][scale]["curve"]["count"]) == 3 * 240
    assert report["calibration"]["temperature"] == dict(zip(NAMES, [2.0, 0.5, 1.0]))
    plain = full_report(temperatures=None)[0]["calibration"]
    assert plain["after"] is None
    assert plain["reason"] == plain["per_class"]["acl"]["reason"] == "no temperature was fitted"


def test_temperatures_minimise_each_label_s_likelihood(caplog: pytest.LogCaptureFixture) -> None:
    truth, logits, _ = cases(scale=3.0)
    truth[:, 2] = 1
    found = fit_label_temperatures(logits, truth, NAMES)
    for k in range(2):
        best = minimize_scalar(
            lambda t, k=k: log_loss(truth[:, k], sigmoid(logits[:, k] / t)), bounds=(0.05, 20), method="bounded",
            options={"xatol": 1e-9},
        )  # fmt: skip
        assert found[k] == pytest.approx(best.x, rel=1e-4)
        assert found[k] > 1.5  # the logits are three times too large
    assert found[2] == 1.0
    assert "meniscus: temperature 1: all validation cases are of one class" in caplog.text
    scaled = apply_label_temperatures(sigmoid(logits), found)
    np.testing.assert_allclose(scaled, sigmoid(logits / found), rtol=1e-9)
    assert fit_label_temperatures(logits[:, [0]], truth[:, 0], ["abnormal"]) == found[:1]


def test_operating_points_of_a_table() -> None:
    truth, logits, _ = cases()
    points = choose_operating_points(truth, sigmoid(logits), NAMES, rule="sensitivity@0.90")
    for k, name in enumerate(NAMES):
        called = sigmoid(logits[:, k]) >= points[name]["threshold"]
        assert recall_score(truth[:, k], called) == pytest.approx(points[name]["sensitivity"])
        assert points[name]["sensitivity"] >= 0.9


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 4), st.integers(0, 3)), min_size=4, max_size=30).filter(
        lambda rows: len({row[0] for row in rows}) == 2
    )
)
def test_weighted_cases_are_repeated_cases(rows: list[tuple[bool, int, int]]) -> None:
    """Ties and weights of 0 included: a kernel gives what scikit-learn gives of the cases written out."""
    truth, score = np.array([int(row[0]) for row in rows]), np.array([row[1] / 4 for row in rows])
    weights = np.array([row[2] for row in rows])
    y, p = np.repeat(truth, weights), np.repeat(score, weights)
    (value,) = AveragePrecision().prepare(truth, score)(weights[:, None].astype(float))
    if len(set(y.tolist())) == 2:
        assert value == pytest.approx(average_precision_score(y, p), abs=1e-12)
    else:
        assert math.isnan(value)
    (value,) = F1(0.5).prepare(truth, score)(weights[:, None].astype(float))
    if y.any() or (p >= 0.5).any():
        assert value == pytest.approx(f1_score(y, p >= 0.5), abs=1e-12)
    else:
        assert math.isnan(value)


def test_named_metrics_of_the_bootstrap() -> None:
    truth, logits, subjects = cases()
    for name, function in (("average_precision", average_precision_score), ("f1", lambda y, p: f1_score(y, p >= 0.5))):
        fast = bootstrap_distribution(name, truth[:, 1], sigmoid(logits[:, 1]), subjects, n_boot=40)
        slow = bootstrap_distribution(function, truth[:, 1], sigmoid(logits[:, 1]), subjects, n_boot=40)
        assert fast.estimate == pytest.approx(slow.estimate, abs=1e-12)
        np.testing.assert_allclose(fast.values, slow.values, atol=1e-12)


def test_balanced_accuracy_over_labels() -> None:
    truth, logits, _ = cases()
    wanted = np.mean([balanced_accuracy_score(truth[:, k], logits[:, k] >= 0) for k in range(3)])
    assert balanced_label_accuracy(truth, sigmoid(logits)) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"probabilities": np.full((4, 2), 1.5)}, r"probabilities are not probabilities: values from 1.5 to 1.5"),
        ({"y_true": [[0, 1], [1, 2], [0, 0], [1, 1]]}, r"y_true holds labels 0, 1, 2; a binary metric expects"),
        ({"y_true": [0, 1, 1, 0]}, r"y_true has shape \(4,\); expected \(N, 2\), one column a label"),
        ({"class_names": ["a"]}, r"1 class names \['a'\] for 2 columns"),
        ({"temperatures": [1.0]}, r"temperatures are \[1.0\]; expected 2 positive numbers"),
        ({"temperatures": [1.0, 0.0]}, r"temperatures are \[1.0, 0.0\]; expected 2 positive numbers"),
        (
            {"operating_points": {"c": {}}},
            r"operating points for \['c'\], which are no labels; labels are \['a', 'b'\]",
        ),
        ({"groups": ["x"]}, "groups has 1 entries for 4 cases"),
        ({"columns": {"sex": ["f"]}}, "column 'sex' has 1"),
    ],
)
def test_refusals(change: dict[str, Any], words: str) -> None:
    arguments = {
        "y_true": [[0, 1], [1, 0], [0, 0], [1, 1]], "probabilities": np.full((4, 2), 0.5), "groups": None,
        "class_names": ["a", "b"], **change,
    }  # fmt: skip
    with pytest.raises(ValueError, match=words):
        multilabel_report(**arguments)
    with pytest.raises(ValueError, match="bins is 0; expected at least one"):
        label_calibration_curve([0.5], [1], bins=0)
