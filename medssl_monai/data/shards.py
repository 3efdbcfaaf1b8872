"""Each process's share of a dataset in evaluation, and the joining of what the processes have of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from typing import Any, TypeVar

from torch.utils.data import Sampler

from medssl_monai.core.distributed import all_gather_objects, rank, world_size

T = TypeVar("T")


class ShardSampler(Sampler[int]):
    """A process's share of a dataset, in its order: evaluation without duplicates.

    Shares are runs of neighbours, whose sizes differ by one at most; joined in the order of the ranks they are the
    dataset (:func:`gather_shards`). With fewer items than processes nothing is divided: each goes through all of them.

    Args:
        dataset: what to divide; one process takes it whole.
        processes: number of processes; by default those of this run.
        process: which of them this is, from 0.
    """

    def __init__(self, dataset: Sized, processes: int | None = None, process: int | None = None) -> None:
        processes = world_size() if processes is None else processes
        process = rank() if process is None else process
        size = len(dataset)
        self.divided = 1 < processes <= size
        bounds = (process * size // processes, (process + 1) * size // processes)
        self.indices = range(*bounds) if self.divided else range(size)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)

    def __len__(self) -> int:
        return len(self.indices)


def gather_shards(loader: Any, values: Sequence[T]) -> list[T]:
    """Join what every process has of a loader's items, in the dataset's order.

    Args:
        loader: the loader of this process. Where its sampler is no :class:`ShardSampler` every process has all items.
        values: one value an item of this process's share; every process must call.
    """
    if not getattr(getattr(loader, "sampler", None), "divided", False):
        return list(values)
    return [value for share in all_gather_objects(list(values)) for value in share]
