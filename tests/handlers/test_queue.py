"""The queue against a plain list."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from two_processes import Pair

from medssl_monai.core import ConfigError
from medssl_monai.core.distributed import rank
from medssl_monai.handlers import FeatureQueue


def numbered(start: int, count: int, dim: int = 2) -> Tensor:
    return torch.arange(start, start + count, dtype=torch.float32)[:, None].repeat(1, dim)


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 9), batches=st.lists(st.integers(0, 13), max_size=8))
def test_keeps_the_newest_rows_with_what_belongs_to_them(size: int, batches: list[int]) -> None:
    queue = FeatureQueue(size, 2, labels=True, columns={"weight": 1, "scores": 3})
    expected: list[int] = []
    start = 1
    for count in batches:
        rows = numbered(start, count)
        queue.enqueue(
            rows, labels=rows[:, 0].long() * 10, weight=rows[:, :1] / 2, scores=rows[:, :1] + torch.arange(3.0)
        )
        expected = [*expected, *range(start, start + count)][-size:]
        start += count
        assert queue.filled == len(expected)
        numbers = queue.rows()[:, 0]
        assert sorted(numbers.tolist()) == expected
        assert torch.equal(queue.rows()[:, 1], numbers)
        assert torch.equal(queue.rows("labels"), numbers.long() * 10)
        assert torch.equal(queue.rows("weight"), numbers[:, None] / 2)
        assert torch.equal(queue.rows("scores"), numbers[:, None] + torch.arange(3.0))


def test_oldest_rows_go_first_over_the_end() -> None:
    queue = FeatureQueue(5, 1)
    queue.enqueue(numbered(1, 3, 1))
    assert queue.rows().flatten().tolist() == [1, 2, 3]
    queue.enqueue(numbered(4, 3, 1))
    assert queue.rows().flatten().tolist() == [6, 2, 3, 4, 5]
    assert (int(queue.pointer), queue.filled) == (1, 5)


def test_what_is_not_filled_is_not_given() -> None:
    queue = FeatureQueue(4, 3, labels=True)
    assert queue.rows().shape == (0, 3)
    assert queue.rows("labels").shape == (0,)
    assert queue.labels.tolist() == [-1] * 4


def test_rows_have_no_gradient_and_the_type_of_the_queue() -> None:
    queue = FeatureQueue(4, 2)
    source = torch.ones(2, 2, requires_grad=True)
    queue.enqueue((2 * source).half())
    assert queue.rows().dtype == torch.float32
    assert not queue.rows().requires_grad
    assert list(queue.parameters()) == []
    double = FeatureQueue(4, 2, labels=True).double()
    double.enqueue(torch.full((1, 2), 1 / 3, dtype=torch.float64), labels=torch.tensor([2**40]))
    assert double.rows()[0, 0].item() == 1 / 3
    assert double.rows("labels").item() == 2**40


def test_state_goes_on_where_it_was() -> None:
    queue, other = (FeatureQueue(5, 2, columns={"weight": 1}) for _ in range(2))
    queue.enqueue(numbered(1, 4), weight=numbered(1, 4, 1))
    other.load_state_dict({name: value.clone() for name, value in queue.state_dict().items()})
    for each in (queue, other):
        each.enqueue(numbered(5, 3), weight=numbered(5, 3, 1))
    for name, value in queue.state_dict().items():
        assert torch.equal(other.state_dict()[name], value)
    assert sorted(other.rows()[:, 0].tolist()) == [3, 4, 5, 6, 7]
    with pytest.raises(RuntimeError, match="size mismatch for features"):
        FeatureQueue(6, 2, columns={"weight": 1}).load_state_dict(queue.state_dict())


def test_errors() -> None:
    for arguments, message in (
        ({"size": 0, "dim": 2}, r"^queue: size of a queue \(found 0, expected 1 or more\)"),
        ({"size": 2, "dim": 0}, r"^queue: features of a queue \(found 0, expected 1 or more\)"),
        ({"size": 2, "dim": 2, "columns": {"a": 0}}, r"^queue: a of a queue \(found 0, expected 1 or more\)"),
        ({"size": 2, "dim": 2, "columns": {"count": 1}}, r"^queue: a column cannot be called 'count'\. Choose a name"),
    ):
        with pytest.raises(ConfigError, match=message):
            FeatureQueue(**arguments)  # type: ignore[arg-type]
    queue = FeatureQueue(3, 2, labels=True)
    labels = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"queue: expected the columns features, labels, got features$"):
        queue.enqueue(torch.zeros(2, 2))
    with pytest.raises(ValueError, match=r"queue: expected features of shape \(2, 2\), got \(2, 3\)"):
        queue.enqueue(torch.zeros(2, 3), labels=labels)
    with pytest.raises(ValueError, match=r"queue: expected labels of shape \(1,\), got \(2,\)"):
        queue.enqueue(torch.zeros(1, 2), labels=labels)
    with pytest.raises(ValueError, match=r"queue: expected one of the columns features, labels, got 'label'"):
        queue.rows("label")
    assert queue.filled == 0
    assert repr(queue) == "FeatureQueue(size=3, columns=(features, labels))"


def _filled(batches: list[int]) -> dict[str, Any]:
    queue = FeatureQueue(7, 2, labels=True)
    start = 0
    for count in batches:
        first = start + rank() * count
        rows = numbered(first, count)
        queue.enqueue(rows, labels=rows[:, 0].long())
        start += 2 * count
    return {name: value.numpy() for name, value in queue.state_dict().items()}


def test_two_processes_fill_it_as_one_with_both_shares(pair: Pair) -> None:
    queue, start = FeatureQueue(7, 2, labels=True), 0
    for count in (1, 3, 2, 5):
        rows = numbered(start, 2 * count)
        queue.enqueue(rows, labels=rows[:, 0].long())
        start += 2 * count
    for state in pair(_filled, [1, 3, 2, 5]):
        for name, value in queue.state_dict().items():
            np.testing.assert_array_equal(state[name], value.numpy())
