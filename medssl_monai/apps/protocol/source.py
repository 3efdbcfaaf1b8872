"""What is judged: the encoder of a run, or a file of weights, with the configuration it was made by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from monai.bundle import ConfigParser

from medssl_monai.apps._model import OpenRun
from medssl_monai.apps._tasks import refuse_masks
from medssl_monai.apps.run import check_keys, readable_cause, resolve_config, stage_keys
from medssl_monai.core import (
    CheckpointError,
    ConfigError,
    DataError,
    MedSSLError,
    bundle_dir,
    read_json,
)
from medssl_monai.data import Datalist
from medssl_monai.handlers.model_export import MODEL_FILE

PRETRAIN_FILE = "pretrain.pt"
UNTRAINED_FILE = "untrained.pt"
#: file of weights -> stage that wrote it
_STAGES = {PRETRAIN_FILE: "pretrain", MODEL_FILE: "train", "encoder.pt": "train", UNTRAINED_FILE: "untrained"}


@dataclass(frozen=True)
class Source:
    """An encoder, the bundle it is of, and the configuration it was made with.

    Attributes:
        bundle: folder of the bundle.
        weights: file of the weights.
        stage: ``pretrain``, ``train`` or ``untrained``.
        config: configuration of that stage, with the overrides.
        overrides: keys given by the user.
        overlays: overlays given by the user.
    """

    bundle: Path
    weights: Path
    stage: str
    config: Mapping[str, Any]
    overrides: Mapping[str, Any]
    overlays: Sequence[str]

    @property
    def folder(self) -> Path:
        """The run's folder, or the one the file lies in."""
        return self.weights.parent.parent if self.weights.parent.name == "models" else self.weights.parent

    def datalist(self, data: str | Path) -> Datalist:
        """The dataset as the bundle reads it: its labels, and of exams of several planes its plane.

        Raises:
            ConfigError: when the stage's configuration has no ``datalist``, or the dataset has other classes.
            DataError: when there is no dataset, or it has problems.
        """
        config = {**self.config, "dataset_dir": str(data)}
        if "datalist" not in config:
            raise ConfigError(
                f"the {self.stage} stage has no key 'datalist' to read the labels by", where=self.bundle.name
            )
        datalist: Any = parsed(config, "datalist", self.stage)
        if not isinstance(datalist, Datalist):
            raise ConfigError("the key 'datalist' is no dataset", where=self.bundle.name, found=type(datalist).__name__)
        if datalist.task == "segmentation":
            raise DataError(
                "protocols judge embeddings of images by their classes", where=data, found="task segmentation"
            )
        return datalist

    def open(self, data: str | Path) -> OpenRun:
        """The bundle's inference with this encoder, prepared as it was trained.

        Raises:
            ConfigError: when the bundle cannot be asked for embeddings.
            CheckpointError: when the weights are not there or do not fit.
        """
        known = stage_keys(self.bundle, "inference")
        given = {key: value for key, value in self.overrides.items() if key.split("::")[0] in known}
        served = self.weights.name == MODEL_FILE
        return OpenRun(
            self.bundle, data, None, None if served else self.weights,
            {**given, "ckpt_dir": str(self.weights.parent.resolve())}, self.overlays, trained=self._settings(data),
        )  # fmt: skip

    def _settings(self, data: str | Path) -> dict[str, Any]:
        """Values of the keys that inference has too, those of expressions included (a stem that follows the size)."""
        inference, _ = resolve_config(self.bundle, "inference", {})
        config = {**self.config, "dataset_dir": str(data)}
        settings: dict[str, Any] = {}
        for key in config.keys() & inference.keys():
            value = config[key]
            computed = isinstance(value, str) and value.startswith("$")
            if not computed:
                settings[key] = value
            elif key != "device" and not key.endswith(("_dir", "_root")):
                settings[key] = parsed(config, key, self.stage)
        return settings


def parsed(config: Mapping[str, Any], key: str, stage: str) -> Any:
    """A component of a configuration.

    Raises:
        MedSSLError: the cause, where it cannot be made.
    """
    try:
        return ConfigParser(dict(config)).get_parsed_content(key)
    except MedSSLError:
        raise
    except Exception as error:
        raise readable_cause(error, stage) from error


def find_source(place: Path, bundle: str | None, overrides: Mapping[str, Any], overlays: Sequence[str] = ()) -> Source:
    """The encoder of a run folder or a file of weights.

    Of a run that has pre-trained it is the pre-trained encoder (``pretrain.pt``), because what fine-tuning has made of
    it is judged by ``evaluate``; else that of the trained network (``model.pt``).

    Raises:
        CheckpointError: when there are no weights.
        ConfigError: when the bundle is not known or segments, or nothing reads a key of ``overrides``.
    """
    weights = place if place.is_file() else next(
        (path for name in (PRETRAIN_FILE, MODEL_FILE) for path in (place / "models" / name, place / name)
         if path.is_file()), None,
    )  # fmt: skip
    if weights is None:
        raise CheckpointError(
            "no encoder here", where=place,
            expected=f"a run folder with models/{PRETRAIN_FILE} or models/{MODEL_FILE}, or a file of weights",
            advice="Run the pretrain or the train stage first (`medssl run BUNDLE pretrain --run-dir RUN`), or judge "
            "the encoder as it starts by --untrained.",
        )  # fmt: skip
    stage = _STAGES.get(weights.name, "pretrain")
    recorded = weights.parent / f"{stage}_config.yaml"
    if recorded.is_file():
        config: dict[str, Any] = yaml.safe_load(recorded.read_text(encoding="utf-8"))
        root = bundle_dir(bundle) if bundle is not None else recorded_bundle(weights.parent, stage, config)
        refuse_masks(root)
    else:
        root = _bundle_of_file(weights, bundle)
        refuse_masks(root)
        config, _ = resolve_config(root, building_stage(root), {}, overlays)
    return Source(root, weights, stage, with_overrides(config, overrides, root), overrides, overlays)


def with_overrides(config: dict[str, Any], overrides: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """The configuration with the overrides that it, or the bundle's inference, reads."""
    inference, _ = resolve_config(root, "inference", {})
    check_keys({**inference, **config}, overrides, root.name)
    parser = ConfigParser(config)
    for key, value in overrides.items():
        if key.split("::")[0] in config:
            parser[key] = value
    changed: Any = parser.config
    return dict(changed)


def building_stage(root: Path) -> str:
    """The stage that a run of this bundle begins with."""
    return "pretrain" if (root / "configs" / "pretrain.yaml").is_file() else "train"


def recorded_bundle(folder: Path, stage: str, config: Mapping[str, Any]) -> Path:
    """The bundle a run was made with: where it lay, else the one of its name that ships with the package."""
    root = Path(str(config.get("bundle_root", "")))
    if (root / "configs" / "metadata.json").is_file():
        return root
    record = folder / f"{stage}_run.json"
    if record.is_file():
        return bundle_dir(str(read_json(record)["bundle"]))
    raise ConfigError(
        "the bundle this run was made with is no longer there", where=folder, found=str(root),
        advice="Name it by --bundle.",
    )  # fmt: skip


def _bundle_of_file(weights: Path, bundle: str | None) -> Path:
    if bundle is not None:
        return bundle_dir(bundle)
    for path in sorted(weights.parent.glob("*encoder.json")):
        description = read_json(path)
        if description.get("weights") == weights.name and description.get("bundle"):
            return bundle_dir(str(description["bundle"]))
    raise ConfigError(
        "of which bundle this encoder is stands nowhere beside it", where=weights, advice="Name it by --bundle."
    )
