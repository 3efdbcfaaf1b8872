"""Loads the served network when an evaluator starts."""

from __future__ import annotations

import logging
from pathlib import Path

from ignite.engine import Engine, Events
from torch import nn

from medssl_monai.core import CheckpointError
from medssl_monai.handlers.model_export import MODEL_FILE
from medssl_monai.networks import load_state

logger = logging.getLogger(__name__)


class LoadModel:
    """Loads ``model.pt`` strictly.

    Args:
        network: where to.
        folder: the ``ckpt_dir``.
        filename: name of the file.
    """

    def __init__(self, network: nn.Module, folder: str | Path, filename: str = MODEL_FILE) -> None:
        self.network, self.path = network, Path(folder) / filename

    def attach(self, engine: Engine) -> None:
        """Load when ``engine`` starts."""
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine | None = None) -> None:
        """Load.

        Raises:
            CheckpointError: when the file is missing, damaged, or of another network.
        """
        if not self.path.is_file():
            raise CheckpointError(
                "no trained network here", where=self.path, advice="Run the train stage first, or name its ckpt_dir."
            )
        report = load_state(self.network, self.path)
        logger.info("%s: %d keys loaded", self.path, len(report.matched))
