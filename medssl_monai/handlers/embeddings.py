"""Inference that writes embeddings in place of predictions: which encoder, what it was trained with, the files."""

from __future__ import annotations

import csv
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events
from torch import nn

from medssl_monai.core import (
    CheckpointError,
    ConfigError,
    atomic_path,
    did_you_mean,
    file_digest,
    hash_case,
    make_folder,
    read_json,
)
from medssl_monai.core.distributed import is_main
from medssl_monai.data.datalist import FILE_NAME, Datalist, load_datalist
from medssl_monai.handlers.features import FEATURES_LAYER, FeatureCollector, Features
from medssl_monai.handlers.model_export import MODEL_FILE
from medssl_monai.handlers.predictions import WritesFolder
from medssl_monai.handlers.serving import SERVING_FILE, check_settings
from medssl_monai.metrics import collapse_warning, effective_rank
from medssl_monai.networks import load_state
from medssl_monai.networks.sources import read_tensors

logger = logging.getLogger(__name__)

EMBEDDINGS_FILE = "embeddings.npz"
NAMES_FILE = "embeddings.csv"
PRETRAIN_FILE = "pretrain.pt"


def inference_handlers(output: str, encoder_weights: str | Path | None = None, **handlers: Sequence[Any]) -> list[Any]:
    """The handlers that write what the key ``inference_output`` asks for.

    Args:
        output: name of one of ``handlers``.
        encoder_weights: the key of that name, which only ``embeddings`` reads.
        **handlers: lists of handlers by what they write.

    Raises:
        ConfigError: for another name, or weights that nothing would read.
    """
    if output not in handlers:
        raise ConfigError(
            f"unknown output {output!r}", where="inference_output", expected=" or ".join(handlers),
            advice=did_you_mean(str(output), handlers),
        )  # fmt: skip
    if encoder_weights is not None and output != "embeddings":
        raise ConfigError(
            "only embeddings can come from other weights than model.pt", where="encoder_weights", found=encoder_weights,
            expected="null", advice="Set inference_output=embeddings.",
        )  # fmt: skip
    return list(handlers[output])


def encoder_settings(weights: str | Path) -> dict[str, Any]:
    """Settings that weights were trained with, as far as a file beside them tells; else empty.

    Of ``model.pt`` it is ``serving.json``, of an encoder the description that names it (``pretrain_encoder.json``).
    """
    weights = Path(weights)
    if weights.name == MODEL_FILE:
        path = weights.with_name(SERVING_FILE)
        return dict(read_json(path)["settings"]) if path.is_file() else {}
    for path in sorted(weights.parent.glob("*encoder.json")):
        description = read_json(path)
        if description.get("weights") == weights.name and weights.is_file():
            if description.get("weights_sha256") == file_digest(weights):
                return dict(description.get("settings", {}))
            logger.warning("%s tells of other weights than those of %s: not used", path, weights)
    return {}


class LoadEncoder:
    """Loads the encoder of a run, trained or only pre-trained, strictly.

    Args:
        network: the network whose encoder is loaded; the rest of it stays as it is.
        folder: the ``ckpt_dir``.
        weights: a file of the encoder's or of the whole network's weights. ``None``: ``model.pt`` of the folder, and
            ``pretrain.pt`` where there is no ``model.pt``.
        settings: values that must be those the weights were trained with (image size, backbone, ...).
        layer: name of the encoder within the network.
    """

    def __init__(
        self,
        network: nn.Module,
        folder: str | Path,
        weights: str | Path | None = None,
        settings: Mapping[str, Any] | None = None,
        layer: str = FEATURES_LAYER,
    ) -> None:
        self.network, self.settings, self.layer = network, dict(settings or {}), layer
        found = [path for name in (MODEL_FILE, PRETRAIN_FILE) if (path := Path(folder) / name).is_file()]
        self.path = Path(weights) if weights is not None else found[0] if found else Path(folder) / PRETRAIN_FILE

    def attach(self, engine: Engine) -> None:
        """Load when ``engine`` starts."""
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine | None = None) -> None:
        """Load.

        Raises:
            CheckpointError: when the file is missing, damaged, of another network, or trained with other settings.
        """
        if not self.path.is_file():
            raise CheckpointError(
                "no encoder here", where=self.path,
                advice="Run the pretrain or the train stage first, name its ckpt_dir, or a file as encoder_weights.",
            )  # fmt: skip
        check_settings(encoder_settings(self.path), self.settings, self.path)
        tensors, prefix = read_tensors(self.path), f"{self.layer}."
        whole = any(key.removeprefix("module.").startswith(prefix) for key in tensors)
        report = load_state(self.network.get_submodule(self.layer), self.path, prefix=prefix if whole else "")
        logger.info("%s: %d keys of the encoder loaded", self.path, len(report.matched))


