"""Shapes that the abdomen needs beside those of the knee: trunks, tilted, wavy and softly joined solids."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medssl_monai.data.phantoms.knee.shapes import Array, Distance


def trunk(centre: Sequence[float], radii: Sequence[float], roundness: float, flare: Sequence[float]) -> Distance:
    """Distance to an endless trunk along z, about exact at its surface.

    Args:
        centre: (x, y) of its axis.
        radii: half of its width and depth at z = 0, in millimetres.
        roundness: 1 is an ellipse, less is squarer.
        flare: relative growth of both radii over 100 mm of z, linear and square.
    """
    cx, cy = (np.float32(c) for c in centre)
    ix, iy = (np.float32(1 / r) for r in radii)
    mean, mixed = np.float32(np.mean(radii)), np.float32(2 * roundness)
    linear, square = np.float32(flare[0] / 100), np.float32(flare[1] / 1e4)

    def distance(x: Array, y: Array, z: Array) -> Array:
        size = 1 + z * (linear + square * z)
        x, y = (x - cx) * ix, (y - cy) * iy
        x *= x
        y *= y
        cross = x * y
        cross *= mixed
        x *= x
        y *= y
        x += y
        x += cross
        np.sqrt(x, out=x)
        np.sqrt(x, out=x)
        x -= size
        x *= mean
        return x

    return distance


def tilted(shape: Distance, centre: Sequence[float], turn: Array) -> Distance:
    """A shape that lies at the origin, turned and moved.

    Args:
        shape: its distance.
        centre: (3,) where it is moved to.
        turn: (3, 3) rotation.
    """
    c, m = np.asarray(centre, np.float32), np.asarray(turn, np.float32)

    def distance(x: Array, y: Array, z: Array) -> Array:
        x, y, z = x - c[0], y - c[1], z - c[2]
        u, v, w = (m[0, k] * x + m[1, k] * y + m[2, k] * z for k in range(3))
        return shape(u, v, w)

    return distance


def grown(shape: Distance, margin: float) -> Distance:
    """A shape grown by a margin in millimetres, shrunk by a negative one."""
    return lambda x, y, z: shape(x, y, z) - np.float32(margin)


def blended(first: Distance, second: Distance, width: float) -> Distance:
    """Union whose edge is filled over a width in millimetres."""
    k = np.float32(width)

    def distance(x: Array, y: Array, z: Array) -> Array:
        a, b = first(x, y, z), second(x, y, z)
        part = np.clip(0.5 + (b - a) / (2 * k), 0, 1)
        b -= (b - a) * part
        b -= k * part * (1 - part)
        return b

    return distance


def wavy(shape: Distance, waves: Array, phases: Array, amplitude: float) -> Distance:
    """A shape with a surface that waves, so that no two are alike.

    Args:
        shape: its distance.
        waves: (n, 3) wave vectors in 1/mm.
        phases: (n,).
        amplitude: of each wave, in millimetres; as small as the shape is still exact to first order.
    """
    vectors, starts = np.asarray(waves, np.float32), np.asarray(phases, np.float32)

    def distance(x: Array, y: Array, z: Array) -> Array:
        total = shape(x, y, z)
        for (a, b, c), start in zip(vectors, starts):
            total += np.float32(amplitude) * np.sin(a * x + b * y + c * z + start)
        return total

    return distance
