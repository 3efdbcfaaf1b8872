"""Contact sheets: a picture of a dataset, one row a class."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont, UnidentifiedImageError

from medssl_monai.core import DataError, permutation
from medssl_monai.data.datalist import Datalist, Item

_GAP = 2


def contact_sheet(
    datalist: Datalist, *, columns: int = 8, tile: int = 96, seed: int = 0, background: int = 255
) -> np.ndarray:
    """Tiles of 2-D images, one row a class with the class's name before it; each image of another subject.

    Args:
        datalist: a dataset of PNG, JPEG or TIFF images with class indices.
        columns: images a class; where a class has fewer subjects, tiles stay empty.
        tile: edge of a tile in pixels; images are fitted in.
        seed: which images are shown.
        background: gray value of the paper.

    Returns:
        The sheet (height, width, 3), uint8.

    Raises:
        DataError: when the task has no class index, nothing is labelled, or an image cannot be read.
        ValueError: when ``columns`` or ``tile`` is not positive.
    """
    if columns < 1 or tile < 1:
        raise ValueError(f"columns and tile must be positive, got {columns} and {tile}")
    if datalist.task not in ("binary", "multiclass"):
        raise DataError("a contact sheet has one row a class", found=f"task {datalist.task}", expected="class indices")
    labelled = [item for _, item in datalist if item.label is not None and isinstance(item.image, str)]
    if not labelled:
        raise DataError("no labelled single-image item to show", where=datalist.root)
    names = datalist.class_names
    font = ImageFont.load_default(size=max(8, tile // 6))
    margin = round(max(font.getlength(name) for name in names)) + 3 * _GAP
    step = tile + _GAP
    paper = (background,) * 3
    sheet = Image.new("RGB", (margin + columns * step, len(names) * step + _GAP), paper)
    draw = ImageDraw.Draw(sheet)
    for row, name in enumerate(names):
        top = _GAP + row * step
        ink = (0, 0, 0) if background > 127 else (255, 255, 255)
        draw.text((_GAP, top + tile / 2), name, fill=ink, font=font, anchor="lm")
        for column, item in enumerate(_choose(labelled, row, columns, seed)):
            picture = _thumbnail(datalist, item, tile)
            place = ((tile - picture.width) // 2, (tile - picture.height) // 2)
            sheet.paste(picture, (margin + column * step + place[0], top + place[1]))
    return np.asarray(sheet)


def _choose(items: list[Item], label: int, count: int, seed: int) -> list[Item]:
    """The first images of ``count`` subjects of a class, in a seeded order."""
    firsts: dict[str, Item] = {}
    for item in items:
        if item.label == label:
            firsts.setdefault(item.group, item)
    groups = sorted(firsts)
    return [firsts[groups[index]] for index in permutation(len(groups), seed, "contact sheet", label)[:count]]


def _thumbnail(datalist: Datalist, item: Item, tile: int) -> Image.Image:
    path = datalist.root / item.name
    try:
        with Image.open(path) as image:
            picture = image.convert("RGB")
    except (OSError, UnidentifiedImageError) as error:
        raise DataError("cannot be shown as a 2-D picture", where=path, advice="PNG, JPEG and TIFF can.") from error
    scale = tile / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC)
