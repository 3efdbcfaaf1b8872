"""Runs of a study that segment organs: their tables of scores, on the same resamples of the test subjects."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medssl_monai.apps.arms import result_folder
from medssl_monai.apps.study.plan import Run
from medssl_monai.core import DataError
from medssl_monai.handlers.predictions import PREDICTIONS_FILE
from medssl_monai.handlers.segmentation_files import read_organ_scores
from medssl_monai.metrics import Distribution, OrganScore, segmentation_distributions
from medssl_monai.metrics.comparison import Figure
from medssl_monai.metrics.report_entries import MIN_SUBJECTS, too_few_subjects
from medssl_monai.metrics.segmentation import organ_table
from medssl_monai.metrics.segmentation_report import FIGURES

#: where figures of organs come from: without any label of the scan, and within the slices that its labels tell
SOURCES = ("", "paper")
#: figures over all organs, in the order of tables
ORGAN_HEADLINE = tuple(f"mean_{figure}" for figure in FIGURES)
#: field of a scan's score whose presence makes a figure defined
_FIELDS = {
    "dice": "dice", "hd95_mm": "hd95_mm", "volume_bias_ml": "volume_error_ml", "volume_error_ml": "volume_error_ml",
    "volume_error_percent": "volume_error_percent",
}  # fmt: skip
_AGAIN = "Remove this run's folder and run the study again."
#: how much the truth of one scan may differ between runs, in ml: printed decimals
_TRUTH_ML = 1e-3


@dataclass(frozen=True)
class OrganRuns:
    """Complete runs of a study on the same test scans.

    Attributes:
        figures: by run, each figure's distribution; all share their resamples.
        counts: by run and figure, scans and subjects for which it is defined.
        names: the scans.
        subjects: their subjects.
        organs: names of the organs.
        organ_subjects: by organ, test subjects whose own mask shows it.
        withheld: organs without interval and why ("" stands for figures over all organs).
    """

    figures: Mapping[Run, Mapping[Figure, Distribution]]
    counts: Mapping[Run, Mapping[Figure, tuple[int, int]]]
    names: Sequence[str]
    subjects: Sequence[str]
    organs: tuple[str, ...]
    organ_subjects: Mapping[str, int]
    withheld: Mapping[str, str]


def organ_figures(organs: Sequence[str]) -> list[Figure]:
    """Figures in the order of tables: over all organs, then of each."""
    return [*((name, "") for name in ORGAN_HEADLINE), *((figure, organ) for figure in FIGURES for organ in organs)]


def read_organ_runs(folder: Path, runs: Sequence[Run], n_boot: int, seed: int) -> OrganRuns:
    """Read the scores of complete runs and resample their test subjects jointly.

    Args:
        folder: the study's folder.
        runs: at least one.
        n_boot: number of resamples.
        seed: seed of the resamples.

    Raises:
        DataError: when scores are missing, or of other test scans, organs or masks than those of the other runs.
    """
    names, subjects, reference = read_organ_scores(_table(folder, runs[0]))
    organs = tuple(one.organ for one in reference[0])
    _check_same(folder, runs[0], names, names, organs, reference)
    true = organ_table(reference, "true_volume_ml")
    figures: dict[Run, dict[Figure, Distribution]] = {run: {} for run in runs}
    counts: dict[Run, dict[Figure, tuple[int, int]]] = {run: {} for run in runs}
    for run in runs:
        for source in _sources(_table(folder, run)):
            scores = _aligned(folder, run, source, names, organs, true)
            found = segmentation_distributions(scores, subjects, n_boot=n_boot, seed=seed)
            prefix = f"{source}/" if source else ""
            figures[run] |= {(prefix + _headline(figure, organ), organ): one for (figure, organ), one in found.items()}
            counts[run] |= _counts(scores, subjects, organs, prefix)
    shown = {organ: len({one for one, volume in zip(subjects, true[:, k]) if volume}) for k, organ in enumerate(organs)}
    withheld = {
        organ: f"only {number} subjects with this organ; no interval below {MIN_SUBJECTS}"
        for organ, number in shown.items() if number < MIN_SUBJECTS
    }  # fmt: skip
    if len(set(subjects)) < MIN_SUBJECTS:
        withheld[""] = too_few_subjects(len(set(subjects)))
    return OrganRuns(figures, counts, names, subjects, organs, shown, withheld)


def _table(folder: Path, run: Run) -> Path:
    return result_folder(folder / run.folder) / PREDICTIONS_FILE


def _sources(path: Path) -> list[str]:
    """Protocols whose scores a table holds."""
    with path.open(newline="", encoding="utf-8") as stream:
        header = next(csv.reader(stream), [])
    return [source for source in SOURCES if not source or f"{source}_case" in header]


def _headline(figure: str, organ: str) -> str:
    return figure if organ else f"mean_{figure}"


def _aligned(
    folder: Path, run: Run, source: str, names: Sequence[str], organs: Sequence[str], true: np.ndarray
) -> list[list[OrganScore]]:
    """Scores of a run in the order of ``names``, checked to be of the same scans, organs and masks."""
    path = _table(folder, run)
    own, _, scores = read_organ_scores(path, source or "blind")
    _check_same(folder, run, own, names, organs, scores)
    order = {name: index for index, name in enumerate(own)}
    rows = [scores[order[name]] for name in names]
    if not np.allclose(organ_table(rows, "true_volume_ml"), true, rtol=1e-6, atol=_TRUTH_ML):
        raise DataError("the test scans have other masks than in the other runs", where=path.parents[1], advice=_AGAIN)
    return rows


def _check_same(
    folder: Path, run: Run, own: Sequence[str], names: Sequence[str], organs: Sequence[str],
    scores: Sequence[Sequence[OrganScore]],
) -> None:  # fmt: skip
    if set(own) != set(names) or any(tuple(one.organ for one in row) != tuple(organs) for row in scores):
        raise DataError(
            "scores of other test scans or organs than those of the other runs", where=folder / run.folder,
            advice=_AGAIN,
        )  # fmt: skip


def _counts(
    scores: Sequence[Sequence[OrganScore]], subjects: Sequence[str], organs: Sequence[str], prefix: str
) -> dict[Figure, tuple[int, int]]:
    """Scans and subjects for which each figure is defined; over all organs: for any of them."""
    found: dict[Figure, tuple[int, int]] = {}
    codes = np.unique(np.asarray(subjects), return_inverse=True)[1]
    for figure in FIGURES:
        defined = np.isfinite(organ_table(scores, _FIELDS[figure]))
        columns = {"": defined.any(axis=1), **{organ: defined[:, k] for k, organ in enumerate(organs)}}
        for organ, there in columns.items():
            found[prefix + _headline(figure, organ), organ] = (int(there.sum()), len(np.unique(codes[there])))
    return found
