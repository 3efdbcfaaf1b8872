"""Cached datasets whose random transforms depend on (seed, epoch, sample) only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from monai.data import CacheDataset
from monai.transforms import Compose

from medssl_monai.core import DataError, MedSSLError, seed_transform
from medssl_monai.data.sampling import SampleKey


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
        progress: show a progress bar while the cache is filled.
        unlabeled_value: ``label`` of items that have none, so that batches can be formed; ``None`` leaves them without.

    Raises:
        DataError: when ``data`` is empty, or an item cannot be prepared (the message names it and the cause).
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        transform: Compose,
        seed: int = 0,
        cache_rate: float = 1.0,
        num_workers: int | None = 2,
        progress: bool = True,
        unlabeled_value: int | None = None,
    ) -> None:
        if not len(data):
            raise DataError(
                "there is no image in this split",
                advice="Name a dataset_dir whose datalist.json has items there; `medssl check` lists what it holds.",
            )
        self.seed = seed
        records = [dict(record) for record in data]
        if unlabeled_value is not None:
            records = [{**record, "label": record.get("label", unlabeled_value)} for record in records]
        super().__init__(
            data=records, transform=transform, cache_rate=cache_rate, num_workers=num_workers, progress=progress
        )

    def __getitem__(self, key: SampleKey | int) -> Any:  # type: ignore[override]
        key = key if isinstance(key, SampleKey) else SampleKey(int(key))
        seed_transform(self.transform, self.seed, key.epoch, key.index, key.repeat)
        try:
            return self._transform(key.index)
        except Exception as error:
            raise self._named(error, key.index) from error

    def _load_cache_item(self, idx: int) -> Any:
        try:
            return super()._load_cache_item(idx)
        except Exception as error:
            raise self._named(error, idx) from error

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
            advice="`medssl check` lists every such file of a dataset.",
        )
