"""The knee of the phantom: bones, cartilage, menisci, ligaments, fat, muscle and skin, and what is torn or bruised.

Model coordinates are millimetres of an average knee with the origin between the condyles at the height of the joint:
x to the outer (lateral) side, y forward, z upward. Femur and patella move with the thigh, tibia, fibula and menisci
with the shank. Sizes are rounded textbook values; the shapes are schematic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from medssl_monai.core import generator
from medssl_monai.data.phantoms.knee.findings import Findings, Ligament
from medssl_monai.data.phantoms.knee.menisci import (
    CARTILAGE,
    HORNS,
    MENISCUS_RADII,
    PLATEAU,
    meniscus,
    meniscus_centre,
    tear_sector,
    tear_sheet,
)
from medssl_monai.data.phantoms.knee.shapes import (
    Array,
    Distance,
    Layer,
    Solid,
    coats,
    common,
    cylinder,
    ellipsoid,
    half_space,
    joined,
    tube,
    without,
)

_CORTEX = 1.4


@dataclass(frozen=True)
class Knee:
    """A knee's build and pose.

    Attributes:
        right: whether it is a right knee.
        centre: (3,) world position of the joint's middle (RAS, mm).
        angles: three rotations of the whole knee about x, y, z in radians.
        flexion: rotation of the shank against the thigh in radians.
        scale: size; 1 is average.
        skin: semi-axes of the leg in mm (side, front).
        fat: thickness of the fat under the skin in mm.
        build: (8,) standard normal numbers for the variation of single structures.
        findings: what is wrong.
    """

    right: bool
    centre: tuple[float, float, float]
    angles: tuple[float, float, float]
    flexion: float
    scale: float
    skin: tuple[float, float]
    fat: float
    build: tuple[float, ...]
    findings: Findings

    @property
    def thigh(self) -> Array:
        """(4, 4): world to model coordinates of the thigh."""
        frame = np.eye(4)
        mirror = np.diag([1.0 if self.right else -1.0, 1.0, 1.0])
        frame[:3, :3] = mirror @ rotation(*self.angles).T / self.scale
        frame[:3, 3] = -frame[:3, :3] @ np.asarray(self.centre)
        return frame

    @property
    def shank(self) -> Array:
        """(4, 4): world to model coordinates of the shank, bent about the joint and slid forward by a torn ligament."""
        bend = np.eye(4)
        bend[:3, :3] = rotation(self.flexion, 0, 0).T
        if self.findings.ligament is not None:
            bend[1, 3] = -self.findings.ligament.shift
        return np.asarray(bend @ self.thigh)


def rotation(about_x: float, about_y: float, about_z: float) -> Array:
    """Rotation (3, 3): about x, then y, then z, in radians."""
    (cx, cy, cz), (sx, sy, sz) = np.cos([about_x, about_y, about_z]), np.sin([about_x, about_y, about_z])
    x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return np.asarray(z @ y @ x)


def draw_knee(seed: int, exam: int, findings: Findings) -> Knee:
    """Build and pose of an exam's knee, a function of (seed, exam); the findings do not change them."""
    rng = generator(seed, "knee", "anatomy", exam)
    right = bool(rng.random() < 0.5)
    side = 1.0 if right else -1.0
    scale = float(np.clip(rng.normal(1, 0.07), 0.86, 1.15))
    return Knee(
        right=right,
        centre=(side * float(rng.uniform(60, 100)), float(rng.uniform(-20, 20)), float(rng.uniform(-25, 25))),
        angles=(float(rng.normal(0, 0.05)), float(rng.normal(0, 0.04)), float(rng.normal(0, 0.1))),
        flexion=float(rng.uniform(-0.02, 0.1)),
        scale=scale,
        skin=(float(rng.uniform(55, 62)), float(rng.uniform(58, 66))),
        fat=float(rng.uniform(4, 12)),
        build=tuple(float(value) for value in rng.normal(0, 1, 8).clip(-2, 2)),
        findings=findings,
    )


def knee_solids(knee: Knee) -> list[Solid]:
    """All structures of a knee in the order they are painted: the outermost first, lesions over what they damage."""
    return [
        *_soft_tissue(knee),
        *_effusion(knee),
        *_tendons(knee),
        *_menisci(knee),
        *_cruciates(knee),
        *_cartilage(knee),
        *_bones(knee),
        *_lesions(knee),
    ]


