"""A picture of the abdomen phantom: slices of a few scans with the outlines of their organs."""

from __future__ import annotations

import numpy as np
from PIL import Image
from skimage.segmentation import find_boundaries

from medssl_monai.data.phantoms.abdomen.anatomy import draw_abdomen
from medssl_monai.data.phantoms.abdomen.image import draw_series, render_scan

_SIZE, _VIEW, _SPACING = 192, 320.0, 7.7
_LEVELS = (0.08, 0.25, 0.42, 0.6, 0.8)  # of the organs' range, from the lowest slice
_COLOURS = np.array([[0, 0, 0], [230, 90, 60], [80, 200, 90], [80, 140, 250], [240, 210, 60]], np.uint8)
_GAP = 2


def abdomen_sheet(seed: int = 0, *, scans: int = 3, tile: int = 160, background: int = 255) -> np.ndarray:
    """Tiles of scans, a row each, from feet to head; liver red, right kidney green, left one blue, spleen yellow.

    Args:
        seed: seed of the persons, numbers 0 and on.
        scans: number of rows.
        tile: edge of a tile in pixels.
        background: gray value of the paper.

    Returns:
        The sheet (height, width, 3), uint8.

    Raises:
        ValueError: when ``scans`` or ``tile`` is not positive.
    """
    if scans < 1 or tile < 1:
        raise ValueError(f"scans and tile must be positive, got {scans} and {tile}")
    step = tile + _GAP
    sheet = np.full((scans * step + _GAP, len(_LEVELS) * step + _GAP, 3), background, np.uint8)
    for row in range(scans):
        for column, picture in enumerate(_tiles(seed, row)):
            top, left = _GAP + row * step, _GAP + column * step
            shown = Image.fromarray(picture).resize((tile, tile), Image.Resampling.BICUBIC)
            sheet[top : top + tile, left : left + tile] = np.asarray(shown)
    return sheet


def _tiles(seed: int, subject: int) -> list[np.ndarray]:
    person = draw_abdomen(seed, subject, 0.0)
    series = draw_series(seed, person, _SIZE, _VIEW, _SPACING, "axial")
    image, mask = render_scan(seed, person, series, 0.02, 0.05)
    slices = np.flatnonzero(mask.any((0, 1)))
    gray = np.clip(image * (255 / np.percentile(image, 99.5)), 0, 255).astype(np.uint8)
    tiles = []
    for level in _LEVELS:
        number = int(slices[round(level * (len(slices) - 1))])
        organs = mask[:, :, number].T
        picture = np.repeat(gray[:, :, number].T[..., None], 3, axis=2)
        edge = find_boundaries(organs, mode="inner")  # type: ignore[no-untyped-call]
        picture[edge] = _COLOURS[organs[edge]]
        tiles.append(picture)
    return tiles
