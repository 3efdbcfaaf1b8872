"""InfoNCE of distances that are not normalised, in every precision, against differences pair by pair in float64."""

import pytest
import torch
from torch.nn import functional as F

from medssl_monai.losses import EuclideanInfoNCELoss

SCALES = (1.0, 30.0, 100.0, 1000.0)
TEMPERATURES = (0.05, 0.33, 5.0)


def draw(kind, scale, count=32, width=128):
    """Two views: unrelated, alike, or in crowds of neighbours so near that several share a softmax at any scale."""
    generator = torch.Generator().manual_seed(1)
    first, second, near = torch.randn(3, count, width, generator=generator)
    if kind == "unrelated":
        return scale * first, scale * second
    if kind == "alike":
        return scale * first, scale * (first + 0.1 * second)
    crowd = scale * first[: count // 4].repeat(4, 1)
    return crowd + 0.1 * second, crowd + 0.1 * near


def pair_by_pair(z1, z2, temperature):
    rows = torch.cat([z1, z2]).double().requires_grad_()
    logits = (rows[:, None] - rows[None]).square().sum(-1) / -temperature
    logits = logits.masked_fill(torch.eye(len(rows), dtype=torch.bool), -torch.inf)
    value = F.cross_entropy(logits, torch.arange(len(rows)).roll(len(z1)))
    value.backward()
    return value.detach(), rows.grad


def ours(z1, z2, temperature, chunk_size=None):
    leaves = [z.clone().requires_grad_() for z in (z1, z2)]
    value = EuclideanInfoNCELoss(temperature, normalize=False, chunk_size=chunk_size)(*leaves)
    value.backward()
    return value.detach(), torch.cat([leaf.grad for leaf in leaves])


@pytest.mark.parametrize("kind", ["unrelated", "alike", "crowds"])
@pytest.mark.parametrize("chunk_size", [None, 7, 40])
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("scale", SCALES)
def test_float32_is_float64_at_any_length(kind, scale, temperature, chunk_size):
    z1, z2 = draw(kind, scale)
    value, gradient = ours(z1, z2, temperature, chunk_size)
    expected, theirs = pair_by_pair(z1, z2, temperature)
    assert value.dtype == gradient.dtype == torch.float32
    torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-7)
    assert value >= 0
    assert (gradient.double() - theirs).norm() <= 1e-6 * theirs.norm() + 1e-12
    if kind == "crowds":  # what is compared is no gradient of nothing, and no softmax of one entry
        assert theirs.norm() > 1e-3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["unrelated", "alike", "crowds"])
def test_half_precision_is_rounded_once(kind, dtype):
    z1, z2 = (z.to(dtype) for z in draw(kind, 30.0))
    value, gradient = ours(z1, z2, 0.33)
    expected, theirs = pair_by_pair(z1, z2, 0.33)
    assert value.dtype == torch.float32
    assert gradient.dtype == dtype
    torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-7)
    rounding = torch.finfo(dtype).eps
    assert (gradient.double() - theirs).norm() <= rounding * theirs.norm() + 1e-12


def test_autocast_changes_nothing():
    z1, z2 = draw("crowds", 100.0)
    expected = ours(z1, z2, 0.33)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(ours(z1, z2, 0.33), expected, rtol=0, atol=0)


@pytest.mark.parametrize("chunk_size", [None, 7])
@pytest.mark.parametrize("scale", [1e3, 1e6, 1e12])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_of_pairs_far_from_all_others_nothing_is_left(scale, dtype, chunk_size):
    """Loss and gradient, 0 in exact arithmetic to any precision, beside terms of up to 1e27."""
    value, gradient = ours(*(z.to(dtype) for z in draw("alike", scale)), 0.05, chunk_size)
    assert value == 0
    assert not gradient.any()


@pytest.mark.parametrize("chunk_size", [None, 7])
@pytest.mark.parametrize("kind", ["unrelated", "crowds"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_beyond_the_precision_of_float64_all_is_finite_and_bounded(kind, dtype, chunk_size):
    z1, z2 = (z.to(dtype) for z in draw(kind, 1e9))
    value, gradient = ours(z1, z2, 0.05, chunk_size)
    assert value.isfinite()
    assert value >= 0
    longest = (torch.cat([z1, z2]).double()[:, None] - torch.cat([z1, z2]).double()).norm(dim=-1).max()
    assert gradient.double().norm(dim=1).max() <= 4 / 0.05 * longest


def test_not_a_number_stays_visible():
    z1, z2 = draw("unrelated", 1.0)
    z1[3, 4] = torch.nan
    value, gradient = ours(z1, z2, 0.33)
    assert value.isnan()
    assert gradient.isnan().any()
