"""Handlers that write what users read of a segmentation: label maps, tables of organs, metrics."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from monai.utils import ImageMetaKey

from medssl_monai.core import ConfigError, DataError, make_folder, write_json
from medssl_monai.core.distributed import is_main
from medssl_monai.core.environment import versions
from medssl_monai.data.datalist import Item
from medssl_monai.data.inputs import InputProfile
from medssl_monai.handlers.prediction_files import TEST, split_file
from medssl_monai.handlers.predictions import (
    INFERENCE_FILE,
    METRICS_FILE,
    NO_TEST,
    PREDICTIONS_FILE,
    CollectOutputs,
    WritesFolder,
    flag_seen_subjects,
)
from medssl_monai.handlers.segmentation_files import (
    MASK_SUFFIX,
    case_file,
    like_named,
    organ_rows,
    score_columns,
    write_label_map,
    write_table,
)
from medssl_monai.metrics import OrganScore, organ_scores, segmentation_report
from medssl_monai.transforms.serving import DESCRIPTION_KEY

logger = logging.getLogger(__name__)

_PROTOCOLS = {"blind": "pred", "paper": "paper_pred"}


class CollectOrgans(WritesFolder, CollectOutputs):
    """What inference and evaluation share: scan by scan, a label map is written and its organs are noted.

    The engine decollates, and its postprocessing ends with label maps in the scans' own geometry
    (:class:`~medssl_monai.transforms.RestoreLabelMapd`) under ``pred``.

    Args:
        output_dir: where to write.
        organs: value in the label maps to name, in the order of the network's outputs.
        masks: write each label map as NIfTI, under the scan's own relative path.
        thresholds: confidence by name of the organ below which it counts as absent; an organ without one is absent
            where no voxel is labelled.
    """

    collected = ("names", "rows")

    def __init__(
        self,
        output_dir: str | Path,
        organs: Mapping[int, str],
        masks: bool = True,
        thresholds: Mapping[str, float | None] | None = None,
    ) -> None:
        unknown = sorted(set(thresholds or {}) - set(organs.values()))
        if unknown:
            raise ConfigError(
                "thresholds of organs that this network does not know", where="thresholds", found=", ".join(unknown),
                expected=", ".join(organs.values()), advice="Write the bank of prototypes anew (train stage).",
            )  # fmt: skip
        self.output_dir, self.organs, self.masks = make_folder(output_dir), dict(organs), masks
        self.thresholds = dict(thresholds or {})

    def clear(self, engine: Engine) -> None:
        """Forget the last epoch."""
        self.names: list[str] = []
        self.rows: list[Any] = []
        self._others = like_named(getattr(engine, "data_loader", None))

    def collect(self, engine: Engine) -> None:
        """Add the scans of a batch.

        Raises:
            ConfigError: when the outputs are not label maps.
            OutputError: when a label map cannot be written.
        """
        batches: Any = engine.state.batch
        outputs: Any = engine.state.output
        if not isinstance(outputs, list):
            raise ConfigError(
                "scans cannot be told apart", where="evaluator", found="decollate: false", expected="true"
            )
        for batch, output in zip(batches, outputs):
            name, labels = str(batch["name"]), label_map(output, "pred")
            if self.masks:
                source = labels.meta.get(ImageMetaKey.FILENAME_OR_OBJ)
                path = case_file(self.output_dir, name, MASK_SUFFIX, source, self._others)
                write_label_map(path, labels[0].cpu().numpy(), labels.affine.cpu().numpy())
            self.names.append(name)
            self.rows.append(self.row(batch, output, labels))

    def row(self, batch: Mapping[str, Any], output: Mapping[str, Any], labels: MetaTensor) -> Any:
        """What is kept of a scan: plain values, which can be sent between processes."""
        raise NotImplementedError

    def confidences(self, output: Mapping[str, Any]) -> list[float | None]:
        """Confidence of each organ; ``None`` where the evaluator gives none.

        Raises:
            ConfigError: when there is another number of them.
        """
        found = output.get("confidence")
        if found is None:
            return [None] * len(self.organs)
        values: list[float | None] = [float(one) for one in torch.as_tensor(found).reshape(-1)]
        if len(values) != len(self.organs):
            raise ConfigError(
                "not a confidence for each organ", where="confidence", found=len(values), expected=len(self.organs)
            )
        return values

    def absent(self, organ: str, volume_ml: float, confidence: float | None) -> bool:
        """Whether an organ seems not to be in the scan."""
        limit = self.thresholds.get(organ)
        return not volume_ml or (limit is not None and confidence is not None and confidence < limit)


def label_map(output: Mapping[str, Any], key: str) -> MetaTensor:
    """The label map (1, X, Y, Z) of an evaluator's output.

    Raises:
        ConfigError: when it is none.
    """
    found = output.get(key)
    if not isinstance(found, MetaTensor) or found.is_floating_point() or found.ndim != 4 or len(found) != 1:
        raise ConfigError(
            "the output is no label map", where=f"postprocessing ({key})",
            found="nothing" if found is None else f"{found.dtype}, shape {tuple(found.shape)}",
            expected="whole numbers (1, X, Y, Z) that know their affine",
            advice="End the postprocessing with medssl_monai.transforms.RestoreLabelMapd for this key.",
        )  # fmt: skip
    return found


class SegmentationWriter(CollectOrgans):
    """Inference: writes a label map for each scan and ``inference.csv``, one row a scan and organ.

    Columns are ``image``, ``organ``, ``label`` (its value in the label map), ``volume_ml``, ``confidence``, ``absent``
    (1: seems not to be there: look before using it) and, with a profile, ``differs``: in what the scan differs from
    the labelled ones in size, channels or intensity.

    Args:
        inputs: profile of the labelled scans (:meth:`medssl_monai.data.InputProfile.to_json`); ``None`` compares
            nothing.
        **kwargs: as for :class:`CollectOrgans`.
    """

    def __init__(self, *, inputs: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.profile = None if inputs is None else InputProfile.from_json(inputs)

    def row(self, batch: Mapping[str, Any], output: Mapping[str, Any], labels: MetaTensor) -> Any:
        """Volumes and confidences."""
        matrix = labels.affine[:3, :3].double().cpu().numpy()
        litres = abs(float(np.linalg.det(matrix)))
        counts = np.bincount(labels.cpu().numpy().reshape(-1), minlength=max(self.organs) + 1)
        rows: list[dict[str, Any]] = []
        for (value, name), confidence in zip(self.organs.items(), self.confidences(output)):
            volume = float(counts[value]) * litres / 1000
            absent = self.absent(name, volume, confidence)
            rows.append({"volume_ml": volume, "confidence": confidence, "absent": absent})
        meta = getattr(batch["image"], "meta", {})
        if self.profile is not None and DESCRIPTION_KEY in meta:
            differs = "; ".join(self.profile.differences(np.asarray(meta[DESCRIPTION_KEY]).reshape(-1).tolist()))
            rows = [{**one, "differs": differs} for one in rows]
        return rows

    def finish(self, engine: Engine) -> None:
        """Write the table."""
        if not is_main():
            return
        rows = [
            {"image": name, **row} for name, scan in zip(self.names, self.rows) for row in organ_rows(self.organs, scan)
        ]
        write_table(self.output_dir / INFERENCE_FILE, rows)
        unusual = [scan[0]["differs"] for scan in self.rows if scan[0].get("differs")]
        if unusual:
            logger.warning(
                "%d of %d scans differ from the labelled ones, for example: %s (see column `differs` of %s)",
                len(unusual), len(self.names), unusual[0], INFERENCE_FILE,
            )  # fmt: skip
        flagged = sum(row["absent"] for row in rows)
        if flagged:
            logger.warning("%d organs of %d scans seem to be absent (column `absent` of %s)", flagged, len(self.names),
                           INFERENCE_FILE)  # fmt: skip
        logger.info("wrote %s (%d scans)", self.output_dir / INFERENCE_FILE, len(self.names))


class SegmentationReport(CollectOrgans):
    """Evaluation: writes ``metrics.json`` and ``predictions.csv``, one row a scan and organ, and label maps if wanted.

    The truth is ``truth`` of the batch, the mask as it was read: a copy made before the mask is prepared. The figures
    of protocol ``blind`` are the headline; those of ``paper``, where the evaluator gives them, stand beside them in
    ``metrics`` as ``paper/mean_dice`` and so on, and whole under ``protocols``; in ``predictions.csv`` their columns
    begin with ``paper_``. Of another split than ``test`` the files' names begin with the split's.

    Args:
        items: the evaluated items, for subjects and subgroup columns.
        serving: what is stored with the model: ``settings``, ``label_counts``, and ``seen_key`` and ``seen_subjects``
            where it is known whom the network was trained on.
        dataset: name of the dataset.
        n_boot: bootstrap resamples.
        seed: seed of the resampling.
        split: split of the items, ``test`` or ``validation``.
        masks: write the label maps too (of protocol ``blind``).
        **kwargs: as for :class:`CollectOrgans`.

    Raises:
        ConfigError: for less than one resample.
    """

    def __init__(
        self,
        *,
        items: Sequence[Item],
        serving: Mapping[str, Any],
        dataset: str = "",
        n_boot: int = 1000,
        seed: int = 0,
        split: str = TEST,
        masks: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(masks=masks, **kwargs)
        if isinstance(n_boot, bool) or not isinstance(n_boot, int) or n_boot < 1:  # not after hours of segmenting
            raise ConfigError("resamples of the intervals", where="n_boot", found=n_boot, expected="1 or more")
        self.items, self.serving, self.dataset = {item.name: item for item in items}, serving, dataset
        self.n_boot, self.seed, self.split = n_boot, seed, split
        self.report: dict[str, Any] = {}

    def file_name(self, name: str) -> str:
        """The name of a result file for this split."""
        return split_file(name, self.split)

    def row(self, batch: Mapping[str, Any], output: Mapping[str, Any], labels: MetaTensor) -> Any:
        """Scores of each protocol, and confidences.

        Raises:
            DataError: when the scan is not among the items, has no truth, or one on another grid.
        """
        name = str(batch["name"])
        if name not in self.items:
            raise DataError(f"the scan is not in the {self.split} split", where=name)
        truth = batch.get("truth")
        if truth is None:
            raise DataError(
                "the scan comes without its mask as it was read", where=name, expected="the key `truth`",
                advice="Copy `label` to `truth` (CopyItemsd) before the mask is prepared.",
            )  # fmt: skip
        if truth.shape != labels.shape:
            raise DataError(
                "the mask has another grid than its scan", where=name, found=f"shape {tuple(truth.shape[1:])}",
                expected=f"shape {tuple(labels.shape[1:])}", advice="Resample the mask to the scan.",
            )  # fmt: skip
        true = torch.as_tensor(truth)[0].cpu().numpy().astype(np.int64)
        affine = labels.affine.double().cpu().numpy()
        scores = {
            protocol: organ_scores(label_map(output, key)[0].cpu().numpy(), true, self.organs, affine)
            for protocol, key in _PROTOCOLS.items()
            if key in output
        }
        return scores, self.confidences(output)

    def finish(self, engine: Engine) -> None:
        """Compute the report and write both files."""
        if not is_main():
            return
        items = [self.items[name] for name in self.names]
        reports = {protocol: self._report(items, protocol) for protocol in self.rows[0][0]}
        self.report = reports.pop("blind")
        self.report["protocol"], self.report["protocols"] = "blind", reports
        for protocol, report in reports.items():
            named = {f"{protocol}/{name}": entry for name, entry in report["metrics"].items()}
            self.report["metrics"] = {**self.report["metrics"], **named}
        if self.split != TEST:
            self.report["split"] = self.split
            self.report["warnings"].insert(0, NO_TEST.format(self.split))
        elif "seen_subjects" in self.serving:
            flag_seen_subjects(self.report, self.serving, self.dataset, items)
        for text in self.report["warnings"]:
            logger.warning("%s", text)
        rows = self._table(items)
        files = [self.output_dir / self.file_name(name) for name in (METRICS_FILE, PREDICTIONS_FILE)]
        write_json(
            files[0],
            {
                "dataset": self.dataset,
                "task": "segmentation",
                "settings": self.serving.get("settings", {}),
                "label_counts": self.serving.get("label_counts", {}),
                **self.report,
                "versions": versions(),
            },
        )
        write_table(files[1], rows)
        logger.info("wrote %s and %s in %s", files[0].name, files[1].name, self.output_dir)

    def _report(self, items: Sequence[Item], protocol: str) -> dict[str, Any]:
        keys = sorted({key for item in items for key in item.columns})
        known = any(item.subject is not None for item in items)
        return segmentation_report(
            [scores[protocol] for scores, _ in self.rows],
            [item.group for item in items] if known else None,
            columns={key: [item.columns.get(key) for item in items] for key in keys} or None,
            n_boot=self.n_boot,
            seed=self.seed,
        )

    def _table(self, items: Sequence[Item]) -> list[dict[str, Any]]:
        rows = []
        for item, (scores, confidences) in zip(items, self.rows):
            cells = [self._cells(scores, k, confidences[k]) for k in range(len(self.organs))]
            first = {"image": item.name, "subject": item.subject or ""}
            rows += [{**first, **row} for row in organ_rows(self.organs, cells)]
        return rows

    def _cells(
        self, scores: Mapping[str, Sequence[OrganScore]], organ: int, confidence: float | None
    ) -> dict[str, Any]:
        blind = scores["blind"][organ]
        absent = self.absent(blind.organ, blind.volume_ml, confidence)
        cells = {**score_columns(blind), "confidence": confidence, "absent": absent}
        for protocol, found in scores.items():
            if protocol != "blind":
                cells |= score_columns(found[organ], f"{protocol}_")
        return cells
