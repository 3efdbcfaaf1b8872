"""Tools the skin-lesion phantom is drawn with: a camera's view of lesion coordinates, noise fields, ink, networks.

Lesion coordinates (u, v) have their origin in the lesion's middle and its mean radius as unit, so that the same lesion
can be seen from another distance and angle.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Array = np.ndarray[Any, np.dtype[np.floating[Any]]]
EXTENT = 2.0  # noise fields cover lesion coordinates in [-EXTENT, EXTENT] and are 0 outside
_INK_SCALE = 2  # ink is drawn at twice the resolution and averaged: smooth edges


@dataclass(frozen=True)
class View:
    """Where the camera sees the lesion.

    Attributes:
        size: edge of the square image in pixels.
        centre: position (x, y) of the lesion's middle in pixels.
        radius: pixels a unit of lesion coordinates.
        angle: rotation of the lesion in radians.
        mirrored: whether the lesion is seen mirrored (before the rotation).
    """

    size: int
    centre: tuple[float, float]
    radius: float
    angle: float
    mirrored: bool = False

    @cached_property
    def matrix(self) -> np.ndarray:
        """(2, 2): pixels relative to the centre -> lesion coordinates."""
        c, s = np.cos(self.angle), np.sin(self.angle)
        flip = -1.0 if self.mirrored else 1.0
        return np.array([[flip * c, flip * s], [-s, c]]) / self.radius

    @cached_property
    def coordinates(self) -> tuple[Array, Array]:
        """Lesion coordinates u and v of every pixel's centre, (size, size) each."""
        pixels = np.arange(self.size, dtype=np.float32) + np.float32(0.5)
        x, y = pixels[None, :] - np.float32(self.centre[0]), pixels[:, None] - np.float32(self.centre[1])
        m = self.matrix.astype(np.float32)
        return m[0, 0] * x + m[0, 1] * y, m[1, 0] * x + m[1, 1] * y

    def pixels(self, points: np.ndarray) -> np.ndarray:
        """Lesion coordinates (..., 2) -> pixels (..., 2) as (x, y)."""
        result: np.ndarray = points @ np.linalg.inv(self.matrix).T + np.asarray(self.centre)
        return result

    def field(self, grid: np.ndarray) -> Array:
        """Values given on a square grid (n, n) over lesion coordinates, seen smoothly in the image (size, size)."""
        n = grid.shape[0]
        scale = n / (2 * EXTENT)
        m = self.matrix * scale
        offset = n / 2 - m @ np.asarray(self.centre)
        coefficients = (m[0, 0], m[0, 1], offset[0], m[1, 0], m[1, 1], offset[1])
        picture = Image.fromarray(np.ascontiguousarray(grid, np.float32))
        seen = picture.transform((self.size,) * 2, Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC)
        return np.asarray(seen)

    def noise(self, rng: np.random.Generator, cell: float) -> Array:
        """Smooth noise of the lesion with cells of ``cell`` lesion units, about unit variance."""
        n = max(4, round(2 * EXTENT / cell))
        return self.field(rng.standard_normal((n, n)) * 1.3)


def skin_noise(rng: np.random.Generator, size: int, cell: float) -> Array:
    """Smooth noise (size, size) of the image, with cells of ``cell`` times the image's edge."""
    n = min(size, max(2, round(1 / cell)))
    grid = Image.fromarray(rng.standard_normal((n, n), dtype=np.float32))
    return np.asarray(grid.resize((size, size), Image.Resampling.BICUBIC))


def ramp(values: Array, low: float, high: float) -> Array:
    """Smooth step: 0 below ``low``, 1 above ``high`` (or the other way round where ``low`` > ``high``)."""
    t = np.clip((values - np.float32(low)) / np.float32(high - low), 0, 1)
    result: Array = t * t * (3 - 2 * t)
    return result


class Ink:
    """Dots and lines drawn in lesion coordinates, anti-aliased."""

    def __init__(self, view: View) -> None:
        self.view = view
        self._image = Image.new("L", (view.size * _INK_SCALE,) * 2)
        self._draw = ImageDraw.Draw(self._image)

    def dots(self, points: np.ndarray, radii: np.ndarray, values: np.ndarray | float = 1.0) -> Ink:
        """Discs at ``points`` (N, 2) with ``radii`` (N,) and opacity ``values``; later discs cover earlier ones."""
        centres = self.view.pixels(points) * _INK_SCALE
        sizes = np.maximum(np.asarray(radii) * self.view.radius * _INK_SCALE, 0.6)
        for (x, y), r, value in zip(centres, sizes, np.broadcast_to(values, sizes.shape), strict=True):
            self._draw.ellipse((x - r, y - r, x + r, y + r), fill=round(255 * float(value)))
        return self

    def lines(self, polylines: Iterable[np.ndarray], widths: Sequence[float], value: float = 1.0) -> Ink:
        """Polylines (N, 2) with ``widths`` in lesion units (at least one pixel of the fine raster)."""
        for points, width in zip(polylines, widths, strict=True):
            pixels = self.view.pixels(points) * _INK_SCALE
            thick = max(1, round(width * self.view.radius * _INK_SCALE))
            self._draw.line(
                [(float(x), float(y)) for x, y in pixels], fill=round(255 * value), width=thick, joint="curve"
            )
        return self

    def layer(self, blur: float = 0.0) -> Array:
        """What was drawn, (size, size) in [0, 1], blurred by ``blur`` lesion units."""
        image = self._image.reduce(_INK_SCALE)
        if blur:
            image = image.filter(ImageFilter.GaussianBlur(blur * self.view.radius))
        return np.asarray(image, np.float32) / np.float32(255)


def network(u: Array, v: Array, spacing: float) -> Array:
    """Honeycomb of dark lines around light holes, (H, W) in [0, 1]: three plane waves at 60 degrees.

    Args:
        u: first coordinate, warped for an irregular network.
        v: second coordinate.
        spacing: distance of neighbouring holes.
    """
    k = np.float32(4 * np.pi / (np.sqrt(3) * spacing))
    waves = np.cos(k * u)
    for angle in (np.pi / 3, 2 * np.pi / 3):
        waves += np.cos(k * (np.float32(np.cos(angle)) * u + np.float32(np.sin(angle)) * v))
    return ramp(waves, 0.9, -1.2)


def scattered(rng: np.random.Generator, spacing: float, reach: float = 1.0, jitter: float = 0.35) -> np.ndarray:
    """Points (N, 2) of a jittered hexagonal lattice within ``reach`` of the middle, in random order."""
    steps = np.arange(-int(reach / spacing) - 1, int(reach / spacing) + 2)
    a, b = np.meshgrid(steps, steps)
    points = np.stack([a + 0.5 * (b % 2), b * 0.866], axis=-1).reshape(-1, 2) * spacing
    points = points + rng.uniform(-jitter, jitter, points.shape) * spacing
    points = points[(points**2).sum(1) < reach * reach]
    return rng.permutation(points)


def random_points(rng: np.random.Generator, count: int, inner: float, outer: float) -> np.ndarray:
    """Points (count, 2), uniform in area between two distances from the middle."""
    distance = np.sqrt(rng.uniform(inner * inner, outer * outer, count))
    angle = rng.uniform(0, 2 * np.pi, count)
    return np.stack([distance * np.cos(angle), distance * np.sin(angle)], axis=1)
