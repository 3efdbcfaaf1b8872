"""The learning rate by epoch, against its closed form."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from medssl_monai.core import ConfigError
from medssl_monai.engines import cosine_with_warmup, exponential_with_warmup, multi_step


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
    for warmup in (-1, math.nan, math.inf):
        with pytest.raises(
            ConfigError, match=rf"lr_warmup: warm-up \(found {warmup}, expected 0 or more, and finite\)"
        ):
            rates(0.9, warmup, 1)


# --- cosine and steps ------------------------------------------------------------------------------------------------


def follow(make: Callable[[torch.optim.Optimizer], Any], epochs: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    scheduler, seen = make(optimizer), []
    for _ in range(epochs):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


def test_cosine_without_warm_up_is_torch_s() -> None:
    theirs = follow(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 12), 12)
    assert follow(lambda o: cosine_with_warmup(o, 12), 12) == pytest.approx(theirs)
    theirs = follow(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 12, eta_min=0.02), 12)
    assert follow(lambda o: cosine_with_warmup(o, 12, final=0.01), 12) == pytest.approx(theirs)


def test_cosine_behind_a_warm_up() -> None:
    found = follow(lambda o: cosine_with_warmup(o, 8, 3.0), 10)
    falling = [1 + math.cos(math.pi * step / 5) for step in range(5)]
    assert found == pytest.approx([0.5, 1.0, 1.5, *falling, 0.0, 0.0], abs=1e-12)
    # a share of a few epochs: smoke runs have one or two
    assert follow(lambda o: cosine_with_warmup(o, 1, 0.1), 1) == pytest.approx([2 / 1.1])
    assert max(follow(lambda o: cosine_with_warmup(o, 9, 2.5), 9)) <= 2.0


def test_steps_at_epochs_and_at_shares() -> None:
    expected = [2.0] * 3 + [0.2] * 1 + [0.02] * 1
    assert follow(lambda o: multi_step(o, [3, 4]), 5) == pytest.approx(expected)
    assert follow(lambda o: multi_step(o, [0.6, 0.8], 0.1, 5), 5) == pytest.approx(expected)
    assert follow(lambda o: multi_step(o, [0.6, 0.8], 0.1, 50), 50) == pytest.approx(
        follow(lambda o: multi_step(o, [30, 40]), 50)
    )
    assert follow(lambda o: multi_step(o, [0.57], 0.5, 100), 58)[56:] == [2.0, 1.0]
    assert follow(lambda o: multi_step(o, [0.6, 0.8], 0.1, 1), 1) == [2.0]  # a smoke run begins at the full rate
    assert follow(lambda o: multi_step(o, []), 3) == [2.0] * 3


@pytest.mark.parametrize("make", [lambda o: cosine_with_warmup(o, 9, 2.5), lambda o: multi_step(o, [0.3, 0.7], 0.1, 9)])
def test_they_go_on_where_they_stopped(make: Callable[[torch.optim.Optimizer], Any]) -> None:
    whole = follow(make, 9)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    scheduler = make(optimizer)
    for _ in range(4):
        optimizer.step()
        scheduler.step()
    states = copy.deepcopy((optimizer.state_dict(), scheduler.state_dict()))
    other = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    resumed, seen = make(other), []
    other.load_state_dict(states[0])
    resumed.load_state_dict(states[1])
    for _ in range(5):
        seen.append(other.param_groups[0]["lr"])
        other.step()
        resumed.step()
    assert seen == pytest.approx(whole[4:])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda o: cosine_with_warmup(o, 0), r"max_epochs: number of epochs \(found 0, expected 1 or more\)"),
        (lambda o: cosine_with_warmup(o, 5, -1), r"lr_warmup: warm-up \(found -1, expected 0 or more, and finite\)"),
        (lambda o: cosine_with_warmup(o, 5, math.nan), r"lr_warmup: warm-up \(found nan, expected 0 or more, and fini"),
        (
            lambda o: cosine_with_warmup(o, 5, 5),
            r"lr_warmup: the warm-up leaves no .* \(found 5, expected below",
        ),
        (lambda o: cosine_with_warmup(o, 5, final=2), r"lr_final: final factor .* \(found 2, expected 0 to 1\)"),
        (lambda o: multi_step(o, [3], 0), r"lr_gamma: factor of the learning rate \(found 0, expected above 0, at"),
        (lambda o: multi_step(o, [0.5, 3], 0.1, 9), r"lr_milestones: milestones .*\(found \[0.5, 3\], .*not both\)"),
        (lambda o: multi_step(o, [2.5]), r"lr_milestones: milestones .*\(found \[2.5\], expected whole epochs"),
        (lambda o: multi_step(o, [0]), r"lr_milestones: milestones .*\(found \[0\], expected whole epochs"),
        (lambda o: multi_step(o, [0.5]), r"lr_milestones: shares of max_epochs, which is not given \(found \[0.5\]"),
    ],
)
def test_errors_of_the_new_ones(make: Callable[[torch.optim.Optimizer], Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        follow(make, 1)


@pytest.mark.parametrize(("milestones", "told"), [([3, 5, 7], "5, 7"), ([3, 4], ""), ([0.6, 0.9], "")])
def test_milestones_behind_the_end_are_told(
    milestones: list[float], told: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "medssl_monai.engines.schedules"):
        multi_step(torch.optim.SGD([torch.zeros(1)], 0.1), milestones, 0.1, 5)
    found = [record.getMessage() for record in caplog.records if record.name == "medssl_monai.engines.schedules"]
    expected = f"lr_milestones: the run of 5 epochs ends before the learning rate is lowered at {told}"
    assert found == ([expected] if told else [])
