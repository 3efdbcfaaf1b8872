"""Losses of two views over two processes against the same loss of all samples in one, by value and by gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from two_processes import Pair

from medssl_monai.core.distributed import rank, world_size
from medssl_monai.losses import contrastive_loss
from medssl_monai.losses._pairs import PairLoss

ROWS, WIDTH, OUT = 3, 5, 4
NAMES = ["nt_xent", "dcl", "dclw", "binary", "euclidean", "euclidean raw", "combo"]
NAMES += ["mio_v1", "mio_v2", "mio_v3", "dystress"]


def inputs() -> Tensor:
    return torch.randn(2, 2 * ROWS, WIDTH, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def make(name: str, **settings: Any) -> PairLoss:
    """A loss by its name; ``euclidean raw`` compares embeddings that are not normalised."""
    name, _, raw = name.partition(" ")
    return contrastive_loss(name, {"normalize": False} if raw else None, **settings)


def share(name: str, gather: bool, chunk_size: int | None, temperature: float | None) -> tuple[float, Tensor]:
    """Value and gradient of this process's loss of its samples; of all of them with one process."""
    count = 2 * ROWS // world_size()
    own = inputs()[:, rank() * count : (rank() + 1) * count]
    weight = torch.randn(WIDTH, OUT, generator=torch.Generator().manual_seed(4), dtype=torch.float64).requires_grad_()
    loss = make(name, gather_distributed=gather, chunk_size=chunk_size, temperature=temperature)
    value = loss(own[0] @ weight, own[1] @ weight)
    value.backward()
    assert weight.grad is not None
    return float(value.detach()), weight.grad


@pytest.mark.parametrize("chunk_size", [None, 5])
@pytest.mark.parametrize(("name", "temperature"), [*((name, None) for name in NAMES), ("mio_v3", 0.003)])
def test_the_mean_over_processes_is_the_loss_of_one(
    pair: Pair, name: str, temperature: float | None, chunk_size: int | None
) -> None:
    expected, gradient = share(name, False, None, temperature)
    values, gradients = zip(*pair(share, name, True, chunk_size, temperature))
    assert values[0] == values[1] == pytest.approx(expected, rel=1e-12)
    scale = float(gradient.abs().max())
    torch.testing.assert_close((gradients[0] + gradients[1]) / 2, gradient, rtol=1e-9, atol=1e-11 * scale)


@pytest.mark.parametrize("name", NAMES)
def test_without_gathering_it_is_another(pair: Pair, name: str) -> None:
    """The check above can fail: what each process sees alone is not enough."""
    expected, _ = share(name, False, None, None)
    values, _ = zip(*pair(share, name, False, None, None))
    assert abs(sum(values) / 2 - expected) > 1e-3


def one_sample_each(name: str) -> float:
    own = inputs()[:, rank() : rank() + 1]
    return float(make(name, gather_distributed=True)(own[0], own[1]))


@pytest.mark.parametrize("name", ["nt_xent", "combo"])
def test_one_sample_in_each_process_is_a_pair_of_samples(pair: Pair, name: str) -> None:
    both = inputs()[:, :2]
    expected = float(make(name)(both[0], both[1]))
    assert pair(one_sample_each, name) == pytest.approx([expected] * 2, rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_with_one_process_gathering_changes_nothing(name: str) -> None:
    z1, z2 = inputs()
    assert torch.equal(make(name, gather_distributed=True)(z1, z2), make(name)(z1, z2))
    with pytest.raises(ValueError, match=r"one pair has no negatives; expected at least 2 samples, got shape \(1, 5\)"):
        make(name, gather_distributed=True)(z1[:1], z2[:1])


def unequal_batches() -> str:
    views = inputs()[:, : 2 + rank()]
    try:
        make("nt_xent", gather_distributed=True)(views[0], views[1])
    except ValueError as error:
        return str(error)
    return "accepted"


def test_unequal_batches_are_refused_in_both(pair: Pair) -> None:
    for message in pair(unequal_batches):
        assert "expected one shape and dtype (torch.float64 here) in all processes, got (2, 2, 5), (3, 2, 5)" in message
