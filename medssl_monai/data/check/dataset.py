"""Check of a dataset: every file is read, every problem is reported (``medssl check``)."""

from __future__ import annotations

import os
import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from medssl_monai.core import DataError, read_json
from medssl_monai.data.check.entries import Entry, class_table, entries, entry_problems, leaves_folder
from medssl_monai.data.check.files import FileFacts, read_facts
from medssl_monai.data.check.report import KINDS, CheckReport, Problem
from medssl_monai.data.check.rules import (
    axes_notes,
    channel_problems,
    class_problems,
    copy_problems,
    entry_classes,
    mask_problems,
    organ_notes,
    plane_notes,
    subject_problems,
)
from medssl_monai.data.datalist import FILE_NAME, SPLITS

__all__ = ["KINDS", "CheckReport", "Problem", "check_dataset"]


def check_dataset(
    folder: str | Path, *, in_channels: int | None = None, workers: int | None = None, progress: bool = True
) -> CheckReport:
    """Read every file of a dataset and report all that is wrong with it.

    Entries of the datalist that break the contract are reported, and whatever can be read of them is checked all the
    same. Files whose path leaves the folder are reported and not opened. An image that shows one value only counts as
    empty. A file that is a link to a place outside the folder (as ``medssl prepare --link`` makes them) is a note, and
    so is a subject with both training and unlabelled images, exams without a plane that others have, masks without any
    organ, and a volume whose axes are not at right angles.

    Files are read by threads: decoding, unpacking and hashing release Python's lock.

    Args:
        folder: dataset folder, or its ``datalist.json``.
        in_channels: number of channels every image must have; by default that of most images.
        workers: threads; by default one for each core.
        progress: show a progress bar on stderr.

    Raises:
        DataError: when there is no datalist.
    """
    path = Path(folder)
    path = path if path.suffix == ".json" else path / FILE_NAME
    report = CheckReport(path.parent)
    if not path.is_file():
        raise DataError(
            f"no {FILE_NAME} here",
            where=path.parent,
            advice="Make one with `medssl prepare folder SOURCE OUT` (or table, nifti, ...), then check OUT.",
        )
    try:
        content = read_json(path)
    except DataError as error:
        report.problems.append(Problem(path.name, "datalist", error.what, "Mend the text of the file."))
        return report
    report.problems += entry_problems(content)
    items = list(entries(content))
    inside, outside = _by_place(items)
    report.problems += outside
    report.notes += _link_notes(report.folder, inside)
    images, masks = _read_all(report, items, inside, workers or _cores(), progress)
    report.problems += _file_problems(items, images, masks)
    classes = class_table(content)
    labels = _mask_labels(content)
    report.problems += channel_problems(items, images, in_channels)
    report.problems += mask_problems(items, images, masks, labels)
    report.problems += class_problems(items, masks, classes)
    problems, notes = subject_problems(items)
    report.problems += [*problems, *copy_problems(items, images)]
    report.notes += [*notes, *plane_notes(items), *organ_notes(items, masks), *axes_notes(items, images)]
    report.facts = _facts(content, items, images, masks, classes)
    order = list(KINDS)
    report.problems.sort(key=lambda problem: order.index(problem.kind))
    return report


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _mask_labels(content: Any) -> dict[int, str]:
    """Mask values that may occur; background may, whether it is named or not."""
    if not isinstance(content, dict) or content.get("task") != "segmentation":
        return {}
    table = class_table(content)
    return {0: "background", **table} if table else {}


def _by_place(items: Iterable[Entry]) -> tuple[list[tuple[str, bool]], list[Problem]]:
    """Paths inside the folder with whether they are masks, each once; and problems for those that leave it."""
    inside: dict[tuple[str, bool], None] = {}
    problems: dict[tuple[str, bool], Problem] = {}
    for entry in items:
        listed = [(path, False) for path in entry.images.values()]
        for path, is_mask in listed + ([(entry.mask, True)] if entry.mask is not None else []):
            if leaves_folder(path):
                problems[path, is_mask] = Problem(
                    path, "outside", "the path leaves the dataset's folder",
                    f"Copy the file into the folder and write its path relative to {FILE_NAME}.", entry.split,
                )  # fmt: skip
            else:
                inside[path, is_mask] = None
    return list(inside), list(problems.values())


