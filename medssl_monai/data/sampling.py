"""Samplers without state of their own: which sample comes when is a function of (seed, epoch, step) alone.

With several processes a step draws one batch for all of them, from the same orders as in one process whose batches are
so many times larger; each process takes its share.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import Sampler

from medssl_monai.core import ConfigError, DataError, permutation
from medssl_monai.core.distributed import rank, world_size

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SampleKey:
    """Which draw of which sample: what :class:`SeededCacheDataset` needs to seed a sample's random transforms.

    Attributes:
        index: position in the dataset.
        epoch: epoch, from 0.
        repeat: tells apart several draws of one sample in one epoch.
    """

    index: int
    epoch: int = 0
    repeat: int = 0


class EpochBatchSampler(Sampler[list[SampleKey]]):
    """What the batch samplers share: ``steps`` an epoch, and the ``epoch`` and ``offset`` whose batches come next.

    Args:
        processes: number of processes that share each batch; by default those of this run.
        process: which of them this is, from 0.
    """

    steps: int
    epoch: int = 0
    offset: int = 0

    def __init__(self, processes: int | None = None, process: int | None = None) -> None:
        self.processes = world_size() if processes is None else processes
        self.process = rank() if process is None else process
        if not 0 <= self.process < self.processes:
            raise ValueError(f"process is {self.process}; expected 0 to {self.processes - 1}")

    def set_epoch(self, epoch: int, offset: int = 0) -> None:
        """Choose what the next iteration gives: the epoch (from 0), without its first ``offset`` batches.

        A run that was stopped within an epoch goes on with the batch it would have drawn next.

        Raises:
            ValueError: when ``offset`` is no step of an epoch.
        """
        if not 0 <= offset < self.steps:
            raise ValueError(f"offset is {offset}; expected a step of the epoch, 0 to {self.steps - 1}")
        self.epoch, self.offset = epoch, offset

    def __len__(self) -> int:
        return self.steps


class SeededBatchSampler(EpochBatchSampler):
    """Every sample once an epoch, in an order that is a function of (seed, epoch).

    Args:
        size: number of samples.
        batch_size: samples a batch, of each process; the last batch of an epoch may be shorter.
        seed: seed of the order.
        min_batch_size: a last batch that is shorter, over all processes, is left out (contrastive losses need two
            samples). The last batch is divided equally too; ``dropped`` counts the samples an epoch leaves out.
        steps_per_epoch: end an epoch after so many batches; ``None``, or more than there are, goes through all
            samples.
        processes: see :class:`EpochBatchSampler`.
        process: see :class:`EpochBatchSampler`.

    More than there is, of samples a batch or of batches an epoch, is logged as a warning.

    Attributes:
        largest_batch: samples of the largest batch that is drawn, over all processes: ``batch_size`` of each, or fewer
            where there are not as many samples. What a learning rate is scaled by.

    Raises:
        DataError: when there are fewer samples than ``min_batch_size``, or than processes.
        ConfigError: when ``batch_size``, over all processes, is below ``min_batch_size``.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int = 0,
        min_batch_size: int = 1,
        steps_per_epoch: int | None = None,
        processes: int | None = None,
        process: int | None = None,
    ) -> None:
        super().__init__(processes, process)
        whole = batch_size * self.processes
        if batch_size < 1 or whole < min_batch_size:
            raise ConfigError(
                "batch is too small",
                where="batch_size",
                found=batch_size,
                expected=f"at least {max(math.ceil(min_batch_size / self.processes), 1)}",
            )
        if self._divisible(size) < max(min_batch_size, 1):
            raise DataError(
                "too few images to form a batch", found=size,
                expected=f"at least {max(math.ceil(min_batch_size / self.processes), 1) * self.processes}",
                advice="Add images to the training or unlabeled split of the datalist.",
            )  # fmt: skip
        self.size, self.batch_size, self.seed, self.epoch = size, batch_size, seed, 0
        tail = size % whole
        last = self._divisible(tail)
        self.dropped = tail - (last if last >= min_batch_size else 0)
        if self.dropped:
            logger.info("each epoch leaves out %d image(s): too few for a last batch", self.dropped)
        self.largest_batch = min(whole, size - self.dropped)
        batches = math.ceil((size - self.dropped) / whole)
        _check_steps(steps_per_epoch)
        self._warn(steps_per_epoch, batches)
        # more steps than batches would only draw the same order again: an epoch ends with its images
        self.steps = batches if steps_per_epoch is None else min(steps_per_epoch, batches)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        epoch = self.epoch
        order = permutation(self.size, self.seed, "order", epoch)
        whole = self.batch_size * self.processes
        order = order[: min(self.size - self.dropped, self.steps * whole)]
        for start in range(self.offset * whole, len(order), whole):
            share = np.split(order[start : start + whole], self.processes)[self.process]
            yield [SampleKey(int(index), epoch) for index in share]

    def _warn(self, steps_per_epoch: int | None, batches: int) -> None:
        """Say what is asked for and cannot be had, once for all processes."""
        if self.process:
            return
        if self.largest_batch < self.batch_size * self.processes:
            each = f" for each of {self.processes} processes" if self.processes > 1 else ""
            logger.warning(
                "batch_size: %d asked%s, %d used, in one batch an epoch: there are %d images.",
                self.batch_size, each, self.largest_batch // self.processes, self.size,
            )  # fmt: skip
        if steps_per_epoch is not None and steps_per_epoch > batches:
            logger.warning(
                "steps_per_epoch: %d asked, %d used: an epoch shows each image once, and %d images make no more "
                "batches of %d. Raise max_epochs to train longer.",
                steps_per_epoch, batches, self.size, self.largest_batch,
            )  # fmt: skip

    def _divisible(self, samples: int) -> int:
        return samples // self.processes * self.processes


