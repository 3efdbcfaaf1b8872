"""``medssl prepare LAYOUT SOURCE OUT``: turn a dataset as published into a folder with ``datalist.json``."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from medssl_monai.data.datalist import FILE_NAME, SPLITS, Datalist, Item
from medssl_monai.data.prepare import PREPARERS, prepare_dataset

_COMMON = ("source", "out", "name", "modality", "license", "split", "seed", "link", "overwrite")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``prepare`` with one sub-command a layout."""
    text = "turn a dataset as its publisher ships it into a folder with datalist.json"
    parser = subparsers.add_parser("prepare", help=text, description=f"{text[0].upper()}{text[1:]}.")
    layouts = parser.add_subparsers(dest="layout", metavar="LAYOUT", required=True)
    for name in PREPARERS:
        preparer = PREPARERS.get(name)
        layout = layouts.add_parser(
            name, help=preparer.help, description=f"{preparer.help[0].upper()}{preparer.help[1:]}."
        )
        layout.add_argument("source", metavar="SOURCE", type=Path, help="the dataset as published; never modified")
        layout.add_argument(
            "out", metavar="OUT", type=Path, help="folder of the prepared dataset, the later dataset_dir"
        )
        preparer.add_arguments(layout.add_argument_group("layout"))
        _add_common(layout)
        layout.set_defaults(command=run)


def _add_common(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("dataset")
    group.add_argument("--name", help="name of the dataset (default: the source's)")
    group.add_argument("--modality", help="for example MR, CT, dermoscopy")
    group.add_argument("--license", help="licence of the data, as its publisher states it")
    group.add_argument(
        "--split",
        default="70/10/20",
        metavar="70/10/20",
        help="percentages of training/validation/test, by subject and stratified by class; a publisher's split is kept "
        "(default: %(default)s)",
    )
    group.add_argument("--seed", type=int, default=0, help="seed of the split (default: %(default)s)")
    group.add_argument("--link", action="store_true", help="make relative symbolic links instead of copies")
    group.add_argument("--overwrite", action="store_true", help="replace another dataset in OUT")


def run(arguments: argparse.Namespace) -> int:
    """Prepare the dataset and print what it holds; warnings go to stderr."""
    given = dict(vars(arguments))
    preparer = PREPARERS.get(given["layout"])
    options = {name: given[name] for name in (*_COMMON, *preparer.option_names()) if name in given}
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
        datalist = prepare_dataset(given["layout"], progress=True, **options)
    print(summary(datalist))
    print(f"\nWritten: {datalist.root / FILE_NAME}. Next: medssl check {datalist.root}")
    return 0


def summary(datalist: Datalist) -> str:
    """A table of images and subjects, by split and class (masks: by split only, for a mask holds several organs)."""
    splits = [split for split in SPLITS if datalist.splits.get(split)]
    columns: list[tuple[str, Sequence[Item]]] = [(split, datalist.splits[split]) for split in splits]
    columns.append(("total", [item for _, items in columns for item in items]))
    rows: list[tuple[str, int | None]] = [("all", None)]
    if datalist.task != "segmentation":
        rows += [(name, index) for index, name in enumerate(datalist.class_names)]
    cells = [["images (subjects)", *(name for name, _ in columns)]]
    for name, index in rows:
        cells.append([name, *(_count(items, index) for _, items in columns)])
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in cells]
    count = len(datalist.class_names)
    classes = f"{count} classes" if count else "no label and no class yet"
    if datalist.task == "segmentation":
        classes = f"{count - 1} class{'es'[: 2 * (count != 2)]} besides the background"
    return "\n".join([f"{datalist.name}: {datalist.task}, {classes}", "", *lines])


def _count(items: Sequence[Item], index: int | None) -> str:
    counted = [item for item in items if index is None or _has_class(item, index)]
    return f"{len(counted)} ({len({item.group for item in counted})})"


def _has_class(item: Item, index: int) -> bool:
    return bool(item.label[index]) if isinstance(item.label, tuple) else item.label == index
