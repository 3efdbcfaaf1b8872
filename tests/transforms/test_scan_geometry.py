"""Scans on grids of every kind against the scene they show, in world coordinates, and back again."""

from __future__ import annotations

import math

import nibabel
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureChannelFirstd, Invertd, LoadImaged

from medssl_monai.data.readers import MedicalImageReader
from medssl_monai.transforms import CheckScand, ScanSpacingd, scan_transforms


def rotation(degrees):
    a, b, c = np.radians(degrees)
    x = [[1, 0, 0], [0, math.cos(a), -math.sin(a)], [0, math.sin(a), math.cos(a)]]
    y = [[math.cos(b), 0, math.sin(b)], [0, 1, 0], [-math.sin(b), 0, math.cos(b)]]
    z = [[math.cos(c), -math.sin(c), 0], [math.sin(c), math.cos(c), 0], [0, 0, 1]]
    return np.array(x) @ np.array(y) @ np.array(z)


def grid(spacing, shape, axes=((1, 0, 0), (0, 1, 0), (0, 0, 1)), turn=(0, 0, 0), centre=(12.0, -30.0, 45.0)):
    """An affine whose volume has its middle at ``centre``."""
    affine = np.eye(4)
    affine[:3, :3] = rotation(turn) @ np.asarray(axes, float) @ np.diag(spacing)
    affine[:3, 3] = np.array(centre) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


def world(affine, shape):
    places = np.moveaxis(np.indices(shape), 0, -1).reshape(-1, 3)
    return (places @ affine[:3, :3].T + affine[:3, 3]).reshape(*shape, 3)


def scene(points):
    """A smooth scene without symmetry (0..100), and an organ of it."""
    x, y, z = np.moveaxis(points - np.array([12.0, -30.0, 45.0]), -1, 0)
    value = 50 + 30 * np.sin(x / 25) + 15 * np.cos(y / 18 + 0.5) * np.exp(-((z / 60) ** 2)) + 5 * z / 60
    organ = ((x - 15) / 22) ** 2 + ((y + 8) / 16) ** 2 + ((z - 4) / 26) ** 2 < 1
    return value, organ.astype(np.float32) * 3


FLIP = np.diag([-1.0, -1.0, 1.0])  # LPS
GRIDS = {
    "RAS": ((1.6, 1.6, 6.0), (64, 60, 18), np.eye(3), (0, 0, 0)),
    "LPS": ((1.6, 1.6, 6.0), (64, 60, 18), FLIP, (0, 0, 0)),
    "feet last": ((1.6, 1.6, 6.0), (64, 60, 18), np.diag([1.0, -1.0, -1.0]), (0, 0, 0)),
    "oblique": ((1.5, 1.7, 5.0), (66, 60, 20), FLIP, (8, -6, 11)),
    "coronal": ((1.6, 1.6, 3.0), (64, 68, 36), np.array([[1.0, 0, 0], [0, 0, 1], [0, 1, 0]]), (0, 0, 0)),
    "sagittal": ((1.6, 1.6, 3.0), (60, 68, 36), np.array([[0, 0, -1.0], [-1, 0, 0], [0, 1, 0]]), (0, 0, 0)),
}


def loaded(name, tmp_path=None):
    spacing, shape, axes, turn = GRIDS[name]
    affine = grid(spacing, shape, axes, turn)
    image, organ = scene(world(affine, shape))
    image, organ = (MetaTensor(torch.from_numpy(a[None]).float(), affine=affine) for a in (image, organ))
    return {"image": image, "label": organ, "image_path": "a text"}


SETTINGS = {"modality": "ct", "window": (0, 100), "image_size": 48, "field_of_view": 96.0, "slice_spacing": 5.0}


