"""The report: every number recomputed from its parts, every withheld number with its reason."""

from __future__ import annotations

import csv
import json
import math
import time

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, recall_score, roc_auc_score

from medssl_monai.metrics import (
    apply_temperature,
    bootstrap_interval,
    choose_operating_points,
    classification_report,
    expected_calibration_error,
    one_vs_rest_rates,
)

NAMES = ["nevus", "melanoma", "keratosis", "vascular"]


def case(n=400, seed=0, weights=(0.6, 0.25, 0.135, 0.015)):
    random = np.random.default_rng(seed)
    y = random.choice(len(weights), n, p=weights)
    logits = random.normal(size=(n, len(weights)))
    logits[np.arange(n), y] += 1.5
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    groups = [f"subject:{i // 2}" for i in range(n)]
    columns = {
        "age": [None if i % 50 == 0 else float(30 + i % 45) for i in range(n)],
        "sex": list(random.choice(["female", "male"], n)),
        "site": ["rare clinic" if i < 8 else "clinic" for i in range(n)],
    }
    return y, p, groups, columns


@pytest.fixture(scope="module")
def report():
    y, p, groups, columns = case()
    validation = case(seed=1)
    points = choose_operating_points(validation[0], apply_temperature(validation[1], 1.7), NAMES)
    return classification_report(
        y, p, groups, NAMES, operating_points=points, temperature=1.7, columns=columns, n_boot=200, seed=5
    ), points


def test_is_plain_json_without_not_a_number(report):
    assert json.loads(json.dumps(report[0], allow_nan=False)) == report[0]


def test_estimates_equal_scikit_learn(report):
    y, given, *_ = case()
    p = given ** (1 / 1.7) / (given ** (1 / 1.7)).sum(axis=1, keepdims=True)
    metrics = report[0]["metrics"]
    ovr = one_vs_rest_rates(y, given).mean()
    expected = {
        "macro_auroc": roc_auc_score(y, p, multi_class="ovr"),
        "ovr_accuracy": ovr["accuracy"],
        "ovr_sensitivity": ovr["sensitivity"],
        "ovr_specificity": ovr["specificity"],
        "top1_accuracy": (p.argmax(1) == y).mean(),
        "balanced_top1_accuracy": balanced_accuracy_score(y, p.argmax(1)),
    }
    assert {name: entry["estimate"] for name, entry in metrics.items()} == pytest.approx(expected)
    assert metrics["macro_auroc"]["n_classes"] == 4
    assert metrics["top1_accuracy"]["n"] == 400
    assert metrics["top1_accuracy"]["n_subjects"] == 200


@pytest.mark.parametrize(
    ("entry", "name"), [("macro_auroc", "macro_auroc"), ("top1_accuracy", "accuracy"), ("ovr_accuracy", "ovr_accuracy")]
)
def test_intervals_are_the_bootstraps(report, entry, name):
    y, p, groups, _ = case()
    p = p if name == "ovr_accuracy" else apply_temperature(p, 1.7)
    for key, level in (("interval_90", (5, 95)), ("interval_95", (2.5, 97.5))):
        interval = bootstrap_interval(name, y, p, groups, n_boot=200, level=level, seed=5)
        assert report[0]["metrics"][entry][key] == pytest.approx([interval.low, interval.high], abs=1e-12)
    assert report[0]["metrics"][entry]["n_undefined"] == interval.n_undefined


def test_per_class_rates_and_operating_points(report):
    y, given, groups, _ = case()
    p = apply_temperature(given, 1.7)
    found, points = report
    for k, name in enumerate(NAMES):
        entry, truth = found["per_class"][name], y == k
        assert entry["n"] == truth.sum()
        assert entry["n_subjects"] == len({groups[i] for i in np.flatnonzero(truth)})
        assert entry["auroc"]["estimate"] == pytest.approx(roc_auc_score(truth, p[:, k]))
        assert entry["ovr_sensitivity"]["estimate"] == pytest.approx(recall_score(truth, given[:, k] >= 0.18))
        assert entry["top1_sensitivity"]["estimate"] == pytest.approx(recall_score(truth, p.argmax(1) == k))
        assert entry["top1_specificity"]["estimate"] == pytest.approx(
            recall_score(truth, p.argmax(1) == k, pos_label=False)
        )
        assert entry["top1_sensitivity"]["n"] == truth.sum()
        assert entry["top1_specificity"]["n"] == (~truth).sum()
        limit = points[name]["threshold"]
        assert entry["operating_point"]["threshold"] == limit
        if limit is not None:
            assert entry["operating_point"]["sensitivity"]["estimate"] == pytest.approx(
                recall_score(truth, p[:, k] >= limit)
            )


