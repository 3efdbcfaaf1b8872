"""Long-tailed training sets: classes thinned out exponentially, by whole subjects."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from medssl_monai.core import ConfigError, derive_seed
from medssl_monai.data.datalist import FILE_NAME, Datalist, Item


def long_tail_counts(counts: list[int], factor: float) -> list[int]:
    """Items that each class keeps so that the most frequent one has ``factor`` times as many as the rarest.

    Of C classes in order of frequency (ties by index) the one at place i keeps ``n_max factor^(-i / (C - 1))`` items,
    rounded, at least one and never more than it has: the long-tailed CIFAR of Cui et al. 2019 and of the thesis,
    chapter 6, which there start from balanced classes.

    Args:
        counts: items of each class.
        factor: at least 1.

    Returns:
        For each class, in the order given; a class without items keeps none.
    """
    present = sorted((index for index, count in enumerate(counts) if count), key=lambda index: (-counts[index], index))
    kept = [0] * len(counts)
    for place, index in enumerate(present):
        share = float(factor) ** (-place / max(len(present) - 1, 1))
        kept[index] = min(counts[index], max(1, int(counts[present[0]] * share + 0.5)))
    return kept


def long_tailed(datalist: Datalist, factor: float | None, seed: int = 0) -> Datalist:
    """A dataset whose training split is long-tailed; test, validation and unlabelled items stay as they are.

    Whole subjects are kept, in an order that ``seed`` draws, until a class has its number of items
    (:func:`long_tail_counts`); so a class may end with a few items more. A subject with items of several classes counts
    for the class of most of its items, of equals the rarer one. What is left out is in no pool.
    Where subjects show one class each, a larger factor's training set is contained in a smaller one's.

    Args:
        datalist: a dataset of exclusive classes.
        factor: ratio of the most frequent to the rarest class (imbalance factor); ``None``: the dataset as it is.
        seed: of the order of the subjects.

    Raises:
        ConfigError: when the factor is below 1, or the classes are not exclusive.
    """
    if factor is None:
        return datalist
    if isinstance(factor, bool) or not 1 <= factor < float("inf"):
        raise ConfigError("long_tail_factor is out of range", found=factor, expected="a number from 1 on, or null")
    if not datalist.exclusive:
        raise ConfigError(
            "only exclusive classes have a long tail", where=datalist.root / FILE_NAME, found=f"task {datalist.task}",
            expected="binary or multiclass, with two class names or more", advice="Leave long_tail_factor null.",
        )  # fmt: skip
    items = [item for item in datalist.splits.get("training", []) if item.label is not None]
    counts = Counter(_index(item) for item in items)
    targets = long_tail_counts([counts[index] for index in range(len(datalist.class_names))], factor)
    subjects: dict[str, list[Item]] = {}
    for item in items:
        subjects.setdefault(item.group, []).append(item)
    have = [0] * len(targets)
    kept: set[str] = set()
    # the order is the subject's own, whatever else there is, so that sets of several factors are nested
    for group in sorted(subjects, key=lambda name: (derive_seed(seed, "long tail", name), name)):
        shown = Counter(_index(item) for item in subjects[group])
        home = max(shown, key=lambda index: (shown[index], -counts[index], -index))
        if have[home] < targets[home]:
            kept.add(group)
            for index, number in shown.items():
                have[index] += number
    training = [item for item in datalist.splits.get("training", []) if item.label is None or item.group in kept]
    return replace(datalist, splits={**datalist.splits, "training": training})


def _index(item: Item) -> int:
    if not isinstance(item.label, int):
        raise ConfigError("only exclusive classes have a long tail", where=item.name, found=f"label {item.label!r}")
    return item.label
