"""A trained run of a bundle, opened in this process: its network, its preprocessing, embeddings and predictions.

What a bundle must offer, in ``inference.yaml``: ``dataset::data`` (records with ``image`` and ``name``), ``evaluator``
(a MONAI evaluator that runs ``network`` with ``handlers``), ``load_model`` (handler that loads the weights from
``ckpt_dir``) and, where predictions are postprocessed, probabilities (C,) under ``pred``. Embeddings are the output of
the network's part ``encoder``: (N, D), or a map (N, D, h, w) that is averaged over its positions. A bundle with another
part names it in the key ``features_layer``.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from torch import nn

from medssl_monai.apps._tasks import refuse_masks
from medssl_monai.apps.run import _REFERENCE, _texts, readable_cause, resolve_config
from medssl_monai.core import CheckpointError, ConfigError, MedSSLError, bundle_dir, file_digest, read_json
from medssl_monai.handlers.embeddings import encoder_settings
from medssl_monai.handlers.features import FEATURES_LAYER, FeatureCollector, encoder_layer
from medssl_monai.handlers.model_export import MODEL_FILE
from medssl_monai.handlers.serving import SERVING_FILE
from medssl_monai.metrics import decision_thresholds
from medssl_monai.networks import load_state

logger = logging.getLogger(__name__)

#: parts of ``inference.yaml`` whose settings must be those of training
_AS_TRAINED = ("network_def", "preprocessing", "serving")


@dataclass(frozen=True)
class Predictions:
    """Embeddings and outputs of N images, in the order of the records.

    Attributes:
        names: N names.
        embeddings: (N, D), float32.
        probabilities: (N, C) as the bundle's postprocessing gives them; ``None`` without a trained classifier.
    """

    names: list[str]
    embeddings: np.ndarray
    probabilities: np.ndarray | None


class OpenRun:
    """A bundle's inference, with the weights of a run or of an encoder.

    Args:
        bundle: the bundle's folder or name.
        data: dataset folder, folder of images, or one image (the bundle's ``dataset_dir``).
        run_dir: the run's folder; ``None`` as for ``medssl run``.
        encoder: weights of an encoder; there are no predictions then.
        overrides: keys of ``inference.yaml``; what is not given here is as the run was trained.
        overlays: names or files of overlays.
        trained: keys that the weights were trained with, for those that no file beside the weights tells.

    Raises:
        ConfigError: when a key is unknown or the bundle lacks a part.
        CheckpointError: when there are no weights, or they are damaged or of another network.
    """

    def __init__(
        self,
        bundle: str | Path,
        data: str | Path,
        run_dir: str | Path | None = None,
        encoder: str | Path | None = None,
        overrides: Mapping[str, Any] | None = None,
        overlays: Sequence[str] = (),
        trained: Mapping[str, Any] | None = None,
    ) -> None:
        given = {"cache_rate": 0.0, "dataset_dir": str(data), **(overrides or {})}  # every image is needed once only
        self.bundle, self.encoder = bundle_dir(bundle), None if encoder is None else Path(encoder)
        self.data = Path(data)
        refuse_masks(bundle)
        config, _ = resolve_config(bundle, "inference", given, overlays, run_dir)
        self.ckpt_dir = Path(_resolved(config, "ckpt_dir"))
        told = {**{key: value for key, value in (trained or {}).items() if _is_plain(value)}, **self._trained()}
        told = {key: value for key, value in told.items() if value != []}  # the labels of a dataset without any
        as_trained = {key: value for key, value in told.items() if key in keys_read_by(config) and key not in given}
        self.config, _ = resolve_config(bundle, "inference", {**as_trained, **given}, overlays, run_dir)
        self.layer = str(self.config.get("features_layer", FEATURES_LAYER))
        missing = [key for key in ("dataset", "evaluator", "network", "load_model") if key not in self.config]
        if missing:
            raise ConfigError(
                f"this bundle cannot be asked for embeddings: its inference lacks {', '.join(missing)}",
                where=self.bundle.name,
            )
        self.input_shape: tuple[int, ...] | None = None
        self.weights = self.ckpt_dir / MODEL_FILE if self.encoder is None else self.encoder
        if not self.weights.is_file():
            raise CheckpointError(
                "no trained network here" if self.encoder is None else "no such file of weights", where=self.weights,
                advice="Run the train stage first, name the run by --run-dir, or an encoder (such as the pretrain "
                "stage's pretrain.pt) by --encoder.",
            )  # fmt: skip

    def _trained(self) -> dict[str, Any]:
        """Settings that the weights were trained with, as far as they are recorded."""
        return encoder_settings(self.ckpt_dir / MODEL_FILE if self.encoder is None else self.encoder)

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, in index order; empty where the bundle names none."""
        labels = self.config.get("labels", [])
        if not isinstance(labels, list):  # an expression, such as the labels of a dataset
            labels = self.serving.get("labels", [])
        return [str(name) for name in labels]

    @property
    def serving(self) -> dict[str, Any]:
        """What is stored with the trained network; empty for an encoder, or where nothing is."""
        path = self.ckpt_dir / SERVING_FILE
        return dict(read_json(path)) if self.encoder is None and path.is_file() else {}

    @property
    def exclusive(self) -> bool:
        """Whether the outputs are exclusive classes; otherwise labels that are each there or not."""
        return bool(self.serving.get("exclusive", True))

    def called(self, probabilities: np.ndarray) -> np.ndarray:
        """Which labels are called, (N, C), of labels that are each there or not: from their operating points on."""
        return np.asarray(probabilities >= decision_thresholds(self.class_names, self.serving.get("operating_points")))

    def describe(self) -> dict[str, Any]:
        """What embeddings of this run are: bundle, version, weights and their digest, input.

        The input is as the bundle's metadata say it, with the shape that the network was last given by
        :meth:`predict`.
        """
        metadata = read_json(self.bundle / "configs" / "metadata.json")
        settings = {
            key: self.config[key]
            for key in sorted(keys_read_by(self.config))
            if _is_plain(self.config[key]) and not key.endswith(("_dir", "_root"))
        }
        return {
            "bundle": self.bundle.name,
            "bundle_version": metadata.get("version"),
            "weights": "encoder" if self.encoder is not None else "classifier",
            "weights_sha256": file_digest(self.weights),
            "features_layer": self.layer,
            "input": self._input(metadata.get("network_data_format", {}).get("inputs", {})),
            "settings": settings,
        }

    def _input(self, stated: Mapping[str, Any]) -> dict[str, Any]:
        """The inputs of the metadata; of the image, channels and size are those that were used."""
        inputs = {name: dict(content) for name, content in stated.items()}
        if self.input_shape is not None:
            channels, *size = self.input_shape
            image = inputs.setdefault("image", {})
            if channels != image.get("num_channels"):
                image.pop("channel_def", None)  # it names other channels
            image.update(num_channels=channels, spatial_shape=size)
        return inputs

    def _note_input(self, network: nn.Module, inputs: Any) -> None:
        if inputs and isinstance(inputs[0], torch.Tensor):
            self.input_shape = tuple(inputs[0].shape[1:])

    def predict(self, records: Sequence[Mapping[str, Any]]) -> Predictions:
        """Embed and predict images with the bundle's own inference, batch by batch.

        Args:
            records: data dictionaries with ``image`` and ``name``; names differ.

        Raises:
            MedSSLError: the cause, where an image cannot be prepared or the weights do not fit.
        """
        config = dict(self.config)
        config["dataset"] = {**config["dataset"], "data": [dict(record) for record in records]}
        config["handlers"] = ["@load_model"] if self.encoder is None else "$[]"
        parser = ConfigParser(config)
        try:
            if self.encoder is None and "serving" in config:
                parser.get_parsed_content("serving")  # refuses settings other than those of training
            network: nn.Module = parser.get_parsed_content("network")
            network.register_forward_pre_hook(self._note_input)
            collector = FeatureCollector(network, self.layer)
            if self.encoder is not None:
                logger.info(
                    "%s: %s", self.encoder, load_state(network.get_submodule(encoder_layer(self.config)), self.encoder)
                )
            evaluator: Any = parser.get_parsed_content("evaluator")
            evaluator.logger.setLevel(logging.WARNING)
            collector.attach(evaluator)
            with torch.no_grad():
                evaluator.run()
        except MedSSLError:
            raise
        except Exception as error:
            raise readable_cause(error, "inference") from error
        probabilities = None if self.encoder is not None else collector.outputs
        return Predictions(collector.names, collector.embeddings, probabilities)


def _resolved(config: Mapping[str, Any], key: str) -> Any:
    """The value of a key that may be an expression of other keys."""
    return ConfigParser(dict(config)).get_parsed_content(key)


def keys_read_by(config: Mapping[str, Any]) -> set[str]:
    """Top-level keys that the network, the preprocessing or the check of the served weights read."""
    found: set[str] = set()
    todo = [part for part in _AS_TRAINED if part in config]
    while todo:
        new = {name for text in _texts(config[todo.pop()]) for name in _REFERENCE.findall(text)} - found
        found |= new
        todo += [name for name in new if name in config]
    return found & set(config)


def _is_plain(value: Any) -> bool:
    """Whether a value stands in the configuration as it is: no expression, no component."""
    if isinstance(value, list):
        return all(_is_plain(entry) for entry in value)
    return isinstance(value, (int, float)) or (isinstance(value, str) and not value.startswith(("$", "@", "%")))
