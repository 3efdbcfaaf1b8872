"""CoWProLoss against eq. 7.12 to 7.14 by loops over pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from medssl_monai.losses import CoWProLoss


def episode(count=2, size=6, seed=0):
    maker = torch.Generator().manual_seed(seed)
    scores = torch.randn(2, count, 2, size, size, generator=maker, dtype=torch.float64)
    masks = torch.rand(2, count, 1, size, size, generator=maker) > 0.7
    return scores[0], masks[0], scores[1], masks[1]


def terms(scores, mask):
    """(class, -log of its probability) of every pixel."""
    found = []
    for item, row, column in np.ndindex(len(scores), *scores.shape[2:]):
        pair = [math.exp(float(scores[item, label, row, column])) for label in (0, 1)]
        label = int(mask[item, 0, row, column])
        found.append((label, -math.log(pair[label] / sum(pair))))
    return found


@pytest.mark.parametrize("weights", [(0.05, 1.0), (0.3, 2.0)])
@pytest.mark.parametrize("reduction", ["weighted_mean", "pixels"])
def test_equals_the_equations(weights, reduction):
    query, query_mask, support, support_mask = episode()
    pixels = terms(query, query_mask)
    total = sum(weights[label] * value for label, value in pixels)
    by = sum(weights[label] for label, _ in pixels) if reduction == "weighted_mean" else len(pixels)
    cycle = np.mean([value for _, value in terms(support, support_mask)])
    found = CoWProLoss(weights, reduction)(query, query_mask, support, support_mask)
    assert float(found) == pytest.approx(total / by + cycle, rel=1e-12)
    alone = CoWProLoss(weights, reduction)(query, query_mask.float(), support[:0], support_mask[:0])
    assert float(alone) == pytest.approx(total / by, rel=1e-12)


def test_the_weights_default_to_those_of_the_thesis():
    assert CoWProLoss().class_weights.tolist() == [0.05, 1.0]
    assert CoWProLoss().reduction == "weighted_mean"
    assert not CoWProLoss().state_dict()  # nothing that a checkpoint would hold


def test_coarser_scores_are_brought_to_the_mask():
    query, _, support, _ = episode(size=4)
    _, query_mask, _, support_mask = episode(size=16, seed=1)
    fine = [torch.nn.Upsample(size=(16, 16), mode="bilinear")(scores) for scores in (query, support)]
    torch.testing.assert_close(
        CoWProLoss()(query, query_mask, support, support_mask), CoWProLoss()(fine[0], query_mask, fine[1], support_mask)
    )


def test_half_precision_and_gradient():
    query, query_mask, support, support_mask = episode()
    rounded = [scores.bfloat16() for scores in (query, support)]
    with torch.autocast("cpu", torch.bfloat16):
        found = CoWProLoss()(rounded[0], query_mask, rounded[1], support_mask)
    assert found.dtype == torch.float32
    expected = CoWProLoss()(rounded[0].double(), query_mask, rounded[1].double(), support_mask)
    assert float(found) == pytest.approx(float(expected), rel=1e-5)
    query.requires_grad_(), support.requires_grad_()
    assert torch.autograd.gradcheck(lambda q, s: CoWProLoss()(q, query_mask, s, support_mask), (query, support))
    assert math.isfinite(float(CoWProLoss()(query * 1e4, query_mask, support * -1e4, support_mask)))


def test_errors():
    query, query_mask, support, support_mask = episode()
    with pytest.raises(ValueError, match="class_weights: expected two, of background and foreground, got 3"):
        CoWProLoss((1, 1, 1))
    with pytest.raises(ValueError, match="class_weights: expected a finite number above 0, got 0"):
        CoWProLoss((0, 1))
    with pytest.raises(ValueError, match="reduction: expected one of weighted_mean, pixels, got 'mean'"):
        CoWProLoss(reduction="mean")
    loss = CoWProLoss()
    with pytest.raises(ValueError, match=r"query_scores: expected \(N, 2, h, w\), background first, got shape \(2, 1"):
        loss(query[:, :1], query_mask, support, support_mask)
    with pytest.raises(ValueError, match=r"support_mask: expected \(2, 1, H, W\), got shape \(2, 6, 6\)"):
        loss(query, query_mask, support, support_mask[:, 0])
    with pytest.raises(ValueError, match=r"query_mask: expected 0 \(background\) and 1 \(foreground\) only"):
        loss(query, query_mask * 2, support, support_mask)
    with pytest.raises(ValueError, match=r"support_mask: expected 0 \(background\) and 1"):
        loss(query, query_mask, support, support_mask * 0.5)
    with pytest.raises(ValueError, match="query_scores: expected at least one item, got none"):
        loss(query[:0], query_mask[:0], support, support_mask)
    with pytest.raises(ValueError, match="query_scores: expected a floating-point tensor"):
        loss(query.long(), query_mask, support, support_mask)


def test_terms_are_the_parts_of_the_sum():
    query, query_mask, support, support_mask = episode()
    loss = CoWProLoss()
    parts = loss.terms(query, query_mask, support, support_mask)
    assert float(sum(parts)) == pytest.approx(float(loss(query, query_mask, support, support_mask)), rel=1e-12)
    cycle = np.mean([value for _, value in terms(support, support_mask)])
    assert float(parts[1]) == pytest.approx(cycle, rel=1e-9)
    assert float(loss.terms(query, query_mask, support[:0], support_mask[:0])[1]) == 0
