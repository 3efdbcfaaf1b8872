"""Volumes prepared once, kept on disk and mapped into memory: an epoch of random crops reads the crops' bytes only."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from monai.data import set_track_meta
from monai.data.meta_obj import get_track_meta
from monai.transforms import Compose, Transform
from monai.transforms.traits import RandomizableTrait
from tqdm import tqdm

from medssl_monai.core import ConfigError, DataError, make_folder, text_digest
from medssl_monai.data.cache_files import (
    DamagedFileError,
    Description,
    MappedItem,
    StoredValueError,
    read_description,
    write_item,
)
from medssl_monai.data.datasets import SeededCacheDataset
from medssl_monai.data.readers.partners import data_files
from medssl_monai.data.transform_key import transform_key, value_texts

logger = logging.getLogger(__name__)

_USUAL = {"lazy": False, "overrides": None, "map_items": True, "unpack_items": False}  # of a Compose


class CachedVolumeDataset(SeededCacheDataset):
    """:class:`SeededCacheDataset` whose prepared items lie in a folder instead of in memory.

    The transforms before the first random one run once an item; what they give is written uncompressed under
    ``cache_dir``, and from then on mapped into memory: the random transforms get it as it lies on disk, so that a
    random crop reads its own bytes only, a process needs no memory for the volumes, and all workers and runs share one
    copy. Put the crop first among the random transforms.

    An item's file is found by a key of the transforms (class, settings, package versions, and for the user's own code
    the code itself with the constants, helpers and modules it names) and of the data (the record, and path, size and
    time of change of every file it names): when any of it changes the item is prepared anew. What goes unnoticed, such
    as a table that a transform reads from a file of its own, is listed at
    :func:`~medssl_monai.data.transform_key.transform_key`. Damaged files are reported and prepared anew. The names of
    the files are digests, and neither names nor paths of the record are written into them. The folder can be deleted
    at any time.

    Samples are those of MONAI's ``CacheDataset`` for the same seeds, as plain tensors or, with ``track_meta``, as
    ``MetaTensor`` with their affine. Operations applied before the cache are not recorded: they cannot be inverted.

    Args:
        data: data dictionaries, see :class:`SeededCacheDataset`.
        transform: the transforms.
        cache_dir: folder of the prepared items; several datasets, runs and processes may share it.
        seed: the run's seed.
        track_meta: keep the affine, for random transforms that need it. Without, the random transforms get plain
            tensors and MONAI's tracking of metadata is off while they run, which makes them about four times faster.
        verify: read the items that are there once, at the start, and compare their digests; ``False`` looks at their
            sizes only.
        num_workers: threads that prepare items.
        progress: show a progress bar meanwhile; ``None``: where the error stream is a terminal.
        unlabeled_value: ``label`` of items that have none, see :class:`SeededCacheDataset`.
        allow_empty: accept a dataset without items.
        index_key: key of the samples' numbers, see :class:`SeededCacheDataset`.

    Raises:
        DataError: when ``data`` is empty, an item cannot be prepared or kept, or its record holds a value without
            comparable content; the message names it.
        ConfigError: when a transform has settings, or its code names globals, that cannot be part of the key, or the
            transforms are lazy and the metadata are not kept.
        OutputError: when ``cache_dir`` cannot be written.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        transform: Compose,
        cache_dir: str | Path,
        seed: int = 0,
        track_meta: bool = False,
        verify: bool = True,
        num_workers: int | None = 2,
        progress: bool | None = None,
        unlabeled_value: int | None = None,
        allow_empty: bool = False,
        index_key: str | None = None,
    ) -> None:
        if transform.lazy and not track_meta:
            raise ConfigError(
                "lazy transforms keep what is to be done in the metadata", where="track_meta", found=False,
                expected=True, advice="Set track_meta to true, or lazy to false.",
            )  # fmt: skip
        self.cache_dir, self.track_meta, self.verify = Path(cache_dir), track_meta, verify
        self._descriptions: dict[int, Description] = {}
        super().__init__(
            data,
            transform,
            seed,
            num_workers=num_workers,
            progress=progress,
            unlabeled_value=unlabeled_value,
            half=False,
            allow_empty=allow_empty,
            index_key=index_key,
        )

    def _fill_cache(self, indices: Sequence[int] | None = None) -> list[Path]:
        """Prepare what is missing; the files in the order of the items."""
        transforms = self.transform.transforms
        self._first_random = next((i for i, t in enumerate(transforms) if _is_random(t)), len(transforms))
        # how a chain is applied changes what it gives: lazy ones resample once where others resample at every step
        applied = {name: getattr(self.transform, name) for name in ("lazy", "overrides", "map_items", "unpack_items")}
        parts = [*transforms[: self._first_random], f"meta {self.track_meta}"]
        if any(applied[name] != usual for name, usual in _USUAL.items()):
            parts.append(f"applied {applied!r}")
        folder = self.cache_dir / transform_key(parts)[:16]
        paths = [folder / f"{record_key(record)}.volume" for record in self.data]
        self._descriptions = {}
        make_folder(folder)
        with ThreadPoolExecutor(self.num_workers) as pool:
            futures = [pool.submit(self._prepared, index, path, self.verify) for index, path in enumerate(paths)]
            try:
                bar = tqdm(futures, "Preparing volumes", disable=not self.progress)
                made = sum(future.result() for future in bar)
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        logger.info("%s", _said(made, len(paths), self.cache_dir))
        return paths

    def _prepared(self, index: int, path: Path, verify: bool) -> bool:
        """Make sure that an item's file is there; whether it had to be made."""
        try:
            self._descriptions[index] = read_description(path, verify)
        except FileNotFoundError:
            pass
        except DamagedFileError as error:
            logger.warning("prepared item %s is damaged (%s): it is prepared anew", path.name, error)
        else:
            return False
        try:
            write_item(path, self._load_cache_item(index), self.data[index], self.track_meta)
        except StoredValueError as error:
            raise DataError(
                f"the prepared item cannot be kept on disk: {error}",
                where=self.data[index].get("name", self.data[index].get("image")),
                expected="tensors, arrays, numbers, texts, and lists and mappings of them",
                advice="Add DeleteItemsd or EnsureTyped before the first random transform.",
            ) from error
        self._descriptions[index] = read_description(path)
        return True

    def _transform(self, index: int) -> Any:
        mapped = self._mapped(index)
        if self._first_random == len(self.transform.transforms):
            return mapped.owned(mapped.item)
        with _tracking(self.track_meta):
            return mapped.owned(self.transform(mapped.item, start=self._first_random))

    def _mapped(self, index: int) -> MappedItem:
        path, record = self._cache[index], self.data[index]
        try:
            return MappedItem(path, self._descriptions[index], record)
        except FileNotFoundError:
            logger.warning("prepared item %s is gone: it is prepared anew", path.name)
        except DamagedFileError as error:
            logger.warning("prepared item %s is damaged (%s): it is prepared anew", path.name, error)
        path.unlink(missing_ok=True)
        self._prepared(index, path, verify=False)
        return MappedItem(path, self._descriptions[index], record)


