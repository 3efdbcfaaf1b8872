"""What a study's figures allow to be said: one rule for the page and for the words in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medssl_monai.metrics.report_entries import MIN_SUBJECTS
from medssl_monai.visualize.report.words import label_noun, metric_name, plural

HELPED, WORSE, OPEN, UNKNOWN = "helped", "worse", "open", "unknown"
_LEVEL = 0.05
#: what a classifier that knows nothing reaches
_CHANCE = {"macro_auroc": 0.5, "auroc": 0.5}
#: share of undefined resamples above which it is said
_FEW_DROPPED = 0.05
#: below this number of validation labels the best of several epochs is largely chance
_FEW_VALIDATION = 50
_TRIAL = "trial run (overlay smoke): the figures mean nothing"

Row = Mapping[str, Any]


def verdict(study: Row, claim: Row) -> str:
    """Whether a difference is shown: the p value after Holm's correction over the budgets is below 0.05.

    Unknown where there is no p value, or a doubt (:func:`claim_doubt`).
    """
    middle, p = claim["difference"].get("estimate"), claim.get("p_holm")
    if middle is None or p is None or claim_doubt(study, claim):
        return UNKNOWN
    if p >= _LEVEL:
        return OPEN
    return HELPED if middle > 0 else WORSE


def study_doubt(study: Row) -> str | None:
    """Why no figure of a study answers its question: it was a trial run, or its test set shows too few subjects."""
    if "smoke" in {Path(str(name)).stem for name in study.get("overlays") or []}:
        return _TRIAL
    rows = [
        row for row in study.get("summary") or []
        if row.get("class") is not None and row["metric"].rpartition("/")[2] in ("auroc", "dice")
    ]  # fmt: skip
    names = {row["class"] for row in rows}
    few = {row["class"] for row in rows if not row.get("interval_95")}
    if names and 2 * len(few) > len(names):
        start = f"too few test subjects: {len(few)} of {len(names)}"
        if study.get("task") == "segmentation":
            return f"{start} organs are shown by fewer than {MIN_SUBJECTS} test subjects"
        return f"{start} classes have fewer than {MIN_SUBJECTS} test subjects with, or without, the class"
    return None


def claim_doubt(study: Row, claim: Row) -> str | None:
    """Why a claim cannot be judged: the study's doubt, or neither arm is shown to be better than chance."""
    arms = (study["primary_arm"], study["baseline_arm"])
    if all(at_chance(study, arm, claim["budget"]) for arm in arms):
        return study_doubt(study) or (
            f"neither {arms[0]} nor {arms[1]} is shown to be better than chance (both 95 % intervals of the "
            f"{metric_name(study['primary_metric'])} reach down to 0.5)"
        )
    return study_doubt(study)


def saved_doubt(study: Row) -> str | None:
    """Why annotation saved says nothing: the study's doubt, or the reference is not shown to be better than chance."""
    full = next((budget["name"] for budget in study["budgets"] if budget.get("label_fraction") == 1), None)
    doubt = study_doubt(study)
    if doubt is None and at_chance(study, study["baseline_arm"], full):
        doubt = f"the reference, {study['baseline_arm']} with all labels, is not shown to be better than chance"
    return doubt


def dropped_words(entry: Row) -> str:
    """Which share of the resamples an interval does without, where it is above 5 %; otherwise nothing."""
    undefined, drawn = entry.get("n_undefined"), entry.get("n_resamples")
    shown = entry.get("interval_95") or (entry.get("difference") or {}).get("interval_95")
    if not undefined or not drawn or not shown or undefined <= _FEW_DROPPED * drawn:
        return ""
    return f"{undefined / drawn:.0%} of the resamples lack a class and are left out"


def at_chance(study: Row, arm: str, budget: object) -> bool:
    """Whether the 95 % interval of an arm's primary metric holds what chance gives, or lies below it."""
    metric = study["primary_metric"]
    chance = _CHANCE.get(metric.rpartition("/")[2])
    for row in study.get("summary") or []:
        if (row["arm"], row["budget"], row["metric"], row.get("class")) == (arm, budget, metric, None):
            ends = row.get("interval_95")
            return chance is not None and bool(ends) and ends[0] <= chance
    return False


def data_warnings(study: Row) -> list[str]:
    """Few validation labels that chose the checkpoint, and a reference that more labels have not made better."""
    few = [
        f"{budget['name']} ({budget['n_labels_validation']})" for budget in study["budgets"]
        if budget.get("enough_validation") and budget["n_labels_validation"] < _FEW_VALIDATION
    ]  # fmt: skip
    found = []
    if few:
        found.append(
            f"fewer than {_FEW_VALIDATION} validation labels have chosen the checkpoint at {', '.join(few)}: another "
            "draw of them may choose a much better or worse one"
        )
    rows = (study.get("annotation_saved") or {}).get(study["baseline_arm"], {}).get("differences") or []
    largest = max(rows, key=lambda row: int(row["labels"]), default=None)
    ends = largest and largest["difference"]["interval_90"]
    # smaller budget minus all labels: all labels are shown to be better where the 90 % interval lies below 0
    if largest and ends and ends[1] >= 0:
        noun = label_noun(study)
        found.append(
            f"{study['baseline_arm']} with all {noun}s is not shown to be better than with "
            f"{plural(int(largest['labels']), noun)} ({largest['budget']}): annotation saved then says hardly anything "
            "about a method"
        )
    return found
