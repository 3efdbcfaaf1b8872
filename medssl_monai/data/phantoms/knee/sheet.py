"""A picture of the knee phantom: an intact knee and what may be wrong with it, in three planes."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from medssl_monai.data.phantoms.knee.anatomy import draw_knee, ligament_path
from medssl_monai.data.phantoms.knee.findings import Findings, Ligament, Meniscus
from medssl_monai.data.phantoms.knee.image import PLANES, render_series
from medssl_monai.data.phantoms.knee.menisci import meniscus_centre
from medssl_monai.data.phantoms.knee.shapes import Array

_GAP = 2
_SIZE, _VIEW, _NOISE = 256, 154.0, 0.03
_SHOWN = 100.0  # mm, edge of a tile
ROWS: dict[str, Findings] = {
    "intact": Findings(),
    "ligament torn": Findings(ligament=Ligament("gap", 0.5, 5.0)),
    "meniscus torn": Findings(meniscus=Meniscus("oblique", True, 0.1, 0.6, 0.3)),
    "bone bruised": Findings(other=("bruise", "effusion"), extent=0.8),
}


def knee_sheet(seed: int = 0, *, tile: int = 160, background: int = 255) -> np.ndarray:
    """Tiles of one knee, a row a finding and a column a plane, each through the place of the finding.

    Args:
        seed: seed of the knee, of its exam number 0.
        tile: edge of a tile in pixels.
        background: gray value of the paper.

    Returns:
        The sheet (height, width, 3), uint8.

    Raises:
        ValueError: when ``tile`` is not positive.
    """
    if tile < 1:
        raise ValueError(f"tile must be positive, got {tile}")
    letters = max(8, tile // 10)
    font = ImageFont.load_default(size=letters)
    margin = round(max(font.getlength(name) for name in ROWS)) + 3 * _GAP
    step, head = tile + _GAP, 2 * letters
    sheet = Image.new("RGB", (margin + len(PLANES) * step, head + len(ROWS) * step), (background,) * 3)
    draw = ImageDraw.Draw(sheet)
    ink = (0, 0, 0) if background > 127 else (255, 255, 255)
    for row, (name, findings) in enumerate(ROWS.items()):
        draw.text((_GAP, head + row * step + tile / 2), name, fill=ink, font=font, anchor="lm")
        for column, plane in enumerate(PLANES):
            left = margin + column * step
            if row == 0:
                draw.text((left + tile / 2, head / 2), plane, fill=ink, font=font, anchor="mm")
            picture = Image.fromarray(_tile(findings, seed, plane))
            sheet.paste(picture.resize((tile, tile), Image.Resampling.BICUBIC), (left, head + row * step))
    return np.asarray(sheet)


def _tile(findings: Findings, seed: int, plane: str) -> np.ndarray:
    """The part of the slice through the finding's place, uint8."""
    image, series = render_series(findings, seed, 0, plane, _SIZE, _VIEW, _NOISE)
    column, row, number = np.linalg.solve(series.affine, _place(findings, seed))[:3].round().astype(int)
    half = round(_SHOWN / series.pixel / 2)
    columns, rows = (np.clip(np.arange(middle - half, middle + half), 0, _SIZE - 1) for middle in (column, row))
    shown = image[:, :, np.clip(number, 0, image.shape[2] - 1)][np.ix_(columns, rows)].T
    picture: np.ndarray = np.clip(shown * (255 / np.percentile(shown, 99.5)), 0, 255).astype(np.uint8)
    return picture


def _place(findings: Findings, seed: int) -> Array:
    """World position (4,) of what is wrong; of the cruciate ligament where nothing is."""
    knee = draw_knee(seed, 0, findings)
    frame, point = knee.thigh, ligament_path(knee, 3)[1]
    if findings.meniscus is not None:
        frame, point = knee.shank, np.array(meniscus_centre(findings.meniscus.medial)) + np.array([-2.0, -18.0, 3.0])
    elif findings.other:
        point = np.array([-21.0 if findings.medial else 21.0, 4.0, 15.0])
    return np.asarray(np.linalg.solve(frame, np.append(point, 1.0)))
