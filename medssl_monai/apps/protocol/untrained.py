"""An encoder before any training: that of a run that is there, or of one that would begin now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from filelock import FileLock
from monai.bundle import ConfigParser
from torch import Tensor

from medssl_monai.apps._tasks import refuse_masks
from medssl_monai.apps.protocol.source import (
    PRETRAIN_FILE,
    UNTRAINED_FILE,
    Source,
    building_stage,
    parsed,
    recorded_bundle,
    with_overrides,
)
from medssl_monai.apps.run import check_keys, resolve_config, stage_keys
from medssl_monai.core import (
    CheckpointError,
    ConfigError,
    bundle_dir,
    make_folder,
    overlay_path,
    read_json,
    seed_torch,
    write_text,
)
from medssl_monai.handlers.features import encoder_layer
from medssl_monai.handlers.model_export import MODEL_FILE
from medssl_monai.handlers.storage import load_tensors, save_tensors


def make_untrained(
    place: Path,
    bundle: str | None,
    seed: int | None,
    overrides: Mapping[str, Any],
    overlays: Sequence[str] = (),
    data: str | Path | None = None,
) -> Source:
    """The encoder as a run begins: random, or with the published weights of ``backbone_weights``.

    Of a run that is there it is the one that this very run began with, by the configuration and the seed that the run
    has recorded; else the one that a run of ``bundle`` would begin with. It is written as ``models/untrained.pt`` in
    the run's folder, with the configuration it was built by.

    Args:
        place: folder of a run, one of its files of weights, or a folder to be made.
        bundle: its name or folder; of a run that is there it may be ``None``.
        seed: of the random weights; ``None``: that of ``overrides``, of the run, or 0.
        overrides: keys that are to be others than the run's, or than the bundle's defaults.
        overlays: overlays of keys in the same way.
        data: dataset folder, where it is another than the one recorded.

    Raises:
        ConfigError: when no bundle is named, it segments or is not the run's, nothing reads a key of ``overrides``, or
            the run began with an encoder that was pre-trained before.
        CheckpointError: when there are weights, but not how they were made.
    """
    models = place.parent if place.is_file() else place / "models"
    recorded = next((path for path in (models / f"{stage}_config.yaml" for stage in ("pretrain", "train"))
                     if path.is_file()), None)  # fmt: skip
    if recorded is None:
        stage, root, config = _new_config(place, models, bundle, overrides, overlays)
    else:
        stage = recorded.name.removesuffix("_config.yaml")
        root, config = _run_config(recorded, stage, bundle, overrides, overlays)
        refuse_masks(root)
        config["ckpt_dir"] = str(models.resolve())
    if data is not None:
        config["dataset_dir"] = str(Path(data).resolve())
    if seed is not None:
        config["seed"] = seed
    config.setdefault("seed", 0)
    _refuse_trained_before(config, stage, place)
    seed_torch(int(parsed(config, "seed", stage)), "initialize")  # as the stages do before they build the network
    network: Any = parsed(config, "network", stage)
    inference, _ = resolve_config(root, "inference", {}, overlays, models.parent)
    encoder = network.get_submodule(encoder_layer(inference))
    weights = make_folder(models) / UNTRAINED_FILE
    with FileLock(weights.with_suffix(".lock")):  # two budgets of a study may begin with it at once
        if not _holds(weights, encoder.state_dict()):
            save_tensors(encoder.state_dict(), weights)
    write_text(models / "untrained_config.yaml", yaml.safe_dump(config, sort_keys=False))
    return Source(root, weights, "untrained", config, overrides, overlays)


def _new_config(
    place: Path, models: Path, bundle: str | None, overrides: Mapping[str, Any], overlays: Sequence[str]
) -> tuple[str, Path, dict[str, Any]]:
    """Stage, bundle and configuration that a run in a folder without one would begin with."""
    made = next((path for path in (models / PRETRAIN_FILE, models / MODEL_FILE) if path.is_file()), None)
    if made is not None or place.is_file():
        raise CheckpointError(
            "how this run began is not recorded beside its weights", where=made or place,
            expected="pretrain_config.yaml or train_config.yaml, which `medssl run` writes",
            advice="Name a new folder instead, with --bundle and the keys of the run (image_size=..., width=...).",
        )  # fmt: skip
    if bundle is None:
        raise ConfigError(
            "an encoder that is not trained belongs to no run", where="--bundle",
            advice="Name a bundle, or the folder of a run that is there.",
        )  # fmt: skip
    root = bundle_dir(bundle)
    refuse_masks(root)
    stage = building_stage(root)
    known = stage_keys(root, stage)
    _refuse_unknown(root, stage, overrides)
    given = {key: value for key, value in overrides.items() if key.split("::")[0] in known}
    if stage == "train":  # whose default is the encoder of a stage before it
        given = {"pretrained": None, **given}
    config, _ = resolve_config(root, stage, given, overlays, models.parent)
    return stage, root, config


def _run_config(
    recorded: Path, stage: str, bundle: str | None, overrides: Mapping[str, Any], overlays: Sequence[str]
) -> tuple[Path, dict[str, Any]]:
    """Bundle and configuration that a run has begun with; overlays and overrides win."""
    config: dict[str, Any] = yaml.safe_load(recorded.read_text(encoding="utf-8"))
    own = _recorded_name(recorded.parent, stage, config)
    root = bundle_dir(bundle) if bundle is not None else recorded_bundle(recorded.parent, stage, config)
    if own is not None and root.name != own:
        raise ConfigError(
            "this run is of another bundle", where=recorded.parent, found=f"--bundle {root.name}", expected=own,
            advice="Leave --bundle out, or name a new folder.",
        )  # fmt: skip
    for overlay in overlays:
        keys: Any = ConfigParser.load_config_file(str(overlay_path(overlay)))
        config = with_overrides(
            config, {key.lstrip("+").replace("#", "::"): value for key, value in keys.items()}, root
        )
    return root, with_overrides(config, overrides, root)


def _refuse_trained_before(config: Mapping[str, Any], stage: str, place: Path) -> None:
    pretrained = parsed(config, "pretrained", stage) if "pretrained" in config else None
    if pretrained is not None:
        raise ConfigError(
            "this run began with an encoder that was pre-trained before", where=place, found=f"pretrained={pretrained}",
            advice="Judge that file itself (`medssl protocol PROTOCOL FILE DATA`), or give pretrained=null for the "
            "random or published weights before it.",
        )  # fmt: skip


def _holds(weights: Path, state: Mapping[str, Tensor]) -> bool:
    """Whether a file holds these very tensors: equal tensors do not give equal files, by which embeddings are known."""
    if not weights.is_file():
        return False
    try:
        held: Any = load_tensors(weights)
    except CheckpointError:
        return False
    return held.keys() == state.keys() and all(torch.equal(held[key], state[key].cpu()) for key in state)


def _recorded_name(folder: Path, stage: str, config: Mapping[str, Any]) -> str | None:
    """Name of the bundle that a run was made with, where it can be told."""
    record, root = folder / f"{stage}_run.json", Path(str(config.get("bundle_root", "")))
    if record.is_file():
        return Path(str(read_json(record)["bundle"])).name
    return root.name or None


def _refuse_unknown(root: Path, stage: str, overrides: Mapping[str, Any]) -> None:
    configs = [resolve_config(root, name, {})[0] for name in ("inference", stage)]
    check_keys({**configs[0], **configs[1]}, overrides, root.name)
