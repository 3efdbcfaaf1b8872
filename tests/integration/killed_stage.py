"""Runs a stage of a bundle in a process of its own that kills itself at a given place.

    python killed_stage.py '{"bundle": ..., "stage": ..., "overrides": {...}, "run_dir": ..., "place": ..., "step": 8}'

`place` is "step" (within the step, behind the optimiser), "write" (with half a checkpoint written) or "sigterm" (the
signal of a cluster, within the step).
"""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from medssl_monai.apps.cli import main
from medssl_monai.engines import LabelEfficientTrainer
from medssl_monai.handlers import RunCheckpoint


def kill_within_a_step(step: int, number: int) -> None:
    original = LabelEfficientTrainer.after_step

    def after_step(self: LabelEfficientTrainer) -> None:
        if self.state.iteration == step:
            os.kill(os.getpid(), number)
        original(self)

    LabelEfficientTrainer.after_step = after_step  # type: ignore[method-assign]
    for cls in LabelEfficientTrainer.__subclasses__():
        if "after_step" in vars(cls):
            own = cls.after_step

            def wrapped(self: Any, own: Any = own) -> None:
                if self.state.iteration == step:
                    os.kill(os.getpid(), number)
                own(self)

            cls.after_step = wrapped


def kill_while_writing(step: int) -> None:
    original, whole = RunCheckpoint._save, torch.save

    def half(content: Any, path: Path) -> None:
        buffer = io.BytesIO()
        whole(content, buffer)
        Path(path).write_bytes(buffer.getvalue()[: buffer.tell() // 2])
        os.kill(os.getpid(), signal.SIGKILL)

    def save(self: RunCheckpoint, engine: Any, epochs: int) -> None:
        if engine.state.iteration >= step:
            torch.save = half
        original(self, engine, epochs)

    RunCheckpoint._save = save  # type: ignore[method-assign]


if __name__ == "__main__":
    torch.set_num_threads(1)
    task = json.loads(sys.argv[1])
    if task["place"] == "write":
        kill_while_writing(task["step"])
    else:
        kill_within_a_step(task["step"], signal.SIGTERM if task["place"] == "sigterm" else signal.SIGKILL)
    pairs = [f"{key}={json.dumps(value)}" for key, value in task["overrides"].items()]
    sys.exit(main(["run", task["bundle"], task["stage"], *pairs, "--overlay", "smoke", "--run-dir", task["run_dir"]]))
