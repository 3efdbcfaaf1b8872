"""The part of a study's page that shows each organ: Dice against the number of labelled scans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medssl_monai.visualize.report.markup import Markup, figure, text
from medssl_monai.visualize.report.parts import absent
from medssl_monai.visualize.report.study_parts import budget_curve, summary_table
from medssl_monai.visualize.report.words import capital, metric_name

Row = Mapping[str, Any]


def organ_curves_part(study: Row) -> Markup:
    """A curve and a table for each organ, of the Dice that the claim is about (by its protocol).

    Args:
        study: content of the ``study.json`` of a segmentation.
    """
    source, _, _ = str(study["primary_metric"]).rpartition("/")
    metric = f"{source}/dice" if source else "dice"
    rows = [
        row for row in study.get("summary") or []
        if row["metric"] == metric and row.get("class") is not None and row.get("estimate") is not None
    ]  # fmt: skip
    if not rows:
        return absent("No curves of organs: no arm has been evaluated at any budget yet.")
    names = dict.fromkeys(str(row["class"]) for row in rows)
    return text([_curve(study, name, metric, [row for row in rows if row["class"] == name]) for name in names])


def _curve(study: Row, organ: str, metric: str, rows: Sequence[Row]) -> Markup:
    label = f"{capital(organ)}: {metric_name(metric)}"
    caption = f"{label}. Exploratory: the claim is about the mean over organs."
    return figure(budget_curve(study, rows, label), caption, summary_table(study, rows, f"{label} by arm and budget"))