@pytest.mark.parametrize("name", GRIDS)
def test_every_grid_shows_the_scene_at_its_place(name):
    found = Compose(scan_transforms("image", "label", **SETTINGS))(loaded(name))
    image, label = found["image"], found["label"]
    assert image.shape[:3] == (1, 48, 48)
    assert image.shape == label.shape
    assert image.dtype == torch.float32
    assert found["image_path"] == "a text"
    affine = image.affine.numpy()
    np.testing.assert_allclose(np.linalg.norm(affine[:3, :3], axis=0), (2, 2, 5), rtol=1e-6)
    assert (np.diag(affine[:3, :3]) > 0.95 * np.array([2, 2, 5])).all()  # right, front and head upwards
    np.testing.assert_allclose(label.affine.numpy(), affine)
    points = world(affine, tuple(image.shape[1:]))
    expected, organ = scene(points)
    # in the part that the scan holds, a voxel away from its ends
    spacing, shape, axes, turn = GRIDS[name]
    inverse = np.linalg.inv(grid(spacing, shape, axes, turn))
    place = points @ inverse[:3, :3].T + inverse[:3, 3]
    inside = ((place > 1) & (place < np.array(shape) - 2)).all(axis=-1)
    assert inside.mean() > 0.5
    assert np.abs(image[0].numpy() - expected / 100)[inside].max() < 0.02  # of the linear interpolation
    assert (label[0].numpy() != organ)[inside].mean() < 0.03  # at the organ's rim
    assert set(label.unique().tolist()) == {0.0, 3.0}


@pytest.mark.parametrize("name", GRIDS)
def test_and_back_to_its_own_grid(name):
    data = loaded(name)
    chain = Compose(scan_transforms("image", "label", **SETTINGS))
    found = chain(data)
    back = Invertd("pred", chain, orig_keys="image", nearest_interp=True)({**found, "pred": found["label"].clone()})
    restored = back["pred"]
    assert restored.shape == data["label"].shape
    np.testing.assert_allclose(restored.affine.numpy(), data["label"].affine.numpy(), atol=1e-5)
    both = (restored[0] == 3) & (data["label"][0] == 3)
    dice = 2 * both.sum() / ((restored[0] == 3).sum() + (data["label"][0] == 3).sum())
    assert dice > 0.93  # two nearest-voxel steps


def test_the_middle_is_cut_or_padded_with_zeros():
    data = loaded("RAS")
    small = Compose(scan_transforms(**{**SETTINGS, "image_size": 16, "field_of_view": 32.0}))({"image": data["image"]})
    large = Compose(scan_transforms(**{**SETTINGS, "image_size": 96, "field_of_view": 192.0}))({"image": data["image"]})
    assert small["image"].shape[1:3] == (16, 16)
    first = (small["image"].affine - large["image"].affine)[:2, 3] / 2  # where the small one begins in the large one
    assert (first - 40).abs().max() <= 1
    i, j = (int(n) for n in first.round())
    inner = large["image"][:, i : i + 16, j : j + 16].as_tensor()
    torch.testing.assert_close(inner, small["image"].as_tensor())
    shown = large["image"][0].ne(0).any(dim=2)
    assert not shown[:21].any()
    assert not shown[:, -22:].any()
    assert shown[24:72, 26:70].all()


def test_a_scans_own_slices_are_kept():
    data = loaded("RAS")
    found = Compose(scan_transforms(**{**SETTINGS, "slice_spacing": None}))({"image": data["image"]})["image"]
    assert found.shape == (1, 48, 48, 18)
    np.testing.assert_allclose(np.linalg.norm(found.affine[:3, :3], axis=0), (2, 2, 6))


def test_mr_intensities_are_of_the_whole_scan_before_it_is_resampled():
    rng = np.random.default_rng(0)
    values = rng.gamma(2.0, 100.0, (40, 40, 10)).astype(np.float32)
    affine = np.diag([1.0, 1.0, 5.0, 1.0])
    settings = {"image_size": 40, "field_of_view": 40.0, "slice_spacing": None}
    found = Compose(scan_transforms(**settings))({"image": MetaTensor(torch.from_numpy(values)[None], affine=affine)})
    low, high = values.min(), np.percentile(values, 99.5)
    np.testing.assert_allclose(found["image"][0], ((values - low) / (high - low)).clip(0, 1), atol=1e-5)
    found = Compose(scan_transforms(**settings, clip_percentile=100))({"image": torch.from_numpy(values)[None]})
    np.testing.assert_allclose(found["image"][0], (values - low) / (values.max() - low), atol=1e-5)