def _solid(
    name: str, frame: Array, low: Sequence[float], high: Sequence[float], distance: Distance, *layers: Layer | str
) -> Solid:
    return Solid(name, frame, np.array(low, dtype=float), np.array(high, dtype=float), distance, coats(*layers))


def _ball(name: str, frame: Array, centre: Sequence[float], radii: Sequence[float], *layers: Layer | str) -> Solid:
    c, r = np.array(centre, dtype=float), np.array(radii, dtype=float)
    return Solid(name, frame, c - r, c + r, ellipsoid(centre, radii), coats(*layers))


def _pipe(name: str, frame: Array, points: ArrayLike, radii: ArrayLike, *layers: Layer | str) -> Solid:
    path, widest = np.asarray(points, dtype=float), float(np.max(radii))
    return Solid(name, frame, path.min(0) - widest, path.max(0) + widest, tube(path, radii), coats(*layers))


def _soft_tissue(knee: Knee) -> list[Solid]:
    thigh = knee.thigh
    rx, ry = knee.skin
    far = 150.0
    vessel = [(-2.0, -36.0, 110.0), (1.0, -37.0, 30.0), (0.0, -36.0, 0.0), (3.0, -32.0, -110.0)]
    return [
        _solid("leg", thigh, (-rx, -ry - 4, -far), (rx, ry - 4, far), cylinder((0, -4), (rx, ry)),
               "skin", Layer("fat", 1.8), Layer("muscle", 1.8 + knee.fat)),
        _ball("joint fat", thigh, (0, 6, -2), (min(rx - 4, 50), 44, 44), Layer("fat", softness=3.0)),
        _pipe("vessel", thigh, vessel, 4.0, "vessel"),
        _ball("synovium", thigh, (0, -8, 10), (11, 20, 17), Layer("synovium", softness=2.0)),
    ]  # fmt: skip


def _effusion(knee: Knee) -> list[Solid]:
    """A trace of fluid in every knee, a pouch above and behind the patella with an effusion."""
    extent = 0.25 + 0.1 * abs(knee.build[0])
    pouch = _ball("fluid", knee.thigh, (0, 31, 46), (9 + 8 * extent, 2 + 2 * extent, 9 + 8 * extent), "fluid")
    if "effusion" not in knee.findings.other:
        return [pouch]
    size = (0.7 + 0.6 * knee.findings.extent) * knee.findings.severity**0.5
    parts = joined(
        ellipsoid((0, 32, 52), (24 * size, 6 * size, 22 * size)),
        *(ellipsoid((x, 18, 28), (5 * size, 12 * size, 14 * size)) for x in (-28, 28)),
    )
    wide = max(28 + 5 * size, 24 * size)
    low, high = (-wide, 18 - 12 * size, 28 - 14 * size), (wide, 32 + 12 * size, 52 + 22 * size)
    return [_solid("effusion", knee.thigh, low, high, parts, "fluid")]


def _tendons(knee: Knee) -> list[Solid]:
    thigh, shank = knee.thigh, knee.shank
    tubercle = _carried(knee, (2, 25, -38))
    hamstring = [(-24, -34, 110), (-28, -33, 20), (-26, -24, -45)]
    return [
        _pipe("quadriceps tendon", thigh, [(1, 41, 44), (0, 37, 120)], [4.0, 5.0], "tendon"),
        _pipe("patellar tendon", thigh, [(2, 41, 12), (2, 38, 0), tubercle], [4.0, 3.2, 3.6], "tendon"),
        _pipe("medial ligament", thigh, [(-36, -3, 32), (-39, -2, 0), _carried(knee, (-33, 2, -50))], 1.6, "ligament"),
        _pipe("lateral ligament", thigh, [(35, -8, 26), _carried(knee, (33, -18, -16))], 1.9, "ligament"),
        _pipe("hamstring", shank, hamstring, 3.0, "tendon"),
    ]


def _carried(knee: Knee, point: Sequence[float]) -> tuple[float, float, float]:
    """A point of the shank in the thigh's coordinates."""
    x, y, z, _ = knee.thigh @ np.linalg.inv(knee.shank) @ np.array([*point, 1.0])
    return float(x), float(y), float(z)


