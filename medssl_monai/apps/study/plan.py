"""The plan of a study: which arm runs at which budget with which seed, where, and in which order."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from medssl_monai.apps._arm import Arm, reading_stages
from medssl_monai.apps.run import check_keys, resolve_config, stage_keys
from medssl_monai.apps.study.definition import ALL_LABELS, LabelBudget, StudyArm, StudyDefinition
from medssl_monai.core import ConfigError, bundle_dir, read_json
from medssl_monai.data import Budget, Datalist, evaluation_records, load_datalist, select_budget
from medssl_monai.data.datalist import FILE_NAME
from medssl_monai.data.fingerprint import dataset_fingerprint
from medssl_monai.data.label_choice import choose_labels
from medssl_monai.data.segmentation import segmentation_datalist

#: beside the budgets' folders of an arm: what all of them go on from
SHARED = "shared"
#: keys that the study itself sets for each run
_OWN_KEYS = (
    "dataset_dir", "label_fraction", "label_budget", "seed", "resume", "bundle_root", "ckpt_dir", "output_dir",
)  # fmt: skip
#: settings that may not differ between two calls on one folder
_FIXED = ("bundle", "data_fingerprint", "baseline_arm", "overlays", "overrides", "vary_labels")


@dataclass(frozen=True)
class Run:
    """One arm at one budget with one seed.

    Attributes:
        arm: name of the arm.
        budget: name of the budget.
        seed: seed of the training.
    """

    arm: str
    budget: str
    seed: int

    @property
    def folder(self) -> str:
        """Its run folder, relative to the study's."""
        return f"runs/{self.arm}/{self.budget}/seed{self.seed}"

    def __str__(self) -> str:
        return f"{self.arm}, {self.budget}, seed {self.seed}"


@dataclass(frozen=True)
class Plan:
    """Everything a study runs; made by :func:`make_plan`.

    Attributes:
        bundle: the bundle's folder or name, as given.
        definition: its ``study.yaml``.
        arms: names of the arms, the baseline first.
        budgets: by name, the smallest first.
        n_labels: by budget, labels for training and for validation (with varied labels those of the first seed).
        n_requested: by budget, labels asked for; whole subjects may bring in more.
        checks: by budget, whether its validation labels are enough to choose a checkpoint by.
        seeds: seeds of training.
        overrides: keys for every run.
        overlays: overlays for every run.
        split_seed: seed of the choice of labels.
        vary_labels: draw the labels anew for every seed.
        datalist: the dataset.
        compares_all_labels: all labels are one of the budgets asked for, not only the baseline's reference.
    """

    bundle: str
    definition: StudyDefinition
    arms: tuple[str, ...]
    budgets: Mapping[str, LabelBudget]
    n_labels: Mapping[str, tuple[int, int]]
    n_requested: Mapping[str, int]
    checks: Mapping[str, bool]
    seeds: tuple[int, ...]
    overrides: Mapping[str, Any]
    overlays: tuple[str, ...]
    split_seed: int
    vary_labels: bool
    datalist: Datalist
    compares_all_labels: bool = False

    @cached_property
    def data_fingerprint(self) -> str:
        """Of the dataset as it is when the study begins, its images included."""
        return dataset_fingerprint(self.datalist)

    def arm(self, run: Run) -> Arm:
        """A run as a chain of stages."""
        chosen = self.definition.arms[run.arm]
        split_seed = run.seed if self.vary_labels else self.split_seed
        keys = {
            **self.overrides, **chosen.overrides, **self.budgets[run.budget].overrides, "seed": run.seed,
            "split_seed": split_seed, "dataset_dir": str(self.datalist.root.resolve()),
        }  # fmt: skip
        if not (chosen.shared_pretrain or not chosen.stages):
            return Arm(str(run), chosen.stages, keys, self.overlays, self.data_fingerprint, chosen.protocols)
        first, later = chosen.stages[:1], chosen.stages[1:]
        # with all labels: no subject that validates or tests at any budget is then among its images, because the
        # validation subjects of a smaller budget are some of those of a larger one
        everything = {**keys, **ALL_LABELS.overrides}
        read = {key for stage in first for key in stage_keys(self.bundle, stage)}
        shared = Arm(
            f"{run.arm}, seed {run.seed}, shared by the budgets", first,
            {key: value for key, value in everything.items() if key.split("::")[0] in read},
            self.overlays, self.data_fingerprint,
        )  # fmt: skip
        return Arm(
            str(run), later, keys, self.overlays, self.data_fingerprint, chosen.protocols, shared,
            f"../../{SHARED}/seed{run.seed}",
        )  # fmt: skip

    def runs(self) -> list[Run]:
        """All runs in the order they are begun.

        What the claim rests on comes first (baseline and primary arm), seed by seed, small budgets first, so that a
        study that is stopped early leaves whole pairs; then the baseline with all labels; then the other arms.
        """
        claim = [name for name in self.arms if name in (self.definition.baseline_arm, self.definition.primary_arm)]
        others = [name for name in self.arms if name not in claim]
        asked = [name for name in self.budgets if self.budgets[name] != ALL_LABELS or self.compares_all_labels]
        ordered: list[Run] = []
        for names in (claim, others):
            for seed in self.seeds:
                ordered += [Run(name, budget, seed) for budget in asked for name in names]
                if names is claim:
                    ordered.append(Run(self.definition.baseline_arm, ALL_LABELS.name, seed))
        return list(dict.fromkeys(ordered))

    def settings(self) -> dict[str, Any]:
        """What decides the runs, as ``study.json`` holds it."""
        return {
            "bundle": bundle_dir(self.bundle).name,
            "dataset": self.datalist.name,
            "data_fingerprint": self.data_fingerprint,
            "baseline_arm": self.definition.baseline_arm,
            "arms": {name: self.definition.arms[name].to_json() for name in self.arms},
            "overlays": list(self.overlays),
            "overrides": dict(self.overrides),
            "split_seed": self.split_seed,
            "vary_labels": self.vary_labels,
        }


