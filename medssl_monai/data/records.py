"""From a dataset folder to the data dictionaries of a stage, with the checks a stage needs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medssl_monai.core import ConfigError, DataError, did_you_mean
from medssl_monai.data.datalist import FILE_NAME, SPLITS, Datalist, load_datalist
from medssl_monai.data.readers import find_images


def classification_datalist(folder: str | Path, labels: Sequence[str]) -> Datalist:
    """Read a dataset for a classifier of exclusive classes.

    Args:
        folder: the ``dataset_dir``.
        labels: class names of the network's outputs, in order.

    Raises:
        DataError: when there is no datalist or it has problems.
        ConfigError: when the task is not ``binary`` or ``multiclass``, the dataset names one class only, or its classes
            are not ``labels``.
    """
    datalist = load_datalist(folder)
    if datalist.task not in ("binary", "multiclass"):
        raise ConfigError(
            "this bundle learns one class an image", where=datalist.root / FILE_NAME, found=f"task {datalist.task}",
            expected="binary or multiclass",
        )  # fmt: skip
    if len(datalist.class_names) < 2:
        raise ConfigError(
            "this bundle learns two or more classes", where=datalist.root / FILE_NAME,
            found=f"labels {datalist.class_names}",
            advice="Name both classes of a binary task in `labels`, the one without the finding first.",
        )  # fmt: skip
    if datalist.class_names != list(labels):
        raise ConfigError(
            "the dataset has other classes than the configuration", where="labels", found=list(labels),
            expected=datalist.class_names, advice=f'Give labels="{datalist.class_names}" (after `medssl run`; '
            "--labels with a space after `monai.bundle run`).",
        )  # fmt: skip
    return datalist


def evaluation_records(datalist: Datalist) -> list[dict[str, Any]]:
    """Data dictionaries of the labelled test items.

    Raises:
        DataError: when the dataset has no labelled test image.
    """
    records = [record for record in datalist.records("test") if "label" in record]
    if not records:
        raise DataError(
            "no labelled test image", where=datalist.root / FILE_NAME,
            advice="Evaluation needs a `test` split with labels; `medssl prepare --split 70/10/20` makes one.",
        )  # fmt: skip
    return records


def inference_records(folder: str | Path, split: str | None = None) -> list[dict[str, Any]]:
    """Data dictionaries of the images to predict: of a dataset folder, or of any folder of images.

    Args:
        folder: a folder with ``datalist.json``, a folder of images (searched through), or one image.
        split: of a datalist, the split to predict; ``None`` predicts all.

    Returns:
        Dictionaries with ``image`` (path) and ``name`` (path relative to the folder).

    Raises:
        DataError: when there is nothing to predict.
        ConfigError: for an unknown split.
    """
    root = Path(folder)
    if split is not None and split not in SPLITS:
        raise ConfigError(f"unknown split {split!r}", where="inference_split", advice=did_you_mean(split, SPLITS))
    if (root / FILE_NAME).is_file():
        datalist = load_datalist(root)
        chosen = [item for name, item in datalist if split in (None, name)]
        records = [{key: datalist.record(item)[key] for key in ("image", "name")} for item in chosen]
    elif root.is_file():
        records = [{"image": str(root), "name": root.name}]
    elif root.is_dir():
        records = [{"image": str(path), "name": str(path.relative_to(root))} for path in find_images(root)]
    else:
        raise DataError("no such file or folder", where=root, advice="Name the images' folder as dataset_dir.")
    if not records:
        raise DataError(
            "no image to predict here", where=root, found=f"split {split!r}" if split else "an empty folder"
        )
    return records
