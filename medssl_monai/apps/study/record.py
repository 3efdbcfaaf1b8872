"""``study.json``: the plan and its state when a study starts, the results when it ends."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from medssl_monai.apps.arms import arm_code, arm_seconds
from medssl_monai.apps.study.definition import ALL_LABELS
from medssl_monai.apps.study.plan import Plan, Run
from medssl_monai.apps.study.results import (
    Results,
    claims,
    exploratory,
    saved_annotation,
    summarise,
)
from medssl_monai.apps.study.words import saved_text
from medssl_monai.core import bundle_dir, read_json
from medssl_monai.core.environment import describe_hardware, versions
from medssl_monai.metrics.report_entries import MIN_SUBJECTS
from medssl_monai.visualize.report.verdicts import data_warnings, saved_doubt
from medssl_monai.visualize.report.words import label_noun, plural

FORMAT = 1
#: below this number of test subjects the 95 % interval of a share near 0.5 is wider than 0.2
_FEW_SUBJECTS = 100
#: below this number of seeds their spread is hardly known
_FEW_SEEDS = 3
#: labels used for each one asked for, from which on it is said
_OVERSPENT = 1.1


def study_record(
    plan: Plan,
    stored: Mapping[str, Any] | None,
    folder: Path,
    state: Mapping[Run, bool],
    failed: Collection[Run],
    results: Results | None,
    command: Sequence[str],
) -> dict[str, Any]:
    """The content of ``study.json``.

    Args:
        plan: what this call asks for.
        stored: ``study.json`` as an earlier call left it: its budgets, arms and seeds stay part of the study as far as
            runs of them are complete.
        folder: the study's folder.
        state: each run of the study and whether it is complete; those of this call and complete older ones.
        failed: runs that ended with an error (their logs say which; messages may name cases).
        results: of the complete runs, ``None`` where there are none.
        command: the command line.
    """
    definition = plan.definition
    seen = {run.budget for run in state}
    older = {b["name"]: b for b in (stored or {}).get("budgets", []) if b["name"] in seen - set(plan.budgets)}
    entries = [*older.values(), *(_budget_entry(plan, name) for name in plan.budgets)]
    budgets = sorted(entries, key=lambda entry: int(entry["n_labels_training"] + entry["n_labels_validation"]))
    arms = list(dict.fromkeys(run.arm for run in state))
    content: dict[str, Any] = {
        "format": FORMAT,
        **plan.settings(),
        "bundle_version": read_json(bundle_dir(plan.bundle) / "configs" / "metadata.json").get("version"),
        "task": plan.datalist.task,
        "class_names": list(plan.datalist.organs.values()) or plan.datalist.class_names,
        "primary_metric": definition.primary_metric,
        "primary_arm": definition.primary_arm,
        "budgets": budgets,
        "seeds": sorted({run.seed for run in state}),
        "arms": {
            **{name: arm for name, arm in (stored or {}).get("arms", {}).items() if name in arms},
            **plan.settings()["arms"],
        },
        "n_test": None if results is None else results.n_test,
        "n_test_subjects": None if results is None else results.n_test_subjects,
        "majority_accuracy": None if results is None else results.majority_accuracy,
        "runs": [
            {
                "arm": run.arm, "budget": run.budget, "seed": run.seed, "folder": run.folder, "complete": complete,
                "seconds": round(arm_seconds(folder / run.folder), 1), "failed": run in failed,
            }
            for run, complete in state.items()
        ],
        **_comparisons(plan, results, budgets, arms, state),
        "command": shlex.join(command),
        "code": _code(folder, state),
        "versions": versions(),
        "hardware": describe_hardware(),
        "complete": all(state.values()),
    }  # fmt: skip
    doubt, baseline = saved_doubt(content), definition.baseline_arm
    for arm, entry in content["annotation_saved"].items():
        entry["text"] = saved_text(arm, entry, baseline, definition.primary_metric, doubt, label_noun(content))
    content["warnings"] = _warnings(content, results)
    return content


def _budget_entry(plan: Plan, name: str) -> dict[str, Any]:
    return {
        "name": name,
        **plan.budgets[name].overrides,
        "n_labels_training": plan.n_labels[name][0],
        "n_labels_validation": plan.n_labels[name][1],
        "n_labels_requested": plan.n_requested[name],
        "enough_validation": plan.checks[name],
    }


def _comparisons(
    plan: Plan, results: Results | None, budgets: Sequence[Mapping[str, Any]], arms: Sequence[str],
    state: Mapping[Run, bool],
) -> dict[str, Any]:  # fmt: skip
    if results is None:
        return {"summary": [], "claims": [], "exploratory": [], "annotation_saved": {}}
    definition, metric = plan.definition, plan.definition.primary_metric
    baseline, primary = definition.baseline_arm, definition.primary_arm
    names = [entry["name"] for entry in budgets]
    claimed = [name for name in names if {primary, baseline} <= {run.arm for run in state if run.budget == name}]
    saved = {}
    for arm in arms:
        entry = saved_annotation(results, names, arm, baseline, ALL_LABELS.name, metric)
        if entry is not None:
            saved[arm] = entry
    return {
        "summary": summarise(results, [(arm, name) for name in names for arm in arms]),
        "claims": claims(results, claimed, primary, baseline, metric),
        "exploratory": exploratory(results, names, arms, primary, baseline, metric),
        "annotation_saved": saved,
    }


def _code(folder: Path, state: Mapping[Run, bool]) -> list[str]:
    return list(dict.fromkeys(version for run in state for version in arm_code(folder / run.folder)))


def _warnings(content: Mapping[str, Any], results: Results | None) -> list[str]:
    """What limits the results, in words."""
    found = []
    if "smoke" in {Path(name).stem for name in content["overlays"]}:
        found.append("the overlay smoke is for trying things out: the figures mean nothing")
    if not content["complete"]:
        missing = sum(not run["complete"] for run in content["runs"])
        found.append(f"{missing} of {len(content['runs'])} runs are not complete")
    if len(content["seeds"]) == 1:
        found.append("a single seed: how much the figures vary from one training to the next is not known")
    elif len(content["seeds"]) < _FEW_SEEDS:
        found.append(
            f"only {len(content['seeds'])} seeds: how much the figures vary from one training to the next is hardly "
            "known"
        )
    if results is not None:
        uneven = {
            (run.arm, run.budget) for run in results.figures
            if len(results.seeds(run.arm, run.budget)) < len(content["seeds"])
        }  # fmt: skip
        found += [f"{arm} at {budget} has fewer seeds than the study" for arm, budget in sorted(uneven)]
    for budget in content["budgets"]:
        used, asked = budget["n_labels_training"] + budget["n_labels_validation"], budget["n_labels_requested"]
        if used > _OVERSPENT * asked:
            found.append(
                f"{budget['name']}: asked for {plural(asked, label_noun(content))}, {used} are used: subjects are not "
                "divided, and every class needs one"
            )
        # of organs without validation labels nothing was to be chosen by any
        if not budget["enough_validation"] and (budget["n_labels_validation"] or content["task"] != "segmentation"):
            found.append(
                f"{budget['name']}: {budget['n_labels_validation']} validation labels are too few to choose a "
                "checkpoint, a threshold or a temperature by; the last epoch's network is kept"
            )
    found += data_warnings(content)
    if results is not None:
        found += _test_set_warnings(results)
    if len(content["code"]) > 1:
        found.append(
            f"runs were made by {len(content['code'])} states of the code or of the bundle's configuration "
            f"({', '.join(content['code'])}); remove a run's folder to run it again"
        )
    return found


def _test_set_warnings(results: Results) -> list[str]:
    found = []
    if not results.has_subjects:
        images = "scans" if results.organs else "images"
        found.append(f"the test {images} name no subjects: each counts as its own, intervals may be too narrow")
    if results.n_test_subjects < _FEW_SUBJECTS:
        found.append(f"a tiny test set, {results.n_test_subjects} subjects: intervals are wide and rough")
    few = [name for name in results.class_names if name in results.withheld]
    if few:
        counts = ", ".join(f"{name} ({results.class_subjects[name]})" for name in few)
        found.append(
            f"fewer than {MIN_SUBJECTS} test subjects with the organ: {counts}; "
            "no interval is given for these organs, and means over organs rest on them too"
            if results.organs
            else f"fewer than {MIN_SUBJECTS} test subjects with, or without, the class: {counts}; "
            "no interval is given for these classes, and means over classes rest on them too"
        )
    seen = {run: report.get("n_subjects_seen_in_training", 0) for run, report in results.reports.items()}
    if any(seen.values()):
        run = next(run for run, number in seen.items() if number)
        found.append(f"{seen[run]} test subjects were seen in training ({run}): the figures are too good")
    if any(number is None for number in seen.values()):
        found.append("whether test subjects were seen in training is not known for every run (another hash key)")
    return found
