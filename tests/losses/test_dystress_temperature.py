"""The temperature of a pair by its cosine: the thesis's values, its algorithm, and what it refuses."""

import math

import numpy as np
import pytest
import torch

from medssl_monai.losses import DySTreSSLoss, dystress_temperature

GRID = torch.linspace(-1, 1, 81, dtype=torch.float64)


def algorithm_6_1(c, low, high, shift, scale):
    if (shift <= 0 and c <= -shift) or (shift >= 0 and c >= -shift):
        return low + (high - low) / 2 * (1 + math.cos(math.pi / scale * (shift + c)))
    return high


def test_eq_6_16():
    expected = [0.07 + 0.5 * (0.2 - 0.07) * (1 + math.cos(math.pi * (1 + c))) for c in GRID.tolist()]
    np.testing.assert_allclose(dystress_temperature(GRID, 0.07, 0.2), expected, rtol=1e-13)


def test_linear_and_exponential():
    linear = dystress_temperature(GRID, 0.1, 0.3, profile="linear")
    np.testing.assert_allclose(linear, [0.1 + 0.2 * abs(c) for c in GRID.tolist()], rtol=1e-13)
    exponential = dystress_temperature(GRID, 0.1, 0.3, profile="exponential")
    np.testing.assert_allclose(
        exponential, [0.1 + 0.2 * (math.exp(abs(c)) - 1) / (math.e - 1) for c in GRID.tolist()], rtol=1e-13
    )


@pytest.mark.parametrize("profile", ["cosine", "linear", "exponential"])
def test_all_profiles_are_lowest_at_0_and_highest_at_both_ends(profile):
    ends = dystress_temperature(torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64), 0.1, 0.2, profile)
    np.testing.assert_allclose(ends, [0.2, 0.1, 0.2], rtol=1e-12)
    falling, rising = (dystress_temperature(half, 0.1, 0.2, profile) for half in (GRID[:41], GRID[40:]))
    assert (falling.diff() < 0).all()
    assert (rising.diff() > 0).all()


@pytest.mark.parametrize(
    ("shift", "scale"), [(0.0, 0.5), (0.2, 0.6), (0.4, 0.7), (-0.2, 0.6), (-0.4, 0.7), (-1.0, 1.0), (1, 1)]
)
def test_algorithm_6_1(shift, scale):
    expected = [algorithm_6_1(c, 0.1, 0.2, shift, scale) for c in GRID.tolist()]
    np.testing.assert_allclose(dystress_temperature(GRID, 0.1, 0.2, shift=shift, scale=scale), expected, rtol=1e-12)


def test_the_published_shifts_are_highest_at_both_ends_and_on_the_plateau():
    for shift, scale in ((-0.4, 0.7), (-0.2, 0.6)):
        ours = dystress_temperature(GRID, 0.1, 0.2, shift=shift, scale=scale)
        np.testing.assert_allclose(ours[-shift < GRID], 0.2)
        np.testing.assert_allclose(ours[0], 0.2, rtol=1e-12)
        assert GRID[ours.argmin()].item() == pytest.approx(-shift - scale, abs=0.02)
        mirrored = dystress_temperature(-GRID, 0.1, 0.2, shift=-shift, scale=scale)
        np.testing.assert_allclose(mirrored, ours, rtol=1e-12)
    unshifted = dystress_temperature(torch.zeros((), dtype=torch.float64), shift=0.0, scale=0.5)
    assert unshifted.item() == pytest.approx(0.2)  # a W, not eq. 6.16, which is 0.1 here


@pytest.mark.parametrize(
    ("dtype", "expected"), [(torch.float64,) * 2, (torch.float32,) * 2, (torch.half, torch.float32)]
)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 4)])
def test_any_shape_in_the_precision_of_the_input(shape, dtype, expected):
    for settings in ({}, {"profile": "linear"}, {"shift": -0.4, "scale": 0.7}):
        result = dystress_temperature(torch.zeros(shape, dtype=dtype), **settings)
        assert result.shape == shape
        assert result.dtype == expected


@pytest.mark.parametrize(
    "settings", [{}, {"profile": "linear"}, {"profile": "exponential"}, {"shift": -0.4, "scale": 0.7}]
)
def test_it_can_be_differentiated(settings):
    cosine = torch.tensor([-0.9, -0.3, 0.2, 0.7], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda c: dystress_temperature(c, 0.1, 0.2, **settings), cosine)


def test_the_input_is_left_as_it_was():
    cosine = GRID.clone()
    dystress_temperature(cosine)
    assert torch.equal(cosine, GRID)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tau_min": 0.3}, r"tau_min: expected at most tau_max = 0.2, got 0.3"),
        ({"tau_min": 0}, "tau_min: expected a finite number above 0, got 0"),
        ({"tau_max": math.inf}, "tau_max: expected a finite number above 0, got inf"),
        ({"profile": "cosin"}, "expected 'cosine', 'linear' or 'exponential', got 'cosin'. Did you mean 'cosine'"),
        ({"shift": -0.4}, r"shift and scale: expected both, or neither for eq. 6.16, got shift=-0.4, scale=None"),
        ({"scale": 0.7}, r"shift and scale: expected both, or neither for eq. 6.16, got shift=None, scale=0.7"),
        ({"shift": 1.5, "scale": 0.7}, "shift: expected a number from -1 to 1, got 1.5"),
        ({"shift": math.nan, "scale": 0.7}, "shift: expected a number from -1 to 1, got nan"),
        ({"shift": "0", "scale": 0.7}, "shift: expected a number from -1 to 1, got '0'"),
        ({"shift": 0.2, "scale": 0.0}, "scale: expected a finite number above 0, got 0.0"),
        ({"shift": 0.2, "scale": 0.6, "profile": "linear"}, "shift and scale are of the 'cosine' profile"),
    ],
)  # fmt: skip
def test_unusable_settings_are_refused_by_the_function_and_the_loss(settings, message):
    with pytest.raises(ValueError, match=message):
        dystress_temperature(GRID, **settings)
    with pytest.raises(ValueError, match=message):
        DySTreSSLoss(**settings)


def test_cosines_are_floating_point():
    with pytest.raises(ValueError, match=r"cosine: expected a floating-point tensor, got torch\.int64"):
        dystress_temperature(torch.tensor([0, 1]))
