"""Embeddings of images, taken on the way through the network, and the file they are kept in: ``features.npz``."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from medssl_monai.core import ConfigError, DataError, atomic_path, did_you_mean, file_digest, hash_case
from medssl_monai.core.distributed import is_main
from medssl_monai.handlers.prediction_files import class_probabilities, split_file
from medssl_monai.handlers.predictions import CollectOutputs
from medssl_monai.metrics import decision_thresholds

logger = logging.getLogger(__name__)

FEATURES_FILE = "features.npz"
#: the part of a network whose output is an image's embedding, unless a bundle names another (``features_layer``)
FEATURES_LAYER = "encoder"


def encoder_layer(config: Mapping[str, Any]) -> str:
    """The part of an inference network that an encoder's weights belong to: its embeddings' part, or another's.

    A net of volumes gives embeddings of volumes by a part (``features_layer``) behind the encoder of its slices
    (``encoder_layer``).
    """
    return str(config.get("encoder_layer", config.get("features_layer", FEATURES_LAYER)))


_ARRAYS = ("embeddings", "case", "label", "predicted", "class_names", "split")


@dataclass(frozen=True)
class Features:
    """Embeddings of N images and what is known of each; the content of ``features.npz``.

    Attributes:
        embeddings: float32, shape (N, D).
        case: keyed hash of each image's name (:func:`medssl_monai.core.hash_case`), shape (N,).
        label: class index, shape (N,), int64; -1 where it is unknown, or is no single class. Of labels that are each
            there or not 0 or 1, shape (N, C); -1 where unknown.
        predicted: most probable class, shape (N,), int64; -1 where no classifier was asked. Of labels whether each is
            called, shape (N, C).
        class_names: names in index order, shape (C,).
        split: split of the dataset, shape (N,); empty text for images of no dataset.
        metadata: plain values: bundle, version, digest of the weights, input, ``key`` (a hash that tells whether two
            files were made under one hash key).
    """

    embeddings: np.ndarray
    case: np.ndarray
    label: np.ndarray
    predicted: np.ndarray
    class_names: np.ndarray
    split: np.ndarray
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def save(self, path: str | Path) -> None:
        """Write the file atomically; equal features give equal bytes. It loads without pickle."""
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        text = json.dumps({"format": 1, **self.metadata}, ensure_ascii=False, allow_nan=False)
        with atomic_path(path) as temporary, temporary.open("wb") as stream:
            np.savez(stream, **arrays, metadata=np.array(text))


def read_features(path: str | Path) -> Features:
    """Read ``features.npz``.

    Raises:
        DataError: when the file is missing, damaged, or its arrays do not fit one another.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError("no file of features here", where=path, advice="`medssl features` and evaluation write one.")
    try:
        with np.load(path, allow_pickle=False) as content:
            arrays = {name: content[name] for name in _ARRAYS}
            metadata = json.loads(str(content["metadata"]))
    except Exception as error:  # zip, numpy and JSON raise a different type for each kind of damage
        raise DataError(
            f"not a readable file of features ({error})", where=path, advice="Remove it and write it again."
        ) from error
    lengths = {name: len(arrays[name]) for name in _ARRAYS if name != "class_names"}
    if arrays["embeddings"].ndim != 2 or len(set(lengths.values())) != 1:
        raise DataError("the arrays do not fit one another", where=path, found=lengths)
    return Features(**arrays, metadata=metadata)


