"""What tells the seven kinds of skin lesion apart under a dermatoscope, drawn schematically, one function a class.

After the structures named in the dermoscopy consensus (Kittler et al. 2016, *Standardization of terminology in
dermoscopy*, J Am Acad Dermatol 74(6)): network, globules, streaks, blue-white veil, milia-like cysts, comedo-like
openings, fissures, arborizing vessels, ovoid nests, strawberry pattern, scale, central white patch, lacunae.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from medssl_monai.data.phantoms.skin_lesions.canvas import (
    Array,
    Ink,
    View,
    network,
    ramp,
    random_points,
    scattered,
)

CLASSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
Colour = tuple[float, float, float]
WHITE: Colour = (0.93, 0.86, 0.84)
CREAM: Colour = (0.90, 0.83, 0.66)
BLUE_GRAY: Colour = (0.42, 0.45, 0.58)


@dataclass
class Layers:
    """A lesion in layers: how much melanin and blood absorb, and what lies over it.

    Attributes:
        melanin: optical density of brown pigment, (H, W).
        blood: optical density of blood, (H, W).
        overlays: (opacity (H, W), colour) drawn over the tissue, in order.
    """

    melanin: Array
    blood: Array
    overlays: list[tuple[Array, Colour]]


@dataclass(frozen=True)
class Shape:
    """Ranges of a class's outline and pigment; a lesion draws its own from each.

    Attributes:
        irregularity: size of the outline's waves.
        raggedness: size of the border's fine noise.
        softness: width of the border.
        melanin: density of brown pigment.
        blood: density of blood.
    """

    irregularity: tuple[float, float]
    raggedness: tuple[float, float]
    softness: tuple[float, float]
    melanin: tuple[float, float]
    blood: tuple[float, float]


SHAPES = {
    "akiec": Shape((0.03, 0.08), (0.04, 0.11), (0.3, 0.6), (0.10, 0.80), (0.15, 0.70)),
    "bcc": Shape((0.04, 0.09), (0.03, 0.10), (0.2, 0.5), (0.10, 0.75), (0.15, 0.65)),
    "bkl": Shape((0.03, 0.08), (0.04, 0.11), (0.04, 0.20), (0.25, 1.20), (0.02, 0.45)),
    "df": Shape((0.02, 0.05), (0.02, 0.07), (0.35, 0.7), (0.25, 0.90), (0.05, 0.50)),
    "mel": Shape((0.05, 0.13), (0.05, 0.14), (0.06, 0.30), (0.40, 1.40), (0.03, 0.50)),
    "nv": Shape((0.02, 0.07), (0.01, 0.06), (0.12, 0.45), (0.30, 1.30), (0.02, 0.50)),
    "vasc": Shape((0.04, 0.09), (0.02, 0.06), (0.05, 0.20), (0.10, 0.70), (0.25, 1.00)),
}


@dataclass(frozen=True)
class Scene:
    """What a class's function draws with.

    Attributes:
        view: the camera.
        rng: the lesion's own generator; the same draws for every view of the lesion.
        inside: 1 in the lesion, 0 outside, (H, W).
        depth: distance from the middle, 1 at the outline, (H, W).
        melanin: the lesion's density of brown pigment.
        blood: the lesion's density of blood.
        clarity: contrast of the structures, 0 to 1: not every lesion is a textbook picture.
    """

    view: View
    rng: np.random.Generator
    inside: Array
    depth: Array
    melanin: float
    blood: float
    clarity: float

    def chance(self, probability: float) -> bool:
        """A coin of the lesion's own."""
        return bool(self.rng.random() < probability)

    def warped(self, amount: float, cell: float = 0.5) -> tuple[Array, Array]:
        """Lesion coordinates moved by smooth noise."""
        u, v = self.view.coordinates
        return u + amount * self.view.noise(self.rng, cell), v + amount * self.view.noise(self.rng, cell)