def _bones(knee: Knee) -> list[Solid]:
    thigh, shank = knee.thigh, knee.shank
    layers = coats("cortical", Layer("marrow", _CORTEX))
    femur = joined(*_condyles(0.0), _trochlea(0.0), ellipsoid((0, -2, 42), (33, 19, 32)),
                   tube([(0, -1, 50), (0, 0, 150)], [16, 14]))  # fmt: skip
    head = common(ellipsoid((0, -3, -22), (41, 27, 38)), half_space((0, 0, 1), PLATEAU))
    tibia = joined(
        head, ellipsoid((0, -2, PLATEAU), (6, 9, 4.5)), tube([(0, -3, -45), (-2, -3, -150)], [18, 13]),
        ellipsoid((2, 19, -38), (8, 8, 12)),
    )  # fmt: skip
    fibula = [(32, -18, -24), (32, -20, -40), (29, -19, -150)]
    return [
        _solid("femur", thigh, (-37, -36, 2), (37, 29, 150), femur, *layers),
        _solid("tibia", shank, (-41, -30, -150), (41, 28, 2), tibia, *layers),
        _pipe("fibula", shank, fibula, [8.5, 6.5, 6.0], *layers),
        _ball("patella", thigh, (2, 41, 28), (20, 9, 19), *layers),
    ]


def _condyles(grown: float) -> tuple[Distance, Distance]:
    return (
        ellipsoid((-21, -6, 21), (14.5 + grown, 29 + grown, 18.5 + grown)),
        ellipsoid((21, -5, 21), (14.5 + grown, 28 + grown, 18.5 + grown)),
    )


def _trochlea(grown: float) -> Distance:
    return without(
        ellipsoid((0, 8, 27), (31 + grown, 17.5 + grown, 18 + grown)),
        ellipsoid((0, 33, 27), (11 - grown, 10.5 - grown, 40)),
    )


def _cartilage(knee: Knee) -> list[Solid]:
    thick = CARTILAGE * (1 + 0.08 * knee.build[1])
    femur = common(joined(*_condyles(thick)), half_space((0, 0, 1), 20.0))
    groove = common(_trochlea(thick), half_space((0, -1, 0), -14.0))
    plates = common(
        joined(ellipsoid((-21, -4, PLATEAU), (15, 19, thick)), ellipsoid((21, -4, PLATEAU), (15, 18, thick))),
        half_space((0, 0, -1), 1.0 - PLATEAU),
    )
    back = common(ellipsoid((2, 41, 28), (18, 9 + thick, 16)), half_space((0, 1, 0), 38.0))
    return [
        _solid("femoral cartilage", knee.thigh, (-39, -39, -1), (39, 27, 20), femur, "cartilage"),
        _solid("trochlear cartilage", knee.thigh, (-34, 14, 6), (34, 29, 48), groove, "cartilage"),
        _solid("tibial cartilage", knee.shank, (-36, -24, -5), (36, 16, 1), plates, "cartilage"),
        _solid("patellar cartilage", knee.thigh, (-17, 28, 11), (21, 38, 45), back, "cartilage"),
    ]


def _menisci(knee: Knee) -> list[Solid]:
    solids = []
    for medial in (True, False):
        height = 7.5 * (1 + 0.06 * knee.build[2 + medial])
        cx, cy, cz = meniscus_centre(medial)
        low, high = (cx - 18, cy - 22, cz - 1), (cx + 18, cy + 22, cz + height + 1)
        whole = meniscus(medial, height)
        name = f"{'medial' if medial else 'lateral'} meniscus"
        solids.append(_solid(name, knee.shank, low, high, whole, "meniscus"))
        if abs(knee.build[4 + medial]) > 1.0:  # degeneration that reaches no surface is no tear
            spot = (cx, cy - 0.82 * MENISCUS_RADII[1], cz + 2.6)
            solids.append(_ball("degeneration", knee.shank, spot, (5, 1.6, 1.2), Layer("synovium", opacity=0.7)))
        tear, severity = knee.findings.meniscus, knee.findings.severity
        if tear is None or tear.medial != medial:
            continue
        if tear.kind in ("oblique", "vertical"):
            torn = common(whole, tear_sector(tear, HORNS, 1.05, severity), tear_sheet(tear, height, severity))
            solids.append(_solid("meniscus tear", knee.shank, low, high, torn, "tear"))
        else:
            outer = 0.83 if tear.kind == "truncated" else 0.88
            torn = common(whole, tear_sector(tear, 0.0, outer, severity))
            solids.append(_solid("meniscus tear", knee.shank, low, high, torn, "tear"))
        if tear.kind == "displaced":
            inner = 6.5 if medial else -6.5
            path = [
                (cx + inner * 1.6, cy - 15, cz + 2),
                (cx + inner * 2.0, cy - 2, cz + 4),
                (cx + inner * 1.6, cy + 8, cz + 2),
            ]
            solids.append(_pipe("fragment", knee.shank, path, [2.0, 2.8, 2.0], "meniscus"))
    return solids


