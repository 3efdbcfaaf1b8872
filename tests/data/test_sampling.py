"""Batch samplers: every sample in its turn, a function of (seed, epoch) alone."""

from __future__ import annotations

import logging
import math
from collections import Counter
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medssl_monai.core import ConfigError, DataError
from medssl_monai.data import SampleKey, SeededBatchSampler, StepBatchSampler, TwoStreamBatchSampler


def read(sampler: SeededBatchSampler | TwoStreamBatchSampler, epoch: int) -> list[list[SampleKey]]:
    sampler.set_epoch(epoch)
    return list(sampler)


def records(labeled: int, unlabeled: int) -> list[dict[str, object]]:
    """Labelled and unlabelled records in turns, so that positions are not sorted by kind."""
    pool: list[dict[str, object]] = []
    for i in range(max(labeled, unlabeled)):
        pool += [{"image": f"u{i}"}] if i < unlabeled else []
        pool += [{"image": f"l{i}", "label": i % 2}] if i < labeled else []
    return pool


@given(st.integers(1, 40), st.integers(2, 9), st.integers(0, 3), st.integers(1, 2))
def test_every_sample_once_an_epoch_but_for_a_dropped_tail(size: int, batch: int, epoch: int, least: int) -> None:
    if size < least:
        return
    sampler = SeededBatchSampler(size, batch, seed=5, min_batch_size=least)
    batches = read(sampler, epoch)
    tail = size % batch
    dropped = tail if 0 < tail < least else 0
    seen = [key.index for keys in batches for key in keys]
    assert sampler.dropped == dropped
    assert len(seen) == len(set(seen)) == size - dropped
    assert set(seen) <= set(range(size))
    assert len(batches) == len(sampler) == math.ceil((size - dropped) / batch)
    assert all(len(keys) == batch for keys in batches[:-1])
    assert least <= len(batches[-1]) <= batch
    assert {(key.epoch, key.repeat) for keys in batches for key in keys} == {(epoch, 0)}


def test_order_is_a_function_of_seed_and_epoch() -> None:
    sampler = SeededBatchSampler(20, 6, seed=1)
    epochs = [read(sampler, epoch) for epoch in range(4)]
    assert len({str([[key.index for key in keys] for keys in batches]) for batches in epochs}) == 4
    assert epochs[2] == read(SeededBatchSampler(20, 6, seed=1), 2)
    other = [[key.index for key in keys] for keys in read(SeededBatchSampler(20, 6, seed=2), 2)]
    assert other != [[key.index for key in keys] for keys in epochs[2]]
    list(islice(sampler, 1))  # an epoch that was broken off
    assert read(sampler, 2) == epochs[2]
    # the epoch is read when the iteration begins: an iterator on its way does not change its order
    sampler.set_epoch(1)
    running = iter(sampler)
    first = next(running)
    sampler.set_epoch(3)
    assert [first, *running] == epochs[1]


def test_steps_end_an_epoch_early_and_never_repeat_images() -> None:
    assert [len(keys) for keys in read(SeededBatchSampler(10, 4, steps_per_epoch=2), 0)] == [4, 4]
    assert [len(keys) for keys in read(SeededBatchSampler(10, 4, steps_per_epoch=99), 0)] == [4, 4, 2]
    assert len(SeededBatchSampler(9, 4, min_batch_size=2, steps_per_epoch=99)) == 2


