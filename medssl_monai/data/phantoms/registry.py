"""Phantoms: synthetic datasets by name, written as folders of the data contract."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from tqdm import tqdm

from medssl_monai.core import (
    ConfigError,
    DataError,
    OutputError,
    Registry,
    did_you_mean,
    make_folder,
    read_json,
    write_json,
)
from medssl_monai.data.datalist import FILE_NAME, Datalist, Item, Split, Task, load_datalist
from medssl_monai.data.phantoms.sheet import contact_sheet
from medssl_monai.data.splits import split_by_subject

RECIPE_NAME = "phantom.json"
PARTS: tuple[Split, ...] = ("training", "validation", "test")


@dataclass(frozen=True)
class Option:
    """An option of one kind of phantom.

    Attributes:
        default: value where none is given; its type is the option's type.
        help: one line for the command's help.
        low: smallest number allowed.
        high: largest number allowed.
        choices: the words allowed.
    """

    default: float | int | str
    help: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()

    def check(self, name: str, value: Any) -> float | int | str:
        """Return the value in the option's type.

        Raises:
            ConfigError: when it is of another type or not allowed.
        """
        kind = type(self.default)
        numeric = isinstance(value, int | float) and not isinstance(value, bool)
        if self.choices and value not in self.choices:
            raise ConfigError(
                f"phantom option {name} cannot be {value!r}", advice=did_you_mean(str(value), self.choices)
            )
        if kind is not str and not (numeric and kind(value) == value):
            raise ConfigError(f"phantom option {name} must be of type {kind.__name__}", found=repr(value))
        low, high = self.low, self.high
        if (low is not None and not value >= low) or (high is not None and not value <= high):
            limits = f"at least {low:g}" if high is None else f"{low:g} to {high:g}"
            raise ConfigError(f"phantom option {name} is out of range", found=value, expected=limits)
        result: float | int | str = kind(value)
        return result


@dataclass(frozen=True)
class Recipe:
    """All that determines a phantom dataset.

    Attributes:
        kind: name of the phantom.
        subjects: number of subjects.
        seed: seed of every draw.
        size: edge of the images in pixels.
        split: fractions of training, validation and test.
        unlabeled_fraction: share of training whose labels are taken away.
        options: the kind's own options.
    """

    kind: str
    subjects: int
    seed: int
    size: int
    split: tuple[float, ...]
    unlabeled_fraction: float
    options: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self, revision: int) -> dict[str, Any]:
        """The content of ``phantom.json``."""
        return {
            "kind": self.kind, "revision": revision, "subjects": self.subjects, "seed": self.seed, "size": self.size,
            "split": list(self.split), "unlabeled_fraction": self.unlabeled_fraction, **self.options,
        }  # fmt: skip


class Phantom(ABC):
    """A kind of synthetic dataset. Subject i is a function of (seed, i), however many subjects are asked for.

    Attributes:
        summary: one line for the command's help.
        task: task of the datalist.
        labels: class names, or mask values and names.
        modality: modality of the datalist.
        default_size: edge of the images in pixels.
        smallest_size: below it the structures cannot be told apart.
        options: further options by name.
        aliases: other names of the command's option ``--subjects``.
        revision: raised whenever the same recipe gives other files than before.
    """

    summary: ClassVar[str]
    task: ClassVar[Task]
    labels: ClassVar[Sequence[str] | Mapping[int, str]]
    modality: ClassVar[str]
    default_size: ClassVar[int]
    smallest_size: ClassVar[int] = 16
    options: ClassVar[Mapping[str, Option]] = {}
    aliases: ClassVar[tuple[str, ...]] = ()
    revision: ClassVar[int] = 1

    @abstractmethod
    def items(self, recipe: Recipe) -> list[list[Item]]:
        """The labelled items of every subject, without writing anything."""

    @abstractmethod
    def write(self, recipe: Recipe, subject: int, items: Sequence[Item], folder: Path) -> None:
        """Write the files of one subject's items below ``folder``; the same bytes every time."""

    def sheet(self, datalist: Datalist, seed: int) -> np.ndarray:
        """A picture of the kind (height, width, 3), uint8: by default one row a class of a dataset's images."""
        return contact_sheet(datalist, seed=seed)


PHANTOMS: Registry[Phantom] = Registry("phantom")


def make_phantom(
    kind: str,
    out: str | Path,
    *,
    subjects: int,
    seed: int = 0,
    size: int | None = None,
    split: Sequence[float] = (0.7, 0.1, 0.2),
    unlabeled_fraction: float = 0.0,
    progress: bool = False,
    **options: Any,
) -> Datalist:
    """Write a synthetic dataset into a folder: images, ``phantom.json`` (the recipe) and last ``datalist.json``.

    A folder that already holds the dataset of the same recipe is completed, or left as it is when it is whole.

    Args:
        kind: name of the phantom, see ``PHANTOMS.names()``.
        out: folder; made where it does not exist.
        subjects: number of subjects.
        seed: seed of every draw; with the same versions of NumPy and Pillow the files are equal byte for byte.
        size: edge of the images in pixels; the kind's own by default.
        split: fractions of training, validation and test, by subject and stratified.
        unlabeled_fraction: share of training that goes to the unlabelled split.
        progress: show a bar.
        options: options of the kind (``PHANTOMS.get(kind).options``).

    Returns:
        The datalist, with ``out`` as its root.

    Raises:
        ConfigError: for an unknown kind or option, or a value out of range.
        OutputError: when ``out`` is not empty and holds something else, or cannot be written.
        DataError: when there are fewer subjects than the split has parts.
    """
    phantom = PHANTOMS.get(kind)
    recipe = _checked(phantom, kind, subjects, seed, size, split, unlabeled_fraction, options)
    out = Path(out)
    by_subject = phantom.items(recipe)
    datalist = _datalist(phantom, recipe, [item for items in by_subject for item in items], out)
    if _claim(out, recipe.to_json(phantom.revision)) and _is_whole(datalist):
        return datalist
    write_json(out / RECIPE_NAME, recipe.to_json(phantom.revision))
    for subject, items in enumerate(tqdm(by_subject, desc=kind, unit="subject", disable=not progress)):
        try:
            phantom.write(recipe, subject, items, out)
        except OutputError:
            raise
        except OSError as error:
            reason = error.strerror or str(error)
            raise OutputError(f"the images cannot be written ({reason})", where=error.filename or out) from error
    datalist.save(out)
    return datalist


