"""The ensemble of an exam's planes: weights from validation, weighted votes on test exams and on new ones."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from medssl_monai.core import (
    ConfigError,
    DataError,
    FolderLock,
    did_you_mean,
    make_folder,
    read_json,
    write_json,
)
from medssl_monai.core.distributed import is_main
from medssl_monai.core.environment import versions
from medssl_monai.data.datalist import Item
from medssl_monai.engines.ensemble_record import Source, Weights, checked_sources, read_ensemble, write_ensemble
from medssl_monai.engines.ensemble_report import Exams, ensemble_report, plane_accuracies, plane_scores
from medssl_monai.handlers.prediction_files import TEST, split_file, write_label_predictions
from medssl_monai.handlers.prediction_tables import PredictionTable, align_exams, join_labels, read_predictions
from medssl_monai.handlers.predictions import INFERENCE_FILE, METRICS_FILE, PREDICTIONS_FILE
from medssl_monai.metrics import ensemble_weights, weighted_vote
from medssl_monai.metrics.report_entries import MIN_SUBJECTS

logger = logging.getLogger(__name__)

THRESHOLD = 0.5  # of accuracies and votes (thesis eq. 4.19)
_VALIDATION = split_file(PREDICTIONS_FILE, "validation")
_MISSING = ("error", "average")
_SPLITS = (TEST, "validation")
_SAME_EXAMS = (
    "figures of the validation exams, by which checkpoints and thresholds were chosen and from which the weights were "
    "set (as in the thesis, which sets the weights on the exams it reports): too good, and no test result"
)
#: of ``label_counts``; the others are of a plane's files, or of its label
_BUDGET = (
    "label_fraction", "label_budget", "split_seed", "validation_share", "transductive", "n_labels",
    "n_labels_training", "n_labels_validation",
)  # fmt: skip

Result = TypeVar("Result")


class PlaneEnsemble:
    """Joins the planes' predictions of each exam by a weighted vote (thesis eq. 3.1-3.2, 4.19-4.20).

    A plane's weight for a label is the log-odds of its accuracy on the *validation* exams (threshold 0.5), normalised
    over the planes. :meth:`evaluate` sets the weights and votes on the test exams; :meth:`predict` votes on new exams
    with the weights that are stored.

    With ``split="validation"`` the votes are measured on the very exams that the weights come from, which is what the
    thesis reports and all that a dataset without a test part allows. Those figures are too good; a warning says so in
    the results, whose names begin with ``validation_``.

    Args:
        sources: by plane, the folder with its predictions (a model of all labels), or by label the folder of a model
            of that label alone. ``evaluate`` reads ``predictions.csv``, ``metrics.json`` and
            ``validation_predictions.csv`` there, ``predict`` reads ``inference.csv``.
        labels: names of the labels, in the order of the models of all labels.
        output_dir: where the results go.
        ckpt_dir: where ``ensemble.json`` goes and is read.
        missing: ``error`` refuses exams that a plane lacks; ``average`` shares their weights among the planes they
            have.
        items: items of the datalist, for the subgroup table; ``None`` leaves it out.
        n_boot: bootstrap resamples.
        seed: seed of the resampling.
        split: the exams to measure, ``test`` or ``validation``.

    Raises:
        ConfigError: for fewer than two planes, sources that do not name every label once, a folder named twice, an
            unknown way to treat missing planes, an unknown split, or an ``output_dir`` that holds a plane's results.
    """

    def __init__(
        self,
        sources: Mapping[str, Source],
        labels: Sequence[str],
        output_dir: str | Path,
        ckpt_dir: str | Path,
        missing: str = "error",
        items: Sequence[Item] | None = None,
        n_boot: int = 1000,
        seed: int = 0,
        split: str = TEST,
    ) -> None:
        self.labels = list(labels)
        self.folders = checked_sources(sources, self.labels)
        if missing not in _MISSING:
            raise ConfigError(f"missing cannot be {missing!r}", where="missing", advice=did_you_mean(missing, _MISSING))
        if split not in _SPLITS:
            raise ConfigError(f"unknown split {split!r}", where="split", advice=did_you_mean(split, _SPLITS))
        self.missing, self.n_boot, self.seed, self.split = missing, n_boot, seed, split
        self.output_dir, self.ckpt_dir = Path(output_dir), Path(ckpt_dir)
        taken = {folder.resolve() for folders in self.folders.values() for folder in folders.values()}
        if self.output_dir.resolve() in taken:
            raise ConfigError(
                "the ensemble would overwrite the results of a plane", where="output_dir", found=self.output_dir,
                advice="Give the ensemble a folder of its own.",
            )  # fmt: skip
        self.items = None if items is None else {item.name: item for item in items}

    def evaluate(self) -> dict[str, Any] | None:
        """Set the weights and write ``ensemble.json``, ``metrics.json`` and ``predictions.csv``.

        Of the validation split the last two are ``validation_metrics.json`` and ``validation_predictions.csv``.
        ``metrics.json`` is that of the evaluate stage for the exam, with the planes' figures under ``planes`` and the
        paired difference to the best plane, chosen on validation, under ``difference``.

        Returns:
            The content of ``metrics.json``; ``None`` in all processes but the first.

        Raises:
            DataError: for tables that cannot be used or joined, or weights that would come from test exams.
        """
        return self._alone(self._evaluate)

    def predict(self) -> PredictionTable | None:
        """Vote on new exams with the stored weights and write ``inference.csv``.

        Returns:
            What was written; ``None`` in all processes but the first.

        Raises:
            CheckpointError: when there are no weights, or they are for other planes or labels.
            DataError: for tables that cannot be used or joined.
        """
        return self._alone(self._predict)

    def _alone(self, work: Callable[[], Result]) -> Result | None:
        if not is_main():
            return None
        lock = FolderLock(make_folder(self.output_dir))
        lock.acquire()
        try:
            return work()
        finally:
            lock.release()

    def _evaluate(self) -> dict[str, Any]:
        validation = self._exams(_VALIDATION, with_truth=True)
        measured = validation
        if self.split == TEST:
            measured = self._exams(PREDICTIONS_FILE, with_truth=True)
            _refuse_overlap(validation, measured)
        accuracies = plane_accuracies(validation, THRESHOLD)
        weights = Weights(tuple(self.folders), tuple(self.labels), ensemble_weights(accuracies))
        sources = self._source_records()
        report = ensemble_report(
            measured, weights.values, plane_scores(validation, accuracies), columns=self._columns(measured.names),
            threshold=THRESHOLD, n_boot=self.n_boot, seed=self.seed,
        )  # fmt: skip
        report["warnings"] += _source_warnings(sources, validation, tested=self.split == TEST)
        if self.split != TEST:
            report["split"] = self.split
            report["warnings"].insert(0, _SAME_EXAMS)
        for text in report["warnings"]:
            logger.warning("%s", text)
        write_ensemble(
            self.ckpt_dir, weights, accuracies, threshold=THRESHOLD, n=len(validation.names),
            n_subjects=len(set(validation.groups)), missing=self.missing, folders=self.folders, file=_VALIDATION,
        )  # fmt: skip
        first = next(iter(sources.values()))
        content = {
            "dataset": first["dataset"],
            "settings": {name: record["settings"] for name, record in sources.items()},
            "label_counts": first["label_counts"],
            **({"n_subjects_seen_in_training": _most_seen(sources)} if self.split == TEST else {}),
            **report,
            "versions": versions(),
        }
        self._write(content, measured, weights)
        return content

    def _write(self, content: dict[str, Any], exams: Exams, weights: Weights) -> None:
        """The files of the measured exams."""
        metrics, predictions = (split_file(name, self.split) for name in (METRICS_FILE, PREDICTIONS_FILE))
        write_json(self.output_dir / metrics, content)
        votes = weighted_vote(exams.scores, weights.values, exams.present)
        columns = {"subject": exams.subjects}
        if self.missing == "average":
            columns["planes"] = exams.plane_lists
        path = self.output_dir / predictions
        write_label_predictions(path, exams.names, votes, votes >= THRESHOLD, self.labels, columns, exams.truth)
        logger.info("wrote %s and %s in %s", metrics, predictions, self.output_dir)

    def _predict(self) -> PredictionTable:
        weights = read_ensemble(self.ckpt_dir, list(self.folders), self.labels)
        exams = self._exams(INFERENCE_FILE, with_truth=False)
        votes = weighted_vote(exams.scores, weights.values, exams.present)
        columns = {}
        if self.missing == "average":
            columns["planes"] = exams.plane_lists
        if any(exams.notes):
            columns["differs"] = exams.notes
        path = self.output_dir / INFERENCE_FILE
        write_label_predictions(path, exams.names, votes, votes >= THRESHOLD, self.labels, columns)
        logger.info("wrote %s (%d exams)", path, len(exams.names))
        return read_predictions(path, self.labels, with_truth=False)

    def _exams(self, file: str, *, with_truth: bool) -> Exams:
        """The planes' predictions in one file name, joined by exam."""
        tables = {}
        for plane, folders in self.folders.items():
            if "" in folders:
                tables[plane] = read_predictions(folders[""] / file, self.labels, with_truth=with_truth)
            else:
                single = [read_predictions(folders[k] / file, [k], with_truth=with_truth) for k in self.labels]
                tables[plane] = join_labels(single, plane)
        return Exams.from_tables(*align_exams(tables, missing=self.missing), self.labels)

    def _source_records(self) -> dict[str, dict[str, Any]]:
        """Dataset, settings and label counts of each source, from the ``metrics.json`` beside its predictions."""
        records = {}
        for plane, folders in self.folders.items():
            for label, folder in folders.items():
                path = folder / split_file(METRICS_FILE, self.split)
                content = read_json(path)
                lacking = [key for key in ("dataset", "settings", "label_counts") if key not in content]
                if lacking:
                    raise DataError("is no result of the evaluate stage", where=path, found=f"no {', '.join(lacking)}")
                records[f"{plane} {label}".strip()] = content
        names = {record["dataset"] for record in records.values()}
        if len(names) > 1:
            raise DataError(
                "the planes were evaluated on different datasets", where="sources", found=", ".join(sorted(names)),
                advice="Name folders of one dataset's results.",
            )  # fmt: skip
        return records

    def _columns(self, names: Sequence[str]) -> dict[str, list[Any]] | None:
        if self.items is None:
            return None
        unknown = [name for name in names if name not in self.items]
        if unknown:
            raise DataError(
                f"exam is not in the {self.split} split", where=unknown[0],
                advice=f"The tables are of another dataset or another split: evaluate the {self.split} split again.",
            )  # fmt: skip
        keys = sorted({key for name in names for key in self.items[name].columns})
        return {key: [self.items[name].columns.get(key) for name in names] for key in keys} or None


