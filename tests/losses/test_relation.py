"""SampleRelationLoss against loops over eq. 1, its invariances and its edges."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medssl_monai.losses import SampleRelationLoss, relation_matrix


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def loops(student, teacher):
    def relation(activations):
        flat = [a.reshape(-1) for a in activations]
        rows = [[(a * b).sum() for b in flat] for a in flat]
        lengths = [sum(value**2 for value in row) ** 0.5 for row in rows]
        return [[value / length for value in row] for row, length in zip(rows, lengths)]

    left, right = relation(student), relation(teacher)
    count = len(student)
    return sum((left[i][j] - right[i][j]) ** 2 for i in range(count) for j in range(count)) / count


@pytest.mark.parametrize("shape", [(2, 3), (5, 8), (4, 3, 2, 2)])
def test_value_and_gradient_are_those_of_loops_over_eq_1(shape):
    ours, theirs = (draw(*shape).requires_grad_() for _ in range(2))
    teacher = draw(*shape, seed=1)
    value, expected = SampleRelationLoss()(ours, teacher), loops(theirs, teacher)
    assert value.item() == pytest.approx(expected.item(), rel=1e-9)
    value.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-12)


def test_gradcheck():
    assert torch.autograd.gradcheck(lambda s: SampleRelationLoss()(s, draw(3, 4, seed=1)), draw(3, 4).requires_grad_())


def test_hand_worked_case():
    student = torch.tensor([[1.0, 0.0], [0.0, 1.0]])  # unrelated: the identity
    teacher = torch.tensor([[1.0, 0.0], [1.0, 0.0]])  # the same twice: rows (1, 1) / sqrt 2
    torch.testing.assert_close(relation_matrix(teacher), torch.full((2, 2), 0.5**0.5))
    expected = 2 * ((1 - 0.5**0.5) ** 2 + 0.5) / 2
    assert SampleRelationLoss()(student, teacher).item() == pytest.approx(expected, rel=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 6), st.integers(1, 5), st.integers(0, 10_000))
def test_order_of_the_batch_scale_and_rotation_of_the_features_change_nothing(count, width, seed):
    student, teacher = draw(count, width, seed=seed), draw(count, width, seed=seed + 1)
    loss = SampleRelationLoss()
    expected = loss(student, teacher).item()
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    assert loss(student[order], teacher[order]).item() == pytest.approx(expected, rel=1e-8, abs=1e-12)
    assert loss(student * 37.0, teacher * 1e-3).item() == pytest.approx(expected, rel=1e-8, abs=1e-12)
    rotation = torch.linalg.qr(draw(width, width, seed=seed + 2)).Q
    assert loss(student @ rotation, teacher).item() == pytest.approx(expected, rel=1e-8, abs=1e-12)
    assert loss(teacher, student).item() == pytest.approx(expected, rel=1e-8, abs=1e-12)
    assert loss(student, student @ rotation).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["random", "identical", "zero", "one zero row", "huge"])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_value_and_gradient_are_finite_on_the_grid_of_edges(count, kind, dtype):
    student = draw(count, 6)
    if kind == "identical":
        student = torch.ones_like(student)
    elif kind == "zero":
        student = torch.zeros_like(student)
    elif kind == "one zero row":
        student[0] = 0
    elif kind == "huge":
        student = student * (1e4 if dtype == torch.float16 else 1e30)
    student = student.to(dtype).requires_grad_()
    value = SampleRelationLoss()(student, draw(count, 6, seed=1).to(dtype))
    value.backward()
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert math.isfinite(value.item())
    assert student.grad.isfinite().all()


def test_a_zero_sample_is_related_to_nothing():
    activations = draw(3, 4)
    activations[1] = 0
    matrix = relation_matrix(activations)
    assert (matrix[1] == 0).all()
    assert (matrix[:, 1] == 0).all()
    torch.testing.assert_close(matrix[[0, 2]].norm(dim=1), torch.ones(2, dtype=torch.float64))


def test_no_gradient_reaches_the_teacher():
    student, teacher = draw(3, 4).requires_grad_(), draw(3, 4, seed=1).requires_grad_()
    SampleRelationLoss()(student, teacher).backward()
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None


def test_autocast_changes_nothing():
    student, teacher = draw(4, 9, dtype=torch.float32), draw(4, 9, seed=1, dtype=torch.float32)
    expected = SampleRelationLoss()(student, teacher)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(SampleRelationLoss()(student, teacher), expected)


def test_not_a_number_stays_visible():
    student = draw(3, 4)
    student[0, 0] = math.nan
    assert SampleRelationLoss()(student, draw(3, 4)).isnan()


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        (torch.rand(3, 4), torch.rand(4, 4), r"activations of one shape, got \(3, 4\) and \(4, 4\)"),
        (torch.rand(3, 4), torch.rand(3, 5), r"activations of one shape, got \(3, 4\) and \(3, 5\)"),
        (torch.rand(3), torch.rand(3), r"expected shape \(N, ...\) with N >= 1, got \(3,\)"),
        (torch.rand(0, 4), torch.rand(0, 4), r"expected shape \(N, ...\) with N >= 1, got \(0, 4\)"),
        (torch.ones(3, 4, dtype=torch.int32), torch.rand(3, 4), r"student: expected a floating-point tensor, got"),
        (torch.rand(3, 4), torch.ones(3, 4, dtype=torch.int32), r"teacher: expected a floating-point tensor, got"),
    ],
)
def test_wrong_input_is_refused(student, teacher, message):
    with pytest.raises(ValueError, match=message):
        SampleRelationLoss()(student, teacher)
