"""What a study compares: the arms of a bundle's ``study.yaml``, and label budgets as the user writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from medssl_monai.core import ConfigError, bundle_dir, did_you_mean
from medssl_monai.metrics.comparison import HEADLINE

STUDY_FILE = "study.yaml"


@dataclass(frozen=True)
class StudyArm:
    """One way to train, as a bundle's ``study.yaml`` names it.

    Attributes:
        name: its name.
        stages: the stages in order, the last one ``evaluate``.
        overrides: the keys that make it this arm.
    """

    name: str
    stages: tuple[str, ...]
    overrides: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"stages": list(self.stages), "overrides": dict(self.overrides)}


@dataclass(frozen=True)
class StudyDefinition:
    """A bundle's ``study.yaml``.

    Attributes:
        arms: by name, in the file's order.
        baseline_arm: what the others are compared with; with all labels, the reference of annotation saved.
        primary_arm: the method the bundle is about: its comparison with the baseline is the claim.
        primary_metric: the figure the claim is about.
    """

    arms: Mapping[str, StudyArm]
    baseline_arm: str
    primary_arm: str
    primary_metric: str

    def choose(self, names: str | None) -> list[str]:
        """Arms by a user's text: ``None`` is baseline and primary, ``all`` all, else names joined by commas.

        The baseline is always among them, in first place.

        Raises:
            ConfigError: for an unknown name, or an arm with protocols (none is known yet).
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


def read_study(bundle: str | Path) -> StudyDefinition:
    """Read a bundle's ``study.yaml``.

    Raises:
        ConfigError: when it is missing, is not YAML, lacks a key, or names arms, stages or a metric that are not there.
    """
    path = bundle_dir(bundle) / "configs" / STUDY_FILE
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
    if content["primary_metric"] not in HEADLINE:
        raise ConfigError(
            f"primary_metric {content['primary_metric']!r} is not computed by studies", where=path,
            advice=did_you_mean(str(content["primary_metric"]), HEADLINE),
        )  # fmt: skip
    return StudyDefinition(arms, content["baseline_arm"], content["primary_arm"], content["primary_metric"])


def _arm(name: str, entry: Any, path: Path) -> StudyArm:
    stages = entry.get("stages") if isinstance(entry, Mapping) else None
    if not isinstance(stages, list) or not stages or stages[-1] != "evaluate":
        raise ConfigError(
            f"arm {name!r} has no stages that end in evaluate", where=path, found=stages,
            expected="a list such as [train, evaluate]",
        )  # fmt: skip
    unknown = set(entry) - {"stages", "overrides", "protocols"}
    if unknown:
        key = min(unknown)
        raise ConfigError(
            f"arm {name!r} has an unknown key {key!r}", where=path,
            advice=did_you_mean(key, ["stages", "overrides", "protocols"]),
        )  # fmt: skip
    if entry.get("protocols"):
        raise ConfigError(
            f"arm {name!r} names protocols, and none is known yet", where=path, found=entry["protocols"], expected="[]",
            advice="Every arm is judged by its evaluate stage.",
        )  # fmt: skip
    return StudyArm(name, tuple(str(stage) for stage in stages), dict(entry.get("overrides") or {}))


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
