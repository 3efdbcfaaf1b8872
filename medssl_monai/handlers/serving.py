"""What is stored with a trained classifier, in ``serving.json``: thresholds, temperature, labels, label counts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from torch import nn

from medssl_monai.core import CheckpointError, file_digest, hash_case, read_json, write_json
from medssl_monai.core.distributed import broadcast_object, is_main
from medssl_monai.core.environment import versions
from medssl_monai.data.budget import Budget
from medssl_monai.data.inputs import InputProfile
from medssl_monai.data.shards import gather_shards
from medssl_monai.handlers.budget import label_counts
from medssl_monai.handlers.model_export import MODEL_FILE
from medssl_monai.handlers.prediction_files import class_probabilities
from medssl_monai.handlers.provenance import seen_subjects
from medssl_monai.handlers.storage import load_tensors
from medssl_monai.metrics import choose_operating_points, fit_label_temperatures, fit_temperature

logger = logging.getLogger(__name__)

SERVING_FILE = "serving.json"


@torch.no_grad()
def predict_logits(
    network: nn.Module, loader: Iterable[Mapping[str, Any]], device: torch.device | str
) -> tuple[np.ndarray, np.ndarray]:
    """Logits (N, C) and labels (N,) of a loader's images, in evaluation mode.

    Where the loader gives each process its share, every process must call, and gets all.
    """
    network.eval()
    logits, labels = [], []
    for batch in loader:
        logits.append(network(batch["image"].to(device)).float().cpu())
        labels.append(torch.as_tensor(batch["label"]).cpu())
    return torch.cat(gather_shards(loader, logits)).numpy(), torch.cat(gather_shards(loader, labels)).numpy()


class ServingRecord:
    """Writes ``serving.json`` when training is done: everything serving needs beside the weights.

    Temperature and operating points are set on the validation images, with the network of ``model.pt``; where there
    are too few validation labels they are left out, with the reason. With several processes all predict, the first
    writes.

    Args:
        folder: where ``model.pt`` lies and the file goes.
        network: a network of the architecture of ``model.pt``; left as it is.
        validation: loader of the validation images.
        class_names: names in index order.
        calibrate: whether there are validation labels enough to set temperature and operating points.
        records: data dictionaries of the training images, for the input profile.
        loading: loading part of the preprocessing, with ``DescribeInputd``.
        budget: the labels used; their counts are stored.
        settings: plain values to store (regime, backbone, seed, image size, ...).
        pretraining: what the encoder's pre-training has seen (:func:`pretraining`).
        device: where to compute.
        rule: rule of the operating points.
        exclusive: the outputs are exclusive classes; otherwise labels that are each there or not, with a temperature
            each.
    """

    def __init__(
        self,
        folder: str | Path,
        network: nn.Module,
        validation: Iterable[Mapping[str, Any]],
        class_names: Sequence[str],
        calibrate: bool,
        records: Sequence[Mapping[str, Any]],
        loading: Callable[[dict[str, Any]], Mapping[str, Any]],
        budget: Budget,
        settings: Mapping[str, Any],
        pretraining: Mapping[str, Any] | None = None,
        device: torch.device | str = "cpu",
        rule: str = "youden",
        exclusive: bool = True,
    ) -> None:
        self.folder, self.network, self.validation, self.class_names = Path(folder), network, validation, class_names
        self.calibrate, self.records, self.loading = calibrate, records, loading
        self.budget, self.settings, self.device, self.rule = budget, settings, device, rule
        self.pretraining, self.exclusive = pretraining, exclusive

    def attach(self, engine: Engine) -> None:
        """Write when ``engine`` has completed."""
        engine.add_event_handler(Events.COMPLETED, self.write)

    def write(self, engine: Engine | None = None) -> None:
        """Compute and write the record."""
        model = self.folder / MODEL_FILE
        validated = self._predict(model) if self.calibrate else None
        if not is_main():
            return
        content: dict[str, Any] = {
            "labels": list(self.class_names),
            "exclusive": self.exclusive,
            "settings": dict(self.settings),
            "label_counts": label_counts(self.budget),
            "inputs": InputProfile.from_records(self.records, self.loading).to_json(),
            "model_sha256": file_digest(model),
            "versions": versions(),
            **self._calibration(validated),
            "seen_key": hash_case("key"),
            "seen_subjects": seen_subjects(self.budget, self.pretraining),
        }
        write_json(self.folder / SERVING_FILE, content)
        logger.info("wrote %s", self.folder / SERVING_FILE)

    def _predict(self, model: Path) -> tuple[np.ndarray, np.ndarray]:
        """Logits and labels of the validation images by the network of ``model``, which the first process reads."""
        current = {name: value.clone() for name, value in self.network.state_dict().items()}
        training = self.network.training
        try:
            state: Any = load_tensors(model) if is_main() else None
            self.network.load_state_dict(broadcast_object(state))
            return predict_logits(self.network, self.validation, self.device)
        finally:
            self.network.load_state_dict(current)
            self.network.train(training)

    def _calibration(self, validated: tuple[np.ndarray, np.ndarray] | None) -> dict[str, Any]:
        if validated is None:
            reason = "too few validation labels to set a temperature or operating points"
            return {"temperature": None, "operating_points": {}, "calibration_note": reason}
        logits, labels = validated
        temperature: float | list[float]
        if self.exclusive:
            temperature = fit_temperature(logits, labels)
        else:
            labels = labels.reshape(logits.shape)
            temperature = fit_label_temperatures(logits, labels, self.class_names)
        probabilities = class_probabilities(logits, temperature, self.exclusive)
        points = choose_operating_points(labels, probabilities, list(self.class_names), rule=self.rule)
        return {
            "temperature": temperature,
            "operating_points": points,
            "calibration_note": f"set on {len(labels)} validation images",
        }


def read_serving(
    folder: str | Path,
    class_names: Sequence[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    required: bool = True,
) -> dict[str, Any]:
    """Read ``serving.json`` of a trained classifier.

    Args:
        folder: the ``ckpt_dir``.
        class_names: names that must be those it was trained on.
        settings: values that must be those it was trained with (image size, backbone, ...).
        required: ``False`` where embeddings are asked for, which need no classifier: nothing is known then where there
            is no record.

    Raises:
        CheckpointError: when there is none, it was made for other labels or settings, or it is not the record of the
            ``model.pt`` beside it, or that is damaged.
    """
    path = Path(folder) / SERVING_FILE
    if not required and not path.is_file():
        return {"exclusive": True, "inputs": None, "temperature": None, "operating_points": {}, "settings": {}}
    if not path.is_file():
        raise CheckpointError(
            f"no {SERVING_FILE} here", where=path.parent,
            advice="The train stage writes it beside model.pt: run that first, or name its ckpt_dir.",
        )  # fmt: skip
    content: dict[str, Any] = {"exclusive": True, **read_json(path)}  # records of version 0.1 do not say it
    if class_names is not None and content.get("labels") != list(class_names):
        raise CheckpointError(
            "the network was trained for other labels", where=path, found=content.get("labels"),
            expected=list(class_names), advice="Give `labels` as it was trained, or train again.",
        )  # fmt: skip
    check_settings(content.get("settings", {}), settings, path)
    model = Path(folder) / MODEL_FILE
    if model.is_file() and content.get("model_sha256") != file_digest(model):
        load_tensors(model)  # a damaged file is named as such
        raise CheckpointError(
            f"{SERVING_FILE} belongs to another {MODEL_FILE}", where=path,
            advice="Thresholds and temperature hold for one set of weights: run the train stage again.",
        )  # fmt: skip
    return content


def check_settings(trained: Mapping[str, Any], settings: Mapping[str, Any] | None, where: Path) -> None:
    """Refuse settings that are not those of training, as far as these are known.

    Raises:
        CheckpointError: naming both.
    """
    other = {key: value for key, value in (settings or {}).items() if key in trained and trained[key] != value}
    if other:
        raise CheckpointError(
            "the network was trained with other settings", where=where, found=_pairs(other),
            expected=_pairs({key: trained[key] for key in other}), advice="Give these keys as in training.",
        )  # fmt: skip


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in values.items())


def serving_labels(folder: str | Path, default: Sequence[str] | None = None) -> list[str]:
    """Class names of a trained classifier, ``default`` where no ``serving.json`` lies beside the weights yet.

    A bundle that learns whatever labels a dataset has knows by it how many outputs its network has.

    Raises:
        CheckpointError: when there is none and no default.
    """
    path = Path(folder) / SERVING_FILE
    if not path.is_file():
        return list(default) if default is not None else list(read_serving(folder)["labels"])  # which says what to do
    return [str(name) for name in read_json(path)["labels"]]


def serving_exclusive(folder: str | Path, default: bool = True) -> bool:
    """Whether a trained classifier's outputs are exclusive classes, ``default`` where there is no ``serving.json``."""
    path = Path(folder) / SERVING_FILE
    return bool(read_json(path).get("exclusive", True)) if path.is_file() else default


def serving_temperature(folder: str | Path) -> float | list[float]:
    """The temperature set on validation, 1 where none was set or no ``serving.json`` lies beside the weights.

    Of labels that are each there or not it is a list, one a label.
    """
    path = Path(folder) / SERVING_FILE
    temperature = read_json(path)["temperature"] if path.is_file() else None
    if isinstance(temperature, list):
        return [float(one) for one in temperature]
    return 1.0 if temperature is None else float(temperature)
