"""Splits by subject: whole subjects, proportions, guarantees, errors."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medssl_monai.core import DataError
from medssl_monai.data.datalist import Item
from medssl_monai.data.splits import group_subjects, k_folds, split_by_subject


@st.composite
def multiclass_items(draw, max_subjects=40, classes=3):
    """Items in shuffled order; each subject shows one class."""
    sizes = draw(st.lists(st.tuples(st.integers(0, classes - 1), st.integers(1, 4)), min_size=3, max_size=max_subjects))
    items = [
        Item(f"{subject}_{n}.png", label, f"subject:{subject}")
        for subject, (label, size) in enumerate(sizes)
        for n in range(size)
    ]
    return [items[i] for i in draw(st.permutations(range(len(items))))]


def subjects_by_class(items):
    found = defaultdict(set)
    for item in items:
        found[item.label].add(item.group)
    return found


@settings(max_examples=80, deadline=None)
@given(multiclass_items(), st.integers(0, 5))
def test_parts_are_a_partition_of_whole_subjects_with_every_class_that_has_subjects_enough(items, seed):
    parts = split_by_subject(items, [0.7, 0.1, 0.2], seed=seed, task="multiclass", num_classes=3)
    assert sorted(item.name for part in parts for item in part) == sorted(item.name for item in items)
    position = {item.name: index for index, item in enumerate(items)}
    for part in parts:
        assert part, "a part with a positive fraction is empty"
        assert [position[item.name] for item in part] == sorted(position[item.name] for item in part)
    groups = [{item.group for item in part} for part in parts]
    assert sum(map(len, groups)) == len(set().union(*groups)), "a subject is in two parts"
    whole = subjects_by_class(items)
    for label, members in whole.items():
        if len(members) >= 3:
            assert all(subjects_by_class(part)[label] for part in parts), f"class {label} lacks a subject in a part"


@settings(max_examples=20, deadline=None)
@given(multiclass_items(), st.integers(0, 5))
def test_a_split_is_a_function_of_its_seed(items, seed):
    arguments = {"seed": seed, "task": "multiclass", "num_classes": 3}
    first = split_by_subject(items, [0.5, 0.5], **arguments)
    assert first == split_by_subject(list(items), [0.5, 0.5], **arguments)


def test_seeds_give_different_splits():
    items = [Item(f"{n}.png", n % 2, f"subject:{n}") for n in range(40)]
    parts = {
        tuple(i.name for i in split_by_subject(items, [0.5, 0.5], seed=s, task="binary", num_classes=2)[0])
        for s in range(8)
    }
    assert len(parts) == 8


def test_single_item_subjects_are_split_to_the_item_in_each_class():
    items = [Item(f"{n}.png", 0 if n < 100 else 1 if n < 150 else 2, f"subject:{n}") for n in range(170)]
    parts = split_by_subject(items, [0.7, 0.1, 0.2], seed=3, task="multiclass", num_classes=3)
    # 100, 50 and 20 items in shares of 0.7, 0.1 and 0.2: all whole numbers, so nothing is left to rounding
    assert [Counter(item.label for item in part) for part in parts] == [
        {0: 70, 1: 35, 2: 14}, {0: 10, 1: 5, 2: 2}, {0: 20, 1: 10, 2: 4},
    ]  # fmt: skip


def test_what_classes_leave_over_is_shared_out_so_that_parts_keep_their_size():
    items = [Item(f"{n}.png", n % 4, f"subject:{n}") for n in range(12)]  # three of each class, in two halves
    for seed in range(5):
        parts = split_by_subject(items, [0.5, 0.5], seed=seed, task="multiclass", num_classes=4)
        assert [len(part) for part in parts] == [6, 6]


def test_multilabel_prevalences_are_kept_in_every_part():
    rng = np.random.default_rng(0)
    labels = (rng.random((600, 3)) < [0.7, 0.3, 0.05]).astype(int)
    items = [Item(f"{n}.npy", tuple(map(int, row)), f"subject:{n // 2}") for n, row in enumerate(labels)]
    parts = split_by_subject(items, [0.6, 0.2, 0.2], seed=0, task="multilabel", num_classes=3)
    for part, share in zip(parts, [0.6, 0.2, 0.2]):
        assert abs(len(part) - 600 * share) <= 8
        positives = np.array([item.label for item in part]).sum(0)
        assert np.all(np.abs(positives - labels.sum(0) * share) <= 3)


def test_multilabel_split_is_closer_than_chance():
    """Iterative stratification against plain random splits of subjects, by the worst error of a prevalence."""
    rng = np.random.default_rng(1)
    labels = (rng.random((200, 4)) < [0.5, 0.2, 0.1, 0.04]).astype(int)
    items = [Item(f"{n}.npy", tuple(map(int, row)), f"subject:{n}") for n, row in enumerate(labels)]
    expected = labels.sum(0) * 0.2

    def error(part):
        return np.abs(np.array([item.label for item in part]).sum(0) - expected).max()

    ours = [error(split_by_subject(items, [0.8, 0.2], seed=s, task="multilabel", num_classes=4)[1]) for s in range(10)]
    chance = [error([items[i] for i in rng.permutation(200)[:40]]) for _ in range(10)]
    assert max(ours) <= 1.5 < np.median(chance)


def test_masks_are_stratified_by_the_organs_they_show():
    items = [Item(f"i{n}.nii", f"m{n}.nii", f"subject:{n}") for n in range(30)]
    organs = {f"m{n}.nii": frozenset({0, 1} if n % 5 else {0, 1, 7}) for n in range(30)}  # six subjects show organ 7
    for seed in range(5):
        parts = split_by_subject(items, [0.5, 0.25, 0.25], seed=seed, task="segmentation", num_classes=3, organs=organs)
        shown = [sum(7 in organs[str(item.label)] for item in part) for part in parts]
        assert shown[0] == 3
        assert sorted(shown[1:]) == [1, 2]


def test_masks_without_known_organs_are_split_by_subject_at_random():
    items = [Item(f"i{n}.nii", f"m{n}.nii", f"subject:{n // 2}") for n in range(20)]
    parts = split_by_subject(items, [0.8, 0.2], seed=0, task="segmentation", num_classes=3)
    assert [len(part) for part in parts] == [16, 4]
    assert not {i.group for i in parts[0]} & {i.group for i in parts[1]}


def test_items_without_subject_are_subjects_of_their_own():
    items = [Item(f"{n}.png", 0) for n in range(10)]
    parts = split_by_subject(items, [0.5, 0.5], seed=0, task="binary", num_classes=2)
    assert [len(part) for part in parts] == [5, 5]


def test_a_fraction_of_zero_gives_an_empty_part():
    items = [Item(f"{n}.png", n % 2) for n in range(10)]
    parts = split_by_subject(items, [0.8, 0.0, 0.2], seed=0, task="binary", num_classes=2)
    assert [len(part) for part in parts] == [8, 0, 2]


def test_no_part_stays_empty_when_every_class_has_one_subject_only():
    items = [Item(f"{n}.png", n, f"subject:{n}") for n in range(3)]
    parts = split_by_subject(items, [0.98, 0.01, 0.01], seed=0, task="multiclass", num_classes=3)
    assert [len(part) for part in parts] == [1, 1, 1]


def test_a_lone_subject_of_a_class_goes_to_the_largest_part():
    items = [Item(f"{n}.png", 0, f"subject:{n}") for n in range(20)] + [Item("x.png", 1, "subject:x")]
    for seed in range(5):
        parts = split_by_subject(items, [0.7, 0.1, 0.2], seed=seed, task="binary", num_classes=2)
        assert "x.png" in {item.name for item in parts[0]}


@settings(max_examples=40, deadline=None)
@given(multiclass_items(), st.integers(2, 3), st.integers(0, 3))
def test_folds_test_every_item_once_and_share_no_subject(items, k, seed):
    folds = k_folds(items, k, seed=seed, task="multiclass", num_classes=3)
    assert len(folds) == k
    tested = [item.name for _, test in folds for item in test]
    assert sorted(tested) == sorted(item.name for item in items)
    for training, test in folds:
        assert {i.name for i in training} | {i.name for i in test} == {i.name for i in items}
        assert not {i.group for i in training} & {i.group for i in test}


def test_folds_keep_the_class_proportions():
    items = [Item(f"{n}.png", int(n % 4 == 0), f"subject:{n}") for n in range(100)]
    for _, test in k_folds(items, 5, seed=0, task="binary", num_classes=2):
        assert Counter(item.label for item in test) == {0: 15, 1: 5}


def test_group_subjects_counts_what_items_show():
    items = [
        Item("a.png", (1, 0), "subject:p"),
        Item("b.png", (1, 1), "subject:q"),
        Item("c.png", (0, 0), "subject:p"),
        Item("d.png", None, "subject:q"),
    ]
    subjects = group_subjects(items, task="multilabel", classes=range(2))
    assert subjects.names == ["subject:p", "subject:q"]
    assert subjects.members == [[0, 2], [1, 3]]
    assert subjects.counts.tolist() == [[1, 0, 1], [1, 1, 1]]
    assert subjects.sizes.tolist() == [2, 2]


@pytest.mark.parametrize("fractions", [[0.5, 0.4], [1.2, -0.2], [float("nan"), 1.0], []])
def test_fractions_that_are_no_shares_are_refused(fractions):
    items = [Item(f"{n}.png", 0) for n in range(5)]
    with pytest.raises(DataError, match=r"must be non-negative and sum to 1 \(found \[.*\]"):
        split_by_subject(items, fractions, seed=0, task="binary", num_classes=2)


def test_fewer_subjects_than_parts_are_refused():
    items = [Item(f"{n}.png", 0, "subject:only") for n in range(5)]
    with pytest.raises(DataError, match=r"1 subject cannot fill 2 parts: a subject is never divided\. Use fewer parts"):
        split_by_subject(items, [0.5, 0.5], seed=0, task="binary", num_classes=2)
    with pytest.raises(DataError, match="2 subjects cannot fill 3 parts"):
        k_folds([*items, Item("b.png", 0)], 3, seed=0, task="binary", num_classes=2)


def test_one_fold_is_refused():
    with pytest.raises(DataError, match=r"at least 2 folds \(found 1\)"):
        k_folds([Item("a.png", 0)], 1, seed=0, task="binary", num_classes=2)


@pytest.mark.parametrize(
    ("task", "label", "expected"),
    [
        ("multiclass", 3, "an index of 3 classes"),
        ("multiclass", (1, 0, 0), "an index of 3 classes"),
        ("multilabel", (1, 0), "a 0/1 vector of 3 classes"),
        ("multilabel", 1, "a 0/1 vector of 3 classes"),
    ],
)
def test_a_label_that_does_not_fit_the_task_is_named(task, label, expected):
    with pytest.raises(DataError, match=rf"^bad\.png: label does not fit the {task} task .*expected {expected}"):
        split_by_subject([Item("bad.png", label)], [1.0], seed=0, task=task, num_classes=3)
