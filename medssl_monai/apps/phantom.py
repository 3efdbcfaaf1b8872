"""``medssl phantom KIND OUT``: write a synthetic dataset."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from medssl_monai.core import ConfigError, atomic_path
from medssl_monai.data.datalist import Datalist
from medssl_monai.data.phantoms import PHANTOMS, Option, make_phantom


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``phantom`` and, below it, one parser a kind with the kind's own options."""
    parser = subparsers.add_parser(
        "phantom", help="write a synthetic dataset", description="Write a synthetic dataset."
    )
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    for kind in PHANTOMS:
        phantom = PHANTOMS.get(kind)
        child = kinds.add_parser(kind, help=phantom.summary, description=f"Write {phantom.summary}.")
        child.add_argument("out", metavar="OUT", type=Path, help="folder to write; new, empty or of the same recipe")
        child.add_argument("--subjects", *phantom.aliases, dest="subjects", type=int, default=100, metavar="N",
                           help="number of subjects (default: 100)")  # fmt: skip
        child.add_argument("--seed", type=int, default=0, metavar="S", help="seed of every draw (default: 0)")
        child.add_argument("--size", type=int, default=phantom.default_size, metavar="PX",
                           help=f"edge of the images in pixels (default: {phantom.default_size})")  # fmt: skip
        child.add_argument("--split", type=parse_split, default=(0.7, 0.1, 0.2), metavar="70/10/20",
                           help="percent of training, validation and test (default: 70/10/20)")  # fmt: skip
        child.add_argument("--unlabeled-fraction", type=float, default=0.0, metavar="F",
                           help="share of training whose labels are taken away (default: 0)")  # fmt: skip
        child.add_argument("--sheet", type=Path, metavar="FILE", help="also write a contact sheet (PNG or JPEG)")
        for name, option in phantom.options.items():
            child.add_argument(f"--{name.replace('_', '-')}", dest=name, **_argument(option))
        child.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the dataset (and its contact sheet) and print what it holds.

    Raises:
        ConfigError: when a value cannot be used, or the contact sheet's file is not a picture's.
        OutputError: when a folder or file cannot be written.
    """
    sheet: Path | None = arguments.sheet
    if sheet is not None and sheet.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise ConfigError("the contact sheet is a picture", where="--sheet", found=str(sheet), expected=".png or .jpg")
    datalist = make_phantom(
        arguments.kind,
        arguments.out,
        subjects=arguments.subjects,
        seed=arguments.seed,
        size=arguments.size,
        split=arguments.split,
        unlabeled_fraction=arguments.unlabeled_fraction,
        progress=True,
        **{name: getattr(arguments, name) for name in PHANTOMS.get(arguments.kind).options},
    )
    print(summary(datalist))
    if sheet is not None:
        with atomic_path(sheet) as temporary:
            picture = Image.fromarray(PHANTOMS.get(arguments.kind).sheet(datalist, 0))
            picture.save(temporary, format="PNG" if sheet.suffix.lower() == ".png" else "JPEG", quality=92)
        print(f"contact sheet: {sheet}")
    return 0


def summary(datalist: Datalist) -> str:
    """A table of a dataset: images (or exams) and subjects a split, and those that show each class."""
    names = [] if datalist.task == "segmentation" else datalist.class_names
    rows = [["split", "images", "subjects", *names]]
    for split, items in datalist.splits.items():
        counts: Counter[object] = Counter()
        for item in items:
            shown = (
                [k for k, value in enumerate(item.label) if value] if isinstance(item.label, tuple) else [item.label]
            )
            counts.update(shown)
        groups = len({item.group for item in items})
        per_class = ["-" if split == "unlabeled" else str(counts[index]) for index in range(len(names))]
        rows.append([split, str(len(items)), str(groups), *per_class])
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths)) for row in rows]
    return "\n".join([f"{datalist.name} in {datalist.root}", *lines])


def parse_split(text: str) -> tuple[float, ...]:
    """Fractions of training, validation and test from ``70/10/20``.

    Raises:
        argparse.ArgumentTypeError: when they are not three percentages that sum to 100.
    """
    try:
        percents = [float(part) for part in text.split("/")]
    except ValueError:
        percents = []
    if len(percents) != 3 or min(percents) < 0 or abs(sum(percents) - 100) > 1e-6:
        raise argparse.ArgumentTypeError(f"expected three percentages that sum to 100, as 70/10/20, got {text!r}")
    return tuple(percent / 100 for percent in percents)


def _argument(option: Option) -> dict[str, Any]:
    """What argparse needs to know of an option of a kind."""
    kind: Callable[[str], Any] = type(option.default)
    choices = option.choices or None
    text = f"{option.help} (default: {option.default})"
    return {"type": kind, "default": option.default, "choices": choices, "help": text}
