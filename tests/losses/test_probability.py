"""Supervised and consistency losses against loops, scikit-learn and hand-worked cases."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight

from medssl_monai.core import ConfigError
from medssl_monai.losses import (
    LabelledCrossEntropyLoss,
    PredictionConsistencyLoss,
    ProbabilityMSELoss,
    class_weights,
    supervised_loss,
)

WEIGHTS = [0.5, 2.0, 1.0, 0.25]


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def probabilities(row):
    powers = [torch.exp(value) for value in row]
    return [power / sum(powers) for power in powers]


def loops(kind, logits, labels, weights):
    """Weighted mean over the labelled rows, row by row and class by class."""
    total, divisor = 0.0, 0.0
    for row, label in zip(logits, labels.tolist()):
        if label < 0:
            continue
        p = probabilities(row)
        squares = [(p[c] - (1.0 if c == label else 0.0)) ** 2 for c in range(len(p))]
        error = {"mse": sum(squares), "mean": sum(squares) / len(p), "cross_entropy": -torch.log(p[label])}[kind]
        weight = 1.0 if weights is None else weights[label]
        total, divisor = total + weight * error, divisor + weight
    return total / divisor


def loss_of(kind, weights):
    return ProbabilityMSELoss(weights, "mean") if kind == "mean" else supervised_loss(kind, weights)


@pytest.mark.parametrize("kind", ["mse", "mean", "cross_entropy"])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("labels", [[0, 1, 2, 3, 1], [3, -1, -1, 0, -1], [2, 2, 2, 2, 2]])
def test_value_and_gradient_are_those_of_loops(labels, weights, kind):
    labels = torch.tensor(labels)
    ours, theirs = (draw(5, 4).requires_grad_() for _ in range(2))
    value, expected = loss_of(kind, weights)(ours, labels), loops(kind, theirs, labels, weights)
    assert value.item() == pytest.approx(expected.item(), rel=1e-9)
    value.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-12)
    assert (ours.grad[labels < 0] == 0).all()


def test_cross_entropy_is_torchs_weighted_mean():
    logits, labels = draw(6, 4), torch.tensor([0, 3, -1, 2, -1, 1])
    expected = F.cross_entropy(logits, labels, torch.tensor(WEIGHTS, dtype=torch.float64), ignore_index=-1)
    torch.testing.assert_close(LabelledCrossEntropyLoss(WEIGHTS)(logits, labels), expected)


def test_mean_over_classes_is_torchs_mse():
    logits, labels = draw(6, 4), torch.tensor([0, 3, 3, 2, 0, 1])
    expected = F.mse_loss(logits.softmax(1), F.one_hot(labels, 4).double())
    torch.testing.assert_close(ProbabilityMSELoss(class_reduction="mean")(logits, labels), expected)
    torch.testing.assert_close(ProbabilityMSELoss()(logits, labels), 4 * expected)


@pytest.mark.parametrize("label", [0, 1])
def test_closed_forms_of_the_squared_error(label):
    sure = torch.tensor([[50.0, -50.0]])
    assert ProbabilityMSELoss()(sure, torch.tensor([label])).item() == pytest.approx(2.0 * label)
    assert ProbabilityMSELoss()(torch.zeros(1, 2), torch.tensor([label])).item() == pytest.approx(0.5)


@pytest.mark.parametrize("kind", ["mse", "cross_entropy"])
@pytest.mark.parametrize("labels", [[-1, -1, -1], [0, 0, -1]])
def test_a_batch_without_a_label_that_counts_gives_a_zero_with_a_graph(labels, kind):
    logits = draw(3, 4).requires_grad_()
    value = supervised_loss(kind, [0.0, 1.0, 1.0, 1.0])(logits, torch.tensor(labels))
    assert value.item() == 0
    value.backward()
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["mse", "cross_entropy", "consistency"])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
def test_value_and_gradient_are_finite_for_every_dtype_and_scale(scale, kind, dtype):
    logits = (draw(4, 3) * scale).to(dtype).requires_grad_()
    if kind == "consistency":
        value = PredictionConsistencyLoss()(logits, draw(4, 3, seed=1).to(dtype))
    else:
        value = supervised_loss(kind, [1, 2, 3])(logits, torch.tensor([0, -1, 2, 1]))
    value.backward()
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert math.isfinite(value.item())
    assert logits.grad.isfinite().all()


def test_autocast_changes_nothing():
    logits, teacher, labels = draw(4, 3, dtype=torch.float32), draw(4, 3, seed=1).float(), torch.tensor([0, -1, 2, 1])
    losses = [
        lambda: supervised_loss("mse")(logits, labels),
        lambda: supervised_loss("cross_entropy")(logits, labels),
        lambda: PredictionConsistencyLoss()(logits, teacher),
    ]
    expected = [loss() for loss in losses]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert all(torch.equal(loss(), value) for loss, value in zip(losses, expected))


def test_consistency_is_the_mean_squared_error_of_probabilities():
    student, teacher = draw(3, 4).requires_grad_(), draw(3, 4, seed=1).requires_grad_()
    squares = [(p - q) ** 2 for s, t in zip(student, teacher) for p, q in zip(probabilities(s), probabilities(t))]
    value = PredictionConsistencyLoss()(student, teacher)
    assert value.item() == pytest.approx(sum(squares).item() / 12, rel=1e-9)
    assert PredictionConsistencyLoss("sum")(student, teacher).item() == pytest.approx(sum(squares).item() / 3, rel=1e-9)
    value.backward()
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None


def test_a_constant_added_to_the_logits_changes_no_probability():
    student, teacher = draw(3, 4), draw(3, 4, seed=1)
    loss = PredictionConsistencyLoss()
    torch.testing.assert_close(loss(student + 3, teacher - 5), loss(student, teacher))
    assert loss(student + 3, student).item() == pytest.approx(0, abs=1e-30)


def test_class_weights_are_balanced_weights_of_mean_one():
    counts = [100, 20, 5]
    labels = [c for c, n in enumerate(counts) for _ in range(n)]
    balanced = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    expected = torch.tensor(balanced / balanced.mean())
    torch.testing.assert_close(class_weights(counts), expected)
    torch.testing.assert_close(class_weights(torch.tensor(counts)), expected)


def test_a_class_without_a_label_gets_the_largest_weight():
    weights = class_weights([30, 0, 10, 0])
    torch.testing.assert_close(weights, torch.tensor([0.5, 1.5, 1.5, 1.5], dtype=torch.float64))
    assert weights[[0, 2]].mean().item() == pytest.approx(1)


@pytest.mark.parametrize("counts", [[], [0, 0], [1, -1], [[1, 2]], [1, math.nan]])
def test_wrong_counts_are_refused(counts):
    with pytest.raises(ValueError, match=r"label_counts: expected one count >= 0 a class, at least one above 0, got"):
        class_weights(counts)


@pytest.mark.parametrize("weights", [[], [0.0, 0.0], [1.0, -1.0], [1.0, math.inf], [[1.0]]])
def test_wrong_class_weights_are_refused(weights):
    with pytest.raises(ValueError, match=r"class_weights: expected one finite weight >= 0 a class, .*, got"):
        ProbabilityMSELoss(weights)


def test_unknown_kinds_and_reductions_are_refused():
    with pytest.raises(ConfigError, match=r"unknown supervised loss 'crossentropy'.* Did you mean 'cross_entropy'\?"):
        supervised_loss("crossentropy")
    with pytest.raises(ValueError, match=r"class_reduction: expected 'sum' or 'mean', got 'none'"):
        ProbabilityMSELoss(class_reduction="none")
    with pytest.raises(ValueError, match=r"class_reduction: expected 'sum' or 'mean', got 'none'"):
        PredictionConsistencyLoss("none")


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (torch.rand(3), torch.zeros(3).long(), r"logits: expected shape \(N, C\).*got \(3,\)"),
        (torch.rand(0, 2), torch.zeros(0).long(), r"logits: expected shape \(N, C\).*got \(0, 2\)"),
        (torch.ones(3, 2).long(), torch.zeros(3).long(), r"logits: expected a floating-point tensor, got torch.int64"),
        (torch.rand(3, 2), torch.zeros(2).long(), r"labels: expected shape \(3,\).*got \(2,\)"),
        (torch.rand(3, 2), torch.zeros(3), r"labels: expected integer class indices, got torch.float32"),
        (torch.rand(3, 2), torch.tensor([0, 1, 2]), r"below 2, the number of classes, got 2"),
        (torch.rand(3, 2), torch.tensor([0, 1, -100]), r"-1 for unlabelled, got -100"),
        (torch.rand(3, 4), torch.tensor([0, 1, 1]), r"class_weights: expected 4 weights, one a class, got 2"),
    ],
)
def test_wrong_input_is_refused(logits, labels, message):
    with pytest.raises(ValueError, match=message):
        ProbabilityMSELoss([1.0, 2.0])(logits, labels)


def test_consistency_refuses_two_shapes():
    with pytest.raises(ValueError, match=r"expected one shape, got \(3, 2\) and \(2, 2\)"):
        PredictionConsistencyLoss()(torch.rand(3, 2), torch.rand(2, 2))
    with pytest.raises(ValueError, match=r"teacher_logits: expected shape \(N, C\).*got \(3,\)"):
        PredictionConsistencyLoss()(torch.rand(3, 2), torch.rand(3))
