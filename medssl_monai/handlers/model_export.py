"""Keeps the network that is served: of the best epoch on validation, else of the last."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from torch import nn

from medssl_monai.core import make_folder
from medssl_monai.core.distributed import is_main
from medssl_monai.handlers.storage import save_tensors

logger = logging.getLogger(__name__)

MODEL_FILE = "model.pt"


class ModelExport:
    """Writes ``model.pt``, the state dict that is served: of the best epoch on validation, else of the last.

    It must stand behind the handler that validates in the list of handlers.

    Args:
        network: the network to save (student or teacher).
        folder: where to.
        evaluator: the engine that validates; ``None`` saves the last epoch.
        metric: key of ``evaluator.state.metrics``; higher is better.
        select: choose the best epoch; ``False`` where the validation labels are too few to choose by.
        filename: name of the file.
        attribute: save this sub-module only (``"encoder"`` for pre-training).
    """

    def __init__(
        self,
        network: nn.Module,
        folder: str | Path,
        evaluator: Engine | None = None,
        metric: str = "macro_auroc",
        select: bool = True,
        filename: str = MODEL_FILE,
        attribute: str | None = None,
    ) -> None:
        self.network, self.evaluator, self.metric = network, evaluator, metric
        self.select = select and evaluator is not None
        self.path = Path(folder) / filename
        self.module = network if attribute is None else network.get_submodule(attribute)
        self.best_value, self.best_epoch = -math.inf, 0

    def attach(self, engine: Engine) -> None:
        """Save at the end of epochs of ``engine`` (the trainer)."""
        make_folder(self.path.parent)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.epoch_completed)

    def epoch_completed(self, engine: Engine) -> None:
        """Save where this epoch is better than those before, or where there is no choosing."""
        last = engine.state.epoch == engine.state.max_epochs
        if self.select:
            assert self.evaluator is not None  # noqa: S101  (held by the constructor)
            validated = self.evaluator.state.epoch == engine.state.epoch
            value = float(self.evaluator.state.metrics.get(self.metric, math.nan)) if validated else math.nan
            if value > self.best_value:
                self.best_value = value
            elif not (last and not self.best_epoch):
                return
            if last and not self.best_epoch and not math.isfinite(value):
                logger.warning("%s was undefined in every epoch: the last epoch's network is kept", self.metric)
        self.best_epoch = engine.state.epoch
        if is_main():
            save_tensors(self.module.state_dict(), self.path)

    def state_dict(self) -> dict[str, Any]:
        """Best value and epoch so far."""
        return {"best_value": self.best_value, "best_epoch": self.best_epoch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.best_value, self.best_epoch = float(state["best_value"]), int(state["best_epoch"])
