"""The picture of a skin-lesion phantom: skin, lesion, hair, light and camera."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

from medssl_monai.core import generator
from medssl_monai.data.phantoms.skin_lesions.canvas import Array, Ink, View, ramp, skin_noise
from medssl_monai.data.phantoms.skin_lesions.structures import CLASSES, DRAW, SHAPES, Layers, Scene

# absorption of red, green and blue by a unit of brown pigment and of blood
_MELANIN = np.array([0.62, 1.0, 1.35], np.float32)
_BLOOD = np.array([0.18, 1.0, 0.72], np.float32)
_LIGHT_SKIN = np.array([0.93, 0.77, 0.71])
_TAN_SKIN = np.array([0.80, 0.61, 0.49])
_DARK_SKIN = np.array([0.52, 0.36, 0.27])
_WAVES = np.arange(2, 8)
CLARITY = (0.35, 1.0)


def render(label: int, seed: int, subject: int, image: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw one image of one lesion.

    The lesion is a function of (seed, subject); where the camera stands, hair, light and noise of (seed, subject,
    image), so that several images of a subject show the same lesion.

    Args:
        label: index into ``CLASSES``.
        seed: seed of the dataset.
        subject: number of the subject.
        image: number of the image of this subject.
        size: edge in pixels.

    Returns:
        The image (size, size, 3) and the lesion's mask (size, size), both uint8; the mask is 0 and 1.
    """
    rng = generator(seed, "skin_lesions", "lesion", subject)
    camera = generator(seed, "skin_lesions", "camera", subject, image)
    tone = float(rng.beta(1.3, 2.6))
    skin_colour = np.interp(tone, (0.0, 0.55, 1.0), (0, 1, 2))
    palette = np.stack([_LIGHT_SKIN, _TAN_SKIN, _DARK_SKIN])
    skin = np.array([np.interp(skin_colour, (0, 1, 2), palette[:, channel]) for channel in range(3)], np.float32)
    skin = skin + rng.normal(0, 0.02, 3).astype(np.float32)
    view = _view(rng, camera, size)
    scene = _scene(CLASSES[label], view, rng)
    layers = DRAW[CLASSES[label]](scene)
    picture = _tissue(skin, layers, scene, camera)
    picture = _camera(_hair(_focus(picture, camera), view, camera), camera)
    mask = (scene.inside > 0.5).astype(np.uint8)
    return (picture * 255 + 0.5).astype(np.uint8), mask


def _view(rng: np.random.Generator, camera: np.random.Generator, size: int) -> View:
    """The lesion's size does not depend on its class; distance, place and turn are the camera's."""
    radius = size / 2 * float(np.clip(rng.uniform(0.34, 0.72) * camera.uniform(0.85, 1.15), 0.3, 0.8))
    shift = camera.normal(0, 0.07, 2).clip(-0.16, 0.16) * size
    return View(
        size,
        (size / 2 + float(shift[0]), size / 2 + float(shift[1])),
        radius,
        float(camera.uniform(0, 2 * np.pi)),
        bool(camera.random() < 0.5),
    )


def _scene(name: str, view: View, rng: np.random.Generator) -> Scene:
    """Draw a lesion's outline and densities from its class's ranges."""
    shape = SHAPES[name]
    u, v = view.coordinates
    stretch = np.float32(np.exp(rng.uniform(0, 0.28)))
    u, v = u / stretch, v * stretch
    angles = np.linspace(-np.pi, np.pi, 257)
    weights = rng.uniform(*shape.irregularity) * rng.normal(0, 1, len(_WAVES)) / np.sqrt(_WAVES / 2)
    waves = np.cos(_WAVES[:, None] * angles + rng.uniform(0, 2 * np.pi, len(_WAVES))[:, None])
    outline = np.clip(1 + weights @ waves, 0.5, 1.5).astype(np.float32)
    position = ((np.arctan2(v, u) + np.float32(np.pi)) * np.float32(256 / (2 * np.pi))).astype(np.int32)
    depth: Array = np.hypot(u, v) / outline[position]
    fine = view.noise(rng, 0.3) + 0.5 * view.noise(rng, 0.13)
    ragged = depth + np.float32(rng.uniform(*shape.raggedness)) * fine
    softness = rng.uniform(*shape.softness)
    inside = ramp(ragged, 1 + softness / 2, 1 - softness / 2)
    return Scene(
        view,
        rng,
        inside,
        depth,
        *(float(rng.uniform(low, high)) for low, high in (shape.melanin, shape.blood, CLARITY)),
    )


