"""The parts of the page that show one run on labels that are each there or not (binary and multilabel tasks)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from medssl_monai.visualize.report.charts import Series, legend, line_chart
from medssl_monai.visualize.report.markup import Markup, figure, table, tag, text
from medssl_monai.visualize.report.words import capital, count, estimate, metric_name, number

PER_LABEL = ("auroc", "average_precision", "sensitivity", "specificity", "f1")
SUBGROUP_METRICS = ("macro_auroc", "balanced_accuracy", "accuracy")
_TICKS = {k / 5: f"{k / 5:.1f}" for k in range(6)}


def is_exclusive(metrics: Mapping[str, Any] | None) -> bool:
    """Whether a run's ``metrics.json`` is that of exclusive classes."""
    return bool((metrics or {}).get("exclusive", True))


def labels_part(metrics: Mapping[str, Any]) -> Markup:
    """Figures of each label, with the threshold it is called from."""
    rows, notes = [], []
    for name, entry in metrics["per_class"].items():
        cells = [estimate(entry[metric], brief=True) for metric in PER_LABEL]
        limit = number(entry["decision_threshold"])
        rows.append((name, count(entry["n"]), count(entry["n_subjects"]), *cells, limit))
        point = entry.get("operating_point")
        if point is None or point.get("threshold") is None:
            why = (point or {}).get("reason") or "none was set on validation"
            notes.append(tag("li", f"{name}: no operating point ({why}); called from a probability of 0.5 on."))
    header = ("Label", "Images with it", "Subjects", *(capital(metric_name(one)) for one in PER_LABEL), "Threshold")
    words = "Each label, called from its threshold on (operating point chosen on validation), with 95 % intervals"
    return text([table(header, rows, words), tag("ul", *notes) if notes else ""])


def confusions_part(metrics: Mapping[str, Any]) -> Markup:
    """A two by two table of each label, shaded by the share of the true side."""
    header = ("Truth", "not called", "called")
    parts: list[Markup] = []
    for name, matrix in metrics["confusion_matrices"].items():
        counts = np.asarray(matrix, dtype=np.int64)
        if counts.shape != (2, 2):
            raise ValueError(f"the confusion matrix of {name} has shape {counts.shape}")
        rows = []
        for side, row in zip(("without", "with"), counts):
            total = int(row.sum())
            shares = row / total if total else np.zeros(2)
            cells = [
                tag("td", count(int(k)), tag("br"), tag("span", f"{share:.0%}", class_="small"),
                    class_=None if k else "none", style=f"--share:{share:.2f}")
                for k, share in zip(row, shares)
            ]  # fmt: skip
            rows.append((text(f"{side} {name} (n = {total:,})"), *cells))
        parts.append(table(header, rows, f"Test images with and without {name}", class_="confusion"))
    words = (
        "A row is the truth, a column whether the classifier called the label at its threshold; the stronger the "
        "colour, the more."
    )
    return text([*parts, tag("p", words, class_="soft small")])


def calibrations_part(metrics: Mapping[str, Any]) -> Markup:
    """Share of images with a label against its probability, a line a label, and the numbers before and after."""
    of_labels = metrics["calibration"]["per_class"]
    served = {name: entry["after"] or entry["before"] for name, entry in of_labels.items()}
    series = [_series(name, entry["curve"], k) for k, (name, entry) in enumerate(served.items())]
    words = "On the dashed line as many images have the label as its probability says."
    chart = line_chart(
        series, title="Calibration of each label", description=words, x_label="Probability of the label",
        y_label="Share of images with it", y_range=(-0.02, 1.02), diagonal=True, x_ticks=_TICKS,
    )  # fmt: skip
    keys = legend([(name, k) for k, name in enumerate(served)], others=[("perfect calibration", "reference")])
    caption = "Below the dashed line the label is rarer than its probability says. Hollow: fewer than 10 images."
    rows, bins = [], []
    for name, entry in of_labels.items():
        for scale, said in (("before", "as the network gives it"), ("after", "after temperature scaling")):
            if entry.get(scale):
                scaled = f" (T = {entry['temperature']:.2f})" if scale == "after" else ""
                rows.append((name, f"{said}{scaled}", *(number(entry[scale][one]) for one in ("ece", "brier", "nll"))))
        curve = served[name]["curve"]
        for low, high, c, a, n in zip(
            curve["edges"], curve["edges"][1:], curve["confidence"], curve["accuracy"], curve["count"]
        ):
            if n:
                bins.append((name, f"{low:.1f} to {high:.1f}", number(c), number(a), count(n)))
    header = ("Label", "Bin", "Mean probability", "Share with the label", "Images")
    note = metrics["calibration"].get("reason")
    return text(
        [
            figure(text([chart, keys]), caption, table(header, bins, "Calibration curves")),
            table(("Label", "Probabilities", "ECE", "Brier score", "Negative log likelihood"), rows,
                  "Calibration in numbers (lower is better; Brier score of one label, 0 to 1)"),
            tag("p", note) if note else "",
        ]
    )  # fmt: skip


def _series(name: str, curve: Mapping[str, Any], index: int) -> Series:
    kept = [(c, a, n) for c, a, n in zip(curve["confidence"], curve["accuracy"], curve["count"]) if n]
    thin = frozenset(k for k, (*_, n) in enumerate(kept) if n < 10)
    return Series(name, [(float(c), float(a)) for c, a, _ in kept], index, hollow=thin)


def label_groups(labels: np.ndarray, names: list[str], most: int = 8) -> tuple[np.ndarray, list[str]]:
    """Which labels an image has together, as one class: (N,) and the classes' names; the rarest ones are pooled.

    Args:
        labels: 0/1 table (N, L), -1 where unknown.
        names: L names.
        most: number of classes.
    """
    words = [
        "" if (row < 0).any() else " + ".join(name for name, there in zip(names, row) if there) or "none of them"
        for row in labels
    ]
    found, counts = np.unique([word for word in words if word], return_counts=True)
    ordered = [str(found[k]) for k in np.argsort(-counts, kind="stable")]
    kept = ordered if len(ordered) <= most else ordered[: most - 1]
    classes = kept if len(kept) == len(ordered) else [*kept, "other combinations"]
    index = {word: k for k, word in enumerate(kept)}
    return np.array([-1 if not word else index.get(word, len(kept)) for word in words], dtype=np.int64), classes