def nevus(scene: Scene) -> Layers:
    """One regular pattern (network, globules or none), symmetric, fading towards the outline."""
    rng, inside = scene.rng, scene.inside
    density = inside * (1.15 - 0.5 * scene.depth**2 + 0.1 * scene.view.noise(rng, 0.4))
    pattern = rng.choice(3, p=[0.55, 0.25, 0.2])
    contrast = scene.clarity * (1 + 0.25 * scene.view.noise(rng, 0.5))
    if pattern == 0:
        u, v = scene.warped(0.035)
        density *= 1 + contrast * (0.95 * network(u, v, rng.uniform(0.18, 0.26)) - 0.45)
    elif pattern == 1:
        points = scattered(rng, rng.uniform(0.19, 0.25), reach=0.95, jitter=0.25)
        globules = Ink(scene.view).dots(points, rng.uniform(0.045, 0.075, len(points))).layer(0.015)
        density *= 1 + contrast * (1.1 * globules - 0.4)
    return Layers(scene.melanin * density, scene.blood * inside, [])


def melanoma(scene: Scene) -> Layers:
    """Asymmetric, several colours: broken network, blotches, streaks on one side, blue-white veil, regression."""
    rng, inside, view = scene.rng, scene.inside, scene.view
    u, v = view.coordinates
    side = rng.uniform(0, 2 * np.pi)
    tilt = (np.cos(side) * u + np.sin(side) * v).astype(np.float32)
    density = np.clip(1.0 + scene.clarity * (0.55 * tilt + 0.35 * view.noise(rng, 0.55)), 0.15, 2.2)
    wu, wv = scene.warped(0.07, 0.45)
    patchy = ramp(view.noise(rng, 0.5), -0.5, 0.5)
    density *= 1 + scene.clarity * patchy * (1.2 * network(wu, wv, rng.uniform(0.24, 0.36)) - 0.55)
    density += scene.clarity * ramp(view.noise(rng, 0.45), 0.8, 1.8)
    density *= inside
    if scene.chance(0.6):
        angles = side + rng.uniform(-0.8, 0.8, rng.integers(7, 16))
        rays = [np.array([0.75, 0.95 + 0.25 * rng.random()])[:, None] * [[np.cos(a), np.sin(a)]] for a in angles]
        density = np.maximum(density, scene.clarity * 1.2 * Ink(view).lines(rays, [0.04] * len(rays)).layer(0.015))
    points = random_points(rng, int(rng.integers(4, 16)), 0.3, 1.05)
    dots = Ink(view).dots(points, rng.uniform(0.015, 0.06, len(points))).layer(0.012)
    layers = Layers(scene.melanin * (density + scene.clarity * dots), scene.blood * inside, [])
    if scene.chance(0.6):
        layers.overlays.append((_patch(scene, 0.6, 0.5) * (0.65 * scene.clarity), BLUE_GRAY))
    if scene.chance(0.4):
        layers.overlays.append((_patch(scene, 0.45, 0.7) * (0.55 * scene.clarity), WHITE))
    return layers


def keratosis(scene: Scene) -> Layers:
    """Stuck-on plateau with a sharp, moth-eaten edge, milia-like cysts, comedo-like openings and fissures."""
    rng, inside, view = scene.rng, scene.inside, scene.view
    density = inside * (0.9 + 0.18 * view.noise(rng, 0.15))
    if scene.chance(0.6):
        u, v = scene.warped(0.13, 0.4)
        angle = rng.uniform(0, np.pi)
        wave = np.sin(rng.uniform(15, 24) * (np.cos(angle) * u + np.sin(angle) * v)).astype(np.float32)
        patchy = ramp(view.noise(rng, 0.5), -1.0, 0.4)
        density *= 1 + scene.clarity * patchy * (0.8 * ramp(wave, 0.0, 0.95) - 0.25)
    pits = scattered(rng, 0.28, reach=0.95)[: rng.integers(4, 16)]
    dark = Ink(view).dots(pits, rng.uniform(0.025, 0.065, len(pits))).layer(0.012)
    density += 1.3 * scene.clarity * dark * inside
    cysts = scattered(rng, 0.24, reach=0.95)[: rng.integers(5, 20)]
    bright = rng.uniform(0.35, 0.9, len(cysts))
    milia = Ink(view).dots(cysts, rng.uniform(0.02, 0.06, len(cysts)), bright).layer(0.015)
    wax = inside * np.float32(rng.uniform(0.0, 0.22))
    return Layers(
        scene.melanin * density, scene.blood * inside, [(wax, CREAM), (scene.clarity * milia * inside, CREAM)]
    )


