"""House rules: the shared vocabulary, the overlays that rest on it, and the study."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medssl_monai.apps.bundle_check.report import Problem
from medssl_monai.apps.bundle_check.source import Bundle, ConfigFile, Stage, plain_id, read_config
from medssl_monai.apps.run import VOCABULARY, check_keys
from medssl_monai.core import ConfigError, did_you_mean
from medssl_monai.metrics.comparison import HEADLINE

_STUDY_KEYS = ("arms", "baseline_arm", "primary_arm", "primary_metric")
_ARM_KEYS = ("stages", "overrides", "protocols")


def vocabulary_problems(stage: Stage) -> Iterator[Problem]:
    """Keys of the vocabulary that the stage lacks, so that an overlay would not fit."""
    for key in VOCABULARY:
        if key not in (stage.file.content or {}) and not stage.is_meant(key):
            what = "this key of the shared vocabulary is missing"
            yield stage.file.problem("house", key, what, "Define it, if only so that every overlay fits.")


def overlay_problems(folder: Path) -> list[Problem]:
    """Keys of the overlays in a folder that not every stage of every bundle would read."""
    problems = []
    for path in sorted(folder.rglob("*.y*ml")):
        file = read_config(path, folder)
        problems += file.problems
        for key in file.content or {}:
            if plain_id(str(key)) not in VOCABULARY:
                near = did_you_mean(str(key), VOCABULARY)
                what = "not a key of the shared vocabulary"
                mend = near.strip() if "Did you mean" in near else "Overlays set the vocabulary's keys only."
                problems.append(file.problem("house", str(key), what, mend))
    return problems


def study_problems(bundle: Bundle) -> Iterator[Problem]:
    """Arms whose stages do not exist, overrides that no stage reads, baselines and metrics that are none."""
    file = bundle.configs.get("study")
    if file is None or file.content is None:
        return
    study = file.content
    for key in study:
        if key not in _STUDY_KEYS:
            yield file.problem("house", str(key), "unknown key", did_you_mean(str(key), _STUDY_KEYS).strip())
    arms = study.get("arms")
    if not isinstance(arms, dict) or not arms:
        yield file.problem("house", "arms", "no arms", "Name them, each with its stages and overrides.")
        return
    for key in ("baseline_arm", "primary_arm"):
        if study.get(key) not in arms:
            what = f"{study[key]!r} is not an arm" if key in study else "the key is missing"
            yield file.problem("house", key, what, did_you_mean(str(study.get(key)), arms).strip())
    if study.get("baseline_arm") == study.get("primary_arm") and study.get("primary_arm") in arms:
        yield file.problem("house", "primary_arm", "is the baseline itself", "A study compares two arms.")
    yield from _metric_problems(bundle, file, study.get("primary_metric"))
    for name, arm in arms.items():
        yield from _arm_problems(bundle, file, f"arms::{name}", arm)


def _metric_problems(bundle: Bundle, file: ConfigFile, metric: Any) -> Iterator[Problem]:
    if not isinstance(metric, str):
        what = "the key is missing" if metric is None else f"is {metric!r}, not a name"
        yield file.problem("house", "primary_metric", what, "Name the figure that decides.")
    elif bundle.root.name.endswith("_classification") and metric not in HEADLINE:
        what = f"{metric!r} is no figure that studies of classifiers compute"
        yield file.problem("house", "primary_metric", what, did_you_mean(metric, HEADLINE).strip())


def _arm_problems(bundle: Bundle, file: ConfigFile, place: str, arm: Any) -> Iterator[Problem]:
    if not isinstance(arm, dict) or not isinstance(arm.get("stages"), list) or not arm["stages"]:
        yield file.problem("house", place, "has no list of stages", "Name them in order, 'evaluate' last.")
        return
    for key in arm:
        if key not in _ARM_KEYS:
            yield file.problem("house", f"{place}::{key}", "unknown key", did_you_mean(str(key), _ARM_KEYS).strip())
    stages = [stage for stage in arm["stages"] if stage in bundle.stages]
    for stage in arm["stages"]:
        if stage not in bundle.configs or stage == "study":
            near = did_you_mean(str(stage), set(bundle.configs) - {"study"}).strip()
            yield file.problem("house", f"{place}::stages", f"there is no stage {stage!r}", near)
    if arm["stages"][-1] != "evaluate":
        what = f"ends with {arm['stages'][-1]!r}, so nothing is measured"
        yield file.problem("house", f"{place}::stages", what, "Let 'evaluate' be the last.")
    if arm.get("protocols"):
        what = f"names {arm['protocols']!r}, and studies know no protocols yet"
        yield file.problem("house", f"{place}::protocols", what, "Leave the list empty.")
    overrides = arm.get("overrides", {})
    if not isinstance(overrides, dict):
        yield file.problem("house", f"{place}::overrides", "is no mapping", "Write key: value.")
        return
    if len(stages) < len(arm["stages"]):
        return  # a stage that does not exist or cannot be read may be the one that reads a key
    for key, value in overrides.items():
        if any(bundle.stages[stage].is_meant(str(key)) for stage in stages):
            continue
        refusals = [_refusal(bundle.stages[stage], str(key), value) for stage in stages]
        if refusals and all(refusals):
            close = [match[0] for text in refusals if (match := re.search(r"Did you mean .+?\?", text))]
            mend = close[0] if close else "Mend the name, or let a stage refer to it."
            yield file.problem("house", f"{place}::overrides::{key}", "no stage of the arm reads this key", mend)


def _refusal(stage: Stage, key: str, value: Any) -> str:
    try:
        check_keys(stage.file.content or {}, {key: value}, "the stage")
    except ConfigError as error:
        return str(error)
    return ""
