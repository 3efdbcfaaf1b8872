"""Learning-rate schedules, one step an epoch."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, MultiStepLR

from medssl_monai.core import ConfigError

logger = logging.getLogger(__name__)


def exponential_with_warmup(optimizer: Optimizer, gamma: float, warmup_epochs: float = 0.0) -> LambdaLR:
    """Learning rate times ``gamma`` after each epoch, behind a linear warm-up.

    In epoch e (from 0) the factor is ``min(1, (e + 1) / (warmup_epochs + 1)) * gamma ** max(0, e - warmup_epochs)``.

    Raises:
        ConfigError: when ``gamma`` is outside (0, 1] or ``warmup_epochs`` negative or not finite.
    """
    if not 0 < gamma <= 1:
        raise ConfigError("factor of the learning rate", where="lr_decay", found=gamma, expected="above 0, at most 1")
    _check_warmup(warmup_epochs)

    def factor(epoch: int) -> float:
        return float(_rising(epoch, warmup_epochs) * gamma ** max(0.0, epoch - warmup_epochs))

    return LambdaLR(optimizer, factor)


def cosine_with_warmup(
    optimizer: Optimizer, max_epochs: int, warmup_epochs: float = 0.0, final: float = 0.0
) -> LambdaLR:
    """Half a cosine down over the epochs, without restarts, behind a linear warm-up (thesis 4.5.2.1, 5.5; SimCLR).

    In epoch e (from 0) the factor is ``(e + 1) / (warmup_epochs + 1)`` before ``warmup_epochs`` (w), and
    ``final + (1 - final) * (1 + cos(pi * (e - w) / (max_epochs - w))) / 2`` from there on.

    Args:
        optimizer: its learning rates are scaled.
        max_epochs: epochs of the run; ``final`` would be reached in the epoch behind the last.
        warmup_epochs: w, epochs of the warm-up; it may be a fraction.
        final: factor at the end.

    Raises:
        ConfigError: when ``max_epochs`` is below 1, the warm-up negative or not shorter than the run, or ``final``
            outside [0, 1].
    """
    if max_epochs < 1:
        raise ConfigError("number of epochs", where="max_epochs", found=max_epochs, expected="1 or more")
    _check_warmup(warmup_epochs)
    if warmup_epochs >= max_epochs:
        raise ConfigError(
            "the warm-up leaves no epoch at the full learning rate", where="lr_warmup", found=warmup_epochs,
            expected=f"below max_epochs, {max_epochs}",
        )  # fmt: skip
    if not 0 <= final <= 1:
        raise ConfigError("final factor of the learning rate", where="lr_final", found=final, expected="0 to 1")

    def factor(epoch: int) -> float:
        # held behind the end, where the cosine would rise again
        progress = min(max(0.0, epoch - warmup_epochs) / (max_epochs - warmup_epochs), 1.0)
        falling = final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2
        return _rising(epoch, warmup_epochs) * falling

    return LambdaLR(optimizer, factor)


def multi_step(
    optimizer: Optimizer, milestones: Sequence[float], gamma: float = 0.1, max_epochs: int | None = None
) -> MultiStepLR:
    """Learning rate times ``gamma`` at each milestone (thesis 5.5 and 6.5.2.2: 0.1 at epochs 30 and 40 of 50).

    Args:
        optimizer: its learning rates are scaled.
        milestones: epochs that are done by then (whole numbers from 1), or shares of ``max_epochs`` (all below 1); a
            share counts from the first epoch that begins at or behind it, so that no run begins with a lowered rate.
        gamma: factor, above 0 and at most 1.
        max_epochs: epochs of the run; needed for shares. A whole milestone behind its end is told by a warning.

    Raises:
        ConfigError: for ``gamma`` outside its range, milestones that are neither, or shares without ``max_epochs``.
    """
    if not 0 < gamma <= 1:
        raise ConfigError("factor of the learning rate", where="lr_gamma", found=gamma, expected="above 0, at most 1")
    shares = all(0 < milestone < 1 for milestone in milestones)
    if not shares and not all(milestone >= 1 and float(milestone).is_integer() for milestone in milestones):
        raise ConfigError(
            "milestones of the learning rate", where="lr_milestones", found=list(milestones),
            expected="whole epochs from 1 on, or shares of max_epochs between 0 and 1; not both",
        )  # fmt: skip
    if shares and milestones and max_epochs is None:
        raise ConfigError("shares of max_epochs, which is not given", where="lr_milestones", found=list(milestones))
    # 0.57 * 100 is a little below 57
    epochs = [math.ceil(m * (max_epochs or 1) - 1e-9) if shares else int(m) for m in milestones]
    late = [] if shares or max_epochs is None else [epoch for epoch in epochs if epoch >= max_epochs]
    if late:
        logger.warning(
            "lr_milestones: the run of %d epochs ends before the learning rate is lowered at %s",
            max_epochs, ", ".join(map(str, late)),
        )  # fmt: skip
    return MultiStepLR(optimizer, epochs, gamma)


def _check_warmup(warmup_epochs: float) -> None:
    if not 0 <= warmup_epochs < math.inf:
        raise ConfigError("warm-up", where="lr_warmup", found=warmup_epochs, expected="0 or more, and finite")


def _rising(epoch: int, warmup_epochs: float) -> float:
    return min(1.0, (epoch + 1) / (warmup_epochs + 1))
