"""The exponential-moving-average teacher of mean-teacher methods, and the momentum encoder of MoCo."""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from torch import Tensor, nn


class EMATeacher:
    """A copy of the student whose weights follow the student's as an exponential moving average.

    ``teacher = alpha * teacher + (1 - alpha) * student`` with ``alpha = min(1 - 1 / (step + 1), decay)`` and ``step``
    the number of updates made so far: the first update copies the student (Tarvainen & Valpola 2017, with the ramp of
    their published code). Ignite's ``EMAHandler`` differs in three ways that matter here: it shares integer buffers
    with the student, keeps the teacher in evaluation mode, and warms up otherwise.

    With ``ramp=False`` ``alpha`` is ``decay`` from the first update on: with ``decay=0.999, average_buffers=False`` it
    is the momentum encoder of MoCo (He et al. 2020, eq. 2).

    Args:
        student: the network to follow; its parameters' device and dtype are kept.
        decay: largest ``alpha``.
        average_buffers: average floating-point buffers (BatchNorm statistics) too; integer buffers are copied. With
            ``False`` the teacher keeps the buffers its own forward passes make.
        mode: mode of the teacher in training: ``"train"`` (dropout and batch statistics active, as trained by the
            authors) or ``"eval"``.
        ramp: let ``alpha`` rise with the updates, as above.

    Raises:
        ValueError: when ``decay`` is outside [0, 1) or ``mode`` unknown.
    """

    def __init__(
        self,
        student: nn.Module,
        decay: float = 0.99,
        average_buffers: bool = True,
        mode: Literal["train", "eval"] = "train",
        ramp: bool = True,
    ) -> None:
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"decay must be in [0, 1), got {decay}")
        if mode not in ("train", "eval"):
            raise ValueError(f"mode must be 'train' or 'eval', got {mode!r}")
        self.module = copy.deepcopy(student).requires_grad_(False)
        self.module.train(mode == "train")
        self.decay, self.average_buffers, self.mode, self.ramp = decay, average_buffers, mode, ramp
        self.updates = 0

    @torch.no_grad()
    def copy_from(self, student: nn.Module) -> None:
        """Make the teacher equal to the student (start after a warm-up); counts as no update."""
        for own, other in zip(self.module.state_dict().values(), student.state_dict().values()):
            own.copy_(other)

    @torch.no_grad()
    def update(self, student: nn.Module) -> None:
        """Move the teacher towards the student; called after each optimiser step."""
        alpha = min(1.0 - 1.0 / (self.updates + 1), self.decay) if self.ramp else self.decay
        own_parameters: list[Tensor] = list(self.module.parameters())
        if own_parameters:
            torch._foreach_lerp_(own_parameters, list[Tensor](student.parameters()), 1.0 - alpha)
        if self.average_buffers:
            for own, other in zip(self.module.buffers(), student.buffers()):
                if own.is_floating_point():
                    own.lerp_(other, 1.0 - alpha)
                else:
                    own.copy_(other)
        self.updates += 1

    def state_dict(self) -> dict[str, Any]:
        """Weights and number of updates."""
        return {"module": self.module.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.module.load_state_dict(state["module"])
        self.updates = int(state["updates"])