class EmbeddingHook:
    """Keeps what a part of a network gives while the whole network runs, so that embeddings cost no second pass.

    Args:
        network: the network.
        layer: dotted name of the part. In each pass of N images it gives N rows; a map of features (N, D, h, w, ...)
            is averaged over its positions.

    Raises:
        ConfigError: when the network has no such part.
    """

    def __init__(self, network: nn.Module, layer: str = FEATURES_LAYER) -> None:
        names = [name for name, _ in network.named_modules() if name]
        if layer not in names:
            raise ConfigError(
                f"the network has no part {layer!r} to take embeddings from", where="features_layer",
                advice=did_you_mean(layer, [name for name in names if "." not in name]),
            )  # fmt: skip
        self.module, self.layer = network.get_submodule(layer), layer
        self._passes: list[Tensor] = []
        self._handle: RemovableHandle | None = None

    def start(self) -> None:
        """Begin to listen."""
        self.stop()
        self._handle = self.module.register_forward_hook(self._keep)

    def stop(self) -> None:
        """Listen no more and forget what was heard."""
        if self._handle is not None:
            self._handle.remove()
        self._handle, self._passes = None, []

    def take(self, number: int) -> Tensor:
        """Embeddings of the images since the last call: float32 on the CPU, shape (number, D).

        Raises:
            ConfigError: when the part did not give one row an image.
        """
        passes, self._passes = self._passes, []
        shapes = [tuple(output.shape) for output in passes]
        rows = torch.cat(passes) if passes and all(len(shape) == 2 for shape in shapes) else None
        if rows is None or len(rows) != number:
            raise ConfigError(
                f"{self.layer!r} does not give one embedding an image", where="features_layer",
                found=", ".join(map(str, shapes)) or "no pass through it", expected=f"({number}, D)",
                advice="Name a part of the network whose output is (N, D) or a map (N, D, h, w).",
            )  # fmt: skip
        return rows

    def _keep(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            pooled = output.detach().float()
            self._passes.append((pooled.flatten(2).mean(2) if pooled.dim() > 2 else pooled).cpu())


class FeatureCollector(CollectOutputs):
    """Collects the embeddings of an evaluator's images beside names, outputs and labels.

    Args:
        network: the network the evaluator runs.
        layer: dotted name of the part that gives the embeddings (see :class:`EmbeddingHook`).
    """

    collected = (*CollectOutputs.collected, "_embeddings")

    def __init__(self, network: nn.Module, layer: str = FEATURES_LAYER) -> None:
        self.hook = EmbeddingHook(network, layer)
        self._embeddings: list[Tensor] = []

    def clear(self, engine: Engine) -> None:
        """Forget the last epoch and listen to the network."""
        super().clear(engine)
        self._embeddings = []
        self.hook.start()

    def collect(self, engine: Engine) -> None:
        """Add a batch, also where the engine has taken it apart for postprocessing."""
        batch: Any = engine.state.batch
        output: Any = engine.state.output
        before = len(self.names)
        if isinstance(batch, list):
            self.names += [str(one["name"]) for one in batch]
            self._outputs += [torch.as_tensor(result["pred"]).detach().float().cpu()[None] for result in output]
        else:
            super().collect(engine)
        self._embeddings.append(self.hook.take(len(self.names) - before))

    def finish(self, engine: Engine) -> None:
        """Leave the network as it was."""
        self.hook.stop()

    @property
    def embeddings(self) -> np.ndarray:
        """Embeddings (N, D), float32, in the loader's order."""
        return torch.cat(self._embeddings).numpy()


class FeatureWriter(FeatureCollector):
    """Evaluation: writes ``features.npz`` from the pass that evaluates.

    It stands behind the handler that writes predictions. Names become keyed hashes. Of another split than ``test`` the
    file is ``validation_features.npz``.

    Args:
        network: the network the evaluator runs.
        output_dir: where to write.
        class_names: names in index order.
        weights: file of the network's weights; its digest is kept with the features.
        layer: dotted name of the part that gives the embeddings.
        split: split the images are of.
        metadata: further plain values to keep (bundle, input size, ...).
        serving: content of ``serving.json``; needed for labels that are each there or not, which are called from their
            operating points on.
    """

    def __init__(
        self,
        network: nn.Module,
        output_dir: str | Path,
        class_names: Sequence[str],
        weights: str | Path,
        layer: str = FEATURES_LAYER,
        split: str = "test",
        metadata: Mapping[str, Any] | None = None,
        serving: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(network, layer)
        self.path = Path(output_dir) / split_file(FEATURES_FILE, split)
        self.class_names, self.weights = list(class_names), Path(weights)
        self.split, self.metadata, self.serving = split, dict(metadata or {}), serving or {}

    def finish(self, engine: Engine) -> None:
        """Write the file."""
        super().finish(engine)
        if not is_main():
            return
        label, predicted = self._answers()
        content = Features(
            embeddings=self.embeddings,
            case=np.array([hash_case(name) for name in self.names]),
            label=label,
            predicted=predicted,
            class_names=np.array(self.class_names),
            split=np.full(len(self.names), self.split),
            metadata={
                **self.metadata,
                "weights_sha256": file_digest(self.weights),
                "features_layer": self.hook.layer,
                "key": hash_case("key"),
            },
        )
        content.save(self.path)
        logger.info("wrote %s (%d embeddings of %d values)", self.path, *content.embeddings.shape)

    def _answers(self) -> tuple[np.ndarray, np.ndarray]:
        """True and called class of each image, (N,), or of each of its labels, (N, C)."""
        outputs = self.outputs
        if self.serving.get("exclusive", True):
            predicted = outputs.argmax(axis=1)
        else:
            limits = decision_thresholds(self.class_names, self.serving.get("operating_points"))
            scaled = class_probabilities(outputs, self.serving.get("temperature"), exclusive=False)
            predicted = (scaled >= limits).astype(np.int64)
        if not self._labels:
            return np.full(predicted.shape, -1, dtype=np.int64), predicted
        return self.labels.astype(np.int64).reshape(predicted.shape), predicted
