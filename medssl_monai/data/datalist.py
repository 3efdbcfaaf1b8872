"""The datalist: a dataset's images, labels, subjects and splits, typed, read and written as ``datalist.json``."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

import numpy as np

from medssl_monai.core import DataError, did_you_mean, read_json, write_json

FILE_NAME = "datalist.json"
SUBJECT_PREFIX = "subject:"
Task = Literal["binary", "multiclass", "multilabel", "segmentation"]
Split = Literal["training", "validation", "test", "unlabeled"]
SPLITS: tuple[Split, ...] = get_args(Split)
TASKS: tuple[Task, ...] = get_args(Task)
ImagePath = str | dict[str, str]
Label = int | tuple[int, ...] | str

_TOP_KEYS = {"name", "modality", "task", "labels", "license", "description", *SPLITS}
_ITEM_KEYS = ("image", "label", "subject")


@dataclass(frozen=True)
class Item:
    """One image (or one exam of several named images).

    Attributes:
        image: path relative to the dataset's folder, or a mapping of names (planes) to such paths.
        label: class index, 0/1 vector or mask path; ``None`` where it is not known.
        subject: subject id with the prefix ``subject:``; ``None`` where it is not known.
        columns: further columns (age, sex, site, ...), used by subgroup tables.
        exam: name of the exam that a single image was taken from (see :func:`~medssl_monai.data.exams.select_plane`);
            it is not written to ``datalist.json``.
    """

    image: ImagePath
    label: Label | None = None
    subject: str | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    exam: str | None = None

    @property
    def paths(self) -> tuple[str, ...]:
        """The item's image paths, in the order of the mapping."""
        return tuple(self.image.values()) if isinstance(self.image, dict) else (self.image,)

    @property
    def name(self) -> str:
        """The name predictions carry: the image's path relative to the dataset's folder, or the exam's name.

        An exam of several images is named by what their paths have in common (see :func:`exam_name`), so that it keeps
        its name whichever of its planes is looked at.
        """
        if self.exam is not None:
            return self.exam
        return exam_name(self.paths) if isinstance(self.image, dict) else self.image

    @property
    def group(self) -> str:
        """What is kept together in splits and resampling: the subject, else the image itself."""
        return self.subject if self.subject is not None else self.name

    def to_json(self) -> dict[str, Any]:
        """The entry as it stands in ``datalist.json``."""
        entry: dict[str, Any] = {"image": self.image}
        if self.label is not None:
            entry["label"] = list(self.label) if isinstance(self.label, tuple) else self.label
        if self.subject is not None:
            entry["subject"] = self.subject
        return {**entry, **self.columns}


def exam_name(paths: Sequence[str]) -> str:
    """Name of an exam: the folders that all its images' paths begin with and the parts that all of them end with.

    ``train/sagittal/0001.npy`` and ``train/coronal/0001.npy`` give ``train/0001.npy``; ``P1/sag/`` and ``P1/cor/`` give
    ``P1``. It is the first path where there is only one, or where they have nothing in common.
    """
    parts = [PurePosixPath(path.replace("\\", "/")).parts for path in paths]
    shortest = min(map(len, parts))
    same = [len({one[k] for one in parts}) == 1 for k in range(shortest)]
    if len(set(parts)) == 1 or not shortest:
        return paths[0]
    begin = same.index(False) if False in same else shortest
    end = 0
    while end < shortest - begin and len({one[-1 - end] for one in parts}) == 1:
        end += 1
    first = parts[0]
    return "/".join((*first[:begin], *first[len(first) - end :])) or paths[0]


