"""Cached datasets whose random transforms depend on (seed, epoch, sample) only."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from monai.data import CacheDataset
from monai.transforms import Compose, Transform
from monai.transforms.traits import RandomizableTrait
from tqdm import tqdm

from medssl_monai.core import ConfigError, DataError, MedSSLError
from medssl_monai.core.distributed import is_main
from medssl_monai.data.sampling import SampleKey
from medssl_monai.data.seeding import TransformSeeder


class SeededCacheDataset(CacheDataset):  # type: ignore[misc]
    """MONAI's ``CacheDataset`` with stateless randomness.

    The transforms before the first random one are computed once and kept (``cache_rate`` of the items); the random
    rest is seeded anew for every sample from ``(seed, epoch, index, repeat)`` of its :class:`SampleKey`, so that a
    sample is the same whichever process prepares it, and after any interruption.

    Args:
        data: data dictionaries. ``name`` (or ``image``) names an item in error messages.
        transform: the transforms.
        seed: the run's seed.
        cache_rate: share of the items whose deterministic part is kept in memory.
        num_workers: threads that fill the cache.
        progress: show a progress bar while the cache is filled; ``None``: where the error stream is a terminal, in the
            first process of a run.
        unlabeled_value: ``label`` of items that have none, so that batches can be formed (a vector of it where the
            others are vectors); ``None`` leaves them without.
        half: keep float32 tensors in half precision, which halves the memory of the cache; every item goes through
            it, cached or not, so that ``cache_rate`` changes no number. Transforms get float32 again. A tensor with
            values beyond half precision's 65504 is kept in float32.
        allow_empty: accept a dataset without items (validation of a small label budget).
        index_key: key under which every sample gets its number, for random steps that are done to a whole batch later
            (:class:`~medssl_monai.transforms.BatchedViews`): its position in the dataset, plus the dataset's length
            for every earlier draw of it in the same epoch (``repeat``). ``None``: no number.

    Raises:
        DataError: when ``data`` is empty, or an item cannot be prepared (the message names it and the cause).
        ConfigError: when the samples have ``index_key`` already, or are no dictionaries.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        transform: Compose,
        seed: int = 0,
        cache_rate: float = 1.0,
        num_workers: int | None = 2,
        progress: bool | None = None,
        unlabeled_value: int | None = None,
        half: bool = True,
        allow_empty: bool = False,
        index_key: str | None = None,
    ) -> None:
        if not len(data) and not allow_empty:
            raise DataError(
                "there is no image in this split",
                advice="Name a dataset_dir whose datalist.json has items there; `medssl check` lists what it holds.",
            )
        self.seed = seed
        records = [dict(record) for record in data]
        if unlabeled_value is not None:
            known = next((record["label"] for record in records if record.get("label") is not None), None)
            vector = isinstance(known, np.ndarray)
            missing = np.full_like(known, unlabeled_value) if vector else unlabeled_value
            records = [{**record, "label": record.get("label", missing)} for record in records]
        self.half, self.index_key = half, index_key
        # a nested Compose counts as random in MONAI's search for the first random transform; flat, only random ones do
        super().__init__(
            data=records,
            transform=transform.flatten(),  # type: ignore[no-untyped-call]
            cache_rate=cache_rate,
            num_workers=num_workers,
            progress=sys.stderr.isatty() and is_main() if progress is None else progress,
        )
        self._seed_transform = TransformSeeder(self.transform)

    def __getitem__(self, key: SampleKey | int) -> Any:  # type: ignore[override]
        key = key if isinstance(key, SampleKey) else SampleKey(int(key))
        index = range(len(self))[key.index]
        self._seed_transform(self.seed, key.epoch, index, key.repeat)
        try:
            item = self._transform(index)
        except Exception as error:
            raise self._named(error, index) from error
        return item if self.index_key is None else self._numbered(item, index + key.repeat * len(self))

    def _numbered(self, item: Any, number: int) -> dict[str, Any]:
        if not isinstance(item, dict) or self.index_key in item:
            found = f"the key {self.index_key!r} already" if isinstance(item, dict) else type(item).__name__
            raise ConfigError(
                "samples cannot be numbered",
                where="index_key",
                found=found,
                expected="dictionaries without that key",
                advice="Choose another index_key, or null.",
            )
        return {**item, self.index_key: number}

    def _transform(self, index: int) -> Any:
        item = self._cache[index] if index < self.cache_num else self._load_cache_item(index)
        # copies: a transform that works in place must leave the cache as it is
        item = {key: value.float() if _is(value, torch.float16) else deepcopy(value) for key, value in item.items()}
        # as MONAI draws the line when it fills the cache: a bare function may be random too
        first_random = self.transform.get_index_of_first(  # type: ignore[no-untyped-call]
            lambda t: isinstance(t, RandomizableTrait) or not isinstance(t, Transform)
        )
        return item if first_random is None else self.transform(item, start=first_random)

    def _fill_cache(self, indices: Sequence[int] | None = None) -> list[Any]:
        # MONAI's pool is torn down with threads still reading when one fails, which can abort the whole process
        chosen = range(self.cache_num) if indices is None else indices
        with ThreadPoolExecutor(self.num_workers) as pool:
            futures = [pool.submit(self._load_cache_item, index) for index in chosen]
            try:
                return [future.result() for future in tqdm(futures, "Loading images", disable=not self.progress)]
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise

    def _load_cache_item(self, idx: int) -> dict[str, Any]:
        try:
            item: dict[str, Any] = super()._load_cache_item(idx)
        except Exception as error:
            raise self._named(error, idx) from error
        return {
            key: _halved(value) if self.half and _is(value, torch.float32) else value for key, value in item.items()
        }

    def _named(self, error: BaseException, index: int) -> Exception:
        """The root cause of a failed transform with the item's name; MONAI's wrappers name neither well."""
        causes = [error]
        while (cause := causes[-1].__cause__) is not None:
            causes.append(cause)
        own = next((cause for cause in causes if isinstance(cause, MedSSLError)), None)
        if own is not None and own.where is not None:
            return DataError(own.what, where=own.where, found=own.found, expected=own.expected, advice=own.advice)
        record = self.data[index]
        return DataError(
            f"cannot be prepared: {causes[-1]}",
            where=record.get("name", record.get("image")),
            advice="`medssl check` lists the damaged files of a dataset.",
        )


def _is(value: Any, dtype: torch.dtype) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype == dtype


def _halved(value: torch.Tensor) -> torch.Tensor:
    half = value.half()
    return half if torch.equal(half.isfinite(), value.isfinite()) else value
