"""The parts of the page that show one run: figures, confusion, calibration, saliency, subgroups, training curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medssl_monai.visualize.report.charts import Series, bar_chart, legend, line_chart
from medssl_monai.visualize.report.label_parts import (
    SUBGROUP_METRICS,
    calibrations_part,
    confusions_part,
    is_exclusive,
    labels_part,
)
from medssl_monai.visualize.report.markup import Markup, figure, table, tag, text
from medssl_monai.visualize.report.organ_parts import SUBGROUP_METRICS as ORGAN_METRICS
from medssl_monai.visualize.report.organ_parts import is_segmentation, organs_part
from medssl_monai.visualize.report.parts import absent, png
from medssl_monai.visualize.report.sources import Run
from medssl_monai.visualize.report.words import capital, count, estimate, image_noun, metric_name, number, plural

_NO_METRICS = "No figures: eval/metrics.json is not there or cannot be read. The evaluate stage writes it."
_PER_CLASS = ("auroc", "top1_sensitivity", "top1_specificity")
_SUBGROUP_METRICS = ("macro_auroc", "balanced_top1_accuracy", "top1_accuracy")


def metrics_part(run: Run) -> Markup:
    """All headline figures with their intervals."""
    return absent(_NO_METRICS) if run.metrics is None else figures_table(run.metrics, "test")


def figures_table(metrics: Mapping[str, Any], split: str) -> Markup:
    """Headline figures of the images of a split, whose name the caption says."""
    rows = [
        (capital(metric_name(name)), *_interval_cells(entry), count(entry.get("n")), count(entry.get("n_subjects")))
        for name, entry in metrics["metrics"].items()
    ]
    subjects = plural(metrics["n_subjects"], f"{split} subject")
    noun = image_noun(metrics.get("task"))
    caption = f"Figures on {plural(metrics['n'], f'{split} {noun}')} of {subjects}"
    header = ("Figure", "Estimate (95 % interval)", "90 % interval", f"{capital(noun)}s", "Subjects")
    return table(header, rows, caption)


def _interval_cells(entry: Mapping[str, Any]) -> tuple[Markup, Markup]:
    ends = entry.get("interval_90")
    return estimate(entry), text([number(ends[0]), " to ", number(ends[1])]) if ends else Markup("–")


def classes_part(run: Run) -> Markup:
    """Figures of each class, at the most probable class and at the operating point."""
    if run.metrics is None:
        return absent(_NO_METRICS)
    if is_segmentation(run.metrics):
        return organs_part(run.metrics)
    if not is_exclusive(run.metrics):
        return labels_part(run.metrics)
    rows, points = [], []
    for name, entry in run.metrics["per_class"].items():
        cells = [estimate(entry[metric], brief=True) if metric in entry else "–" for metric in _PER_CLASS]
        rows.append((name, count(entry["n"]), count(entry["n_subjects"]), *cells))
        point = entry.get("operating_point")
        if point is None:
            continue
        if point.get("threshold") is None:
            points.append((name, "–", "–", text(f"none: {point.get('reason')}")))
        else:
            rates = [estimate(point[kind], brief=True) for kind in ("sensitivity", "specificity")]
            points.append((name, *rates, number(point["threshold"])))
    header = ("Class", "Images", "Subjects", *(capital(metric_name(metric)) for metric in _PER_CLASS))
    parts = [table(header, rows, "Each class against the rest, with 95 % intervals")]
    if points:
        header = ("Class", "Sensitivity", "Specificity", "Threshold")
        parts.append(table(header, points, "At the operating points chosen on validation, with 95 % intervals"))
    return text(parts)


def confusion_part(run: Run) -> Markup:
    """The confusion matrix as a table, shaded by the share of the true class."""
    if run.metrics is None:
        return absent(_NO_METRICS)
    if not is_exclusive(run.metrics):
        return confusions_part(run.metrics)
    matrix, names = np.asarray(run.metrics["confusion_matrix"], dtype=np.int64), run.class_names
    if matrix.shape != (len(names), len(names)):
        raise ValueError(f"a confusion matrix of shape {matrix.shape} for {len(names)} classes")
    rows = []
    for name, counts in zip(names, matrix):
        total = int(counts.sum())
        shares = counts / total if total else np.zeros(len(counts))
        cells = [
            tag("td", count(int(k)), tag("br"), tag("span", f"{share:.0%}", class_="small"),
                class_=None if k else "none", style=f"--share:{share:.2f}")
            for k, share in zip(counts, shares)
        ]  # fmt: skip
        rows.append((text(f"{name} (n = {total:,})"), *cells))
    header = ("True class", *(f"called {name}" for name in names))
    words = (
        "A row is a true class, a column what the classifier called it (highest probability); the stronger "
        "the colour, the more."
    )
    return text(
        [
            table(header, rows, "Test images by true and called class", class_="confusion"),
            tag("p", words, class_="soft small"),
        ]
    )


def roc_part(run: Run) -> Markup:
    """The ROC curves as drawn by the evaluation."""
    if "roc" not in run.images:
        return absent("No ROC curves: eval/roc.png is not there or damaged. The evaluate stage draws it.")
    values = (run.metrics or {}).get("per_class", {})
    areas = [
        f"{name} {entry['auroc']['estimate']:.3f}"
        for name, entry in values.items()
        if isinstance(entry.get("auroc", {}).get("estimate"), float)
    ]
    words = f"ROC curves, sensitivity against 1 minus specificity. AUROC: {', '.join(areas) or 'not known'}."
    which = "class against the rest" if is_exclusive(run.metrics) else "label"
    return figure(png(run.images["roc"], words), f"ROC curve of each {which}.")


def saliency_part(run: Run) -> Markup:
    """The saliency panel as drawn by the evaluation."""
    if "saliency" not in run.images:
        return absent("No saliency panel: eval/saliency.png is not there or damaged. The evaluate stage draws it.")
    words = (
        "Test images beside maps of where small changes of a pixel would change the classifier's answer most; "
        "true and predicted class stand at the left of each row."
    )
    caption = (
        "Bright is where the answer depends on the image most: by pixel (saliency), by region (Grad-CAM, where shown). "
        "It shows where the network looks, not why, and not whether it is right to."
    )
    return figure(png(run.images["saliency"], words), caption)


def calibration_part(run: Run) -> Markup:
    """Accuracy against confidence, before and after temperature scaling."""
    if run.metrics is None:
        return absent(_NO_METRICS)
    if not is_exclusive(run.metrics):
        return calibrations_part(run.metrics)
    calibration = run.metrics["calibration"]
    temperature = calibration.get("temperature")
    names = {"before": "as the network gives it", "after": f"after temperature scaling (T = {temperature or 1:.2f})"}
    curves = {names[key]: calibration[key]["curve"] for key in names if calibration.get(key)}
    series = [_calibration_series(name, curve, k) for k, (name, curve) in enumerate(curves.items())]
    figures = [(names[key], *(number(calibration[key][one]) for one in ("ece", "brier", "nll")))
               for key in names if calibration.get(key)]  # fmt: skip
    title = "Calibration: accuracy against confidence"
    words = f"On the dashed line confidence and accuracy are equal. {_gaps(curves)}"
    chart = line_chart(
        series, title=title, description=words, x_label="Confidence (highest probability)", y_label="Accuracy",
        y_range=(-0.02, 1.02), diagonal=True, x_ticks={k / 5: f"{k / 5:.1f}" for k in range(6)},
    )  # fmt: skip
    first = next(iter(curves.values()))
    counts = bar_chart(
        first["edges"], [curve["count"] for curve in curves.values()], title="Images by confidence",
        description="How many test images have which confidence.", labels=("Confidence", "Images"),
        x_ticks={k / 5: f"{k / 5:.1f}" for k in range(6)},
    )  # fmt: skip
    keys = legend([(name, k) for k, name in enumerate(curves)], others=[("perfect calibration", "reference")])
    caption = (
        "Where a curve lies below the dashed line the classifier is more confident than right. "
        "Hollow: fewer than 10 images."
    )
    grid = tag(
        "div", figure(text([chart, keys]), caption, _curve_table(curves)),
        figure(counts, "Images by confidence, in the colours of the curves."),
        class_="grid",
    )  # fmt: skip
    header = ("Probabilities", "ECE", "Brier score", "Negative log likelihood")
    note = calibration.get("reason")
    return text(
        [grid, table(header, figures, "Calibration in numbers (lower is better)"), tag("p", note) if note else ""]
    )


def _calibration_series(name: str, curve: Mapping[str, Any], index: int) -> Series:
    kept = [(c, a, n) for c, a, n in zip(curve["confidence"], curve["accuracy"], curve["count"]) if n]
    thin = frozenset(k for k, (*_, n) in enumerate(kept) if n < 10)
    return Series(name, [(float(c), float(a)) for c, a, _ in kept], index, hollow=thin)


def _gaps(curves: Mapping[str, Mapping[str, Any]]) -> str:
    words = []
    for name, curve in curves.items():
        kept = [(c - a) * n for c, a, n in zip(curve["confidence"], curve["accuracy"], curve["count"]) if n]
        gap = sum(kept) / sum(curve["count"])
        kind = "above" if gap > 0 else "below"
        words.append(f"Probabilities {name}: confidence is {abs(gap):.3f} {kind} accuracy on average.")
    return " ".join(words)


def _curve_table(curves: Mapping[str, Mapping[str, Any]]) -> Markup:
    rows = []
    for name, curve in curves.items():
        for low, high, c, a, n in zip(
            curve["edges"], curve["edges"][1:], curve["confidence"], curve["accuracy"], curve["count"]
        ):
            if n:
                rows.append((name, f"{low:.1f} to {high:.1f}", number(c), number(a), count(n)))
    return table(("Probabilities", "Bin", "Mean confidence", "Accuracy", "Images"), rows, "Calibration curve")


def subgroups_part(run: Run) -> Markup:
    """Headline figures of the subgroups that the dataset's columns make."""
    if run.metrics is None:
        return absent(_NO_METRICS)
    groups = run.metrics.get("subgroups") or {}
    if not groups:
        return absent("No subgroups: the dataset has no columns such as age, sex or site.")
    shown = _SUBGROUP_METRICS if is_exclusive(run.metrics) else SUBGROUP_METRICS
    shown = ORGAN_METRICS if is_segmentation(run.metrics) else shown
    parts: list[Markup] = []
    for column, values in groups.items():
        rows = []
        for value, entry in values.items():
            metrics = entry.get("metrics")
            cells = [estimate(metrics[name], brief=True) if metrics and name in metrics else "–" for name in shown]
            note = entry.get("reason") or ""
            rows.append((value, count(entry["n"]), count(entry["n_subjects"]), *cells, note))
        header = (column, "Images", "Subjects", *(capital(metric_name(name)) for name in shown), "Note")
        parts.append(table(header, rows, f"By {column}, with 95 % intervals"))
    parts.append(tag("p", "Differences between subgroups are exploratory: nobody asked for one before.", class_="soft"))
    return text(parts)