def _checked(
    phantom: Phantom,
    kind: str,
    subjects: int,
    seed: int,
    size: int | None,
    split: Sequence[float],
    unlabeled_fraction: float,
    options: Mapping[str, Any],
) -> Recipe:
    """The recipe with every value in its type; unknown or impossible ones are errors."""
    for name in options:
        if name not in phantom.options:
            raise ConfigError(f"phantom {kind} has no option {name!r}", advice=did_you_mean(name, phantom.options))
    if len(split) != len(PARTS):
        raise ConfigError("split needs three fractions: training, validation, test", found=list(split))
    return Recipe(
        kind=kind,
        subjects=int(Option(1, "", low=1).check("subjects", subjects)),
        seed=int(Option(0, "", low=0).check("seed", seed)),
        size=int(
            Option(1, "", low=phantom.smallest_size).check("size", phantom.default_size if size is None else size)
        ),
        split=tuple(float(Option(0.0, "", 0.0, 1.0).check("split", share)) for share in split),
        unlabeled_fraction=float(Option(0.0, "", 0.0, 1.0).check("unlabeled_fraction", unlabeled_fraction)),
        options={name: o.check(name, options.get(name, o.default)) for name, o in phantom.options.items()},
    )


def _datalist(phantom: Phantom, recipe: Recipe, items: list[Item], root: Path) -> Datalist:
    """Split the items and take the labels of the unlabelled share away."""
    draw = {"seed": recipe.seed, "task": phantom.task, "num_classes": len(phantom.labels)}
    splits: dict[Split, list[Item]] = dict(zip(PARTS, split_by_subject(items, recipe.split, **draw)))  # type: ignore[arg-type]
    if recipe.unlabeled_fraction:
        kept_share = 1 - recipe.unlabeled_fraction
        if not splits["training"] or kept_share <= 0:
            raise ConfigError(
                "the unlabelled share leaves no labelled training item",
                found=f"unlabeled_fraction {recipe.unlabeled_fraction:g}, training fraction {recipe.split[0]:g}",
                advice="Lower unlabeled_fraction.",
            )
        kept, rest = split_by_subject(splits["training"], (kept_share, 1 - kept_share), **draw)  # type: ignore[arg-type]
        splits["training"] = kept
        splits["unlabeled"] = [Item(item.image, None, item.subject, item.columns) for item in rest]
    settings = ", ".join(
        f"{name} {value}" for name, value in recipe.to_json(phantom.revision).items() if name != "kind"
    )
    labels = phantom.labels
    return Datalist(
        name=f"phantom_{recipe.kind}",
        task=phantom.task,
        labels=dict(labels) if isinstance(labels, Mapping) else list(labels),
        splits={name: members for name, members in splits.items() if members},
        modality=phantom.modality,
        license="Apache-2.0",
        description=f"Synthetic images ({phantom.summary}): {settings}.",
        root=root,
    )


def _claim(out: Path, recipe: dict[str, Any]) -> bool:
    """Make the folder, or make sure that what it holds is this recipe's dataset; true where it held anything.

    Raises:
        OutputError: when it holds something else.
    """
    make_folder(out)
    if not any(out.iterdir()):
        return False
    advice = "Name an empty or new folder."
    if not (out / RECIPE_NAME).is_file():
        raise OutputError(
            f"the folder is not empty and holds no {RECIPE_NAME}; a phantom would mix with what is there",
            where=out,
            advice=advice,
        )
    present = read_json(out / RECIPE_NAME)
    if present != recipe:
        there = present if isinstance(present, dict) else {}
        names = [name for name in {**there, **recipe} if there.get(name) != recipe.get(name)]
        raise OutputError(
            "the folder holds another phantom",
            where=out,
            found=", ".join(f"{name} {there.get(name)}" for name in names),
            expected=", ".join(f"{name} {recipe.get(name)}" for name in names),
            advice=advice,
        )
    return True


def _is_whole(datalist: Datalist) -> bool:
    """Whether the folder holds this very datalist and all its files."""
    if not (datalist.root / FILE_NAME).is_file():
        return False
    try:
        same = load_datalist(datalist.root).to_json() == datalist.to_json()
    except DataError:  # damaged: it is written anew
        return False
    paths = [path for _, item in datalist for path in item.paths]
    paths += [item.label for _, item in datalist if isinstance(item.label, str)]
    return same and all((datalist.root / path).exists() for path in paths)
