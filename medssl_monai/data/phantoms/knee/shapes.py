"""Tools the knee phantom is made of: solids given by signed distances, painted onto any grid of slices.

A solid lives in a frame of its own (millimetres of the model), so that every structure is the same in whatever plane
and at whatever resolution it is sampled. Painting visits only the block of the grid that a solid's bounding box covers.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

Array = np.ndarray[Any, np.dtype[np.floating[Any]]]
Distance = Callable[[Array, Array, Array], Array]
"""Signed distance in millimetres of the frame (negative inside) at points x, y, z of one shape."""


@dataclass(frozen=True)
class Layer:
    """A coat of paint.

    Attributes:
        tissue: what is painted.
        depth: distance below the solid's surface at which the coat begins, in millimetres.
        opacity: 1 covers what lies below.
        softness: width of the edge in millimetres, where it is wider than a pixel.
    """

    tissue: str
    depth: float = 0.0
    opacity: float = 1.0
    softness: float = 0.0


@dataclass(frozen=True)
class Solid:
    """A structure.

    Attributes:
        name: for tests and messages.
        frame: (4, 4) from world to the solid's frame, a rotation, a shift and one scale for all axes.
        low: (3,) lower corner of a box in the frame that holds the solid.
        high: (3,) upper corner.
        distance: signed distance in the frame.
        layers: coats, in the order they are painted.
    """

    name: str
    frame: Array
    low: Array
    high: Array
    distance: Distance
    layers: tuple[Layer, ...]

    @property
    def scale(self) -> float:
        """Millimetres of the world a millimetre of the frame."""
        return float(1 / np.cbrt(np.abs(np.linalg.det(self.frame[:3, :3]))))


def coats(*layers: Layer | str) -> tuple[Layer, ...]:
    """Layers from layers and names of tissues."""
    return tuple(Layer(layer) if isinstance(layer, str) else layer for layer in layers)


def paint(
    solids: Sequence[Solid],
    affine: ArrayLike,
    shape: tuple[int, int],
    slices: ArrayLike,
    palette: Mapping[str, float],
    pixel: float,
) -> Array:
    """Intensities of solids on a grid of slices; later solids cover earlier ones.

    Args:
        solids: the structures, from the outermost to the innermost.
        affine: (4, 4) from (column, row, slice) to world.
        shape: columns, rows.
        slices: (K,) positions along the third axis; fractions are places between slices.
        palette: intensity of each tissue; air is 0.
        pixel: width of the edges in millimetres.

    Returns:
        Image (K, rows, columns), float32.
    """
    positions = np.asarray(slices, dtype=np.float64)
    columns, rows = shape
    picture = np.zeros((len(positions), rows, columns), np.float32)
    for solid in solids:
        matrix = solid.frame @ np.asarray(affine, dtype=np.float64)
        margin = pixel / solid.scale + max(layer.softness for layer in solid.layers)
        block = _block(matrix, solid.low - margin, solid.high + margin, (columns, rows), positions)
        if block is None:
            continue
        part = picture[block]
        distance = solid.distance(*_coordinates(matrix, block, positions))
        for layer in solid.layers:
            width = np.float32(max(layer.softness, pixel / solid.scale))
            cover = distance + np.float32(layer.depth)
            cover *= -1 / width
            cover += np.float32(0.5)
            np.clip(cover, 0, 1, out=cover)
            if layer.opacity < 1:
                cover *= np.float32(layer.opacity)
            change = np.float32(palette[layer.tissue]) - part
            change *= cover
            part += change
    return picture


def _block(
    matrix: Array, low: Array, high: Array, shape: tuple[int, int], positions: Array
) -> tuple[slice, slice, slice] | None:
    """The part of the grid (slices, rows, columns) that a box of the frame can touch; ``None`` where there is none."""
    corners = np.array(list(itertools.product(*zip(low, high))))
    inverse = np.linalg.inv(matrix)
    places = corners @ inverse[:3, :3].T + inverse[:3, 3]
    first, last = places.min(0), places.max(0)
    spans = []
    for axis in (1, 0):
        begin, end = max(0, int(np.ceil(first[axis]))), min(shape[axis], int(np.floor(last[axis])) + 1)
        spans.append(slice(begin, end))
    inside = np.flatnonzero((positions >= first[2]) & (positions <= last[2]))
    if not len(inside) or any(span.stop <= span.start for span in spans):
        return None
    return slice(int(inside[0]), int(inside[-1]) + 1), spans[0], spans[1]


def _coordinates(matrix: Array, block: tuple[slice, slice, slice], positions: Array) -> tuple[Array, Array, Array]:
    """Coordinates of the block's points in the frame, three arrays (slices, rows, columns)."""
    k = positions[block[0]][:, None, None]
    j = np.arange(block[1].start, block[1].stop)[None, :, None]
    i = np.arange(block[2].start, block[2].stop)[None, None, :]
    rows = ((m[0] * i).astype(np.float32) + (m[1] * j + m[2] * k + m[3]).astype(np.float32) for m in matrix[:3])
    x, y, z = rows
    return x, y, z