def curves_part(run: Run, level: int = 4) -> Markup:
    """Training curves, one small chart a quantity; what is measured on validation stands beside."""
    if not run.histories:
        return absent(
            "No training curves: models/history.json is not there or cannot be read. The train stage writes it."
        )
    parts: list[Markup] = []
    for stage, rows in run.histories.items():
        columns = [
            name for name in dict.fromkeys(key for row in rows for key in row)
            if name not in ("epoch", "seconds") and any(isinstance(row.get(name), (int, float)) for row in rows)
        ]  # fmt: skip
        charts = [_curve(stage, name, rows) for name in columns]
        minutes = sum(row["seconds"] for row in rows if isinstance(row.get("seconds"), (int, float))) / 60
        title = {"pretrain": "Pre-training", "train": "Training"}.get(stage, stage)
        words = f"{title}: {plural(len(rows), 'epoch')}, {minutes:.1f} minutes"
        numbers = table(
            ("epoch", *columns),
            [(str(row.get("epoch", "")), *(number(row.get(name), digits=4) for name in columns)) for row in rows],
            f"{title}, epoch by epoch",
        )
        details = tag(
            "details", tag("summary", f"The numbers of these charts ({title.lower()})"), numbers, class_="screen"
        )
        parts += [tag(f"h{level}", words), tag("div", *charts, class_="grid"), details]
    return text(parts)


