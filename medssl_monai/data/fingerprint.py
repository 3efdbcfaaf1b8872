"""By what a dataset is known again: digests over its datalist and over the files that its items name."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from medssl_monai.core import file_digest, sampled_digest, text_digest
from medssl_monai.data.datalist import FILE_NAME, Datalist, Item
from medssl_monai.data.readers.partners import data_files

_THREADS = 8


def item_digests(root: Path, items: Iterable[Item]) -> list[list[str]]:
    """For each item a digest of each of its files: images, then the mask where the label is one.

    Files count by their size and both ends (:func:`medssl_monai.core.sampled_digest`); what is missing counts as
    missing. A header counts with the files beside it that hold its voxels.
    """

    def one(item: Item) -> list[str]:
        masks = (item.label,) if isinstance(item.label, str) else ()
        return [_digest(root / path) for path in (*item.paths, *masks)]

    with ThreadPoolExecutor(_THREADS) as pool:  # the time goes into waiting for files
        return list(pool.map(one, items, chunksize=64))


def _digest(path: Path) -> str:
    digest, beside = sampled_digest(path), data_files(path)
    return text_digest([digest, *map(sampled_digest, beside)]) if beside else digest


def dataset_fingerprint(datalist: Datalist) -> str:
    """SHA-256 over the datalist's file and the files of every item, wherever the dataset's folder lies.

    The labels a run may use play no part: see :attr:`medssl_monai.data.Budget.fingerprint` for those.
    """
    parts = [file_digest(datalist.root / FILE_NAME)]
    for split, items in sorted(datalist.splits.items()):
        parts.append(split)
        parts += [digest for digests in item_digests(datalist.root, items) for digest in digests]
    return text_digest(parts)
