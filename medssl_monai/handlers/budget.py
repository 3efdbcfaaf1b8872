"""Writes beside the run which labels it used."""

from __future__ import annotations

import logging
from pathlib import Path

from ignite.engine import Engine, Events

from medssl_monai.core import write_json
from medssl_monai.core.distributed import is_main
from medssl_monai.data.budget import Budget

logger = logging.getLogger(__name__)

BUDGET_FILE = "budget.json"


class BudgetRecord:
    """Writes ``budget.json``: counts and names of the chosen items.

    Args:
        budget: the choice.
        folder: where to write.
        filename: name of the file.
    """

    def __init__(self, budget: Budget, folder: str | Path, filename: str = BUDGET_FILE) -> None:
        self.budget, self.path = budget, Path(folder) / filename

    def attach(self, engine: Engine) -> None:
        """Write when ``engine`` starts."""
        engine.add_event_handler(Events.STARTED, self.write)

    def write(self, engine: Engine | None = None) -> None:
        """Write the file and log the counts."""
        if not is_main():
            return
        budget = self.budget
        logger.info(
            "labels: %d for training (%d subjects), %d for validation (%d subjects); %d images without label",
            budget.n_labels_training, budget.n_subjects_training, budget.n_labels_validation,
            budget.n_subjects_validation, len(budget.unlabeled),
        )  # fmt: skip
        if budget.n_labels > 1.1 * budget.n_requested:
            logger.warning(
                "asked for %d labels, %d are used: subjects are not divided, and every class needs one",
                budget.n_requested, budget.n_labels,
            )  # fmt: skip
        if budget.request["transductive"]:
            logger.warning("transductive: images of validation and test are trained on, without their labels")
        if budget.n_labels and budget.request["validation_share"] and not budget.select_on_validation:
            logger.warning(
                "too few validation labels (%d) to choose by: the last epoch's network is kept, no threshold is set",
                budget.n_labels_validation,
            )
        write_json(self.path, budget.to_json())


def label_counts(budget: Budget) -> dict[str, object]:
    """The counts of a budget, without the names of its items."""
    return {key: value for key, value in budget.to_json().items() if not isinstance(value, list)}
