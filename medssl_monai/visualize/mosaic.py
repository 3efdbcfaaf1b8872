"""Organs over the slices of a scan, as a radiologist looks at it: right on the left, one colour an organ, places in mm.

MONAI's ``blend_images`` and ``matshow3d`` colour by the largest label, so that an organ changes colour from scan to
scan, and know neither sides nor millimetres.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from medssl_monai.visualize.figures import LINES, new_figure

#: Okabe & Ito's palette without black, ordered so that neighbours differ on grey pictures
ORGAN_COLOURS = ("#E69F00", "#56B4E9", "#D55E00", "#F0E442", "#009E73", "#CC79A7", "#0072B2")
_PANEL = 2.3  # inches
_FILL = 0.36
_THICK = 1.5  # a voxel's edge this many times the others is the distance of slices
_MARGIN = 0.03  # of the slice, around the body
_BODY = 0.08  # of the brightest
_OPPOSITE = {"R": "L", "L": "R", "A": "P", "P": "A", "S": "I", "I": "S"}


@dataclass(frozen=True)
class _View:
    """A scan's volumes turned for display: pictures (rows, columns) along the last axis, in the order shown."""

    volumes: dict[str, NDArray[Any]]
    aspect: float
    left: str
    top: str
    places: list[str]
    voxel_ml: float