def carcinoma(scene: Scene) -> Layers:
    """Pale and pink: branching sharp vessels, blue-gray ovoid nests, sometimes an ulcer and shiny white lines."""
    rng, inside, view = scene.rng, scene.inside, scene.view
    blood = scene.blood * inside * (0.75 + 0.25 * view.noise(rng, 0.5))
    melanin = scene.melanin * inside * (0.5 + 0.25 * view.noise(rng, 0.4))
    lines: list[np.ndarray] = []
    widths: list[float] = []
    for _ in range(rng.integers(1, 4)):
        start = random_points(rng, 1, 0.8, 1.0)[0]
        heading = np.arctan2(-start[1], -start[0]) + rng.uniform(-0.5, 0.5)
        _grow_vessel(rng, start, float(heading), 0.055, lines, widths)
    vessels = Ink(view).lines(lines, widths).layer(0.008)
    blood = blood + rng.uniform(0.8, 1.6) * scene.clarity * vessels * ramp(scene.depth, 1.35, 0.8)
    if scene.chance(0.35):
        ulcer = _patch(scene, 0.5, 0.3)
        blood, melanin = blood + 1.0 * ulcer, melanin + 0.6 * ulcer
    nests = random_points(rng, int(rng.integers(2, 8)), 0.2, 0.85)
    gray = Ink(view).dots(nests, rng.uniform(0.05, 0.16, len(nests)), rng.uniform(0.4, 0.9, len(nests))).layer(0.035)
    gray = scene.clarity * gray
    layers = Layers(melanin + 0.6 * gray, blood, [(0.75 * gray * ramp(scene.depth, 1.15, 0.9), BLUE_GRAY)])
    if scene.chance(0.4):
        layers.overlays.append((0.5 * scene.clarity * _shiny_lines(scene, 0.7), WHITE))
    return layers


def actinic(scene: Scene) -> Layers:
    """Ill-defined red: strawberry pattern (red between pale, plugged follicles), yellowish scale, dotted vessels."""
    rng, inside, view = scene.rng, scene.inside, scene.view
    holes = scattered(rng, rng.uniform(0.24, 0.36), reach=1.2, jitter=0.35)
    radii = rng.uniform(0.05, 0.1, len(holes))
    follicles = scene.clarity * Ink(view).dots(holes, radii, rng.uniform(0.3, 1.0, len(holes))).layer(0.025) * inside
    plugs = scene.clarity * Ink(view).dots(holes, 0.3 * radii).layer(0.01) * inside
    points = random_points(rng, int(rng.integers(10, 35)), 0.0, 1.0)
    vessels = scene.clarity * Ink(view).dots(points, np.full(len(points), 0.022)).layer() * inside
    redness = inside * (0.85 + 0.35 * view.noise(rng, 0.3))
    blood = scene.blood * redness * (1.25 - 0.8 * follicles) + 0.9 * vessels
    brown = inside * (0.55 + 0.5 * ramp(view.noise(rng, 0.25), 0.0, 1.4)) * (1 - 0.4 * follicles)
    scale = ramp(view.noise(rng, 0.11) + 0.7 * view.noise(rng, 0.4), 1.0, 2.0) * inside
    overlays: list[tuple[Array, Colour]] = [
        (0.3 * follicles, WHITE),
        (0.5 * plugs, CREAM),
        (np.float32(rng.uniform(0.2, 0.75)) * scale, CREAM),
    ]
    return Layers(scene.melanin * brown, blood, overlays)