def _said(made: int, number: int, folder: Path) -> str:
    """What was prepared, in words."""
    items = f"{number} item{'s'[: number != 1]}"
    if not number:
        return f"no item to prepare in {folder}"
    if made == number:
        return f"prepared {items} in {folder}"
    if not made:
        return f"prepared 0 of {items} in {folder}, which {'was' if number == 1 else 'were all'} there"
    there = number - made
    return f"prepared {made} of {items} in {folder}, {there} {'was' if there == 1 else 'were'} there"


def record_key(record: Mapping[str, Any]) -> str:
    """SHA-256, hexadecimal, of a data dictionary and of path, size and time of change of every file it names.

    A folder (a DICOM series) stands for all the files in it, and a header counts with the files beside it that hold
    its voxels. A change that keeps a file's size and time goes unnoticed. Arrays and tensors count by their content.

    Raises:
        DataError: when the record holds what has no comparable value, such as a stream or a lock.
    """
    try:
        texts = value_texts(record)
    except ValueError as error:
        raise DataError(
            f"the item's record cannot be a part of the cache key: {error}",
            where=record.get("name"),
            expected="texts, numbers, paths, arrays, tensors, and lists and mappings of them",
            advice="Leave the entry out of the record, or use SeededCacheDataset, which keeps items in memory.",
        ) from error
    return text_digest([*texts, *_files(record)])


def _files(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key in sorted(value, key=str):
            yield from _files(value[key])
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from _files(entry)
    elif isinstance(value, (str, os.PathLike)) and str(value) and "\0" not in str(value):
        path = Path(value)
        try:
            named = sorted(path.rglob("*")) if path.is_dir() else [path]
            for file in [*named, *(data for header in named for data in data_files(header))]:
                if file.is_file():
                    state = file.stat()
                    yield f"{file.absolute()} {state.st_size} {state.st_mtime_ns}"
        except OSError:  # a text that can be no path (too long, say) names no file
            return


def _is_random(transform: Any) -> bool:
    """Whether the cache ends before this transform, as MONAI draws the line: a bare function may be random too."""
    return isinstance(transform, RandomizableTrait) or not isinstance(transform, Transform)


class _Tracking:
    """MONAI's switch is one for the process: the first thread turns it off, the last one puts it back."""

    def __init__(self) -> None:
        self.lock, self.inside, self.before = threading.Lock(), 0, True

    @contextmanager
    def off(self) -> Iterator[None]:
        with self.lock:
            if not self.inside:
                self.before = get_track_meta()
                set_track_meta(False)
            self.inside += 1
        try:
            yield
        finally:
            with self.lock:
                self.inside -= 1
                if not self.inside:
                    set_track_meta(self.before)


_SWITCH = _Tracking()


@contextmanager
def _tracking(wanted: bool) -> Iterator[None]:
    if wanted:
        yield
    else:
        with _SWITCH.off():
            yield
