"""Binary cross-entropy of labels: torch's own loss, loops in float64, unknown entries, two processes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from two_processes import Pair

from medssl_monai.core.distributed import rank, world_size
from medssl_monai.losses import LabelledBinaryCrossEntropyLoss, positive_weights, supervised_loss

ROWS = [[1, 0, 1], [0, 0, 1], [1, 1, 0], [0, 1, 0], [1, 0, 0], [0, 0, 0]]


def logits(rows: int = len(ROWS), labels: int = 3, dtype: torch.dtype = torch.float64) -> Tensor:
    return 3 * torch.randn(rows, labels, generator=torch.Generator().manual_seed(5), dtype=dtype)


def by_loops(scores: Tensor, labels: list[list[int]], weights: list[float] | None = None) -> float:
    total, count = 0.0, 0
    for row, truths in zip(scores.tolist(), labels):
        for k, (score, truth) in enumerate(zip(row, truths)):
            if truth >= 0:
                p = 1 / (1 + math.exp(-score))
                total -= (1 if weights is None else weights[k]) * math.log(p) if truth else math.log(1 - p)
                count += 1
    return total / count


@pytest.mark.parametrize("weights", [None, [0.25, 4.0, 1.5]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_it_is_torch_s_loss(weights: list[float] | None, dtype: torch.dtype) -> None:
    scores, labels = logits(), torch.tensor(ROWS)
    positive = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    theirs = torch.nn.BCEWithLogitsLoss(pos_weight=positive)(scores, labels.double())
    ours = supervised_loss("bce", weights)(scores, labels.to(dtype))
    assert float(ours) == pytest.approx(float(theirs), rel=1e-14)
    assert float(ours) == pytest.approx(by_loops(scores, ROWS, weights), rel=1e-12)


def test_unknown_entries_are_left_out_by_value_and_gradient() -> None:
    labels = [[1, -1, 1], [-1, -1, -1], [1, 1, 0], [0, -1, 0], [-1, 0, 0], [0, 0, -1]]
    scores = logits().requires_grad_()
    weights = [0.5, 3.0, 1.0]
    value = supervised_loss("bce", weights)(scores, torch.tensor(labels))
    assert value.item() == pytest.approx(by_loops(scores.detach(), labels, weights), rel=1e-12)
    value.backward()
    assert scores.grad is not None
    known = sum(truth >= 0 for row in labels for truth in row)
    for i, row in enumerate(labels):
        for k, truth in enumerate(row):
            p = 1 / (1 + math.exp(-scores[i, k].item()))
            expected = 0.0 if truth < 0 else (-weights[k] * (1 - p) if truth else p) / known
            assert float(scores.grad[i, k]) == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_a_batch_without_labels_gives_zero_with_a_graph() -> None:
    scores = logits().requires_grad_()
    value = supervised_loss("bce")(scores, torch.full((len(ROWS), 3), -1))
    value.backward()
    assert value.item() == 0
    assert torch.equal(scores.grad, torch.zeros_like(scores))


def test_one_label_takes_class_indices() -> None:
    scores = logits(4, 1)
    table = supervised_loss("bce")(scores, torch.tensor([[1.0], [0.0], [0.0], [1.0]]))
    assert torch.equal(supervised_loss("bce")(scores, torch.tensor([1, 0, 0, 1])), table)


def test_it_stays_finite_and_in_full_precision() -> None:
    scores = torch.tensor([[1e4, -1e4]], dtype=torch.float16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = supervised_loss("bce")(scores, torch.tensor([[0, 1]]))
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(1e4)  # -log sigmoid(-1e4) of both entries


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (torch.tensor([1, 0]), r"labels: expected shape \(2, 3\), one entry a label, got \(2,\)"),
        (torch.tensor([[0, 1, 2], [0, 0, 0]]), r"labels: expected 0, 1, or -1 for unknown, got 2"),
        (torch.tensor([[0.5, 1, 0], [0, 0, 0]]), r"labels: expected 0, 1, or -1 for unknown, got 0.5"),
        (torch.zeros(2, 3, dtype=torch.bool), r"labels: expected integers or floating-point numbers, got torch.bool"),
        ([[0, 1, 0], [0, 0, 0]], r"labels: expected a tensor, got list"),
    ],
)
def test_refused_labels(labels: Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        LabelledBinaryCrossEntropyLoss()(logits(2), labels)
    with pytest.raises(ValueError, match=r"expected shape \(2, 1\) or \(2,\), one entry a label, got \(3,\)"):
        LabelledBinaryCrossEntropyLoss()(logits(2, 1), torch.zeros(3))


def test_refused_weights() -> None:
    with pytest.raises(ValueError, match="class_weights: expected 3 weights, one a label, got 2"):
        supervised_loss("bce", [1.0, 2.0])(logits(2), torch.zeros(2, 3))


def test_positive_weights_balance_the_labels() -> None:
    counts = torch.tensor(ROWS).sum(0)
    weights = positive_weights(counts, len(ROWS))
    assert weights.tolist() == pytest.approx([3 / 3, 4 / 2, 4 / 2])
    # MRNet's training part (thesis 3.5.1): 917 abnormal exams, 208 ACL and 397 meniscus tears of 1,130
    assert positive_weights([917, 208, 397], 1130).tolist() == pytest.approx([213 / 917, 922 / 208, 733 / 397])
    assert positive_weights([0, 5], 5).tolist() == [5.0, 1 / 5]
    for counts in ([6.0], [-1.0], [float("nan")], []):
        with pytest.raises(ValueError, match=r"n_positive: expected one count from 0 to n_labels \(5, at least 1\)"):
            positive_weights(counts, 5)


def share(gather: bool) -> tuple[float, Tensor]:
    """Value and gradient of this process's rows, all of whose labels lie in the second half."""
    labels = torch.tensor([[-1, -1], [-1, 1], [-1, -1], [-1, -1], [1, 0], [0, 1], [1, 1], [0, -1]])
    inputs = torch.randn(8, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weight = torch.randn(3, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64).requires_grad_()
    count = 8 // world_size()
    own = slice(rank() * count, (rank() + 1) * count)
    value = supervised_loss("bce", [2.0, 0.5], gather_distributed=gather)(inputs[own] @ weight, labels[own])
    value.backward()
    assert weight.grad is not None
    return float(value.detach()), weight.grad


def test_the_mean_over_processes_is_the_loss_of_one(pair: Pair) -> None:
    expected, gradient = share(False)
    values, gradients = zip(*pair(share, True))
    assert sum(values) / 2 == pytest.approx(expected, rel=1e-13)
    torch.testing.assert_close((gradients[0] + gradients[1]) / 2, gradient, rtol=1e-11, atol=1e-13)
    apart, _ = zip(*pair(share, False))
    assert abs(sum(apart) / 2 - expected) > 1e-3  # the check can fail
