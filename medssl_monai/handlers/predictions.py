"""Handlers that collect a classifier's outputs and write what users read: predictions, metrics."""

from __future__ import annotations

import csv
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor

from medssl_monai.core import DataError, FolderLock, atomic_path, hash_case, make_folder, write_json
from medssl_monai.core.distributed import is_main
from medssl_monai.core.environment import versions
from medssl_monai.data.datalist import Item
from medssl_monai.data.inputs import InputProfile
from medssl_monai.data.shards import gather_shards
from medssl_monai.handlers.provenance import hash_subjects
from medssl_monai.metrics import classification_report
from medssl_monai.transforms.serving import DESCRIPTION_KEY

logger = logging.getLogger(__name__)

PREDICTIONS_FILE = "predictions.csv"
INFERENCE_FILE = "inference.csv"
METRICS_FILE = "metrics.json"


class CollectOutputs:
    """Names, outputs (N, C), labels (N,) and input descriptions of an evaluator's epoch, in the dataset's order.

    With several processes each collects its share; when the epoch is complete every one has all of it.
    """

    #: lists, an entry a batch or an image, that are joined over the processes
    collected: tuple[str, ...] = ("names", "_outputs", "_labels", "_descriptions")

    def attach(self, engine: Engine) -> None:
        """Collect from ``engine`` (an evaluator without decollation)."""
        engine.add_event_handler(Events.EPOCH_STARTED, self.clear)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.join)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.finish)

    def clear(self, engine: Engine) -> None:
        """Forget the last epoch."""
        self.names: list[str] = []
        self._outputs: list[torch.Tensor] = []
        self._labels: list[torch.Tensor] = []
        self._descriptions: list[np.ndarray] = []

    def collect(self, engine: Engine) -> None:
        """Add a batch."""
        batch: Any = engine.state.batch
        output: Any = engine.state.output
        self.names += [str(name) for name in batch["name"]]
        self._outputs.append(torch.as_tensor(output["pred"]).detach().float().cpu())
        if output.get("label") is not None:
            self._labels.append(torch.as_tensor(output["label"]).detach().cpu())
        image = batch["image"]
        if isinstance(image, MetaTensor) and DESCRIPTION_KEY in image.meta:
            self._descriptions.append(np.asarray(image.meta[DESCRIPTION_KEY]))

    def join(self, engine: Engine) -> None:
        """Put the processes' shares together."""
        loader = getattr(engine, "data_loader", None)
        for name in self.collected:
            setattr(self, name, gather_shards(loader, getattr(self, name)))

    @property
    def outputs(self) -> np.ndarray:
        """Outputs (N, C), float64."""
        return torch.cat(self._outputs).double().numpy()

    @property
    def labels(self) -> np.ndarray:
        """Labels (N,)."""
        return torch.cat(self._labels).numpy()

    @property
    def descriptions(self) -> np.ndarray:
        """Input descriptions (N, 5), or (0, 5) where the images carry none."""
        return np.concatenate(self._descriptions) if self._descriptions else np.empty((0, 5))

    def finish(self, engine: Engine) -> None:
        """Hook: the epoch is complete; called in every process."""


def softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis, in float64."""
    return torch.softmax(torch.from_numpy(logits).double(), dim=-1).numpy()


def write_predictions(
    path: str | Path,
    names: Sequence[str],
    probabilities: np.ndarray,
    class_names: Sequence[str],
    columns: Mapping[str, Sequence[Any]] | None = None,
) -> None:
    """Write one row an image: name, further columns, the most probable class, the probability of each class.

    Args:
        path: the CSV file.
        names: N names.
        probabilities: (N, C).
        class_names: C names.
        columns: further columns of N values, after the name.
    """
    columns = columns or {}
    best = probabilities.argmax(axis=1)
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["image", *columns, "predicted", *(f"probability_{name}" for name in class_names)])
        for row, name in enumerate(names):
            further = [values[row] for values in columns.values()]
            writer.writerow([name, *further, class_names[best[row]], *(f"{p:.9g}" for p in probabilities[row])])


class WritesFolder:
    """A handler whose run has its ``output_dir`` to itself."""

    output_dir: Path
    _lock: FolderLock | None = None

    def before_run(self, engine: Engine) -> None:
        """Take the folder.

        Raises:
            OutputError: when another run writes there.
        """
        if is_main():
            self._lock = FolderLock(self.output_dir)
            self._lock.acquire()

    def after_run(self, engine: Engine, error: BaseException | None = None) -> None:
        """Give it back."""
        if self._lock is not None:
            self._lock.release()


class PredictionWriter(WritesFolder, CollectOutputs):
    """Inference: writes ``inference.csv`` and warns where images differ from the training data.

    Outputs are probabilities (the configuration's postprocessing makes them). The column ``differs`` says in what an
    image differs from those of the training data in size, channels or intensity.

    Args:
        output_dir: where to write.
        class_names: names in index order.
        inputs: profile of the training images as ``serving.json`` holds it; ``None`` compares nothing.
    """

    def __init__(
        self, output_dir: str | Path, class_names: Sequence[str], inputs: Mapping[str, Any] | None = None
    ) -> None:
        self.output_dir, self.class_names = make_folder(output_dir), list(class_names)
        self.profile = None if inputs is None else InputProfile.from_json(inputs)

    def collect(self, engine: Engine) -> None:
        """Add a batch, joined again where the engine has taken it apart for postprocessing."""
        batch: Any = engine.state.batch
        output: Any = engine.state.output
        if isinstance(batch, list):
            for one, result in zip(batch, output):
                self.names.append(str(one["name"]))
                self._outputs.append(torch.as_tensor(result["pred"]).detach().float().cpu()[None])
                meta = one["image"].meta if isinstance(one["image"], MetaTensor) else {}
                if DESCRIPTION_KEY in meta:
                    self._descriptions.append(np.asarray(meta[DESCRIPTION_KEY]).reshape(1, -1))
        else:
            super().collect(engine)

    def finish(self, engine: Engine) -> None:
        """Write the file."""
        if not is_main():
            return
        columns: dict[str, list[str]] = {}
        if self.profile is not None and len(self.descriptions) == len(self.names):
            columns["differs"] = ["; ".join(self.profile.differences(row)) for row in self.descriptions]
            unusual = [text for text in columns["differs"] if text]
            if unusual:
                logger.warning(
                    "%d of %d images differ from the training data, for example: %s (see column `differs` of %s)",
                    len(unusual), len(self.names), unusual[0], INFERENCE_FILE,
                )  # fmt: skip
        path = self.output_dir / INFERENCE_FILE
        write_predictions(path, self.names, self.outputs, self.class_names, columns)
        logger.info("wrote %s (%d images)", path, len(self.names))


class EvaluationWriter(WritesFolder, CollectOutputs):
    """Evaluation: writes ``metrics.json`` and ``predictions.csv`` from the logits of the test images.

    Args:
        output_dir: where to write.
        items: the test items, for subjects and subgroup columns.
        serving: content of ``serving.json``: labels, temperature, operating points, counts of labels used.
        dataset: name of the dataset.
        threshold: threshold of the one-vs-rest figures.
        n_boot: bootstrap resamples.
        seed: seed of the resampling.
    """

    def __init__(
        self,
        output_dir: str | Path,
        items: Sequence[Item],
        serving: Mapping[str, Any],
        dataset: str = "",
        threshold: float = 0.18,
        n_boot: int = 1000,
        seed: int = 0,
    ) -> None:
        self.output_dir, self.serving, self.dataset = make_folder(output_dir), serving, dataset
        self.items = {item.name: item for item in items}
        self.threshold, self.n_boot, self.seed = threshold, n_boot, seed
        self.report: dict[str, Any] = {}
        self.probabilities = np.empty((0, 0))

    def finish(self, engine: Engine) -> None:
        """Compute the report and write both files.

        Raises:
            DataError: when an image of the loader is not among the items.
        """
        if not is_main():
            return
        unknown = [name for name in self.names if name not in self.items]
        if unknown:
            raise DataError("image is not in the test split", where=unknown[0])
        items = [self.items[name] for name in self.names]
        class_names, temperature = self.serving["labels"], self.serving["temperature"]
        keys = sorted({key for item in items for key in item.columns})
        self.probabilities = softmax(self.outputs / (temperature or 1.0))
        known = any(item.subject is not None for item in items)
        self.report = classification_report(
            self.labels,
            softmax(self.outputs),
            [item.group for item in items] if known else None,
            class_names,
            threshold=self.threshold,
            operating_points=self.serving["operating_points"] or None,
            temperature=temperature,
            columns={key: [item.columns.get(key) for item in items] for key in keys} or None,
            n_boot=self.n_boot,
            seed=self.seed,
        )
        if temperature is None:
            self.report["warnings"].append(
                f"neither calibrated nor operating points: {self.serving['calibration_note']}"
            )
        self._flag_seen_subjects(items)
        for text in self.report["warnings"]:
            logger.warning("%s", text)
        write_json(
            self.output_dir / METRICS_FILE,
            {
                "dataset": self.dataset,
                "settings": self.serving["settings"],
                "label_counts": self.serving["label_counts"],
                **self.report,
                "versions": versions(),
            },
        )
        truth = [class_names[label] for label in self.labels]
        subjects = [item.subject or "" for item in items]
        write_predictions(
            self.output_dir / PREDICTIONS_FILE,
            self.names,
            self.probabilities,
            class_names,
            {"subject": subjects, "label": truth},
        )
        logger.info("wrote %s and %s in %s", METRICS_FILE, PREDICTIONS_FILE, self.output_dir)

    def _flag_seen_subjects(self, items: Sequence[Item]) -> None:
        """Say how many test subjects the network has been trained with; unknown under another hash key."""
        warnings = self.report["warnings"]
        if self.serving.get("seen_key") != hash_case("key"):
            self.report["n_subjects_seen_in_training"] = None
            warnings.append("trained under another hash key: whether test subjects were seen in training is unknown")
            return
        seen = hash_subjects(self.dataset, items) & set(self.serving["seen_subjects"])
        self.report["n_subjects_seen_in_training"] = len(seen)
        if seen and self.serving["label_counts"].get("transductive"):
            warnings.append(
                f"transductive: images of {len(seen)} of {self.report['n_subjects']} test subjects were trained on "
                "without their labels; on new patients the figures may be lower"
            )
        elif seen:
            warnings.append(
                f"{len(seen)} of {self.report['n_subjects']} test subjects were seen in training: "
                "the figures are too good"
            )
