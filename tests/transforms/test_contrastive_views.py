"""The augmentation chains of the contrastive papers: their steps, ranges and defaults; the blur they need."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.transforms import Compose
from scipy.ndimage import correlate1d

from medssl_monai.core import seed_transform
from medssl_monai.transforms import RandGaussianBlur, RandGaussianBlurd, TwoViewsd, mr_views, rgb_views


def image(channels=1, size=48, seed=0):
    return torch.rand(channels, size, size, generator=torch.Generator().manual_seed(seed))


def named(chain):
    return {type(step).__name__: step for step in chain.transforms}


class TestMR:
    def test_steps_are_those_of_the_table_in_its_order(self):
        assert list(named(mr_views())) == [
            "RandResizedCrop",
            "RandGaussianBlur",
            "RandRotate",
            "RandCoarseDropout",
            "RandColorJitter",
            "RandGaussianNoise",
            "ScaleIntensityRange",
        ]

    def test_defaults_are_the_values_of_the_table(self):
        """Thesis table 4.3, and every step on every view."""
        steps = named(mr_views())
        crop, blur, rotation = steps["RandResizedCrop"], steps["RandGaussianBlur"], steps["RandRotate"]
        holes, jitter, noise = steps["RandCoarseDropout"], steps["RandColorJitter"], steps["RandGaussianNoise"]
        assert (crop.spatial_size, crop.scale) == ((224, 224), (0.08, 1.0))
        assert (blur.kernel_size, blur.sigma) == (5, (0.1, 2.0))
        assert rotation.range_x == pytest.approx((-math.pi / 6, math.pi / 6))
        assert (holes.holes, holes.max_holes, holes.spatial_size, holes.fill_value) == (1, 4, (56, 56), 0.0)
        assert jitter.strengths == {"brightness": 0.2, "contrast": 0.2, "saturation": 0.0, "hue": 0.0}
        assert (noise.mean, noise.std, noise.sample_std) == (0.0, 0.1, False)
        assert [s.prob for s in (crop, blur, rotation, holes, jitter, noise)] == [1.0] * 6

    @pytest.mark.parametrize("channels", [1, 3])
    def test_view_keeps_channels_and_range(self, channels):
        chain = mr_views((32, 40)).set_random_state(seed=0)
        for _ in range(5):
            view = chain(image(channels))
            assert view.shape == (channels, 32, 40)
            assert view.dtype == torch.float32
            assert view.min() >= 0.0
            assert view.max() <= 1.0

    def test_without_clipping_the_noise_leaves_the_range(self):
        view = mr_views(32, clip=False).set_random_state(seed=0)(image())
        assert view.min() < 0.0

    def test_holes_are_black_where_nothing_comes_after(self):
        """1 to 4 holes of a quarter of the side: at least one whole, at most four."""
        chain = mr_views(32, blur_prob=0, rotation_prob=0, jitter_prob=0, noise_prob=0).set_random_state(seed=1)
        black = [int((chain(image() * 0.5 + 0.5) == 0).sum()) for _ in range(200)]
        assert min(black) == 64
        assert 3 * 64 < max(black) <= 4 * 64

    def test_noise_has_the_tables_deviation(self):
        chain = mr_views(64, blur_prob=0, rotation_prob=0, cutout_prob=0, jitter_prob=0, clip=False)
        view = chain.set_random_state(seed=2)(torch.full((1, 64, 64), 0.5))
        assert float(view.mean()) == pytest.approx(0.5, abs=0.01)
        assert float(view.std()) == pytest.approx(0.1, rel=0.05)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"rotation": 200}, r"rotation must lie in \[0, 180\] degrees, got 200"),
            ({"cutout_holes": (0, 4)}, r"cutout_holes must be .* got \(0, 4\) \(cutout_prob=0 leaves the holes out\)"),
            ({"cutout_holes": (3, 2)}, r"in order; got \(3, 2\)"),
            ({"cutout_size": 33}, "holes of 33 pixels do not fit views of 32 x 32"),
            ({"cutout_holes": 3}, r"mr_views: cutout_holes must be \(smallest, largest\), at least 1, in order; got 3"),
            ({"cutout_prob": 2}, r"mr_views: cutout_prob must lie in \[0, 1\], got 2"),
            ({"noise_prob": -0.5}, r"mr_views: noise_prob must lie in \[0, 1\], got -0.5"),
            ({"rotation_prob": "often"}, r"mr_views: rotation_prob must lie in \[0, 1\], got 'often'"),
            (
                {"crop_scale": 0.5},
                r"mr_views: crop_scale must be \(smallest, largest\), above 0 and at.*got 0.5",
            ),
            ({"rotation": "far"}, r"rotation must lie in \[0, 180\] degrees, got far"),
            ({"noise_std": -0.1}, "noise_std must not be negative, got -0.1"),
            ({"image_size": (3, 0)}, r"image_size must be one or two positive numbers, got \(3, 0\)"),
        ],
    )
    def test_settings_that_cannot_be(self, settings, message):
        with pytest.raises(ValueError, match=message):
            mr_views(**{"image_size": 32, **settings})


class TestRGB:
    def test_steps_and_defaults_are_simclrs(self):
        steps = named(rgb_views())
        assert list(steps) == [
            "RandResizedCrop",
            "RandFlip",
            "RandColorJitter",
            "RandGrayscale",
            "RandGaussianBlur",
        ]
        assert steps["RandResizedCrop"].scale == (0.08, 1.0)
        assert (steps["RandFlip"].prob, steps["RandFlip"].flipper.spatial_axis) == (0.5, 0)
        jitter = steps["RandColorJitter"]
        assert jitter.strengths == {"brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2}
        assert jitter.prob == 0.8
        assert steps["RandGrayscale"].prob == 0.2
        blur = steps["RandGaussianBlur"]
        assert (blur.kernel_size, blur.sigma, blur.prob) == (23, (0.1, 2.0), 0.5)

    @pytest.mark.parametrize(("size", "kernel"), [(224, 23), (96, 9), (64, 7), (32, 3), (16, 1)])
    def test_blur_is_a_tenth_of_the_view(self, size, kernel):
        assert named(rgb_views(size))["RandGaussianBlur"].kernel_size == kernel

    def test_small_image_recipe(self):
        steps = named(rgb_views(32, jitter_strength=0.5, blur_prob=0))
        assert "RandGaussianBlur" not in steps
        assert steps["RandColorJitter"].strengths["hue"] == pytest.approx(0.1)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"jitter_strength": -1}, r"rgb_views: jitter_strength must lie in \[0, 2.5\], got -1"),
            ({"jitter_strength": 3}, r"rgb_views: jitter_strength must lie in \[0, 2.5\], got 3"),
            ({"blur_prob": -0.1}, r"rgb_views: blur_prob must lie in \[0, 1\], got -0.1"),
            ({"flip_prob": 1.5}, r"rgb_views: flip_prob must lie in \[0, 1\], got 1.5"),
            ({"crop_scale": 0.5}, r"rgb_views: crop_scale must be \(smallest, largest\), above 0 and.*got 0.5"),
            ({"crop_scale": "wide"}, r"rgb_views: crop_scale must be .*got 'wide'"),
            ({"crop_scale": [0.0, 2.0]}, r"rgb_views: crop_scale must be .*got \(0.0, 2.0\)"),
            ({"crop_ratio": [2, 1]}, r"rgb_views: crop_ratio must be \(smallest, largest\), above 0, in order"),
        ],
    )
    def test_settings_that_cannot_be(self, settings, message):
        with pytest.raises(ValueError, match=message):
            rgb_views(32, **settings)

    def test_two_seeded_views(self):
        views = TwoViewsd("image", rgb_views(16))
        item = {"image": image(3)}
        seed_transform(views, 3)
        first = views(item)
        seed_transform(views, 3)
        again = views(item)
        assert torch.equal(first["view1"], again["view1"])
        assert torch.equal(first["view2"], again["view2"])
        assert not torch.equal(first["view1"], first["view2"])


class TestBlur:
    @pytest.mark.parametrize(("kernel", "sigma"), [(5, 0.1), (5, 0.7), (5, 2.0), (9, 1.3), (1, 1.0)])
    @pytest.mark.parametrize("container", [np.asarray, torch.as_tensor])
    def test_equals_correlation_with_the_sampled_gaussian(self, kernel, sigma, container):
        source = image(2, 11).to(torch.float64).numpy()
        taps = np.array([math.exp(-0.5 * (k / sigma) ** 2) for k in range(-(kernel // 2), kernel // 2 + 1)])
        taps /= taps.sum()
        expected = correlate1d(correlate1d(source, taps, axis=1, mode="mirror"), taps, axis=2, mode="mirror")
        result = RandGaussianBlur(kernel, (sigma, sigma))(container(source))
        assert isinstance(result, type(container(source)))
        np.testing.assert_allclose(np.asarray(result), expected, atol=1e-12)

    def test_sigma_is_uniform_and_the_probability_kept(self):
        blur = RandGaussianBlur(3, (0.5, 1.5), prob=0.5).set_random_state(seed=0)
        drawn = []
        for _ in range(2000):
            blur.randomize()
            if blur._do_transform:
                drawn.append(blur.drawn_sigma)
        assert len(drawn) == pytest.approx(1000, abs=100)
        np.testing.assert_allclose(np.quantile(drawn, [0.1, 0.5, 0.9]), [0.6, 1.0, 1.4], atol=0.04)

    def test_dictionary_form_draws_once(self):
        chain = Compose([RandGaussianBlurd(["a", "b"], 5, prob=1.0)]).set_random_state(seed=0)
        result = chain({"a": image(), "b": image()})
        assert torch.equal(result["a"], result["b"])
        assert not torch.equal(result["a"], image())

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"kernel_size": 4}, "kernel_size must be odd and positive, got 4"),
            ({"kernel_size": -1}, "odd and positive, got -1"),
            ({"sigma": (2.0, 1.0)}, r"sigma must be \(smallest, largest\), positive, in order; got \(2.0, 1.0\)"),
            ({"sigma": (0.0, 1.0)}, r"positive, in order; got \(0.0, 1.0\)"),
            ({"prob": 1.5}, r"prob must lie in \[0, 1\], got 1.5"),
        ],
    )
    def test_settings_that_cannot_be(self, settings, message):
        with pytest.raises(ValueError, match=message):
            RandGaussianBlur(**settings)

    def test_images_too_small_for_the_kernel(self):
        with pytest.raises(ValueError, match="5 taps needs images larger than 2 pixels, got 2 x 9"):
            RandGaussianBlur(5)(torch.rand(1, 2, 9))
