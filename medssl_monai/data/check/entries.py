"""The datalist's own text, for the check: faults of its entries, and every item that can still be looked at."""

from __future__ import annotations

import ntpath
import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from medssl_monai.data.check.report import Problem
from medssl_monai.data.datalist import FILE_NAME, SPLITS, TASKS, Split, datalist_problems

_IN_ITEM = re.compile(r"(\w+)\[(\d+)\]: (.*)", re.DOTALL)


@dataclass(frozen=True)
class Entry:
    """An item of the datalist, as far as it can be understood.

    Attributes:
        split: its split.
        images: name (empty for a single image) to path.
        mask: path of its mask, for a segmentation task.
        classes: class indices that its label shows; ``None`` where the label is missing, wrong or a mask.
        subject: subject id; ``None`` where it is not known.
    """

    split: Split
    images: Mapping[str, str]
    mask: str | None
    classes: tuple[int, ...] | None
    subject: str | None

    @property
    def name(self) -> str:
        """The (first) image path."""
        return next(iter(self.images.values()))


def entry_problems(content: Any) -> list[Problem]:
    """Everything that breaks the data contract in a datalist's content, with the image it concerns."""
    problems = []
    named: set[str] = set()  # items whose missing image has been explained by a misspelt key
    for text in datalist_problems(content):
        match = _IN_ITEM.fullmatch(text)
        if not match:
            problems.append(_whole_list_problem(text))
            continue
        split, number, message = match[1], int(match[2]), match[3]
        images = _images(content[split][number])
        file = next(iter(images.values()), FILE_NAME)
        kind, advice = "datalist", f"Mend {split}[{number}] in {FILE_NAME}."
        if message.startswith("label"):
            kind, advice = (
                "label",
                f"Mend the label of {split}[{number}] in {FILE_NAME}, or name the class in 'labels'.",
            )
        elif message.endswith("meant?)"):
            kind, advice = "key", f"Rename the key of {split}[{number}] in {FILE_NAME}."
            named.add(f"{split}[{number}] 'image'")
        elif "looks misspelt" in message:
            message, _, hint = message.partition(". ")
            kind, advice = "key", f"Rename it in {split}[{number}] of {FILE_NAME}. {hint}"
            if any(f"{split}[{number}] {known}" in named for known in re.findall(r"'\w+'", hint)):
                continue
        problems.append(Problem(file, kind, message.rstrip("."), advice, split))
    return problems


def _whole_list_problem(text: str) -> Problem:
    if text.startswith("unknown key"):
        message, _, hint = text.partition(". ")
        return Problem(FILE_NAME, "key", message.rstrip("."), f"Rename or remove the key. {hint}".strip())
    split = text.split(" ", 1)[0]
    if text.endswith("leave an absent split out"):
        return Problem(FILE_NAME, "split", f"{split} is an empty list", "Fill the split, or leave it out.", split)
    return Problem(FILE_NAME, "datalist", text.rstrip("."), f"Mend {FILE_NAME}.", split if split in SPLITS else "")


def entries(content: Any) -> Iterator[Entry]:
    """Every item whose image can be looked for, whatever else is wrong with it."""
    if not isinstance(content, dict):
        return
    task = content.get("task")
    for split in SPLITS:
        listed = content.get(split)
        for raw in listed if isinstance(listed, list) else []:
            images = _images(raw)
            if images:
                label, subject = raw.get("label"), raw.get("subject")
                yield Entry(
                    split, images,
                    mask=label if task == "segmentation" and isinstance(label, str) and label else None,
                    classes=_classes(label, content),
                    subject=subject if isinstance(subject, str) else None,
                )  # fmt: skip


def _images(raw: Any) -> dict[str, str]:
    image = raw.get("image") if isinstance(raw, dict) else None
    if isinstance(image, str) and image:
        return {"": image}
    if isinstance(image, dict) and image and all(isinstance(path, str) and path for path in image.values()):
        return {str(name): path for name, path in image.items()}
    return {}


def _classes(label: Any, content: Mapping[str, Any]) -> tuple[int, ...] | None:
    number = len(class_table(content))
    if content.get("task") == "multilabel" and isinstance(label, list) and len(label) == number:
        return tuple(index for index, value in enumerate(label) if value == 1)
    is_index = isinstance(label, int) and not isinstance(label, bool)
    if content.get("task") in ("binary", "multiclass") and is_index and 0 <= label < number:
        return (label,)
    return None


def class_table(content: Any) -> dict[int, str]:
    """Class index, or mask value without background, to name; empty where task or labels cannot be understood."""
    if not isinstance(content, dict) or content.get("task") not in TASKS:
        return {}
    labels = content.get("labels")
    if content["task"] == "segmentation":
        known = labels if isinstance(labels, dict) else {}
        return {int(value): str(name) for value, name in known.items() if str(value).isdecimal() and int(value)}
    names = [str(name) for name in labels] if isinstance(labels, list) else []
    if content["task"] == "binary" and len(names) == 1:
        names = [f"not {names[0]}", names[0]]
    return dict(enumerate(names))


def leaves_folder(path: str) -> bool:
    """Whether a path's text leads out of the folder it is relative to (on any system)."""
    if posixpath.isabs(path) or ntpath.isabs(path) or ntpath.splitdrive(path)[0]:
        return True
    return posixpath.normpath(path.replace("\\", "/")).split("/", 1)[0] == ".."
