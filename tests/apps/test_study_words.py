"""What a study says of its claims and of annotation saved, in every case that can come."""

from __future__ import annotations

from typing import Any

import pytest

from medssl_monai.apps.study.words import claim_text, saved_text


def claim(estimate: float | None, p: float | None = None, p_holm: float | None = None, **more: Any) -> dict[str, Any]:
    interval = None if p is None else [estimate - 0.1, estimate + 0.1]  # type: ignore[operator]
    return {
        "budget": "5pct", "metric": "macro_auroc", "p": p, "p_holm": p_holm, "note": None,
        "seed_differences": [0.1, 0.2],
        "difference": {"estimate": estimate, "interval_90": interval, "interval_95": interval}, **more,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("entry", "n_claims", "expected"),
    [
        (
            claim(0.2, 0.01, 0.03), 3,
            "5pct: srcl - sup, macro AUROC +0.200 (95 % interval +0.100 to +0.300, mean of 2 seeds; p = 0.010, "
            "p = 0.030 corrected for 3 budgets (Holm)): srcl is better.",
        ),
        (
            claim(-0.2, 0.0004, 0.0004, seed_differences=[-0.2]), 1,
            "5pct: srcl - sup, macro AUROC -0.200 (95 % interval -0.300 to -0.100, one seed; p < 0.001): "
            "srcl is worse.",
        ),
        # significant alone, but not among the budgets
        (
            claim(0.05, 0.03, 0.09), 3,
            "5pct: srcl - sup, macro AUROC +0.050 (95 % interval -0.050 to +0.150, mean of 2 seeds; p = 0.030, "
            "p = 0.090 corrected for 3 budgets (Holm)): no difference can be shown.",
        ),
        (
            claim(0.2, note="only 6 subjects; no interval below 10"), 1,
            "5pct: srcl - sup, macro AUROC +0.200, mean of 2 seeds; no interval "
            "(only 6 subjects; no interval below 10).",
        ),
        (
            claim(None, note="no seed is complete in both arms"), 2,
            "5pct: srcl - sup, macro AUROC: not known (no seed is complete in both arms).",
        ),
    ],
)  # fmt: skip
def test_claims(entry: dict[str, Any], n_claims: int, expected: str) -> None:
    assert claim_text(entry, "srcl", "sup", n_claims) == expected


@pytest.mark.parametrize(
    ("n_undefined", "said"), [(100, ""), (101, "; 5% of the resamples lack a class and are left out")]
)
def test_dropped_resamples_are_said_above_a_twentieth(n_undefined: int, said: str) -> None:
    entry = claim(0.2, 0.01, 0.01, n_undefined=n_undefined, n_resamples=2000)
    assert f"mean of 2 seeds; p = 0.010{said}): srcl is better." in claim_text(entry, "srcl", "sup", 1)


def test_a_doubt_takes_the_verdict_s_place() -> None:
    text = claim_text(claim(0.2, 0.01, 0.01), "srcl", "sup", 1, "neither is shown to be better than chance")
    assert text.endswith("p = 0.010): cannot be judged, neither is shown to be better than chance.")
    entry = {"budget": "10pct", "labels": 90, "labels_full": 900, "saved_fraction": 0.9, "margin": 0.01}
    assert saved_text("srcl", entry, "sup", "macro_auroc", "trial run") == "srcl: cannot be said, trial run."


def test_annotation_saved() -> None:
    none = {"budget": None, "labels": None, "labels_full": 900, "saved_fraction": None, "margin": 0.01}
    assert saved_text("srcl", {**none, "larger_insufficient": []}, "sup", "macro_auroc") == (
        "srcl: at no budget is the macro AUROC shown to be within 0.01 of sup with all 900 labels."
    )
    some = {"budget": "10pct", "labels": 90, "labels_full": 900, "saved_fraction": 0.9, "margin": 0.01}
    text = saved_text("srcl", {**some, "larger_insufficient": ["20pct"]}, "sup", "top1_accuracy")
    assert text == (
        "srcl: with 90 labels (10pct) the accuracy is at most 0.01 below sup with all 900 labels (lower end of the "
        "90 % interval): 90% of the labels saved. Doubtful: the larger 20pct does not show it."
    )
