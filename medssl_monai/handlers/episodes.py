"""Counts the episodes that were left out, so that nobody trains on half of his data without knowing."""

from __future__ import annotations

import logging
from typing import Any

import torch
from ignite.engine import Engine, Events

from medssl_monai.core.distributed import is_main, sum_over_processes

logger = logging.getLogger(__name__)


class SkippedEpisodes:
    """Puts ``skipped_episodes`` of each epoch into the trainer's ``state.metrics``, for the history, and warns.

    With several processes the number is that of all. It must stand before :class:`History` in the list of handlers.

    Args:
        warn_share: share of an epoch's episodes above which it is a warning.
    """

    def __init__(self, warn_share: float = 0.1) -> None:
        self.warn_share = warn_share
        self.skipped = self.episodes = 0

    def attach(self, engine: Engine) -> None:
        """Count the steps of ``engine``, an :class:`EpisodicTrainer`."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.iteration_completed)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.epoch_completed)

    def iteration_completed(self, engine: Engine) -> None:
        """Add a step."""
        trainer: Any = engine
        self.skipped += trainer.skipped
        self.episodes += len(trainer.state.batch["image"])

    def epoch_completed(self, engine: Engine) -> None:
        """Record the epoch's number and begin anew."""
        counts = torch.tensor([self.skipped, self.episodes], dtype=torch.float64)
        skipped, episodes = (int(count) for count in sum_over_processes(counts))
        engine.state.metrics["skipped_episodes"] = skipped
        if is_main() and skipped > self.warn_share * episodes:
            logger.warning(
                "%d of %d episodes of epoch %d showed no foreground in support or query and were left out: draw larger "
                "superpixels (their min_size), or move the queries less",
                skipped, episodes, engine.state.epoch,
            )  # fmt: skip
        self.skipped = self.episodes = 0

    def state_dict(self) -> dict[str, Any]:
        """The counts of an epoch that is under way."""
        return {"skipped": self.skipped, "episodes": self.episodes}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.skipped, self.episodes = int(state["skipped"]), int(state["episodes"])
