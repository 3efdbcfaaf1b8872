"""House rules: the shared vocabulary, the overlays that rest on it, and the study."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medssl_monai.apps._protocols import PROTOCOLS, protocol_advice
from medssl_monai.apps.bundle_check.report import Problem
from medssl_monai.apps.bundle_check.source import Bundle, ConfigFile, Stage, plain_id, read_config
from medssl_monai.apps.run import VOCABULARY, check_keys
from medssl_monai.apps.study.definition import ARM_KEYS, ORGAN_CLAIMS
from medssl_monai.core import ConfigError, did_you_mean
from medssl_monai.metrics.comparison import HEADLINE

_STUDY_KEYS = ("arms", "baseline_arm", "primary_arm", "primary_metric")


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
        return
    if bundle.root.name.endswith("_segmentation") and metric not in ORGAN_CLAIMS:
        what = f"{metric!r} is no figure that claims of studies of organs may be about"
        yield file.problem("house", "primary_metric", what, did_you_mean(metric, ORGAN_CLAIMS).strip())
        return
    if not bundle.root.name.endswith("_classification"):
        return
    every = [*HEADLINE, *(f"{protocol}/{name}" for protocol in PROTOCOLS for name in HEADLINE)]
    if metric not in every:
        what = f"{metric!r} is no figure that studies of classifiers compute"
        yield file.problem("house", "primary_metric", what, did_you_mean(metric, every).strip())
        return
    protocol = metric.rpartition("/")[0]
    content = file.content or {}
    for key in ("baseline_arm", "primary_arm"):
        arm = content["arms"].get(content.get(key))
        if not isinstance(arm, dict) or not isinstance(arm.get("stages"), list):
            continue  # told where the arm is looked at
        judged = protocol in (arm.get("protocols") or []) if protocol else "evaluate" in arm["stages"]
        if not judged and (protocol or arm.get("protocols")):  # an arm without both is told of where it stands
            what = f"{metric!r} is not computed for the {key}"
            mend = f"Name {protocol!r} among its protocols." if protocol else "Let its stages end in 'evaluate'."
            yield file.problem("house", "primary_metric", what, mend)


def _arm_problems(bundle: Bundle, file: ConfigFile, place: str, arm: Any) -> Iterator[Problem]:
    protocols = arm.get("protocols") if isinstance(arm, dict) else None
    if not isinstance(arm, dict) or not isinstance(arm.get("stages"), list) or not (arm["stages"] or protocols):
        mend = "Name them in order, 'evaluate' last; or protocols that judge the encoder as it starts, with stages: []."
        yield file.problem("house", place, "has no list of stages", mend)
        return
    for key in arm:
        if key not in ARM_KEYS:
            yield file.problem("house", f"{place}::{key}", "unknown key", did_you_mean(str(key), ARM_KEYS).strip())
    for stage in arm["stages"]:
        if stage not in bundle.configs or stage == "study":
            near = did_you_mean(str(stage), set(bundle.configs) - {"study"}).strip()
            yield file.problem("house", f"{place}::stages", f"there is no stage {stage!r}", near)
    if arm["stages"] and arm["stages"][-1] != "evaluate" and not protocols:
        what = f"ends with {arm['stages'][-1]!r}, so nothing is measured"
        yield file.problem("house", f"{place}::stages", what, "Let 'evaluate' be the last, or name protocols.")
    yield from _protocol_problems(bundle, file, place, arm)
    yield from _override_problems(bundle, file, place, arm)


def _protocol_problems(bundle: Bundle, file: ConfigFile, place: str, arm: dict[str, Any]) -> Iterator[Problem]:
    protocols = arm.get("protocols") or []
    if not isinstance(protocols, list):
        yield file.problem("house", f"{place}::protocols", f"is {protocols!r}, no list", "Write [knn] or the like.")
        protocols = []
    for name in protocols:
        if name not in PROTOCOLS:
            what = f"no protocol is called {name!r}"
            yield file.problem("house", f"{place}::protocols", what, protocol_advice(name))
    if protocols and "inference" not in bundle.configs:
        what = "protocols embed images by the stage inference, which this bundle lacks"
        yield file.problem("house", f"{place}::protocols", what, "Add configs/inference.yaml, or leave the list empty.")
    shared = arm.get("shared_pretrain", False)
    if not isinstance(shared, bool) or (shared and arm["stages"][:1] != ["pretrain"]):
        what = f"is {shared!r} with stages {arm['stages']!r}"
        mend = "It is true or false, and true only where pretrain is the first stage and uses no labels."
        yield file.problem("house", f"{place}::shared_pretrain", what, mend)


def _override_problems(bundle: Bundle, file: ConfigFile, place: str, arm: dict[str, Any]) -> Iterator[Problem]:
    overrides = arm.get("overrides", {})
    if not isinstance(overrides, dict):
        yield file.problem("house", f"{place}::overrides", "is no mapping", "Write key: value.")
        return
    builds = "pretrain" if "pretrain" in bundle.configs else "train"  # without stages: what builds the encoder
    wanted = [*(arm["stages"] or [builds]), *(["inference"] if arm.get("protocols") else [])]
    stages = [stage for stage in wanted if stage in bundle.stages]
    if len(stages) < len(wanted):
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
