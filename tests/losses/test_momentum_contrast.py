"""MoCo's loss against its formula with loops, and at its edges."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from medssl_monai.losses.momentum import MomentumContrastLoss


def by_loops(query: Tensor, key: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    def cosine(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b) / (a.norm() * b.norm())

    total = torch.zeros((), dtype=query.dtype)
    for q, k in zip(query, key):
        own = (cosine(q, k) / temperature).exp()
        others = [(cosine(q, n) / temperature).exp() for n in negatives]
        total = total - (own / (own + sum(others))).log()
    return total / len(query)


def vectors(n: int = 5, negatives: int = 7, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    random = torch.Generator().manual_seed(n)
    return [torch.randn(rows, 6, generator=random, dtype=dtype) for rows in (n, n, negatives)]


@pytest.mark.parametrize("n", [1, 5])
@pytest.mark.parametrize("temperature", [0.07, 0.2, 1.0])
def test_equals_the_formula_with_gradient(n: int, temperature: float) -> None:
    query, key, negatives = (tensor.requires_grad_() for tensor in vectors(n))
    loss = MomentumContrastLoss(temperature)(query, key, negatives)
    twin = query.detach().clone().requires_grad_()
    expected = by_loops(twin, key.detach(), negatives.detach(), temperature)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-10)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(query.grad, twin.grad, rtol=1e-9, atol=1e-12)
    assert key.grad is None
    assert negatives.grad is None


def test_an_empty_queue_gives_zero() -> None:
    query, key, _ = vectors()
    query.requires_grad_()
    loss = MomentumContrastLoss()(query, key, torch.zeros(0, 6, dtype=torch.float64))
    loss.backward()
    assert loss.item() == 0.0
    assert query.grad is not None
    assert query.grad.abs().max() == 0.0


@pytest.mark.parametrize("temperature", [0.005, 5.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_stays_finite_and_in_single_precision(dtype: torch.dtype, temperature: float) -> None:
    query, key, negatives = vectors(dtype=torch.float32)
    query.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = MomentumContrastLoss(temperature)(query.to(dtype), key.to(dtype), negatives)
    loss.backward()
    assert loss.dtype == torch.float32
    assert query.grad is not None
    assert bool(loss.isfinite() and query.grad.isfinite().all())
    rounded = [tensor.detach().to(dtype).double() for tensor in (query, key)]
    exact = by_loops(*rounded, negatives.double(), temperature)
    assert loss.item() == pytest.approx(exact.item(), rel=1e-4, abs=1e-5)


def test_errors() -> None:
    query, key, negatives = vectors()
    loss = MomentumContrastLoss()
    cases: list[tuple[tuple[Any, ...], str]] = [
        ((query[0], key, negatives), r"query: expected shape \(N, D\), got \(6,\)"),
        ((query[:0], key[:0], negatives), r"query: expected shape \(N, D\), got \(0, 6\)"),
        ((query, key[:3], negatives), r"key: expected the query's shape \(5, 6\), got \(3, 6\)"),
        ((query, key, negatives[:, :4]), r"negatives: expected shape \(K, 6\), got \(7, 4\)"),
        ((query.long(), key, negatives), r"query: expected a floating-point tensor, got torch.int64"),
    ]
    for arguments, message in cases:
        with pytest.raises(ValueError, match=message):
            loss(*arguments)
    with pytest.raises(ValueError, match="temperature: expected a finite number above 0, got inf"):
        MomentumContrastLoss(math.inf)
    assert repr(MomentumContrastLoss(0.07)) == "MomentumContrastLoss(temperature=0.07)"
