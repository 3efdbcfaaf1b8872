"""Bootstrap resamples of whole groups, as weights: how often each case occurs in each resample."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from medssl_monai.core import generator, text_digest
from medssl_monai.metrics.checks import FloatArray, IntArray
from medssl_monai.metrics.distribution import Distribution

Kernel = Callable[[FloatArray], FloatArray]
"""Weights (n, b), one column a resample, to values (b,); NaN where the metric is undefined."""

# Entries of one block of weights: 32 MiB of float64, so that 100,000 cases need no more memory than 1,000.
_BLOCK_ENTRIES = 1 << 22


class Resampler:
    """Draws whole groups (subjects) with replacement, as many as there are.

    The draws depend on ``seed`` and the groups only, so that every metric and every model sees the same resamples and
    differences between models are paired. A case's weight is how often its group was drawn; weights are kept cases
    first, (n, b), because rows are then gathered and summed as contiguous memory.

    Args:
        n: number of cases.
        groups: group of each case (subject ids); ``None`` makes each case its own group.
        n_boot: number of resamples.
        seed: seed of the draws.

    Raises:
        ValueError: for no cases, groups of another length or with missing ids, or ``n_boot`` below 1.
    """

    def __init__(self, n: int, groups: Sequence[Hashable] | NDArray[np.generic] | None, n_boot: int, seed: int) -> None:
        if n < 1:
            raise ValueError("no cases: there is nothing to resample")
        if n_boot < 1:
            raise ValueError(f"n_boot is {n_boot}; expected at least one resample")
        self.n, self.n_boot, self.seed = n, n_boot, seed
        self.codes = group_codes(groups, n)
        self.n_groups = n if self.codes is None else int(self.codes.max()) + 1
        codes = "" if self.codes is None else " ".join(map(str, self.codes))
        self.key = text_digest([str(n), codes, str(n_boot), str(seed)])

    def blocks(self) -> Iterator[FloatArray]:
        """Weights of successive resamples, (n, b) each; the blocks' b add up to ``n_boot``."""
        random = generator("bootstrap", self.seed)
        size = max(1, _BLOCK_ENTRIES // self.n)
        for start in range(0, self.n_boot, size):
            block = min(size, self.n_boot - start)
            drawn = random.integers(0, self.n_groups, size=(block, self.n_groups))
            cells = drawn * block + np.arange(block)[:, None]
            counts = np.bincount(cells.ravel(), minlength=self.n_groups * block).reshape(self.n_groups, block)
            weights = counts.astype(np.float64)
            yield weights if self.codes is None else weights[self.codes]

    def distribute(self, kernels: Mapping[str, Kernel]) -> dict[str, Distribution]:
        """Estimate and resampled values of several metrics, from one pass over the resamples."""
        estimates = {name: float(kernel(np.ones((self.n, 1)))[0]) for name, kernel in kernels.items()}
        values: dict[str, list[FloatArray]] = {name: [] for name in kernels}
        if self.n_groups > 1:
            for weights in self.blocks():
                for name, kernel in kernels.items():
                    values[name].append(kernel(weights))
        else:  # every resample would be the sample itself
            for name in kernels:
                values[name].append(np.full(self.n_boot, np.nan))
        return {
            name: Distribution(estimates[name], np.concatenate(values[name]), self.n, self.n_groups, self.key)
            for name in kernels
        }


def group_codes(groups: Sequence[Hashable] | NDArray[np.generic] | None, n: int) -> IntArray | None:
    """Number the groups 0, 1, ... in sorted order, (n,); ``None`` for ``None``.

    Sorted order makes the resamples independent of the order of the cases.

    Raises:
        ValueError: for another length, or a missing id (which would join strangers into one group).
    """
    if groups is None:
        return None
    if len(groups) != n:
        raise ValueError(f"groups has {len(groups)} entries for {n} cases; every case needs its group (subject)")
    missing = [i for i, group in enumerate(groups) if group is None or group != group]
    if missing:
        raise ValueError(
            f"{len(missing)} cases have no group (the first is case {missing[0]}); give each an id of its own"
        )
    array = np.asarray(groups)
    if array.ndim != 1 or array.dtype == object:
        array = np.array([str(group) for group in groups])
    return np.unique(array, return_inverse=True)[1].astype(np.int64)
