"""What a study compares: the arms of a bundle's ``study.yaml``, and label budgets as the user writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from medssl_monai.apps._protocols import check_protocols
from medssl_monai.apps._tasks import segments
from medssl_monai.core import ConfigError, bundle_dir, did_you_mean
from medssl_monai.metrics.comparison import HEADLINE

STUDY_FILE = "study.yaml"
#: what an arm of it may say
ARM_KEYS = ("stages", "overrides", "protocols", "shared_pretrain")
#: figures of organs that a claim may be about: by protocol blind, and within slices that the test labels tell
ORGAN_CLAIMS = ("mean_dice", "paper/mean_dice")


@dataclass(frozen=True)
class StudyArm:
    """One way to train, as a bundle's ``study.yaml`` names it.

    Attributes:
        name: its name.
        stages: the stages in order, the last one ``evaluate`` unless there are protocols; without stages the protocols
            judge the encoder as it starts.
        overrides: the keys that make it this arm.
        protocols: protocols that judge its encoder (see ``medssl protocol``).
        shared_pretrain: pre-train once a seed, for all budgets: for pre-training that uses no labels.
    """

    name: str
    stages: tuple[str, ...]
    overrides: Mapping[str, Any] = field(default_factory=dict)
    protocols: tuple[str, ...] = ()
    shared_pretrain: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        content: dict[str, Any] = {"stages": list(self.stages), "overrides": dict(self.overrides)}
        if self.protocols:
            content["protocols"] = list(self.protocols)
        if self.shared_pretrain:
            content["shared_pretrain"] = True
        return content

    def metrics(self, exclusive: bool = True, organs: bool = False) -> list[str]:
        """Names of its figures that a claim may be about; those of a protocol as ``knn/macro_auroc``.

        Args:
            exclusive: whether an image is of one class. Labels that are each there or not have no most probable class,
                and so no figures of it.
            organs: whether organs are segmented.
        """
        if organs:
            return list(ORGAN_CLAIMS) if "evaluate" in self.stages else []
        figures = HEADLINE if exclusive else HEADLINE[:1]
        own = list(figures) if "evaluate" in self.stages else []
        return [*own, *(f"{protocol}/{metric}" for protocol in self.protocols for metric in figures)]


@dataclass(frozen=True)
class StudyDefinition:
    """A bundle's ``study.yaml``.

    Attributes:
        arms: by name, in the file's order.
        baseline_arm: what the others are compared with; with all labels, the reference of annotation saved.
        primary_arm: the method the bundle is about: its comparison with the baseline is the claim.
        primary_metric: the figure the claim is about.
        organs: whether the bundle segments organs; otherwise it classifies.
    """

    arms: Mapping[str, StudyArm]
    baseline_arm: str
    primary_arm: str
    primary_metric: str
    organs: bool = False

    def metrics(self, exclusive: bool = True) -> list[str]:
        """Figures that the baseline and the primary arm both have (see :meth:`StudyArm.metrics`)."""
        baseline = self.arms[self.baseline_arm].metrics(exclusive)
        return [name for name in self.arms[self.primary_arm].metrics(exclusive) if name in baseline]

    def choose(self, names: str | None) -> list[str]:
        """Arms by a user's text: ``None`` is baseline and primary, ``all`` all, else names joined by commas.

        The baseline is always among them, in first place.

        Raises:
            ConfigError: for an unknown name.
        """
        if names is None:
            chosen = [self.primary_arm]
        elif names.strip() == "all":
            chosen = list(self.arms)
        else:
            chosen = [name.strip() for name in names.split(",") if name.strip()]
        for name in chosen:
            if name not in self.arms:
                raise ConfigError(f"no arm {name!r}", where="--arms", advice=did_you_mean(name, [*self.arms, "all"]))
        return list(dict.fromkeys([self.baseline_arm, *chosen]))


def read_study(bundle: str | Path, definition: Path | None = None) -> StudyDefinition:
    """Read a bundle's ``study.yaml``, or another file of that form.

    Raises:
        ConfigError: when it is missing, is not YAML, lacks a key, or names arms, stages or a metric that are not there.
    """
    path = definition or bundle_dir(bundle) / "configs" / STUDY_FILE
    if definition is not None and not path.is_file():
        raise ConfigError("no such file", where="--definition", found=path, expected="a file like a study.yaml")
    if not path.is_file():
        raise ConfigError("this bundle defines no study", where=path, advice="A study needs arms to compare.")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"not valid YAML: {error}", where=path) from error
    needed = ("arms", "baseline_arm", "primary_arm", "primary_metric")
    missing = [key for key in needed if not isinstance(content, Mapping) or not content.get(key)]
    if missing:
        raise ConfigError(f"key {missing[0]!r} is missing or empty", where=path, expected=", ".join(needed))
    arms = {str(name): _arm(str(name), entry, path) for name, entry in content["arms"].items()}
    for key in ("baseline_arm", "primary_arm"):
        if content[key] not in arms:
            raise ConfigError(f"{key} {content[key]!r} is no arm", where=path, advice=did_you_mean(content[key], arms))
    if content["primary_arm"] == content["baseline_arm"]:
        raise ConfigError(
            "primary_arm is the baseline_arm", where=path, advice="Name the method and what it is compared with."
        )
    metric, organs = str(content["primary_metric"]), segments(bundle)
    judged = next((arm for arm in arms.values() if organs and arm.protocols), None)
    if judged is not None:
        raise ConfigError(
            f"protocols of arm {judged.name!r} judge embeddings of whole images, and this bundle segments", where=path,
            found=", ".join(judged.protocols), expected="protocols: []",
        )  # fmt: skip
    for key in ("baseline_arm", "primary_arm"):
        known = arms[content[key]].metrics(organs=organs)
        if metric not in known and organs:
            raise ConfigError(
                f"primary_metric {metric!r} is no figure of organs that a claim may be about", where=path,
                expected=f"one of {', '.join(ORGAN_CLAIMS)}, of arms with the stage evaluate",
                advice=did_you_mean(metric, known),
            )  # fmt: skip
        if metric not in known:
            always = arms[content[key]].metrics(exclusive=False)
            further = [name for name in known if name not in always]
            raise ConfigError(
                f"primary_metric {metric!r} is not computed for the {key}, {content[key]!r}", where=path,
                expected=f"one of {', '.join(always)}; of exclusive classes also {', '.join(further)}",
                advice=did_you_mean(metric, known),
            )  # fmt: skip
    return StudyDefinition(arms, content["baseline_arm"], content["primary_arm"], metric, organs)


def _arm(name: str, entry: Any, path: Path) -> StudyArm:
    given = entry if isinstance(entry, Mapping) else {}
    unknown = set(given) - set(ARM_KEYS)
    if unknown:
        key = min(unknown)
        raise ConfigError(f"arm {name!r} has an unknown key {key!r}", where=path, advice=did_you_mean(key, ARM_KEYS))
    protocols = given.get("protocols") or []
    if not isinstance(protocols, list):
        raise ConfigError(
            f"the protocols of arm {name!r} are no list", where=path, found=protocols, expected="such as [knn]"
        )
    chosen = check_protocols(protocols, f"{path}, arm {name!r}") if protocols else ()
    stages = given.get("stages")
    if not isinstance(stages, list) or (not chosen and (not stages or stages[-1] != "evaluate")):
        raise ConfigError(
            f"arm {name!r} has no stages that end in evaluate", where=path, found=stages,
            expected="a list such as [train, evaluate], or protocols that judge the encoder",
        )  # fmt: skip
    shared = given.get("shared_pretrain", False)
    if not isinstance(shared, bool) or (shared and stages[:1] != ["pretrain"]):
        raise ConfigError(
            f"shared_pretrain of arm {name!r} is for an arm that begins with the stage pretrain", where=path,
            found=f"shared_pretrain {shared!r}, stages {stages}", expected="true or false",
        )  # fmt: skip
    return StudyArm(name, tuple(str(stage) for stage in stages), dict(given.get("overrides") or {}), chosen, shared)


@dataclass(frozen=True)
class LabelBudget:
    """Labels that may be used before testing: a share of them, or a number of items.

    Attributes:
        label_fraction: share in (0, 1], or ``None``.
        label_budget: number of labelled items, or ``None``.
    """

    label_fraction: float | None = None
    label_budget: int | None = None

    @property
    def name(self) -> str:
        """``5pct`` or ``40labels``: the budget's name in tables and folders."""
        if self.label_fraction is not None:
            return f"{100 * self.label_fraction:g}pct"
        return f"{self.label_budget}labels"

    @property
    def overrides(self) -> dict[str, Any]:
        """The keys that set it."""
        return {"label_fraction": self.label_fraction, "label_budget": self.label_budget}


