"""The random resized crop: boxes, resizing, meta data."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from PIL import Image

from medssl_monai.transforms import RandResizedCrop, RandResizedCropd
from medssl_monai.transforms.crop import resize

MODES = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(16, 20), (7, 50), (64, 64), (41, 33)])
def test_resizing_equals_pil(mode, size):
    image = np.random.default_rng(0).random((1, 41, 33)).astype(np.float32)
    expected = np.asarray(Image.fromarray(image[0]).resize(size[::-1], MODES[mode]))
    result = resize(torch.from_numpy(image), size, mode).numpy()[0]
    np.testing.assert_allclose(result, expected.clip(image.min(), image.max()), atol=1e-5)


def test_boxes_follow_the_sampling_rule():
    """Uniform area and log-uniform ratio where nearly every box fits; uniform position."""
    crop = RandResizedCrop(8, scale=(0.1, 0.3), ratio=(0.5, 2.0)).set_random_state(seed=0)
    height, width = 300, 400
    boxes = []
    for _ in range(2000):
        crop.randomize((height, width))
        boxes.append(crop.box)
    top, left, h, w = np.array(boxes).T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + h <= height).all()
    assert (left + w <= width).all()
    area, log_ratio = h * w / (height * width), np.log2(w / h)
    for values, low, high in [
        (area, 0.1, 0.3),
        (log_ratio, -1, 1),
        (top / (height - h), 0, 1),
        (left / (width - w), 0, 1),
    ]:
        quantiles = np.quantile((values - low) / (high - low), [0.1, 0.25, 0.5, 0.75, 0.9])
        np.testing.assert_allclose(quantiles, [0.1, 0.25, 0.5, 0.75, 0.9], atol=0.04)


@pytest.mark.parametrize(
    ("shape", "box"),
    [((10, 100), (0, 43, 10, 13)), ((100, 10), (43, 0, 13, 10)), ((12, 12), (0, 0, 12, 12))],
)
def test_centred_box_where_none_fits(shape, box):
    """Boxes of the whole area and a ratio out of the image's reach never fit (12 x 12: the area cannot be 1.3 high)."""
    if shape == (12, 12):
        crop = RandResizedCrop(4, scale=(1.0, 1.0), ratio=(0.5, 2.0))
        crop.R = type("Never", (), {"uniform": lambda self, a, b: b, "rand": lambda self: 0.0})()
    else:
        crop = RandResizedCrop(4, scale=(1.0, 1.0)).set_random_state(seed=0)
    crop.randomize(shape)
    assert crop.box == box


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.floats(0.01, 1), st.floats(0.1, 8), st.integers(0, 10**6))
def test_any_image_gives_the_asked_size(height, width, smallest, ratio, seed):
    crop = RandResizedCrop((5, 9), (smallest, 1.0), (ratio, 2 * ratio)).set_random_state(seed=seed)
    image = torch.rand(2, height, width)
    result = crop(image)
    top, left, h, w = crop.box
    assert result.shape == (2, 5, 9)
    assert 1 <= h <= height - top
    assert 1 <= w <= width - left
    inside = image[:, top : top + h, left : left + w]
    assert inside.min() - 1e-6 <= result.min() <= result.max() <= inside.max() + 1e-6


def test_the_box_is_what_is_resized():
    image = torch.rand(3, 40, 50)
    crop = RandResizedCrop(32).set_random_state(seed=11)
    result = crop(image)
    top, left, h, w = crop.box
    assert (h, w) != (40, 50)
    part = np.stack([np.asarray(Image.fromarray(c.numpy()).resize((32, 32), Image.Resampling.BILINEAR))
                     for c in image[:, top : top + h, left : left + w].contiguous()])  # fmt: skip
    np.testing.assert_allclose(result.numpy(), part, atol=1e-5)
    assert torch.equal(crop.set_random_state(seed=11)(image), result)
    assert not torch.equal(crop.set_random_state(seed=12)(image), result)


def test_probability():
    image = torch.rand(1, 20, 30)
    whole = resize(image, (8, 8), "bilinear")
    assert torch.equal(RandResizedCrop(8, prob=0.0)(image), whole)
    crop = RandResizedCrop(8, scale=(0.1, 0.5), prob=0.25).set_random_state(seed=0)
    count = sum(not torch.equal(crop(image), whole) for _ in range(400))
    assert 70 <= count <= 130


def test_containers_meta_and_affine():
    """A value ramp that holds its own world coordinate still does after the crop: the affine went along."""
    affine = torch.tensor([[0.5, 0, 0, 10], [0, 2.0, 0, -3], [0, 0, 1, 0], [0, 0, 0, 1]], dtype=torch.float64)
    rows, columns = torch.meshgrid(torch.arange(60.0), torch.arange(80.0), indexing="ij")
    world = torch.stack([0.5 * rows + 10, 2.0 * columns - 3])
    source = MetaTensor(world, affine=affine, meta={"filename_or_obj": "a.png"})
    crop = RandResizedCrop((70, 90), scale=(0.2, 0.4)).set_random_state(seed=2)
    result = crop(source)
    assert isinstance(result, MetaTensor)
    assert result.meta["filename_or_obj"] == "a.png"
    pixels = torch.tensor([[30.0, 40.0, 0, 1], [10, 70, 0, 1]], dtype=torch.float64)
    for pixel in pixels:
        expected = (result.affine @ pixel)[:2]
        value = result.as_tensor()[:, int(pixel[0]), int(pixel[1])].double()
        torch.testing.assert_close(value, expected, atol=1e-4, rtol=0)
    assert torch.equal(source.affine, affine)
    array = crop(world.numpy(), randomize=False)
    assert isinstance(array, np.ndarray)
    np.testing.assert_array_equal(array, result.as_tensor().numpy())