def overlay_mosaic(
    image: NDArray[Any],
    labels: NDArray[Any],
    names: Mapping[int, str],
    affine: NDArray[np.float64],
    *,
    truth: NDArray[Any] | None = None,
    colours: Mapping[int, str] | None = None,
    window: tuple[float, float] | None = None,
    n_slices: int = 12,
    columns: int = 4,
) -> Figure:
    """Slices of a scan with its organs filled, and outlined where the truth has them.

    Slices are shown along the axis of clearly thicker voxels, else axially, from the head down (from the front, from
    the right), in radiological view. Each organ's largest slice is among them, the others are spread evenly over those
    that show an organ. The legend gives each organ's volume. Oblique scans are shown as they were acquired, under the
    letters of the nearest directions.

    Args:
        image: (X, Y, Z) intensities.
        labels: (X, Y, Z), on the same grid.
        names: value in the label map to name, all organs in a stable order: the k-th has the k-th colour.
        affine: (4, 4), voxels to RAS millimetres.
        truth: (X, Y, Z), drawn as thin lines in the organs' colours; without it the lines are the label map's own.
        colours: value to colour, where those of :data:`ORGAN_COLOURS` are not wanted; of more than seven organs the
            lines of the further ones are dashed.
        window: intensities that are black and white; ``None`` takes percentiles 0.5 and 99.5 of the slices shown, which
            suits MR; CT wants the window of its organs.
        n_slices: slices shown at most.
        columns: pictures a row.

    Raises:
        ValueError: for volumes of different shape, no organ, or numbers below 1.
    """
    volumes = {"image": np.asarray(image), "labels": np.asarray(labels)}
    if truth is not None:
        volumes["truth"] = np.asarray(truth)
    for name, one in volumes.items():
        if one.ndim != 3 or one.shape != volumes["image"].shape:
            raise ValueError(f"{name} has shape {one.shape}; expected volumes (X, Y, Z) of one grid")
    if not names:
        raise ValueError("names is empty; expected the name of each value in the label map")
    if n_slices < 1 or columns < 1:
        raise ValueError(f"n_slices and columns are {n_slices} and {columns}; expected at least 1")
    view = _turned(volumes, np.asarray(affine, dtype=np.float64))
    styles = _styles(names, colours or {})
    chosen = _slices(view.volumes, list(names), n_slices)
    box, found = _window(view.volumes["image"][..., chosen])
    rows = -(-len(chosen) // columns)
    size = np.array([box[1].stop - box[1].start, (box[0].stop - box[0].start) * view.aspect])
    panel = _PANEL * size / size.max()
    figure = new_figure(panel[0] * min(columns, len(chosen)), panel[1] * rows + 0.55, "compressed")
    grid = figure.subplots(rows, min(columns, len(chosen)), squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, k in zip(grid, chosen):
        pictures = {name: volume[..., k][box] for name, volume in view.volumes.items()}
        _draw(axes, pictures, styles, window or found, view.aspect)
        _letters(axes, view, view.places[k])
    _legend(figure, view, names, styles)
    return figure


def _styles(names: Mapping[int, str], colours: Mapping[int, str]) -> dict[int, tuple[str, str]]:
    """Colour and line of each organ, by its place in ``names``."""
    return {
        value: (colours.get(value, ORGAN_COLOURS[k % len(ORGAN_COLOURS)]), LINES[k // len(ORGAN_COLOURS) % len(LINES)])
        for k, value in enumerate(names)
    }


def _turned(volumes: Mapping[str, NDArray[Any]], affine: NDArray[np.float64]) -> _View:
    orientations: Any = nib.orientations
    shape = next(iter(volumes.values())).shape
    target = orientations.axcodes2ornt(("L", "P", "S"))
    change = orientations.ornt_transform(orientations.io_orientation(affine), target)
    turned = {name: orientations.apply_orientation(volume, change) for name, volume in volumes.items()}
    place = affine @ orientations.inv_ornt_aff(change, shape)
    size = np.array(next(iter(turned.values())).shape)
    spacing = np.linalg.norm(place[:3, :3], axis=0)
    thickest = int(spacing.argmax())
    axis = thickest if spacing[thickest] >= _THICK * np.sort(spacing)[1] else 2
    across, down = (k for k in range(3) if k != axis)
    # from the head down, be it slice by slice or row by row
    turned = {name: np.flip(volume, 2).transpose(down, across, axis) for name, volume in turned.items()}
    middle = (size - 1) / 2
    letters = ("R", "L"), ("A", "P"), ("S", "I")
    places = []
    for k in range(size[axis]):
        voxel = middle.copy()
        voxel[axis] = size[axis] - 1 - k if axis == 2 else k
        at = float((place[:3, :3] @ voxel + place[:3, 3])[axis])
        places.append(f"{letters[axis][at < 0]} {abs(at):.0f} mm")
    voxel_ml = abs(float(np.linalg.det(affine[:3, :3]))) / 1000
    aspect = float(spacing[down] / spacing[across])
    return _View(turned, aspect, "RA"[across], "S" if down == 2 else "A", places, voxel_ml)


def _slices(volumes: Mapping[str, NDArray[Any]], values: list[int], number: int) -> list[int]:
    """The slices to show: each organ's largest, then ever the one furthest from those chosen."""
    shown = [volume for name, volume in volumes.items() if name != "image"]
    areas = np.array([sum((volume == value).sum(axis=(0, 1)) for volume in shown) for value in values])
    candidates = np.flatnonzero(areas.any(axis=0)) if areas.any() else np.arange(areas.shape[1])
    largest = sorted(((int(area.max()), int(area.argmax())) for area in areas if area.any()), reverse=True)
    chosen = list(dict.fromkeys(k for _, k in largest))[:number]
    if not chosen:
        spread = np.linspace(0, len(candidates) - 1, min(number, len(candidates)) + 2)[1:-1]
        return sorted({int(candidates[round(k)]) for k in spread})
    while len(chosen) < min(number, len(candidates)):
        distance = np.abs(candidates[:, None] - np.array(chosen)).min(axis=1)
        chosen.append(int(candidates[distance.argmax()]))
    return sorted(chosen)


def _window(pictures: NDArray[Any]) -> tuple[tuple[slice, slice], tuple[float, float]]:
    """The part of the slices that shows the body, and the intensities that are black and white."""
    low, high = (float(one) for one in np.percentile(pictures, (0.5, 99.5)))
    body = (pictures > low + _BODY * (high - low)).mean(axis=2) > 0
    box = []
    for axis in (0, 1):
        # a few bright pixels in the air are no body
        places = np.flatnonzero(body.mean(axis=1 - axis) > 0.02)
        ends = (places[0], places[-1]) if len(places) else (0, body.shape[axis] - 1)
        margin = int(_MARGIN * body.shape[axis])
        box.append(slice(max(int(ends[0]) - margin, 0), int(ends[1]) + margin + 1))
    rows, cols = box
    limit = slice(rows.start, min(rows.stop, body.shape[0])), slice(cols.start, min(cols.stop, body.shape[1]))
    return limit, (low, max(high, low + 1e-6))


def _draw(
    axes: Axes,
    pictures: Mapping[str, NDArray[Any]],
    styles: Mapping[int, tuple[str, str]],
    window: tuple[float, float],
    aspect: float,
) -> None:
    axes.imshow(pictures["image"], cmap="gray", vmin=window[0], vmax=window[1], aspect=aspect)
    fill = np.zeros((*pictures["labels"].shape, 4))
    for value, (colour, line) in styles.items():
        fill[pictures["labels"] == value] = to_rgba(colour, _FILL)
        outline = pictures.get("truth", pictures["labels"]) == value
        if outline.any():
            # a rim of zeros, so that outlines close where an organ meets the border
            rim = np.pad(outline.astype(float), 1)
            rows, cols = np.arange(-1, outline.shape[0] + 1), np.arange(-1, outline.shape[1] + 1)
            axes.contour(cols, rows, rim, levels=[0.5], colors=[colour], linestyles=[line], linewidths=0.9)
    axes.imshow(fill, aspect=aspect, interpolation="nearest")
    axes.set_xlim(-0.5, fill.shape[1] - 0.5)
    axes.set_ylim(fill.shape[0] - 0.5, -0.5)


def _letters(axes: Axes, view: _View, place: str) -> None:
    style: dict[str, Any] = {
        "color": "white", "fontsize": 7, "transform": axes.transAxes,
        "path_effects": [withStroke(linewidth=1.6, foreground="black")],
    }  # fmt: skip
    axes.text(0.02, 0.5, view.left, ha="left", va="center", **style)
    axes.text(0.98, 0.5, _OPPOSITE[view.left], ha="right", va="center", **style)
    axes.text(0.5, 0.98, view.top, ha="center", va="top", **style)
    axes.text(0.02, 0.02, place, ha="left", va="bottom", **style)


def _legend(figure: Figure, view: _View, names: Mapping[int, str], styles: Mapping[int, tuple[str, str]]) -> None:
    handles = []
    for value, name in names.items():
        volume = int((view.volumes["labels"] == value).sum()) * view.voxel_ml
        said = f"{name}, {volume:.0f} ml" if volume >= 1 else f"{name}, {volume:.2g} ml" if volume else f"{name}, none"
        colour, line = styles[value]
        patch = Patch(facecolor=to_rgba(colour, _FILL), edgecolor=colour, label=said)
        patch.set_linestyle(line)  # type: ignore[arg-type]  # one of LINES
        handles.append(patch)
    width = max(1, int(figure.get_figwidth() / 1.7))
    figure.legend(
        handles=handles, loc="outside lower center", ncols=min(len(handles), width), fontsize=8, frameon=False
    )
    if "truth" in view.volumes:
        figure.suptitle("Filled: segmentation. Line: truth", fontsize=8)