ALL_LABELS = LabelBudget(label_fraction=1.0)


def parse_budgets(text: str, where: str = "--budgets") -> list[LabelBudget]:
    """``"5%,10%,40"`` as budgets: shares of the labels, and numbers of labels.

    Raises:
        ConfigError: for a text that is neither, a share out of (0, 100] or a number below 1.
    """
    found: list[LabelBudget] = []
    for part in (part.strip() for part in text.split(",")):
        share = part.endswith("%")
        try:
            value = float(part.removesuffix("%")) if share else int(part)
        except ValueError:
            value = -1
        if not (0 < value <= 100 if share else value >= 1):
            raise ConfigError(
                "not a label budget", where=where, found=repr(part),
                expected="a share such as 5% (above 0, at most 100) or a whole number of labels such as 40",
            )  # fmt: skip
        budget = LabelBudget(label_fraction=round(value / 100, 12)) if share else LabelBudget(label_budget=int(value))
        if budget not in found:
            found.append(budget)
    return found


def parse_seeds(text: str) -> list[int]:
    """``"3"`` as seeds 0, 1, 2; ``"0,5"`` as those seeds.

    Raises:
        ConfigError: for anything else.
    """
    parts: Sequence[str] = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts) or (len(parts) == 1 and int(parts[0]) < 1):
        raise ConfigError(
            "not a number of seeds", where="--seeds", found=repr(text), expected="such as 3, or seeds such as 0,1,7"
        )
    return list(range(int(parts[0]))) if len(parts) == 1 else list(dict.fromkeys(int(part) for part in parts))
