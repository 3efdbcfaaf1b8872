"""Handlers that collect a classifier's outputs and write what users read: predictions, metrics."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor

from medssl_monai.core import DataError, FolderLock, hash_case, make_folder, write_json
from medssl_monai.core.distributed import is_main
from medssl_monai.core.environment import versions
from medssl_monai.data.datalist import Item
from medssl_monai.data.inputs import InputProfile
from medssl_monai.data.shards import gather_shards
from medssl_monai.handlers.prediction_files import (
    TEST,
    class_probabilities,
    split_file,
    write_label_predictions,
)
from medssl_monai.handlers.prediction_files import (
    write_predictions as write_predictions,
)
from medssl_monai.handlers.provenance import hash_subjects
from medssl_monai.metrics import PAPER_THRESHOLD, classification_report, decision_thresholds, multilabel_report
from medssl_monai.transforms.serving import DESCRIPTION_KEY

logger = logging.getLogger(__name__)

PREDICTIONS_FILE = "predictions.csv"
INFERENCE_FILE = "inference.csv"
METRICS_FILE = "metrics.json"
NO_TEST = (
    "figures of the {} split, by which checkpoint, temperatures and operating points were chosen: too good, and no "
    "test result"
)


class CollectOutputs:
    """Names, outputs (N, C), labels (N,) or (N, C) and input descriptions of an evaluator's epoch.

    They are in the dataset's order.

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
        """Labels (N,), or (N, C) of a 0/1 table."""
        return torch.cat(self._labels).numpy()

    @property
    def descriptions(self) -> np.ndarray:
        """Input descriptions (N, 5), or (0, 5) where the images carry none."""
        return np.concatenate(self._descriptions) if self._descriptions else np.empty((0, 5))

    def finish(self, engine: Engine) -> None:
        """Hook: the epoch is complete; called in every process."""


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
        exclusive: the outputs are exclusive classes; otherwise labels that are each there or not, each called from its
            operating point on.
        operating_points: of labels, as ``serving.json`` holds them; a label without one is called from 0.5 on.
    """

    def __init__(
        self,
        output_dir: str | Path,
        class_names: Sequence[str],
        inputs: Mapping[str, Any] | None = None,
        exclusive: bool = True,
        operating_points: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.output_dir, self.class_names = make_folder(output_dir), list(class_names)
        self.exclusive, self.limits = exclusive, decision_thresholds(class_names, operating_points)
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
        if self.exclusive:
            write_predictions(path, self.names, self.outputs, self.class_names, columns)
        else:
            called = self.outputs >= self.limits
            write_label_predictions(path, self.names, self.outputs, called, self.class_names, columns)
        logger.info("wrote %s (%d images)", path, len(self.names))


class EvaluationWriter(WritesFolder, CollectOutputs):
    """Evaluation: writes ``metrics.json`` and ``predictions.csv`` from the logits of the test images.

    Of another split than ``test`` the files are ``validation_metrics.json`` and ``validation_predictions.csv``, so that
    nothing takes its figures for test results; the checkpoint, temperatures and operating points were chosen on them.
    An ensemble takes its weights from there.

    Whether outputs are exclusive classes or labels that are each there or not is said by ``serving``.

    Args:
        output_dir: where to write.
        items: the evaluated items, for subjects and subgroup columns.
        serving: content of ``serving.json``: labels, temperature, operating points, counts of labels used.
        dataset: name of the dataset.
        threshold: threshold of the one-vs-rest figures; ``None`` takes 0.18 for exclusive classes (the published
            skin-lesion tables) and 0.5 for labels.
        n_boot: bootstrap resamples.
        seed: seed of the resampling.
        split: split of the items, ``test`` or ``validation``.
    """

    def __init__(
        self,
        output_dir: str | Path,
        items: Sequence[Item],
        serving: Mapping[str, Any],
        dataset: str = "",
        threshold: float | None = None,
        n_boot: int = 1000,
        seed: int = 0,
        split: str = TEST,
    ) -> None:
        self.output_dir, self.serving, self.dataset = make_folder(output_dir), serving, dataset
        self.items = {item.name: item for item in items}
        self.exclusive = bool(serving.get("exclusive", True))
        self.threshold = (PAPER_THRESHOLD if self.exclusive else 0.5) if threshold is None else threshold
        self.n_boot, self.seed, self.split = n_boot, seed, split
        self.report: dict[str, Any] = {}
        self.probabilities = np.empty((0, 0))

    @property
    def called(self) -> np.ndarray:
        """Which labels are called (N, L), for labels that are each there or not."""
        points = self.serving["operating_points"] or None
        return np.asarray(self.probabilities >= decision_thresholds(self.serving["labels"], points))

    def file_name(self, name: str) -> str:
        """The name of a result file for this split: ``validation_metrics.json`` is not ``metrics.json``."""
        return split_file(name, self.split)

    def finish(self, engine: Engine) -> None:
        """Compute the report and write both files.

        Raises:
            DataError: when an image of the loader is not among the items.
        """
        if not is_main():
            return
        unknown = [name for name in self.names if name not in self.items]
        if unknown:
            raise DataError(f"image is not in the {self.split} split", where=unknown[0])
        items = [self.items[name] for name in self.names]
        self.probabilities = class_probabilities(self.outputs, self.serving["temperature"], self.exclusive)
        self.report = self._report(items)
        if self.split != TEST:
            self.report["split"] = self.split
            self.report["warnings"].insert(0, NO_TEST.format(self.split))
        if self.serving["temperature"] is None:
            self.report["warnings"].append(
                f"neither calibrated nor operating points: {self.serving['calibration_note']}"
            )
        self._flag_seen_subjects(items)
        for text in self.report["warnings"]:
            logger.warning("%s", text)
        files = [self.output_dir / self.file_name(name) for name in (METRICS_FILE, PREDICTIONS_FILE)]
        write_json(
            files[0],
            {
                "dataset": self.dataset,
                "settings": self.serving["settings"],
                "label_counts": self.serving["label_counts"],
                **self.report,
                "versions": versions(),
            },
        )
        self._write_predictions(files[1], [item.subject or "" for item in items])
        logger.info("wrote %s and %s in %s", files[0].name, files[1].name, self.output_dir)

    def _report(self, items: Sequence[Item]) -> dict[str, Any]:
        keys = sorted({key for item in items for key in item.columns})
        common: dict[str, Any] = {
            "threshold": self.threshold,
            "operating_points": self.serving["operating_points"] or None,
            "columns": {key: [item.columns.get(key) for item in items] for key in keys} or None,
            "n_boot": self.n_boot,
            "seed": self.seed,
        }
        known = any(item.subject is not None for item in items)
        groups = [item.group for item in items] if known else None
        raw = class_probabilities(self.outputs, None, self.exclusive)
        names, temperature = self.serving["labels"], self.serving["temperature"]
        if self.exclusive:
            return classification_report(self.labels, raw, groups, names, temperature=temperature, **common)
        return multilabel_report(self.labels, raw, groups, names, temperatures=temperature, **common)

    def _write_predictions(self, path: Path, subjects: Sequence[str]) -> None:
        names, columns = self.serving["labels"], {"subject": subjects}
        if self.exclusive:
            truth = [names[label] for label in self.labels]
            write_predictions(path, self.names, self.probabilities, names, {**columns, "label": truth})
        else:
            table = self.labels.reshape(self.probabilities.shape)
            write_label_predictions(path, self.names, self.probabilities, self.called, names, columns, table)

    def _flag_seen_subjects(self, items: Sequence[Item]) -> None:
        if self.split == TEST:  # that others are no test subjects is said already
            flag_seen_subjects(self.report, self.serving, self.dataset, items)


def flag_seen_subjects(report: dict[str, Any], serving: Mapping[str, Any], dataset: str, items: Sequence[Item]) -> None:
    """Say in a report how many test subjects the network has been trained with; unknown under another hash key.

    Args:
        report: the report; ``n_subjects_seen_in_training`` and a warning are added.
        serving: what is stored with the model: ``seen_key``, ``seen_subjects``, ``label_counts``.
        dataset: name of the dataset.
        items: the tested items.
    """
    warnings = report["warnings"]
    if serving.get("seen_key") != hash_case("key"):
        report["n_subjects_seen_in_training"] = None
        warnings.append("trained under another hash key: whether test subjects were seen in training is unknown")
        return
    seen = hash_subjects(dataset, items) & set(serving["seen_subjects"])
    report["n_subjects_seen_in_training"] = len(seen)
    if seen and serving["label_counts"].get("transductive"):
        warnings.append(
            f"transductive: images of {len(seen)} of {report['n_subjects']} test subjects were trained on "
            "without their labels; on new patients the figures may be lower"
        )
    elif seen:
        warnings.append(
            f"{len(seen)} of {report['n_subjects']} test subjects were seen in training: the figures are too good"
        )
