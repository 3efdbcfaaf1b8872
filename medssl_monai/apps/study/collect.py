"""From the files of a study's complete runs to figures that share their resamples of the test subjects."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medssl_monai.apps.arms import arm_seconds, read_predictions, result_folder, result_sources
from medssl_monai.apps.study.organs import read_organ_runs
from medssl_monai.apps.study.plan import Run
from medssl_monai.apps.study.results import Results, join_source
from medssl_monai.core import DataError, read_json
from medssl_monai.handlers.predictions import METRICS_FILE, PREDICTIONS_FILE
from medssl_monai.metrics import Distribution
from medssl_monai.metrics.checks import one_vs_rest
from medssl_monai.metrics.comparison import Figure, joint_distributions, withheld_intervals


def collect(folder: Path, runs: Iterable[Run], n_boot: int = 1000, seed: int = 0) -> Results | None:
    """Read the predictions of complete runs and resample their test subjects jointly; ``None`` where there are no runs.

    Raises:
        DataError: when predictions are missing or of other test images than those of the other runs.
    """
    chosen = list(runs)
    if not chosen:
        return None
    sources = {run: result_sources(folder / run.folder) or [""] for run in chosen}
    reports = {run: read_json(result_folder(folder / run.folder, sources[run][0]) / METRICS_FILE) for run in chosen}
    if reports[chosen[0]].get("task") == "segmentation":
        return _of_organs(folder, reports, n_boot, seed)
    return _of_classes(folder, sources, reports, n_boot, seed)


def _common(folder: Path, reports: Mapping[Run, Mapping[str, Any]]) -> dict[str, Any]:
    counts = {run: report["label_counts"] for run, report in reports.items()}
    return {
        "labels": {run: (count["n_labels_training"], count["n_labels_validation"]) for run, count in counts.items()},
        "reports": reports,
        "seconds": {run: arm_seconds(folder / run.folder) for run in reports},
    }


def _of_organs(folder: Path, reports: Mapping[Run, Mapping[str, Any]], n_boot: int, seed: int) -> Results:
    found = read_organ_runs(folder, list(reports), n_boot, seed)
    return Results(
        figures=found.figures,
        withheld=found.withheld,
        class_names=found.organs,
        class_subjects=found.organ_subjects,
        majority_accuracy=None,
        n_test=len(found.names),
        n_test_subjects=len(set(found.subjects)),
        has_subjects=list(found.subjects) != list(found.names),
        counts=found.counts,
        organs=True,
        **_common(folder, reports),
    )


def _of_classes(
    folder: Path, sources: Mapping[Run, Sequence[str]], reports: Mapping[Run, Mapping[str, Any]], n_boot: int, seed: int
) -> Results:
    chosen = list(reports)
    first = (folder / chosen[0].folder, sources[chosen[0]][0])
    names, subjects, labels, _ = read_predictions(*first)
    class_names = tuple(read_classes(*first))
    scores = {}
    for run, source in [(one, source) for one in chosen for source in sources[one]]:
        place = folder / run.folder
        own, _, own_labels, probabilities = read_predictions(place, source)
        order = {name: index for index, name in enumerate(own)}
        if set(own) != set(names) or len(own) != len(names) or tuple(read_classes(place, source)) != class_names:
            raise DataError(
                "predictions of other test images or classes than those of the other runs", where=place,
                advice="Remove this run's folder and run the study again.",
            )  # fmt: skip
        rows = [order[name] for name in names]
        if not np.array_equal(own_labels[rows], labels):
            raise DataError(
                "the test images have other labels than in the other runs", where=place,
                advice="Remove this run's folder and run the study again.",
            )  # fmt: skip
        scores[run, source] = probabilities[rows]
    figures: dict[Run, dict[Figure, Distribution]] = {run: {} for run in chosen}
    for (run, source), found in joint_distributions(labels, scores, subjects, class_names, n_boot, seed).items():
        figures[run] |= {(join_source(source, metric), name): one for (metric, name), one in found.items()}
    shown = one_vs_rest(labels, len(class_names))
    shares = shown.mean(axis=0)
    majority = shares.max() if labels.ndim == 1 else np.maximum(shares, 1 - shares).mean()
    return Results(
        figures=figures,
        withheld=withheld_intervals(labels, subjects, class_names),
        class_names=class_names,
        class_subjects={
            name: len({one for one, there in zip(subjects, shown[:, k]) if there}) for k, name in enumerate(class_names)
        },
        majority_accuracy=float(majority),
        n_test=len(names),
        n_test_subjects=len(set(subjects)),
        has_subjects=subjects != names,
        **_common(folder, reports),
    )


def read_classes(folder: Path, source: str = "") -> list[str]:
    """Class names of a run's predictions, in index order."""
    with (result_folder(folder, source) / PREDICTIONS_FILE).open(newline="", encoding="utf-8") as stream:
        header = next(csv.reader(stream), [])
    return [key.removeprefix("probability_") for key in header if key.startswith("probability_")]