def test_classes_of_few_subjects_get_no_interval_and_are_named(report):
    rare = report[0]["per_class"]["vascular"]
    assert rare["n_subjects"] < 10
    assert rare["auroc"]["estimate"] is not None
    assert rare["auroc"]["interval_90"] is None
    assert rare["auroc"]["reason"] == f"only {rare['n_subjects']} subjects with this class; no interval below 10"
    assert any(
        "fewer than 10 subjects with, or without" in text and f"vascular ({rare['n_subjects']} of 200)" in text
        for text in report[0]["warnings"]
    )
    assert not any("nevus" in text for text in report[0]["warnings"])
    assert report[0]["per_class"]["nevus"]["auroc"]["interval_90"] is not None


def test_a_class_without_operating_point_carries_the_reason():
    y, p, groups, _ = case(100)
    point = {"threshold": None, "sensitivity": None, "specificity": None}
    stored = {"vascular": {**point, "reason": "only 2 positive validation cases"}}
    found = classification_report(y, p, groups, NAMES, operating_points=stored, n_boot=10)["per_class"]
    assert found["vascular"]["operating_point"] == {**point, "reason": "only 2 positive validation cases"}
    assert found["nevus"]["operating_point"] == {**point, "reason": "no operating point was stored"}
    assert "operating_point" not in classification_report(y, p, groups, NAMES, n_boot=10)["per_class"]["nevus"]


def test_operating_points_hold_on_the_scaled_probabilities_only():
    y, p, groups, _ = case()
    points = {"nevus": {"threshold": 0.5}}
    for temperature, scaled in ((3.0, apply_temperature(p, 3.0)), (None, p)):
        report = classification_report(y, p, groups, NAMES, operating_points=points, temperature=temperature, n_boot=10)
        found = report["per_class"]["nevus"]["operating_point"]["sensitivity"]["estimate"]
        assert found == pytest.approx(recall_score(y == 0, scaled[:, 0] >= 0.5))
    assert recall_score(y == 0, p[:, 0] >= 0.5) != recall_score(y == 0, apply_temperature(p, 3.0)[:, 0] >= 0.5)


def test_calibration_before_and_after(report):
    y, p, *_ = case()
    calibration = report[0]["calibration"]
    assert calibration["temperature"] == 1.7
    assert calibration["before"]["ece"] == pytest.approx(expected_calibration_error(p, y))
    assert calibration["after"]["ece"] == pytest.approx(expected_calibration_error(apply_temperature(p, 1.7), y))
    assert sum(calibration["before"]["curve"]["count"]) == 400
    plain = classification_report(y, p, None, NAMES, n_boot=10)["calibration"]
    assert plain["after"] is None
    assert plain["reason"] == "no temperature was fitted"


def test_confusion_counts_every_case(report):
    y, p, *_ = case()
    matrix = np.array(report[0]["confusion_matrix"])
    assert matrix.sum(axis=1).tolist() == [int((y == k).sum()) for k in range(4)]
    assert matrix[1, 0] == ((y == 1) & (p.argmax(1) == 0)).sum()


def test_subgroups_are_the_report_of_their_cases(report):
    y, p, groups, columns = case()
    table = report[0]["subgroups"]
    assert list(table) == ["age", "sex", "site"]
    assert list(table["age"]) == ["30-39", "40-49", "50-59", "60-69", "70-79", "unknown"]
    women = [i for i in range(400) if columns["sex"][i] == "female"]
    entry = table["sex"]["female"]
    assert entry["n"] == len(women)
    interval = bootstrap_interval("accuracy", y[women], p[women], [groups[i] for i in women], n_boot=200, seed=5)
    assert entry["metrics"]["top1_accuracy"]["estimate"] == pytest.approx(interval.estimate)
    assert entry["metrics"]["top1_accuracy"]["interval_90"] == pytest.approx([interval.low, interval.high])
    assert table["site"]["rare clinic"] == {
        "n": 8,
        "n_subjects": 4,
        "metrics": None,
        "reason": "only 4 subjects; no interval below 10",
    }


def test_without_subject_ids_it_warns():
    y, p, *_ = case(60)
    report = classification_report(y, p, None, NAMES, n_boot=10)
    assert report["n_subjects"] == 60
    assert "no subject ids: each case counts as its own subject, intervals may be too narrow" in report["warnings"]