@dataclass
class Datalist:
    """A dataset.

    Attributes:
        name: short name of the dataset.
        task: ``binary``, ``multiclass``, ``multilabel`` or ``segmentation``.
        labels: class names in index order; for masks a mapping of integer value to name. Empty where no item has a
            label and the classes are not known yet.
        splits: items of ``training``, ``validation``, ``test`` and ``unlabeled``; an absent split has no entry.
        modality: for example ``MR``, ``CT``, ``dermoscopy``.
        license: licence of the data, as its publisher states it.
        description: free text.
        root: the folder that paths are relative to.
    """

    name: str
    task: Task
    labels: list[str] | dict[int, str]
    splits: dict[Split, list[Item]]
    modality: str = "unknown"
    license: str = "unknown"
    description: str = ""
    root: Path = field(default_factory=Path)

    def __iter__(self) -> Iterator[tuple[Split, Item]]:
        for split, items in self.splits.items():
            for item in items:
                yield split, item

    def __len__(self) -> int:
        return sum(map(len, self.splits.values()))

    @property
    def class_names(self) -> list[str]:
        """Class names in index order (values of the mapping, background first, for masks)."""
        if isinstance(self.labels, dict):
            return [self.labels[value] for value in sorted(self.labels)]
        return list(self.labels)

    @property
    def organs(self) -> dict[int, str]:
        """For masks, value to name in ascending order, without the background (0); gaps are allowed. Else empty."""
        if not isinstance(self.labels, dict):
            return {}
        return {value: self.labels[value] for value in sorted(self.labels) if value}

    @property
    def labelled(self) -> bool:
        """Whether any item has a label."""
        return any(item.label is not None for _, item in self)

    @property
    def exclusive(self) -> bool:
        """Whether an item has one of several classes; otherwise its labels are each there or not."""
        return self.task in ("binary", "multiclass") and len(self.labels) >= 2

    def records(self, split: Split, *, absolute: bool = True) -> list[dict[str, Any]]:
        """Items of a split as MONAI data dictionaries; paths are joined to ``root`` unless ``absolute`` is false.

        An absent split gives an empty list. ``name`` carries the relative path, ``subject`` the group. Items without
        a label have no ``label`` key. The further columns stay with the items: a column that some items lack (an age
        that is not known) could not be batched.
        """
        return [self.record(item, absolute=absolute) for item in self.splits.get(split, [])]

    def record(self, item: Item, *, absolute: bool = True) -> dict[str, Any]:
        """One item as a MONAI data dictionary (see :meth:`records`); a 0/1 vector is a float32 array (L,)."""

        def join(path: str) -> str:
            return str(self.root / path) if absolute else path

        image = {k: join(p) for k, p in item.image.items()} if isinstance(item.image, dict) else join(item.image)
        record: dict[str, Any] = {"image": image, "name": item.name, "subject": item.group}
        if item.label is not None:
            record["label"] = join(item.label) if isinstance(item.label, str) else item.label
            if isinstance(item.label, tuple):  # as a tuple a batch would be taken apart label by label
                record["label"] = np.array(item.label, dtype=np.float32)
        return record

    def to_json(self) -> dict[str, Any]:
        """The content of ``datalist.json``; empty splits are left out."""
        labels = (
            {str(value): name for value, name in self.labels.items()} if isinstance(self.labels, dict) else self.labels
        )
        content: dict[str, Any] = {
            "name": self.name, "modality": self.modality, "task": self.task, "labels": labels, "license": self.license,
        }  # fmt: skip
        if self.description:
            content["description"] = self.description
        for split in SPLITS:
            if self.splits.get(split):
                content[split] = [item.to_json() for item in self.splits[split]]
        return content

    def save(self, folder: str | Path) -> Path:
        """Write ``datalist.json`` into ``folder`` atomically and return its path."""
        path = Path(folder) / FILE_NAME
        write_json(path, self.to_json())
        return path


def load_datalist(folder: str | Path) -> Datalist:
    """Read ``datalist.json`` of a dataset folder (or the file itself).

    Raises:
        DataError: when the file is missing, or with the list of *all* its problems when its content breaks the data
            contract.
    """
    path = Path(folder)
    if path.suffix != ".json":
        path = path / FILE_NAME
    if not path.is_file():
        raise DataError(
            f"no {FILE_NAME} here",
            where=path.parent,
            advice="Make one with `medssl prepare folder SOURCE OUT` (or table, nifti, ...); OUT is the dataset_dir.",
        )
    content = read_json(path)
    problems = datalist_problems(content)
    if problems:
        listed = "\n  ".join(problems)
        raise DataError(f"{len(problems)} problem{'s'[: len(problems) > 1]} in the datalist:\n  {listed}", where=path)
    return parse_datalist(content, root=path.parent)


