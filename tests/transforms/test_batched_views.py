"""Batched views: the array transforms' results for equal parameters, their distributions, and stateless numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import (
    Compose,
    RandAdjustContrast,
    RandCoarseDropout,
    RandFlip,
    RandGaussianNoise,
    RandRotate,
    ScaleIntensityRange,
)
from scipy import stats

from medssl_monai.transforms import (
    BatchedViews,
    RandColorJitter,
    RandGaussianBlur,
    RandGrayscale,
    RandResizedCrop,
    TwoViewsd,
    mr_views,
    rgb_views,
)
from medssl_monai.transforms.batched.colour import _all_alike, _each_its_own
from medssl_monai.transforms.batched.draws import Draws, normal_field
from medssl_monai.transforms.batched.geometry import resize_boxes
from medssl_monai.transforms.batched.operation import BatchedOperation
from medssl_monai.transforms.color import OPERATIONS
from medssl_monai.transforms.crop import resize

N = 12
KNOWN = [[0.34369896609690564, 0.6420151076184941], [0.766606161642878, 0.8292569111038337]]
KNOWN_FIELD = [0.5297366976737976, 0.3899465799331665, -0.4155401289463043, 0.06888260692358017]


def pictures(n=N, channels=1, height=40, width=40, dtype=torch.float32):
    """Smooth pictures with some noise, so that neither interpolation nor order of steps goes unnoticed."""
    generator = torch.Generator().manual_seed(n * channels + height)
    rough = torch.rand(n, channels, height, width, generator=generator, dtype=torch.float64)
    smooth = torch.nn.functional.interpolate(rough[..., ::5, ::5], (height, width), mode="bicubic")
    return (0.7 * smooth + 0.3 * rough).clamp(0, 1).to(dtype)


def batch(images, first=0):
    return {"image": images, "index": torch.arange(first, first + len(images))}


def set_parameters(step, params, i):
    """Give an array transform the parameters that image ``i`` of a batch was given."""
    step._do_transform = bool(params["on"][i]) if "on" in params else True
    if isinstance(step, RandResizedCrop):
        step.box = tuple(params["box"][i].tolist())
    elif isinstance(step, RandGaussianBlur):
        step.drawn_sigma = float(params["sigma"][i])
    elif isinstance(step, RandRotate):
        step.x = float(params["angle"][i])
    elif isinstance(step, RandCoarseDropout):
        step.hole_coords = [
            (slice(None), slice(t, t + h), slice(w, w + v)) for t, w, h, v in params["holes"][i].tolist() if h
        ]
    elif isinstance(step, RandColorJitter):
        chosen = zip(params["order"][i].tolist(), params["factor"][i].tolist(), strict=True)
        step.operations = [(OPERATIONS[place], factor) for place, factor in chosen]


def one_by_one(chain, images, params):
    """The array transforms with the batch's parameters, image by image; noise is the batch's own."""
    results = []
    for i, image in enumerate(images):
        view = image.clone()
        for step, own in zip(chain.transforms, params, strict=True):
            if isinstance(step, RandGaussianNoise):
                step._do_transform = bool(own["on"][i]) if "on" in own else True
                field = normal_field(own["key"][i : i + 1], tuple(view.shape))[0]
                step.noise = (float(own["std"][i]) * field + step.mean).numpy()
                view = step(view, randomize=False)
            elif isinstance(step, ScaleIntensityRange):
                view = step(view)
            else:
                set_parameters(step, own, i)
                view = step(view, randomize=False)
        results.append(torch.as_tensor(view))
    return torch.stack(results)


CHAINS = {
    "mr": (mr_views((28, 36)), 1),
    "mr, three channels": (mr_views(32), 3),
    "mr, half of everything": (
        mr_views(24, blur_prob=0.5, rotation_prob=0.5, cutout_prob=0.5, jitter_prob=0.5, noise_prob=0.5, clip=False),
        1,
    ),
    "rgb": (rgb_views((28, 36)), 3),
    "rgb, wide blur, both axes": (rgb_views(32, blur_kernel=13, flip_axes=(0, 1), jitter_prob=1.0, blur_prob=1), 3),
    "rgb chain, one channel": (rgb_views(32), 1),
    "crop of a part": (Compose([RandResizedCrop(20, prob=0.5)]), 1),
    "flip of all axes": (Compose([RandFlip(0.5)]), 2),
    "border": (Compose([RandRotate((0.1, 2.0), prob=1.0, padding_mode="border")]), 2),
    "grey holes": (Compose([RandCoarseDropout(2, 9, fill_value=0.5, max_holes=5, prob=0.7)]), 2),
    "holes of a side": (Compose([RandCoarseDropout(1, (4, -1), fill_value=0, prob=1.0)]), 1),
    "holes larger than the image": (Compose([RandCoarseDropout(1, (99, 3), fill_value=0, prob=1.0)]), 1),
    "drawn deviation": (Compose([RandGaussianNoise(1.0, mean=0.2, std=0.3)]), 1),
    "range": (Compose([ScaleIntensityRange(0.1, 0.9, -1.0, 1.0, clip=True)]), 1),
    "range, not clipped": (Compose([ScaleIntensityRange(0.1, 0.9, 3.0, 4.0)]), 1),
    "grey": (Compose([RandGrayscale(0.5)]), 3),
    "hue only": (Compose([RandColorJitter(0, 0, 0, 0.5, prob=1.0)]), 3),
}


class TestEqualToTheArrayTransforms:
    """For the same parameters, image by image.

    The steps are linear or Lipschitz with small constants, each computed in float32 in another order of operations;
    the interpolation weights of a rotation are differences of coordinates up to 40, whose float32 rounding is 4e-6.
    """

    @pytest.mark.parametrize("name", CHAINS)
    def test_same_parameters_same_image(self, name):
        chain, channels = CHAINS[name]
        images = pictures(channels=channels)
        views = BatchedViews(chain, seed=3)
        for view in (0, 1):
            params = views.draw(images, torch.arange(N), 5, view)
            result = views.apply(images, params)
            expected = one_by_one(chain, images, params)
            assert result.shape == expected.shape
            torch.testing.assert_close(result, expected, rtol=0, atol=3e-5)

    def equals_one_by_one(self, name):
        chain, channels = CHAINS[name]
        images = pictures(channels=channels)
        views = BatchedViews(chain, seed=3)
        params = views.draw(images, torch.arange(N), 5, 0)
        expected = one_by_one(chain, images, params)
        torch.testing.assert_close(views.apply(images, params), expected, rtol=0, atol=3e-5)

    @pytest.mark.parametrize("name", CHAINS)
    def test_the_path_of_other_devices(self, name, monkeypatch):
        """What a GPU computes, which asks no device which image needs what, computed here."""
        monkeypatch.setattr(BatchedOperation, "selects", staticmethod(lambda images: False))
        self.equals_one_by_one(name)

    @pytest.mark.parametrize("name", CHAINS)
    def test_the_path_of_large_images(self, name, monkeypatch):
        """One image at a time, and the blur by shifted memory."""
        monkeypatch.setattr("medssl_monai.transforms.batched.operation._LARGE", 1)
        self.equals_one_by_one(name)

    def test_chain_shrinks_with_antialiasing(self):
        chain = mr_views(16)
        images = pictures(4, 1, 90, 70)
        views = BatchedViews(chain)
        params = views.draw(images, torch.arange(4), 0, 0)
        torch.testing.assert_close(views.apply(images, params), one_by_one(chain, images, params), rtol=0, atol=3e-5)

    @pytest.mark.parametrize("size", [(16, 20), (41, 33), (64, 70), (7, 2)])
    def test_resizing_by_matrices_equals_torchs(self, size):
        """The path of devices other than the CPU."""
        images = pictures(5, 2, 41, 33, torch.float64)
        box = torch.tensor([[0, 0, 41, 33], [3, 5, 20, 28], [40, 32, 1, 1], [7, 0, 2, 33], [10, 10, 11, 13]])
        expected = [resize(x[:, t : t + h, w : w + v], size, "bilinear") for x, (t, w, h, v) in zip(images, box)]
        torch.testing.assert_close(resize_boxes(images, box, size), torch.stack(expected), rtol=0, atol=1e-12)

    def test_jitter_without_asking_the_device_equals_the_grouped_one(self):
        images = pictures(40, 3, 9, 9, torch.float64)
        operation = torch.arange(40) % 4
        factor = torch.linspace(0.2, 1.8, 40, dtype=torch.float64)
        torch.testing.assert_close(
            _all_alike(images.clone(), operation, factor, True),
            _each_its_own(images.clone(), operation, factor),
            rtol=0,
            atol=1e-12,
        )

    @pytest.mark.parametrize("chain", [mr_views(24), rgb_views(24, blur_kernel=9)])
    def test_float64_and_half_precision(self, chain):
        images = pictures(6, 3, dtype=torch.float64)
        exact = BatchedViews(chain)(batch(images), 1)["view1"]
        assert exact.dtype == torch.float64
        single = BatchedViews(chain)(batch(images.float()), 1)["view1"]
        torch.testing.assert_close(single.double(), exact, rtol=0, atol=3e-5)
        half = BatchedViews(chain)(batch(images.bfloat16()), 1)["view1"]
        assert half.dtype == torch.bfloat16
        # the images lose what bfloat16 loses (2^-9), jitter multiplies it by at most 1.8 twice
        torch.testing.assert_close(half.double(), exact, rtol=0, atol=0.02)


class TestDistribution:
    """What the batch draws against what the array transforms draw, and against the law itself."""

    COUNT = 4000

    def draws(self, chain, channels=1, height=40, width=60):
        images = torch.zeros(1, channels, height, width).expand(self.COUNT, -1, -1, -1)
        return BatchedViews(chain, seed=1).draw(images, torch.arange(self.COUNT), 2, 1)

    @pytest.mark.parametrize("settings", [{}, {"scale": (0.9, 1.0), "ratio": (0.5, 0.7)}, {"prob": 0.3}])
    def test_boxes(self, settings):
        """The second never fits a wide image, and takes the centred box."""
        crop = RandResizedCrop(8, **settings).set_random_state(seed=0)
        box = self.draws(Compose([crop]))[0]["box"].numpy()
        expected = []
        for _ in range(self.COUNT):
            crop.randomize((40, 60))
            expected.append(crop.box)
        for mine, theirs in zip(box.T, np.array(expected).T, strict=True):
            assert stats.ks_2samp(mine, theirs).pvalue > 1e-3
        top, left, height, width = box.T
        assert ((top >= 0) & (left >= 0) & (top + height <= 40) & (left + width <= 60)).all()

    def test_mr_parameters_follow_their_laws(self):
        crop, blur, rotation, holes, jitter, noise, _ = self.draws(mr_views(32))
        assert set(crop) == {"box"}
        for values, low, high in [
            (blur["sigma"], 0.1, 2.0),
            (rotation["angle"], -math.pi / 6, math.pi / 6),
            (jitter["factor"][:, 0], 0.8, 1.2),
            (jitter["factor"][:, 1], 0.8, 1.2),
        ]:
            assert stats.kstest(values.numpy(), stats.uniform(low, high - low).cdf).pvalue > 1e-3
        there = holes["holes"][..., 2].numpy() == 8
        assert stats.chisquare(np.bincount(there.sum(1), minlength=5)[1:]).pvalue > 1e-3
        for axis in (0, 1):
            corner = holes["holes"][..., axis].numpy()[there]
            assert stats.chisquare(np.bincount(corner, minlength=25)).pvalue > 1e-3
        first = jitter["order"][:, 0].numpy()
        assert stats.binomtest(int((first == 0).sum()), self.COUNT).pvalue > 1e-3
        assert (noise["std"] == 0.1).all()

    def test_parameters_are_independent_of_each_other(self):
        crop, blur, rotation, _, jitter, _, _ = self.draws(mr_views(32))
        columns = [
            *crop["box"].T.double(),
            blur["sigma"],
            rotation["angle"],
            *jitter["factor"].T,
            torch.arange(self.COUNT).double(),
        ]
        correlation = torch.corrcoef(torch.stack(list(columns)))
        correlation[:4, :4] = 0  # a box's sides and position do depend on each other
        assert (correlation.fill_diagonal_(0).abs() < 4.5 / math.sqrt(self.COUNT)).all()

    def test_rgb_parameters_follow_their_laws(self):
        _, flip, jitter, gray, blur = self.draws(rgb_views(32), channels=3)
        for on, prob in [(flip["on"], 0.5), (jitter["on"], 0.8), (gray["on"], 0.2), (blur["on"], 0.5)]:
            assert stats.binomtest(int(on.sum()), self.COUNT, prob).pvalue > 1e-3
        code = (jitter["order"] * torch.tensor([64, 16, 4, 1])).sum(1).numpy()
        assert stats.chisquare(np.unique(code, return_counts=True)[1]).pvalue > 1e-3
        assert len(np.unique(code)) == 24
        hue = jitter["factor"][jitter["order"] == 3].numpy()
        assert stats.kstest(hue, stats.uniform(-0.2, 0.4).cdf).pvalue > 1e-3

    @pytest.mark.parametrize(("chain", "channels"), [(mr_views(16), 1), (rgb_views(16), 3)])
    def test_views_have_the_moments_and_quantiles_of_monais(self, chain, channels):
        """Of one image, over many draws: mean, deviation and quantiles of a view, and the middle pixel."""
        count = 400
        image = pictures(1, channels, 32, 32)[0]
        theirs = TwoViewsd("image", chain)
        theirs.set_random_state(seed=0)
        drawn = torch.stack([torch.as_tensor(theirs({"image": image})["view1"]) for _ in range(count)])
        mine = BatchedViews(chain)(batch(image.expand(count, -1, -1, -1)), 0)["view1"]
        levels = torch.tensor([0.1, 0.5, 0.9])
        for measure in (
            lambda v: v.mean(dim=(1, 2, 3)),
            lambda v: v.std(dim=(1, 2, 3)),
            lambda v: v[:, 0, 8, 8],
            lambda v: v[:, -1, 1, 1],
            lambda v: (v[:, 0, 1:] - v[:, 0, :-1]).abs().mean(dim=(1, 2)),
            *(lambda v, q=q: v.flatten(1).quantile(levels[q], dim=1) for q in range(3)),
        ):
            assert stats.ks_2samp(measure(mine).numpy(), measure(drawn).numpy()).pvalue > 1e-3


class TestStateless:
    """A view is a function of seed, epoch, sample and view only."""

    @pytest.mark.parametrize(("chain", "channels"), [(mr_views(24), 1), (rgb_views(24), 3)])
    def test_batches_do_not_matter(self, chain, channels, monkeypatch):
        images = pictures(N, channels)
        views = BatchedViews(chain, seed=7)
        whole = views(batch(images), 4)
        order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
        for part in order.split(5):
            some = views({"image": images[part], "index": part}, 4)
            for name in ("view1", "view2"):
                torch.testing.assert_close(some[name], whole[name][part], rtol=0, atol=1e-6)
        monkeypatch.setattr("medssl_monai.transforms.batched.views._CHUNK", 1)
        torch.testing.assert_close(views(batch(images), 4)["view1"], whole["view1"], rtol=0, atol=1e-6)

    def test_seed_epoch_index_and_view_all_matter(self):
        images = pictures(1).expand(N, -1, -1, -1)
        views = BatchedViews(mr_views(24), seed=0)
        first = views(batch(images), 0)
        others = [
            views(batch(images), 1),
            views(batch(images, first=N), 0),
            BatchedViews(mr_views(24), seed=1)(batch(images), 0),
        ]
        made = [v for b in (first, *others) for name in ("view1", "view2") for v in b[name]]
        assert len({v.numpy().tobytes() for v in made}) == 8 * N
        again = views(batch(images), 0)
        assert torch.equal(again["view2"], first["view2"])

    def test_global_random_state_is_neither_used_nor_moved(self):
        views, state = BatchedViews(mr_views(24)), torch.random.get_rng_state()
        first = views(batch(pictures()), 0)["view1"]
        assert torch.equal(torch.random.get_rng_state(), state)
        torch.manual_seed(99)
        assert torch.equal(views(batch(pictures()), 0)["view1"], first)

    def test_known_numbers(self):
        """Pinned: a changed hash would change every run that is resumed."""
        numbers = Draws(torch.tensor([0, 5]), 1, 2, 0, "view").uniform("0:box", 2)
        expected = torch.tensor(KNOWN, dtype=torch.float64)
        torch.testing.assert_close(numbers, expected, rtol=0, atol=1e-12)
        field = normal_field(Draws(torch.tensor([3]), 1).key("noise"), (2, 2))
        torch.testing.assert_close(field, torch.tensor(KNOWN_FIELD).view(1, 2, 2), rtol=0, atol=1e-5)

    def test_uniform_numbers_are_uniform_and_uncorrelated(self):
        numbers = Draws(torch.arange(3000), 0, 0).uniform("x", 6).numpy()
        assert stats.kstest(numbers.ravel(), "uniform").pvalue > 1e-3
        correlation = np.corrcoef(np.concatenate([numbers[:-1], numbers[1:]], axis=1).T)
        np.fill_diagonal(correlation, 0)
        assert np.abs(correlation).max() < 4.5 / math.sqrt(3000)

    def test_noise_is_normal_and_white(self):
        """Law, and no correlation between neighbours, between the halves of one hash, or between samples."""
        field = normal_field(Draws(torch.arange(8), 0).key("noise"), (1, 128, 128)).numpy()
        assert field.mean() == pytest.approx(0, abs=4 / math.sqrt(field.size))
        assert field.var() == pytest.approx(1, abs=6 / math.sqrt(field.size))
        for one in field:
            assert stats.kstest(one.ravel(), "norm").pvalue > 1e-3
        limit = 4.5 / math.sqrt(128 * 128)
        spectrum = np.fft.ifft2(np.abs(np.fft.fft2(field[:, 0])) ** 2).real / (128 * 128)
        assert np.abs(spectrum.reshape(8, -1)[:, 1:]).max() < 6.0 / 128
        between = np.corrcoef(field.reshape(8, -1)) - np.eye(8)
        assert np.abs(between).max() < limit
        assert np.abs(np.corrcoef(np.abs(field.reshape(8, -1))) - np.eye(8)).max() < limit

    def test_odd_number_of_values(self):
        key = Draws(torch.arange(2), 0).key("noise")
        assert torch.equal(normal_field(key, (3, 3)).flatten(1), normal_field(key, (10,))[:, :9])


class TestBatch:
    def test_the_rest_of_the_batch_and_the_images_stay(self):
        images = pictures(4)
        before = images.clone()
        given = {**batch(images), "label": torch.arange(4), "name": ["a", "b", "c", "d"]}
        result = BatchedViews(mr_views(16), names=("a1", "a2"))(given, 0)
        assert set(result) == {"index", "label", "name", "a1", "a2"}
        assert set(given) == {"image", "index", "label", "name"}
        assert torch.equal(images, before)
        assert "image" in BatchedViews(mr_views(16), drop=False)(given, 0)

    @pytest.mark.parametrize("name", CHAINS)
    def test_no_chain_writes_into_the_images(self, name):
        chain, channels = CHAINS[name]
        images = pictures(6, channels)
        before = images.clone()
        BatchedViews(chain)(batch(images), 0)
        assert torch.equal(images, before)

    @pytest.mark.parametrize("name", ["mr, three channels", "rgb", "border", "hue only"])
    def test_layout_of_the_memory_does_not_matter(self, name):
        """A trainer lays its batches out channels last."""
        chain, channels = CHAINS[name]
        images = pictures(6, channels)
        expected = BatchedViews(chain)(batch(images), 0)["view1"]
        result = BatchedViews(chain)(batch(images.to(memory_format=torch.channels_last)), 0)["view1"]
        torch.testing.assert_close(result, expected, rtol=0, atol=1e-5)

    def test_meta_tensors_autocast_and_gradients(self):
        images = pictures(4).requires_grad_()
        plain = BatchedViews(mr_views(16))(batch(images), 0)["view1"]
        assert not plain.requires_grad
        with torch.autocast("cpu", torch.bfloat16):
            result = BatchedViews(mr_views(16))(batch(MetaTensor(images.detach())), 0)["view1"]
        assert type(result) is torch.Tensor
        assert torch.equal(result, plain)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"image": None}, r"the batch has no 'image' \(it has \['index'\]\)"),
            ({"index": None}, "has no 'index' .*; set index_key='index' on the dataset"),
            (
                {"image": torch.zeros(4, 8, 8)},
                r"shape \(N, C, H, W\) in 'image', got torch.float32 of shape \(4, 8, 8\)",
            ),
            ({"image": torch.zeros(4, 1, 8, 8, dtype=torch.uint8)}, "needs floating images .* got torch.uint8"),
            ({"image": [torch.zeros(1, 8, 8)] * 4}, "got list"),
            (
                {"index": torch.arange(3)},
                r"an integer for each of the 4 images in 'index', got torch.int64 of shape \(3,\)",
            ),
            ({"index": torch.rand(4)}, "got torch.float32 of shape"),
        ],
    )
    def test_batches_that_will_not_do(self, change, message):
        given = {**batch(torch.rand(4, 1, 16, 16)), **change}
        with pytest.raises(ValueError, match=message):
            BatchedViews(mr_views(8))({key: value for key, value in given.items() if value is not None}, 0)

    @pytest.mark.parametrize(
        ("chain", "message"),
        [
            (
                Compose([RandAdjustContrast()]),
                "RandAdjustContrast has no batched form, only RandCoarseDropout, .* TwoViewsd",
            ),
            (Compose([RandResizedCrop(8, mode="bicubic")]), "mode='bicubic' has no batched form, it needs 'bilinear'"),
            (Compose([RandRotate(1.0, mode="nearest")]), "mode='nearest' has no batched form"),
            (Compose([RandRotate(1.0, padding_mode="reflection")]), "padding_mode='reflection' .* 'zeros' or 'border'"),
            (Compose([RandRotate(1.0, keep_size=False)]), "keep_size=False .* one size"),
            (Compose([RandFlip(0.5, 2)]), "spatial_axis=2 has no batched form, it needs 0, 1 or both"),
            (Compose([RandCoarseDropout(1, 3)]), "fill_value=None has no batched form, it needs one number"),
            (Compose([RandCoarseDropout(1, 3, False, 0)]), "dropout_holes=False"),
            (Compose([RandCoarseDropout(1, 3, fill_value=0, max_spatial_size=5)]), "max_spatial_size=5"),
            (Compose([ScaleIntensityRange(0, 1)]), "ScaleIntensityRange with b_min, b_max"),
            (Compose([]), "needs a Compose of array transforms, got Compose"),
            (RandFlip(), "needs a Compose of array transforms, got RandFlip"),
        ],
    )
    def test_chains_without_a_batched_form(self, chain, message):
        with pytest.raises(ValueError, match=message):
            BatchedViews(chain)

    @pytest.mark.parametrize("names", ["view1", ("a", "a"), ("a",)])
    def test_names(self, names):
        with pytest.raises(ValueError, match="two different names"):
            BatchedViews(mr_views(8), names=names)

    def test_views_too_small_for_the_blur(self):
        with pytest.raises(ValueError, match="23 taps needs images larger than 11 pixels, got 8 x 8"):
            BatchedViews(rgb_views(8, blur_kernel=23))(batch(torch.rand(2, 3, 16, 16)), 0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("chain", "channels"), [(mr_views(24), 1), (rgb_views(24), 3)])
def test_views_are_the_same_on_a_gpu(chain, channels):
    images = pictures(N, channels)
    views = BatchedViews(chain, seed=1)
    expected = views(batch(images), 3)["view2"]
    result = views({"image": images.cuda(), "index": torch.arange(N)}, 3)["view2"]
    torch.testing.assert_close(result.cpu(), expected, rtol=0, atol=1e-4)
