"""Shares of several processes against the batches and the dataset of one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from two_processes import Pair

from medssl_monai.core import ConfigError, DataError
from medssl_monai.core.distributed import rank
from medssl_monai.data import SeededBatchSampler, ShardSampler, TwoStreamBatchSampler, gather_shards


def epochs(sampler: Any, number: int = 2, offset: int = 0) -> list[list[Any]]:
    batches = []
    for epoch in range(number):
        sampler.set_epoch(epoch, offset)
        batches += list(sampler)
    return batches


@given(
    size=st.integers(2, 60), batch_size=st.integers(1, 8), processes=st.integers(1, 4), smallest=st.integers(1, 4),
    steps=st.none() | st.integers(1, 5),
)  # fmt: skip
def test_shares_of_a_batch_are_the_batch_of_one_process(
    size: int, batch_size: int, processes: int, smallest: int, steps: int | None
) -> None:
    whole = batch_size * processes
    if whole < smallest or size // processes * processes < smallest:
        return
    keys = {"seed": 3, "min_batch_size": smallest, "steps_per_epoch": steps}
    shares = [
        epochs(SeededBatchSampler(size, batch_size, **keys, processes=processes, process=p)) for p in range(processes)
    ]
    one = SeededBatchSampler(size, whole, seed=3, steps_per_epoch=steps)
    assert len({len(share) for share in shares}) == 1
    sampler = SeededBatchSampler(size, batch_size, **keys, processes=processes, process=0)
    assert len(shares[0]) == 2 * len(sampler)
    drawn = 0
    for epoch in range(2):
        one.set_epoch(epoch)
        for step, expected in zip(range(len(sampler)), one):
            parts = [share[epoch * len(sampler) + step] for share in shares]
            assert len({len(part) for part in parts}) == 1  # equal shares, also of a short last batch
            together = [key for part in parts for key in part]
            assert together == expected[: len(together)]
            assert len(expected) - len(together) < processes
            drawn += len(together)
    if steps is None:
        assert drawn == 2 * (size - sampler.dropped)
        assert size % whole == sampler.dropped or sampler.dropped < processes


@given(
    labeled=st.integers(1, 20), unlabeled=st.integers(0, 30), batch_size=st.integers(1, 6), processes=st.integers(1, 3),
    data=st.data(),
)  # fmt: skip
def test_shares_of_two_streams(labeled: int, unlabeled: int, batch_size: int, processes: int, data: Any) -> None:
    own_labeled = data.draw(st.integers(1, batch_size))
    records = [{"label": 0}] * labeled + [{}] * unlabeled
    shares = [
        epochs(TwoStreamBatchSampler(records, batch_size, own_labeled, seed=1, processes=processes, process=p))
        for p in range(processes)
    ]
    one = epochs(TwoStreamBatchSampler(records, batch_size * processes, own_labeled * processes, seed=1))
    assert {len(share) for share in shares} == {len(one)}
    for step, expected in enumerate(one):
        parts = [share[step] for share in shares]
        assert sorted((k.index, k.repeat, k.epoch) for part in parts for k in part) == sorted(
            (k.index, k.repeat, k.epoch) for k in expected
        )
        labels = {sum(key.index < labeled for key in part) for part in parts}
        assert len(labels) == 1
        assert {len(part) for part in parts} == {batch_size}


def test_a_share_goes_on_within_an_epoch() -> None:
    records = [{"label": 0}] * 7 + [{}] * 30
    for make in (
        lambda p: SeededBatchSampler(41, 4, processes=2, process=p),
        lambda p: TwoStreamBatchSampler(records, 4, 2, processes=2, process=p),
    ):
        for process in (0, 1):
            assert epochs(make(process), 1, offset=2) == epochs(make(process), 1)[2:]


def test_too_few_images_for_all_processes() -> None:
    with pytest.raises(DataError, match=r"too few images to form a batch \(found 3, expected at least 4\)"):
        SeededBatchSampler(3, 2, processes=4, process=0)
    with pytest.raises(DataError, match=r"too few images to form a batch \(found 3, expected at least 4\)"):
        SeededBatchSampler(3, 2, min_batch_size=3, processes=2, process=0)
    with pytest.raises(ConfigError, match=r"batch_size: batch is too small \(found 1, expected at least 2\)"):
        SeededBatchSampler(9, 1, min_batch_size=3, processes=2, process=0)


def test_one_sample_a_process_is_enough_where_two_are_asked_for() -> None:
    assert [len(batch) for batch in SeededBatchSampler(4, 1, min_batch_size=2, processes=2, process=1)] == [1, 1]


def test_a_process_outside_the_run() -> None:
    with pytest.raises(ValueError, match="process is 2; expected 0 to 1"):
        SeededBatchSampler(9, 2, processes=2, process=2)


@given(size=st.integers(0, 40), processes=st.integers(1, 6))
def test_shards_joined_are_the_dataset(size: int, processes: int) -> None:
    shards = [ShardSampler(range(size), processes, p) for p in range(processes)]
    lists = [list(shard) for shard in shards]
    assert [len(shard) for shard in shards] == [len(items) for items in lists]
    if size < processes:  # nothing to divide: each has all
        assert all(items == list(range(size)) for items in lists)
        assert not any(shard.divided for shard in shards)
    else:
        assert [i for items in lists for i in items] == list(range(size))
        assert max(map(len, lists)) - min(map(len, lists)) <= 1
        assert all(shard.divided == (processes > 1) for shard in shards)


class Loader:
    def __init__(self, sampler: object) -> None:
        self.sampler = sampler


def gathered(size: int, sharded: bool) -> list[str]:
    sampler = ShardSampler(range(size)) if sharded else range(size)
    return gather_shards(Loader(sampler), [f"{rank()}:{i}" for i in sampler])


def test_gathering_what_the_processes_have(pair: Pair) -> None:
    assert pair(gathered, 5, True) == [["0:0", "0:1", "1:2", "1:3", "1:4"]] * 2
    assert pair(gathered, 1, True) == [["0:0"], ["1:0"]]
    assert pair(gathered, 2, False) == [["0:0", "0:1"], ["1:0", "1:1"]]
    assert gather_shards(object(), [1, 2]) == [1, 2]
