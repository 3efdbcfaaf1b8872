"""Long-tailed training sets: classes thinned out exponentially, by whole subjects."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from medssl_monai.core import ConfigError, derive_seed
from medssl_monai.core.distributed import is_main
from medssl_monai.data.datalist import FILE_NAME, Datalist, Item

logger = logging.getLogger(__name__)

#: a ratio further than this share from the one asked for is told: whole subjects and rounding move it a little
_TOLERANCE = 0.1


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


def long_tailed(datalist: Datalist, factor: float | None, seed: int = 0, option: str = "long_tail_factor") -> Datalist:
    """A dataset whose training split is long-tailed; test, validation and unlabelled items stay as they are.

    Whole subjects are kept, in an order that ``seed`` draws, until a class has its number of items
    (:func:`long_tail_counts`); so a class may end with a few items more. A subject with items of several classes counts
    for the class of most of its items, of equals the rarer one. What is left out is in no pool.
    Where subjects show one class each, a larger factor's training set is contained in a smaller one's.

    The images of each class before and after are logged, with a warning where nothing is thinned out or the ratio is
    not the one asked for: classes are never made larger, so that a dataset may be more unbalanced already.

    Args:
        datalist: a dataset of exclusive classes.
        factor: ratio of the most frequent to the rarest class (imbalance factor); ``None``: the dataset as it is.
        seed: of the order of the subjects.
        option: what the user calls the factor, for messages.

    Raises:
        ConfigError: when the factor is below 1, or the classes are not exclusive.
    """
    if factor is None:
        return datalist
    if isinstance(factor, bool) or not 1 <= factor < float("inf"):
        expected = "a number from 1 on" if option.startswith("-") else "a number from 1 on, or null"
        raise ConfigError(f"{option} is out of range", found=factor, expected=expected)
    if not datalist.exclusive:
        raise ConfigError(
            "only exclusive classes have a long tail", where=datalist.root / FILE_NAME, found=f"task {datalist.task}",
            expected="binary or multiclass, with two class names or more",
            advice=f"Leave {option} {'out' if option.startswith('-') else 'null'}.",
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
    if is_main():
        _tell(datalist.class_names, [counts[index] for index in range(len(targets))], have, factor, option)
    return replace(datalist, splits={**datalist.splits, "training": training})


def _tell(names: Sequence[str], before: list[int], after: list[int], factor: float, option: str) -> None:
    """Log what thinning has done, and warn where it is not what was asked for."""
    listed = ", ".join(f"{name} {old} -> {new}" for name, old, new in zip(names, before, after))
    logger.info("%s %g: labelled training images of each class: %s", option, factor, listed)
    present = [number for number in after if number]
    if len(present) < 2:
        logger.warning("%s %g does nothing: %d class has labelled training images", option, factor, len(present))
        return
    ratio = max(present) / min(present)
    reached = abs(ratio / factor - 1) <= _TOLERANCE
    if before == after and not (reached and factor == 1):
        logger.warning(
            "%s %g thins nothing out: of the most frequent class there are %d images, of the rarest %d, %.3g times as "
            "many before any thinning", option, factor, max(present), min(present), ratio,
        )  # fmt: skip
    elif not reached:
        why = "classes are never made larger" if ratio > factor else "whole subjects are kept, and one of each class"
        logger.warning(
            "%s %g is not reached: of the most frequent class %d images are left, of the rarest %d, %.3g times as many "
            "(%s)", option, factor, max(present), min(present), ratio, why,
        )  # fmt: skip


def _index(item: Item) -> int:
    if not isinstance(item.label, int):
        raise ConfigError("only exclusive classes have a long tail", where=item.name, found=f"label {item.label!r}")
    return item.label