def _tissue(skin: Array, layers: Layers, scene: Scene, camera: np.random.Generator) -> Array:
    """Skin with its mottling and a reddish halo at times, seen through the lesion's pigment and blood."""
    rng, size = scene.rng, scene.view.size
    blood = layers.blood + np.float32(rng.uniform(0, 0.08)) * (1 + skin_noise(camera, size, 0.12))
    if rng.random() < 0.3:
        blood = blood + np.float32(rng.uniform(0.1, 0.35)) * ramp(scene.depth, 1.9, 0.9)
    grain = 0.5 * skin_noise(camera, size, 0.04) + skin_noise(camera, size, 0.015)
    melanin = layers.melanin + np.float32(rng.uniform(0.01, 0.05)) * grain
    density = melanin[..., None] * _MELANIN + blood[..., None] * _BLOOD
    picture = skin * np.exp(-np.maximum(density, 0))
    for opacity, colour in layers.overlays:
        # what lies over the tissue is lit by the same skin tone: white is not whiter than a dark skin allows
        shade = np.asarray(colour, np.float32) * (np.float32(0.35) + np.float32(0.65 / 0.93) * skin.max())
        picture += opacity[..., None] * (shade - picture)
    return picture


def _focus(picture: Array, camera: np.random.Generator) -> Array:
    """The lens: a blur of up to a pixel in a hundred."""
    blur = float(camera.uniform(0.15, 0.9)) * picture.shape[0] / 100
    shown = Image.fromarray((np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8))
    return np.asarray(shown.filter(ImageFilter.GaussianBlur(blur)), np.float32) / np.float32(255)


def _hair(picture: Array, view: View, camera: np.random.Generator) -> Array:
    """Hairs over every third lesion, and specks of reflected light over some."""
    frame = View(view.size, (view.size / 2, view.size / 2), view.size / 2, 0.0)
    if camera.random() < 0.35:
        count = int(camera.integers(2, 11))
        start = camera.uniform(-1.1, 1.1, (count, 2))
        angle = camera.uniform(0, 2 * np.pi) + camera.normal(0, 0.5, count)
        length = camera.uniform(0.4, 1.6, count)
        along = np.stack([np.cos(angle), np.sin(angle)], axis=1) * length[:, None]
        bend = np.stack([-along[:, 1], along[:, 0]], axis=1) * camera.uniform(-0.35, 0.35, count)[:, None]
        t = np.linspace(0, 1, 12)[None, :, None]
        strands = start[:, None] + t * along[:, None] + 4 * t * (1 - t) * bend[:, None] / 2
        hair = Ink(frame).lines(list(strands), list(camera.uniform(0.008, 0.02, count))).layer()
        colour = np.array([0.16, 0.11, 0.09], np.float32) * np.float32(camera.uniform(0.5, 2.0))
        picture = picture + (0.85 * hair)[..., None] * (colour - picture)
    if camera.random() < 0.25:
        specks = camera.uniform(-0.9, 0.9, (int(camera.integers(2, 9)), 2))
        shine = Ink(frame).dots(specks, camera.uniform(0.008, 0.02, len(specks))).layer()
        picture = picture + (0.7 * shine)[..., None] * (1 - picture)
    return picture


def _camera(picture: Array, camera: np.random.Generator) -> Array:
    """Uneven light, white balance, exposure, the round frame of the lens, noise."""
    size = picture.shape[0]
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    x, y = axis[None, :], axis[:, None]
    tilt = camera.normal(0, 0.05, 2).astype(np.float32)
    far = np.hypot(x, y)
    light = 1 + tilt[0] * x + tilt[1] * y - np.float32(camera.uniform(0, 0.18)) * far * far
    balance = np.exp(camera.normal(0, 0.07, 3)).astype(np.float32) * np.float32(camera.uniform(0.85, 1.1))
    picture = picture * (light[..., None] * balance)
    if camera.random() < 0.25:
        edge = camera.uniform(1.0, 1.3)
        picture = picture * ramp(far, edge + 0.06, edge - 0.06)[..., None]
    noise = camera.standard_normal(picture.shape, dtype=np.float32)
    return np.clip(picture + np.float32(camera.uniform(0.006, 0.016)) * noise, 0, 1)