def make_plan(
    bundle: str,
    definition: StudyDefinition,
    arms: Sequence[str],
    budgets: Sequence[LabelBudget],
    seeds: Sequence[int],
    dataset: str | Path,
    overrides: Mapping[str, Any],
    overlays: Sequence[str],
    vary_labels: bool = False,
) -> Plan:
    """Check everything that can be checked before the first run, and count the labels of each budget.

    Raises:
        ConfigError: for keys that the study sets itself or no stage reads, or a task that studies do not know.
        DataError: for a dataset that is none, has no labelled test images, or cannot give a budget.
    """
    datalist = load_datalist(dataset)
    _refuse_other_task(datalist, definition, bundle)
    evaluation_records(datalist)
    chosen = [definition.arms[name] for name in arms]
    _refuse_own_keys(chosen, overrides, vary_labels)
    keys = dict(overrides)
    if (
        not definition.organs
        and "labels" not in keys
        and any(
            "labels" in stage_keys(bundle, stage)
            for arm in chosen
            for stage in reading_stages(bundle, arm.stages, arm.protocols)
        )
    ):
        keys["labels"] = datalist.class_names
    config = _check_stages(bundle, chosen, keys, overlays)
    datalist = (
        segmentation_datalist(dataset, keys.get("labels"))
        if definition.organs
        else _learnt(datalist, keys, config, definition)
    )
    split_seed = _plain(config, "split_seed", 0)
    options = {
        name: _plain(config, name, default) for name, default in (("validation_share", 0.2), ("min_validation", 20))
    }
    counted: dict[str, tuple[LabelBudget, Budget]] = {}
    for budget in dict.fromkeys([*budgets, ALL_LABELS]):
        draw = select_budget(
            datalist, **budget.overrides, split_seed=seeds[0] if vary_labels else split_seed, **options
        )
        counted[budget.name] = (budget, draw)
    # by labels asked for; of two that ask for as many the first named
    ordered = dict(sorted(counted.items(), key=lambda entry: entry[1][1].n_requested))
    return Plan(
        bundle=bundle,
        definition=definition,
        arms=tuple(arms),
        budgets={name: budget for name, (budget, _) in ordered.items()},
        n_labels={name: (draw.n_labels_training, draw.n_labels_validation) for name, (_, draw) in ordered.items()},
        n_requested={name: draw.n_requested for name, (_, draw) in ordered.items()},
        checks={name: draw.select_on_validation for name, (_, draw) in ordered.items()},
        seeds=tuple(seeds),
        overrides=keys,
        overlays=tuple(overlays),
        split_seed=split_seed,
        vary_labels=vary_labels,
        datalist=datalist,
        compares_all_labels=ALL_LABELS in budgets,
    )


