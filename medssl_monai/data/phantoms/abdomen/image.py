"""An abdominal scan: one anatomy on one stack of thick slices, with texture, the scanner's bias and noise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from scipy.ndimage import zoom

from medssl_monai.core import generator
from medssl_monai.data.phantoms.abdomen.anatomy import Abdomen
from medssl_monai.data.phantoms.abdomen.organs import abdomen_solids, organ_solids
from medssl_monai.data.phantoms.knee.anatomy import rotation
from medssl_monai.data.phantoms.knee.image import Series, paint_series, scanned_image
from medssl_monai.data.phantoms.knee.shapes import Array

CONTRAST: Mapping[str, float] = {  # T2 with the fat suppressed, 1 being fluid
    "skin": 0.20, "fat": 0.13, "muscle": 0.11, "visceral fat": 0.07, "lung": 0.02, "heart": 0.24, "flow": 0.06,
    "cortical": 0.04, "marrow": 0.24, "disc": 0.36, "csf": 1.0, "cord": 0.45, "vessel wall": 0.30, "artery": 0.12,
    "vein": 0.30, "gut wall": 0.45, "fluid": 0.95, "chyme": 0.58, "gas": 0.01, "collapsed": 0.42, "stool": 0.22,
    "pancreas": 0.44, "urine": 1.0, "sinus": 0.45, "liver": 0.42, "liver vessel": 0.80, "cortex": 0.86,
    "medulla": 0.98, "spleen": 0.78,
}  # fmt: skip
ORIENTATIONS = ("axial", "flipped", "oblique", "mixed")
_COVER = (225.0, 265.0)  # mm along z, the organs' 190 and some slices beyond
_GRAIN = (9.0, 28.0)  # mm, scales of the texture


def draw_series(
    seed: int, person: Abdomen, size: int, field_of_view: float, slice_spacing: float, orientation: str
) -> Series:
    """The stack of slices, a function of (seed, subject).

    ``axial`` stores columns to the person's left, rows to the back and slices upward, as scanners do; ``flipped``
    stores one or more axes the other way round, ``oblique`` tilts the stack by up to 0.35 rad about each axis, and
    ``mixed`` draws one of the three for each person.

    Args:
        seed: seed of the dataset.
        person: who is scanned.
        size: edge of a slice in pixels.
        field_of_view: edge of a slice in mm, on average.
        slice_spacing: distance of neighbouring slices in mm, on average.
        orientation: one of ``ORIENTATIONS``.
    """
    rng = generator(seed, "abdomen", "series", person.subject)
    if orientation == "mixed":
        orientation = str(rng.choice(ORIENTATIONS[:3]))
    turn = rotation(*rng.normal(0, 0.01, 3))
    lean, signs = rng.uniform(-0.35, 0.35, 3), rng.integers(0, 2, 3)
    if orientation == "oblique":
        turn = rotation(*lean)
    distance = slice_spacing * float(rng.uniform(0.94, 1.06))
    # a tilted stack needs more slices to hold the same organs
    count = max(4, round(float(rng.uniform(*_COVER)) * (1.15 if orientation == "oblique" else 1.0) / distance))
    pixel = field_of_view * float(rng.uniform(0.98, 1.06)) / size
    shape = np.array([size, size, count])
    directions = turn @ np.diag([-1.0, -1.0, 1.0])
    if orientation == "flipped":
        directions = directions @ np.diag(np.where(signs if signs.any() else [1, 0, 0], -1.0, 1.0))
    affine = np.eye(4)
    affine[:3, :3] = directions @ np.diag([pixel, pixel, distance])
    aim = np.asarray(person.centre) + rng.normal(0, 4, 3)
    affine[:3, 3] = aim - affine[:3, :3] @ ((shape - 1) / 2)
    return Series("axial", affine, (size, size, count), distance)


def draw_palette(seed: int, subject: int) -> dict[str, float]:
    """Intensities of the tissues, varied about those of the contrast; blood is bright or dark as it flows."""
    rng = generator(seed, "abdomen", "contrast", subject)
    palette = {name: float(value * np.exp(rng.normal(0, 0.12))) for name, value in CONTRAST.items()}
    for vessel in ("artery", "vein"):
        if rng.random() < 0.4:
            palette[vessel] = float(rng.uniform(0.55, 0.9))
    kidney = float(np.exp(rng.normal(0, 0.08)))  # cortex and medulla vary together
    return {name: value * kidney if name in ("cortex", "medulla") else value for name, value in palette.items()}


def draw_masks(person: Abdomen, series: Series) -> np.ndarray:
    """Mask values (columns, rows, slices), uint8: an organ has the voxels that it fills at least half of."""
    mask = np.zeros(series.shape, np.uint8)
    parts = organ_solids(person)
    for value, name in person.organs.items():
        organ = parts[name][0]
        whole = replace(organ, layers=organ.layers[:1])
        mask[paint_series([whole], series, {organ.layers[0].tissue: 1.0}) >= 0.5] = value
    return mask


def texture(series: Series, rng: np.random.Generator, strength: float) -> Array:
    """A factor about 1 for each voxel (columns, rows, slices), float32, that varies over one and three centimetres.

    Args:
        series: where the voxels lie.
        rng: generator.
        strength: standard deviation of each of the two scales at the points it is drawn at.
    """
    edges = np.linalg.norm(series.affine[:3, :3], axis=0) * (np.array(series.shape) - 1)
    field = np.zeros(series.shape, np.float32)
    for grain in _GRAIN:
        coarse = np.maximum(2, np.ceil(edges / grain)).astype(int) + 1
        values = rng.standard_normal(coarse.tolist(), dtype=np.float32)
        factors = np.array(series.shape) / coarse
        field += zoom(values, factors, order=1, mode="nearest", grid_mode=False)
    return np.asarray(np.float32(1) + np.float32(strength) * field)


def render_scan(
    seed: int, person: Abdomen, series: Series, noise: float, strength: float
) -> tuple[np.ndarray, np.ndarray]:
    """The stored image (uint16) and its mask (uint8), both (columns, rows, slices).

    Args:
        seed: seed of the dataset.
        person: who is scanned.
        series: where the slices lie.
        noise: standard deviation of the noise in each of the two channels, 1 being the brightest fluid.
        strength: size of each scale of the texture (see :func:`texture`).
    """
    clean = paint_series(abdomen_solids(person), series, draw_palette(seed, person.subject))
    clean *= texture(series, generator(seed, "abdomen", "texture", person.subject), strength)
    rng = generator(seed, "abdomen", "scanner", person.subject)
    return scanned_image(clean, series, rng, noise), draw_masks(person, series)