def ligament_path(knee: Knee, count: int = 9) -> Array:
    """Course of the intact anterior cruciate ligament in the thigh's coordinates, (count, 3), from femur to tibia."""
    start, end = np.array([7.0, -17.0, 23.0]), np.array(_carried(knee, (-3, 6, -4)))
    t = np.linspace(0, 1, count)[:, None]
    path: Array = start + t * (end - start)
    return path


def _cruciates(knee: Knee) -> list[Solid]:
    thigh = knee.thigh
    t = np.linspace(0, 1, 7)[:, None]
    start, bend = np.array([-7.0, 3.0, 20.0]), np.array([-4.0, -28.0, 22.0])
    end = np.array(_carried(knee, (0, -25, -12)))
    posterior = (1 - t) ** 2 * start + 2 * t * (1 - t) * bend + t**2 * end
    thick = 1 + 0.08 * knee.build[6]
    solids = [_pipe("posterior cruciate ligament", thigh, posterior, 4.6 * thick, "ligament")]
    torn = knee.findings.ligament
    if torn is None:
        radii = 4.6 * thick * (0.82 + 0.72 * (np.linspace(0, 1, 9) - 0.5) ** 2)
        # fibres and the fat between them: the middle of the ligament is a little brighter than its rim
        return [*solids, _pipe("anterior cruciate ligament", thigh, ligament_path(knee), radii, "ligament",
                               Layer("synovium", 2.6, 0.35))]  # fmt: skip
    return [*solids, *_torn_ligament(knee, torn, 4.6 * thick)]


def _torn_ligament(knee: Knee, torn: Ligament, radius: float) -> list[Solid]:
    thigh, path = knee.thigh, ligament_path(knee, 17)
    middle = path[0] + torn.place * (path[-1] - path[0])
    swelling = _ball(
        "ligament oedema",
        thigh,
        middle,
        tuple(r * knee.findings.severity**0.5 for r in (6.0, 9.0, 9.0)),
        Layer("tear", opacity=torn.swelling, softness=4.0),
    )
    if torn.kind == "absent":
        stump = _pipe("anterior cruciate ligament", thigh, path[-4:], radius * 0.8, "torn")
        return [swelling, stump]
    if torn.kind == "gap":
        gap = max(2, round(17 * 0.14))
        at = round(torn.place * 16)
        upper, lower = path[: at - gap + 1], path[at + gap :]
        return [
            swelling,
            _pipe("anterior cruciate ligament", thigh, upper, np.linspace(1, 0.7, len(upper)) * radius, "torn"),
            _pipe("anterior cruciate ligament", thigh, lower, np.linspace(0.7, 1, len(lower)) * radius, "torn"),
        ]
    t = np.linspace(0, 1, 17)
    across = np.array([0.0, 0.75, 0.66])  # at a right angle to the ligament, within the sagittal plane
    slack = path + (4.0 * np.sin(2.5 * np.pi * t) * np.sin(np.pi * t))[:, None] * across
    return [swelling, _pipe("anterior cruciate ligament", thigh, slack, radius * 0.85, "torn", Layer("tear", 1.5, 0.8))]


def _lesions(knee: Knee) -> list[Solid]:
    """Bruised bone and holes in the cartilage of a femoral condyle."""
    found, thigh = knee.findings, knee.thigh
    side = -21.0 if found.medial else 21.0
    size = (0.75 + 0.5 * found.extent) * found.severity**0.5
    solids = []
    if "bruise" in found.other:
        places = [("bone bruise", thigh, (side, 4.0, 15.0)), ("bone bruise", knee.shank, (side, -10.0, -13.0))]
        radii = (9.0 * size, 10.0 * size, 8.0 * size)
        solids += [_ball(name, frame, place, radii, Layer("oedema", 1.0, 0.9, 5.0)) for name, frame, place in places]
    if "cartilage" in found.other:
        place = (side, -4.0 + 8.0 * (found.extent - 0.5), 1.6)
        solids += [
            _ball(
                "oedema below the hole",
                thigh,
                (place[0], place[1], 7.0),
                (5 * size, 6 * size, 5),
                Layer("oedema", 1.0, 0.8, 3.0),
            ),
            _ball("cartilage hole", thigh, place, (5.5 * size, 7.0 * size, 2.8), "fluid"),
        ]
    return solids
