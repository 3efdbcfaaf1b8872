"""Overlay mosaics: sides, places, colours and slices, whatever the grid of the scan."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from monai.data import MetaTensor
from organ_phantom import ORGANS, SHAPES, draw, grid, picture, write_nifti
from skimage.io import imread

from medssl_monai.core import ConfigError
from medssl_monai.data.readers import read_image
from medssl_monai.visualize import OrganMosaics, overlay_mosaic
from medssl_monai.visualize.mosaic import ORGAN_COLOURS

AXIAL = ("RAS", "LPS", "LAI", "SRA", "PIR")


def fills(figure) -> list[np.ndarray]:
    """The coloured layer (rows, columns, 4) of each picture."""
    return [axes.images[1].get_array() for axes in figure.axes if axes.images]


def middle(fill: np.ndarray, organ: int) -> np.ndarray:
    """Middle (row, column) of an organ in a picture, as a share of it; NaN where it is not there."""
    places = np.argwhere((fill[..., 3] > 0) & np.isclose(fill[..., :3], to_rgb(ORGAN_COLOURS[organ])).all(axis=-1))
    return places.mean(axis=0) / fill.shape[:2] if len(places) else np.full(2, np.nan)


def texts(figure) -> list[list[str]]:
    return [[text.get_text() for text in axes.texts] for axes in figure.axes if axes.images]


@pytest.mark.parametrize("turned", [(0, 0, 0), (12.0, -9.0, -14.0)])
@pytest.mark.parametrize("axes", AXIAL)
def test_right_is_left_and_front_is_up(axes: str, turned: tuple[float, float, float]) -> None:
    """The liver lies to the right, the spleen to the left and further back, on any grid."""
    shape, affine = grid(axes, tuple({"S": 5.0, "I": 5.0}.get(letter, 1.5) for letter in axes), turned)
    labels = draw(shape, affine)
    figure = overlay_mosaic(picture(labels), labels, ORGANS, affine)
    assert all(said[:3] == ["R", "L", "A"] for said in texts(figure))
    liver, spleen = (np.nanmean([middle(one, k) for one in fills(figure)], axis=0) for k in (0, 1))
    assert liver[1] < 0.5 < spleen[1]
    assert liver[0] < spleen[0]


def test_slices_are_named_by_their_place_from_the_head_down() -> None:
    shape, affine = grid("LPS", (1.5, 1.5, 5.0))
    labels = draw(shape, affine)
    places = [said[3] for said in texts(overlay_mosaic(picture(labels), labels, ORGANS, affine, n_slices=20))]
    z = affine[2, 3] + 5.0 * np.flatnonzero(labels.any(axis=(0, 1)))[::-1]
    assert places == [f"{'S' if one >= 0 else 'I'} {abs(one):.0f} mm" for one in z]
    assert {"S", "I"} == {one[0] for one in places}


@pytest.mark.parametrize(
    ("axes", "letters", "first", "last"),
    [("PIR", ["A", "P", "S"], "R", "L"), ("LSA", ["R", "L", "S"], "A", "P")],
)
def test_sagittal_and_coronal_scans_are_shown_as_acquired(axes: str, letters: list, first: str, last: str) -> None:
    shape, affine = grid(axes, (1.5, 1.5, 8.0))
    labels = draw(shape, affine)
    figure = overlay_mosaic(picture(labels), labels, ORGANS, affine, n_slices=30)
    said = texts(figure)
    assert all(one[:3] == letters for one in said)
    assert (said[0][3][0], said[-1][3][0]) == (first, last)
    # the spleen's middle is 12 mm further up than the liver's
    liver, spleen = (np.nanmean([middle(one, k) for one in fills(figure)], axis=0) for k in (0, 1))
    assert spleen[0] < liver[0]
    assert SHAPES[7][0][2] > SHAPES[3][0][2]


def test_slices_chosen_hold_each_organs_largest() -> None:
    labels = np.zeros((20, 20, 30), np.uint8)
    labels[5:9, 5:9, 4:26] = 1
    labels[5:12, 5:12, 17] = 1
    labels[15, 15, 9] = 2
    affine = np.diag([1.0, 1.0, 3.0, 1.0])
    places = [said[3] for said in texts(overlay_mosaic(labels, labels, {1: "a", 2: "b"}, affine, n_slices=4))]
    # the two largest (17 and 9), then ever the furthest from those chosen: 25, then 4 of the ties
    assert places == ["S 75 mm", "S 51 mm", "S 27 mm", "S 12 mm"]
    empty = overlay_mosaic(labels, np.zeros_like(labels), {1: "a"}, affine, n_slices=4)
    assert len(texts(empty)) == 4


def test_colours_are_the_organs_own_and_the_legend_says_volumes() -> None:
    shape, affine = grid("LPS", (1.5, 1.5, 5.0))
    labels = draw(shape, affine)
    only = np.where(labels == 7, labels, 0)
    figure = overlay_mosaic(picture(labels), only, ORGANS, affine, truth=labels)
    assert all(np.isnan(middle(one, 0)).all() for one in fills(figure))
    assert not all(np.isnan(middle(one, 1)).all() for one in fills(figure))
    volume = (labels == 7).sum() * 1.5 * 1.5 * 5 / 1000
    said = [text.get_text() for text in figure.legends[0].get_texts()]
    assert said == ["liver, none", f"spleen, {volume:.0f} ml"]
    assert figure.get_suptitle() == "Filled: segmentation. Line: truth"
    lines = {tuple(line.get_edgecolor()[0][:3]) for axes in figure.axes for line in axes.collections}
    assert lines == {to_rgb(ORGAN_COLOURS[0]), to_rgb(ORGAN_COLOURS[1])}  # the missed liver is outlined
    own = overlay_mosaic(picture(labels), only, ORGANS, affine, colours={7: "#ffffff"})
    assert any((one[..., :3] == 1).all(axis=-1).any() for one in fills(own))


def test_window_and_picture() -> None:
    shape, affine = grid("LPS", (1.5, 1.5, 5.0))
    labels = draw(shape, affine)
    figure = overlay_mosaic(picture(labels), labels, ORGANS, affine, window=(-125, 275))
    assert {axes.images[0].get_clim() for axes in figure.axes if axes.images} == {(-125, 275)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.zeros((4, 4, 3), int)}, r"labels has shape \(4, 4, 3\); expected volumes"),
        ({"truth": np.zeros((4, 4), int)}, r"truth has shape \(4, 4\)"),
        ({"names": {}}, "names is empty"),
        ({"n_slices": 0}, "n_slices and columns are 0 and 4; expected at least 1"),
    ],
)
def test_what_cannot_be_drawn_is_said(change: dict, message: str) -> None:
    given = {"image": np.zeros((4, 4, 4)), "labels": np.zeros((4, 4, 4), int), "names": {1: "a"}, "affine": np.eye(4)}
    with pytest.raises(ValueError, match=message):
        overlay_mosaic(**{**given, **change})


def test_a_picture_lies_beside_each_label_map(tmp_path: Path) -> None:
    shape, affine = grid("LPS", (1.5, 1.5, 5.0))
    labels = draw(shape, affine)
    write_nifti(tmp_path / "in" / "a" / "scan.nii.gz", picture(labels), affine)
    found = MetaTensor(torch.from_numpy(labels)[None].int(), affine=torch.from_numpy(affine))
    batch = {"name": "a/scan.nii.gz", "truth": MetaTensor(torch.from_numpy(labels)[None])}
    state = SimpleNamespace(state=SimpleNamespace(batch=[batch], output=[{"pred": found}]))
    mosaics = OrganMosaics(tmp_path / "out", ORGANS, window=[0, 1000], n_slices=3)
    with pytest.raises(ConfigError, match=r"does not know the file it was read from.*mosaics to false"):
        mosaics.draw(state)
    found.meta["filename_or_obj"] = str(tmp_path / "in" / "a" / "scan.nii.gz")
    mosaics.draw(state)
    pixels = imread(tmp_path / "out" / "a" / "scan.png")[..., :3].astype(int)
    coloured = np.ptp(pixels, axis=2) > 40
    assert coloured.mean() > 0.05


@pytest.mark.real
def test_chaos_is_readable(real_data: Path) -> None:
    """The liver of a real scan is on the left of the picture, the spleen on the right."""
    image, meta = read_image(real_data / "chaos_t2spir" / "image_1.nii.gz")
    labels, _ = read_image(real_data / "chaos_t2spir" / "label_1.nii.gz")
    names = {1: "liver", 2: "right kidney", 3: "left kidney", 4: "spleen"}
    figure = overlay_mosaic(image, labels, names, meta["affine"])
    columns = [np.nanmean([middle(one, k)[1] for one in fills(figure)]) for k in range(4)]
    assert columns[0] < 0.5 < columns[3]
    assert columns[1] < 0.5 < columns[2]
    rows = [np.nanmean([middle(one, k)[0] for one in fills(figure)]) for k in (1, 2)]
    assert min(rows) > 0.5  # kidneys lie at the back