def _refuse_overlap(validation: Exams, test: Exams) -> None:
    exams = set(validation.names) & set(test.names)
    subjects = {subject for subject in validation.subjects if subject} & set(test.subjects)
    if exams or subjects:
        what = f"{len(exams)} exams" if exams else f"{len(subjects)} subjects"
        raise DataError(
            f"the weights would come from the test split: {what} are in both tables", where=_VALIDATION,
            found=sorted(exams or subjects)[0], expected="validation exams of subjects that are not tested",
            advice="Weights are set on validation, never on test: evaluate the validation split of each plane.",
        )  # fmt: skip


def _source_warnings(sources: Mapping[str, Mapping[str, Any]], validation: Exams, *, tested: bool) -> list[str]:
    found = []
    if len(set(validation.groups)) < MIN_SUBJECTS:
        found.append(f"the weights rest on {len(set(validation.groups))} validation subjects")
    for name, record in sources.items() if tested else ():
        seen = record.get("n_subjects_seen_in_training")
        if seen is None:
            found.append(f"{name}: whether test subjects were seen in training is unknown")
        elif seen:
            found.append(f"{name}: {seen} test subjects were seen in training: the figures are too good")
    counts = [{key: record["label_counts"].get(key) for key in _BUDGET} for record in sources.values()]
    if any(one != counts[0] for one in counts):
        found.append("the models were trained with different label budgets; label_counts are those of the first")
    for row, plane in enumerate(validation.planes):
        one_sided = [
            label for k, label in enumerate(validation.labels)
            if len(set(validation.truth[validation.present[row], k].tolist())) < 2
        ]  # fmt: skip
        if one_sided:
            found.append(
                f"{plane}: the validation exams all have, or all lack, {', '.join(one_sided)}; "
                "accuracy there says little, and the weights rest on it"
            )
    return found


def _most_seen(sources: Mapping[str, Mapping[str, Any]]) -> int | None:
    counts = [record.get("n_subjects_seen_in_training") for record in sources.values()]
    return None if any(one is None for one in counts) else max(int(one) for one in counts if one is not None)
