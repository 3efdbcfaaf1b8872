"""Label budgets: counts, nestedness, whole subjects, classes, pools, errors."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medssl_monai.core import ConfigError, DataError
from medssl_monai.data.budget import select_budget
from medssl_monai.data.budget_order import covering_subjects, share_targets
from medssl_monai.data.datalist import Datalist, Item
from medssl_monai.data.organs import organs_present
from medssl_monai.data.splits import group_subjects

CLASSES = ["a", "b", "c"]


def make_items(prefix, sizes):
    """Items of subjects given as (label, number of items)."""
    return [
        Item(f"{prefix}/{subject}_{n}.png", label, f"subject:{prefix}{subject}", {"age": subject})
        for subject, (label, size) in enumerate(sizes)
        for n in range(size)
    ]


def make_datalist(training, validation=(), test=(), unlabeled=(), task="multiclass", labels=CLASSES):
    splits = {"training": training, "validation": validation, "test": test, "unlabeled": unlabeled}
    return Datalist("set", task, labels, {k: list(v) for k, v in splits.items() if v}, root=Path("/root"))


subject_sizes = st.lists(st.tuples(st.integers(0, 2), st.integers(1, 4)), min_size=0, max_size=25)


@st.composite
def datalists(draw, validation=True):
    """Every class has a training subject; other splits are drawn freely."""
    training = draw(subject_sizes) + [(label, draw(st.integers(1, 3))) for label in range(3)]
    return make_datalist(
        make_items("tr", draw(st.permutations(training))),
        make_items("va", draw(subject_sizes)) if validation else (),
        make_items("te", draw(subject_sizes)),
        [Item(f"un/{n}.png", None, f"subject:un{n}") for n in range(draw(st.integers(0, 4)))],
    )


def names(items):
    return [item.name for item in items]


def n_labelled(datalist):
    return len(datalist.splits["training"]) + len(datalist.splits.get("validation", []))


@settings(max_examples=60, deadline=None)
@given(st.one_of(datalists(), datalists(validation=False)), st.integers(0, 4), st.data())
def test_budgets_are_nested(datalist, seed, data):
    small, large = sorted(data.draw(st.tuples(*[st.integers(3, n_labelled(datalist))] * 2)))
    first, second = (select_budget(datalist, label_budget=n, split_seed=seed) for n in (small, large))
    assert set(names(first.labeled)) <= set(names(second.labeled))
    assert set(names(first.validation)) <= set(names(second.validation))


@settings(max_examples=100, deadline=None)
@given(st.one_of(datalists(), datalists(validation=False)), st.integers(0, 4), st.data())
def test_every_invariant_of_a_budget(datalist, seed, data):
    asked = data.draw(st.integers(3, n_labelled(datalist)))
    budget = select_budget(datalist, label_budget=asked, split_seed=seed)
    chosen = budget.labeled + budget.validation
    assert len({id(item) for item in chosen}) == len(chosen)
    # subjects are never divided: all labelled items of a chosen subject of the split are chosen, on one side
    groups = [{item.group for item in side} for side in (budget.labeled, budget.validation)]
    assert not groups[0] & groups[1]
    origin = datalist.splits["training"] + datalist.splits.get("validation", [])
    assert sorted(names(chosen)) == sorted(item.name for item in origin if item.group in groups[0] | groups[1])
    # every class is trained on
    assert {item.label for item in budget.labeled} == {0, 1, 2}
    # counts: never fewer than asked for, and each side exceeds its part by less than one subject (at most 4 items)
    assert budget.n_requested == asked <= budget.n_labels == len(chosen)
    extreme = max if budget.validation_carved or "validation" not in datalist.splits else min  # carving may take some
    covering = sum(extreme(size for label, size in subject_table(budget) if label == c) for c in range(3))
    assert budget.n_labels_training <= max(covering, asked) + 3
    assert budget.n_labels_validation <= max(0.2 * asked + 0.5, asked - len(budget.labeled)) + 3
    # the pool holds the rest of training and the unlabelled split, without labels, and nothing else
    rest = [item.name for item in datalist.splits["training"] if item.group not in groups[0] | groups[1]]
    assert names(budget.unlabeled) == rest + names(datalist.splits.get("unlabeled", []))
    assert all(item.label is None for item in budget.unlabeled)
    forbidden = names(datalist.splits.get("test", [])) + names(datalist.splits.get("validation", []))
    assert not set(names(budget.unlabeled)) & set(forbidden)
    assert names(budget.test) == names(datalist.splits.get("test", []))


def subject_table(budget):
    items = Counter((item.group, item.label) for item in budget.datalist.splits["training"])
    return [(label, size) for (_, label), size in items.items()]


@settings(max_examples=30, deadline=None)
@given(datalists(), st.integers(0, 4))
def test_a_fraction_of_one_and_no_budget_use_every_label(datalist, seed):
    for arguments in ({"label_fraction": 1.0}, {}):
        budget = select_budget(datalist, split_seed=seed, **arguments)
        used, origin = budget.labeled + budget.validation, datalist.splits
        assert sorted(names(used)) == sorted(names(origin["training"] + origin.get("validation", [])))
        assert budget.n_labels == budget.n_requested
        if "validation" in origin:
            assert names(budget.labeled) == names(origin["training"])
        assert names(budget.unlabeled) == names(datalist.splits.get("unlabeled", []))


def balanced(n_subjects, n_validation=0):
    def sizes(n):
        return [(0 if s % 10 < 6 else 1 if s % 10 < 9 else 2, 1) for s in range(n)]

    return make_datalist(make_items("tr", sizes(n_subjects)), make_items("va", sizes(n_validation)))


def test_counts_are_exact_where_subjects_have_one_item():
    budget = select_budget(balanced(400, 100), label_fraction=0.2)
    assert (budget.n_requested, budget.n_labels_training, budget.n_labels_validation) == (100, 80, 20)
    assert (budget.n_subjects_training, budget.n_subjects_validation, budget.n_subjects) == (80, 20, 100)
    assert budget.classes_training == {"a": 48, "b": 24, "c": 8}  # the proportions 6 : 3 : 1
    assert budget.classes_validation == {"a": 12, "b": 6, "c": 2}
    assert len(budget.unlabeled) == 320


def test_a_side_that_is_too_small_leaves_its_labels_to_the_other():
    budget = select_budget(balanced(100, 10), label_budget=100)
    assert (budget.n_labels_training, budget.n_labels_validation) == (90, 10)
    budget = select_budget(balanced(20, 200), label_budget=100)
    assert (budget.n_labels_training, budget.n_labels_validation) == (20, 80)


def test_training_gets_its_classes_before_validation_gets_its_share():
    budget = select_budget(balanced(100, 100), label_budget=3)
    assert (budget.n_labels_training, budget.n_labels_validation) == (3, 0)
    assert set(budget.classes_training.values()) == {1}


@pytest.mark.parametrize("n", [10, 30, 60, 120])
def test_proportions_stay_near_the_whole_at_every_budget(n):
    budget = select_budget(balanced(300), label_budget=n, validation_share=0)
    for name, share in (("a", 0.6), ("b", 0.3), ("c", 0.1)):
        assert abs(budget.classes_training[name] - share * n) <= 1
    assert budget.validation == []


def test_multilabel_proportions_stay_near_the_whole():
    rng = np.random.default_rng(0)
    labels = (rng.random((500, 3)) < [0.6, 0.3, 0.1]).astype(int)
    items = [Item(f"{n}.npy", tuple(map(int, row)), f"subject:{n}") for n, row in enumerate(labels)]
    datalist = make_datalist(items, task="multilabel")
    for seed in range(3):
        budget = select_budget(datalist, label_budget=100, validation_share=0, split_seed=seed)
        positives = np.array([item.label for item in budget.labeled]).sum(0)
        assert np.all(np.abs(positives - labels.sum(0) / 5) <= 3)
        assert all(budget.classes_training.values())


def test_same_seed_same_items_other_seed_other_items():
    datalist = balanced(200, 50)
    runs = [select_budget(datalist, label_budget=40, split_seed=seed) for seed in (0, 0, 1)]
    assert names(runs[0].labeled) == names(runs[1].labeled) != names(runs[2].labeled)
    assert runs[0].fingerprint == runs[1].fingerprint != runs[2].fingerprint


def test_training_does_not_depend_on_what_is_in_validation():
    items = [select_budget(balanced(200, n), label_budget=50).labeled for n in (30, 60)]
    assert names(items[0]) == names(items[1])


def test_fingerprint_sees_a_changed_label():
    first, second = balanced(50, 30), balanced(50, 30)
    item = second.splits["training"][7]
    second.splits["training"][7] = Item(item.image, 1 - min(item.label, 1), item.subject)
    assert select_budget(first).fingerprint != select_budget(second).fingerprint


def test_fingerprint_sees_a_replaced_image_wherever_it_is_used(tmp_path):
    datalist = balanced(30, 10)
    datalist.root = tmp_path
    for _, item in datalist:
        (tmp_path / item.name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / item.name).write_bytes(item.name.encode())
    budget = select_budget(datalist, label_budget=12)
    seen = {budget.fingerprint}
    for items in (budget.labeled, budget.validation, budget.unlabeled):
        path = tmp_path / items[0].name
        path.write_bytes(path.read_bytes()[::-1])
        seen.add(select_budget(datalist, label_budget=12).fingerprint)
    assert len(seen) == 4


@pytest.mark.parametrize("carved", [False, True])
def test_transductive_adds_the_images_of_validation_and_test_without_labels(carved):
    datalist = balanced(60, 0 if carved else 24)
    if carved:
        datalist.splits.pop("validation", None)
    datalist.splits["test"] = make_items("te", [(s % 3, 1) for s in range(9)])
    plain, seen = (select_budget(datalist, label_budget=20, transductive=flag) for flag in (False, True))
    assert names(plain.labeled) == names(seen.labeled)
    assert names(plain.validation) == names(seen.validation)
    judged = {item.name for item in datalist.splits.get("validation", [])} | set(names(seen.validation))
    assert set(names(seen.unlabeled)) == set(names(plain.unlabeled)) | judged | set(names(datalist.splits["test"]))
    assert all(item.label is None for item in seen.unlabeled)
    assert not set(names(plain.unlabeled)) & (judged | set(names(datalist.splits["test"])))
    assert (plain.to_json()["transductive"], seen.to_json()["transductive"]) == (False, True)
    assert plain.fingerprint != seen.fingerprint


def test_a_missing_validation_split_is_carved_by_subject_and_kept_out_of_the_pool():
    training = make_items("tr", [(s % 3, 2) for s in range(60)])
    unlabeled = [Item(f"un/{s}.png", None, f"subject:tr{s}") for s in range(60)]  # further images of the same people
    budget = select_budget(make_datalist(training, unlabeled=unlabeled), label_budget=60)
    assert budget.validation_carved
    assert (budget.n_labels_training, budget.n_labels_validation) == (48, 12)
    validating = {item.group for item in budget.validation}
    assert not validating & {item.group for item in budget.labeled + budget.unlabeled}
    # 96 - 48 items of training not used, those of validation gone, and 54 of 60 unlabelled ones
    assert len(budget.unlabeled) == 120 - 60 + 60 - 6


def test_carving_never_takes_a_class_from_training():
    datalist = make_datalist(make_items("tr", [(0, 1), (1, 1), (2, 1)]))
    for seed in range(10):
        budget = select_budget(datalist, split_seed=seed)
        assert budget.classes_training == {"a": 1, "b": 1, "c": 1}
        assert budget.validation == []
        assert not budget.select_on_validation


def test_validation_share_of_zero_uses_no_validation_label():
    budget = select_budget(balanced(100, 50), validation_share=0)
    assert (budget.n_requested, budget.n_labels_training, budget.n_labels_validation) == (100, 100, 0)


def test_unlabelled_training_and_validation_items_do_not_count():
    datalist = balanced(40, 20)
    datalist.splits["training"] += [Item(f"more{n}.png", None, f"subject:more{n}") for n in range(5)]
    datalist.splits["validation"] += [Item("v.png", None, "subject:v")]
    budget = select_budget(datalist)
    assert budget.n_labels == 60
    assert names(budget.unlabeled) == [f"more{n}.png" for n in range(5)]


@pytest.mark.parametrize(
    ("n", "label", "minimum", "expected"),
    [(20, lambda n: n % 2, 20, True), (19, lambda n: n % 2, 20, False), (19, lambda n: n % 2, 10, True),
     (30, lambda n: 0, 20, False)],
)  # fmt: skip
def test_selection_needs_enough_validation_items_of_two_classes(n, label, minimum, expected):
    validation = [Item(f"v{i}.png", label(i), f"subject:v{i}") for i in range(n)]
    datalist = make_datalist(make_items("tr", [(0, 1), (1, 1)] * 10), validation, task="binary", labels=["no", "yes"])
    assert select_budget(datalist, min_validation=minimum).select_on_validation is expected


def test_multilabel_selection_needs_a_class_that_is_shown_by_some_and_not_by_others():
    training = [Item(f"{n}.png", (n % 2, 1 - n % 2), f"subject:{n}") for n in range(10)]
    for vectors, expected in (([(1, 1)], False), ([(1, 1), (1, 0)], True)):
        validation = [Item(f"v{i}.png", vectors[i % len(vectors)], f"subject:v{i}") for i in range(20)]
        datalist = make_datalist(training, validation, task="multilabel", labels=["x", "y"])
        assert select_budget(datalist).select_on_validation is expected


def test_records_are_monai_dictionaries_and_withhold_labels():
    unlabeled = [Item({"axial": "u/a.nii", "sagittal": "u/s.nii"}, 1, "subject:u")]
    datalist = make_datalist(balanced(20).splits["training"], make_items("va", [(0, 1)] * 5), unlabeled=unlabeled)
    budget = select_budget(datalist, label_budget=5)
    assert all(r["label"] in (0, 1, 2) and r["image"].startswith("/root/tr/") for r in budget.records("training"))
    assert len(budget.records("validation")) == 1
    pool = budget.records("unlabeled")
    assert len(pool) == 16 + 1
    assert not any("label" in record for record in pool)
    assert pool[-1]["image"] == {"axial": "/root/u/a.nii", "sagittal": "/root/u/s.nii"}
    assert budget.records("unlabeled", absolute=False)[-1]["image"]["axial"] == "u/a.nii"
    with pytest.raises(ConfigError, match=r"'train'.*expected training, validation, unlabeled, test"):
        budget.records("train")


def test_to_json_can_be_written_and_says_what_was_used():
    budget = select_budget(balanced(50, 20), label_budget=20, split_seed=4)
    content = json.loads(json.dumps(budget.to_json(), allow_nan=False))
    assert content["training"] == names(budget.labeled)
    assert content["validation"] == names(budget.validation)
    wanted = {
        "label_budget": 20, "label_fraction": None, "split_seed": 4, "validation_share": 0.2, "n_requested": 20,
        "n_labels": 20, "n_labels_training": 16, "n_labels_validation": 4, "n_unlabeled": 34, "n_test": 0,
        "validation_carved": False, "select_on_validation": False,
    }  # fmt: skip
    assert {key: content[key] for key in wanted} == wanted
    assert sum(content["classes_training"].values()) == 16


# --- masks ---------------------------------------------------------------------------------------------------------


def mask_datalist(n, organs_of):
    items = [Item(f"i{k}.nii.gz", f"m{k}.nii.gz", f"subject:{k}") for k in range(n)]
    organs = {f"m{k}.nii.gz": frozenset(organs_of(k)) for k in range(n)}
    labels = {0: "background", 1: "liver", 4: "spleen"}
    return make_datalist(items, task="segmentation", labels=labels), organs


def test_one_mask_is_allowed_and_shows_as_many_organs_as_one_can():
    datalist, organs = mask_datalist(12, lambda k: {0, 1, 4} if k == 7 else {0, 1 if k % 2 else 4})
    for seed in range(5):
        budget = select_budget(datalist, label_budget=1, split_seed=seed, validation_share=0, organs=organs)
        assert names(budget.labeled) == ["i7.nii.gz"]
        assert budget.classes_training == {"liver": 1, "spleen": 1}


def test_masks_keep_the_proportion_of_organs():
    datalist, organs = mask_datalist(40, lambda k: {0, 1, 4} if k % 4 == 0 else {0, 1})
    budget = select_budget(datalist, label_budget=12, validation_share=0, organs=organs)
    assert budget.classes_training == {"liver": 12, "spleen": 3}


def test_organs_are_read_from_the_masks_when_not_given(tmp_path):
    datalist, organs = mask_datalist(6, lambda k: {0, 1, 4} if k == 2 else {0, 1})
    datalist.root = tmp_path
    for path, values in organs.items():
        array = np.zeros((4, 4, 3), dtype=np.uint8)
        for index, value in enumerate(sorted(values)):
            array[index] = value
        nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / path)
    assert organs_present(datalist, datalist.splits["training"], workers=2) == organs
    budget = select_budget(datalist, label_budget=1, validation_share=0)
    assert names(budget.labeled) == ["i2.nii.gz"]


def test_all_masks_with_a_validation_split_are_used_unread():
    datalist, _ = mask_datalist(6, lambda k: {1})
    datalist.splits["validation"] = [Item("v.nii.gz", "vm.nii.gz", "subject:v")]
    budget = select_budget(datalist)  # the files do not exist
    assert budget.n_labels == 7
    assert budget.classes_training == {}


def test_a_mask_that_cannot_be_read_or_is_not_whole_is_named(tmp_path):
    datalist, _ = mask_datalist(1, lambda k: {1})
    datalist.root = tmp_path
    with pytest.raises(DataError, match=r"m0\.nii\.gz"):
        organs_present(datalist, datalist.splits["training"])
    nib.save(nib.Nifti1Image(np.full((2, 2, 2), 0.5, dtype=np.float32), np.eye(4)), tmp_path / "m0.nii.gz")
    with pytest.raises(DataError, match=r"m0\.nii\.gz: a mask holds values that are not whole numbers \(found 0\.5\)"):
        organs_present(datalist, datalist.splits["training"])


def test_an_organ_no_training_mask_shows_is_named():
    datalist, organs = mask_datalist(5, lambda k: {0, 1})
    with pytest.raises(DataError, match="no labelled training item shows 'spleen'"):
        select_budget(datalist, label_budget=2, organs=organs)


# --- the parts -----------------------------------------------------------------------------------------------------


def test_covering_subjects_take_the_smallest_of_equals():
    items = make_items("x", [(0, 3), (0, 1), (1, 2), (1, 4), (2, 2)])
    subjects = group_subjects(items, task="multiclass", classes=range(3))
    assert sorted(covering_subjects(subjects, np.arange(5))) == [1, 2, 4]


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 60), st.integers(1, 60), st.integers(0, 60), st.floats(0, 0.99), st.integers(0, 10)
)  # fmt: skip
def test_targets_never_fall_and_add_up(total, n_training, n_validation, share, least):
    least = min(least, n_training)
    total = min(max(total, least), n_training + n_validation)
    training, validation = share_targets(total, n_training, n_validation, share, least)
    assert training + validation == total
    assert least <= training <= n_training
    assert 0 <= validation <= n_validation
    if total < n_training + n_validation:
        after = share_targets(total + 1, n_training, n_validation, share, least)
        assert after[0] >= training
        assert after[1] >= validation


# --- errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"label_budget": 0}, r"no labelled image is left by label_budget \(0 items\)\. Raise it"),
        ({"label_fraction": 0.0001}, r"no labelled image is left by label_fraction 0\.0001 of 60 labels \(0 items\)"),
        ({"label_budget": 2}, r"label_budget 2 is below the 3 classes: .*Ask for at least 3 labels"),
        ({"label_fraction": 0.03}, r"label_fraction 0\.03 of 60 labels gives 2, which is below the 3 classes"),
        ({"label_budget": 61}, "label_budget 61 is above the 60 labelled items of training and validation"),
    ],
)
def test_budgets_the_data_cannot_give(arguments, message):
    with pytest.raises(DataError, match=message):
        select_budget(balanced(40, 20), **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"label_fraction": 0}, r"label_fraction is out of range \(found 0, expected a number in \(0, 1\], or null\)"),
        ({"label_fraction": 1.5}, "label_fraction is out of range"),
        ({"label_fraction": float("nan")}, "label_fraction is out of range"),
        ({"label_fraction": "0.1"}, "label_fraction is out of range"),
        ({"label_budget": -1}, r"label_budget is not a number of items \(found -1"),
        ({"label_budget": 2.5}, "label_budget is not a number of items"),
        ({"label_budget": True}, "label_budget is not a number of items"),
        ({"label_budget": 10, "label_fraction": 0.1}, "label_fraction and label_budget are both given"),
        ({"validation_share": 1.0}, "validation_share is out of range"),
        ({"validation_share": -0.1}, "validation_share is out of range"),
        ({"min_validation": 0}, "min_validation is out of range"),
    ],
)
def test_requests_that_make_no_sense(arguments, message):
    with pytest.raises(ConfigError, match=message):
        select_budget(balanced(40, 20), **arguments)


def test_a_multilabel_budget_that_cannot_show_every_class():
    items = [Item(f"{n}.png", tuple(int(n % 3 == c) for c in range(3)), f"subject:{n}") for n in range(9)]
    with pytest.raises(DataError, match="label_budget 2 is below the 3 classes"):
        select_budget(make_datalist(items, task="multilabel"), label_budget=2)
    both = [*items, Item("both.png", (1, 1, 0), "subject:both")]
    with pytest.raises(DataError, match="label_budget 1 is below the 2 subjects that show all 3 classes"):
        select_budget(make_datalist(both, task="multilabel"), label_budget=1, validation_share=0)


def test_a_class_without_a_training_subject_is_named():
    datalist = make_datalist(make_items("tr", [(0, 2), (2, 2)]), make_items("va", [(1, 2)]))
    with pytest.raises(DataError, match=r"/root: no labelled training item shows 'b'\. Move subjects of that class"):
        select_budget(datalist)


def test_fewer_labelled_subjects_than_classes_name_the_classes():
    with pytest.raises(DataError, match="no labelled training item shows 'b', 'c'"):
        select_budget(make_datalist(make_items("tr", [(0, 5)])))


@pytest.mark.parametrize("training", [[], [Item("a.png", None)]])
def test_a_training_split_without_labels(training):
    datalist = make_datalist(training, make_items("va", [(0, 1)]))
    with pytest.raises(DataError, match="the training split has no labelled item"):
        select_budget(datalist)


@pytest.mark.parametrize(
    ("first", "second"),
    [("training", "validation"), ("training", "test"), ("validation", "test"), ("unlabeled", "test"),
     ("unlabeled", "validation")],
)  # fmt: skip
def test_a_subject_on_two_sides_is_refused(first, second):
    datalist = balanced(20, 5)
    datalist.splits["test"] = make_items("te", [(0, 1)])
    datalist.splits["unlabeled"] = [Item("u.png", None, "subject:u")]
    datalist.splits[first].append(Item("p1.png", 0, "subject:P1"))
    datalist.splits[second].append(Item("p2.png", 0, "subject:P1"))
    with pytest.raises(DataError, match=f"1 subject or image in both {first} and {second} .found subject:P1"):
        select_budget(datalist)


def test_an_image_on_two_sides_is_refused_whoever_it_is_said_to_be_of():
    datalist = balanced(20, 5)
    datalist.splits["test"] = [Item(datalist.splits["training"][0].image, 0, "subject:other")]
    with pytest.raises(DataError, match=r"in both training and test \(found tr/0_0\.png\)"):
        select_budget(datalist)


def test_binary_with_one_name_has_two_classes():
    datalist = make_datalist(make_items("tr", [(0, 1), (1, 1)] * 5), task="binary", labels=["tear"])
    assert select_budget(datalist, validation_share=0).classes_training == {"not tear": 5, "tear": 5}


def test_a_dataset_without_labels():
    """A stage that needs none takes every image, but none that validates or tests."""
    held = [Item(f"held{k}.png", None, f"subject:H{k}") for k in range(3)]
    free = [Item(f"free{k}.png", None, f"subject:F{k}") for k in range(5)]
    datalist = Datalist("d", "multiclass", [], {"unlabeled": free, "validation": held[:1], "test": held[1:]})
    budget = select_budget(datalist, label_fraction=1.0, need_labels=False)
    assert (budget.labeled, budget.validation, budget.unlabeled, budget.test) == ([], [], free, held[1:])
    assert (budget.n_labels, budget.n_requested, budget.select_on_validation) == (0, 0, False)
    assert budget.to_json()["n_unlabeled"] == 5
    other = Datalist("d", "multiclass", [], {"unlabeled": free[:4]})
    assert budget.fingerprint != select_budget(other, need_labels=False).fingerprint
    seen = select_budget(datalist, need_labels=False, transductive=True)
    assert [item.name for item in seen.unlabeled] == [item.name for item in free + held]
    with pytest.raises(
        DataError, match=r"the training split has no labelled item\. .*pretrain stage of the contrastive"
    ):
        select_budget(datalist)
    with pytest.raises(DataError, match=r"label_budget 9 is above the 0 labelled items"):
        select_budget(datalist, label_budget=9, need_labels=False)


def test_a_stage_that_needs_no_label_keeps_to_the_budget_where_there_are_labels():
    """The images that validate in training are not seen by pre-training."""
    datalist = balanced(40, 20)
    assert select_budget(datalist, label_budget=12, need_labels=False) == select_budget(datalist, label_budget=12)
