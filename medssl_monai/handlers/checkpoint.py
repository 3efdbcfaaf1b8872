"""Checkpoints: the resumable state of a run, and the network that is served."""

from __future__ import annotations

import json
import logging
import math
import platform
from collections import Counter
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import torch
from ignite.engine import Engine, Events
from torch import nn

from medssl_monai import __version__
from medssl_monai.core import CheckpointError, ConfigError, atomic_path, make_folder

logger = logging.getLogger(__name__)

MODEL_FILE = "model.pt"


class Stateful(Protocol):
    """Anything with a state."""

    def state_dict(self) -> dict[str, Any]:
        """The state, as tensors and plain values."""

    def load_state_dict(self, state: dict[str, Any], /) -> Any:
        """Restore it."""


def versions() -> dict[str, str]:
    """Versions that a result depends on."""
    packages = {name: version(name) for name in ("torch", "monai", "pytorch-ignite", "numpy")}
    return {"medssl-monai": __version__, "python": platform.python_version(), **packages}


def save_tensors(content: Any, path: str | Path) -> None:
    """``torch.save`` that leaves a whole file or none."""
    with atomic_path(path) as temporary:
        torch.save(content, temporary)


def load_tensors(path: str | Path) -> Any:
    """``torch.load(weights_only=True)`` to the CPU.

    Raises:
        CheckpointError: when the file is missing, truncated or holds more than tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError("checkpoint not found", where=path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a different type for each kind of damage, some without a message
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:200]
        raise CheckpointError(
            f"not a readable checkpoint ({reason})", where=path,
            advice="The file is truncated or of another program. Remove it and run the stage that makes it again.",
        ) from error  # fmt: skip


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
        save_tensors(self.module.state_dict(), self.path)

    def state_dict(self) -> dict[str, Any]:
        """Best value and epoch so far."""
        return {"best_value": self.best_value, "best_epoch": self.best_epoch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.best_value, self.best_epoch = float(state["best_value"]), int(state["best_epoch"])


class RunCheckpoint:
    """Saves everything a run needs to go on, at the end of each epoch, and resumes from it.

    It must be the last of the handlers, so that what it saves is the epoch's final state. Handlers of the trainer that
    have a state of their own (selection, history), and its gradient scaler, are saved with it.

    Args:
        folder: where to.
        objects: named objects with ``state_dict`` (network, teacher, optimiser, scheduler).
        settings: plain values that must be equal when a run is resumed (seed, regime, data fingerprint, ...).
        resume: go on from ``filename`` where it exists.
        filename: name of the file.
    """

    def __init__(
        self,
        folder: str | Path,
        objects: Mapping[str, Stateful | None],
        settings: Mapping[str, Any],
        resume: bool = False,
        filename: str = "checkpoint.pt",
    ) -> None:
        self.path = Path(folder) / filename
        self.objects = {name: entry for name, entry in objects.items() if entry is not None}
        # through JSON, so that what is compared is what was stored
        self.settings = json.loads(json.dumps(dict(settings), default=str))
        self.resume = resume

    def attach(self, engine: Engine) -> None:
        """Resume when ``engine`` starts, save when its epochs end."""
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
        if self.resume and self.path.exists():
            self._load()  # refused before any handler has written anything
        engine.add_event_handler(Events.STARTED, self.started)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.epoch_completed)

    def started(self, engine: Engine) -> None:
        """Restore the state where the user asked for it.

        Raises:
            CheckpointError: when the file is damaged or of another network.
            ConfigError: when it was made with other settings.
        """
        if not self.resume:
            return
        if not self.path.exists():
            logger.info("resume: no %s yet, the run starts from the beginning", self.path)
            return
        state = self._load()
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
        engine.state.iteration = state["iteration"]
        logger.info("resumed after epoch %d from %s", engine.state.epoch, self.path)

    def _load(self) -> dict[str, Any]:
        """The stored state, of a run with these settings."""
        state = load_tensors(self.path)
        if not isinstance(state, dict) or not {"objects", "epoch", "settings"} <= state.keys():
            raise CheckpointError("not a run's checkpoint", where=self.path)
        self._compare(json.loads(state["settings"]))
        return state

    def _compare(self, stored: Mapping[str, Any]) -> None:
        differing = [
            f"{key}: {stored.get(key)!r} there, {self.settings.get(key)!r} here"
            for key in sorted({*stored, *self.settings})
            if stored.get(key) != self.settings.get(key)
        ]
        if differing:
            raise ConfigError(
                "the checkpoint was made with other settings: " + "; ".join(differing), where=self.path,
                advice="Give the same settings, name another ckpt_dir, or start anew with resume=False.",
            )  # fmt: skip

    def epoch_completed(self, engine: Engine) -> None:
        """Save the state."""
        state = {
            "objects": {name: entry.state_dict() for name, entry in self.objects.items()},
            "epoch": engine.state.epoch,
            "iteration": engine.state.iteration,
            "settings": json.dumps(self.settings),
            "versions": versions(),
        }
        save_tensors(state, self.path)
