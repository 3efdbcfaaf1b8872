"""The menisci of the phantom's knee and the tears in them, in the shank's coordinates."""

from __future__ import annotations

import numpy as np

from medssl_monai.data.phantoms.knee.findings import Meniscus
from medssl_monai.data.phantoms.knee.shapes import Array, Distance

CARTILAGE = 2.4
PLATEAU = -3.0  # height of the tibia's bone; its cartilage and the menisci lie on top
MENISCUS_RADII = (18.0, 22.0)
HORNS = 0.5  # inner edge of a meniscus as a part of its outer radius


def meniscus_centre(medial: bool) -> tuple[float, float, float]:
    """Middle of a meniscus' base in the shank's coordinates."""
    return (-21.0 if medial else 21.0), -4.0, PLATEAU + CARTILAGE


def meniscus(medial: bool, height: float) -> Distance:
    """A C with a triangular section: high outside, thin inside, open towards the notch."""
    cx, cy, cz = (np.float32(value) for value in meniscus_centre(medial))
    rx, ry = (np.float32(r) for r in MENISCUS_RADII)
    mean = np.float32((rx + ry) / 2)
    inward = np.float32(1 if medial else -1)

    def distance(x: Array, y: Array, z: Array) -> Array:
        x, y, z = x - cx, y - cy, z - cz
        radius = np.sqrt((x / rx) ** 2 + (y / ry) ** 2)
        top = z - np.float32(0.4) - (radius - np.float32(HORNS)) * np.float32(height / (1 - HORNS))
        result = np.maximum(top, -z)
        np.maximum(result, (radius - 1) * mean, out=result)
        np.maximum(result, (np.float32(HORNS) - radius) * mean, out=result)
        return np.asarray(np.maximum(result, inward * x - np.float32(11), out=result))

    return distance


def tear_sector(tear: Meniscus, inner: float, outer: float, severity: float) -> Distance:
    """The part of a C around the tear's angle, between two distances from its middle (of its outer radius)."""
    cx, cy, _ = (np.float32(value) for value in meniscus_centre(tear.medial))
    rx, ry = (np.float32(r) for r in MENISCUS_RADII)
    mean = np.float32((rx + ry) / 2)
    turn = -np.pi / 2 + (-tear.angle if tear.medial else tear.angle)  # backward, towards the outer side
    dx, dy = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    limit = np.float32(np.cos(min(tear.reach * severity, 1.4)))

    def distance(x: Array, y: Array, z: Array) -> Array:
        x, y = (x - cx) / rx, (y - cy) / ry
        radius = np.sqrt(x * x + y * y)
        result = (radius * limit - (x * dx + y * dy)) * mean
        np.maximum(result, (np.float32(inner) - radius) * mean, out=result)
        return np.asarray(np.maximum(result, (radius - np.float32(outer)) * mean, out=result))

    return distance


def tear_sheet(tear: Meniscus, height: float, severity: float) -> Distance:
    """A thin sheet through the triangle: lying and tilted, or upright along the C."""
    cx, cy, cz = (np.float32(value) for value in meniscus_centre(tear.medial))
    rx, ry = (np.float32(r) for r in MENISCUS_RADII)
    mean, tilt = np.float32((rx + ry) / 2), np.float32(tear.tilt)
    upright = tear.kind == "vertical"

    def distance(x: Array, y: Array, z: Array) -> Array:
        radius = np.sqrt(((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2)
        away = (radius - np.float32(0.8)) * mean
        if not upright:
            away = (z - cz) - np.float32(0.4 * height) - tilt * away
        return np.asarray(np.abs(away) - np.float32(severity))

    return distance