def parse_datalist(content: Mapping[str, Any], root: str | Path = ".") -> Datalist:
    """Build a :class:`Datalist` from content that has no problems (see :func:`datalist_problems`)."""
    labels = content["labels"]
    return Datalist(
        name=content["name"],
        task=content["task"],
        labels={int(value): name for value, name in labels.items()} if isinstance(labels, dict) else list(labels),
        splits={split: [_parse_item(entry) for entry in content[split]] for split in SPLITS if split in content},
        modality=content.get("modality", "unknown"),
        license=content.get("license", "unknown"),
        description=content.get("description", ""),
        root=Path(root),
    )


def _parse_item(entry: Mapping[str, Any]) -> Item:
    label = entry.get("label")
    return Item(
        image=entry["image"],
        label=tuple(label) if isinstance(label, list) else label,
        subject=entry.get("subject"),
        columns={key: value for key, value in entry.items() if key not in _ITEM_KEYS},
    )


def datalist_problems(content: Any) -> list[str]:
    """Everything in a datalist's content that breaks the data contract, one line each; files are not opened."""
    if not isinstance(content, dict):
        return [f"the file must hold a JSON object, found {type(content).__name__}"]
    problems = []
    for key in content:
        if key not in _TOP_KEYS:
            problems.append(f"unknown key {key!r}.{did_you_mean(key, _TOP_KEYS)}")
    for key in ("name", "task", "labels"):
        if key not in content:
            problems.append(f"key {key!r} is missing")
    for key in ("name", "modality", "license", "description"):
        if key in content and not isinstance(content[key], str):
            problems.append(f"{key} must be text, found {type(content[key]).__name__}")
    task = content.get("task")
    if "task" in content and task not in TASKS:
        problems.append(f"task {task!r} is unknown.{did_you_mean(str(task), TASKS)}")
    if "labels" in content and not _without_labels(content):
        problems += _labels_problems(content["labels"], task)
    if not any(split in content for split in SPLITS):
        problems.append(f"no split: expected at least one of {', '.join(SPLITS)}")
    for split in SPLITS:
        if split not in content:
            continue
        entries = content[split]
        if not isinstance(entries, list):
            problems.append(f"{split} must be a list of items, found {type(entries).__name__}")
        elif not entries:
            problems.append(f"{split} is empty; leave an absent split out")
        else:
            for number, entry in enumerate(entries):
                where = f"{split}[{number}]"
                problems += [f"{where}: {text}" for text in _item_problems(entry, split, task, content.get("labels"))]
    return problems + _exam_problems(content)


def _exam_problems(content: Mapping[str, Any]) -> list[str]:
    """Different exams of one name: their predictions could not be told apart."""
    problems: list[str] = []
    first: dict[str, tuple[str, tuple[str, ...]]] = {}
    for split in SPLITS:
        entries = content.get(split)
        for number, entry in enumerate(entries if isinstance(entries, list) else []):
            image = entry.get("image") if isinstance(entry, dict) else None
            if not isinstance(image, dict) or not image or not all(isinstance(path, str) for path in image.values()):
                continue
            paths, where = tuple(image.values()), f"{split}[{number}]"
            name = exam_name(paths)
            other, others = first.setdefault(name, (where, paths))
            if others != paths:
                problems.append(
                    f"{where}: the exam's name, which is what its paths have in common ({name!r}), is that of {other} "
                    "too; give every exam a folder of its own"
                )
    return problems


