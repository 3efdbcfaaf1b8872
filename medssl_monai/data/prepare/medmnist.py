"""MedMNIST npz files (Yang et al. 2023, doi:10.5281/zenodo.10519652), 2-D and 3-D; also MedMNIST+ sizes."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from medssl_monai.core import ConfigError, DataError
from medssl_monai.data.datalist import Split, Task
from medssl_monai.data.prepare.arrays import Archive
from medssl_monai.data.prepare.layout import PREPARERS, Draft, Entry, Preparer, names, option
from medssl_monai.data.prepare.medmnist_names import class_names, license_of
from medssl_monai.data.prepare.source import Material, brief, sorted_entries
from medssl_monai.data.prepare.stacks import npy_bytes

_PARTS: dict[str, Split] = {"train": "training", "val": "validation", "test": "test"}
_TASKS = ("binary", "multiclass", "multilabel")


def _task(value: Any) -> str:
    if value not in _TASKS:
        raise ValueError(f"expected one of {', '.join(_TASKS)}")
    return str(value)


@PREPARERS.register("medmnist")
@dataclass(frozen=True, kw_only=True)
class MedMnistPreparer(Preparer):
    """2-D images become PNG. Volumes become ``.npy``: the files state no voxel spacing, which NIfTI would make up."""

    help: ClassVar[str] = "a MedMNIST npz file, 2-D (written as PNG) or 3-D (written as .npy); the publisher's split"
    subject_advice: ClassVar[str] = "MedMNIST does not publish which images are of one patient."

    labels: tuple[str, ...] | None = option(
        "class names in label order (default: the known names of the set, else the numbers)", parse=names, metavar="A,B"
    )
    task: str | None = option(
        "binary, multiclass or multilabel (default: read from the labels)", parse=_task, metavar="TASK"
    )

    def read(self, source: Path) -> Draft:
        """See :meth:`Preparer.read`."""
        path = _npz_file(source)
        archive = Archive(path)
        parts = [part for part in _PARTS if f"{part}_images" in archive.keys]
        needed = [f"{part}_{kind}" for part in (parts or ["train"]) for kind in ("images", "labels")]
        missing = [key for key in needed if key not in archive.keys]
        if missing or "train" not in parts:
            raise DataError(
                f"array {brief(missing or ['train_images'])} is missing",
                where=path,
                found=brief(archive.keys, 12),
                expected="train_images, train_labels and the same for val and test",
            )
        labels = {part: self._labels(archive, part) for part in parts}
        task, classes = self._classes(path, labels)
        entries = [
            Entry(material, _label(row, task), None, _PARTS[part])
            for part in parts
            for material, row in zip(_materials(archive, part), labels[part], strict=True)
        ]
        return Draft(
            task=task,
            labels=list(classes),
            entries=entries,
            name=path.stem,
            license=license_of(path.stem),
            description=f"{path.name} in the layout of MedMNIST (doi:10.5281/zenodo.10519652)",
        )

    def _labels(self, archive: Archive, part: str) -> np.ndarray:
        """Labels as integers, shape (N, L)."""
        key = f"{part}_labels"
        count = archive.header(f"{part}_images")[0][:1]
        shape, dtype = archive.header(key)
        if not (len(shape) in (1, 2) and shape[:1] == count and shape[-1:] != (0,)):
            raise DataError(
                f"{key} does not fit {part}_images",
                where=archive.path,
                found=f"shape {shape}",
                expected=f"{count[0]} rows",
            )
        values = archive.read(key).reshape(shape[0], -1)
        if (
            dtype.kind not in "iufb"
            or not np.isfinite(values).all()
            or (values != np.round(values)).any()
            or (values < 0).any()
        ):
            raise DataError(f"{key} must hold non-negative integers", where=archive.path, found=f"type {dtype}")
        return values.astype(np.int64)

    def _classes(self, path: Path, labels: dict[str, np.ndarray]) -> tuple[Task, tuple[str, ...]]:
        widths = {values.shape[1] for values in labels.values()}
        highest = max((int(values.max()) for values in labels.values() if values.size), default=0)
        if len(widths) > 1:
            raise DataError("the parts have label vectors of different length", where=path, found=str(sorted(widths)))
        (width,) = widths
        if width > 1 and highest > 1:
            raise DataError("label vectors must hold 0 and 1", where=path, found=f"the value {highest}")
        known = self.labels or class_names(path.stem)
        count = width if width > 1 else max(highest + 1, len(known or ()))
        if count < 2:
            raise DataError("at least 2 classes are needed", where=path, found="only label 0")
        if known is not None and len(known) != count:
            raise ConfigError(f"{len(known)} names for {count} classes", where="--labels", found=", ".join(known))
        task: Task = "multilabel" if width > 1 else "binary" if count == 2 else "multiclass"
        if self.task is not None and self.task != task and (self.task, task) != ("multiclass", "binary"):
            raise ConfigError(
                f"the labels in the file are {task}, not {self.task}",
                where="--task",
                found=f"label shape (N, {width}), {count} classes",
            )
        return self.task or task, known or tuple(map(str, range(count)))  # type: ignore[return-value]


def _npz_file(source: Path) -> Path:
    if source.is_file():
        return source
    files = [path for path in sorted_entries(source) if path.suffix == ".npz"]
    if len(files) != 1:
        raise DataError(
            f"{len(files) or 'no'} npz files in this folder",
            where=source,
            found=brief(path.name for path in files) or None,
            advice="Give the npz file itself as SOURCE.",
        )
    if not files[0].resolve().is_relative_to(source):
        raise DataError("is a symbolic link that leads out of the source; it is not followed", where=files[0])
    return files[0]


def _label(row: np.ndarray, task: Task) -> int | tuple[int, ...]:
    return tuple(int(value) for value in row) if task == "multilabel" else int(row[0])


def _materials(archive: Archive, part: str) -> list[Material]:
    key = f"{part}_images"
    shape, dtype = archive.header(key)
    flat = len(shape) == 3 or (len(shape) == 4 and shape[-1] == 3)
    if not (flat or len(shape) == 4) or dtype.kind not in "uif" or (flat and dtype != np.uint8):
        raise DataError(
            f"{key} is neither 2-D images nor volumes",
            where=archive.path,
            found=f"shape {shape}, type {dtype}",
            expected="(N, H, W) or (N, H, W, 3) of uint8, or (N, D, H, W) of numbers",
        )
    encode, suffix = (_png, "png") if flat else (npy_bytes, "npy")
    digits = len(str(max(shape[0] - 1, 0)))

    def maker(index: int) -> Callable[[], bytes]:
        return lambda: encode(archive.read(key)[index])

    return [Material.of_bytes(f"{part}/{i:0{digits}d}.{suffix}", maker(i)) for i in range(shape[0])]


def _png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()
