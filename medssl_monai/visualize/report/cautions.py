"""What a reader must bear in mind: everything in a run or a study that weakens what its figures say."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import yaml

from medssl_monai.handlers.collapse_signs import REMEDY
from medssl_monai.metrics.embedding import collapse_warning
from medssl_monai.visualize.report.sources import Run, Study
from medssl_monai.visualize.report.verdicts import data_warnings
from medssl_monai.visualize.report.words import METRIC_NAMES, image_noun, in_words, listing, metric_name, plural

#: below this number of test subjects intervals are wide and a handful of subjects decides
TINY_TEST_SET = 50
_MIN_SUBJECTS = 10
_FEW_SEEDS = 3


def run_cautions(run: Run, alone: bool = True) -> list[str]:
    """Cautions of one run.

    Args:
        run: the run.
        alone: whether the run is reported by itself, not as one of a study.
    """
    budget = dict(run.budget or {})
    if (run.metrics or {}).get("task") == "segmentation" and not budget.get("n_labels_validation"):
        budget.pop("select_on_validation", None)  # nothing was to be chosen by validation labels
    found = [*_of_features(run), *_of_watch(run), *_of_budget(budget), *_of_metrics(run.metrics or {})]
    found += _of_records(run)
    if alone and run.metrics is not None:
        found.append(
            "One run with one seed: how much the figures depend on chance in training is not known. "
            "A study with several seeds tells."
        )
    # what the evaluation says itself goes first; of what is found here only what it does not say yet
    own = [_sentence(str(words)) for words in (run.metrics or {}).get("warnings") or []]
    return _merged(own, found)


def study_cautions(study: Study) -> list[str]:
    """Cautions of a study: its own, then those of its runs, alike ones joined."""
    content = study.content
    found = [] if content.get("complete") else [_incomplete(content)]
    if len(content.get("seeds") or []) < 2:
        found.append("A single seed: how much the figures depend on chance in training is not known.")
    elif len(content["seeds"]) < _FEW_SEEDS:
        found.append(
            f"Only {len(content['seeds'])} seeds: how much the figures depend on chance in training is hardly known."
        )
    if "smoke" in (content.get("overlays") or []):
        found.append(_SMOKE)
    found += [_sentence(in_words(content, words)) for words in data_warnings(content)]
    found += _tiny(content.get("n_test_subjects"))
    found += _without_interval(content)
    # what the study says itself goes first; of what is found here only what it does not say yet
    own = [_sentence(in_words(content, str(words))) for words in content.get("warnings") or []]
    return _merged(own, [*found, *_joined(study)])


def _merged(own: Sequence[str], found: Sequence[str]) -> list[str]:
    kept = list(own)
    for words in found:
        if not any(said.search(words) and any(said.search(one) for one in kept) for said in _SAID):
            kept.append(words)
    # what makes every figure worthless comes first
    return sorted(dict.fromkeys(kept), key=lambda words: "the figures mean nothing" not in words)


#: a caution is said already when another one has the same of these in it
_SAID = tuple(
    re.compile(words, re.IGNORECASE)
    for words in (
        "not complete",
        "single seed",
        r"only \d+ seeds",
        "overlay smoke",
        "tiny test set",
        r"fewer than \d+ (test )?subjects",
        "seen in training",
        "transductive",
        "validation labels",
        "not shown to be better than with",
        "resamples lack a class",
    )
)


_SMOKE = (
    "Run with the overlay smoke (a tiny network, a few steps) to see that everything works: the figures mean nothing."
)


def _incomplete(content: Mapping[str, Any]) -> str:
    runs = content.get("runs") or []
    done = sum(bool(run.get("complete")) for run in runs)
    return f"The study is not complete: {done} of {plural(len(runs), 'run')} have ended. Figures may change."


def _without_interval(content: Mapping[str, Any]) -> Iterator[str]:
    names = dict.fromkeys(
        str(row["class"]) for row in content.get("summary") or []
        if row.get("class") is not None and row.get("estimate") is not None and not row.get("interval_95")
        and (row.get("n_subjects") or 0) < _MIN_SUBJECTS
    )  # fmt: skip
    if names:
        one, many = ("organ", "organs") if content.get("task") == "segmentation" else ("class", "classes")
        yield (
            f"Fewer than {_MIN_SUBJECTS} test subjects with the {one}: {listing(list(names))}. Their figures have no "
            f"interval and say little; means over the {many} rest on them too."
        )


def _joined(study: Study) -> list[str]:
    """Runs say alike things with other numbers: the first stands for all."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for run in study.runs.values():
        for words in run_cautions(run, alone=False):
            groups.setdefault(re.sub(r"[\d.]+", "#", words), []).append((run.title, words))
    lines = []
    for members in groups.values():
        title, words = members[0]
        more = f" (and {plural(len(members) - 1, 'further run')})" if len(members) > 1 else ""
        lines.append(f"{title}{more}: {words}")
    return lines


