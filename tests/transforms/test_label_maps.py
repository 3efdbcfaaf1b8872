"""Label maps brought back: organs drawn on the net's grid by their world position must lie on the scan's by theirs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose
from organ_phantom import ORGANS, SHAPES, draw, grid, picture
from scipy.ndimage import map_coordinates
from skimage.io import imread

from medssl_monai.data.readers import read_image
from medssl_monai.transforms import RestoreLabelMapd, scan_transforms

GRIDS = {
    "RAS": grid("RAS", (1.3, 1.3, 5.0)),
    "LPS": grid("LPS", (1.3, 1.3, 5.0)),
    "LAS, thin": grid("LAS", (1.0, 1.6, 2.0)),
    "sagittal slices": grid("PIR", (1.3, 1.3, 5.0)),
    "coronal slices": grid("LSA", (1.1, 1.1, 4.0)),
    "slices first": grid("SRA", (5.0, 1.3, 1.3)),
    "oblique": grid("LPS", (1.3, 1.3, 5.0), (18.0, -12.0, 25.0)),
    "oblique sagittal": grid("PIR", (1.2, 1.4, 4.0), (-15.0, 20.0, 10.0)),
    "tilted gantry": grid("LPS", (1.3, 1.3, 5.0), shear=1.2),
}


def prepared(shape: tuple[int, ...], affine: np.ndarray, **settings) -> tuple[Compose, MetaTensor]:
    chain = Compose(scan_transforms(image_size=128, field_of_view=224.0, **settings))
    image = torch.from_numpy(picture(draw(shape, affine)))[None].float()
    meta = {"original_affine": torch.from_numpy(affine), "spatial_shape": np.array(shape)}
    return chain, chain({"image": MetaTensor(image, affine=torch.from_numpy(affine), meta=meta)})["image"]


def logits_of(labels: np.ndarray, scale: float = 20.0) -> torch.Tensor:
    """Logits whose largest is the label, in the order of ORGANS."""
    return scale * torch.from_numpy(np.stack([labels == value for value in (0, *ORGANS)])).float()


@pytest.mark.parametrize("slice_spacing", [None, 4.0])
@pytest.mark.parametrize("name", GRIDS)
def test_organs_lie_where_they_are_in_the_world(name: str, slice_spacing: float | None) -> None:
    shape, affine = GRIDS[name]
    chain, image = prepared(shape, affine, slice_spacing=slice_spacing)
    inside = draw(tuple(image.shape[1:]), image.affine.numpy())  # drawn anew, by the affine the chain claims
    found = RestoreLabelMapd("pred", chain, list(ORGANS))({"image": image, "pred": logits_of(inside)})["pred"]
    assert tuple(found.shape) == (1, *shape)
    assert np.array_equal(found.affine.numpy(), affine)
    labels, truth = found[0].numpy(), draw(shape, affine)
    assert set(np.unique(labels)) == {0, *ORGANS}
    for value in ORGANS:
        both = ((labels == value) & (truth == value)).sum()
        dice = 2 * both / ((labels == value).sum() + (truth == value).sum())
        assert dice > 0.94, (name, value)
        # a shift of half a pixel would show
        centre = np.argwhere(labels == value).mean(axis=0) @ affine[:3, :3].T + affine[:3, 3]
        assert np.linalg.norm(centre - SHAPES[value][0]) < 0.6


def test_a_shift_of_two_pixels_is_seen() -> None:
    """The bounds above would not hold if the way back were off by a pixel or two."""
    shape, affine = GRIDS["RAS"]
    chain, image = prepared(shape, affine, slice_spacing=None)
    inside = np.roll(draw(tuple(image.shape[1:]), image.affine.numpy()), 1, axis=1)
    labels = RestoreLabelMapd("pred", chain, list(ORGANS))({"image": image, "pred": logits_of(inside)})["pred"][0]
    centre = np.argwhere(labels.numpy() == 7).mean(axis=0) @ affine[:3, :3].T + affine[:3, 3]
    assert np.linalg.norm(centre - SHAPES[7][0]) > 1.2


def test_what_the_net_has_not_seen_is_background() -> None:
    shape, affine = grid("LPS", (1.3, 1.3, 5.0))
    chain = Compose(scan_transforms(image_size=32, field_of_view=64.0, slice_spacing=None))
    image = MetaTensor(torch.rand(1, *shape), affine=torch.from_numpy(affine))
    small = chain({"image": image})["image"]
    logits = torch.zeros(3, *small.shape[1:])
    logits[2] = 5.0
    found = RestoreLabelMapd("pred", chain, [3, 7])({"image": small, "pred": logits})["pred"]
    assert float((found == 7).sum(dim=(1, 2, 3))) == pytest.approx(64 * 64 / 1.3**2 * shape[2], rel=0.03)
    assert float((found[:, :20] != 0).sum()) == 0


def test_probabilities_are_interpolated_before_the_largest_is_taken() -> None:
    """Against trilinear interpolation of the probabilities by hand, at every voxel of a finer scan."""
    affine = np.diag([-1.0, -1.0, 3.0, 1.0])
    scan = MetaTensor(torch.rand(1, 64, 64, 6), affine=torch.from_numpy(affine))
    chain = Compose(scan_transforms(image_size=16, field_of_view=64.0, slice_spacing=None))
    image = chain({"image": scan})["image"]
    logits = torch.randn(4, *image.shape[1:], generator=torch.Generator().manual_seed(0))
    found = RestoreLabelMapd("pred", chain, [2, 5, 300], classes_at_once=3)({"image": image, "pred": logits})["pred"]
    probabilities = torch.softmax(logits, 0).double().numpy()
    voxels = np.stack([*np.indices((64, 64, 6)), np.ones((64, 64, 6))]).reshape(4, -1)
    places = (np.linalg.inv(image.affine.numpy()) @ affine @ voxels)[:3]
    within = ((places > 0) & (places < np.array(image.shape[1:])[:, None] - 1)).all(axis=0)
    fine = np.stack([map_coordinates(one, places, order=1, mode="nearest") for one in probabilities])
    margin = np.sort(fine, axis=0)
    clear = within & (margin[-1] - margin[-2] > 1e-4)
    expected = np.array([0, 2, 5, 300])[fine.argmax(axis=0)]
    assert clear.mean() > 0.5
    assert np.array_equal(found.numpy().reshape(-1)[clear], expected[clear])
    whole = RestoreLabelMapd("pred", chain, [2, 5, 300], classes_at_once=9)({"image": image, "pred": logits})["pred"]
    assert torch.equal(whole.as_tensor(), found.as_tensor())


def test_bad_values_and_logits_are_refused() -> None:
    chain, image = prepared(*GRIDS["RAS"], slice_spacing=None)
    for values in ([], [0, 1], [2, 2]):
        with pytest.raises(ValueError, match="values: expected distinct integers from 1 on"):
            RestoreLabelMapd("pred", chain, values)
    with pytest.raises(ValueError, match="classes_at_once: expected an integer of at least 1, got 0"):
        RestoreLabelMapd("pred", chain, [1], classes_at_once=0)
    restore = RestoreLabelMapd("pred", chain, [1, 2])
    with pytest.raises(ValueError, match=r"expected logits \(3, 128, 128, 28\), background and 2 organs .* got \(2,"):
        restore({"image": image, "pred": torch.zeros(2, *image.shape[1:])})
    with pytest.raises(ValueError, match="the image has forgotten its steps"):
        restore({"image": image.as_tensor(), "pred": torch.zeros(3, *image.shape[1:])})
    with pytest.raises(KeyError, match="pred"):
        restore({"image": image})
    assert set(RestoreLabelMapd("pred", chain, [1], allow_missing_keys=True)({"image": image})) == {"image"}


@pytest.mark.real
def test_the_liver_of_a_dicom_ct_comes_back_to_its_place(real_data: Path) -> None:
    """Real slices of 0.73 mm, through the net's 1.25 mm and back: the drawn liver lies where it was drawn."""
    folder = real_data / "chaos_ct_dicom"
    array, meta = read_image(folder / "DICOM")
    drawn = [imread(path).T > 0 for path in sorted((folder / "Ground").glob("*.png"))]
    truth = np.stack(drawn[::-1], axis=-1)  # the series runs from the head down, the volume upwards
    assert (array[truth].mean(), array[~truth].mean()) == pytest.approx((100, -600), abs=250)  # liver, mostly air
    volumes = {"image": array.astype(np.float32), "label": truth.astype(np.uint8)}
    items = {
        key: MetaTensor(torch.from_numpy(one)[None], affine=torch.from_numpy(meta["affine"]), meta=dict(meta))
        for key, one in volumes.items()
    }
    chain = Compose(scan_transforms("image", "label", modality="ct", slice_spacing=None))
    ready = chain(items)
    logits = 20 * torch.cat([ready["label"] == 0, ready["label"] == 1]).float().as_tensor()
    found = RestoreLabelMapd("pred", chain, [63])({**ready, "pred": logits})["pred"]
    assert np.array_equal(found.affine.numpy(), meta["affine"])
    labels = found[0].numpy() == 63
    assert labels.shape == truth.shape
    assert 2 * (labels & truth).sum() / (labels.sum() + truth.sum()) > 0.985
    shift = (np.argwhere(labels).mean(axis=0) - np.argwhere(truth).mean(axis=0)) * np.linalg.norm(
        meta["affine"][:3, :3], axis=0
    )
    assert np.abs(shift).max() < 0.2  # mm
