"""The four organs with masks, their vessels and pyramids, and the neighbours that shape them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medssl_monai.data.phantoms.abdomen.anatomy import LABELS, Abdomen, ball, cava, domes, pipe, solid, surroundings
from medssl_monai.data.phantoms.abdomen.forms import blended, grown, tilted, wavy
from medssl_monai.data.phantoms.knee.anatomy import rotation
from medssl_monai.data.phantoms.knee.shapes import (
    Array,
    Distance,
    Layer,
    Solid,
    common,
    ellipsoid,
    half_space,
    joined,
    tube,
    without,
)

_GAP = 2.5  # mm of fat between an organ and its neighbour


def abdomen_solids(person: Abdomen) -> list[Solid]:
    """All structures in the order they are painted; the organs with masks, named as in ``LABELS``, do not overlap."""
    organs = {name: parts for name, parts in organ_solids(person).items() if name != person.lacking}
    liver = organs.pop("liver")
    # the liver's neighbours cover the ends of its vessels
    return [*surroundings(person), *liver, *_neighbours(person), *(part for parts in organs.values() for part in parts)]


def organ_solids(person: Abdomen) -> dict[str, list[Solid]]:
    """The organs with masks, by name: first the organ itself, then what is painted inside it. None lacks here."""
    kidneys = {side: _kidney(person, side) for side in (1, -1)}
    spleen = _spleen_shape(person, kidneys[-1])
    lobes = _lobes(person)
    liver = _liver_shape(person, lobes, kidneys[1], spleen)
    return {
        "liver": [liver, *_liver_vessels(person, lobes)],
        "right kidney": [kidneys[1], *_kidney_parts(person, 1, kidneys[1])],
        "left kidney": [kidneys[-1], *_kidney_parts(person, -1, kidneys[-1])],
        "spleen": [spleen],
    }


def _waves(person: Abdomen, name: str, shape: Distance, amplitude: float, length: float) -> Distance:
    """A shape with the waves of its own organ."""
    rng = person.rng(name, "surface")
    directions = rng.normal(0, 1, (3, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    vectors = directions * (2 * np.pi / (length * rng.uniform(0.8, 1.4, (3, 1))))
    return wavy(shape, vectors, rng.uniform(0, 2 * np.pi, 3), amplitude)


def _inside(person: Abdomen, shape: Distance, margin: float = _GAP) -> Distance:
    """The part of a shape within the cavity and below the diaphragm."""
    return common(shape, grown(person.cavity(), -margin), grown(domes(person), -1.0))


def _behind(person: Abdomen, radius: float) -> Distance:
    """The room of the spine and the muscles beside it, which no organ enters."""
    return tube([(0, person.spine, -400), (0, person.spine, 400)], radius)


def _kidney_pose(person: Abdomen, side: int) -> tuple[Array, Array, Array]:
    """Centre, radii and rotation of a kidney; ``side`` is 1 on the person's right, -1 on the left."""
    rng, s = person.rng("kidney", str(side)), person.scale
    size = s * float(rng.uniform(0.9, 1.08))
    low = -48.0 if side > 0 else -36.0  # the liver pushes the right one down
    centre = np.array([side * float(rng.uniform(58, 74)) * s, person.spine - float(rng.uniform(-2, 10)),
                       low - person.breath + float(rng.normal(0, 9))])  # fmt: skip
    turn = rotation(float(rng.normal(0.18, 0.05)), side * float(rng.normal(0.2, 0.06)),
                    side * float(rng.normal(-0.5, 0.12)))  # fmt: skip
    radii = np.array([25.0, 29.0, 52.0]) * size * rng.uniform(0.94, 1.06, 3)
    return centre, radii, turn


def _kidney(person: Abdomen, side: int) -> Solid:
    name = LABELS[2 if side > 0 else 3]
    centre, radii, turn = _kidney_pose(person, side)
    hilum = ellipsoid((-side * radii[0] * 1.05, 4, 0), (radii[0] * 0.5, radii[1] * 0.4, radii[2] * 0.36))
    bean = without(ellipsoid((0, 0, 0), radii.tolist()), hilum)
    shape = _waves(person, name, tilted(bean, centre.tolist(), turn), 0.9, 32)
    shape = without(_inside(person, shape), _behind(person, 26 * person.scale))
    reach = np.full(3, radii.max() + 3)
    return solid(person, name, centre - reach, centre + reach, shape, "cortex", Layer("medulla", 7.0, 0.35, 4.0))


