"""Superpixels against scikit-image's own functions, MONAI's masks, and hand-made slices."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import FillHoles, KeepLargestConnectedComponent
from skimage.measure import label as connected
from skimage.segmentation import felzenszwalb

from medssl_monai.transforms import Superpixels, Superpixelsd, body_mask


def abdomen(size=96, seed=0):
    """A body with organs of several intensities, air inside, and a bright speck outside."""
    y, x = np.mgrid[:size, :size] / size - 0.5
    image = 200.0 * ((x / 0.42) ** 2 + (y / 0.36) ** 2 < 1)
    for cx, cy, radius, value in (
        (-0.2, 0, 0.12, 500),
        (0.15, -0.1, 0.08, 350),
        (0.2, 0.12, 0.06, 700),
        (0, 0, 0.05, 0),
    ):
        image[(x - cx) ** 2 + (y - cy) ** 2 < radius**2] = value
    image[2:5, 2:5] = 900
    return image + np.random.default_rng(seed).normal(0, 8, image.shape).clip(-24, 24)


def test_equals_the_graph_cut_inside_the_body():
    image = abdomen()
    found = Superpixels(settings={"min_size": 60})(image[None])
    assert found.dtype == np.int32
    assert found.shape == (1, 96, 96)
    body = KeepLargestConnectedComponent(connectivity=1)(torch.from_numpy(image > 50)[None].float())
    body = FillHoles()(body)[0].numpy().astype(bool)
    np.testing.assert_array_equal(found[0] > 0, body)
    assert found[0, 3, 3] == 0  # the speck
    assert found[0, 48, 48] > 0  # the air inside is of the body
    regions = felzenszwalb(image, scale=1, sigma=1, min_size=60)
    numbers = {}
    for region in np.unique(regions[body]):
        values = np.unique(found[0][body & (regions == region)])
        assert len(values) == 1
        numbers[int(region)] = int(values[0])
    assert sorted(numbers.values()) == list(range(1, len(numbers) + 1))
    assert [numbers[region] for region in sorted(numbers)] == sorted(numbers.values())
    assert len(numbers) > 5


def test_the_defaults_are_those_of_the_reference():
    image = abdomen(192)
    expected = felzenszwalb(image, scale=1, sigma=1, min_size=400)
    found = Superpixels()(image[None])[0]
    inside = found > 0
    pairs = {(int(a), int(b)) for a, b in zip(found[inside], expected[inside])}
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})


def test_slic_gives_compact_regions_of_the_body():
    image = abdomen()
    found = Superpixels("slic", {"n_segments": 40})(image[None])[0]
    np.testing.assert_array_equal(found > 0, body_mask(image, 50))
    assert 20 <= found.max() <= 60
    assert sorted(np.unique(found)) == list(range(found.max() + 1))
    parts = connected(found, background=0, connectivity=1)
    assert parts.max() == found.max()  # each in one piece
    # another scale of the intensities, another threshold: the same regions
    np.testing.assert_array_equal(found, Superpixels("slic", {"n_segments": 40}, threshold=5)(image[None] / 10)[0])


def test_a_slice_without_a_body_has_none():
    assert not Superpixels()(np.full((1, 32, 32), 50.0)).any()
    assert Superpixels(threshold=49.9)(np.full((1, 32, 32), 50.0)).min() == 1
    assert not body_mask(np.zeros((4, 4)), 0).any()


def test_bodies_that_touch_by_a_corner_are_two():
    pixels = np.zeros((6, 6))
    pixels[:2, :2] = pixels[2:5, 2:5] = 100
    np.testing.assert_array_equal(
        body_mask(pixels, 50), (np.indices((6, 6)) >= 2).all(0) & (np.indices((6, 6)) < 5).all(0)
    )


@pytest.mark.parametrize("kind", [np.int16, np.uint16, np.float32])
def test_containers_and_types(kind):
    image = abdomen().clip(0).round()
    expected = Superpixels(settings={"min_size": 60})(image[None])
    make = Superpixelsd("image", "superpixels", settings={"min_size": 60})
    array = make({"image": image[None].astype(kind), "id": "a"})
    np.testing.assert_array_equal(array["superpixels"], expected)
    assert array["id"] == "a"
    assert array["image"].dtype == kind
    tensor = MetaTensor(torch.from_numpy(image[None]), affine=torch.diag(torch.tensor([2.0, 2, 5, 1])))
    found = Superpixelsd(["image"], settings={"min_size": 60})({"image": tensor})["image"]
    assert isinstance(found, MetaTensor)
    assert found.dtype == torch.int32
    torch.testing.assert_close(found.affine, tensor.affine)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("make", [Superpixels(settings={"min_size": 60}), Superpixels("slic", {"n_segments": 20})])
def test_a_volume_is_cut_slice_by_slice(make):
    slices = [abdomen(seed=0), np.zeros((96, 96)), abdomen(seed=2).T, abdomen(seed=3)[::-1]]
    volume = np.stack(slices, axis=-1)[None]
    found = make(volume)
    assert found.dtype == np.int32
    assert found.shape == (1, 96, 96, 4)
    for position, one in enumerate(slices):
        np.testing.assert_array_equal(found[..., position], make(np.ascontiguousarray(one)[None]))
    assert not found[..., 1].any()
    tensor = MetaTensor(torch.from_numpy(volume), affine=torch.diag(torch.tensor([2.0, 2, 5, 1])))
    from_tensor = make(tensor)
    assert isinstance(from_tensor, MetaTensor)
    torch.testing.assert_close(from_tensor.affine, tensor.affine)
    np.testing.assert_array_equal(from_tensor, found)


@pytest.mark.real
def test_of_unit_range_as_of_stored_intensities(real_data):
    """What the readings call scale 1 and body above 50 of stored intensities is a thousandth of both on [0, 1]."""
    stored = nibabel.load(real_data / "chaos_t2spir" / "image_3.nii.gz").get_fdata()[None, ..., 10:22:4].clip(max=1000)
    expected = Superpixels()(stored)
    found = Superpixels(settings={"scale": 0.001}, threshold=0.05)(stored / 1000)
    # sums of rounded numbers decide between equal costs, so that a pixel here and there may differ
    for a, b in zip(np.moveaxis(expected[0], -1, 0), np.moveaxis(found[0], -1, 0)):
        overlap = np.zeros((a.max() + 1, b.max() + 1))
        np.add.at(overlap, (a.ravel(), b.ravel()), 1)
        assert overlap.max(axis=1).sum() > 0.99 * a.size
        assert abs(int(a.max()) - int(b.max())) <= 1


@pytest.mark.real
def test_a_real_abdomen(real_data):
    volume = nibabel.load(real_data / "chaos_t2spir" / "image_1.nii.gz").get_fdata()
    organs = nibabel.load(real_data / "chaos_t2spir" / "label_1.nii.gz").get_fdata()
    for position in (12, 18, 24):
        found = Superpixels()(volume[None, ..., position])[0]
        assert 8 <= found.max() <= 60
        assert (found[organs[..., position] > 0] > 0).mean() > 0.99  # organs lie in the body
        assert 0.25 < (found > 0).mean() < 0.8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "watershed"}, "Superpixels: unknown method 'watershed'; expected one of felzenszwalb, slic"),
        ({"settings": {"minsize": 4}}, "felzenszwalb has no setting 'minsize'; .*min_size"),
        ({"settings": {"channel_axis": 0}}, "felzenszwalb has no setting 'channel_axis'"),
        ({"threshold": float("nan")}, "threshold must be a finite number, got nan"),
        ({"threshold": "50"}, "threshold must be a finite number, got '50'"),
    ],
)
def test_errors_of_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Superpixels(**arguments)


def test_errors_of_slices():
    wanted = r"Superpixels needs a slice \(1, H, W\) or a volume \(1, H, W, S\), got shape"
    for shape in ((3, 8, 8), (2, 8, 8, 4)):
        with pytest.raises(ValueError, match=rf"{wanted} \({str(shape)[1:-1]}\)"):
            Superpixels()(np.zeros(shape))
    with pytest.raises(ValueError, match=r"an image of shape \(C, H, W\) or \(C, H, W, S\), got shape \(8, 8\)"):
        Superpixels()(np.zeros((8, 8)))
    broken = np.ones((1, 8, 8))
    broken[0, 0, :2] = np.nan
    with pytest.raises(ValueError, match="Superpixels: 2 pixels are not finite"):
        Superpixels()(broken)
    with pytest.raises(ValueError, match=r"Superpixels: 2 pixels are not finite in scan\.nii"):
        Superpixels()(MetaTensor(torch.from_numpy(broken)[..., None], meta={"filename_or_obj": "scan.nii"}))
    with pytest.raises(ValueError, match="2 label keys for 1 keys; expected one each"):
        Superpixelsd("image", ["a", "b"])
