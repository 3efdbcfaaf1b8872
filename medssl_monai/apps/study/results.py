"""Results of a study: every complete run's figures, compared on the same resamples of the test subjects."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medssl_monai.apps._protocols import PROTOCOLS
from medssl_monai.apps.study.organs import SOURCES, organ_figures
from medssl_monai.apps.study.plan import Run
from medssl_monai.core import atomic_path
from medssl_monai.metrics import Distribution, average_distributions
from medssl_monai.metrics.comparison import (
    HEADLINE,
    Figure,
    annotation_saved,
    bootstrap_p_value,
    holm,
)
from medssl_monai.metrics.distribution import finite
from medssl_monai.metrics.report_entries import MIN_SUBJECTS, interval_entry, too_few_subjects

MARGIN = 0.01
#: figures over all organs that arms are compared by; the others are in the tables
COMPARED = ("mean_dice", "mean_hd95_mm", "mean_volume_error_percent", "paper/mean_dice")
_COLUMNS = (
    "arm", "budget", "seed", "n_labels_training", "n_labels_validation", "metric", "class", "estimate", "low_90",
    "high_90", "low_95", "high_95", "n", "n_subjects", "seconds",
)  # fmt: skip


@dataclass(frozen=True)
class Results:
    """The complete runs of a study.

    Attributes:
        figures: by run, each figure's distribution; all share their resamples.
        labels: by run, labels used for training and for validation.
        reports: by run, its ``metrics.json``: of the evaluation, else of its first protocol.
        seconds: by run.
        withheld: classes without interval and why ("" stands for figures over all classes).
        class_names: names in index order.
        class_subjects: by class, test subjects that show it.
        majority_accuracy: accuracy of always naming the test images' most frequent class; of labels that are each
            there or not the mean over labels of always giving the more frequent answer; ``None`` of organs.
        n_test: test images.
        n_test_subjects: test subjects.
        has_subjects: whether the predictions name subjects.
        counts: of organs, by run and figure, scans and subjects for which it is defined.
        organs: whether the classes are organs that are segmented.
    """

    figures: Mapping[Run, Mapping[Figure, Distribution]]
    labels: Mapping[Run, tuple[int, int]]
    reports: Mapping[Run, Mapping[str, Any]]
    seconds: Mapping[Run, float]
    withheld: Mapping[str, str]
    class_names: tuple[str, ...]
    class_subjects: Mapping[str, int]
    majority_accuracy: float | None
    n_test: int
    n_test_subjects: int
    has_subjects: bool
    counts: Mapping[Run, Mapping[Figure, tuple[int, int]]] = field(default_factory=dict)
    organs: bool = False

    def seeds(self, arm: str, budget: str, figure: Figure | None = None) -> list[int]:
        """Seeds of an arm's complete runs at a budget; of those that have a figure, where one is named."""
        return sorted(
            run.seed for run, figures in self.figures.items()
            if (run.arm, run.budget) == (arm, budget) and (figure is None or figure in figures)
        )  # fmt: skip

    def metrics(self, arm: str, budget: str) -> list[str]:
        """Figures over all classes that an arm has at a budget, in the order of tables."""
        found = {
            figure for run, figures in self.figures.items() if (run.arm, run.budget) == (arm, budget)
            for figure in figures
        }  # fmt: skip
        return [metric for metric, name in self.ordered() if not name and (metric, name) in found]

    def ordered(self) -> list[Figure]:
        """Figures in the order of tables: by evaluation, then protocol by protocol; over all classes, then each."""
        sources = {source_of(metric) for figures in self.figures.values() for metric, _ in figures}
        figures = organ_figures(self.class_names) if self.organs else ordered_figures(self.class_names)
        return [
            (join_source(source, metric), name)
            for source in (SOURCES if self.organs else ("", *PROTOCOLS))
            if source in sources
            for metric, name in figures
        ]

    def entry(self, distribution: Distribution, figure: Figure, runs: Iterable[Run]) -> dict[str, Any]:
        """A figure of some runs, averaged or subtracted, for JSON; withheld where too few subjects tell of it.

        Of organs ``n`` and ``n_subjects`` are the scans and subjects for which it is defined, in the run with fewest:
        a distance is defined only where truth and prediction both show the organ.
        """
        counts = [self.counts[run][figure] for run in runs if figure in self.counts.get(run, {})]
        n, n_subjects = min((count[0] for count in counts), default=None), min((c[1] for c in counts), default=None)
        withheld = self.withheld.get(figure[1], "")
        if not withheld and n_subjects is not None and n_subjects < MIN_SUBJECTS:
            withheld = too_few_subjects(n_subjects)
        entry = interval_entry(distribution, withheld)
        if n is not None:
            entry |= {"n": n, "n_subjects": n_subjects}
            if entry["estimate"] is None:
                entry["reason"] = "defined for no scan" if not n else "not defined in every run"
        return entry

    def mean(self, arm: str, budget: str, seeds: Sequence[int], figure: Figure) -> Distribution:
        """A figure averaged over runs with these seeds."""
        return average_distributions([self.figures[Run(arm, budget, seed)][figure] for seed in seeds])

    def difference(
        self, first: tuple[str, str], second: tuple[str, str], figure: Figure
    ) -> tuple[Distribution, list[float]] | None:
        """Paired difference of two (arm, budget), averaged over the seeds both have, and the single seeds'.

        ``None`` where they have no seed with this figure in common.
        """
        seeds = sorted(set(self.seeds(*first, figure)) & set(self.seeds(*second, figure)))
        if not seeds:
            return None
        single = [
            self.figures[Run(*first, seed)][figure].estimate - self.figures[Run(*second, seed)][figure].estimate
            for seed in seeds
        ]
        return self.mean(*first, seeds, figure) - self.mean(*second, seeds, figure), single


