"""Folds of a dataset as dataset folders: what the studies by cross-validation share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from medssl_monai.core import OutputError, make_folder
from medssl_monai.data import Datalist, load_datalist
from medssl_monai.data.datalist import Item
from medssl_monai.data.splits import k_folds


def fold_folders(datalist: Datalist, out: Path, k: int) -> list[Path]:
    """A dataset for each fold: the items of the others train, its own test; images and masks are links."""
    items = [item for _, item in datalist]
    chosen = k_folds(items, k, seed=0, task=datalist.task, num_classes=len(datalist.labels))
    folders = []
    for number, (training, test) in enumerate(chosen):
        folder = make_folder(out / f"fold{number}")
        for path in _files(items):
            link = folder / path
            make_folder(link.parent)
            if not link.exists():
                link.symlink_to((datalist.root / path).resolve())
        parts: dict[Any, list[Item]] = {"training": training, "test": test}
        name = f"{datalist.name}-fold{number}of{k}"
        fold = replace(datalist, splits=parts, root=folder, name=name)
        if (folder / "datalist.json").is_file() and load_datalist(folder).name != name:
            raise OutputError("the folder holds other folds", where=folder, advice="Give another --out.")
        fold.save(folder)
        folders.append(folder)
    return folders


def _files(items: list[Item]) -> Iterator[str]:
    for item in items:
        yield str(item.image)
        if isinstance(item.label, str):
            yield item.label
