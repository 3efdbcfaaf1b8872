"""The learning rate by epoch, against its closed form."""

from __future__ import annotations

import pytest
import torch

from medssl_monai.core import ConfigError
from medssl_monai.engines import exponential_with_warmup


def rates(gamma: float, warmup: float, epochs: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    scheduler = exponential_with_warmup(optimizer, gamma, warmup)
    seen = []
    for _ in range(epochs):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


def test_without_warm_up_it_falls_by_a_factor_an_epoch() -> None:
    assert rates(0.9, 0.0, 4) == pytest.approx([2.0, 1.8, 1.62, 1.458])
    assert rates(1.0, 0.0, 3) == [2.0, 2.0, 2.0]


def test_warm_up_rises_in_equal_steps_to_the_full_rate() -> None:
    assert rates(0.5, 3.0, 6) == pytest.approx([0.5, 1.0, 1.5, 2.0, 1.0, 0.5])
    assert max(rates(0.9, 2.5, 12)) <= 2.0


def test_it_is_stored_as_plain_values_and_goes_on() -> None:
    def make() -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
        return optimizer, exponential_with_warmup(optimizer, 0.5)

    optimizer, scheduler = make()
    optimizer.step()
    scheduler.step()
    other, resumed = make()
    resumed.load_state_dict(scheduler.state_dict())
    other.load_state_dict(optimizer.state_dict())
    other.step()
    resumed.step()
    assert other.param_groups[0]["lr"] == pytest.approx(0.5)


def test_errors() -> None:
    for gamma in (0.0, 1.1):
        with pytest.raises(
            ConfigError, match=rf"lr_decay: factor of the learning rate \(found {gamma}, expected above 0"
        ):
            rates(gamma, 0.0, 1)
    with pytest.raises(ConfigError, match=r"lr_warmup: warm-up \(found -1, expected 0 or more\)"):
        rates(0.9, -1, 1)