def join_source(source: str, metric: str) -> str:
    """Name of a figure: ``macro_auroc`` by evaluation, ``knn/macro_auroc`` by a protocol."""
    return f"{source}/{metric}" if source else metric


def source_of(metric: str) -> str:
    """The protocol of a figure; empty for evaluation."""
    return metric.rpartition("/")[0]


def write_table(path: Path, results: Results | None) -> None:
    """Write ``results.csv``: one row for each run, figure and class; an undefined value is empty."""
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(_COLUMNS)
        for run, figures in ({} if results is None else results.figures).items():
            assert results is not None  # noqa: S101  (there is a run)
            for metric, name in (figure for figure in results.ordered() if figure in figures):
                entry = results.entry(figures[metric, name], (metric, name), [run])
                ends = [end for level in ("interval_90", "interval_95") for end in entry[level] or (None, None)]
                values = [entry["estimate"], *ends]
                writer.writerow(
                    [
                        run.arm, run.budget, run.seed, *results.labels[run], metric, name,
                        *("" if value is None else f"{value:.9g}" for value in values),
                        entry["n"], entry["n_subjects"], f"{results.seconds[run]:.1f}",
                    ]
                )  # fmt: skip


def ordered_figures(class_names: Sequence[str]) -> list[Figure]:
    """Figures in the order of tables: over all classes, then the classes."""
    return [*((metric, "") for metric in HEADLINE), *(("auroc", name) for name in class_names)]


def summarise(results: Results, cells: Iterable[tuple[str, str]]) -> list[dict[str, Any]]:
    """The part ``summary`` of ``study.json``: each (arm, budget) and figure, averaged over seeds."""
    rows = []
    for arm, budget in cells:
        for metric, name in results.ordered():
            seeds = results.seeds(arm, budget, (metric, name))
            if not seeds:
                continue
            distribution = results.mean(arm, budget, seeds, (metric, name))
            entry = results.entry(distribution, (metric, name), [Run(arm, budget, seed) for seed in seeds])
            rows.append(
                {
                    "arm": arm, "budget": budget, "metric": metric, "class": name or None,
                    "estimate": entry["estimate"], "interval_90": entry["interval_90"],
                    "interval_95": entry["interval_95"], "seeds": seeds,
                    "seed_values": [
                        finite(results.figures[Run(arm, budget, seed)][metric, name].estimate) for seed in seeds
                    ],
                    "n": entry["n"],
                    "n_subjects": results.class_subjects[name] if name else entry["n_subjects"],
                    "n_undefined": entry["n_undefined"],
                    "n_resamples": len(distribution.values),
                    "note": entry["reason"],
                }
            )  # fmt: skip
    return rows


