"""The teacher against its formula, written once more with loops."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from tiny_training import assert_state, copy_state, tiny_net
from torch import nn

from medssl_monai.handlers import EMATeacher


def wander(student: nn.Module, step: int) -> None:
    """Change every weight and buffer of the student."""
    draws = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for value in student.state_dict().values():
            if value.is_floating_point():
                value.add_(torch.randn(value.shape, generator=draws, dtype=value.dtype))
            else:
                value.add_(step + 1)


@pytest.mark.parametrize("average_buffers", [True, False])
def test_moving_average_of_weights_and_buffers(average_buffers: bool) -> None:
    student = tiny_net()
    teacher = EMATeacher(student, decay=0.7, average_buffers=average_buffers)
    expected = copy_state(student)
    buffers = {name for name, _ in student.named_buffers()}
    assert buffers
    for step in range(6):
        wander(student, step)
        teacher.update(student)
        alpha = min(1 - 1 / (step + 1), 0.7)
        for name, value in student.state_dict().items():
            if name in buffers and not average_buffers:
                continue
            expected[name] = (
                alpha * expected[name] + (1 - alpha) * value if value.is_floating_point() else value.clone()
            )
        assert_state(teacher.module, expected, rtol=1e-12, atol=1e-12)
    assert teacher.updates == 6


def test_plain_momentum_without_the_ramp() -> None:
    student = tiny_net()
    teacher = EMATeacher(student, decay=0.999, average_buffers=False, ramp=False)
    expected = {name: value.clone() for name, value in student.named_parameters()}
    buffers = {name: value.clone() for name, value in student.named_buffers()}
    for step in range(3):
        wander(student, step)
        teacher.update(student)
        for name, value in student.named_parameters():
            expected[name] = 0.999 * expected[name] + 0.001 * value
    assert_state(teacher.module, {**copy_state(teacher.module), **expected, **buffers}, rtol=1e-12, atol=1e-12)


def test_nothing_is_shared_with_the_student() -> None:
    student = tiny_net()
    teacher = EMATeacher(student)
    teacher.update(student)
    teacher.copy_from(student)
    before = copy_state(teacher.module)
    assert before["encoder.2.num_batches_tracked"].dtype == torch.int64
    wander(student, 3)
    assert_state(teacher.module, before)
    mine = {value.data_ptr() for value in teacher.module.state_dict().values()}
    assert mine.isdisjoint(value.data_ptr() for value in student.state_dict().values())


def test_a_copy_is_exact_and_counts_as_no_update() -> None:
    student = tiny_net()
    teacher = EMATeacher(student)
    wander(student, 1)
    teacher.copy_from(student)
    assert_state(teacher.module, copy_state(student))
    assert teacher.updates == 0


def test_the_first_update_is_an_exact_copy() -> None:
    student = tiny_net(dtype=torch.float32)
    teacher = EMATeacher(student)
    wander(student, 1)
    teacher.update(student)
    assert_state(teacher.module, copy_state(student))


def test_state_goes_on_where_it_was() -> None:
    student = tiny_net()
    teacher = EMATeacher(student, decay=0.9)
    for step in range(3):
        wander(student, step)
        teacher.update(student)
    other = EMATeacher(tiny_net(seed=5), decay=0.9)
    other.load_state_dict(deepcopy(teacher.state_dict()))
    wander(student, 9)
    for one in (teacher, other):
        one.update(student)
    assert_state(other.module, copy_state(teacher.module))
    assert other.updates == 4


def test_mode_and_gradients() -> None:
    student = tiny_net()
    assert EMATeacher(student).module.training
    assert not EMATeacher(student, mode="eval").module.training
    assert student.training
    teacher = EMATeacher(student)
    assert not any(p.requires_grad for p in teacher.module.parameters())
    assert all(p.requires_grad for p in student.parameters())


def test_errors() -> None:
    for decay in (-0.1, 1.0):
        with pytest.raises(ValueError, match=rf"decay must be in \[0, 1\), got {decay}"):
            EMATeacher(tiny_net(), decay=decay)
    with pytest.raises(ValueError, match=r"mode must be 'train' or 'eval', got 'test'"):
        EMATeacher(tiny_net(), mode="test")  # type: ignore[arg-type]
