"""The part of the page that shows how an encoder was judged as it is: by nearest neighbours and linear classifiers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medssl_monai.visualize.report.markup import Markup, table, tag, text
from medssl_monai.visualize.report.sources import Run
from medssl_monai.visualize.report.words import PROTOCOL_NAMES, capital, count, estimate, metric_name

_SHOWN = ("macro_auroc", "balanced_top1_accuracy", "top1_accuracy", "macro_average_precision", "balanced_accuracy")


def protocols_part(run: Run) -> Markup:
    """A row for each protocol: labels used, figures with intervals, what was chosen."""
    found = run.protocols
    metrics = [name for name in _SHOWN if any(name in one["metrics"] for one in found.values())]
    rows = []
    for name, one in found.items():
        figures = [estimate(one["metrics"][key]) if key in one["metrics"] else "–" for key in metrics]
        labels = count(one.get("label_counts", {}).get("n_labels"))
        shown = PROTOCOL_NAMES.get(name, name)
        rows.append((shown if shown == "kNN" else capital(shown), labels, *figures, _chosen(one["protocol"])))
    header = ("Protocol", "Labels", *(capital(metric_name(key)) for key in metrics), "Settings")
    words = "The encoder was not trained further for these figures: they say what its embeddings hold as they are."
    return text([table(header, rows, "Frozen embeddings on the test images, with 95 % intervals"), tag("p", words)])


def _chosen(facts: Mapping[str, Any]) -> str:
    if "k" in facts:
        return f"k = {facts['k']}, T = {facts['temperature']:g}"
    return f"C = {facts['regularisation']:g} (by {facts['chosen_by']})"
