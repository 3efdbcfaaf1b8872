"""The abdomen of the phantom: its build, and the structures around the four organs that have masks.

Model coordinates are millimetres of one person: x to the person's right, y forward, z upward, the origin in the middle
of the trunk half way between the lowest and the highest of the four organs. Places and sizes are near those measured
in T2-weighted abdominal scans of healthy adults; the shapes are schematic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from medssl_monai.core import generator
from medssl_monai.data.phantoms.abdomen.forms import grown, trunk
from medssl_monai.data.phantoms.knee.anatomy import rotation
from medssl_monai.data.phantoms.knee.shapes import (
    Array,
    Distance,
    Layer,
    Solid,
    coats,
    common,
    ellipsoid,
    half_space,
    joined,
    tube,
    without,
)

LABELS = {0: "background", 1: "liver", 2: "right kidney", 3: "left kidney", 4: "spleen"}
_MAY_LACK = ("right kidney", "left kidney", "spleen")
_FAR = 400.0


@dataclass(frozen=True)
class Abdomen:
    """A person's build and pose.

    Attributes:
        seed: seed of the dataset.
        subject: number of the person.
        centre: (3,) world position of the origin of the model (RAS, mm).
        angles: rotations about x, y, z in radians.
        scale: size of the organs; 1 is average.
        width: half of the trunk's width in mm.
        depth: half of its depth in mm.
        fat: thickness of the fat under the skin in mm.
        wall: thickness of the muscles around the cavity in mm.
        roundness: of the trunk (see :func:`~medssl_monai.data.phantoms.abdomen.forms.trunk`).
        breath: how far the organs below the diaphragm are lowered, in mm.
        lacking: the organ that was removed or never grew; empty for none.
    """

    seed: int
    subject: int
    centre: tuple[float, float, float]
    angles: tuple[float, float, float]
    scale: float
    width: float
    depth: float
    fat: float
    wall: float
    roundness: float
    breath: float
    lacking: str

    @property
    def frame(self) -> Array:
        """(4, 4): world to model coordinates."""
        frame = np.eye(4)
        frame[:3, :3] = rotation(*self.angles).T
        frame[:3, 3] = -frame[:3, :3] @ np.asarray(self.centre)
        return frame

    @property
    def spine(self) -> float:
        """Where the middle of the vertebral bodies lies along y, in mm."""
        return -self.depth + self.fat + 74.0 * self.scale

    @property
    def organs(self) -> dict[int, str]:
        """Mask values and names of the organs that are there."""
        return {value: name for value, name in LABELS.items() if value and name != self.lacking}

    def rng(self, *parts: str) -> np.random.Generator:
        """Generator of one structure, a function of (seed, subject, structure)."""
        return generator(self.seed, "abdomen", "structure", self.subject, *parts)

    def cavity(self) -> Distance:
        """The space inside the muscles."""
        inner = (self.width - self.fat - self.wall, self.depth - self.fat - 0.75 * self.wall - 9)
        return trunk((0, 9 - 0.25 * self.wall), inner, self.roundness, self.flare)

    @property
    def flare(self) -> tuple[float, float]:
        """How the trunk widens upward (see :func:`~medssl_monai.data.phantoms.abdomen.forms.trunk`)."""
        return float(self.rng("flare").normal(0.02, 0.02)), -0.02


def draw_abdomen(seed: int, subject: int, lacking: float) -> Abdomen:
    """Build and pose, a function of (seed, subject); an organ that lacks changes nothing else.

    Args:
        seed: seed of the dataset.
        subject: number of the person.
        lacking: share of persons without one of the kidneys or the spleen.
    """
    rng = generator(seed, "abdomen", "anatomy", subject)
    missing = generator(seed, "abdomen", "lacking", subject)
    scale = float(np.clip(rng.normal(1, 0.06), 0.87, 1.13))
    return Abdomen(
        seed=seed,
        subject=subject,
        centre=(float(rng.normal(0, 8)), float(rng.normal(0, 12)), float(rng.uniform(-60, 60))),
        angles=(float(rng.normal(0, 0.04)), float(rng.normal(0, 0.03)), float(rng.normal(0, 0.05))),
        scale=scale,
        width=152 * scale * float(rng.uniform(0.96, 1.03)),
        depth=114 * scale * float(rng.uniform(0.93, 1.12)),
        fat=float(rng.uniform(6, 18)),
        wall=float(rng.uniform(9, 14)),
        roundness=float(rng.uniform(0.6, 1.0)),
        breath=float(rng.uniform(-12, 14)),
        lacking=_MAY_LACK[int(missing.integers(len(_MAY_LACK)))] if missing.random() < lacking else "",
    )


def solid(
    person: Abdomen, name: str, low: ArrayLike, high: ArrayLike, distance: Distance, *layers: Layer | str
) -> Solid:
    """A structure of a person in model coordinates."""
    return Solid(name, person.frame, np.asarray(low, float), np.asarray(high, float), distance, coats(*layers))


def ball(person: Abdomen, name: str, centre: Sequence[float], radii: Sequence[float], *layers: Layer | str) -> Solid:
    """An ellipsoid along the axes of the model."""
    c, r = np.array(centre, dtype=float), np.array(radii, dtype=float)
    return solid(person, name, c - r, c + r, ellipsoid(centre, radii), *layers)


def pipe(person: Abdomen, name: str, points: ArrayLike, radii: ArrayLike, *layers: Layer | str) -> Solid:
    """A tube along points."""
    path, widest = np.asarray(points, dtype=float), float(np.max(radii))
    return solid(person, name, path.min(0) - widest, path.max(0) + widest, tube(path, radii), *layers)


def surroundings(person: Abdomen) -> list[Solid]:
    """All that the four organs lie in, the outermost first."""
    return [*_trunk(person), *_lungs(person), *_spine(person), *_vessels(person), *_bowel(person)]


def _trunk(person: Abdomen) -> list[Solid]:
    outer = trunk((0, 0), (person.width, person.depth), person.roundness, person.flare)
    reach = (person.width * 1.2, person.depth * 1.2, _FAR)
    low, high = tuple(-r for r in reach), reach
    layers = ("skin", Layer("fat", 2.0), Layer("muscle", 2.0 + person.fat, softness=3.0))
    return [
        solid(person, "trunk", low, high, outer, *layers),
        solid(person, "cavity", low, high, person.cavity(), Layer("visceral fat", softness=3.0)),
    ]


def domes(person: Abdomen) -> Distance:
    """What lies below the two domes of the diaphragm."""
    s, down = person.scale, person.breath
    return joined(
        ellipsoid((70 * s, 2, 20 - down), (72 * s, 98 * s, 96 * s)),
        ellipsoid((-66 * s, 0, 10 - down), (72 * s, 98 * s, 86 * s)),
        ellipsoid((0, 30, 14 - down), (92 * s, 76 * s, 84 * s)),
        half_space((0, 0, 1), 45 - down),
    )


def _lungs(person: Abdomen) -> list[Solid]:
    s, down = person.scale, person.breath
    inside, below = grown(person.cavity(), -2.0), domes(person)
    space = without(inside, below)
    low, high = (-person.width, -person.depth, 40 - down), (person.width, person.depth, _FAR)
    heart = common(inside, ellipsoid((-22 * s, 34, 128 - down), (62 * s, 46 * s, 42 * s)))
    return [
        solid(person, "lungs", low, high, space, Layer("lung", softness=2.0)),
        ball(person, "mediastinum", (0, person.spine + 22, 130), (38, 34, 95), Layer("muscle", softness=6.0)),
        solid(person, "heart", low, high, heart, "heart", Layer("flow", 9.0, softness=4.0)),
    ]


def _spine(person: Abdomen) -> list[Solid]:
    s, y, rng = person.scale, person.spine, person.rng("spine")
    solids = [
        pipe(person, "vertebral bodies", [(0, y, -_FAR), (0, y, _FAR)], 19.5 * s, "cortical", Layer("marrow", 1.5)),
        pipe(person, "arch", [(0, y - 34 * s, -_FAR), (0, y - 34 * s, _FAR)], 9 * s, "cortical", Layer("marrow", 2)),
        pipe(person, "canal", [(0, y - 25 * s, -_FAR), (0, y - 25 * s, _FAR)], 9.5 * s, "cortical",
             Layer("csf", 1.5), Layer("cord", 5.5, 0.7)),
    ]  # fmt: skip
    start = float(rng.uniform(-140, -104))
    for place in np.arange(start, 180, 35 * s):
        disc = ellipsoid((0, y, place), (20 * s, 19 * s, 5 * s))
        size = np.array((20 * s, 19 * s, 5 * s))
        middle = np.array((0, y, place))
        solids.append(solid(person, "disc", middle - size, middle + size, disc, "disc"))
    for side in (-1, 1):
        psoas = [(side * 24 * s, y - 2, 30), (side * 34 * s, y - 1, -40), (side * 48 * s, y + 2, -_FAR / 2)]
        solids.append(pipe(person, "psoas", psoas, [5, 15 * s, 25 * s], "muscle"))
        crus = [(side * 14 * s, y + 18 * s, 10), (side * 20 * s, y + 14 * s, 75)]
        solids.append(pipe(person, "crus", crus, [4, 5], "muscle"))
    return solids


def cava(person: Abdomen) -> tuple[Array, float]:
    """Course (n, 3) and radius of the inferior vena cava."""
    s, y, rng = person.scale, person.spine, person.rng("cava")
    wave = rng.normal(0, 2, 3)
    path = [(22 * s + wave[0], y + 20 * s, -_FAR), (23 * s + wave[1], y + 22 * s, 0), (20 * s, y + 32 * s, 110)]
    return np.array(path), float(rng.uniform(8, 11.5)) * s


def _vessels(person: Abdomen) -> list[Solid]:
    s, y, rng = person.scale, person.spine, person.rng("vessels")
    wave = rng.normal(0, 2, 3)
    aorta = [(-9 * s + wave[0], y + 25 * s, -_FAR), (-10 * s + wave[1], y + 29 * s, 0), (-16 * s, y + 14 * s, 160)]
    course, radius = cava(person)
    solids = [
        pipe(person, "aorta", aorta, float(rng.uniform(8.5, 11)) * s, "vessel wall", Layer("artery", 1.5)),
        pipe(person, "vena cava", course, radius, "vessel wall", Layer("vein", 1.0)),
    ]
    level = float(rng.uniform(-45, -25)) - person.breath / 2
    for side in (-1, 1):
        renal = [(-4 * s, y + 24 * s, level), (side * 30 * s, y + 14 * s, level), (side * 52 * s, y + 2, level)]
        solids.append(pipe(person, "renal vessels", renal, [4.0, 4.0, 3.0], "vein"))
    return solids


def _bowel(person: Abdomen) -> list[Solid]:
    """Loops of gut in front and below, filled with fluid, chyme or gas, and the colon at the flanks."""
    rng, s = person.rng("bowel"), person.scale
    inside = grown(person.cavity(), -4.0)
    reach = np.array([person.width - person.fat - person.wall - 16, person.depth - person.fat - person.wall - 14, 0])
    solids = []
    for index in range(30):
        fill = str(rng.choice(["fluid", "chyme", "chyme", "gas", "collapsed"]))
        z = float(rng.uniform(-150, 0))
        x = float(rng.uniform(-0.85, 0.5 if z > -50 else 0.85)) * reach[0]
        y = float(rng.uniform(0.05, 0.85)) * reach[1] * np.sqrt(max(0.1, 1 - (x / reach[0]) ** 2))
        steps = np.cumsum(rng.normal(0, 15, (3, 3)), 0)
        path = np.array([x, y, z]) + np.concatenate([np.zeros((1, 3)), steps]) * [1, 0.6, 0.8]
        radii = rng.uniform(9, 16) * s * rng.uniform(0.8, 1.1, 4)
        widest = float(radii.max())
        gut = common(tube(path, radii), inside)
        low, high = path.min(0) - widest, path.max(0) + widest
        solids.append(solid(person, f"gut {index}", low, high, gut, "gut wall", Layer(fill, 2.5, softness=2.0)))
    for side, high_end in ((1, -45), (-1, -5)):
        colon = [(side * reach[0] * 0.93, 5.0 + rng.normal(0, 6), z) for z in (-260, -130, high_end)]
        fill = str(rng.choice(["gas", "stool"]))
        solids.append(pipe(person, "colon", colon, [17 * s, 16 * s, 14 * s], "gut wall", Layer(fill, 2.5)))
    return solids
