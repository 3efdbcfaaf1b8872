"""The parts of the page that show one run on organs (segmentation)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medssl_monai.visualize.report.markup import Markup, table, text
from medssl_monai.visualize.report.words import capital, count, estimate, metric_name

#: parts of the page that are of classifiers only
CLASSIFIERS_ONLY = frozenset({"confusion", "roc", "calibration", "saliency", "features"})
SUBGROUP_METRICS = ("mean_dice", "mean_hd95_mm", "mean_volume_error_percent")
#: figures of a study that its page shows: means in millilitres would add up organs of unlike sizes, and within the
#: slices that the test labels tell only the overlap is of use
STUDY_FIGURES = frozenset(
    {
        "mean_dice", "mean_hd95_mm", "mean_volume_error_percent", "paper/mean_dice",
        "dice", "hd95_mm", "volume_bias_ml", "volume_error_percent", "paper/dice",
    }
)  # fmt: skip
_PER_ORGAN = ("dice", "hd95_mm", "volume_bias_ml", "volume_error_percent")
_PROTOCOLS = {
    "blind": "Each organ, without any label of the scan (protocol blind), with 95 % intervals",
    "paper": "Each organ within the slices in which the scan's own labels show it (protocol paper): an upper bound, "
    "for nobody has these labels of a new scan",
}


def is_segmentation(metrics: Mapping[str, Any] | None) -> bool:
    """Whether a run's ``metrics.json`` is that of a segmentation."""
    return (metrics or {}).get("task") == "segmentation"


def organs_part(metrics: Mapping[str, Any]) -> Markup:
    """Figures of each organ, a table a protocol."""
    header = ("Organ", "Scans with it", "Subjects", *(capital(metric_name(one)) for one in _PER_ORGAN), "Missed",
              "Invented")  # fmt: skip
    parts = []
    for protocol, report in {metrics["protocol"]: metrics, **metrics["protocols"]}.items():
        rows = []
        for name, entry in report["per_class"].items():
            cells = [estimate(entry[metric], brief=True) for metric in _PER_ORGAN]
            cases = [count(entry["cases"][case]) for case in ("missed", "invented")]
            rows.append((name, count(entry["n"]), count(entry["n_subjects"]), *cells, *cases))
        parts.append(table(header, rows, _PROTOCOLS.get(protocol, f"Each organ (protocol {protocol})")))
    return text(parts)