def dermatofibroma(scene: Scene) -> Layers:
    """Central white scar-like patch, with a delicate network that is strongest around it and fades outwards."""
    rng, inside, view = scene.rng, scene.inside, scene.view
    core = rng.uniform(0.25, 0.5)
    ring = np.exp(-(((scene.depth - (core + 0.3)) / 0.35) ** 2)).astype(np.float32)
    u, v = scene.warped(0.03)
    fine = scene.clarity * network(u, v, rng.uniform(0.15, 0.2))
    density = inside * (0.35 + ring * (0.45 + 0.6 * fine)) * (1 + 0.15 * view.noise(rng, 0.35))
    patch = ramp(scene.depth + 0.12 * view.noise(rng, 0.25), core + 0.25, core - 0.25)
    overlays = [(np.float32(rng.uniform(0.45, 0.85) * scene.clarity) * patch, WHITE)]
    if scene.chance(0.5):
        overlays.append((0.5 * scene.clarity * _shiny_lines(scene, core), WHITE))
    return Layers(scene.melanin * density, scene.blood * inside * (0.6 + 0.5 * ring), overlays)


def vascular(scene: Scene) -> Layers:
    """Well-defined red, purple or black lacunae, parted by pale septa."""
    rng, inside, view = scene.rng, scene.inside, scene.view
    spacing = rng.uniform(0.26, 0.48)
    lakes = scattered(rng, spacing, reach=1.0, jitter=0.3)
    radii = rng.uniform(0.36, 0.6, len(lakes)) * spacing
    filled = Ink(view).dots(lakes, radii, rng.uniform(0.5, 1.0, len(lakes))).layer(0.03) * ramp(scene.depth, 1.12, 0.98)
    filled = scene.clarity * filled
    dark = lakes[: rng.integers(0, max(2, len(lakes) // 3))]
    clots = scene.clarity * Ink(view).dots(dark, radii[: len(dark)]).layer(0.03) * inside
    blood = scene.blood * ((1 - 0.65 * scene.clarity) * inside + 1.2 * filled)
    melanin = scene.melanin * (0.3 * inside + 0.6 * filled) + 0.7 * clots
    overlays: list[tuple[Array, Colour]] = [(np.float32(rng.uniform(0.0, 0.45)) * filled, BLUE_GRAY)]
    if scene.chance(0.5):
        overlays.append((0.25 * inside * (1 - filled), WHITE))
    return Layers(melanin, blood, overlays)


DRAW: dict[str, Callable[[Scene], Layers]] = {
    "akiec": actinic,
    "bcc": carcinoma,
    "bkl": keratosis,
    "df": dermatofibroma,
    "mel": melanoma,
    "nv": nevus,
    "vasc": vascular,
}


def _patch(scene: Scene, spread: float, reach: float) -> Array:
    """An irregular patch off the middle, within the lesion."""
    place = random_points(scene.rng, 1, 0.1, reach)[0].astype(np.float32)
    u, v = scene.view.coordinates
    distance = np.hypot(u - place[0], v - place[1]) + 0.2 * scene.view.noise(scene.rng, 0.35)
    return ramp(distance, spread, 0.35 * spread) * scene.inside


def _shiny_lines(scene: Scene, reach: float) -> Array:
    """Short parallel and crossing white lines."""
    rng = scene.rng
    middles = random_points(rng, int(rng.integers(4, 10)), 0.0, reach)
    angle = rng.uniform(0, np.pi) + np.pi / 2 * rng.integers(0, 2, len(middles))
    half = rng.uniform(0.08, 0.2, len(middles))[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    strokes = list(np.stack([middles - half, middles + half], axis=1))
    return Ink(scene.view).lines(strokes, [0.025] * len(strokes)).layer(0.008) * scene.inside


def _grow_vessel(
    rng: np.random.Generator,
    start: np.ndarray,
    heading: float,
    width: float,
    lines: list[np.ndarray],
    widths: list[float],
) -> None:
    """Add a vessel that winds, thins and branches; appended to ``lines`` and ``widths``."""
    if width < 0.02:
        return
    turns = heading + np.cumsum(rng.normal(0, 0.28, 5))
    steps = rng.uniform(0.07, 0.13, 5)[:, None] * np.stack([np.cos(turns), np.sin(turns)], axis=1)
    points = np.vstack([start, start + np.cumsum(steps, axis=0)])
    lines.append(points)
    widths.append(width)
    for sign in (-1.0, 1.0):
        angle = float(turns[-1] + sign * rng.uniform(0.3, 0.8))
        _grow_vessel(rng, points[-1], angle, width * rng.uniform(0.6, 0.8), lines, widths)