class StepBatchSampler(EpochBatchSampler):
    """As many batches an epoch as are asked for, whatever the number of samples: where steps are counted, not passes.

    The samples come in permutations, one after the other across batches and epochs, so that all are drawn equally
    often; one that comes several times in an epoch has another ``repeat`` each time, and other draws.

    Args:
        size: number of samples.
        batch_size: samples a batch, of each process.
        steps_per_epoch: batches an epoch.
        seed: seed of the orders.
        processes: see :class:`EpochBatchSampler`.
        process: see :class:`EpochBatchSampler`.

    Raises:
        DataError: when there is no sample.
        ConfigError: when the batch size or the number of steps is below 1.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        steps_per_epoch: int,
        seed: int = 0,
        processes: int | None = None,
        process: int | None = None,
    ) -> None:
        super().__init__(processes, process)
        if size < 1:
            raise DataError(
                "no image to draw from", found=size, expected="at least 1",
                advice="Add images to the training or unlabeled split of the datalist.",
            )  # fmt: skip
        if batch_size < 1:
            raise ConfigError("batch is too small", where="batch_size", found=batch_size, expected="at least 1")
        _check_steps(steps_per_epoch)
        self.size, self.batch_size, self.steps, self.seed = size, batch_size, steps_per_epoch, seed

    def __iter__(self) -> Iterator[list[SampleKey]]:
        whole = self.batch_size * self.processes
        keys = _window("order", np.arange(self.size), self.steps * whole, self.epoch, self.seed)
        for step in range(self.offset, self.steps):
            share = step * self.processes + self.process
            yield keys[share * self.batch_size :][: self.batch_size]


class TwoStreamBatchSampler(EpochBatchSampler):
    """Batches of a fixed proportion of labelled and unlabelled samples, labelled first.

    Each stream goes through permutations of its samples, one after the other, across epochs; where a stream is short
    its samples come several times an epoch, each time with other augmentations. An epoch has as many steps as the pool
    (labelled and unlabelled) has batches, whatever the streams in use, so that regimes and budgets are compared at
    equal numbers of updates.

    Args:
        records: data dictionaries; one without ``label`` is unlabelled.
        batch_size: samples a batch, of each process.
        labeled_batch_size: labelled ones among them. Without unlabelled samples every batch is labelled. Where it is
            ``batch_size`` no unlabelled sample is drawn, which is logged as a warning.
        seed: seed of the orders.
        use_unlabeled: ``False`` leaves the unlabelled stream out (supervised baseline): ``batch_size`` labelled samples
            a batch.
        steps_per_epoch: steps an epoch instead of the rule above.
        processes: see :class:`EpochBatchSampler`.
        process: see :class:`EpochBatchSampler`.

    Raises:
        DataError: when there is no labelled sample.
        ConfigError: when the batch sizes or the number of steps cannot be.
    """

    def __init__(
        self,
        records: Sequence[Mapping[str, Any]],
        batch_size: int,
        labeled_batch_size: int,
        seed: int = 0,
        use_unlabeled: bool = True,
        steps_per_epoch: int | None = None,
        processes: int | None = None,
        process: int | None = None,
    ) -> None:
        super().__init__(processes, process)
        labeled = np.array([i for i, record in enumerate(records) if record.get("label") is not None], dtype=np.int64)
        unlabeled = np.setdiff1d(np.arange(len(records)), labeled)
        if not len(labeled):
            raise DataError(
                "no labelled image is left for training", found=f"{len(records)} images without label",
                advice="Raise label_fraction or label_budget, or check the datalist's training split.",
            )  # fmt: skip
        if not 0 < labeled_batch_size <= batch_size:
            raise ConfigError(
                "labelled images a batch", where="labeled_batch_size", found=labeled_batch_size,
                expected=f"1 to batch_size ({batch_size})",
            )  # fmt: skip
        _check_steps(steps_per_epoch)
        both = use_unlabeled and len(unlabeled) > 0 and labeled_batch_size < batch_size
        if use_unlabeled and len(unlabeled) > 0 and not both:
            logger.warning(
                "labeled_batch_size is batch_size (%d): none of the %d unlabelled images is drawn. Lower it, or raise "
                "batch_size.",
                batch_size, len(unlabeled),
            )  # fmt: skip
        first = labeled_batch_size if both else batch_size
        self.streams: list[tuple[str, np.ndarray, int]] = [("labeled", labeled, first)]
        if both:
            self.streams.append(("unlabeled", unlabeled, batch_size - first))
        self.seed, self.epoch = seed, 0
        self.steps = steps_per_epoch or math.ceil(len(records) / (batch_size * self.processes))

    def __iter__(self) -> Iterator[list[SampleKey]]:
        epoch = self.epoch
        draws = [
            _window(name, indices, self.steps * count * self.processes, epoch, self.seed)
            for name, indices, count in self.streams
        ]
        for step in range(self.offset, self.steps):
            share = step * self.processes + self.process  # so many shares of each stream lie before this one
            yield [key for keys, (_, _, count) in zip(draws, self.streams) for key in keys[share * count :][:count]]


def _window(name: str, indices: np.ndarray, count: int, epoch: int, seed: int) -> list[SampleKey]:
    """The ``count`` draws of one epoch: a window into the endless sequence of the indices' permutations."""
    size = len(indices)
    passes, positions = np.divmod(np.arange(epoch * count, (epoch + 1) * count), size)
    orders = {p: indices[permutation(size, seed, name, int(p))] for p in np.unique(passes)}
    return [SampleKey(int(orders[p][i]), epoch, int(p)) for p, i in zip(passes, positions)]


def _check_steps(steps_per_epoch: int | None) -> None:
    if steps_per_epoch is not None and steps_per_epoch < 1:
        raise ConfigError("no step in an epoch", where="steps_per_epoch", found=steps_per_epoch, expected="1 or more")
