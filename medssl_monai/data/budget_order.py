"""The order in which subjects give their labels: one order for all budgets of a side, so that budgets are nested."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from medssl_monai.core import DataError, derive_seed, permutation
from medssl_monai.data.datalist import Datalist, Item
from medssl_monai.data.organs import organs_present
from medssl_monai.data.splits import Subjects, assign_parts, group_subjects

_CANDIDATES = 16  # looked at where subjects show several classes: one draw alone drifts from the proportions


@dataclass(frozen=True)
class Side:
    """The labelled items of training or of validation.

    Attributes:
        items: in the order of the datalist.
        subjects: the same items, grouped.
        classes: class index, or mask value, of each column of ``subjects.counts`` but the last.
        shown_known: false for masks whose values have not been read.
    """

    items: list[Item]
    subjects: Subjects
    classes: Sequence[int]
    shown_known: bool

    def covering(self, seed: int, split: str) -> list[int]:
        """The subjects that :func:`label_order` begins with."""
        return covering_subjects(self.subjects, _seeded(self.subjects, seed, split))

    def take(self, target: int, least: int, seed: int, split: str) -> set[int]:
        """Positions of the chosen items.

        Whole subjects are added while fewer than ``target`` items are chosen; the first ``least`` in any case.
        """
        order = label_order(self.subjects, seed, split)
        chosen = list(islice(order, least))
        n_items = int(self.subjects.sizes[chosen].sum())
        while n_items < target:
            chosen.append(next(order))
            n_items += int(self.subjects.sizes[chosen[-1]])
        return {position for subject in chosen for position in self.subjects.members[subject]}


def labelled_sides(
    datalist: Datalist,
    validation_share: float,
    split_seed: int,
    organs: Mapping[str, frozenset[int]] | None,
    *,
    read_masks: bool,
) -> tuple[Side, Side]:
    """Labelled items of training and validation; a missing validation split is carved from training, by subject.

    Args:
        datalist: the dataset.
        validation_share: share of training that is carved; 0 leaves validation out altogether.
        split_seed: seed of the carving.
        organs: for masks, the values present in each, by mask path.
        read_masks: read the masks where ``organs`` is not given and stratification needs it.

    Raises:
        DataError: when training has no labelled item, or does not show a class.
    """
    training = [item for item in datalist.splits.get("training", []) if item.label is not None]
    if not training:
        raise DataError(
            "the training split has no labelled item",
            where=datalist.root,
            advice="Add labelled items to 'training' in datalist.json. Without any, the pretrain stage of the "
            "contrastive bundles runs.",
        )
    carve = "validation" not in datalist.splits and validation_share > 0
    validation = [item for item in datalist.splits.get("validation", []) if item.label is not None]
    validation = validation if validation_share > 0 else []
    if datalist.task == "segmentation" and organs is None and (read_masks or carve):
        organs = organs_present(datalist, training + validation)
    classes = list(classes_of(datalist))

    def side(items: list[Item]) -> Side:
        subjects = group_subjects(items, task=datalist.task, classes=classes, organs=organs)
        return Side(items, subjects, classes, datalist.task != "segmentation" or organs is not None)

    whole = side(training)
    _refuse_missing_classes(whole, datalist)
    if carve and len(whole.subjects.names) > 1:
        parts = _carved_parts(whole.subjects, validation_share, split_seed)
        part_of = {item: part for part, members in zip(parts, whole.subjects.members) for item in members}
        return (
            side([item for index, item in enumerate(training) if part_of[index] == 0]),
            side([item for index, item in enumerate(training) if part_of[index] == 1]),
        )
    return whole, side(validation)


def classes_of(datalist: Datalist) -> dict[int, str]:
    """Class index, or mask value without background, to name; a binary task with one name has its opposite for 0."""
    if isinstance(datalist.labels, dict):
        return {value: datalist.labels[value] for value in sorted(datalist.labels) if value}
    names = list(datalist.labels)
    if datalist.task == "binary" and len(names) == 1:
        names = [f"not {names[0]}", names[0]]
    return dict(enumerate(names))


def _refuse_missing_classes(training: Side, datalist: Datalist) -> None:
    if not training.shown_known:
        return
    names = classes_of(datalist)
    absent = [repr(names[value]) for value, n in zip(training.classes, training.subjects.counts.sum(0)) if not n]
    if absent:
        raise DataError(
            f"no labelled training item shows {', '.join(absent)}",
            where=datalist.root,
            advice="Move subjects of that class into 'training', or take the class out of 'labels'.",
        )


def _carved_parts(subjects: Subjects, share: float, seed: int) -> np.ndarray:
    parts = assign_parts(subjects, [1 - share, share], seed=derive_seed("carve", seed))
    shows = subjects.counts[:, :-1] > 0
    for column in range(shows.shape[1]):  # training keeps every class, even where validation then has fewer subjects
        if shows[:, column].any() and not shows[parts == 0, column].any():
            parts[np.flatnonzero(shows[:, column])[0]] = 0
    return parts


def share_targets(total: int, n_training: int, n_validation: int, share: float, least: int) -> tuple[int, int]:
    """Items asked of training and of validation: ``share`` of ``total``, rounded, for validation.

    Training gets ``least`` first; what one side cannot give the other one does. Neither number falls when ``total``
    rises, which is what makes budgets nested.
    """
    training = min(max(total - math.floor(share * total + 0.5), least), n_training)
    validation = total - training
    if validation > n_validation:
        validation = n_validation
        training = min(total - validation, n_training)
    return training, validation


def _seeded(subjects: Subjects, *parts: int | str) -> np.ndarray:
    return permutation(len(subjects.names), "budget", *parts)


def covering_subjects(subjects: Subjects, order: np.ndarray) -> list[int]:
    """A short list of subjects that together show every class that any of them shows.

    Rarest class first; of the subjects that show it, the one that shows most classes still missing, among equals the
    one with the fewest items (a small budget is then kept to), then the earliest in ``order``.

    Args:
        subjects: C classes, counts of shape (subjects, C + 1).
        order: a permutation of the subjects.
    """
    shows = subjects.counts[:, :-1] > 0
    held_by = shows.sum(0)
    missing = held_by > 0
    chosen: list[int] = []
    for column in np.argsort(held_by, kind="stable"):
        if missing[column]:
            able = order[shows[order, column]]
            best = int(able[np.lexsort((subjects.sizes[able], -shows[able][:, missing].sum(1)))[0]])
            chosen.append(best)
            missing &= ~shows[best]
    return chosen


def label_order(subjects: Subjects, seed: int, split: str) -> Iterator[int]:
    """Yield every subject once: first those that cover the classes, then so that proportions stay near the whole's.

    The order is a function of the subjects, the seed and the split's name alone. After the covering subjects (see
    :func:`covering_subjects`) each step takes the class that is furthest below its share of the items chosen so far,
    and the next subject in a seeded queue that shows it. Where subjects show several classes, the best of the next few
    in the queue is taken (iterative stratification).
    """
    counts, sizes = subjects.counts, subjects.sizes
    order = _seeded(subjects, seed, split)
    share = counts.sum(0) / max(int(sizes.sum()), 1)
    several = bool(((counts > 0).sum(1) > 1).any())
    queues: list[OrderedDict[int, None]] = [
        OrderedDict.fromkeys(int(s) for s in order[counts[order, column] > 0]) for column in range(counts.shape[1])
    ]
    taken, n_items = np.zeros(counts.shape[1]), 0
    first = covering_subjects(subjects, order)
    for step in range(len(sizes)):
        if step < len(first):
            subject = first[step]
        else:
            deficit = np.where([len(queue) > 0 for queue in queues], share * (n_items + 1) - taken, -np.inf)
            queue = queues[int(np.argmax(deficit))]
            subject = next(iter(queue))
            if several:
                near = np.fromiter(islice(queue, _CANDIDATES), dtype=np.int64)
                after = (taken + counts[near]) / (n_items + sizes[near])[:, None]
                subject = int(near[np.argmin(((after - share) ** 2).sum(1))])
        for column in np.flatnonzero(counts[subject]):
            del queues[column][subject]
        taken += counts[subject]
        n_items += int(sizes[subject])
        yield subject