def _link_notes(root: Path, paths: Iterable[tuple[str, bool]]) -> list[Problem]:
    home = Path(os.path.realpath(root))
    # What no file can be called is reported when it is read
    linked = [p for p, _ in paths if "\0" not in p and not Path(os.path.realpath(root / p)).is_relative_to(home)]
    if not linked:
        return []
    message = f"{len(linked)} file{'s'[: len(linked) != 1]} of the datalist lie outside the folder, behind links"
    return [Problem(linked[0], "link", message, "Copy them in before the folder is moved or given away.")]


def _read_all(
    report: CheckReport, items: Sequence[Entry], paths: Sequence[tuple[str, bool]], workers: int, progress: bool
) -> tuple[dict[str, FileFacts], dict[str, FileFacts]]:
    """Facts of every image and of every mask, by path; what readers warn of is noted."""
    with (
        warnings.catch_warnings(record=True) as remarks,
        ThreadPoolExecutor(workers) as pool,
        tqdm(total=len(paths), desc="check", unit="file", file=sys.stderr, disable=not progress) as bar,
    ):
        warnings.simplefilter("always", UserWarning)
        facts = []
        for fact in pool.map(lambda job: read_facts(report.folder, job[0], is_mask=job[1]), paths):
            facts.append(fact)
            bar.update()
    for text in dict.fromkeys(str(remark.message) for remark in remarks if issubclass(remark.category, UserWarning)):
        prefix = f"{report.folder}{os.sep}"
        file, _, message = text.removeprefix(prefix).partition(": ") if text.startswith(prefix) else ("", "", text)
        report.notes.append(Problem(file, "reader", message, "See whether this is meant."))
    found: tuple[dict[str, FileFacts], dict[str, FileFacts]] = ({}, {})
    for (path, is_mask), fact in zip(paths, facts):
        found[is_mask][path] = fact
    return found


def _file_problems(
    items: Sequence[Entry], images: Mapping[str, FileFacts], masks: Mapping[str, FileFacts]
) -> list[Problem]:
    """Faults that files have by themselves, once a file and role."""
    problems: dict[tuple[str, bool], Problem] = {}
    for entry in items:
        facts = [(images.get(path), False) for path in entry.images.values()]
        for fact, is_mask in [*facts, (masks.get(entry.mask or ""), True)]:
            if fact is not None and fact.fault:
                found = Problem(fact.path, fact.fault, fact.message, fact.advice, entry.split)
                problems.setdefault((fact.path, is_mask), found)
    return list(problems.values())


def _facts(
    content: Any,
    items: Sequence[Entry],
    images: Mapping[str, FileFacts],
    masks: Mapping[str, FileFacts],
    classes: Mapping[int, str],
) -> dict[str, Any]:
    readable = [fact for fact in images.values() if fact.readable]
    facts: dict[str, Any] = {
        "name": content.get("name") if isinstance(content, dict) else None,
        "task": content.get("task") if isinstance(content, dict) else None,
        "files": len(images) + len(masks),
        "splits": {},
    }
    for split in SPLITS:
        members = [entry for entry in items if entry.split == split]
        if members:
            shown = Counter(value for entry in members for value in entry_classes(entry, masks))
            facts["splits"][split] = {
                "items": len(members),
                "subjects": len({entry.subject or entry.name for entry in members}),
                "classes": {name: shown[value] for value, name in classes.items()},
            }
    if readable:
        facts["channels"] = dict(Counter(str(fact.channels) for fact in readable).most_common())
        facts["dtypes"] = dict(Counter(fact.dtype for fact in readable).most_common())
        facts["intensities"] = [min(fact.low for fact in readable), max(fact.high for fact in readable)]
        facts["sizes"] = _sizes(readable)
    return facts


def _sizes(readable: Sequence[FileFacts]) -> dict[str, Any]:
    """Smallest, median and largest length of each axis, for each number of dimensions."""
    sizes = {}
    for rank in sorted({len(fact.shape) for fact in readable}):
        shapes = np.array([fact.shape for fact in readable if len(fact.shape) == rank])
        sizes[f"{rank}-D"] = {
            "images": len(shapes),
            "smallest": shapes.min(0).tolist(),
            "median": np.median(shapes, axis=0).astype(int).tolist(),
            "largest": shapes.max(0).tolist(),
        }
    return sizes