@pytest.mark.parametrize(
    ("size", "settings", "largest", "steps", "said"),
    [
        (
            546,
            {"batch_size": 2000},
            546,
            1,
            ["batch_size: 2000 asked, 546 used, in one batch an epoch: there are 546"],
        ),
        (546, {"batch_size": 546}, 546, 1, []),
        (546, {"batch_size": 128}, 128, 5, []),
        (546, {"batch_size": 128, "steps_per_epoch": 5}, 128, 5, []),
        (
            546,
            {"batch_size": 128, "steps_per_epoch": 9},
            128,
            5,
            ["steps_per_epoch: 9 asked, 5 used: an epoch shows each image once, and 546 images make no more"],
        ),
        (
            5,
            {"batch_size": 8, "steps_per_epoch": 3},
            5,
            1,
            ["batch_size: 8 asked, 5 used", "steps_per_epoch: 3 asked"],
        ),
        (
            7,
            {"batch_size": 4, "processes": 2, "process": 0},
            6,
            1,
            ["batch_size: 4 asked for each of 2 processes, 3 used, in one batch an epoch: there are 7 images"],
        ),
        (7, {"batch_size": 4, "processes": 2, "process": 1}, 6, 1, []),  # the first process has said it
        (8, {"batch_size": 4, "processes": 2, "process": 0}, 8, 1, []),
    ],
)
def test_more_than_there_is_is_said(
    size: int,
    settings: dict[str, int],
    largest: int,
    steps: int,
    said: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        sampler = SeededBatchSampler(size, **settings)
    assert (sampler.largest_batch, len(sampler)) == (largest, steps)
    assert max(len(keys) for keys in read(sampler, 0)) * sampler.processes == largest
    assert len(caplog.messages) == len(said)
    assert all(message.startswith(start) for message, start in zip(caplog.messages, said))


def test_errors_of_the_one_stream() -> None:
    with pytest.raises(ConfigError, match=r"batch_size: batch is too small \(found 1, expected at least 2\)"):
        SeededBatchSampler(5, 1, min_batch_size=2)
    with pytest.raises(ConfigError, match=r"batch_size: batch is too small \(found 0, expected at least 1\)"):
        SeededBatchSampler(5, 0)
    with pytest.raises(
        DataError, match=r"too few images to form a batch \(found 1, expected at least 2\)\. Add images"
    ):
        SeededBatchSampler(1, 4, min_batch_size=2)
    with pytest.raises(DataError, match=r"too few images to form a batch \(found 0, expected at least 1\)"):
        SeededBatchSampler(0, 4)
    for sampler in (SeededBatchSampler, lambda n, b, **k: TwoStreamBatchSampler(records(n, 0), b, 1, **k)):
        with pytest.raises(ConfigError, match=r"steps_per_epoch: no step in an epoch \(found 0, expected 1 or more\)"):
            sampler(5, 2, steps_per_epoch=0)


@given(
    st.integers(1, 12), st.integers(1, 12), st.integers(1, 4), st.integers(1, 4), st.none() | st.integers(1, 9)
)  # fmt: skip
def test_two_streams_go_through_whole_permutations(
    labeled: int, unlabeled: int, first: int, second: int, steps: int | None
) -> None:
    pool = records(labeled, unlabeled)
    sampler = TwoStreamBatchSampler(pool, first + second, first, seed=7, steps_per_epoch=steps)
    assert len(sampler) == (steps or math.ceil((labeled + unlabeled) / (first + second)))
    counts: Counter[int] = Counter()
    keys_seen = set()
    for epoch in range(4):
        batches = read(sampler, epoch)
        assert len(batches) == len(sampler)
        for keys in batches:
            assert ["label" in pool[key.index] for key in keys] == [True] * first + [False] * second
            for key in keys:
                assert key.epoch == epoch
                counts[key.index] += 1
                # no sample is drawn n + 1 times before all of its stream are drawn n times
                stream = [i for i, entry in enumerate(pool) if ("label" in entry) == ("label" in pool[key.index])]
                assert counts[key.index] - min(counts[i] for i in stream) <= 1
                assert key not in keys_seen  # a sample drawn again in an epoch is augmented anew
                keys_seen.add(key)


def test_both_streams_are_shuffled_anew_in_every_pass() -> None:
    sampler = TwoStreamBatchSampler(records(6, 12), 3, 1, seed=0)
    passes = [[[key.index for key in keys] for keys in read(sampler, epoch)] for epoch in range(6)]
    for stream in (slice(0, 1), slice(1, 3)):
        orders = [tuple(index for keys in epoch for index in keys[stream]) for epoch in passes]
        assert len(set(orders)) == 6
        assert len({frozenset(order) for order in orders}) == 1
    other = TwoStreamBatchSampler(records(6, 12), 3, 1, seed=1)
    assert [[key.index for key in keys] for keys in read(other, 0)] != passes[0]


def test_an_epoch_does_not_depend_on_what_was_read_before() -> None:
    sampler = TwoStreamBatchSampler(records(5, 7), 4, 1, seed=2)
    wanted = read(sampler, 3)
    sampler.set_epoch(0)
    list(islice(sampler, 2))
    assert read(sampler, 3) == wanted == read(TwoStreamBatchSampler(records(5, 7), 4, 1, seed=2), 3)


def test_steps_are_equal_whatever_streams_are_in_use(caplog: pytest.LogCaptureFixture) -> None:
    pool = records(6, 14)
    supervised = TwoStreamBatchSampler(pool, 4, 1, use_unlabeled=False)
    assert len(supervised) == len(TwoStreamBatchSampler(pool, 4, 1)) == len(TwoStreamBatchSampler(pool, 4, 3)) == 5
    for keys in read(supervised, 0):
        assert len(keys) == 4
        assert all("label" in pool[key.index] for key in keys)
    assert len(TwoStreamBatchSampler(pool, 4, 1, steps_per_epoch=11)) == 11
    assert not caplog.records


def test_without_unlabelled_images_every_batch_is_labelled(caplog: pytest.LogCaptureFixture) -> None:
    keys = [key for keys in read(TwoStreamBatchSampler(records(6, 0), 3, 1), 0) for key in keys]
    assert sorted(key.index for key in keys) == list(range(6))
    assert not caplog.records


def test_a_batch_without_room_for_unlabelled_images_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        sampler = TwoStreamBatchSampler(records(6, 9), 3, 3)
    assert "labeled_batch_size is batch_size (3): none of the 9 unlabelled images is drawn" in caplog.text
    assert len(sampler.streams) == 1


def test_errors_of_the_two_streams() -> None:
    with pytest.raises(DataError, match=r"no labelled image is left for training \(found 4 images without label\)"):
        TwoStreamBatchSampler(records(0, 4), 2, 1)
    for wrong in (0, 5):
        with pytest.raises(
            ConfigError, match=rf"labeled_batch_size: .* \(found {wrong}, expected 1 to batch_size \(4\)"
        ):
            TwoStreamBatchSampler(records(3, 4), 4, wrong)


@given(st.integers(1, 12), st.integers(1, 5), st.integers(1, 9), st.integers(1, 3))
def test_steps_are_counted_whatever_the_number_of_samples(size: int, batch: int, steps: int, processes: int) -> None:
    samplers = [StepBatchSampler(size, batch, steps, 3, processes, process) for process in range(processes)]
    drawn = []
    for epoch in range(3):
        shares = [read(sampler, epoch) for sampler in samplers]
        assert {len(share) for share in shares} == {steps}
        assert {len(keys) for share in shares for keys in share} == {batch}
        drawn += [key for step in zip(*shares) for keys in step for key in keys]
    counts = Counter(key.index for key in drawn)
    assert max(counts.values()) - min(counts.get(i, 0) for i in range(size)) <= 1
    assert len({(key.epoch, key.index, key.repeat) for key in drawn}) == len(drawn)
    # a process with batches so many times larger draws the same samples
    alone = StepBatchSampler(size, batch * processes, steps, 3, 1, 0)
    assert [key for epoch in range(3) for keys in read(alone, epoch) for key in keys] == drawn


def test_steps_go_on_where_an_epoch_was_stopped() -> None:
    sampler = StepBatchSampler(3, 2, 7, seed=1)
    whole = read(sampler, 2)
    sampler.set_epoch(2, 4)
    assert list(sampler) == whole[4:]
    assert read(StepBatchSampler(3, 2, 7, seed=2), 2) != whole


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0, 1, 1), DataError, "no image to draw from"),
        ((3, 0, 1), ConfigError, "batch_size"),
        ((3, 1, 0), ConfigError, "steps_per_epoch"),
    ],
)
def test_steps_that_cannot_be(arguments: tuple[int, int, int], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        StepBatchSampler(*arguments)
