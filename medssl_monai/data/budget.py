"""Label budgets: which labels a run may use before testing, validation labels included."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from medssl_monai.core import ConfigError, DataError, text_digest
from medssl_monai.data.budget_order import Side, classes_of, labelled_sides, share_targets
from medssl_monai.data.datalist import Datalist, Item, Split
from medssl_monai.data.fingerprint import item_digests

Pool = Literal["training", "validation", "unlabeled", "test"]


@dataclass(frozen=True)
class Budget:
    """The items of a run, by what they may be used for; made by :func:`select_budget`.

    Attributes:
        datalist: the dataset the items are of.
        labeled: training items whose labels may be used.
        validation: items whose labels choose checkpoints and thresholds.
        unlabeled: items that may be seen without their labels (``label`` is ``None``): the rest of training and the
            split ``unlabeled``.
        test: items of the test split.
        request: what was asked for (``label_fraction``, ``label_budget``, ``split_seed``, ``validation_share``,
            ``min_validation``, ``transductive``).
        n_requested: labelled items asked for; whole subjects may bring in a few more (see :func:`select_budget`).
        validation_carved: the dataset has no validation split, validation items are taken from training.
        select_on_validation: validation is large enough to choose a checkpoint by; otherwise train for fixed epochs
            and keep the last one.
        classes_training: class name to number of chosen training items that show it; empty for masks not read.
        classes_validation: the same for validation.
    """

    datalist: Datalist = field(repr=False)
    labeled: list[Item] = field(repr=False)
    validation: list[Item] = field(repr=False)
    unlabeled: list[Item] = field(repr=False)
    test: list[Item] = field(repr=False)
    request: dict[str, Any]
    n_requested: int
    validation_carved: bool
    select_on_validation: bool
    classes_training: dict[str, int]
    classes_validation: dict[str, int]

    @property
    def n_labels_training(self) -> int:
        """Labelled items used for training."""
        return len(self.labeled)

    @property
    def n_labels_validation(self) -> int:
        """Labelled items used for validation."""
        return len(self.validation)

    @property
    def n_labels(self) -> int:
        """Every label used before testing."""
        return len(self.labeled) + len(self.validation)

    @property
    def n_subjects_training(self) -> int:
        """Subjects of the training labels."""
        return len({item.group for item in self.labeled})

    @property
    def n_subjects_validation(self) -> int:
        """Subjects of the validation labels."""
        return len({item.group for item in self.validation})

    @property
    def n_subjects(self) -> int:
        """Subjects of all labels; training and validation share none."""
        return self.n_subjects_training + self.n_subjects_validation

    @cached_property
    def fingerprint(self) -> str:
        """By what a dataset is known again: SHA-256 over name, task and every item's pool, path, files and label.

        Files count by their size and both ends (:func:`medssl_monai.core.sampled_digest`), labels where they may be
        used.
        """
        parts = [self.datalist.name, self.datalist.task]
        pools: tuple[Pool, ...] = ("training", "validation", "unlabeled", "test")
        for pool in pools:
            parts.append(pool)
            items = self.items(pool)
            for item, digests in zip(items, item_digests(self.datalist.root, items)):
                parts += [repr((item.image, item.label)), *digests]
        return text_digest(parts)

    def items(self, pool: Pool) -> list[Item]:
        """Items by the name of their pool; ``training`` are the labelled ones.

        Raises:
            ConfigError: for another name.
        """
        pools = {
            "training": self.labeled, "validation": self.validation, "unlabeled": self.unlabeled, "test": self.test,
        }  # fmt: skip
        if pool not in pools:
            raise ConfigError(f"no pool of items is called {pool!r}", expected=", ".join(pools))
        return pools[pool]

    def records(self, pool: Pool, *, absolute: bool = True) -> list[dict[str, Any]]:
        """Items of a pool as MONAI data dictionaries (see ``Datalist.record``); ``unlabeled`` ones have no label.

        Raises:
            ConfigError: for an unknown pool.
        """
        return [self.datalist.record(item, absolute=absolute) for item in self.items(pool)]

    def to_json(self) -> dict[str, Any]:
        """Counts, the request and the names of the chosen items, to be written beside the run."""
        return {
            "dataset": self.datalist.name,
            **self.request,
            "n_requested": self.n_requested,
            "n_labels": self.n_labels,
            "n_labels_training": self.n_labels_training,
            "n_labels_validation": self.n_labels_validation,
            "n_subjects_training": self.n_subjects_training,
            "n_subjects_validation": self.n_subjects_validation,
            "n_unlabeled": len(self.unlabeled),
            "n_test": len(self.test),
            "classes_training": self.classes_training,
            "classes_validation": self.classes_validation,
            "validation_carved": self.validation_carved,
            "select_on_validation": self.select_on_validation,
            "fingerprint": self.fingerprint,
            "training": [item.name for item in self.labeled],
            "validation": [item.name for item in self.validation],
        }


def select_budget(
    datalist: Datalist,
    *,
    label_fraction: float | None = None,
    label_budget: int | None = None,
    split_seed: int = 0,
    validation_share: float = 0.2,
    min_validation: int = 20,
    organs: Mapping[str, frozenset[int]] | None = None,
    transductive: bool = False,
    need_labels: bool = True,
) -> Budget:
    """Choose the labels a run may use.

    The budget counts labelled *items* of training and validation together: ``round(label_fraction * both)`` or
    ``label_budget``. Validation gets ``validation_share`` of it, rounded, training the rest; training gets at least one
    subject of each class, if need be from validation's part; where one side has fewer items than its part the other
    side takes what is left, so that a fraction of 1 uses every label.

    Whole subjects are added in an order that depends on ``split_seed`` and the side alone: first subjects that
    together show every class, then so that the class proportions stay near those of the whole side. A subject is added
    while fewer items than asked for are chosen (and until training shows every class), so the last one may bring in
    more items than asked for; the counts say how many were used. A smaller budget's items are therefore a subset of a
    larger one's, for training and for validation alike.

    A dataset without a validation split gets one: whole subjects, ``validation_share`` of training, are set aside by
    the same seed, and validation labels are chosen among them. Training keeps every class.

    Labels that are not chosen are withheld: the rest of training joins the unlabelled pool. Unused validation items
    and test items are in no pool, nor is an unlabelled image of a subject that validates; ``transductive`` lets the
    images of validation and test into the unlabelled pool, without their labels, which every report says.

    For masks a class is an organ. Few masks need not show every organ (one scan may be all there is): the first ones
    show as many as they can, and the counts say which.

    Args:
        datalist: the dataset.
        label_fraction: share of the labels, in (0, 1].
        label_budget: number of labelled items; not together with ``label_fraction``. With neither, all labels are used.
        split_seed: seed of the order.
        validation_share: share of the budget that goes to validation, in [0, 1); 0 uses no validation label.
        min_validation: fewest validation items a checkpoint is chosen by.
        organs: for masks, the values present in each, by mask path; read from the masks when needed and not given.
        transductive: train on the images (never the labels) of validation and test too.
        need_labels: whether the stage cannot do without labels. ``False``: where no training item has one, none is
            chosen, none validates, and all of training is in the unlabelled pool.

    Raises:
        ConfigError: when a value is out of its range or both budgets are given.
        DataError: when the data cannot give the budget: no labelled training item, a class without a training subject,
            fewer labels than classes, more labels asked for than there are, one subject on two sides.
    """
    _check_request(label_fraction, label_budget, validation_share, min_validation)
    _refuse_leaks(datalist)
    request = {
        "label_fraction": label_fraction, "label_budget": label_budget, "split_seed": split_seed,
        "validation_share": validation_share, "min_validation": min_validation, "transductive": transductive,
    }  # fmt: skip
    if not need_labels and all(item.label is None for item in datalist.splits.get("training", [])):
        return _without_labels(datalist, request)
    everything = label_budget is None and label_fraction in (None, 1)
    training, validation = labelled_sides(datalist, validation_share, split_seed, organs, read_masks=not everything)
    n_all = len(training.items) + len(validation.items)
    n_requested = _n_requested(label_fraction, label_budget, n_all)
    least = _least(training, n_requested, n_all, datalist, label_fraction, split_seed)
    targets = share_targets(n_requested, len(training.items), len(validation.items), validation_share, least)
    chosen = training.take(targets[0], least, split_seed, "training")
    checking = validation.take(targets[1], 0, split_seed, "validation")
    labeled = [item for index, item in enumerate(training.items) if index in chosen]
    judged = [item for index, item in enumerate(validation.items) if index in checking]
    return Budget(
        datalist=datalist,
        labeled=labeled,
        validation=judged,
        unlabeled=_pool(datalist, labeled, judged, transductive),
        test=list(datalist.splits.get("test", [])),
        request=request,
        n_requested=n_requested,
        validation_carved="validation" not in datalist.splits and bool(judged),
        select_on_validation=len(judged) >= min_validation and _comparable(judged, datalist),
        classes_training=_class_counts(training, chosen, datalist),
        classes_validation=_class_counts(validation, checking, datalist),
    )


def _without_labels(datalist: Datalist, request: dict[str, Any]) -> Budget:
    """The budget of a stage that needs no label, of a dataset that has none to train with."""
    if request["label_budget"]:
        raise _too_large(datalist, request["label_budget"], 0)
    return Budget(
        datalist=datalist,
        labeled=[],
        validation=[],
        unlabeled=_pool(datalist, [], [], request["transductive"]),
        test=list(datalist.splits.get("test", [])),
        request=request,
        n_requested=0,
        validation_carved=False,
        select_on_validation=False,
        classes_training={},
        classes_validation={},
    )


def _too_large(datalist: Datalist, asked: int, there: int) -> DataError:
    return DataError(
        f"label_budget {asked} is above the {there} labelled items of training and validation",
        where=datalist.root,
        advice="Lower it, or leave it null to use every label.",
    )


def _n_requested(label_fraction: float | None, label_budget: int | None, n_all: int) -> int:
    if label_budget is not None:
        return label_budget
    return math.floor((1.0 if label_fraction is None else label_fraction) * n_all + 0.5)


def _check_request(fraction: object, budget: object, share: object, min_validation: object) -> None:
    def number(value: object) -> bool:
        return isinstance(value, (int, float)) and not isinstance(value, bool)

    if fraction is not None and budget is not None:
        raise ConfigError(
            "label_fraction and label_budget are both given",
            found=f"{fraction} and {budget}",
            advice="Leave one of them null: they are two ways to say how many labels are used.",
        )
    if fraction is not None and not (number(fraction) and 0 < fraction <= 1):  # type: ignore[operator]
        raise ConfigError("label_fraction is out of range", found=fraction, expected="a number in (0, 1], or null")
    if budget is not None and (not isinstance(budget, int) or isinstance(budget, bool) or budget < 0):
        raise ConfigError("label_budget is not a number of items", found=budget, expected="a whole number, or null")
    if not (number(share) and 0 <= share < 1):  # type: ignore[operator]
        raise ConfigError("validation_share is out of range", found=share, expected="a number in [0, 1)")
    if not isinstance(min_validation, int) or min_validation < 1:
        raise ConfigError("min_validation is out of range", found=min_validation, expected="a whole number from 1 on")


def _refuse_leaks(datalist: Datalist) -> None:
    """One subject or image on two sides of a comparison makes every number that follows wrong."""
    sides = {split: {k for i in items for k in (i.group, *i.paths)} for split, items in datalist.splits.items()}
    pairs: list[tuple[Split, Split]] = [
        ("training", "validation"), ("training", "test"), ("validation", "test"), ("unlabeled", "validation"),
        ("unlabeled", "test"),
    ]  # fmt: skip
    for first, second in pairs:
        shared = sides.get(first, set()) & sides.get(second, set())
        if shared:
            raise DataError(
                f"{len(shared)} subject{'s'[: len(shared) != 1]} or image{'s'[: len(shared) != 1]} in both {first} "
                f"and {second}",
                where=datalist.root,
                found=min(shared),
                advice="Keep each subject in one split; `medssl check` lists them all.",
            )


def _least(
    training: Side, n_requested: int, n_all: int, datalist: Datalist, label_fraction: float | None, split_seed: int
) -> int:
    """Fewest training subjects, those that show every class; refuses a budget that cannot hold them."""
    asked = f"label_fraction {label_fraction} of {n_all} labels" if label_fraction is not None else "label_budget"
    if n_requested == 0:
        raise DataError(f"no labelled image is left by {asked} (0 items)", advice="Raise it, or leave it null.")
    if n_requested > n_all:
        raise _too_large(datalist, n_requested, n_all)
    if datalist.task == "segmentation":
        return 0
    covering, classes = len(training.covering(split_seed, "training")), len(training.classes)
    # one subject may show several classes, but a label for each class is the least that can be called a budget
    needed = covering if datalist.task == "multilabel" else max(covering, classes)
    if n_requested < needed:
        said = f"label_budget {n_requested}" if label_fraction is None else f"{asked} gives {n_requested}, which"
        has = (
            f"the {classes} classes" if needed == classes else f"the {needed} subjects that show all {classes} classes"
        )
        raise DataError(
            f"{said} is below {has}: training needs at least one labelled subject of each",
            where=datalist.root,
            advice=f"Ask for at least {needed} labels.",
        )
    return covering


def _pool(datalist: Datalist, labeled: list[Item], validating: list[Item], transductive: bool) -> list[Item]:
    """Training items not used and unlabelled items, without labels, and without subjects that validate.

    A transductive pool holds the images of validation and test too.
    """
    splits: tuple[Split, ...] = ("training", "unlabeled")
    if transductive:
        splits += ("validation", "test")
    candidates = [item for split in splits for item in datalist.splits.get(split, [])]
    taken = {id(item) for item in (labeled if transductive else labeled + validating)}
    kept_apart = set() if transductive else {item.group for item in validating}
    return [replace(item, label=None) for item in candidates if id(item) not in taken and item.group not in kept_apart]


def _comparable(items: list[Item], datalist: Datalist) -> bool:
    """Whether a classification metric is defined on these items: some class is shown by some and not by others."""
    if datalist.task == "multilabel":
        return any(len(set(column)) == 2 for column in zip(*[item.label for item in items if item.label is not None]))
    return datalist.task == "segmentation" or len({item.label for item in items}) >= 2


def _class_counts(side: Side, chosen: set[int], datalist: Datalist) -> dict[str, int]:
    if not side.shown_known:
        return {}
    names = classes_of(datalist)
    subjects = [index for index, members in enumerate(side.subjects.members) if members[0] in chosen]
    totals = side.subjects.counts[subjects].sum(0)
    return {names[value]: int(totals[column]) for column, value in enumerate(side.classes)}
