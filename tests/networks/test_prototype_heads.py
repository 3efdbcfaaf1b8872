"""The few-shot heads against loops over pixels, windows and prototypes in float64 NumPy (thesis eq. 7.2 to 7.10)."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medssl_monai.networks import ALPNetHead, CoWProHead, PANetHead


def episode(count=2, channels=5, grid=8, size=64, seed=0, dtype=torch.float64):
    """Features of support and query, and masks with a rectangle each that differs in size."""
    maker = torch.Generator().manual_seed(seed)
    support, query = torch.randn(2, count, channels, grid, grid, generator=maker, dtype=dtype)
    mask = torch.zeros(count, 1, size, size, dtype=dtype)
    for item in range(count):
        mask[item, 0, 5 : 35 + 9 * item, 8 + item : 47] = 1
    return support, mask, query


def bilinear(mask, grid):
    """Values of an image at the centres of the cells of a grid, between the centres of its pixels."""
    found = np.empty((grid, grid))
    for row, column in product(range(grid), repeat=2):
        place = [max((cell + 0.5) * mask.shape[0] / grid - 0.5, 0) for cell in (row, column)]
        low = [math.floor(value) for value in place]
        high = [min(value + 1, mask.shape[0] - 1) for value in low]
        y, x = (value - start for value, start in zip(place, low))
        upper = mask[low[0], low[1]] * (1 - x) + mask[low[0], high[1]] * x
        lower = mask[high[0], low[1]] * (1 - x) + mask[high[0], high[1]] * x
        found[row, column] = upper * (1 - y) + lower * y
    return found


def unit(vector):
    return vector / np.linalg.norm(vector)


def prototypes_by_loops(features, mask, pool=4, threshold=0.95, centred=True, pool_features=True, local=True):
    """Foreground and background of one slice: lists of unit vectors."""
    channels, grid = features.shape[0], features.shape[1]
    if centred:
        features = features - features.mean(axis=0)
    cell = mask.shape[0] // grid
    seen = bilinear(mask, grid)
    windows = []
    if pool_features:
        for row, column in product(range(0, grid, pool), repeat=2):
            part = (slice(row, row + pool), slice(column, column + pool))
            vector = np.array([features[channel][part].mean() for channel in range(channels)])
            windows.append((vector, seen[part].mean()))
    else:
        for row, column in product(range(grid), repeat=2):
            part = mask[row * cell : (row + 1) * cell, column * cell : (column + 1) * cell]
            windows.append((features[:, row, column], part.mean()))
    high = low = threshold
    if threshold == "dynamic":
        high = 0.8 * max(covered for _, covered in windows)
        low = float(np.mean([1 - covered for _, covered in windows]))
    foreground = [unit(vector) for vector, covered in windows if local and covered > high]
    background = [unit(vector) for vector, covered in windows if local and 1 - covered > low]
    if seen.sum():
        foreground.append(unit((features * seen).sum(axis=(1, 2))))
    if not background and (1 - seen).sum():
        background.append(unit((features * (1 - seen)).sum(axis=(1, 2))))
    return foreground, background


def score_by_loops(query, rows, centred=True, temperature=0.05, scale=20.0, top=1.0, renormalize=False):
    """Score of one class at each pixel of a query."""
    found = np.empty(query.shape[1:])
    for place in np.ndindex(found.shape):
        pixel = query[(slice(None), *place)]
        pixel = unit(pixel - pixel.mean() if centred else pixel)
        near = sorted(rows, key=lambda row, pixel=pixel: -float(row @ pixel))[: math.ceil(round(top * len(rows), 9))]
        odds = np.array([math.exp(float(row @ pixel) / temperature) for row in near])
        aggregate = sum(share * row for share, row in zip(odds / odds.sum(), near))
        found[place] = scale * (unit(aggregate) if renormalize else aggregate) @ pixel
    return found


VARIANTS = {
    "as trained": (CoWProHead, {}, {}, {}),
    "windows of two": (CoWProHead, {"pool": 2}, {"pool": 2}, {}),
    "dynamic": (CoWProHead, {"pool": 2, "threshold": "dynamic"}, {"pool": 2, "threshold": "dynamic"}, {}),
    "low threshold": (CoWProHead, {"pool": 2, "threshold": 0.4}, {"pool": 2, "threshold": 0.4}, {}),
    "literal": (
        CoWProHead, {"pool_features": False, "renormalize_aggregate": True}, {"pool_features": False},
        {"renormalize": True},
    ),
    "literal and dynamic": (
        CoWProHead, {"pool_features": False, "threshold": "dynamic"},
        {"pool_features": False, "threshold": "dynamic"}, {},
    ),
    "nearest tenth": (CoWProHead, {"pool": 1, "top_fraction": 0.1}, {"pool": 1}, {"top": 0.1}),
    "nearest half": (CoWProHead, {"pool": 1, "top_fraction": 0.5}, {"pool": 1}, {"top": 0.5}),
    "other temperature": (
        CoWProHead, {"pool": 2, "temperature": 0.3, "scale": 7.0}, {"pool": 2}, {"temperature": 0.3, "scale": 7.0}
    ),
    "alpnet": (ALPNetHead, {"pool": 2}, {"pool": 2, "centred": False}, {"centred": False}),
    "panet": (PANetHead, {}, {"centred": False, "local": False}, {"centred": False}),
}  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_loops(variant):
    make, arguments, of_prototypes, of_score = VARIANTS[variant]
    support, mask, query = episode()
    found = make(**arguments)(support, mask, query)
    assert found.shape == (2, 2, 8, 8)
    sizes = set()
    for item in range(2):
        foreground, background = prototypes_by_loops(support[item].numpy(), mask[item, 0].numpy(), **of_prototypes)
        sizes.add(len(foreground))
        for place, rows in ((0, background), (1, foreground)):
            expected = score_by_loops(query[item].numpy(), rows, **of_score)
            np.testing.assert_allclose(found[item, place], expected, rtol=1e-9, atol=1e-9)
    if variant == "nearest tenth":
        assert len(sizes) == 2  # the items differ in their number of prototypes


@pytest.mark.parametrize("variant", VARIANTS)
def test_prototypes_and_score_compose_to_the_whole(variant):
    make, arguments, of_prototypes, _ = VARIANTS[variant]
    head = make(**arguments)
    support, mask, query = episode(seed=3)
    whole = head(support, mask, query)
    for item in range(2):
        part = slice(item, item + 1)
        pair = head.prototypes(support[part], mask[part])
        for rows, expected in zip(
            pair, prototypes_by_loops(support[item].numpy(), mask[item, 0].numpy(), **of_prototypes)
        ):
            np.testing.assert_allclose(rows, np.array(expected), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(head.score(query[part], pair), whole[part], rtol=1e-9, atol=1e-9)


def test_support_slices_join_their_prototypes():
    head = CoWProHead(pool=2)
    support, mask, query = episode(3)
    singles = [head.prototypes(support[k : k + 1], mask[k : k + 1]) for k in range(3)]
    joined = head.prototypes(support, mask)
    for found, parts in zip(joined, zip(*singles)):
        torch.testing.assert_close(found, torch.cat(parts))
    # the order of prototypes is of no account
    shuffled = tuple(rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))] for rows in joined)
    torch.testing.assert_close(head.score(query, shuffled), head.score(query, joined))


@settings(max_examples=25, deadline=None)
@given(scale=st.floats(0.01, 100), shift=st.floats(-5, 5), seed=st.integers(0, 1000))
def test_scale_of_features_and_their_channel_mean_have_no_part(scale, shift, seed):
    """The meaning of eq. 7.4, 7.5 and of the cosine; scores stay within their bounds."""
    support, mask, query = episode(1, seed=seed)
    head = CoWProHead(pool=2)
    found = head(support, mask, query)
    torch.testing.assert_close(head(scale * support + shift, mask, scale * query - shift), found, rtol=1e-6, atol=1e-6)
    assert found.abs().max() <= 20 + 1e-9


@pytest.mark.parametrize("make", [CoWProHead, ALPNetHead, PANetHead])
class TestEmpty:
    """No case for an exception: a slice without the organ, or without anything else, is an ordinary slice."""

    @pytest.mark.parametrize(("value", "place"), [(0.0, 1), (1.0, 0)])
    def test_a_class_that_is_not_there_scores_lowest(self, make, value, place):
        support, mask, query = episode()
        mask[1] = value
        support.requires_grad_()
        head = make()
        found = head(support, mask, query)
        assert (found[1, place] == -20).all()
        assert (found[1, 1 - place] > -20).all()
        torch.testing.assert_close(found[0], head(support, mask, query)[0])
        found.square().sum().backward()
        assert support.grad.isfinite().all()
        pair = head.prototypes(support[1:], mask[1:])
        assert len(pair[1 - place]) == 0  # prototypes are given foreground first
        torch.testing.assert_close(head.score(query[1:], pair), found[1:])

    def test_features_without_any_variation(self, make):
        support, mask, query = episode()
        found = make()(torch.ones_like(support), mask, torch.zeros_like(query))
        assert found.isfinite().all()


def test_a_class_too_small_for_a_window_has_its_global_prototype():
    support, mask, query = episode(1)
    mask[:] = 0
    mask[0, 0, 27:30, 27:30] = 1  # nine pixels that the bilinear sampling of 8 x 8 cells sees
    assert len(CoWProHead().prototypes(support, mask)[0]) == 1
    mask[:] = 0
    mask[0, 0, 0, 0:2] = 1  # two that it does not see: their share of the cell is taken
    foreground, _ = CoWProHead().prototypes(support, mask)
    expected = support[0, :, 0, 0] - support[0, :, 0, 0].mean()
    torch.testing.assert_close(foreground, (expected / expected.norm())[None])
    assert CoWProHead()(support, mask, query)[0, 1].min() > -20


def test_background_without_a_free_window_has_its_global_prototype():
    support, mask, _ = episode(1)
    mask[:] = 1
    mask[0, 0, :32, 20:30] = 0
    _, background = CoWProHead().prototypes(support, mask)
    seen = torch.from_numpy(bilinear(mask[0, 0].numpy(), 8))
    centred = support[0] - support[0].mean(dim=0)
    expected = (centred * (1 - seen)).sum(dim=(1, 2))
    torch.testing.assert_close(background, (expected / expected.norm())[None])


def test_windows_over_the_border_average_what_is_inside():
    support, mask, query = episode(1, grid=6, size=48)
    foreground, background = prototypes_by_loops(support[0].numpy(), mask[0, 0].numpy(), threshold=0.3)
    pair = CoWProHead(threshold=0.3).prototypes(support, mask)
    for rows, expected in zip(pair, (foreground, background)):
        np.testing.assert_allclose(rows, np.array(expected), rtol=1e-9)
    assert CoWProHead(threshold=0.3)(support, mask, query).shape == (1, 2, 6, 6)


def test_gradients():
    support, mask, query = episode(1, channels=3, grid=4, size=16)
    for head in (CoWProHead(pool=2), CoWProHead(pool=1, renormalize_aggregate=True), PANetHead()):
        assert torch.autograd.gradcheck(
            lambda s, q, head=head: head(s, mask, q), (support.requires_grad_(), query.requires_grad_())
        )


def test_half_precision_is_compared_in_float32():
    support, mask, query = episode(dtype=torch.float32)
    head = CoWProHead(pool=2)
    rounded = head(support.bfloat16().float(), mask, query.bfloat16().float())
    found = head(support.bfloat16(), mask, query.bfloat16())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, rounded)
    with torch.autocast("cpu", torch.bfloat16):
        within = head(support, mask, query)
    torch.testing.assert_close(within, head(support, mask, query))


def test_a_mask_may_be_of_any_type():
    support, mask, query = episode()
    head = CoWProHead(pool=2)
    for kind in (torch.bool, torch.uint8, torch.int64, torch.float16):
        torch.testing.assert_close(head(support, mask.to(kind), query), head(support, mask, query))


def test_ties_among_the_nearest_are_kept_together():
    rows = torch.eye(3, dtype=torch.float64)[[0, 0, 1, 2]]
    pixels = torch.tensor([[1.0], [0.5], [0.0]], dtype=torch.float64)
    score = CoWProHead(top_fraction=0.25, scale=1.0).class_score(pixels, rows, torch.ones(4, dtype=torch.bool))
    torch.testing.assert_close(score, torch.ones(1, dtype=torch.float64))
    nothing = CoWProHead(top_fraction=0.25).class_score(pixels, rows, torch.zeros(4, dtype=torch.bool))
    assert nothing.tolist() == [-20]


def test_several_organs_at_once():
    """Leading dimensions broadcast: queries by organs."""
    head = CoWProHead(pool=2, top_fraction=0.5)
    support, mask, query = episode(3)
    pairs = [head.prototypes(support[k : k + 1], mask[k : k + 1]) for k in range(3)]
    most = max(len(rows) for rows, _ in pairs)
    bank, valid = torch.zeros(3, most, 5, dtype=torch.float64), torch.zeros(3, most, dtype=torch.bool)
    for organ, (rows, _) in enumerate(pairs):
        bank[organ, : len(rows)], valid[organ, : len(rows)] = rows, True
    centred = query - query.mean(dim=1, keepdim=True)
    pixels = torch.nn.functional.normalize(centred.flatten(2), dim=1)
    found = head.class_score(pixels[:, None], bank[None], valid[None])
    assert found.shape == (3, 3, 64)
    for organ, pair in enumerate(pairs):
        torch.testing.assert_close(found[:, organ], head.score(query, pair)[:, 1].flatten(1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pool": 0}, "pool: expected an integer of at least 1, got 0"),
        ({"pool": 2.0}, "pool: expected an integer of at least 1, got 2.0"),
        ({"threshold": 1.0}, 'threshold: expected a number from 0 to below 1, or "dynamic", got 1.0'),
        ({"threshold": "fixed"}, "threshold: .* got 'fixed'"),
        ({"threshold": True}, "threshold: .* got True"),
        ({"temperature": 0}, "temperature: expected a finite number above 0, got 0"),
        ({"scale": math.inf}, "scale: expected a finite number above 0, got inf"),
        ({"top_fraction": 0}, "top_fraction: expected a number above 0, at most 1, got 0"),
        ({"top_fraction": 1.2}, "top_fraction: expected a number above 0, at most 1, got 1.2"),
    ],
)
def test_errors_of_values(arguments, message):
    with pytest.raises(ValueError, match=message):
        CoWProHead(**arguments)


def test_errors_of_shapes():
    support, mask, query = episode()
    head = CoWProHead()
    with pytest.raises(ValueError, match=r"support features: expected \(K, D, h, w\), got shape \[5, 8, 8\]"):
        head(support[0], mask, query[0])
    with pytest.raises(ValueError, match=r"support mask: expected \(2, 1, H, W\), got shape \[2, 64, 64\]"):
        head(support, mask[:, 0], query)
    with pytest.raises(ValueError, match=r"support mask: expected \(2, 1, H, W\), got shape \[1, 1, 64, 64\]"):
        head.prototypes(support, mask[:1])
    with pytest.raises(ValueError, match=r"query_features: expected the support's shape \[2, 5, 8, 8\], got \[2, 4"):
        head(support, mask, query[:, :4])
    with pytest.raises(ValueError, match=r"prototypes: expected \(P, 4\) numbers, got \(\d+, 5\)"):
        head.score(query[:, :4], head.prototypes(support, mask))
    with pytest.raises(ValueError, match=r"query features: expected \(N, D, h, w\), got shape \[5, 8, 8\]"):
        head.score(query[0], head.prototypes(support, mask))