@pytest.mark.filterwarnings("ignore:Divide by zero")
def test_a_scan_that_is_nearly_all_air_stays_in_range():
    """Its 99.5th percentile is its minimum."""
    values = torch.full((1, 40, 40, 10), 7.0)
    values[0, 3, 4, 5] = 700
    found = Compose(scan_transforms(image_size=40, field_of_view=40.0, slice_spacing=None))({"image": values})["image"]
    assert found.sum() == found[0, 3, 4, 5] == 1


@pytest.mark.real
def test_the_prepared_chaos_scans_are_only_turned(real_data):
    """They have the net's grid already, left and right the other way."""
    path = real_data / "chaos_t2spir" / "image_8.nii.gz"
    stored = nibabel.load(path).get_fdata()
    chain = [LoadImaged("image", reader=MedicalImageReader), EnsureChannelFirstd("image"), *scan_transforms()]
    found = Compose(chain)({"image": str(path)})["image"][0].numpy()
    expected = (stored / np.percentile(stored, 99.5)).clip(0, 1)[::-1]
    assert nibabel.aff2axcodes(nibabel.load(path).affine) == ("L", "A", "S")
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.real
def test_a_ct_series(real_data):
    chain = [LoadImaged("image", reader=MedicalImageReader), EnsureChannelFirstd("image")]
    chain = [*chain, *scan_transforms(modality="ct", slice_spacing=None)]
    found = Compose(chain)({"image": str(real_data / "chaos_ct_dicom")})["image"]
    assert found.shape[1:3] == (256, 256)
    assert (np.diag(found.affine[:3, :3]) > 0).all()
    assert 0.4 < found[0, 100:156, 100:156].median() < 0.7  # soft tissue, at about 50 HU


def test_spacing_leaves_entries_with_like_names_alone(tmp_path):
    """MONAI's own fails on them where the image is NIfTI."""
    nibabel.save(nibabel.Nifti1Image(np.ones((6, 6, 4), np.float32), np.diag([2.0, 2, 4, 1])), tmp_path / "a.nii.gz")
    data = Compose([LoadImaged("image"), EnsureChannelFirstd("image")])({"image": tmp_path / "a.nii.gz"})
    others = {"image_path": "a", "image_id": 7, "image_list": [1], 3: "number", "imageid": "b"}
    found = ScanSpacingd("image", (1.0, 1.0, 2.0))({**data, **others})
    assert found["image"].shape == (1, 11, 11, 7)  # from the first voxel's centre to the last one's
    assert {key: found[key] for key in others} == others
    assert list(found) == list({**data, **others})


def test_errors_of_settings():
    for arguments, message in (
        ({"modality": "pet"}, "modality must be one of mr, ct; got 'pet'"),
        ({"image_size": 0}, "image_size must be a positive integer, got 0"),
        ({"image_size": 2.5}, r"image_size must be a positive integer, got 2\.5"),
        ({"field_of_view": -1}, "field_of_view must be a positive number of mm, got -1"),
        ({"slice_spacing": 0}, "slice_spacing must be a positive number of mm or None, got 0"),
        ({"slice_spacing": math.inf}, "slice_spacing must be a positive number of mm or None, got inf"),
        ({"clip_percentile": 0}, "clip_percentile must lie above 0 and at most at 100, got 0"),
        ({"window": (5, 5)}, r"window must be two intensities \(lowest, highest\) that differ; got \(5, 5\)"),
        ({"window": (5, 1)}, r"window must be two intensities \(lowest, highest\) that differ; got \(5, 1\)"),
    ):
        with pytest.raises(ValueError, match=message):
            scan_transforms(**arguments)