def test_a_tiny_test_set_gets_estimates_without_intervals():
    y, p, groups, _ = case(12)
    report = classification_report(y, p, groups, NAMES, n_boot=20)
    top1 = report["metrics"]["top1_accuracy"]
    assert top1["estimate"] is not None
    assert top1["interval_90"] is top1["interval_95"] is None
    assert top1["reason"] == "only 6 subjects; no interval below 10"


def test_one_class_only():
    p = case(40)[1]
    report = classification_report(np.zeros(40, int), p, None, NAMES, n_boot=20)
    json.dumps(report, allow_nan=False)
    assert report["metrics"]["macro_auroc"]["estimate"] is None
    assert report["metrics"]["macro_auroc"]["n_classes"] == 0
    assert report["metrics"]["macro_auroc"]["reason"].startswith("undefined on these cases")
    assert any(text.startswith("macro_auroc is undefined") for text in report["warnings"])
    assert report["per_class"]["melanoma"]["n"] == 0
    assert report["per_class"]["melanoma"]["auroc"]["estimate"] is None


def test_means_say_how_many_classes_entered():
    y, p, *_ = case(60)
    found = classification_report(np.minimum(y, 1), p, None, NAMES, n_boot=10)["metrics"]
    number = {name: entry["n_classes"] for name, entry in found.items() if "n_classes" in entry}
    assert number == {
        "macro_auroc": 2,
        "ovr_accuracy": 4,  # an absent class can still be called wrongly
        "ovr_sensitivity": 2,
        "ovr_specificity": 4,
        "balanced_top1_accuracy": 2,
    }


def test_many_undefined_resamples_are_warned_of():
    y, p, *_ = case(60, weights=(0.7, 0.28, 0.01, 0.01), seed=3)
    y[:] = np.minimum(y, 1)
    y[0] = 2
    report = classification_report(y, p, None, NAMES, n_boot=300)
    dropped = report["metrics"]["macro_auroc"]["n_undefined"]
    assert dropped == pytest.approx(300 / math.e, abs=40)  # one case of class 2 among 60: absent from (1 - 1/60)^60
    assert report["metrics"]["macro_auroc"]["n_classes"] == 3
    assert (
        f"macro_auroc: {dropped} of 300 resamples lack a class and were dropped; the interval describes the others"
        in (report["warnings"])
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_names": ["a", "b"]}, "2 class names"),
        ({"y_true": [9] * 20}, "y_true holds labels 9; expected class indices 0 to 3"),
        ({"y_true": [0] * 3}, "y_true has 3, probabilities has 20"),
        ({"groups": ["a"] * 3}, "groups has 3 entries for 20 cases"),
        ({"columns": {"sex": ["f"] * 3}}, "y_true has 20, column 'sex' has 3"),
        ({"operating_points": {"mole": {"threshold": 0.3}}}, r"operating points for \['mole'\], which are no classes"),
        ({"threshold": 2}, "threshold is 2; expected a number from 0 to 1"),
        ({"probabilities": np.full((20, 4), 3.0)}, "probabilities are not probabilities"),
    ],
)
def test_errors(change, message):
    y, p, groups, _ = case(20)
    arguments = {"y_true": y, "probabilities": p, "groups": groups, "class_names": NAMES, "n_boot": 5, **change}
    with pytest.raises(ValueError, match=message):
        classification_report(**arguments)


def test_1000_cases_of_7_classes_with_three_columns_take_seconds():
    random = np.random.default_rng(0)
    y, p = random.choice(7, 1000), random.dirichlet(np.ones(7), 1000)
    columns = {"age": list(random.integers(0, 90, 1000)), "sex": ["f", "m"] * 500, "site": list("abcdefghij") * 100}
    start = time.perf_counter()
    classification_report(y, p, list(range(1000)), list("abcdefg"), columns=columns)
    assert time.perf_counter() - start < 5  # 0.5 s on an idle core


@pytest.mark.real
def test_columns_of_a_real_dataset(real_data):
    with open(real_data / "ham10000" / "metadata.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    names = sorted({row["dx"] for row in rows})
    y = np.array([names.index(row["dx"]) for row in rows])
    p = np.random.default_rng(0).dirichlet(np.ones(len(names)), len(rows))
    columns = {
        "age": [float(row["age"]) if row["age"] else None for row in rows],
        "sex": [row["sex"] for row in rows],
        "localization": [row["localization"] for row in rows],
    }
    report = classification_report(y, p, [row["lesion_id"] for row in rows], names, columns=columns, n_boot=50)
    json.dumps(report, allow_nan=False)
    for column in columns:
        assert sum(entry["n"] for entry in report["subgroups"][column].values()) == len(rows)
    assert all(key == "unknown" or "-" in key for key in report["subgroups"]["age"])
