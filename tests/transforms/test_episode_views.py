"""Queries of a batch against SciPy's map_coordinates and gaussian_filter, one image at a time in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy import ndimage

from medssl_monai.transforms import EpisodeViews
from medssl_monai.transforms.batched.draws import Draws, uniform_field


def batch(n=4, size=(48, 64), dtype=torch.float64, seed=0):
    """Smooth images in [0, 1] with a block each as its mask."""
    rng = np.random.default_rng(seed)
    images = ndimage.gaussian_filter(rng.random((n, 1, *size)), (0, 0, 2, 2))
    images = (images - images.min()) / (images.max() - images.min())
    masks = np.zeros_like(images)
    masks[:, :, size[0] // 4 : size[0] // 2, size[1] // 3 : 2 * size[1] // 3] = 1
    return torch.from_numpy(images).to(dtype), torch.from_numpy(masks).to(dtype), torch.arange(n) * 7 + 3


def reference(image, mask, number, views, epoch, view=0):
    """One query the long way: SciPy's filter and sampling, the places as the docstring words them."""
    height, width = image.shape
    factor = max(height, width) / 256
    draws = Draws(torch.tensor([number]), views.seed, epoch, view, "episode")
    angle, shear_row, shear_column = ((2 * u - 1) for u in draws.uniform("turn", 3)[0].tolist())
    angle, shear_row, shear_column = angle * views.rotation, shear_row * views.shear, shear_column * views.shear
    low, high = views.scale
    size = low + (high - low) * draws.uniform("scale")[0, 0].item()
    low, high = views.gamma
    gamma = low + (high - low) * draws.uniform("gamma")[0, 0].item()
    moved = [(2 * u - 1) * views.translation * factor for u in draws.uniform("shift", 2)[0].tolist()]
    forward = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    forward = forward @ np.array([[1, math.tan(shear_row)], [math.tan(shear_column), 1]]) * size
    noise = uniform_field(draws.key("elastic"), (2, height, width))[0].double().numpy()
    bend = [
        ndimage.gaussian_filter(field, views.elastic_sigma * factor, mode="constant", cval=0.0, truncate=4.0)
        * (views.elastic_alpha * factor**2)
        for field in noise
    ]
    places = np.zeros((2, height, width))
    middle = np.array([(height - 1) / 2, (width - 1) / 2])
    back = np.linalg.inv(forward)
    for i in range(height):
        for j in range(width):
            here = np.array([i + bend[0][i, j] - moved[0], j + bend[1][i, j] - moved[1]])
            places[:, i, j] = back @ (here - middle) + middle
    # zeros around, so that places just outside blend with zero as in the batched form
    around = [np.pad(array, 2) for array in (image**gamma, mask)]
    query = ndimage.map_coordinates(around[0], places + 2, order=1, cval=0.0)
    return query, ndimage.map_coordinates(around[1], places + 2, order=0, cval=0.0)


@pytest.mark.parametrize("size", [(48, 64), (96, 96)])
def test_equals_sampling_one_by_one(size):
    images, masks, index = batch(size=size)
    # strong maps: at 64 pixels the defaults move little
    views = EpisodeViews(5, rotation=25, translation=20, shear=15, elastic_alpha=400, elastic_sigma=12)
    query, query_mask = views(images, masks, index, epoch=2)
    assert query.dtype == torch.float64
    differing = 0
    for n, number in enumerate(index.tolist()):
        expected, expected_mask = reference(images[n, 0].numpy(), masks[n, 0].numpy(), number, views, 2)
        assert np.abs(expected - images[n, 0].numpy()).max() > 0.2  # something happened
        # the displacements are smoothed in float32
        np.testing.assert_allclose(query[n, 0].numpy(), expected, atol=2e-5)
        differing += int((query_mask[n, 0].numpy() != expected_mask).sum())
    assert differing <= 2  # a place midway between two pixels may be rounded either way


def test_float32_gives_the_same_to_rounding():
    images, masks, index = batch()
    exact, exact_mask = EpisodeViews(1)(images, masks, index, 0)
    query, query_mask = EpisodeViews(1)(images.float(), masks.float(), index, 0)
    assert query.dtype == query_mask.dtype == torch.float32
    torch.testing.assert_close(query.double(), exact, atol=1e-4, rtol=0)
    assert (query_mask.double() != exact_mask).sum() <= 2
    half, _ = EpisodeViews(1)(images.half(), masks.half(), index, 0)
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.double(), exact, atol=3e-3, rtol=0)


def test_the_mask_goes_where_the_image_goes():
    """A binary mask handed in as the image: gamma leaves 0 and 1, so the two may differ at its rim only."""
    _, masks, index = batch()
    query, query_mask = EpisodeViews(3)(masks, masks, index, 1)
    certain = (query < 1e-6) | (query > 1 - 1e-6)
    assert 0.8 < certain.float().mean() < 1
    assert torch.equal(query_mask[certain], query[certain].round())
    assert set(query_mask.unique().tolist()) == {0.0, 1.0}
    assert ((query_mask - query).abs() < 0.76).all()  # at a rim's corner the nearest of four weighs at least a fourth


