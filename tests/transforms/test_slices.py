"""Slices of volumes: their axis, some of them, one of them; from mapped files too."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureTyped, LoadImaged, Resized, ScaleIntensityRangePercentilesd
from scipy import stats

from medssl_monai.core import find_slice_axis, seed_transform
from medssl_monai.data.exams import affine_plane
from medssl_monai.data.seeding import TransformSeeder
from medssl_monai.data.transform_key import transform_key
from medssl_monai.transforms import (
    RandSlice,
    RandSliced,
    SampleSlices,
    SampleSlicesd,
    SlicesFirst,
    SlicesFirstd,
    SlicesLast,
    SlicesLastd,
    normal_chances,
)


def ramp(*shape):
    """A volume whose every voxel is another number."""
    return torch.arange(float(np.prod(shape))).reshape(shape)


def oblique(spacing, seed=0):
    """An affine of a rotated scan with this spacing along the array's axes."""
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    affine = np.eye(4)
    affine[:3, :3] = rotation * np.array(spacing)
    affine[:3, 3] = [10.0, -20.0, 5.0]
    return affine


def place(affine, *index):
    return affine.numpy() @ np.array([*index, 1.0])


class TestMixedAxes:
    """Arrays that say nothing of their place: slices along another axis than expected are refused, nothing else is."""

    @pytest.mark.parametrize(
        ("shape", "fallback", "axis", "order"),
        [
            ((5, 9, 9), -1, 0, (2, 1, 0)), ((9, 5, 9), -1, 1, (0, 2, 1)), ((9, 9, 5), 0, 2, (2, 1, 0)),
            ((9, 5, 9), 0, 1, (1, 0, 2)),
        ],
    )  # fmt: skip
    def test_refused(self, shape: tuple[int, ...], fallback: int, axis: int, order: tuple[int, ...]) -> None:
        volume = torch.zeros(1, *shape)
        message = (
            rf"found shape \({shape[0]}, {shape[1]}, {shape[2]}\), its slices along axis {axis} by .*expected them "
            rf"along axis {fallback % 3}.*numpy\.transpose\(array, \({order[0]}, {order[1]}, {order[2]}\)\)"
        )
        for plain in (volume, volume.numpy(), MetaTensor(volume)):
            with pytest.raises(ValueError, match=message):
                SlicesLast(fallback)(plain)
        mended = torch.permute(volume[0], order)[None]
        assert SlicesLast(fallback)(mended).shape == (1, 9, 9, 5)

    @pytest.mark.parametrize("shape", [(9, 9, 5), (9, 9, 30), (9, 9, 9), (9, 7, 5), (5, 7, 9), (5, 9, 8), (9, 5, 5)])
    def test_taken(self, shape: tuple[int, ...]) -> None:
        assert SlicesLast()(torch.zeros(1, *shape)).shape == (1, *shape)

    def test_a_volume_that_knows_its_place_is_taken(self) -> None:
        """Isotropic voxels, the first axis the shortest: a brain from ear to ear."""
        volume = MetaTensor(torch.zeros(1, 5, 9, 9), affine=np.diag([-1.0, -1.0, 1.0, 1.0]))
        assert SlicesLast()(volume).shape == (1, 5, 9, 9)


