"""How long a run will take and how much memory, said before it starts."""

from __future__ import annotations

import logging
import time
from typing import Any

import psutil
import torch
from ignite.engine import Engine, Events

from medssl_monai.core.distributed import world_size

logger = logging.getLogger(__name__)


class RunEstimate:
    """Times one batch and one step of the trainer, without effect on the run, and logs minutes and memory.

    The trainer has ``measure_step`` (see :class:`medssl_monai.engines.LabelEfficientTrainer`). Validation is not in the
    estimate.
    """

    def __init__(self) -> None:
        self.minutes: float | None = None
        self.gibibytes = 0.0

    def attach(self, engine: Engine) -> None:
        """Estimate before the first epoch of ``engine``."""
        # not at STARTED: a resumed run learns only then, from a later handler, which epoch it goes on with
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Any) -> None:
        """Measure and log, once."""
        if self.minutes is not None:
            return
        loader = engine.data_loader
        start = time.perf_counter()
        batch = next(iter(loader))
        fetch = time.perf_counter() - start
        step = engine.measure_step(batch)
        # with workers batches are made beside the steps; the slower of the two sets the pace
        workers = getattr(loader, "num_workers", 0)
        seconds = step + fetch if workers == 0 else max(step, fetch / workers)
        epochs = engine.state.max_epochs - engine.state.epoch + 1
        steps = epochs * engine.state.epoch_length
        if engine.state.device.type == "cuda":
            memory, where = torch.cuda.max_memory_allocated(engine.state.device), "GPU memory"
        else:
            memory, where = psutil.Process().memory_info().rss, "memory"
        if world_size() > 1:
            where += " in each process"
        self.minutes, self.gibibytes = steps * seconds / 60, memory / 2**30
        logger.info(
            "estimate: about %.1f minutes (%d epochs of %d steps, %.0f ms a step, validation not counted), "
            "%.1f GiB %s",
            self.minutes, epochs, engine.state.epoch_length, 1000 * seconds, self.gibibytes, where,
        )  # fmt: skip
