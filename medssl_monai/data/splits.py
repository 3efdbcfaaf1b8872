"""Splits by subject: whole subjects, classes in proportion, the same for the same seed.

One rule serves every task: iterative stratification (Sechidis, Tsoumakas and Vlahavas, "On the Stratification of
Multi-Label Data", 2011) over subjects instead of items. Where a subject has items of one class only, it is ordinary
stratification by class.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medssl_monai.core import DataError, permutation
from medssl_monai.data.datalist import Item, Task

_ADVICE_FEW = "Use fewer parts, or add subjects."


@dataclass(frozen=True)
class Subjects:
    """The subjects of some items and what they show.

    Attributes:
        names: subject ids (or image names where the subject is not known), in order of first appearance.
        members: for each subject the positions of its items.
        counts: items that show each class, shape (subjects, classes + 1); the last column counts items that show none
            (all-zero vectors, background masks, items without a label).
        sizes: items of each subject, shape (subjects,).
    """

    names: list[str]
    members: list[list[int]]
    counts: np.ndarray
    sizes: np.ndarray


def group_subjects(
    items: Sequence[Item], *, task: Task, classes: Sequence[int], organs: Mapping[str, frozenset[int]] | None = None
) -> Subjects:
    """Group items by subject and count what they show.

    Args:
        items: items of one dataset.
        task: says how labels are read.
        classes: class indices, or for masks the values that count as classes (without background).
        organs: for masks, the values present in each, by mask path; without it every mask counts as showing none.

    Raises:
        DataError: when a label is none of ``classes``.
    """
    column = {value: index for index, value in enumerate(classes)}
    position: dict[str, int] = {}
    members: list[list[int]] = []
    rows: list[np.ndarray] = []
    for index, item in enumerate(items):
        at = position.setdefault(item.group, len(members))
        if at == len(members):
            members.append([])
            rows.append(np.zeros(len(classes) + 1, dtype=np.int64))
        members[at].append(index)
        shown = [column[value] for value in _classes_shown(item, task, column, organs)]
        rows[at][shown or [-1]] += 1
    counts = np.stack(rows) if rows else np.zeros((0, len(classes) + 1), dtype=np.int64)
    return Subjects(list(position), members, counts, np.array([len(m) for m in members], dtype=np.int64))


def _classes_shown(
    item: Item, task: Task, column: Mapping[int, int], organs: Mapping[str, frozenset[int]] | None
) -> list[int]:
    if item.label is None:
        return []
    if task == "segmentation":
        present = organs.get(str(item.label), frozenset()) if organs is not None else frozenset()
        return sorted(value for value in present if value in column)
    if isinstance(item.label, tuple) and task == "multilabel" and len(item.label) == len(column):
        return [index for index, value in enumerate(item.label) if value]
    if isinstance(item.label, int) and task in ("binary", "multiclass") and item.label in column:
        return [item.label]
    raise DataError(
        f"label does not fit the {task} task",
        where=item.name,
        found=repr(item.label),
        expected=f"{'a 0/1 vector of' if task == 'multilabel' else 'an index of'} {len(column)} classes",
        advice="Mend the label in datalist.json; `medssl check` lists every such item.",
    )


def split_by_subject(
    items: Sequence[Item],
    fractions: Sequence[float],
    *,
    seed: int,
    task: Task,
    num_classes: int,
    organs: Mapping[str, frozenset[int]] | None = None,
) -> list[list[Item]]:
    """Split items into parts that hold whole subjects and keep the class proportions.

    Parts are sized in items. A class that has at least as many subjects as there are parts gets one into each part
    (always where subjects show one class each; as far as moves of single subjects can reach it otherwise), and no part
    with a positive fraction is left empty.

    Args:
        items: items of one dataset; ``Item.group`` is never divided.
        fractions: share of each part; zero gives an empty part.
        seed: seed of the draw.
        task: says how labels are read.
        num_classes: number of classes; not used for masks, whose classes are the values found in ``organs``.
        organs: for masks, the values present in each mask, by mask path; without it subjects are drawn at random.

    Returns:
        One list of items a fraction, each in the order of ``items``.

    Raises:
        DataError: when the fractions are negative or do not sum to 1, there are fewer subjects than parts, or a label
            does not fit the task.
    """
    fractions = [float(fraction) for fraction in fractions]
    if any(not math.isfinite(f) or f < 0 for f in fractions) or abs(sum(fractions) - 1) > 1e-6:
        raise DataError(
            "fractions of a split must be non-negative and sum to 1",
            found=f"{fractions} (sum {sum(fractions):g})",
            advice="For example 0.7, 0.1, 0.2.",
        )
    classes = _mask_values(organs) if task == "segmentation" else range(num_classes)
    subjects = group_subjects(items, task=task, classes=classes, organs=organs)
    parts = assign_parts(subjects, fractions, seed=seed)
    chosen: list[list[int]] = [[] for _ in fractions]
    for part, members in zip(parts, subjects.members):
        chosen[part] += members
    return [[items[index] for index in sorted(indices)] for indices in chosen]


def k_folds(
    items: Sequence[Item],
    k: int,
    *,
    seed: int,
    task: Task,
    num_classes: int,
    organs: Mapping[str, frozenset[int]] | None = None,
) -> list[tuple[list[Item], list[Item]]]:
    """Cross-validation by subject: ``k`` pairs of (training, test) items, stratified as in :func:`split_by_subject`.

    The test parts are disjoint and together are all items; no subject is on both sides of a fold.

    Raises:
        DataError: when ``k`` is below 2 or above the number of subjects, or a label does not fit the task.
    """
    if k < 2:
        raise DataError("cross-validation needs at least 2 folds", found=k, advice="5 is usual.")
    parts = split_by_subject(items, [1 / k] * k, seed=seed, task=task, num_classes=num_classes, organs=organs)
    held_out = [{id(item) for item in part} for part in parts]
    return [([item for item in items if id(item) not in out], part) for out, part in zip(held_out, parts)]


def _mask_values(organs: Mapping[str, frozenset[int]] | None) -> list[int]:
    return sorted(set().union(*organs.values()) - {0}) if organs else []


def assign_parts(subjects: Subjects, fractions: Sequence[float], *, seed: int) -> np.ndarray:
    """Assign each subject to a part, shape (subjects,), int64, by iterative stratification.

    Raises:
        DataError: when there are fewer subjects than parts with a positive fraction.
    """
    share = np.asarray(fractions, dtype=np.float64)
    used = np.flatnonzero(share > 0)
    total = len(subjects.names)
    if total < len(used):
        raise DataError(
            f"{total} subject{'s'[: total != 1]} cannot fill {len(used)} parts: a subject is never divided",
            advice=_ADVICE_FEW,
        )
    parts = _stratify(subjects, share, used, permutation(total, "split", seed))
    _cover(parts, subjects.counts > 0, used)
    return parts


def _stratify(subjects: Subjects, share: np.ndarray, used: np.ndarray, order: np.ndarray) -> np.ndarray:
    parts = np.full(len(order), -1, dtype=np.int64)
    desired = np.outer(share[used], subjects.counts.sum(0))  # (parts, classes + 1)
    room = share[used] * subjects.sizes.sum()
    left = subjects.counts.sum(0)
    while left.any():
        rarest = int(np.argmin(np.where(left > 0, left, left.max() + 1)))
        for subject in order[(subjects.counts[order, rarest] > 0) & (parts[order] < 0)]:
            # Greatest need of this class, then of items in all, then the first part.
            need = np.lexsort((-np.arange(len(used)), room.round(9), desired[:, rarest].round(9)))[-1]
            parts[subject] = used[need]
            desired[need] -= subjects.counts[subject]
            room[need] -= subjects.sizes[subject]
            left = left - subjects.counts[subject]
    return parts


def _cover(parts: np.ndarray, shows: np.ndarray, used: np.ndarray) -> None:
    """Move single subjects so that no part is empty and each part shows every class that has subjects enough."""
    everyone = np.ones((len(shows), 1), dtype=bool)
    shows = np.concatenate([everyone, shows], axis=1)
    held_by = shows.sum(0)
    # Column 0, everyone, comes first: filling an empty part may cost a class, which the later columns then mend.
    rarest_first = sorted(range(1, shows.shape[1]), key=lambda column: int(held_by[column]))
    for column in [0, *(c for c in rarest_first if held_by[c] >= len(used))]:
        for part in used:
            if shows[parts == part, column].any():
                continue
            # What the giving part would lose altogether; the part with most to give comes first among equals.
            held = np.stack([shows[parts == p].sum(0) if p in used else 0 * shows[0] for p in range(max(used) + 1)])
            given = held[parts]
            lost = (shows & (given == 1)).sum(1)
            able = np.flatnonzero(shows[:, column] & (given[:, column] > 1) & ((lost == 0) | (column == 0)))
            if len(able):
                best = able[np.lexsort((-given[able, column], lost[able]))[0]]
                parts[best] = part