def test_nothing_happens_where_all_ranges_are_empty():
    images, masks, index = batch(dtype=torch.float32)
    still = EpisodeViews(0, gamma=(1, 1), rotation=0, translation=0, shear=0, scale=(1, 1), elastic_alpha=0)
    query, query_mask = still(images, masks, index, 4)
    torch.testing.assert_close(query, images, atol=2e-5, rtol=0)
    assert torch.equal(query_mask, masks)
    assert "displacement" not in still.draw(index, 0, 0, (48, 64))


def test_gamma_is_a_power_of_the_slice():
    images, masks, index = batch()
    views = EpisodeViews(0, rotation=0, translation=0, shear=0, scale=(1, 1), elastic_alpha=0)
    query, _ = views(images, masks, index, 0)
    for n, gamma in enumerate(views.draw(index, 0, 0, (48, 64))["gamma"].tolist()):
        torch.testing.assert_close(query[n], images[n] ** gamma, atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    ("setting", "moves"),
    [
        ({"translation": 5.0}, "shift"),
        ({"scale": (1.2, 1.2)}, "size"),
        ({"rotation": 90.0}, "turn"),
        ({"shear": 30.0}, "shear"),
    ],
)
def test_what_each_setting_does_to_a_dot(setting, moves):
    """Where a point right of the middle goes, by the words of the settings."""
    still = {"gamma": (1, 1), "rotation": 0, "translation": 0, "shear": 0, "scale": (1, 1), "elastic_alpha": 0}
    views = EpisodeViews(2, **{**still, **setting})
    n, size, reach = 64, 129, 30
    images = torch.zeros(n, 1, size, size, dtype=torch.float64)
    images[:, :, 64, 64 + reach] = 1.0
    query, _ = views(images, images, torch.arange(n), 0)
    weight = query[:, 0] / query[:, 0].sum((1, 2), keepdim=True)
    axis = torch.arange(size, dtype=torch.float64) - 64
    row, column = (weight.sum(2) * axis).sum(1), (weight.sum(1) * axis).sum(1)
    if moves == "shift":  # pixels at 256: half as many at 129
        assert (row.abs() <= 5 * size / 256 + 0.1).all()
        assert row.abs().max() > 2.2
        assert (column - reach).abs().max() > 2.2
        assert row.min() < -1
        assert row.max() > 1
    elif moves == "size":
        torch.testing.assert_close(column, torch.full_like(column, 1.2 * reach), atol=0.3, rtol=0)
        torch.testing.assert_close(row, torch.zeros_like(row), atol=0.1, rtol=0)
    elif moves == "turn":
        torch.testing.assert_close(torch.hypot(row, column), torch.full_like(row, reach), atol=0.3, rtol=0)
        angle = torch.rad2deg(torch.atan2(row, column))
        assert angle.abs().max() <= 91
        assert angle.min() < -60
        assert angle.max() > 60
    else:  # a point on the row axis leaves it by the tilt of the columns, and stays as far along
        torch.testing.assert_close(column, torch.full_like(column, reach), atol=0.3, rtol=0)
        tilt = torch.rad2deg(torch.atan2(row, column))
        assert tilt.abs().max() <= 30.5
        assert tilt.min() < -20
        assert tilt.max() > 20


def test_draws_fill_their_ranges():
    views = EpisodeViews(0, gamma=(0.5, 1.5), scale=(0.9, 1.2), rotation=5, shear=0)
    params = views.draw(torch.arange(4000), 0, 0, (256, 256))
    gamma, matrix = params["gamma"].numpy(), params["matrix"].numpy()
    scale = 1 / np.sqrt(np.linalg.det(matrix))
    angle = np.degrees(np.arctan2(matrix[:, 0, 1], matrix[:, 0, 0]))
    shift = params["shift"].numpy()
    for values, low, high in (
        (gamma, 0.5, 1.5),
        (scale, 0.9, 1.2),
        (angle, -5, 5),
        (shift[:, 0], -5, 5),
        (shift[:, 1], -5, 5),
    ):
        share = (values - low) / (high - low)
        assert -1e-9 < share.min() < 0.01
        assert 0.99 < share.max() < 1 + 1e-9
        assert abs(share.mean() - 0.5) < 0.02
        assert abs(share.std() - 1 / math.sqrt(12)) < 0.01
    drawn = np.column_stack([gamma, scale, angle, shift])
    off_diagonal = np.corrcoef(drawn.T) - np.eye(5)
    assert np.abs(off_diagonal).max() < 0.06


