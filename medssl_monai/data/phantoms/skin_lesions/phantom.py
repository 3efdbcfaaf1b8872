"""Phantom of dermoscopy: seven kinds of skin lesion, as ISIC 2018 task 3 and HAM10000 name them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from medssl_monai.core import generator, make_folder
from medssl_monai.data.datalist import SUBJECT_PREFIX, Item, Task
from medssl_monai.data.phantoms.registry import PHANTOMS, Option, Phantom, Recipe
from medssl_monai.data.phantoms.skin_lesions.image import render
from medssl_monai.data.phantoms.skin_lesions.structures import CLASSES

PREVALENCE = {"akiec": 0.03, "bcc": 0.05, "bkl": 0.11, "df": 0.011, "mel": 0.11, "nv": 0.67, "vasc": 0.014}
IMAGES_PER_LESION = (0.74, 0.20, 0.06)  # HAM10000: 10015 images of 7470 lesions
_AT_LEAST, _BY = 7, 90  # every class has its few subjects in a dataset of a hundred, so that each split shows it
_AGE = {"akiec": 67, "bcc": 66, "bkl": 64, "df": 53, "mel": 60, "nv": 46, "vasc": 51}
SITES = ("head and neck", "trunk", "upper extremity", "lower extremity")
_SITE_SHARES = {
    "akiec": (0.55, 0.10, 0.25, 0.10), "bcc": (0.45, 0.35, 0.10, 0.10), "bkl": (0.35, 0.40, 0.12, 0.13),
    "df": (0.02, 0.13, 0.25, 0.60), "mel": (0.18, 0.42, 0.20, 0.20), "nv": (0.05, 0.60, 0.12, 0.23),
    "vasc": (0.15, 0.50, 0.15, 0.20),
}  # fmt: skip


class SkinLesions(Phantom):
    """Schematic dermoscopy of seven classes, told apart by structure and outline together with colour.

    Size does not depend on the class, colours overlap; skin tone, light, hair, place and focus vary. A subject is one
    lesion with one to three images.
    """

    summary: ClassVar[str] = "dermoscopy of 7 kinds of skin lesion, RGB"
    task: ClassVar[Task] = "multiclass"
    labels: ClassVar[Sequence[str]] = CLASSES
    modality: ClassVar[str] = "dermoscopy"
    default_size: ClassVar[int] = 128
    smallest_size: ClassVar[int] = 32
    options: ClassVar[Mapping[str, Option]] = {
        "balance": Option(0.0, "0: classes as frequent as in ISIC 2018; 1: equally frequent", 0.0, 1.0),
        "image_format": Option("png", "file format of the images", choices=("png", "jpg")),
    }

    def items(self, recipe: Recipe) -> list[list[Item]]:
        """The items of every lesion: file names, class, age, sex and site."""
        classes = class_sequence(recipe.subjects, recipe.seed, float(recipe.options["balance"]))
        return [_lesion_items(recipe, subject, label) for subject, label in enumerate(classes)]

    def write(self, recipe: Recipe, subject: int, items: Sequence[Item], folder: Path) -> None:
        """Write the images of one lesion."""
        for number, item in enumerate(items):
            if not isinstance(item.label, int):
                raise ValueError(f"a skin lesion has a class index as its label, got {item.label!r}")
            picture, _ = render(item.label, recipe.seed, subject, number, recipe.size)
            path = folder / item.name
            make_folder(path.parent)
            Image.fromarray(picture).save(path, compress_level=1, quality=92)  # each format takes the one it knows


PHANTOMS.register("skin_lesions")(SkinLesions())


@lru_cache(maxsize=8)
def class_sequence(subjects: int, seed: int, balance: float) -> tuple[int, ...]:
    """The class of every subject; a longer sequence begins with the shorter one.

    Every subject gets the class that is furthest behind its share, with a seeded phase a class. At first each class is
    owed at least a few subjects; the rare ones then wait until their share has caught up.

    Args:
        subjects: length of the sequence.
        seed: seed of the phases.
        balance: 0 for the prevalence of ISIC 2018, 1 for equal shares, linear in between.
    """
    shares = np.array([(1 - balance) * PREVALENCE[name] for name in CLASSES])
    shares = shares / sum(PREVALENCE.values()) + balance / len(CLASSES)
    phase = generator(seed, "skin_lesions", "classes").random(len(CLASSES))
    counts = np.zeros(len(CLASSES))
    sequence = []
    for n in range(1, subjects + 1):
        owed = np.maximum(shares * n, _AT_LEAST * min(1.0, n / _BY))
        label = int(np.argmax(owed * (n / owed.sum()) + phase - counts))
        counts[label] += 1
        sequence.append(label)
    return tuple(sequence)


def _lesion_items(recipe: Recipe, subject: int, label: int) -> list[Item]:
    rng = generator(recipe.seed, "skin_lesions", "patient", subject)
    name = CLASSES[label]
    columns = {
        "age": int(np.clip(5 * round(rng.normal(_AGE[name], 15) / 5), 5, 85)),
        "sex": ("female", "male")[int(rng.random() < 0.54)],
        "site": SITES[int(rng.choice(len(SITES), p=_SITE_SHARES[name]))],
    }
    images = 1 + int(rng.choice(len(IMAGES_PER_LESION), p=IMAGES_PER_LESION))
    return [
        Item(
            image=f"images/P{subject:05d}_{number}.{recipe.options['image_format']}",
            label=label,
            subject=f"{SUBJECT_PREFIX}P{subject:05d}",
            columns=columns,
        )
        for number in range(images)
    ]