def test_dictionary_form_cuts_one_box():
    image = torch.rand(3, 20, 24)
    mask = (image[:1] > 0.5).to(torch.int64) * 1000003
    data = {"image": image, "mask": mask, "label": 1}
    crop = RandResizedCropd(["image", "mask"], 16, mode=["bilinear", "nearest-exact"]).set_random_state(seed=3)
    result = crop(data)
    assert torch.equal(result["image"], RandResizedCrop(16).set_random_state(seed=3)(image))
    assert result["mask"].dtype == torch.int64
    assert set(result["mask"].unique().tolist()) <= {0, 1000003}
    top, left, h, w = crop.transform.box
    for i, j in [(0, 0), (7, 9), (15, 15)]:
        nearest = mask[0, top + math.floor((i + 0.5) * h / 16), left + math.floor((j + 0.5) * w / 16)]
        assert result["mask"][0, i, j] == nearest
    assert result["label"] == 1
    assert torch.equal(data["image"], image)


def test_errors():
    with pytest.raises(ValueError, match=r"shape \(C, H, W\) or \(C, H, W, S\), got shape \(20, 24\)"):
        RandResizedCrop(8)(torch.rand(20, 24))
    with pytest.raises(
        ValueError, match=r"needs a floating image in \[0, 1\], got torch.uint8; put ToUnitRange before"
    ):
        RandResizedCrop(8)(torch.zeros(1, 20, 24, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"'a' has size \(4, 5\) and 'b' has size \(5, 4\); resize them"):
        RandResizedCropd(["a", "b"], 3)({"a": torch.rand(1, 4, 5), "b": torch.rand(1, 5, 4)})
    with pytest.raises(ValueError, match=r"\(C, H, W, S\), got shape \(2, 4, 5, 6, 7\)"):
        RandResizedCropd("a", 3)({"a": torch.rand(2, 4, 5, 6, 7)})


@pytest.mark.parametrize("mode", ["bilinear", "nearest-exact"])
def test_slices_of_a_volume_are_cut_alike_and_stay_apart(mode: str) -> None:
    volume = MetaTensor(torch.rand(2, 20, 24, 5), affine=torch.diag(torch.tensor([0.5, 0.6, 4.0, 1.0])))
    crop = RandResizedCrop((12, 10), mode=mode).set_random_state(3)  # type: ignore[arg-type]
    result = crop(volume)
    assert result.shape == (2, 12, 10, 5)
    for position in range(5):
        one = crop(volume.as_tensor()[..., position].contiguous(), randomize=False)
        torch.testing.assert_close(result.as_tensor()[..., position], one)
    top, left, height, width = crop.box
    step = torch.tensor([height / 12, width / 10])
    assert torch.allclose(torch.diag(result.affine)[:3], torch.tensor([0.5 * step[0], 0.6 * step[1], 4.0]).double())
    corner = torch.tensor([top, left]) + (step - 1) / 2
    assert torch.allclose(result.affine[:2, 3], (corner * torch.tensor([0.5, 0.6])).double(), atol=1e-6)
    both = RandResizedCropd(["a", "b"], 12)({"a": volume, "b": volume.as_tensor().clone()})
    torch.testing.assert_close(both["a"].as_tensor(), both["b"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"spatial_size": 0}, "spatial_size must be one or two positive numbers, got 0"),
        ({"spatial_size": (3, 4, 5)}, r"one or two positive numbers, got \(3, 4, 5\)"),
        (
            {"spatial_size": 4, "scale": (0.0, 1.0)},
            r"scale must be .* above 0 and at most 1, in order; got \(0.0, 1.0\)",
        ),
        ({"spatial_size": 4, "scale": (0.5, 1.1)}, r"scale must be .* got \(0.5, 1.1\)"),
        (
            {"spatial_size": 4, "ratio": (2.0, 1.0)},
            r"ratio must be \(smallest, largest\), above 0, in order; got \(2.0, 1.0\)",
        ),
        ({"spatial_size": 4, "ratio": (1.0, math.inf)}, r"ratio must be"),
        (
            {"spatial_size": 4, "mode": "trilinear"},
            "mode must be one of bilinear, bicubic, nearest-exact, got 'trilinear'",
        ),
        ({"spatial_size": 4, "prob": -1}, r"prob must lie in \[0, 1\], got -1"),
    ],
)
def test_wrong_parameters(arguments, message):
    with pytest.raises(ValueError, match=message):
        RandResizedCrop(**arguments)
    with pytest.raises(ValueError, match=message):
        RandResizedCropd("image", **arguments)
