"""An arm as steps: the command of each stage and of its protocols, and the digest of all that decides its result."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medssl_monai.apps.run import stage_keys
from medssl_monai.core import (
    ConfigError,
    bundle_dir,
    did_you_mean,
    file_digest,
    overlay_path,
    text_digest,
)
from medssl_monai.data.datalist import FILE_NAME as DATALIST_FILE
from medssl_monai.data.datalist import load_datalist
from medssl_monai.data.fingerprint import dataset_fingerprint

#: checkpoints that stages can go on from
CHECKPOINTS = {"pretrain": "pretrain_checkpoint.pt", "train": "checkpoint.pt"}
#: the step behind the stages that judges the encoder by the arm's protocols
PROTOCOL_STEP = "protocols"
#: keys of a run that the protocols are told in another way, or that mean nothing to them
_TOLD_APART = ("label_fraction", "label_budget", "split_seed", "seed", "dataset_dir", "resume", "pretrained")
_PRETRAINED = "pretrain.pt"


@dataclass(frozen=True)
class Arm:
    """One way to train, as stages of a bundle with overrides, and how its encoder is judged beside.

    Attributes:
        name: name in tables and folder names.
        stages: the stages in order, the last one ``evaluate`` unless protocols judge the encoder.
        overrides: keys for all stages; a stage is given those it understands, and one that none understands is an
            error.
        overlays: overlays for all stages.
        data: fingerprint of the dataset (:func:`~medssl_monai.data.fingerprint.dataset_fingerprint`) where it is known
            already; otherwise it is computed whenever it is needed.
        protocols: protocols behind the stages. Without stages they judge the encoder as it starts.
        shared: an arm whose encoder this one goes on from, run before it: with the stage ``pretrain``, or without
            stages for an encoder that is not trained.
        shared_place: its folder, relative to this arm's.
    """

    name: str
    stages: tuple[str, ...]
    overrides: Mapping[str, Any] = field(default_factory=dict)
    overlays: tuple[str, ...] = ()
    data: str | None = None
    protocols: tuple[str, ...] = ()
    shared: Arm | None = None
    shared_place: str = ""

    @property
    def steps(self) -> tuple[str, ...]:
        """The stages, and the protocols as a step behind them."""
        return (*self.stages, PROTOCOL_STEP) if self.protocols else self.stages

    def encoder_folder(self, folder: Path) -> Path:
        """The run folder whose encoder the protocols judge."""
        return folder if self.shared is None else (folder / self.shared_place).resolve()


def reading_stages(bundle: str, stages: tuple[str, ...], protocols: tuple[str, ...]) -> list[str]:
    """The stages whose configuration an arm reads: its own, and what builds and asks the encoder for protocols."""
    first = "pretrain" if (bundle_dir(bundle) / "configs" / "pretrain.yaml").is_file() else "train"
    return [*(stages or (first,)), *(("inference",) if protocols else ())]


def refuse_unknown_keys(bundle: str, arm: Arm) -> None:
    """Raise ``ConfigError`` for an override that no stage of the arm understands."""
    shared = arm.shared.stages if arm.shared is not None else ()
    names = reading_stages(bundle, (*shared, *arm.stages), arm.protocols)
    understood = {key for stage in names for key in stage_keys(bundle, stage)}
    unknown = [key for key in arm.overrides if key.split("::")[0] not in understood]
    if unknown:
        raise ConfigError(
            f"no stage understands {unknown[0]!r}", where=arm.name, advice=did_you_mean(unknown[0], understood)
        )


def step_command(bundle: str, step: str, arm: Arm, folder: Path) -> list[str]:
    """The command line of a stage, or of the protocols."""
    start = [sys.executable, "-m", "medssl_monai.apps"]
    overlays = [text for name in arm.overlays for text in ("--overlay", name)]
    if step == PROTOCOL_STEP:
        return [*start, *_protocol_command(bundle, arm, folder), *overlays]
    keys = dict(arm.overrides)
    if arm.shared is not None:
        keys["pretrained"] = str(arm.encoder_folder(folder) / "models" / _PRETRAINED)
    pairs = _pairs(keys, stage_keys(bundle, step))
    if step in CHECKPOINTS:
        pairs.append("resume=true")
    return [*start, "run", bundle, step, *pairs, *overlays, "--run-dir", str(folder)]


def _pairs(keys: Mapping[str, Any], known: set[str], without: tuple[str, ...] = ()) -> list[str]:
    # JSON is YAML, so every plain value survives as it is
    return [
        f"{key}={json.dumps(value)}" for key, value in sorted(keys.items())
        if key.split("::")[0] in known and key.split("::")[0] not in without
    ]  # fmt: skip


def _protocol_keys(bundle: str, arm: Arm) -> list[str]:
    untrained = not arm.stages and (arm.shared is None or not arm.shared.stages)
    names = reading_stages(bundle, (), arm.protocols) if untrained else ["inference"]
    return _pairs(arm.overrides, {key for name in names for key in stage_keys(bundle, name)}, _TOLD_APART)


def _protocol_command(bundle: str, arm: Arm, folder: Path) -> list[str]:
    keys = arm.overrides
    source = arm.encoder_folder(folder)
    parts = ["protocol", ",".join(arm.protocols), str(source), str(keys["dataset_dir"]), *_protocol_keys(bundle, arm)]
    parts += ["--bundle", bundle, "--seed", str(keys.get("seed", 0)), "--budget", _budget_text(keys)]
    if keys.get("split_seed") is not None:
        parts += ["--split-seed", str(keys["split_seed"])]
    if not arm.stages and (arm.shared is None or not arm.shared.stages):
        parts.append("--untrained")
    return [*parts, "--out", str(folder / "eval" / "protocols")]


def _budget_text(keys: Mapping[str, Any]) -> str:
    if keys.get("label_budget") is not None:
        return str(keys["label_budget"])
    fraction = keys.get("label_fraction")
    return f"{100 * (1.0 if fraction is None else fraction):.12g}%"


def step_digest(bundle: str, step: str, arm: Arm, folder: Path) -> str:
    """Of all that decides a step's result, wherever its folder and its dataset lie."""
    overlays = [overlay_path(name).read_text(encoding="utf-8") for name in arm.overlays]
    end = ["overlays", *overlays, "data", _data_digest(arm)]
    if arm.shared is not None:
        encoder = arm.encoder_folder(folder) / "models" / _PRETRAINED
        end += ["encoder", file_digest(encoder) if encoder.is_file() else ""]
    if step == PROTOCOL_STEP:
        keys = arm.overrides
        told = [
            f"{key}={json.dumps(keys.get(key))}" for key in ("label_fraction", "label_budget", "split_seed", "seed")
        ]
        return text_digest([bundle_dir(bundle).name, step, *arm.protocols, *_protocol_keys(bundle, arm), *told, *end])
    pairs = _pairs(arm.overrides, stage_keys(bundle, step), ("dataset_dir",))
    return text_digest([bundle_dir(bundle).name, step, *pairs, *end])


def _data_digest(arm: Arm) -> str:
    folder = Path(str(arm.overrides.get("dataset_dir", "")))
    if arm.data is not None or not (folder / DATALIST_FILE).is_file():
        return arm.data or str(arm.overrides.get("dataset_dir", ""))
    return dataset_fingerprint(load_datalist(folder))
