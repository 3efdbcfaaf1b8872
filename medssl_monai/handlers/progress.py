"""One progress bar over the whole run, with the time left."""

from __future__ import annotations

from typing import Any

from ignite.engine import Engine, Events
from tqdm import tqdm

from medssl_monai.core.distributed import is_main


class RunProgress:
    """A bar over all steps of all epochs; none is drawn where the error stream is not a terminal.

    With several processes the first draws it.

    Args:
        description: text before the bar.
    """

    def __init__(self, description: str = "training") -> None:
        self.description = description
        self.bar: Any = None

    def attach(self, engine: Engine) -> None:
        """Follow ``engine``."""
        engine.add_event_handler(Events.EPOCH_STARTED, self.epoch_started)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.iteration_completed)

    def epoch_started(self, engine: Engine) -> None:
        """Draw the bar at the first epoch of this process, name the epoch at each."""
        state = engine.state
        if self.bar is None:
            length, epochs = state.epoch_length or 0, state.max_epochs or 0
            disable = None if is_main() else True  # None: no bar in a file or a pipe
            self.bar = tqdm(total=length * epochs, initial=state.iteration, unit="step", disable=disable)
        self.bar.set_description(f"{self.description}, epoch {state.epoch}/{state.max_epochs}", refresh=False)

    def iteration_completed(self, engine: Engine) -> None:
        """One step further."""
        if self.bar is not None:
            self.bar.update()

    def after_run(self, engine: Engine, error: BaseException | None = None) -> None:
        """Leave the bar as it is."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None
