"""Learning-rate schedules, one step an epoch."""

from __future__ import annotations

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from medssl_monai.core import ConfigError


def exponential_with_warmup(optimizer: Optimizer, gamma: float, warmup_epochs: float = 0.0) -> LambdaLR:
    """Learning rate times ``gamma`` after each epoch, behind a linear warm-up.

    In epoch e (from 0) the factor is ``min(1, (e + 1) / (warmup_epochs + 1)) * gamma ** max(0, e - warmup_epochs)``.

    Raises:
        ConfigError: when ``gamma`` is outside (0, 1] or ``warmup_epochs`` negative.
    """
    if not 0 < gamma <= 1:
        raise ConfigError("factor of the learning rate", where="lr_decay", found=gamma, expected="above 0, at most 1")
    if warmup_epochs < 0:
        raise ConfigError("warm-up", where="lr_warmup", found=warmup_epochs, expected="0 or more")

    def factor(epoch: int) -> float:
        rising: float = min(1.0, (epoch + 1) / (warmup_epochs + 1))
        return float(rising * gamma ** max(0.0, epoch - warmup_epochs))

    return LambdaLR(optimizer, factor)