class TestSlicesLast:
    @pytest.mark.parametrize(("spacing", "axis"), [((0.4, 0.4, 3.0), 2), ((3.0, 0.4, 0.5), 0), ((0.5, 4.0, 0.4), 1)])
    def test_axis_of_the_thick_slices_goes_last(self, spacing, axis):
        volume = MetaTensor(ramp(2, 3, 4, 5), affine=oblique(spacing))
        result = SlicesLast()(volume)
        others = [a for a in range(3) if a != axis]
        expected = np.moveaxis(volume.numpy(), 1 + axis, -1)
        np.testing.assert_array_equal(result.numpy(), expected)
        assert result.is_contiguous()
        # every voxel stays where it was in the patient
        index = (1, 2, 1)
        moved = [index[a] for a in (*others, axis)]
        np.testing.assert_allclose(place(result.affine, *moved), place(volume.affine, *index), atol=1e-5)
        assert volume.shape == (2, 3, 4, 5)

    @settings(max_examples=300, deadline=None)
    @given(
        spacing=st.lists(st.floats(0.2, 6.0), min_size=3, max_size=3),
        seed=st.integers(0, 10**6),
        signs=st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3),
    )
    @example(spacing=[0.5, 0.6, 0.5], seed=0, signs=(1.0, 1.0, 1.0))
    @example(spacing=[1.0, 0.9, 0.8], seed=0, signs=(1.0, 1.0, 1.0))
    @example(spacing=[0.7, 0.5, 0.6], seed=0, signs=(1.0, 1.0, 1.0))
    @example(spacing=[0.9, 0.6, 0.6], seed=0, signs=(1.0, 1.0, 1.0))
    def test_cuts_along_the_plane_that_an_exam_is_said_to_show(self, spacing, seed, signs):
        """The plane by which inference picks a series is the one whose slices the network sees."""
        affine = oblique(spacing, seed) @ np.diag([*signs, 1.0])
        cut = SlicesLast()(MetaTensor(ramp(1, 3, 4, 5), affine=affine))
        across = np.abs(np.cross(*cut.affine.numpy()[:3, :2].T))  # the slices' normal, without their axis
        assert affine_plane(affine) == ("sagittal", "coronal", "axial")[int(across.argmax())]

    @pytest.mark.parametrize(
        ("spacing", "axis"),
        [
            ((0.5, 0.6, 0.5), None), ((1.0, 0.9, 0.8), None), ((0.7, 0.5, 0.6), None), ((0.6, 0.89, 0.6), None),
            ((0.5, 0.6, 0.9), 2), ((0.9, 0.6, 0.6), 0), ((0.5, 0.95, 0.6), 1), ((1.0, 3.0, 2.1), None),
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("fallback", [0, 1, 2])
    def test_pixels_may_differ_a_little_and_slices_are_half_as_thick_again(self, spacing, axis, fallback):
        volume = MetaTensor(ramp(1, 3, 4, 5), affine=oblique(spacing))
        assert SlicesLast(fallback).slice_axis(volume) == (fallback if axis is None else axis)
        assert find_slice_axis(oblique(spacing), fallback) == (fallback if axis is None else axis)

    def test_another_rule_gives_saved_volumes_another_key(self, monkeypatch):
        before = transform_key([SlicesLastd("image")])
        assert before == transform_key([SlicesLastd("image")])
        monkeypatch.setattr("medssl_monai.core.slices._THICKER", 1.01)
        assert transform_key([SlicesLastd("image")]) != before

    def test_other_axes_keep_their_order(self):
        result = SlicesLast()(MetaTensor(ramp(1, 3, 4, 5), affine=np.diag([9.0, 1.0, 1.0, 1.0])))
        assert result.shape == (1, 4, 5, 3)

    @pytest.mark.parametrize(("fallback", "shape"), [(-1, (1, 3, 4, 5)), (0, (1, 4, 5, 3)), (1, (1, 3, 5, 4))])
    @pytest.mark.parametrize(
        "container",
        [
            lambda x: x,
            lambda x: x.numpy(),
            lambda x: MetaTensor(x),
            lambda x: MetaTensor(x, affine=oblique((3.0, 3.01, 0.4))),
        ],
    )
    def test_fallback_without_affine_or_with_two_thickest_axes(self, fallback, shape, container):
        volume = container(ramp(1, 3, 4, 5))
        result = SlicesLast(fallback)(volume)
        assert result.shape == shape
        assert type(result) is type(volume)
        np.testing.assert_array_equal(np.asarray(result), np.moveaxis(np.asarray(volume), 1 + fallback % 3, -1))

    def test_slices_first_then_last_is_the_volume(self):
        volume = MetaTensor(ramp(2, 3, 4, 5), affine=oblique((0.4, 0.4, 3.0)))
        first = SlicesFirst()(volume)
        assert first.shape == (2, 5, 3, 4)
        np.testing.assert_array_equal(first.numpy(), np.moveaxis(volume.numpy(), -1, 1))
        np.testing.assert_allclose(place(first.affine, 4, 1, 2), place(volume.affine, 1, 2, 4), atol=1e-5)
        back = SlicesLast()(first)
        assert torch.equal(back.as_tensor(), volume.as_tensor())
        np.testing.assert_allclose(back.affine.numpy(), volume.affine.numpy())

    def test_dictionary_forms_go_by_each_keys_affine(self):
        item = {
            "sagittal": MetaTensor(ramp(1, 2, 4, 4), affine=np.diag([3.0, 0.5, 0.5, 1.0])),
            "axial": MetaTensor(ramp(1, 4, 4, 2), affine=np.diag([0.5, 0.5, 3.0, 1.0])),
            "other": 1,
        }
        result = Compose([SlicesLastd(["sagittal", "axial"]), SlicesFirstd("axial")])(item)
        assert result["sagittal"].shape == (1, 4, 4, 2)
        assert result["axial"].shape == (1, 2, 4, 4)
        assert SlicesLastd(["gone"], allow_missing_keys=True)(item)["other"] == 1

    def test_what_is_no_volume(self):
        with pytest.raises(ValueError, match=r"fallback_axis must lie in -3\.\.2, got 3"):
            SlicesLast(3)
        with pytest.raises(ValueError, match=r"\(C, H, W, S\), not empty, got shape \(3, 4, 5\).* EnsureChannelFirst"):
            SlicesLast()(torch.zeros(3, 4, 5))
        with pytest.raises(ValueError, match=r"got shape \(1, 3, 0, 5\)"):
            SlicesFirst()(torch.zeros(1, 3, 0, 5))
        with pytest.raises(ValueError, match="SlicesFirst needs a NumPy array or torch tensor, got list"):
            SlicesFirst()([1])
        with pytest.raises(ValueError, match=r"got shape \(2, 2\) in knee.nii"):
            SlicesLast()(MetaTensor(torch.zeros(2, 2), meta={"filename_or_obj": "knee.nii"}))


class TestRandSlice:
    def test_every_slice_is_as_likely(self):
        transform = RandSlice().set_random_state(seed=0)
        volume = ramp(1, 2, 2, 6)
        drawn = Counter(float(transform(volume)[0, 0, 0]) for _ in range(3000))
        assert sorted(drawn) == [0, 1, 2, 3, 4, 5]
        assert stats.chisquare(list(drawn.values())).pvalue > 1e-3

    @pytest.mark.parametrize("axis", [-1, 3, 1, 2, -3])
    @pytest.mark.parametrize("container", [lambda x: x, lambda x: x.numpy().astype(np.uint16), MetaTensor])
    def test_is_a_copy_of_the_slice(self, axis, container):
        volume = container(ramp(2, 3, 4, 5))
        transform = RandSlice(axis).set_random_state(seed=1)
        result = transform(volume)
        expected = np.take(np.asarray(volume), transform.position, axis=axis)
        np.testing.assert_array_equal(np.asarray(result), expected)
        assert type(result) is type(volume)
        assert result.dtype == volume.dtype
        result[:] = 0
        assert np.asarray(volume).sum() == np.arange(120).sum()
        again = transform(volume, randomize=False)
        np.testing.assert_array_equal(np.asarray(again), expected)

    @pytest.mark.parametrize(("axis", "order"), [(-1, (0, 1)), (1, (1, 2)), (2, (0, 2))])
    def test_affine_is_that_of_the_slice(self, axis, order):
        volume = MetaTensor(ramp(1, 6, 7, 8), affine=oblique((0.4, 0.5, 3.0)))
        transform = RandSlice(axis).set_random_state(seed=2)
        result = transform(volume)
        index = [0, 0, 0]
        index[axis % 4 - 1] = transform.position
        index[order[0]], index[order[1]] = 2, 3
        np.testing.assert_allclose(place(result.affine, 2, 3, 0), place(volume.affine, *index), atol=1e-5)

    def test_dictionary_form_takes_one_slice_of_all_keys(self):
        item = {"image": ramp(1, 3, 3, 9), "mask": ramp(1, 3, 3, 9) * 2}
        result = RandSliced(["image", "mask"]).set_random_state(seed=0)(item)
        assert torch.equal(result["mask"], 2 * result["image"])
        with pytest.raises(ValueError, match="'image' has 9 and 'mask' has 5; give each its own transform"):
            RandSliced(["image", "mask"])({"image": ramp(1, 3, 3, 9), "mask": ramp(1, 3, 3, 5)})

    def test_axis_of_the_channels(self):
        with pytest.raises(
            ValueError, match=r"slice_axis must be an axis of \(C, H, W, S\) behind the channels, got 0"
        ):
            RandSlice(0)


class TestSampleSlices:
    @settings(max_examples=60, deadline=None)
    @given(st.integers(1, 40), st.integers(1, 20), st.sampled_from(["random", "normal"]), st.integers(0, 10**6))
    def test_sorted_and_as_distinct_as_the_volume_allows(self, depth, asked, mode, seed):
        transform = SampleSlices(asked, mode).set_random_state(seed=seed)
        volume = ramp(1, 2, 3, depth)
        result = transform(volume)
        assert result.shape == (1, 2, 3, asked)
        positions = transform.positions
        assert positions == sorted(positions)
        np.testing.assert_array_equal(result.numpy(), volume.numpy()[..., positions])
        times = np.bincount(positions, minlength=depth)
        assert times.max() - times.min() <= 1
        assert len(times) == depth

    def test_random_slices_are_uniform(self):
        transform = SampleSlices(4).set_random_state(seed=0)
        drawn = []
        for _ in range(3000):
            transform.randomize(10)
            drawn += transform.positions
        share = np.bincount(drawn, minlength=10) / len(drawn)
        np.testing.assert_allclose(share, 0.1, atol=0.01)

    @pytest.mark.parametrize("depth", [1, 2, 7, 32])
    def test_chances_are_those_of_rounded_and_clipped_normal_numbers(self, depth):
        drawn = np.random.default_rng(0).normal(depth / 2, depth / 4, 200_000)
        share = np.bincount(np.clip(np.round(drawn), 0, depth - 1).astype(int), minlength=depth) / len(drawn)
        np.testing.assert_allclose(normal_chances(depth), share, atol=0.005)
        assert normal_chances(depth).sum() == pytest.approx(1)

    def test_normal_slices_are_drawn_again_until_distinct(self):
        """The shares of the positions are those of a loop that redraws."""
        random, loop = np.random.default_rng(0), []
        for _ in range(3000):
            chosen: set[int] = set()
            while len(chosen) < 5:
                chosen.add(int(np.clip(np.round(random.normal(6, 3)), 0, 11)))
            loop += sorted(chosen)
        transform, drawn = SampleSlices(5, "normal").set_random_state(seed=0), []
        for _ in range(3000):
            transform.randomize(12)
            drawn += transform.positions
        table = np.stack([np.bincount(loop, minlength=12), np.bincount(drawn, minlength=12)])
        np.testing.assert_allclose(table[0] / 15000, table[1] / 15000, atol=0.012)
        assert table[1][5] > 1.5 * table[1][1]

    @pytest.mark.parametrize("container", [lambda x: x.numpy().astype(np.uint16), lambda x: x])
    def test_slices_first_and_containers(self, container):
        volume = container(ramp(2, 8, 3, 4))
        transform = SampleSlices(3, slice_axis=1).set_random_state(seed=0)
        result = transform(volume)
        expected = np.moveaxis(np.asarray(volume)[:, transform.positions], 1, -1)
        np.testing.assert_array_equal(np.asarray(result), expected)
        assert result.shape == (2, 3, 4, 3)
        assert result.dtype == volume.dtype
        assert type(result) is type(volume)

    @pytest.mark.parametrize("axis", [-1, 1])
    def test_affine_begins_at_the_first_slice(self, axis):
        volume = MetaTensor(ramp(1, 30, 4, 30), affine=oblique((0.4, 0.4, 3.0)))
        transform = SampleSlices(5, slice_axis=axis).set_random_state(seed=4)
        result = transform(volume)
        assert transform.positions[0] > 0
        first = transform.positions[0]
        expected = place(volume.affine, *((1, 2, first) if axis == -1 else (first, 1, 2)))
        np.testing.assert_allclose(place(result.affine, 1, 2, 0), expected, atol=1e-5)

    def test_seeding_is_monais(self):
        item = {"image": ramp(1, 2, 2, 30)}
        chain = Compose([SampleSlicesd("image", 6, "normal"), RandSliced("image")])
        seed_transform(chain, 1, 2)
        expected = chain(item)["image"]
        assert torch.equal(seeded(chain, 1, 2)(item)["image"], expected)
        others = {float(seeded(chain, 1, k)(item)["image"][0, 0, 0]) for k in range(20)}
        assert len(others) > 5

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"num_slices": 0}, "num_slices must be at least 1, got 0"),
            ({"mode": "gauss"}, "mode must be one of random, normal, got 'gauss'"),
            ({"slice_axis": 4}, "behind the channels, got 4"),
        ],
    )
    def test_settings_that_cannot_be(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            SampleSlices(**arguments)


def seeded(chain, *parts):
    TransformSeeder(chain)(*parts)
    return chain


def test_a_mapped_stack_is_not_copied_whole(tmp_path):
    """A read-only map larger than what is copied: only the slice's bytes become memory of its own."""
    np.save(tmp_path / "volume.npy", np.arange(1 * 20 * 8 * 9, dtype=np.uint16).reshape(1, 20, 8, 9))
    mapped = np.load(tmp_path / "volume.npy", mmap_mode="r")
    transform = RandSlice(1).set_random_state(seed=0)
    result = transform(mapped)
    assert type(result) is np.ndarray
    assert result.base is None or result.base.nbytes == 144
    np.testing.assert_array_equal(result, np.asarray(mapped)[:, transform.position])


def test_volumes_of_any_format_reach_the_network_alike(tmp_path):
    """A NumPy stack with slices first and a NIfTI-like volume: same axes, in-plane size, and range."""
    stack = np.random.default_rng(0).gamma(2.0, 100.0, size=(7, 20, 30)).astype(np.float32)
    stack[0, 0, 0] = 1e6  # one hot voxel must not set the range
    np.save(tmp_path / "stack.npy", stack)
    chain = Compose(
        [
            LoadImaged("image", ensure_channel_first=False),
            lambda item: {"image": item["image"][None]},
            EnsureTyped("image", track_meta=True),
            SlicesLastd("image", fallback_axis=0),
            ScaleIntensityRangePercentilesd("image", 0.5, 99.5, 0.0, 1.0, clip=True),
            Resized("image", (16, 16, -1)),
        ]
    )
    result = chain({"image": str(tmp_path / "stack.npy")})["image"]
    assert result.shape == (1, 16, 16, 7)
    low, high = np.percentile(stack, [0.5, 99.5])
    assert 0.0 <= float(result.min()) < float(result.max()) <= 1.0
    expected = np.clip((stack - low) / (high - low), 0, 1).mean()
    assert float(result.mean()) == pytest.approx(expected, abs=0.02)
