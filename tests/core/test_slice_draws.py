"""Slice draws: the law against scipy's, the compiled function against Python's, and what every draw must be."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from medssl_monai.core import draw_slices, slice_probabilities


def clipped_rounded_normal(size):
    """Masses of clip(round(N(S/2, S/4)), 0, S - 1)."""
    law = stats.norm(size / 2, size / 4)
    masses = np.array([law.cdf(k + 0.5) - law.cdf(k - 0.5) for k in range(size)])
    masses[0] += law.cdf(-0.5)
    masses[-1] += law.sf(size - 0.5)
    return masses


@pytest.mark.parametrize("size", [1, 2, 3, 16, 17, 44, 300])
def test_probabilities_are_those_of_the_clipped_rounded_normal(size):
    found = slice_probabilities(size)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found, clipped_rounded_normal(size), atol=1e-12)
    assert float(found.sum()) == pytest.approx(1)


def test_single_positions_follow_the_law():
    size, count = 24, 40_000
    seen = np.bincount(draw_slices(size, 1, count, seed=3)[:, 0], minlength=size)
    assert stats.chisquare(seen, count * clipped_rounded_normal(size)).pvalue > 0.001


def test_distinct_positions_follow_the_law_of_drawing_repeats_anew():
    size, num, count = 12, 5, 40_000
    generator = np.random.default_rng(0)
    other = np.zeros(size)
    for _ in range(count // 10):  # numpy's own drawing without replacement draws one after the other
        other[generator.choice(size, num, replace=False, p=clipped_rounded_normal(size))] += 1
    rejected = np.zeros(size)
    for _ in range(count // 10):  # as the rule is said: round, clip, and once more where it is there already
        chosen = set()
        while len(chosen) < num:
            chosen.add(int(np.clip(np.rint(generator.normal(size / 2, size / 4)), 0, size - 1)))
        rejected[list(chosen)] += 1
    seen = np.bincount(draw_slices(size, num, count, seed=7).flatten(), minlength=size)
    np.testing.assert_allclose(seen / count, other / (count // 10), atol=0.03)
    np.testing.assert_allclose(seen / count, rejected / (count // 10), atol=0.03)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 90), st.integers(1, 24), st.integers(1, 9), st.integers(-(2**40), 2**40))
def test_every_draw_is_distinct_ascending_and_inside(size, num, draws, seed):
    found = draw_slices(size, num, draws, seed)
    assert found.shape == (draws, min(num, size))
    assert found.dtype == torch.int64
    assert (found.diff(dim=1) > 0).all()
    assert 0 <= int(found.min()) <= int(found.max()) < size
    assert torch.equal(found, draw_slices(size, num, draws, seed))


def test_no_more_slices_than_asked_for_gives_all():
    for size in (1, 15, 16):
        assert draw_slices(size, 16, 3).tolist() == [list(range(size))] * 3


def test_draws_seeds_and_sizes_are_independent():
    draws = draw_slices(64, 16, 200, seed=0)
    assert len(torch.unique(draws, dim=0)) == 200
    others = torch.cat([draw_slices(64, 16, 1, seed=seed) for seed in (*range(-50, 50), 2**32, 2**33)])
    assert len(torch.unique(others, dim=0)) == 102
    # two seeds share no more slices than two draws of one seed do
    shared = [len(set(a) & set(b)) for rows in (draws, others) for a, b in zip(rows.tolist(), rows.tolist()[1:])]
    assert np.mean(shared[:199]) == pytest.approx(np.mean(shared[199:]), abs=0.6)


def test_the_global_generator_is_left_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    draw_slices(40, 16, 8)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_compiled_function_draws_the_same():
    compiled = torch.jit.script(draw_slices)
    for size in (1, 5, 16, 17, 30, 61, 256):
        for seed in (0, -3, 2**40 + 5):
            assert torch.equal(compiled(size, 16, 8, seed), draw_slices(size, 16, 8, seed))


def test_the_draws_are_pinned():
    """A served model must draw the same slices after an update."""
    assert draw_slices(30, 16, 2, seed=0).tolist() == [
        [0, 1, 2, 3, 7, 11, 12, 14, 15, 16, 19, 20, 22, 24, 27, 29],
        [9, 10, 11, 12, 14, 15, 16, 17, 18, 19, 20, 21, 22, 25, 28, 29],
    ]


def test_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match=r"size: expected a volume of at least one slice, got 0"):
        draw_slices(0, 16)
    with pytest.raises(ValueError, match=r"num and draws: expected at least 1 of each, got 0 and 1"):
        draw_slices(30, 0)
    with pytest.raises(ValueError, match=r"num and draws: expected at least 1 of each, got 16 and 0"):
        draw_slices(30, 16, 0)