def _kidney_parts(person: Abdomen, side: int, kidney: Solid) -> list[Solid]:
    """Pyramids and the sinus with its pelvis."""
    rng = person.rng("pyramids", str(side))
    centre, radii, turn = _kidney_pose(person, side)
    parts = []
    for level in np.linspace(-0.6, 0.6, 6):
        for angle in rng.uniform(-0.25, 0.25) + np.linspace(0.7, 2 * np.pi - 0.7, 4):
            local = np.array([-side * np.cos(angle), np.sin(angle), 0]) * 0.56 * radii * np.sqrt(1 - level**2)
            place = centre + turn @ (local + np.array([0, 0, level * radii[2] * 0.9]))
            size = np.array([5.2, 5.2, 6.5]) * person.scale
            shape = common(ellipsoid(place.tolist(), size.tolist()), kidney.distance)
            parts.append(solid(person, "pyramid", place - size, place + size, shape,
                               Layer("medulla", opacity=0.8, softness=2.0)))  # fmt: skip
    place = centre + turn @ np.array([-side * radii[0] * 0.35, 2, 0])
    reach = np.array([radii[0] * 0.45, radii[1] * 0.3, radii[2] * 0.42])
    sinus = common(tilted(ellipsoid((0, 0, 0), reach.tolist()), place.tolist(), turn), kidney.distance)
    parts.append(solid(person, "sinus", place - reach.max(), place + reach.max(), sinus,
                       Layer("sinus", softness=3.0), Layer("urine", 4.0, 0.8, 2.0)))  # fmt: skip
    return parts


def _spleen_shape(person: Abdomen, kidney: Solid) -> Solid:
    rng, s = person.rng("spleen"), person.scale
    size = s * float(np.clip(rng.lognormal(0, 0.12), 0.8, 1.3))
    edge = person.width - person.fat - person.wall
    centre = np.array([-edge + 30 * size, person.spine + float(rng.uniform(-6, 12)),
                       16 - person.breath + float(rng.normal(0, 9))])  # fmt: skip
    turn = rotation(float(rng.normal(0.35, 0.1)), float(rng.normal(-0.15, 0.08)), float(rng.normal(0.35, 0.15)))
    radii = np.array([34.0, 50.0, 50.0]) * size * rng.uniform(0.9, 1.1, 3)
    hollow = ellipsoid((radii[0] * 1.25, 4, 0), (radii[0] * 1.0, radii[1] * 0.95, radii[2] * 1.2))
    crescent = without(ellipsoid((0, 0, 0), radii.tolist()), hollow)
    shape = _waves(person, "spleen", tilted(crescent, centre.tolist(), turn), 1.6, 45)
    shape = without(_inside(person, shape), grown(kidney.distance, _GAP))
    reach = np.full(3, radii.max() + 5)
    return solid(person, "spleen", centre - reach, centre + reach, shape, "spleen")


def _stomach(person: Abdomen) -> tuple[Array, Array]:
    rng, s = person.rng("stomach"), person.scale
    size = s * float(rng.uniform(0.75, 1.1))
    centre = np.array([-44 * s, 24 * s + float(rng.normal(0, 5)), 38 - person.breath + float(rng.normal(0, 8))])
    return centre, np.array([34.0, 30.0, 42.0]) * size


def _gallbladder(person: Abdomen) -> tuple[Array, Array]:
    rng, s = person.rng("gallbladder"), person.scale
    centre = np.array([50 * s + float(rng.normal(0, 5)), 42 * s, -12 - person.breath + float(rng.normal(0, 6))])
    return centre, np.array([12.0, 21.0, 17.0]) * s * float(rng.uniform(0.7, 1.15))


@dataclass(frozen=True)
class _Lobes:
    """The liver without its neighbours: the shape, and a box that holds it."""

    shape: Distance
    low: Array
    high: Array


