"""What a protocol leaves: ``metrics.json`` and ``predictions.csv`` in the shape that evaluation gives them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medssl_monai.apps.protocol.judge import Samples, Verdict
from medssl_monai.core import make_folder, write_json
from medssl_monai.core.environment import versions
from medssl_monai.data import Budget
from medssl_monai.handlers.budget import label_counts
from medssl_monai.handlers.prediction_files import write_label_predictions, write_predictions
from medssl_monai.handlers.predictions import METRICS_FILE, PREDICTIONS_FILE
from medssl_monai.metrics import (
    apply_temperature,
    choose_operating_points,
    classification_report,
    decision_thresholds,
    multilabel_report,
)


def write_results(
    folder: Path,
    name: str,
    verdict: Verdict,
    validation: Samples | None,
    test: Samples,
    budget: Budget,
    labels: Mapping[str, Any],
    about: Mapping[str, Any],
    n_seen: int | None,
    seed: int,
    n_boot: int = 1000,
) -> dict[str, Any]:
    """Write both files and return the report.

    Args:
        folder: where to.
        name: of the protocol.
        verdict: the scores.
        validation: images that operating points are chosen on; ``None`` where they are too few.
        test: the test images.
        budget: the labels used.
        labels: whose they are, plain values.
        about: what to say of the encoder, plain values.
        n_seen: test subjects that the encoder was trained with; ``None`` where that is not known.
        seed: of the resampling.
        n_boot: resamples.
    """
    datalist, class_names = budget.datalist, budget.datalist.class_names
    known = any(item.subject is not None for item in test.items)
    keys = sorted({key for item in test.items for key in item.columns})
    served = verdict.scores if verdict.temperature is None else apply_temperature(verdict.scores, verdict.temperature)
    points = None
    if validation is not None and verdict.validation_scores is not None:
        chosen = verdict.validation_scores
        if verdict.temperature is not None:
            chosen = apply_temperature(chosen, verdict.temperature)
        points = choose_operating_points(validation.labels, chosen, class_names)
    common: dict[str, Any] = {
        "operating_points": points, "n_boot": n_boot, "seed": seed,
        "columns": {key: [item.columns.get(key) for item in test.items] for key in keys} or None,
    }  # fmt: skip
    groups = test.groups if known else None
    if datalist.exclusive:
        report = classification_report(
            test.labels, verdict.scores, groups, class_names, temperature=verdict.temperature, **common
        )
    else:
        report = multilabel_report(test.labels, verdict.scores, groups, class_names, **common)
    report["warnings"] += [*verdict.warnings, *_seen_warnings(n_seen, report["n_subjects"], budget)]
    content = {
        "dataset": datalist.name,
        "protocol": {"name": name, **verdict.facts, "labels": dict(labels), "encoder": dict(about)},
        "settings": dict(about.get("settings", {})),
        "label_counts": label_counts(budget),
        **report,
        "n_subjects_seen_in_training": n_seen,
        "versions": versions(),
    }
    make_folder(folder)
    names, columns = [item.name for item in test.items], {"subject": [item.subject or "" for item in test.items]}
    write_json(folder / METRICS_FILE, content)
    path = folder / PREDICTIONS_FILE
    if datalist.exclusive:
        truth = [class_names[label] for label in test.labels]
        write_predictions(path, names, served, class_names, {**columns, "label": truth})
    else:
        called = served >= decision_thresholds(class_names, points)
        write_label_predictions(path, names, served, called, class_names, columns, test.labels)
    return content


def _seen_warnings(n_seen: int | None, n_subjects: int, budget: Budget) -> list[str]:
    if n_seen is None:
        return ["whether the encoder was trained with images of test subjects is not known"]
    if n_seen and budget.request["transductive"]:
        return [f"transductive: the encoder was trained on images of {n_seen} of {n_subjects} test subjects"]
    if n_seen:
        return [f"{n_seen} of {n_subjects} test subjects were seen in training: the figures are too good"]
    return []
