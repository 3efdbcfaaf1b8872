"""Colour jitter and grayscale against PIL and colorsys."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from PIL import Image, ImageEnhance

from medssl_monai.transforms import RandColorJitter, RandColorJitterd, RandGrayscale, RandGrayscaled
from medssl_monai.transforms.color import adjust


@pytest.fixture
def colour():
    """Bytes (3, 20, 30) with gray, pure and tied colours among random ones."""
    image = np.random.default_rng(0).integers(0, 256, (3, 20, 30), dtype=np.uint8)
    image[:, 0, :8] = np.array(
        [[0, 255, 90, 255, 0, 0, 200, 255], [0, 255, 90, 0, 255, 0, 200, 255], [0, 255, 90, 0, 0, 255, 10, 0]]
    )
    return image


def to_pil(image):
    return Image.fromarray(np.moveaxis(image, 0, -1))


def from_pil(image):
    return np.moveaxis(np.asarray(image, np.float32), -1, 0) / 255


def unit(image):
    return torch.from_numpy(image.astype(np.float32) / 255)


@pytest.mark.parametrize("factor", [0.0, 0.55, 1.0, 1.4])
@pytest.mark.parametrize(
    ("name", "enhance"),
    [("brightness", ImageEnhance.Brightness), ("contrast", ImageEnhance.Contrast), ("saturation", ImageEnhance.Color)],
)
def test_adjustments_equal_pil(colour, name, enhance, factor):
    expected = from_pil(enhance(to_pil(colour)).enhance(factor))
    result = adjust(unit(colour), name, factor).numpy()
    np.testing.assert_allclose(result, expected, atol=2.1 / 255)  # PIL rounds gray, mean and result to bytes
    assert np.abs(result - expected).mean() < 1 / 255


@pytest.mark.parametrize("turns", [-0.5, -0.1, 0.0, 0.07, 0.5])
def test_hue_equals_colorsys(colour, turns):
    image = unit(colour)
    expected = np.empty_like(colour, np.float64)
    for row in range(20):
        for column in range(30):
            hue, saturation, value = colorsys.rgb_to_hsv(*(float(v) for v in image[:, row, column]))
            expected[:, row, column] = colorsys.hsv_to_rgb((hue + turns) % 1.0, saturation, value)
    np.testing.assert_allclose(adjust(image, "hue", turns).numpy(), expected, atol=2e-6)


def test_drawn_operations_in_their_order_make_the_result(colour):
    image = unit(colour)
    jitter = RandColorJitter(0.3, 0.5, 1.5, 0.2, prob=1.0).set_random_state(seed=4)
    orders, factors = set(), {name: [] for name in jitter.strengths}
    for _ in range(300):
        result = jitter(image)
        orders.add(tuple(name for name, _ in jitter.operations))
        expected = image
        for name, factor in jitter.operations:
            factors[name].append(factor)
            expected = adjust(expected, name, factor)
        assert torch.equal(result, expected)
    assert len(orders) == 24
    for name, low, high in [
        ("brightness", 0.7, 1.3),
        ("contrast", 0.5, 1.5),
        ("saturation", 0, 2.5),
        ("hue", -0.2, 0.2),
    ]:
        drawn = np.array(factors[name])
        width = high - low
        assert low <= drawn.min() < low + 0.05 * width
        assert high - 0.05 * width < drawn.max() <= high
        assert abs(drawn.mean() - (low + high) / 2) < 0.06 * width
    assert 0.0 <= result.min() <= result.max() <= 1.0


def test_probability_and_seed(colour):
    image = unit(colour)
    jitter = RandColorJitter(prob=0.3)
    results = [jitter.set_random_state(seed=seed)(image) for seed in range(400)]
    changed = sum(not torch.equal(result, image) for result in results)
    assert 90 <= changed <= 150  # mean 120, standard deviation 9.2
    for seed in (0, 7, 30):
        assert torch.equal(jitter.set_random_state(seed=seed)(image), results[seed])
    state = np.random.get_state()[1].copy()  # noqa: NPY002 - the global state must not move
    torch_state = torch.get_rng_state()
    jitter(image)
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_state)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_other_channel_counts_have_no_saturation_and_hue(channels):
    image = torch.rand(channels, 6, 7)
    still = RandColorJitter(0, 0, 0.9, 0.4, prob=1.0).set_random_state(seed=1)
    assert torch.equal(still(image), image)
    jitter = RandColorJitter(prob=1.0).set_random_state(seed=1)
    result = jitter(image)
    expected = image.double()
    for name, factor in jitter.operations:
        if name == "brightness":
            expected = (factor * expected).clamp(0, 1)
        elif name == "contrast":
            expected = (factor * expected + (1 - factor) * expected.mean()).clamp(0, 1)
    torch.testing.assert_close(result.double(), expected, atol=1e-6, rtol=0)
    assert not torch.equal(result, image)
    assert torch.equal(RandGrayscale(1.0)(image), image)


def test_grayscale(colour):
    expected = np.asarray(to_pil(colour).convert("L"), np.float32) / 255
    result = RandGrayscale(1.0)(unit(colour))
    assert result.shape == (3, 20, 30)
    for channel in result.numpy():
        np.testing.assert_allclose(channel, expected, atol=0.6 / 255)
    gray = RandGrayscale(0.2).set_random_state(seed=0)
    count = sum(bool(torch.equal(image[0], image[1])) for image in (gray(unit(colour)) for _ in range(500)))
    assert 70 <= count <= 130


def test_input_is_left_alone_and_containers_are_kept(colour):
    source = MetaTensor(unit(colour), meta={"filename_or_obj": "a.png"})
    before = source.as_tensor().clone()
    for transform in (RandColorJitter(prob=1.0), RandGrayscale(1.0)):
        result = transform(source)
        assert isinstance(result, MetaTensor)
        assert result.meta["filename_or_obj"] == "a.png"
        assert result.dtype == torch.float32
        assert not torch.equal(result.as_tensor(), before)
        assert torch.equal(source.as_tensor(), before)
        array = transform(before.numpy(), randomize=False)
        assert isinstance(array, np.ndarray)
        np.testing.assert_array_equal(array, result.as_tensor().numpy())
        assert transform(before.to(torch.float16), randomize=False).dtype == torch.float16


def test_dictionary_forms_change_all_keys_alike(colour):
    data = {"image": unit(colour), "other": unit(colour), "label": 1}
    for dictionary, array in [
        (
            RandColorJitterd(["image", "other"], 0.1, 0.2, 0.3, 0.05, prob=1.0),
            RandColorJitter(0.1, 0.2, 0.3, 0.05, 1.0),
        ),
        (RandGrayscaled(["image", "other"], prob=1.0), RandGrayscale(1.0)),
    ]:
        result = dictionary.set_random_state(seed=2)(data)
        expected = array.set_random_state(seed=2)(data["image"])
        assert torch.equal(result["image"], expected)
        assert torch.equal(result["other"], expected)
        assert result["label"] == 1
        assert not torch.equal(data["image"], expected)
        with pytest.raises(KeyError, match="image"):
            dictionary({"label": 1})
    assert RandGrayscaled("image", 1.0, allow_missing_keys=True)({"label": 1}) == {"label": 1}


@pytest.mark.parametrize("transform", [RandColorJitter(), RandGrayscale()])
def test_wrong_images(transform):
    with pytest.raises(ValueError, match=r"shape \(C, H, W\), got shape \(4, 4\)"):
        transform(torch.rand(4, 4))
    with pytest.raises(
        ValueError, match=r"needs a floating image in \[0, 1\], got torch.uint8 in b.png; put ToUnitRange"
    ):
        transform(MetaTensor(torch.zeros(3, 4, 4, dtype=torch.uint8), meta={"filename_or_obj": "b.png"}))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"brightness": -0.1}, r"brightness must lie in \[0, inf\], got -0.1"),
        ({"saturation": float("nan")}, r"saturation must lie .* got nan"),
        ({"contrast": float("inf")}, r"contrast must lie .* got inf"),
        ({"hue": 0.6}, r"hue must lie in \[0, 0.5\], got 0.6"),
        ({"prob": 1.1}, r"RandColorJitter: prob must lie in \[0, 1\], got 1.1"),
    ],
)
def test_wrong_strengths(arguments, message):
    with pytest.raises(ValueError, match=message):
        RandColorJitter(**arguments)
    if "prob" in arguments:
        with pytest.raises(ValueError, match=r"RandGrayscaled?: prob must lie in \[0, 1\]"):
            RandGrayscaled("image", **arguments)