def _lobes(person: Abdomen) -> _Lobes:
    rng, s, down = person.rng("liver"), person.scale, person.breath
    size = s * float(np.clip(rng.normal(1, 0.05), 0.88, 1.12))
    edge = person.width - person.fat - person.wall
    right = np.array([edge - 66 * size, 0, 32 - down])
    right_radii = np.array([72.0, 84.0, 82.0]) * size * rng.uniform(0.95, 1.05, 3)
    left = np.array([2.0 * s, 38.0 * s, 58 - down])
    left_radii = np.array([float(rng.uniform(62, 86)), 44.0, float(rng.uniform(32, 44))]) * size
    turn = rotation(0.0, float(rng.normal(0.2, 0.08)), float(rng.normal(-0.1, 0.1)))
    both = blended(
        ellipsoid(right.tolist(), right_radii.tolist()),
        tilted(ellipsoid((0, 0, 0), left_radii.tolist()), left.tolist(), turn), 14.0,
    )  # fmt: skip
    # the visceral surface rises from the right flank to the left and from the back to the front
    normal = np.array([-0.5, -0.12 + float(rng.normal(0, 0.05)), -0.86])
    normal /= np.linalg.norm(normal)
    lowest = right - np.array([0, 0, 40 * size])
    return _Lobes(
        common(both, half_space(normal.tolist(), float(normal @ lowest) + 4)),
        np.minimum(right - right_radii, left - left_radii.max()) - 8,
        np.maximum(right + right_radii, left + left_radii.max()) + 8,
    )


def _liver_shape(person: Abdomen, lobes: _Lobes, kidney: Solid, spleen: Solid) -> Solid:
    s = person.scale
    course, radius = cava(person)
    stomach, stomach_radii = _stomach(person)
    bladder, bladder_radii = _gallbladder(person)
    neighbours = joined(
        grown(kidney.distance, _GAP),
        grown(spleen.distance, _GAP),
        tube(course, radius + 1.5),
        _behind(person, 30 * s),
        ellipsoid(stomach.tolist(), (stomach_radii + 2 * _GAP).tolist()),
        ellipsoid(bladder.tolist(), (bladder_radii + 1.0).tolist()),
    )
    shape = without(_inside(person, _waves(person, "liver", lobes.shape, 2.2, 75), 1.5), neighbours)
    return solid(person, "liver", lobes.low, lobes.high, shape, "liver")


def _liver_vessels(person: Abdomen, lobes: _Lobes) -> list[Solid]:
    """Branches of the portal vein from the hilum and hepatic veins from the vena cava."""
    rng, s, down = person.rng("liver vessels"), person.scale, person.breath
    within = without(grown(lobes.shape, -6.0), _behind(person, 34 * s))
    hilum = np.array([32 * s, 16 * s, 12 - down])
    root = np.array([26 * s, person.spine + 36 * s, 78 - down])
    solids = []
    for start, count, spread in ((hilum, 10, (50, 46, 40)), (root, 6, (52, 60, 24))):
        for _ in range(count):
            goal = np.array([58 * s, 6, 32 - down]) + rng.normal(0, 1, 3) * spread
            fork = start + 0.55 * (goal - start) + rng.normal(0, 5, 3)
            for end in (goal, fork + rng.normal(0, 24, 3)):
                solids.append(_branch(person, within, [start, fork, end], rng.uniform(3.4, 5.2) * s))
    return solids


def _branch(person: Abdomen, within: Distance, points: Sequence[Array], radius: float) -> Solid:
    path = np.array(points)
    shape = common(tube(path, [radius, 0.7 * radius, 0.45 * radius]), within)
    return solid(person, "liver vessel", path.min(0) - radius, path.max(0) + radius, shape,
                 Layer("liver vessel"))  # fmt: skip


def _neighbours(person: Abdomen) -> list[Solid]:
    """Stomach, gallbladder and pancreas."""
    rng, s, y = person.rng("neighbours"), person.scale, person.spine
    stomach, radii = _stomach(person)
    content = str(rng.choice(["fluid", "chyme"]))
    level = float(stomach[1] + radii[1] * rng.uniform(0.0, 0.7))
    sac = _waves(person, "stomach", ellipsoid(stomach.tolist(), radii.tolist()), 2.0, 40)
    bubble = common(grown(sac, -3.5), half_space((0, -1, 0), -level))
    bladder, bladder_radii = _gallbladder(person)
    z = 2 - person.breath
    pancreas = [(34 * s, y + 46 * s, z - 16), (8 * s, y + 54 * s, z), (-34 * s, y + 46 * s, z + 8),
                (-68 * s, y + 26 * s, z + 16)]  # fmt: skip
    return [
        pipe(person, "pancreas", pancreas, np.array([12, 9, 9, 7]) * s, "pancreas"),
        solid(person, "stomach", stomach - radii - 7, stomach + radii + 7, sac, "gut wall",
              Layer(content, 3.5, softness=2.0)),
        solid(person, "stomach gas", stomach - radii - 7, stomach + radii + 7, bubble, "gas"),
        ball(person, "gallbladder", bladder.tolist(), bladder_radii.tolist(), "gut wall", Layer("urine", 1.5)),
    ]  # fmt: skip
