"""Rules that hold between the files of a dataset: masks and images, channels, labels, subjects, copies."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from medssl_monai.data.check.entries import Entry
from medssl_monai.data.check.files import FileFacts
from medssl_monai.data.check.report import Problem
from medssl_monai.data.datalist import FILE_NAME

Facts = Mapping[str, FileFacts]
_TILT = 0.5  # degrees; less comes from rounding
_OFFSET = 0.1  # of the smallest voxel edge: corners nearer than this count as the same place


def mask_problems(
    entries: Sequence[Entry], images: Facts, masks: Facts, labels: Mapping[int, str]
) -> Iterator[Problem]:
    """Masks with another shape, place or values than they may have.

    Args:
        entries: the datalist's items.
        images: facts of the image files, by path.
        masks: facts of the mask files, by path.
        labels: mask value to class name, background included; nothing is said about values where it is empty.
    """
    for entry in entries:
        mask = masks.get(entry.mask) if entry.mask is not None else None
        if mask is None or not mask.readable:
            continue
        if mask.channels > 1:
            yield Problem(
                mask.path, "shape", f"the mask has {mask.channels} channels, expected one with integer values",
                "Save it as a single-channel image of class values.", entry.split,
            )  # fmt: skip
        elif outside := [value for value in mask.values if value not in labels and labels]:
            listed = ", ".join(f"{value:g}" for value in outside[:5]) + (", ..." if len(outside) > 5 else "")
            yield Problem(
                mask.path, "mask-value",
                f"the mask holds {listed}; 'labels' names {', '.join(str(value) for value in sorted(labels))}",
                _mask_advice(outside, labels), entry.split,
            )  # fmt: skip
        for path in entry.images.values():
            image = images.get(path)
            if image is not None and image.readable:
                yield from _place_problems(entry, image, mask)


def organ_notes(entries: Sequence[Entry], masks: Facts) -> Iterator[Problem]:
    """Masks without any organ: notes, for a scan may show none, but a single labelled scan must not be such a one."""
    empty = [entry for entry in entries if entry.mask is not None and _shows_nothing(masks.get(entry.mask))]
    if empty:
        yield Problem(
            str(empty[0].mask), "organ",
            f"{_count(len(empty), 'mask')} of the datalist show{'s'[: len(empty) == 1]} no organ",
            "Nothing to mend if these scans show none; else outline the organs, or list the scans as unlabeled.",
            " / ".join(dict.fromkeys(entry.split for entry in empty)),
        )  # fmt: skip


def _shows_nothing(mask: FileFacts | None) -> bool:
    return mask is not None and mask.readable and not mask.fault and set(mask.values) <= {0.0}


def axes_notes(entries: Sequence[Entry], images: Facts) -> Iterator[Problem]:
    """Volumes whose voxel axes are not at right angles, as a tilted gantry makes them: notes, for they can be read."""
    seen: set[str] = set()
    for entry in entries:
        for path in entry.images.values():
            fact = images.get(path)
            if fact is None or fact.affine is None or len(fact.shape) != 3 or path in seen:
                continue
            seen.add(path)
            axes = fact.affine[:3, :3] / np.maximum(np.linalg.norm(fact.affine[:3, :3], axis=0), 1e-12)
            tilt = float(np.degrees(np.arcsin(np.clip(np.abs(axes.T @ axes - np.eye(3)).max(), 0, 1))))
            if tilt > _TILT:
                yield Problem(
                    path, "axes", f"the voxel axes are {tilt:.1f} degrees off a right angle",
                    "Resample it to a grid of right angles before distances and volumes are measured.", entry.split,
                )  # fmt: skip


def _mask_advice(outside: Sequence[float], labels: Mapping[int, str]) -> str:
    if list(outside) == [255] and set(labels) == {0, 1}:
        return "Save the mask with 1 instead of 255."
    if any(value != int(value) for value in outside):
        return "Save the mask as integers, without interpolation (nearest neighbour)."
    return "Name the value in 'labels', or set those pixels to a value that is named."


def _place_problems(entry: Entry, image: FileFacts, mask: FileFacts) -> Iterator[Problem]:
    if image.shape != mask.shape:
        yield Problem(
            mask.path, "shape", f"the mask has shape {mask.shape}, its image {image.path} has {image.shape}",
            "Resample the mask to the image's grid (nearest neighbour), or pair it with its own image.", entry.split,
        )  # fmt: skip
    elif image.affine is not None and mask.affine is not None:
        distance = corner_distance(image.affine, mask.affine, image.shape)
        edge = float(np.linalg.norm(image.affine[:3, : len(image.shape)], axis=0).min())
        if not distance <= _OFFSET * edge:
            yield Problem(
                mask.path, "affine", f"the mask lies up to {distance:.3g} mm away from its image {image.path}",
                "Copy the image's affine to the mask if the voxels match, else resample the mask.", entry.split,
            )  # fmt: skip


def corner_distance(first: NDArray[np.float64], second: NDArray[np.float64], shape: Sequence[int]) -> float:
    """Largest distance in mm between where two affines put the corners of a volume (not-a-number where undefined)."""
    corners = np.array([[*corner, *[0] * (3 - len(corner)), 1] for corner in product(*[(0, n - 1) for n in shape[:3]])])
    return float(np.linalg.norm((corners @ (first - second).T)[:, :3], axis=1).max())


def channel_problems(entries: Sequence[Entry], images: Facts, in_channels: int | None) -> Iterator[Problem]:
    """Images with another number of channels than ``in_channels`` (or than most of their name), or of dimensions."""
    found: dict[str, list[tuple[Entry, FileFacts]]] = defaultdict(list)
    seen: set[tuple[str, str]] = set()
    for entry in entries:
        for name, path in entry.images.items():
            fact = images.get(path)
            if fact is not None and fact.readable and (name, path) not in seen:
                seen.add((name, path))
                found[name].append((entry, fact))
    for members in found.values():
        usual_rank = _most(len(fact.shape) for _, fact in members)
        usual = in_channels if in_channels is not None else _most(fact.channels for _, fact in members)
        source = "was asked for" if in_channels is not None else "is what most images here have"
        for entry, fact in members:
            if fact.channels != usual:
                yield Problem(
                    fact.path, "channels", f"{_count(fact.channels, 'channel')} found, {usual} {source}",
                    _channel_advice(fact.channels, usual), entry.split,
                )  # fmt: skip
            if len(fact.shape) != usual_rank:
                yield Problem(
                    fact.path, "channels", f"{len(fact.shape)}-D image, most here are {usual_rank}-D",
                    "Keep pictures and volumes in datasets of their own.", entry.split,
                )  # fmt: skip


def _channel_advice(found: int, expected: int) -> str:
    if (found, expected) == (4, 3):
        return "Save it without the alpha channel."
    if (found, expected) == (3, 1):
        return "Save it as a grey image."
    if (found, expected) == (1, 3):
        return "Save it as RGB, or leave it out."
    return f"Save it with {_count(expected, 'channel')}, or leave it out."


def class_problems(entries: Sequence[Entry], masks: Facts, classes: Mapping[int, str]) -> Iterator[Problem]:
    """Classes that no training item shows; nothing where there is no training split."""
    training = [entry for entry in entries if entry.split == "training"]
    if not training:
        return
    shown = Counter(value for entry in training for value in entry_classes(entry, masks))
    for value, name in classes.items():
        if not shown[value]:
            yield Problem(
                FILE_NAME, "class", f"no training item shows class {value} ({name})",
                "Move subjects that show it into training, or take the class out of 'labels'.", "training",
            )  # fmt: skip


def entry_classes(entry: Entry, masks: Facts) -> tuple[int, ...]:
    """Class indices or mask values (background left out) that an item shows."""
    if entry.mask is not None:
        mask = masks.get(entry.mask)
        return tuple(int(value) for value in mask.values if value and value == int(value)) if mask is not None else ()
    return entry.classes or ()


def subject_problems(entries: Sequence[Entry]) -> tuple[list[Problem], list[Problem]]:
    """Subjects in two splits: a problem, but a note where they are training and unlabelled, which may be seen together.

    Returns:
        problems and notes.
    """
    places: dict[str, dict[str, str]] = defaultdict(dict)
    for entry in entries:
        if entry.subject is not None:
            places[entry.subject].setdefault(entry.split, entry.name)
    problems: list[Problem] = []
    notes: list[Problem] = []
    for subject, splits in places.items():
        if len(splits) < 2:
            continue
        seen_together = set(splits) == {"training", "unlabeled"}
        names = " / ".join(splits)
        where = ", ".join(f"{name} in {split}" for split, name in splits.items())
        found = Problem(
            next(iter(splits.values())), "subject", f"{subject} is in {names.replace(' / ', ' and ')} ({where})",
            "Nothing to mend if these are further images of the same person."
            if seen_together else "Keep all images of a subject in one split.", names,
        )  # fmt: skip
        (notes if seen_together else problems).append(found)
    return problems, notes


def plane_notes(entries: Sequence[Entry]) -> Iterator[Problem]:
    """Exams that lack an image which others have, once an image name (plane): notes, for another plane may do."""
    exams = [entry for entry in entries if "" not in entry.images]
    for plane in dict.fromkeys(name for entry in exams for name in entry.images):
        lacking = [entry for entry in exams if plane not in entry.images]
        if lacking:
            yield Problem(
                lacking[0].name, "plane", f"{len(lacking)} of {_count(len(exams), 'exam')} have no image {plane!r}",
                f"Add them, or take the exams out, before plane {plane} is trained on or predicted.",
                " / ".join(dict.fromkeys(entry.split for entry in lacking)),
            )  # fmt: skip


def copy_problems(entries: Sequence[Entry], images: Facts) -> Iterator[Problem]:
    """Images with the same content: leakage across splits that must not share, else a duplicate."""
    copies: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for entry in entries:
        for path in entry.images.values():
            fact = images.get(path)
            if fact is not None and fact.digest:
                copies[fact.digest].append((path, entry.split))
    for places in copies.values():
        first_path, first_split = places[0]
        for path, split in places[1:]:
            leaks = any({split, other} - {"training", "unlabeled"} and split != other for _, other in places)
            same = "is listed twice" if path == first_path else f"shows the same pixels as {first_path}"
            yield Problem(
                path, "leakage" if leaks else "duplicate", f"{same} ({first_split})",
                "Keep one of them, in one split." if not leaks else
                "Keep it in one split only: a copy that is trained on makes validation and test too good.",
                split if split == first_split else f"{first_split} / {split}",
            )  # fmt: skip


def _most(values: Iterator[int]) -> int:
    counted = Counter(values)
    return max(counted, key=lambda value: (counted[value], -value))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s'[: number != 1]}"
