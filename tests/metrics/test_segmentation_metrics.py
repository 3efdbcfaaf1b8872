"""Scores of organs and their report, computed another way: surfaces by hand, means by loops."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.ndimage import binary_erosion
from scipy.spatial.distance import cdist

from medssl_monai.metrics import OrganScore, organ_scores, segmentation_distributions, segmentation_report
from medssl_monai.metrics.resampling import Resampler

ORGANS = {63: "liver", 126: "right kidney"}
AFFINE = np.array([[-1.5, 0, 0, 10], [0, 2.0, 0, -5], [0, 0, 7.0, 3], [0, 0, 0, 1]])


def surface(mask: np.ndarray) -> np.ndarray:
    return np.argwhere(mask & ~binary_erosion(mask)) * np.array([1.5, 2.0, 7.0])


def hd95(one: np.ndarray, two: np.ndarray) -> float:
    distances = cdist(surface(one), surface(two))
    return max(np.percentile(distances.min(axis=1), 95), np.percentile(distances.min(axis=0), 95))


def balls() -> tuple[np.ndarray, np.ndarray]:
    grid = np.moveaxis(np.indices((24, 20, 9)), 0, -1)
    truth = np.zeros((24, 20, 9), dtype=np.uint8)
    truth[((grid - [8, 8, 4]) ** 2 / [36, 36, 4]).sum(-1) < 1] = 63
    truth[((grid - [18, 14, 5]) ** 2 / [16, 16, 9]).sum(-1) < 1] = 126
    prediction = np.roll(truth, (2, -1, 1), axis=(0, 1, 2))
    prediction[0, 0, 0] = 63  # a speck at the corner of the volume
    return prediction, truth


def test_scores_equal_those_by_hand() -> None:
    prediction, truth = balls()
    found = organ_scores(prediction, truth, ORGANS, AFFINE)
    assert [one.organ for one in found] == ["liver", "right kidney"]
    for one, value in zip(found, ORGANS):
        p, t = prediction == value, truth == value
        assert one.case == "both"
        assert one.dice == pytest.approx(2 * (p & t).sum() / (p.sum() + t.sum()), abs=1e-6)
        assert one.hd95_mm == pytest.approx(hd95(p, t), rel=1e-5)
        assert one.volume_ml == pytest.approx(p.sum() * 1.5 * 2 * 7 / 1000)
        assert one.volume_error_ml == pytest.approx((p.sum() - t.sum()) * 0.021)
        assert one.volume_error_percent == pytest.approx(100 * (p.sum() / t.sum() - 1))


def test_a_tilted_gantry_changes_volumes_by_the_determinant() -> None:
    _, truth = balls()
    sheared = AFFINE.copy()
    sheared[1, 2] = 3.0
    upright, tilted = (organ_scores(truth, truth, ORGANS, one)[0] for one in (AFFINE, sheared))
    assert tilted.volume_ml == pytest.approx(upright.volume_ml)


@pytest.mark.parametrize(
    ("predicted", "true", "case", "dice"),
    [
        (True, True, "both", 1.0),
        (False, True, "missed", 0.0),
        (True, False, "invented", 0.0),
        (False, False, "absent", None),
    ],
)
def test_empty_organs_are_defined(predicted: bool, true: bool, case: str, dice: float | None) -> None:
    maps = np.zeros((2, 6, 6, 3), dtype=np.int16)
    maps[0, 2:4, 2:4, 1], maps[1, 2:4, 2:4, 1] = 63 * predicted, 63 * true
    (one,) = organ_scores(maps[0], maps[1], {63: "liver"}, AFFINE)
    assert (one.case, one.dice) == (case, dice)
    assert one.hd95_mm == (0.0 if case == "both" else None)
    assert one.volume_ml == pytest.approx(predicted * 4 * 0.021)
    expected = {"both": 0.0, "missed": -100.0}.get(case)
    assert one.volume_error_percent == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prediction": np.zeros((4, 4, 4))}, r"prediction: expected whole numbers \(X, Y, Z\), got float64"),
        ({"truth": np.zeros((4, 4), dtype=int)}, r"truth: expected whole numbers .* of shape \(4, 4\)"),
        ({"truth": np.zeros((4, 4, 5), dtype=int)}, r"prediction has shape \(4, 4, 4\), the truth \(4, 4, 5\)"),
        ({"organs": {}}, "organs: expected names of values from 1 on"),
        ({"organs": {0: "background"}}, "organs: expected names of values from 1 on"),
        ({"affine": np.zeros((4, 4))}, "affine: expected .* three independent axes"),
    ],
)
def test_what_cannot_be_scored_is_said(change: dict, message: str) -> None:
    empty = np.zeros((4, 4, 4), dtype=int)
    given = {"prediction": empty, "truth": empty, "organs": ORGANS, "affine": AFFINE, **change}
    with pytest.raises(ValueError, match=message):
        organ_scores(**given)


def rows(seed: int = 0, number: int = 14) -> list[list[OrganScore]]:
    """Scores of scans: the spleen is absent from two, missed in one and invented in one."""
    random = np.random.default_rng(seed)
    found = []
    for scan in range(number):
        one = [OrganScore("liver", "both", *random.random(2), *(100 * random.random(2)))]
        kind = {3: "absent", 7: "absent", 5: "missed", 9: "invented"}.get(scan, "both")
        dice = {"both": random.random(), "absent": None}.get(kind, 0.0)
        volumes = [0.0 if kind in (empty, "absent") else 50 * random.random() for empty in ("missed", "invented")]
        one.append(OrganScore("spleen", kind, dice, random.random() if kind == "both" else None, *volumes))
        found.append(one)
    return found


def mean(table: list[list[OrganScore]], organ: int, figure: str) -> float:
    values = [getattr(row[organ], figure) for row in table]
    return float(np.mean([abs(value) for value in values if value is not None]))


def test_report_gives_means_over_scans_then_over_organs() -> None:
    table = rows()
    report = segmentation_report(table, None, n_boot=50)
    json.dumps(report, allow_nan=False)
    for figure in ("dice", "hd95_mm", "volume_error_ml", "volume_error_percent"):
        single = [mean(table, organ, figure) for organ in (0, 1)]
        for name, value in zip(("liver", "spleen"), single):
            assert report["per_class"][name][figure]["estimate"] == pytest.approx(value)
        assert report["metrics"][f"mean_{figure}"]["estimate"] == pytest.approx(np.mean(single))
    bias = np.mean([row[1].volume_ml - row[1].true_volume_ml for row in table])
    spleen = report["per_class"]["spleen"]
    assert spleen["volume_bias_ml"]["estimate"] == pytest.approx(bias)
    assert spleen["cases"] == {"both": 10, "missed": 1, "invented": 1, "absent": 2}
    assert (spleen["n"], spleen["dice"]["n"], spleen["hd95_mm"]["n"]) == (11, 12, 10)
    said = " ".join(report["warnings"])
    assert "each scan counts as its own subject" in said
    assert "left empty where the truth shows it: Dice 0, and no HD95; scans by organ: spleen (1)" in said
    assert "in neither truth nor prediction: no Dice" in said
    assert "predicted where the truth is empty" in said


def test_intervals_resample_subjects() -> None:
    table = rows(number=24)
    subjects = [f"subject:{scan // 2}" for scan in range(24)]
    report = segmentation_report(table, subjects, n_boot=400, seed=3)
    entry = report["metrics"]["mean_dice"]
    assert (entry["n"], entry["n_subjects"], report["n_subjects"]) == (24, 12, 12)
    # the same resamples by a loop: draws of 12 subjects, means over what they hold
    codes = sorted(set(subjects))
    weights = np.concatenate(list(Resampler(24, [codes.index(one) for one in subjects], 400, 3).blocks()), axis=1)
    values = []
    for column in weights.T.astype(int):
        drawn = [row for row, times in zip(table, column) for _ in range(times)]
        values.append(np.mean([mean(drawn, organ, "dice") for organ in (0, 1)]))
    assert entry["interval_95"] == pytest.approx(np.percentile(values, (2.5, 97.5)).tolist())
    assert entry["interval_90"] == pytest.approx(np.percentile(values, (5, 95)).tolist())


def test_few_subjects_get_no_interval_and_a_figure_without_scan_says_so() -> None:
    table = [[OrganScore("liver", "missed", 0.0, None, 0.0, 5.0)] for _ in range(12)]
    report = segmentation_report(table, [f"subject:{k % 9}" for k in range(12)], n_boot=20)
    assert report["metrics"]["mean_dice"]["interval_90"] is None
    assert report["metrics"]["mean_dice"]["reason"] == "only 9 subjects; no interval below 10"
    hd95 = report["per_class"]["liver"]["hd95_mm"]
    assert (hd95["estimate"], hd95["n"], hd95["reason"]) == (None, 0, "defined for no scan")
    assert "mean_hd95_mm is undefined: defined for no scan" in report["warnings"]


def test_two_models_share_their_resamples() -> None:
    one, two = (segmentation_distributions(rows(seed), list(range(14)), n_boot=100) for seed in (0, 1))
    difference = one["dice", ""] - two["dice", ""]
    assert difference.estimate == pytest.approx(
        np.mean([mean(rows(0), organ, "dice") - mean(rows(1), organ, "dice") for organ in (0, 1)])
    )
    assert len(difference.values) == 100


def test_subgroups() -> None:
    columns = {"sex": ["f"] * 12 + ["m"] * 2}
    report = segmentation_report(rows(), list(range(14)), columns=columns, n_boot=20)
    women, men = (report["subgroups"]["sex"][one] for one in ("f", "m"))
    assert women["metrics"]["mean_dice"]["estimate"] == pytest.approx(
        np.mean([mean(rows()[:12], organ, "dice") for organ in (0, 1)])
    )
    assert men["metrics"] is None


def test_scans_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="no scan was scored"):
        segmentation_report([], None)
    with pytest.raises(ValueError, match=r"scan 1 has organs \['spleen'\]; expected \['liver'\]"):
        segmentation_report([rows()[0][:1], rows()[0][1:]], None)
    with pytest.raises(ValueError, match="groups has 3 entries for 14 cases"):
        segmentation_report(rows(), [1, 2, 3])
    with pytest.raises(ValueError, match="column 'sex' has 1"):
        segmentation_report(rows(), None, columns={"sex": ["f"]})
