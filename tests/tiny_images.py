"""Small image datasets that tests make in a temporary folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from medssl_monai.data import Datalist, Item


def write_png(path: Path, seed: int = 0, size: tuple[int, int] = (12, 10)) -> None:
    """An RGB image of random values; ``size`` is (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(values).save(path)


def image_dataset(root: Path, **counts: int) -> Datalist:
    """A dataset of classes ``a`` and ``b`` in ``root``; ``counts`` are numbers of images by split."""
    splits = {}
    for number, (split, count) in enumerate(counts.items()):
        items = []
        for i in range(count):
            name = f"{split}/{i:02d}.png"
            write_png(root / name, seed=100 * number + i)
            label = None if split == "unlabeled" else i % 2
            items.append(Item(name, label, f"subject:{split}{i}"))
        splits[split] = items
    datalist = Datalist("tiny", "multiclass", ["a", "b"], splits, root=root)
    datalist.save(root)
    return datalist