def volume(shape=(1, 6, 5, 4), affine=None, value=1.0, name="scan.nii"):
    return MetaTensor(torch.full(shape, value), affine=np.eye(4) if affine is None else affine,
                      meta={"filename_or_obj": name})  # fmt: skip


@pytest.mark.parametrize(
    ("image", "label", "message"),
    [
        (
            volume((3, 6, 5, 4)),
            None,
            r"one volume \(1, X, Y, Z\), got 3 channels or points in time.* in scan\.nii; save",
        ),
        (volume((1, 6, 5)), None, r"one volume \(1, X, Y, Z\), got 2 spatial axes, shape \(1, 6, 5\) in scan\.nii"),
        (volume((1, 6, 5, 4, 2)), None, "got 4 spatial axes"),
        (volume(value=math.nan), None, r"120 voxels are not finite \(NaN or infinite\) in scan\.nii; mend the scan"),
        (
            volume(),
            volume((1, 6, 5, 3), name="mask.nii"),
            r"another grid than its scan in mask\.nii: shape \(6, 5, 3\), ",
        ),
        (volume(), volume(value=0.5), "the mask holds values that are no whole numbers of 0 or more"),
        (volume(), volume(value=-1.0), "the mask holds values that are no whole numbers of 0 or more"),
        (volume(), volume(value=math.nan), "the mask holds values that are no whole numbers of 0 or more"),
        (volume(), volume(affine=grid((1, 1, 1), (6, 5, 4))), r"the mask lies up to [\d.]+ mm away from its scan"),
    ],
)
def test_what_is_no_scan_is_refused(image, label, message):
    data = {"image": image} if label is None else {"image": image, "label": label}
    with pytest.raises(ValueError, match=message):
        CheckScand("image", None if label is None else "label")(data)


@pytest.mark.filterwarnings("ignore:Divide by zero")
def test_what_is_a_scan_passes():
    data = {"image": volume(), "label": volume(affine=np.diag([1.0001, 1, 1, 1]))}
    found = CheckScand("image", "label")(data)
    assert found.keys() == data.keys()
    assert found["image"] is data["image"]
    plain = {"image": np.zeros((1, 4, 4, 3)), "label": np.ones((1, 4, 4, 3), np.uint8)}
    assert CheckScand("image", "label")(plain)["label"] is plain["label"]
    assert CheckScand("image", "label", allow_missing_keys=True)({"image": volume()})
    with pytest.raises(KeyError):
        CheckScand("image", "label")({"image": volume()})
    found = Compose(scan_transforms("image", "label", allow_missing_keys=True, slice_spacing=None))({"image": volume()})
    assert found["image"].shape == (1, 256, 256, 4)


def test_a_sheared_scan_is_straightened():
    """Slices that are shifted against each other, as a tilted gantry leaves them: the scene stays at its place."""
    shape = (70, 64, 20)
    affine = grid((1.6, 1.6, 5.0), shape)
    affine[1, 2] = 1.0  # each slice 1 mm further to the front
    affine[:3, 3] = np.array([12.0, -30.0, 45.0]) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    image, _ = scene(world(affine, shape))
    data = {"image": MetaTensor(torch.from_numpy(image[None]).float(), affine=affine)}
    found = Compose(scan_transforms(**SETTINGS))(data)["image"]
    straight = found.affine.numpy()[:3, :3]
    np.testing.assert_allclose(straight.T @ straight, np.diag([4, 4, 25]), atol=1e-6)
    points = world(found.affine.numpy(), tuple(found.shape[1:]))
    inverse = np.linalg.inv(affine)
    place = points @ inverse[:3, :3].T + inverse[:3, 3]
    inside = ((place > 1) & (place < np.array(shape) - 2)).all(axis=-1)
    assert inside.mean() > 0.4
    assert np.abs(found[0].numpy() - scene(points)[0] / 100)[inside].max() < 0.02
