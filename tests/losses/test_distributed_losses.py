"""Losses over two processes against the same loss over all samples in one, by value and by gradient."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from two_processes import Pair

from medssl_monai.core.distributed import rank, world_size
from medssl_monai.losses import SampleRelationLoss, SupConLoss, supervised_loss

ROWS, WIDTH, CLASSES = 4, 5, 3
WEIGHTS = (0.2, 1.0, 3.0)


def inputs() -> Tensor:
    return torch.randn(2 * ROWS, 2, WIDTH, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def linear() -> Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.randn(WIDTH, CLASSES, generator=generator, dtype=torch.float64).requires_grad_()


#: of both processes, in the order of the ranks: as many labels in each, and all labels in the second
EQUAL = (0, 2, -1, -1, 1, 2, -1, -1)
UNEQUAL = (-1, -1, -1, -1, 0, 2, 2, 1)


def supcon(outputs: Tensor, labels: Tensor, gather: bool) -> Tensor:
    return SupConLoss(0.3, gather_distributed=gather)(outputs, labels)


def unlabelled_supcon(outputs: Tensor, labels: Tensor, gather: bool) -> Tensor:
    return SupConLoss(0.3, gather_distributed=gather)(outputs)


def relation(outputs: Tensor, labels: Tensor, gather: bool) -> Tensor:
    teacher = outputs[:, 1].detach().sin()
    return SampleRelationLoss(gather_distributed=gather)(outputs[:, 0], teacher)


def squared_error(outputs: Tensor, labels: Tensor, gather: bool) -> Tensor:
    return supervised_loss("mse", gather_distributed=gather)(outputs[:, 0], labels)


def weighted_cross_entropy(outputs: Tensor, labels: Tensor, gather: bool) -> Tensor:
    return supervised_loss("cross_entropy", WEIGHTS, gather_distributed=gather)(outputs[:, 0], labels)


Objective = Callable[[Tensor, Tensor, bool], Tensor]


def share(objective: Objective, labels: tuple[int, ...], gather: bool) -> tuple[float, Tensor]:
    """Value and gradient of this process's loss of its samples; of all of them with one process."""
    count = 2 * ROWS // world_size()
    own = slice(rank() * count, (rank() + 1) * count)
    weight = linear()
    value = objective(inputs()[own] @ weight, torch.tensor(labels)[own], gather)
    value.backward()
    assert weight.grad is not None
    return float(value.detach()), weight.grad


@pytest.mark.parametrize("objective", [supcon, unlabelled_supcon, relation, squared_error, weighted_cross_entropy])
@pytest.mark.parametrize("labels", [EQUAL, UNEQUAL], ids=["equal", "unequal"])
def test_the_mean_over_processes_is_the_loss_of_one(pair: Pair, objective: Objective, labels: tuple[int, ...]) -> None:
    expected, gradient = share(objective, labels, gather=False)
    values, gradients = zip(*pair(share, objective, labels, True))
    assert sum(values) / 2 == pytest.approx(expected, rel=1e-13)
    torch.testing.assert_close((gradients[0] + gradients[1]) / 2, gradient, rtol=1e-11, atol=1e-13)
    if objective in (supcon, unlabelled_supcon, relation):  # every process has the whole loss
        assert values[0] == values[1]


@pytest.mark.parametrize("objective", [supcon, relation, weighted_cross_entropy])
def test_without_gathering_it_is_another(pair: Pair, objective: Objective) -> None:
    """The check above can fail: what each process sees alone is not enough."""
    expected, _ = share(objective, UNEQUAL, gather=False)
    values, _ = zip(*pair(share, objective, UNEQUAL, False))
    assert abs(sum(values) / 2 - expected) > 1e-3


def one_sample_each() -> float:
    own = inputs()[rank() : rank() + 1]
    return float(SupConLoss(0.5, gather_distributed=True)(own, torch.tensor([0])))


def test_one_sample_in_each_process_is_a_pair_of_samples(pair: Pair) -> None:
    expected = float(SupConLoss(0.5)(inputs()[:2], torch.tensor([0, 0])))
    assert pair(one_sample_each) == pytest.approx([expected] * 2, rel=1e-13)


@pytest.mark.parametrize(
    "loss", [SupConLoss(0.3, gather_distributed=True), SampleRelationLoss(gather_distributed=True)]
)
def test_with_one_process_gathering_changes_nothing(loss: nn.Module) -> None:
    views = inputs()
    plain = type(loss)(0.3) if isinstance(loss, SupConLoss) else SampleRelationLoss()
    arguments = (views,) if isinstance(loss, SupConLoss) else (views[:, 0], views[:, 1])
    assert torch.equal(loss(*arguments), plain(*arguments))


def test_one_sample_in_one_process_is_no_pair() -> None:
    with pytest.raises(
        ValueError, match=r"one pair has no negatives; expected at least 2 samples, got shape \(1, 2, 5\)"
    ):
        SupConLoss(gather_distributed=True)(inputs()[:1])


def unequal_batches() -> str:
    try:
        SupConLoss(gather_distributed=True)(inputs()[: 2 + rank()])
    except ValueError as error:
        return str(error)
    return "accepted"


def test_unequal_batches_are_refused_in_both(pair: Pair) -> None:
    for message in pair(unequal_batches):
        assert "expected one shape and dtype (torch.float64 here) in all processes, got (2, 2, 5), (3, 2, 5)" in message
