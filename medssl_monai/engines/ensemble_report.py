"""Figures of an ensemble of planes: the exam's, each plane's, and the paired difference to the best plane."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medssl_monai.handlers.prediction_tables import PredictionTable
from medssl_monai.metrics import MacroAUROC, multilabel_report, weighted_vote
from medssl_monai.metrics.comparison import joint_distributions, withheld_intervals
from medssl_monai.metrics.report_entries import interval_entry


@dataclass(frozen=True)
class Exams:
    """The planes' predictions of the same exams.

    Attributes:
        planes: M planes.
        labels: C labels.
        names: N exams.
        subjects: N subject ids, empty where unknown.
        scores: (M, N, C) probabilities; NaN where a plane lacks an exam.
        present: (M, N), which plane has which exam.
        truth: (N, C) labels 0/1; (N, 0) where they are not known.
        notes: N texts on how an exam differs from the training data.
    """

    planes: list[str]
    labels: list[str]
    names: list[str]
    subjects: list[str]
    scores: np.ndarray
    present: np.ndarray
    truth: np.ndarray
    notes: list[str]

    @classmethod
    def from_tables(
        cls, names: Sequence[str], tables: Mapping[str, PredictionTable], present: np.ndarray, labels: Sequence[str]
    ) -> Exams:
        """Put aligned tables (:func:`~medssl_monai.handlers.prediction_tables.align_exams`) into arrays."""
        known = all(table.truth is not None for table in tables.values())
        scores = np.full((len(tables), len(names), len(labels)), np.nan)
        truth = np.zeros((len(names), len(labels) if known else 0), dtype=np.int64)
        subjects, notes = [""] * len(names), [""] * len(names)
        for row, (plane, table) in enumerate(tables.items()):
            places = np.flatnonzero(present[row])
            scores[row, places] = table.probabilities
            if table.truth is not None and known:
                truth[places] = table.truth
            for place, subject, note in zip(places, table.subjects, table.notes):
                subjects[place] = subject
                if note:
                    notes[place] = "; ".join(part for part in (notes[place], f"{plane}: {note}") if part)
        return cls(list(tables), list(labels), list(names), subjects, scores, present, truth, notes)

    @property
    def groups(self) -> list[str]:
        """What is resampled together: the subject, else the exam."""
        return [subject or name for subject, name in zip(self.subjects, self.names)]

    @property
    def plane_lists(self) -> list[str]:
        """For each exam its planes, parted by blanks."""
        columns = self.present.T
        return [" ".join(plane for plane, there in zip(self.planes, row) if there) for row in columns]


def plane_accuracies(exams: Exams, threshold: float) -> np.ndarray:
    """Accuracy (M, C) of each plane and label on the exams the plane has; called from ``threshold`` on."""
    right = (exams.scores >= threshold) == (exams.truth[None] == 1)
    return np.stack([right[row, exams.present[row]].mean(axis=0) for row in range(len(exams.planes))])


def plane_scores(exams: Exams, accuracies: np.ndarray) -> dict[str, float]:
    """What the best plane is chosen by: the macro AUROC on these exams; where it is undefined for any, mean accuracy.

    Args:
        exams: the validation exams.
        accuracies: (M, C) of :func:`plane_accuracies`.
    """
    metric = MacroAUROC()
    scores = [metric(exams.truth[there], exams.scores[row, there]) for row, there in enumerate(exams.present)]
    if not np.isfinite(scores).all():
        scores = [float(value) for value in accuracies.mean(axis=1)]
    return dict(zip(exams.planes, scores))


def ensemble_report(
    exams: Exams,
    weights: np.ndarray,
    chosen_by: Mapping[str, float],
    *,
    columns: Mapping[str, Sequence[Any]] | None,
    threshold: float,
    n_boot: int,
    seed: int,
) -> dict[str, Any]:
    """The report of the votes, with ``planes`` (each plane's) and ``difference`` (votes - best plane).

    Args:
        exams: the test exams.
        weights: (M, C).
        chosen_by: the planes' scores on validation; the best one is what the votes are compared with.
        columns: by name, (N,) values each, for the subgroup table.
        threshold: from which a label is called.
        n_boot: number of resamples.
        seed: seed of the resamples.
    """
    known = any(exams.subjects)
    groups = exams.groups if known else None
    votes = weighted_vote(exams.scores, weights, exams.present)
    common: dict[str, Any] = {"threshold": threshold, "n_boot": n_boot, "seed": seed}
    report = multilabel_report(exams.truth, votes, groups, exams.labels, columns=columns, **common)
    planes = {}
    for row, plane in enumerate(exams.planes):
        there = np.flatnonzero(exams.present[row])
        chosen = [groups[place] for place in there] if groups else None
        one = multilabel_report(exams.truth[there], exams.scores[row, there], chosen, exams.labels, **common)
        planes[plane] = {key: one[key] for key in ("n", "n_subjects", "metrics", "per_class", "warnings")}
    report["planes"] = planes
    report["difference"] = _difference(exams, votes, chosen_by, groups, n_boot, seed)
    return report


def _difference(
    exams: Exams,
    votes: np.ndarray,
    chosen_by: Mapping[str, float],
    groups: Sequence[str] | None,
    n_boot: int,
    seed: int,
) -> dict[str, Any]:
    """AUROC of the votes minus that of the best plane, on the exams that plane has, resampled together."""
    best = max(chosen_by, key=lambda plane: chosen_by[plane])
    row = exams.planes.index(best)
    there = np.flatnonzero(exams.present[row])
    truth, members = exams.truth[there], [groups[int(place)] for place in there] if groups else None
    runs = {"ensemble": votes[there], best: exams.scores[row, there]}
    found = joint_distributions(truth, runs, members, exams.labels, n_boot, seed)
    withheld = withheld_intervals(truth, members, exams.labels)

    def entry(figure: str, label: str) -> dict[str, Any]:
        difference = found["ensemble"][figure, label] - found[best][figure, label]
        return interval_entry(difference, withheld.get(label, ""))

    return {
        "of": "ensemble",
        "minus": best,
        "chosen_on": "validation",
        "validation_scores": {plane: float(value) for plane, value in chosen_by.items()},
        "macro_auroc": entry("macro_auroc", ""),
        "per_class": {label: {"auroc": entry("auroc", label)} for label in exams.labels},
    }