def _without_labels(content: Mapping[str, Any]) -> bool:
    """Whether no class is named and no item has a label: images that wait for both."""
    if content.get("labels") != [] or content.get("task") == "segmentation":
        return False
    listed = [content.get(split) for split in SPLITS]
    entries = [entry for part in listed if isinstance(part, list) for entry in part if isinstance(entry, dict)]
    return not any("label" in entry for entry in entries)


def _labels_problems(labels: Any, task: Any) -> list[str]:
    if task == "segmentation":
        if not isinstance(labels, dict) or not labels:
            return ["labels must map mask values to names for a segmentation task"]
        wrong = [value for value in labels if not str(value).isdecimal()]
        problems = [f"labels: mask value {value!r} is not a non-negative integer" for value in wrong]
        return problems + [
            f"labels: the name of mask value {value!r} must be text, found {type(name).__name__}"
            for value, name in labels.items()
            if not isinstance(name, str)
        ]
    if not isinstance(labels, list) or not labels or not all(isinstance(name, str) for name in labels):
        return ["labels must be a list of class names (empty only where no item has a label)"]
    repeated = sorted({name for name in labels if labels.count(name) > 1})
    problems = [f"labels: class name {name!r} stands more than once" for name in repeated]
    if task == "binary" and len(labels) > 2:
        problems.append(f"labels: a binary task has one or two class names, found {len(labels)}")
    return problems


@lru_cache(maxsize=1024)
def misspelt_key(key: str) -> str | None:
    """The item key that another key is probably a misspelling of; ``None`` for a column of its own such as ``age``."""
    # 0.8 finds one wrong, swapped, added or lost letter; the usual 0.6 would take the column "age" for "image".
    close = difflib.get_close_matches(key, _ITEM_KEYS, n=1, cutoff=0.8)
    return close[0] if close and key not in _ITEM_KEYS else None


def _item_problems(entry: Any, split: str, task: Any, labels: Any) -> list[str]:
    if not isinstance(entry, dict):
        return [f"must be an object, found {type(entry).__name__}"]
    problems = []
    image = entry.get("image")
    if image is None:
        near = [key for key in entry if key.lower().startswith("im")]
        hint = f" (is {near[0]!r} meant?)" if near else ""
        problems.append(f"key 'image' is missing{hint}")
    elif not (isinstance(image, str) and image) and not (
        isinstance(image, dict) and image and all(isinstance(p, str) and p for p in image.values())
    ):
        problems.append("image must be a path or a mapping of names to paths")
    subject = entry.get("subject")
    if subject is not None and not (isinstance(subject, str) and subject.startswith(SUBJECT_PREFIX)):
        problems.append(f"subject {subject!r} lacks the prefix {SUBJECT_PREFIX!r}")
    for key in entry:
        if (meant := misspelt_key(key)) is not None:
            problems.append(f"key {key!r} looks misspelt. Did you mean {meant!r}?")
    if "label" in entry:
        problems += _label_problems(entry["label"], task, labels)
    elif split == "training":
        problems.append("a training item needs a label; items without belong to 'unlabeled'")
    return problems


def _label_problems(label: Any, task: Any, labels: Any) -> list[str]:
    classes = len(labels) if isinstance(labels, Sequence) and not isinstance(labels, str) else None
    is_index = isinstance(label, int) and not isinstance(label, bool)
    if task == "segmentation":
        return [] if isinstance(label, str) and label else [f"label must be a mask's path, found {label!r}"]
    if task == "multilabel":
        if not isinstance(label, list) or any(v not in (0, 1) or isinstance(v, bool) for v in label):
            return [f"label must be a list of 0 and 1, found {label!r}"]
        if classes is not None and len(label) != classes:
            return [f"label has {len(label)} entries, labels names {classes} classes"]
    elif task in ("binary", "multiclass"):
        if not is_index:
            return [f"label must be a class index, found {label!r}"]
        limit = 2 if task == "binary" else classes
        if limit is not None and not 0 <= label < limit:
            return [f"label {label} is out of range: labels names classes 0 to {limit - 1}"]
    return []
