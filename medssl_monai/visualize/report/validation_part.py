"""The part of the page of a run that was measured on validation only: figures, said not to be a test result."""

from __future__ import annotations

from dataclasses import replace

from medssl_monai.visualize.report.markup import Markup, bullets, tag, text
from medssl_monai.visualize.report.run_parts import classes_part, figures_table
from medssl_monai.visualize.report.sources import Run

CHOSEN_ON_THEM = (
    "The figures below are of validation. Checkpoint, temperatures and operating points (of an ensemble also its "
    "weights) were chosen on these very images, so that the figures are too good: they say nothing yet of new subjects."
)
_FILES = (
    "They stand in eval/validation_metrics.json, each prediction in eval/validation_predictions.csv, and pictures in "
    "eval/validation_*.png where they were drawn. The evaluate stage without split=validation measures on test."
)


def validation_part(run: Run) -> Markup:
    """Figures of ``eval/validation_metrics.json``, with what the evaluation itself warns of."""
    found = run.validation or {}
    warnings = [str(one) for one in found.get("warnings", [])]
    parts = [
        tag("p", tag("strong", "Not a test result. "), CHOSEN_ON_THEM),
        figures_table(found, "validation"),
        classes_part(replace(run, metrics=found)),
        tag("p", "The evaluation itself warns:") if warnings else "",
        bullets(warnings) if warnings else "",
        tag("p", _FILES, class_="soft small"),
    ]
    return text(parts)