def ellipsoid(centre: Sequence[float], radii: Sequence[float]) -> Distance:
    """Distance to an ellipsoid, exact at its surface to first order."""
    cx, cy, cz = (np.float32(c) for c in centre)
    ix, iy, iz = (np.float32(1 / r**2) for r in radii)

    def distance(x: Array, y: Array, z: Array) -> Array:
        x, y, z = x - cx, y - cy, z - cz
        gx, gy, gz = x * ix, y * iy, z * iz
        x *= gx
        y *= gy
        x += y
        z *= gz
        x += z
        x -= 1
        gx *= gx
        gy *= gy
        gx += gy
        gz *= gz
        gx += gz
        np.sqrt(gx, out=gx)
        gx *= 2
        gx += np.float32(1e-3)
        x /= gx
        return x

    return distance


def cylinder(centre: Sequence[float], radii: Sequence[float]) -> Distance:
    """Distance to an endless elliptic cylinder along z with centre (x, y) and two radii, about exact at its surface."""
    cx, cy = (np.float32(c) for c in centre)
    rx, ry = (np.float32(r) for r in radii)
    mean = np.float32((rx + ry) / 2)

    def distance(x: Array, y: Array, z: Array) -> Array:
        x, y = (x - cx) / rx, (y - cy) / ry
        x *= x
        y *= y
        x += y
        np.sqrt(x, out=x)
        x -= 1
        x *= mean
        return x

    return distance


def tube(points: ArrayLike, radii: ArrayLike) -> Distance:
    """Distance to a tube along a polyline (n, 3) with a radius at each point (n,)."""
    path, widths = (
        np.asarray(points, np.float32),
        np.broadcast_to(np.asarray(radii, np.float32), len(np.asarray(points))),
    )

    def distance(x: Array, y: Array, z: Array) -> Array:
        nearest: Array | None = None
        for a, b, ra, rb in zip(path[:-1], path[1:], widths[:-1], widths[1:]):
            along = b - a
            px, py, pz = x - a[0], y - a[1], z - a[2]
            h = px * along[0]
            h += py * along[1]
            h += pz * along[2]
            h /= np.float32(along @ along)
            np.clip(h, 0, 1, out=h)
            px -= h * along[0]
            py -= h * along[1]
            pz -= h * along[2]
            px *= px
            py *= py
            px += py
            pz *= pz
            px += pz
            np.sqrt(px, out=px)
            h *= rb - ra
            px -= h
            px -= ra
            nearest = px if nearest is None else np.minimum(nearest, px, out=nearest)
        return np.asarray(nearest)

    return distance


def half_space(normal: Sequence[float], offset: float) -> Distance:
    """Distance to the half space ``normal . p <= offset`` (``normal`` of length 1)."""
    nx, ny, nz = (np.float32(n) for n in normal)

    def distance(x: Array, y: Array, z: Array) -> Array:
        return np.asarray(nx * x + ny * y + nz * z - np.float32(offset))

    return distance


def joined(*parts: Distance) -> Distance:
    """Union."""
    return lambda x, y, z: _reduce(np.minimum, parts, x, y, z)


def common(*parts: Distance) -> Distance:
    """Intersection."""
    return lambda x, y, z: _reduce(np.maximum, parts, x, y, z)


def without(solid: Distance, hole: Distance) -> Distance:
    """``solid`` without ``hole``."""
    return lambda x, y, z: np.maximum(solid(x, y, z), -hole(x, y, z))


def _reduce(take: Any, parts: Sequence[Distance], x: Array, y: Array, z: Array) -> Array:
    result = parts[0](x, y, z)
    for part in parts[1:]:
        take(result, part(x, y, z), out=result)
    return result
