"""Long-tailed training sets: the published numbers of images, whole subjects, nested sets."""

from __future__ import annotations

import logging
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medssl_monai.core import ConfigError
from medssl_monai.data import Datalist, Item, long_tail_counts, long_tailed


def dataset(counts: list[int], per_subject: int = 1, **further: object) -> Datalist:
    training = [
        Item(image=f"{k}/{i}.png", label=k, subject=f"subject:{k}-{i // per_subject}")
        for k, count in enumerate(counts)
        for i in range(count)
    ]
    names = [f"class {k}" for k in range(len(counts))]
    splits = {"training": training, "test": [Item(image="t.png", label=0)], "unlabeled": [Item(image="u.png")]}
    return Datalist(**{"name": "toy", "task": "multiclass", "labels": names, "splits": splits, **further})  # type: ignore[arg-type]


def kept(datalist: Datalist) -> Counter[int]:
    return Counter(item.label for item in datalist.splits["training"])  # type: ignore[misc]


def test_long_tailed_cifar_10() -> None:
    """The numbers of CIFAR-10-LT with imbalance factor 100, 5,000 images a class: 12,406 in all, up to rounding."""
    published = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    found = long_tail_counts([5000] * 10, 100)
    assert all(abs(a - b) <= 1 for a, b in zip(found, published))
    assert found[0] / found[-1] == 100


def test_the_most_frequent_class_comes_first_and_none_is_made_larger() -> None:
    # in order of frequency: 90 (2), 40 (0), 8 (1): 90, 90 / 3 = 30, and 90 / 9 = 10 of which there are 8
    assert long_tail_counts([40, 8, 90], 9) == [30, 8, 90]
    assert long_tail_counts([0, 4, 4], 1e9) == [0, 4, 1]
    assert long_tail_counts([7], 5) == [7]


def test_whole_subjects_until_the_number_is_reached() -> None:
    full = dataset([60, 60, 60], per_subject=4)
    thin = long_tailed(full, 10, seed=3)
    # 60, 60 / sqrt(10) = 18.97 and 6, each rounded up to whole subjects of four
    assert kept(thin) == {0: 60, 1: 20, 2: 8}
    subjects = {item.subject for item in thin.splits["training"]}
    assert [item for item in full.splits["training"] if item.subject in subjects] == thin.splits["training"]
    assert {name: items for name, items in thin.splits.items() if name != "training"} == {
        name: items for name, items in full.splits.items() if name != "training"
    }
    assert len(full.splits["training"]) == 180


def test_seeds_draw_other_subjects() -> None:
    full = dataset([40, 40])
    chosen = [{item.name for item in long_tailed(full, 5, seed).splits["training"]} for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]
    assert len(chosen[0]) == len(chosen[2]) == 48


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=2, max_size=6), st.integers(0, 99), st.floats(1, 200), st.floats(1, 200))
def test_sets_are_nested_and_every_class_stays(counts: list[int], seed: int, first: float, second: float) -> None:
    full = dataset(counts, per_subject=3)
    small, large = (long_tailed(full, factor, seed) for factor in sorted((first, second), reverse=True))
    assert {item.name for item in small.splits["training"]} <= {item.name for item in large.splits["training"]}
    assert set(kept(small)) == set(range(len(counts)))


def test_a_subject_of_several_classes_counts_for_most_of_its_images() -> None:
    mixed = [Item(image=f"m{i}.png", label=int(i < 1), subject="subject:mixed") for i in range(3)]
    rest = [Item(image=f"{i}.png", label=0) for i in range(20)] + [Item(image=f"b{i}.png", label=1) for i in range(5)]
    datalist = dataset([1, 1], splits={"training": mixed + rest})
    thin = long_tailed(datalist, 1e6)
    # class 0 keeps all it has, the mixed subject with it: that is the one image class 1 keeps, or one more
    assert kept(thin)[0] == 22
    assert 1 <= kept(thin)[1] <= 2
    assert {item.name for item in mixed} <= {item.name for item in thin.splits["training"]}


def test_none_is_the_dataset_as_it_is() -> None:
    full = dataset([3, 3])
    assert long_tailed(full, None) is full
    assert kept(long_tailed(full, 1)) == {0: 3, 1: 3}


@pytest.mark.parametrize("factor", [0.5, 0, -1, float("inf"), float("nan"), True])
def test_factors_that_are_none(factor: float) -> None:
    with pytest.raises(ConfigError, match=r"long_tail_factor is out of range .*expected a number from 1 on, or null"):
        long_tailed(dataset([3, 3]), factor)


def test_labels_that_are_not_exclusive() -> None:
    datalist = dataset([1], task="multilabel", labels=["a", "b"], splits={"training": [Item("x.png", (0, 1))]})
    with pytest.raises(ConfigError, match=r"only exclusive classes have a long tail .found task multilabel"):
        long_tailed(datalist, 10)


def told(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == level]


def test_counts_before_and_after_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    long_tailed(dataset([60, 60, 60]), 10)
    # 60, 60 / sqrt(10) = 18.97, 6
    expected = "long_tail_factor 10: labelled training images of each class: class 0 60 -> 60, class 1 60 -> 19, "
    assert told(caplog, logging.INFO) == [expected + "class 2 60 -> 6"]
    assert told(caplog, logging.WARNING) == []


@pytest.mark.parametrize(
    ("counts", "per_subject", "factor", "message"),
    [
        ([40, 2], 1, 5, "long_tail_factor 5 thins nothing out: of the most frequent class there are 40 images, of the "
         "rarest 2, 20 times as many before any thinning"),
        ([40, 8], 1, 5, "long_tail_factor 5 thins nothing out"),  # it is as asked for, but not by thinning
        ([40, 40, 2], 1, 5, "long_tail_factor 5 is not reached: of the most frequent class 40 images are left, of the "
         "rarest 2, 20 times as many (classes are never made larger)"),
        ([60, 60], 30, 10, "long_tail_factor 10 is not reached: of the most frequent class 60 images are left, of the "
         "rarest 30, 2 times as many (whole subjects are kept, and one of each class)"),
        ([20, 20], 1, 100, "long_tail_factor 100 is not reached: of the most frequent class 20 images are left, of the "
         "rarest 1, 20 times as many (whole subjects are kept, and one of each class)"),
        ([7, 0], 1, 3, "long_tail_factor 3 does nothing: 1 class has labelled training images"),
        ([9, 3], 1, 1, "long_tail_factor 1 thins nothing out"),
    ],
)  # fmt: skip
def test_what_was_asked_for_and_is_not_done_is_told(
    counts: list[int], per_subject: int, factor: float, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    long_tailed(dataset(counts, per_subject), factor)
    (warned,) = told(caplog, logging.WARNING)
    assert warned.startswith(message)


def test_balanced_classes_and_factor_one_are_in_order(caplog: pytest.LogCaptureFixture) -> None:
    long_tailed(dataset([9, 9]), 1)
    assert told(caplog, logging.WARNING) == []


def test_messages_call_the_option_as_the_user_does() -> None:
    datalist = dataset([1], task="multilabel", labels=["a", "b"], splits={"training": [Item("x.png", (0, 1))]})
    with pytest.raises(ConfigError, match=r"Leave long_tail_factor null\.$"):
        long_tailed(datalist, 10)
    with pytest.raises(ConfigError, match=r"Leave --long-tail out\.$"):
        long_tailed(datalist, 10, option="--long-tail")
    with pytest.raises(ConfigError, match=r"--long-tail is out of range \(found 0.5, expected a number from 1 on\)"):
        long_tailed(dataset([3, 3]), 0.5, option="--long-tail")