def watched_words(run: Run) -> str:
    """What pre-training has made of the embedding, as its watch has measured it; empty where nothing did."""
    name = "embedding_effective_rank"
    rows = [row for row in run.histories.get("pretrain", []) if isinstance(row.get(name), (int, float))]
    if not rows:
        return ""
    epochs = plural(len(run.histories["pretrain"]), "epoch")
    words = f"After {epochs} the embedding's effective rank is {rows[-1][name]:.1f}"
    words += f", after the first it was {rows[0][name]:.1f}" if rows[1:] else ""
    collapsed = rows[-1].get("embedding_collapsed")
    return f"{words}. The embedding has {'collapsed' if collapsed else 'not collapsed'}."


def _curve(stage: str, name: str, rows: Sequence[Mapping[str, Any]]) -> Markup:
    points = [
        (float(row["epoch"]), float(row[name]) if isinstance(row.get(name), (int, float)) else None) for row in rows
    ]
    known = [value for _, value in points if value is not None]
    label = capital(metric_name(name.removeprefix("val_"))) + (" (validation)" if name.startswith("val_") else "")
    where = max(range(len(known)), key=known.__getitem__) if name.startswith("val_") else -1
    best = f", best {known[where]:.3g}" if where >= 0 else ""
    words = f"{label} from {known[0]:.3g} in the first epoch to {known[-1]:.3g} in the last{best}."
    series = Series(label, points, 1 if name.startswith("val_") else 0, marks=len(points) <= 30)
    chart = line_chart(
        [series], title=f"{label}, {stage}", description=words, x_label="Epoch", y_label=label, x_integer=True
    )
    return tag("figure", chart, tag("figcaption", words))
