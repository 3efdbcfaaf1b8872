"""When to save what a run needs to go on, and how it goes on."""

from __future__ import annotations

import json
import logging
import signal
import threading
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from ignite.engine import Engine, Events

from medssl_monai.core import CheckpointError, ConfigError, DataError, FolderLock, make_folder
from medssl_monai.core.distributed import any_process, barrier, is_main, world_size
from medssl_monai.core.environment import versions
from medssl_monai.handlers.storage import CheckpointFile

logger = logging.getLogger(__name__)

#: the setting by which a dataset is known again
FINGERPRINT = "data_fingerprint"


class Stateful(Protocol):
    """Anything with a state."""

    def state_dict(self) -> dict[str, Any]:
        """The state, as tensors and plain values."""

    def load_state_dict(self, state: dict[str, Any], /) -> Any:
        """Restore it."""


class RunCheckpoint:
    """Saves everything a run needs to go on, within and at the end of epochs, and resumes from it.

    It must be the last of the handlers of a :class:`medssl_monai.engines.LabelEfficientTrainer`, so that what it saves
    at the end of an epoch is the epoch's final state. Handlers of the trainer that have a state of their own
    (selection, history), and its gradient scaler, are saved with it.

    The newest checkpoint and the one before it are kept, each with a digest of its content: a damaged newest one is
    reported and the one before it used. While the run lives no other can write in the folder. SIGTERM, with which
    clusters announce that a job is to end, saves after the step under way and ends the process with exit code 143.
    With several processes the first one writes, and all go on from what it wrote.

    Args:
        folder: where to.
        objects: named objects with ``state_dict`` (network, teacher, optimiser, scheduler).
        settings: plain values that must be equal when a run is resumed (seed, regime, data fingerprint, ...).
        resume: go on from ``filename`` where it exists.
        filename: name of the file.
        every: steps between checkpoints within an epoch; ``None`` saves at the end of epochs only.

    Raises:
        ConfigError: when ``every`` is below 1.
    """

    def __init__(
        self,
        folder: str | Path,
        objects: Mapping[str, Stateful | None],
        settings: Mapping[str, Any],
        resume: bool = False,
        filename: str = "checkpoint.pt",
        every: int | None = None,
    ) -> None:
        if every is not None and every < 1:
            raise ConfigError("steps between checkpoints", where="checkpoint_every", found=every, expected="1 or more")
        self.path = Path(folder) / filename
        self.file = CheckpointFile(self.path)
        self.objects = {name: entry for name, entry in objects.items() if entry is not None}
        # through JSON, so that what is compared is what was stored
        self.settings = json.loads(json.dumps(dict(settings), default=str))
        self.resume, self.every = resume, every
        self.lock = FolderLock(folder)
        self.terminated = False
        self._saved_at = self._steps_done = 0
        self._state: dict[str, Any] | None = None
        self._previous_handler: Any = None

    def attach(self, engine: Engine) -> None:
        """Resume when ``engine`` starts, save as it goes on."""
        make_folder(self.path.parent)
        scaler = getattr(engine, "grad_scaler", None)
        if scaler is not None and scaler.is_enabled():
            self.objects["grad_scaler"] = scaler
        seen: Counter[str] = Counter()
        for handler in getattr(engine, "handlers", []):
            named = any(handler is entry for entry in self.objects.values())
            if handler is not self and not named and hasattr(handler, "state_dict"):
                name = type(handler).__name__
                seen[name] += 1
                self.objects[name if seen[name] == 1 else f"{name} {seen[name]}"] = handler
        engine.add_event_handler(Events.STARTED, self.started)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.iteration_completed)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.epoch_completed)

    def before_run(self, engine: Engine) -> None:
        """Lock the folder and read what to go on from, before any handler has written anything.

        Raises:
            OutputError: when another run writes in the folder, or it cannot be written.
            CheckpointError: when no checkpoint is whole.
            ConfigError: when it was made with other settings.
        """
        if is_main():
            self.lock.acquire()
            self.file.clean()
        barrier()  # nobody reads what is being cleaned away
        if self.resume and self.file.exists():
            self._state = self._load()
        elif self.resume:
            logger.info("resume: no %s yet, the run starts from the beginning", self.path)
        if threading.current_thread() is threading.main_thread():  # others cannot set signal handlers
            self._previous_handler = signal.signal(signal.SIGTERM, self._terminate)

    def after_run(self, engine: Engine, error: BaseException | None = None) -> None:
        """Undo what :meth:`before_run` did, however the run ended.

        Raises:
            SystemExit: with code 143 when the run was ended by SIGTERM.
        """
        if self._previous_handler is not None:
            signal.signal(signal.SIGTERM, self._previous_handler)
            self._previous_handler = None
        try:
            # workers get the signal too and die of it; the state is whole as long as no step was under way
            whole = engine.state.iteration == self._steps_done
            if error is not None and self.terminated and whole and world_size() == 1:
                self._save_within(engine)
        finally:
            self.lock.release()
        if self.terminated:
            logger.warning("ended by SIGTERM; resume=True goes on from step %d (%s)", self._saved_at, self.path)
            raise SystemExit(128 + signal.SIGTERM) from error

    def started(self, engine: Engine) -> None:
        """Restore the state where the user asked for it.

        Raises:
            CheckpointError: when the file is of another network.
        """
        state, self._state = self._state, None
        if state is None:
            return
        for name, entry in self.objects.items():
            try:
                entry.load_state_dict(state["objects"][name])
            except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
                reason = "it is not in the file" if name not in state["objects"] else " ".join(str(error).split())[:300]
                raise CheckpointError(
                    f"{name} does not fit this run: {reason}", where=self.path,
                    advice="It is of another network. Name another ckpt_dir, or start anew with resume=False.",
                ) from error  # fmt: skip
        engine.state.epoch = state["epoch"]
        engine.state.iteration = self._saved_at = self._steps_done = state["iteration"]
        within = state["iteration"] - state["epoch"] * (engine.state.epoch_length or 0)
        text = f" and {within} steps" if within else ""
        logger.info("resumed after epoch %d%s from %s", engine.state.epoch, text, state["file"])

    def _load(self) -> dict[str, Any]:
        """The newest whole state, of a run with these settings."""
        state, path = self.file.load()
        if not {"objects", "epoch", "iteration", "settings", "processes"} <= state.keys():
            raise CheckpointError("not a run's checkpoint", where=path)
        stored = {**json.loads(state["settings"]), "processes": state["processes"]}
        self._compare(stored, {**self.settings, "processes": world_size()})
        return {**state, "file": path}

    def _compare(self, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
        differing = [key for key in sorted({*stored, *wanted}) if stored.get(key) != wanted.get(key)]
        if differing == [FINGERPRINT]:
            raise DataError(
                "the dataset has changed since this checkpoint (images, labels, or which of them are used)",
                where=self.path,
                advice="Put the dataset back as it was, name another ckpt_dir, or start anew with resume=False.",
            )
        differing = [key for key in differing if key != FINGERPRINT]  # other settings choose other images
        if differing:
            text = "; ".join(f"{key}: {stored.get(key)!r} there, {wanted.get(key)!r} here" for key in differing)
            raise ConfigError(
                f"the checkpoint was made with other settings: {text}", where=self.path,
                advice="Give the same settings, name another ckpt_dir, or start anew with resume=False.",
            )  # fmt: skip

    def iteration_completed(self, engine: Engine) -> None:
        """Save every so many steps, and before ending on SIGTERM; the last step of an epoch leaves it to the epoch."""
        self._steps_done = engine.state.iteration
        if self._epoch_done(engine):
            return
        # all processes end after the same step
        ending = self.terminated = any_process(self.terminated)
        if ending or (self.every and self._steps_done % self.every == 0):
            self._save_within(engine)
        if ending:
            engine.terminate(skip_completed=True)

    def epoch_completed(self, engine: Engine) -> None:
        """Save the epoch's final state; end on SIGTERM."""
        self._save(engine, engine.state.epoch)
        self.terminated = any_process(self.terminated)
        if self.terminated:
            engine.terminate(skip_completed=True)

    def _save_within(self, engine: Engine) -> None:
        """Save the state between two steps of an epoch."""
        if engine.state.iteration > self._saved_at and not self._epoch_done(engine):
            self._save(engine, engine.state.epoch - 1)

    def _save(self, engine: Engine, epochs: int) -> None:
        self._saved_at = engine.state.iteration
        if not is_main():
            return
        state = {
            "objects": {name: entry.state_dict() for name, entry in self.objects.items()},
            "epoch": epochs,  # complete ones
            "iteration": engine.state.iteration,
            "settings": json.dumps(self.settings),
            "processes": world_size(),
            "versions": versions(),
        }
        self.file.save(state)

    def _epoch_done(self, engine: Engine) -> bool:
        return engine.state.iteration >= engine.state.epoch * (engine.state.epoch_length or 0)

    def _terminate(self, number: int, frame: Any) -> None:
        """SIGTERM: end after this step; a second one ends at once."""
        if self.terminated:
            raise SystemExit(128 + signal.SIGTERM)
        self.terminated = True
