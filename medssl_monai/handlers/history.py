"""The run's history: one table row an epoch in the log, a file with all of them, TensorBoard curves."""

from __future__ import annotations

import logging
import math
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.tensorboard import SummaryWriter

from medssl_monai.core import write_json
from medssl_monai.core.distributed import is_main

logger = logging.getLogger(__name__)


class History:
    """Mean of every loss term, learning rate, validation metrics and seconds of each epoch.

    What handlers before it put into the trainer's ``state.metrics`` in an epoch (:class:`CollapseWatch`) is recorded
    too. With several processes the trainer's output holds means over them; the first process writes.

    Args:
        folder: ``filename`` is written here after each epoch.
        optimizer: its learning rate is recorded.
        evaluator: its metrics are recorded where it ran in the epoch.
        filename: name of the JSON file: a list with one object an epoch.
        tensorboard_dir: folder of TensorBoard events; ``None`` writes none.
    """

    def __init__(
        self,
        folder: str | Path,
        optimizer: Optimizer,
        evaluator: Engine | None = None,
        filename: str = "history.json",
        tensorboard_dir: str | Path | None = None,
    ) -> None:
        self.path, self.optimizer, self.evaluator = Path(folder) / filename, optimizer, evaluator
        self.tensorboard_dir = tensorboard_dir
        self.rows: list[dict[str, Any]] = []
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = defaultdict(int)
        self._start = self._seconds = 0.0
        self._partial = False
        self._writer: SummaryWriter | None = None

    def attach(self, engine: Engine) -> None:
        """Record the epochs of ``engine`` (the trainer)."""
        engine.add_event_handler(Events.EPOCH_STARTED, self.epoch_started)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.iteration_completed)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.epoch_completed)

    def epoch_started(self, engine: Engine) -> None:
        """Begin a row, or go on with that of an epoch that was stopped."""
        if not self._partial:
            self._sums, self._seconds = {}, 0.0
            self._counts.clear()
        self._partial, self._start = False, time.perf_counter()
        self.learning_rate = self.optimizer.param_groups[0]["lr"]

    def iteration_completed(self, engine: Engine) -> None:
        """Add a step's terms; sums stay on the device, so that no step waits for it."""
        output: Any = engine.state.output
        for name, value in {"loss": output["loss"], **output["terms"]}.items():
            self._sums[name] = self._sums[name].to(value.device) + value if name in self._sums else value.clone()
            self._counts[name] += 1

    def epoch_completed(self, engine: Engine) -> None:
        """Finish the row, log it, write the file and the curves."""
        row: dict[str, Any] = {"epoch": engine.state.epoch, "learning_rate": self.learning_rate}
        row |= {name: float(total) / self._counts[name] for name, total in self._sums.items()}
        if self.evaluator is not None and self.evaluator.state.epoch == engine.state.epoch:
            row |= {f"val_{name}": float(value) for name, value in self.evaluator.state.metrics.items()}
        row |= {name: float(value) for name, value in engine.state.metrics.items()}
        row["seconds"] = self._seconds + time.perf_counter() - self._start
        self.rows.append(row)
        self._sums = {}
        if is_main():
            self._write(engine, row)

    def _write(self, engine: Engine, row: dict[str, Any]) -> None:
        shown = "  ".join(f"{name} {value:.4g}" for name, value in row.items() if name != "epoch")
        logger.info("epoch %*d/%d  %s", len(str(engine.state.max_epochs)), row["epoch"], engine.state.max_epochs, shown)
        write_json(self.path, [{k: _plain(v) for k, v in r.items()} for r in self.rows])
        if self.tensorboard_dir is not None:
            # what a run that was killed has written beyond its checkpoint is written again
            self._writer = self._writer or SummaryWriter(str(self.tensorboard_dir), purge_step=row["epoch"])
            for name, value in row.items():
                if name != "epoch":
                    self._writer.add_scalar(name, value, row["epoch"])
            self._writer.flush()

    def after_run(self, engine: Engine, error: BaseException | None = None) -> None:
        """Close the curves' file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def state_dict(self) -> dict[str, Any]:
        """The rows so far, and the sums of an epoch that is under way."""
        sums = {name: value.clone() for name, value in self._sums.items()}
        seconds = self._seconds + time.perf_counter() - self._start
        return {"rows": self.rows, "sums": sums, "counts": dict(self._counts), "seconds": seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.rows = [dict(row) for row in state["rows"]]
        self._sums, self._seconds = dict(state["sums"]), state["seconds"]
        self._counts = defaultdict(int, state["counts"])
        self._partial = bool(self._sums)


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