def _of_features(run: Run) -> Iterator[str]:
    if run.features is not None and len(run.features.embeddings):
        try:
            words = collapse_warning(run.features.embeddings)
        except ValueError as error:
            words = f"The features cannot be judged: {error}."
        if words:
            yield words
    for name, counts in ((run.metrics or {}).get("confusion_matrices") or {}).items():
        called = np.asarray(counts, dtype=float).sum(axis=0)
        if called.sum() and not called.min():
            yield (
                f"{name} is called in {'all' if called[1] else 'none'} of the test images: at its threshold the "
                "classifier does not tell images with and without it apart, whatever its AUROC."
            )
    matrix = np.asarray((run.metrics or {}).get("confusion_matrix") or [[]], dtype=object)
    if matrix.ndim == 2 and matrix.shape[0] == matrix.shape[1] == len(run.class_names) > 1:
        columns = matrix.astype(float).sum(axis=0)
        total = float(columns.sum())
        if total and columns.max() >= 0.95 * total:
            name = run.class_names[int(columns.argmax())]
            yield (
                f"{columns.max() / total:.0%} of the test images are called {name}: the classifier hardly tells the "
                "classes apart at its most probable class, whatever its AUROC."
            )


def _of_watch(run: Run) -> Iterator[str]:
    """What the collapse watch found while the run trained."""
    for stage, rows in run.histories.items():
        flags = [row["embedding_collapsed"] for row in rows if row.get("embedding_collapsed") is not None]
        if any(flags):
            where = "the last time too" if flags[-1] else "but not the last time"
            times = f"{sum(map(bool, flags))} of the {len(flags)} times"
            yield (
                f"Stage {stage}: the embedding was found collapsed {times} it was looked at, {where}. "
                f"To mend it, {REMEDY}"
            )


def _of_budget(budget: Mapping[str, Any]) -> Iterator[str]:
    asked, used = budget.get("n_requested"), budget.get("n_labels")
    if isinstance(asked, int) and isinstance(used, int) and used > 1.1 * asked:
        yield (
            f"The label budget is overspent: {used:,} labels used, {asked:,} asked for (subjects are not divided, and "
            "every class needs one)."
        )
    if budget.get("select_on_validation") is False:
        yield (
            f"Too few validation labels ({budget.get('n_labels_validation', 0)}) to choose by: the last epoch's "
            "network is served, without operating points and without calibration."
        )
    if budget.get("transductive"):
        yield _TRANSDUCTIVE


_TRANSDUCTIVE = (
    "Transductive: unlabelled images of the test or validation subjects were used in training. The figures do not hold "
    "for new subjects."
)


def _of_metrics(metrics: Mapping[str, Any]) -> Iterator[str]:
    if not metrics:
        return
    yield from _tiny(metrics.get("n_subjects"))
    absent = [name for name, entry in (metrics.get("per_class") or {}).items() if entry.get("n") == 0]
    if absent:
        noun, what = image_noun(metrics.get("task")), "organ" if metrics.get("task") == "segmentation" else "class"
        yield f"No test {noun} of {listing([str(name) for name in absent])}: nothing is known about this {what} here."
    seen = metrics.get("n_subjects_seen_in_training")
    if seen:
        yield f"{plural(seen, 'test subject')} were seen in training: the figures are too good."


def _of_records(run: Run) -> Iterator[str]:
    if (run.pretrain_budget or {}).get("transductive"):
        yield _TRANSDUCTIVE
    if any("smoke" in (record.get("overlays") or []) for record in run.records.values()):
        yield _SMOKE
    for stage, words in run.configs.items():
        try:
            config = yaml.safe_load(words)
        except yaml.YAMLError:
            continue  # it is shown as it stands; what it says cannot be judged
        if not isinstance(config, dict):
            continue
        if config.get("transductive") is True:
            yield _TRANSDUCTIVE
        rows, wanted = run.histories.get(stage), config.get("max_epochs")
        if rows is not None and isinstance(wanted, int) and len(rows) < wanted:
            yield f"Stage {stage} was stopped after {len(rows)} of {plural(wanted, 'epoch')}."


def _tiny(n_subjects: object) -> Iterator[str]:
    if isinstance(n_subjects, int) and n_subjects < TINY_TEST_SET:
        yield (
            f"A tiny test set: {plural(n_subjects, 'test subject')}. A handful of subjects decides; treat every "
            "figure as a first impression."
        )


def _sentence(words: str) -> str:
    name, colon, rest = words.partition(": ")
    words = f"{metric_name(name)}{colon}{rest}" if name in METRIC_NAMES else words
    return words[:1].upper() + words[1:] + ("" if words.endswith((".", "!", "?")) else ".")