def check_same_study(plan: Plan, stored: Mapping[str, Any], folder: Path) -> None:
    """Refuse a folder that holds a study of another bundle, dataset or settings; more arms, budgets, seeds are welcome.

    Raises:
        ConfigError: naming what differs.
    """
    # through JSON, as the stored ones went
    now = json.loads(json.dumps(plan.settings(), default=str))
    advice = "Name another --out folder; more arms, budgets or seeds of the same study may go into this one."
    for key in _FIXED:
        if now[key] != stored.get(key):
            what = f"other {key}" if key in ("overrides", "overlays") else f"another {key}"
            what = "the dataset has changed since" if key == "data_fingerprint" else what
            raise ConfigError(
                f"this folder holds a study with other settings: {what}", where=folder, found=stored.get(key),
                expected=now[key], advice=advice,
            )  # fmt: skip
    for name in set(now["arms"]) & set(stored.get("arms", {})):
        if now["arms"][name] != stored["arms"][name]:
            raise ConfigError(
                f"this folder holds a study with other settings: another arm {name}", where=folder,
                found=stored["arms"][name], expected=now["arms"][name], advice=advice,
            )  # fmt: skip
    if not plan.vary_labels and stored.get("split_seed") != plan.split_seed:
        raise ConfigError(
            "this folder holds a study with other settings: another split_seed", where=folder,
            found=stored.get("split_seed"), expected=plan.split_seed, advice=advice,
        )  # fmt: skip


def read_stored(folder: Path) -> dict[str, Any] | None:
    """The ``study.json`` of a folder, ``None`` where there is none."""
    path = folder / "study.json"
    return read_json(path) if path.is_file() else None


def _refuse_other_task(datalist: Datalist, definition: StudyDefinition, bundle: str) -> None:
    """Refuse masks for a bundle that classifies, and classes for one that segments."""
    if (datalist.task == "segmentation") != definition.organs:
        raise ConfigError(
            f"{bundle_dir(bundle).name} {'segments organs' if definition.organs else 'classifies images'}",
            where=datalist.root / FILE_NAME, found=f"task {datalist.task}",
            expected="segmentation" if definition.organs else "binary, multiclass or multilabel",
        )  # fmt: skip


def _refuse_own_keys(arms: Sequence[StudyArm], overrides: Mapping[str, Any], vary_labels: bool) -> None:
    for key in overrides:
        first = key.split("::")[0]
        by_arm = next((arm.name for arm in arms if first in arm.overrides), None)
        if first in _OWN_KEYS or (vary_labels and first == "split_seed"):
            raise ConfigError(
                f"{first!r} is set by the study itself", where=key,
                advice="Use --data, --budgets, --seeds, --out and --vary-labels.",
            )  # fmt: skip
        if by_arm is not None:
            raise ConfigError(
                f"{first!r} is set by arm {by_arm!r}", where=key, advice="Leave it out, or leave out the arm."
            )


def _check_stages(
    bundle: str, arms: Sequence[StudyArm], overrides: Mapping[str, Any], overlays: Sequence[str]
) -> dict[str, Any]:
    """Check every stage's keys before anything runs; returns the training configuration of the first arm."""
    first: dict[str, Any] | None = None
    for arm in arms:
        keys = {**overrides, **arm.overrides}
        understood: set[str] = set()
        for stage in reading_stages(bundle, arm.stages, arm.protocols):
            known = stage_keys(bundle, stage)
            understood |= known
            given = {key: value for key, value in keys.items() if key.split("::")[0] in known}
            config, _ = resolve_config(bundle, stage, given, overlays)
            if stage not in ("evaluate", "inference") and first is None:
                first = config
        check_keys(dict.fromkeys(understood), {key.split("::")[0]: None for key in keys}, f"arm {arm.name}")
    return first or {}


def _learnt(
    datalist: Datalist, keys: Mapping[str, Any], config: Mapping[str, Any], definition: StudyDefinition
) -> Datalist:
    """The dataset as the bundle learns it: its classes, or labels that are each there or not, as ``labels`` says.

    Args:
        datalist: the dataset as it is.
        keys: given by the user.
        config: of the arm's first stage.
        definition: what the study compares, and by which figure.

    Raises:
        ConfigError: for labels where the bundle learns exclusive classes only, or the primary metric is one of those.
    """
    labels = keys.get("labels", datalist.class_names)
    if not isinstance(labels, list) or (datalist.exclusive and len(labels) != 1):
        return datalist
    section = config.get("datalist")
    asked = section.get("exclusive", True) if isinstance(section, Mapping) else True
    if isinstance(asked, str) and asked.startswith("@"):
        asked = config.get(asked[1:], asked)
    if asked is True:
        raise ConfigError(
            "this bundle learns exclusive classes", where=datalist.root / FILE_NAME,
            found=f"task {datalist.task}, labels {labels}", expected="task binary or multiclass, two or more classes",
        )  # fmt: skip
    metric, computed = definition.primary_metric, definition.metrics(exclusive=False)
    if metric not in computed:
        raise ConfigError(
            "labels that are each there or not have no most probable class", where="primary_metric", found=metric,
            expected=" or ".join(computed),
        )  # fmt: skip
    return choose_labels(datalist, labels)


def _plain(config: Mapping[str, Any], key: str, default: Any) -> Any:
    """A number of the configuration; the default where it is an expression or not there."""
    value = config.get(key)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else default