def test_displacements_are_simards_and_scale_with_the_slice():
    """Uniform noise has the variance 1/3; a Gaussian keeps 1/(4 pi sigma^2) of it."""
    for size in (256, 128):
        field = EpisodeViews(0).draw(torch.arange(24), 0, 0, (size, size))["displacement"]
        inner = field[:, :, 20:-20, 20:-20]
        expected = 10 * math.sqrt(1 / 3) / (2 * math.sqrt(math.pi) * 5)  # pixels at 256
        assert inner.square().mean().sqrt().item() == pytest.approx(expected * size / 256, rel=0.05)
        assert abs(inner.mean().item()) < 0.03


def test_uniform_noise():
    noise = uniform_field(Draws(torch.arange(8), "x").key("noise"), (2, 101, 99))
    assert noise.shape == (8, 2, 101, 99)
    assert noise.dtype == torch.float32
    assert -1 < noise.min() < -0.9999
    assert 0.9999 < noise.max() < 1
    assert abs(noise.mean().item()) < 0.003
    assert noise.var().item() == pytest.approx(1 / 3, rel=0.01)
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.02


def test_a_query_depends_on_seed_epoch_sample_and_view_alone():
    images, masks, index = batch(6, dtype=torch.float32)
    views = EpisodeViews(9)
    query, query_mask = views(images, masks, index, 3)
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    for chosen in (order, order[:2], order[3:4]):
        again, again_mask = views(images[chosen], masks[chosen], index[chosen], 3)
        torch.testing.assert_close(again, query[chosen], atol=2e-6, rtol=0)
        assert (again_mask != query_mask[chosen]).sum() <= 1
    for other in (
        EpisodeViews(8)(images, masks, index, 3),
        views(images, masks, index, 4),
        views(images, masks, index + 1, 3),
        views(images, masks, index, 3, view=1),
    ):
        assert all((a - b).abs().max() > 0.05 for a, b in zip(other[0], query))


def test_meta_tensors_and_inputs_stay_as_they_are():
    images, masks, index = batch(dtype=torch.float32)
    before = images.clone(), masks.clone()
    query, query_mask = EpisodeViews(0)(MetaTensor(images), MetaTensor(masks), index, 0)
    assert type(query) is torch.Tensor
    assert type(query_mask) is torch.Tensor
    assert torch.equal(images, before[0])
    assert torch.equal(masks, before[1])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(EpisodeViews(0)(images, masks, index, 0)[0], query)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_same_on_a_gpu():
    images, masks, index = batch(8, (256, 256), dtype=torch.float32)
    query, query_mask = EpisodeViews(0)(images, masks, index, 0)
    there, there_mask = EpisodeViews(0)(images.cuda(), masks.cuda(), index, 0)
    torch.testing.assert_close(there.cpu(), query, atol=1e-4, rtol=0)
    assert (there_mask.cpu() != query_mask).float().mean() < 1e-4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gamma": (0, 1)}, r"gamma must be two positive numbers \(smallest, largest\); got \(0, 1\)"),
        ({"gamma": 1.5}, r"gamma must be two positive numbers \(smallest, largest\); got 1.5"),
        ({"scale": (1.2, 0.9)}, r"scale must be two positive numbers \(smallest, largest\); got \(1.2, 0.9\)"),
        ({"scale": (1, math.inf)}, r"scale must be two positive numbers"),
        ({"rotation": 180}, "rotation must be a number of at least 0 and below 180, got 180"),
        ({"shear": 45.0}, "shear must be a number of at least 0 and below 45, got 45"),
        ({"translation": -1}, "translation must be a number of at least 0, got -1"),
        ({"elastic_alpha": "10"}, "elastic_alpha must be a number of at least 0, got '10'"),
        ({"elastic_sigma": 0}, "elastic_sigma must be a number above 0, got 0"),
    ],
)
def test_errors_of_settings(arguments, message):
    with pytest.raises(ValueError, match=message):
        EpisodeViews(**arguments)


def test_errors_of_batches():
    images, masks, index = batch()
    views = EpisodeViews()
    with pytest.raises(ValueError, match=r"floating images of shape \(N, 1, H, W\), got torch.int64 of shape \(4, 1"):
        views(images.long(), masks, index, 0)
    with pytest.raises(ValueError, match=r"floating images of shape \(N, 1, H, W\), got torch.float64 of shape \(4, 3"):
        views(images.expand(-1, 3, -1, -1), masks, index, 0)
    with pytest.raises(
        ValueError, match=r"masks of the images' shape \(4, 1, 48, 64\), got torch.float64 of shape \(3"
    ):
        views(images, masks[:3], index, 0)
    with pytest.raises(ValueError, match=r"an integer for each of the 4 images, got torch.int64 of shape \(2,\)"):
        views(images, masks, index[:2], 0)
    with pytest.raises(ValueError, match=r"an integer for each of the 4 images, got torch.float64"):
        views(images, masks, index.double(), 0)