def compare(results: Results, first: tuple[str, str], second: tuple[str, str], figure: Figure) -> dict[str, Any]:
    """Difference of two (arm, budget) with intervals, p-value and the single seeds' differences.

    Without a seed that both have, or with too few test subjects, what cannot be said is ``None``.
    """
    cells, found = (first, second), results.difference(first, second, figure)
    if found is None:
        nothing = {"estimate": None, "interval_90": None, "interval_95": None}
        return {
            "difference": nothing, "p": None, "seed_differences": [], "n_undefined": None, "n_resamples": None,
            "note": "no seed is complete in both arms",
        }  # fmt: skip
    distribution, single = found
    entry = results.entry(distribution, figure, [run for run in results.figures if (run.arm, run.budget) in cells])
    difference = {key: entry[key] for key in ("estimate", "interval_90", "interval_95")}
    p = finite(bootstrap_p_value(distribution)) if entry["interval_95"] else None
    return {
        "difference": difference, "p": p, "seed_differences": [finite(value) for value in single],
        "n_undefined": entry["n_undefined"], "n_resamples": len(distribution.values),
        "note": entry["reason"],
    }  # fmt: skip


def claims(results: Results, budgets: Sequence[str], primary: str, baseline: str, metric: str) -> list[dict[str, Any]]:
    """Primary minus baseline at each budget, with Holm's correction over the budgets."""
    rows = [
        {"budget": budget, "metric": metric, **compare(results, (primary, budget), (baseline, budget), (metric, ""))}
        for budget in budgets
    ]
    adjusted = holm([float("nan") if row["p"] is None else row["p"] for row in rows])
    return [{**row, "p_holm": finite(value)} for row, value in zip(rows, adjusted)]


def exploratory(
    results: Results, budgets: Sequence[str], arms: Sequence[str], primary: str, baseline: str, metric: str
) -> list[dict[str, Any]]:
    """Every other comparison with the baseline at the same budget, without correction for their number."""
    rows = []
    for arm in arms:
        for budget in budgets if arm != baseline else []:
            for name in results.metrics(arm, budget):
                if results.organs and name not in COMPARED:
                    continue
                if (arm, name) != (primary, metric) and any(
                    name in results.metrics(baseline, other) for other in budgets
                ):
                    found = compare(results, (arm, budget), (baseline, budget), (name, ""))
                    rows.append({"arm": arm, "versus": baseline, "budget": budget, "metric": name, **found})
    return rows


def saved_annotation(
    results: Results, budgets: Sequence[str], arm: str, baseline: str, full: str, metric: str
) -> dict[str, Any] | None:
    """The entry of an arm in ``annotation_saved``; ``None`` while the baseline with all labels is not complete.

    The baseline's own run with all labels is the reference and no candidate.
    """
    candidates, differences = {}, []
    labels_full = _labels(results, baseline, full)
    for budget in budgets:
        found = (
            None
            if (arm, budget) == (baseline, full)
            else results.difference((arm, budget), (baseline, full), (metric, ""))
        )
        labels = _labels(results, arm, budget)
        if found is not None and labels is not None:
            candidates[budget] = (labels, found[0])
            row = compare(results, (arm, budget), (baseline, full), (metric, ""))
            differences.append({"budget": budget, "labels": labels, **row})
    if labels_full is None or not candidates or "" in results.withheld:
        return None
    return {**annotation_saved(candidates, labels_full, MARGIN).to_json(), "differences": differences}


def _labels(results: Results, arm: str, budget: str) -> int | None:
    """Labels of training and validation; the largest where seeds draw other subjects."""
    used = [sum(count) for run, count in results.labels.items() if (run.arm, run.budget) == (arm, budget)]
    return max(used, default=None)