class EmbeddingWriter(WritesFolder, FeatureCollector):
    """Inference: writes the images' embeddings, ``embeddings.npz``, and which row is which image, ``embeddings.csv``.

    The first is a file of features (:class:`medssl_monai.handlers.Features`, names as keyed hashes) and can be passed
    on; the second, with the user's own relative paths, stays. Labels and splits are filled in where the images are
    those of a dataset.

    Args:
        network: the network the evaluator runs.
        output_dir: where to write.
        folder: the ``dataset_dir``.
        loader: loads the weights; their digest is kept with the embeddings.
        metadata: further plain values to keep (bundle, input size, ...).
    """

    def __init__(
        self,
        network: nn.Module,
        output_dir: str | Path,
        folder: str | Path,
        loader: LoadEncoder,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(network, loader.layer)
        self.output_dir, self.folder = make_folder(output_dir), Path(folder)
        self.loader, self.metadata = loader, dict(metadata or {})

    def finish(self, engine: Engine) -> None:
        """Write both files, and say what the embeddings are like."""
        super().finish(engine)
        if not is_main():
            return
        found = self._known()
        content = Features(
            embeddings=self.embeddings,
            case=np.array([hash_case(name) for name in self.names]),
            metadata={
                **self.metadata,
                "weights": self.loader.path.name,
                "weights_sha256": file_digest(self.loader.path),
                "features_layer": self.hook.layer,
                "key": hash_case("key"),
            },
            **found,
        )
        content.save(self.output_dir / EMBEDDINGS_FILE)
        self._write_names(content)
        logger.info("wrote %s (%d embeddings of %d values)", self.output_dir / EMBEDDINGS_FILE, *self.embeddings.shape)
        logger.info("effective rank %.1f", effective_rank(self.embeddings, center=True))
        if (text := collapse_warning(self.embeddings)) is not None:
            logger.warning("%s", text)

    def _known(self) -> dict[str, np.ndarray]:
        """Labels, classes and splits of the images, as far as a dataset tells."""
        unknown = np.full(len(self.names), -1, dtype=np.int64)
        if not (self.folder / FILE_NAME).is_file():
            return {
                "label": unknown, "predicted": unknown, "class_names": np.array([], dtype=str),
                "split": np.full(len(self.names), ""),
            }  # fmt: skip
        datalist = load_datalist(self.folder)
        items = {item.name: (split, item.label) for split, item in datalist}
        return {
            "label": _labels(datalist, [items[name][1] for name in self.names]),
            "predicted": unknown,
            "class_names": np.array(datalist.class_names, dtype=str),
            "split": np.array([items[name][0] for name in self.names]),
        }

    def _write_names(self, content: Features) -> None:
        path = self.output_dir / NAMES_FILE
        with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(["row", "image", "case", "split"])
            writer.writerows(zip(range(len(self.names)), self.names, content.case, content.split))


def _labels(datalist: Datalist, labels: Sequence[Any]) -> np.ndarray:
    """Class indices (N,), or of labels that are each there or not (N, C); -1 where there is none."""
    width = len(datalist.class_names)
    if datalist.task == "multilabel":
        return np.array([[-1] * width if label is None else label for label in labels]).reshape(len(labels), width)
    return np.array([label if isinstance(label, int) else -1 for label in labels], dtype=np.int64)
