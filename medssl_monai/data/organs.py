"""Which organs each mask shows: read once a process, for stratification and for counts."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import numpy as np

from medssl_monai.core import DataError
from medssl_monai.data.datalist import Datalist, Item
from medssl_monai.data.readers import read_image


def organs_present(
    datalist: Datalist, items: Iterable[Item], *, workers: int | None = None
) -> dict[str, frozenset[int]]:
    """The values in each item's mask, background included.

    Args:
        datalist: the dataset the masks are of.
        items: items with masks; those without a label are left out.
        workers: threads that read; by default one a core.

    Returns:
        Mask path (as it stands in the datalist) to the set of its values.

    Raises:
        DataError: when a mask cannot be read or holds a value that is not a whole number.
    """
    paths = list(dict.fromkeys(item.label for item in items if isinstance(item.label, str)))
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        return dict(zip(paths, pool.map(lambda path: _values(datalist.root / path), paths)))


def _values(path: Path) -> frozenset[int]:
    try:
        stamp = path.stat()
        return _read_values(str(path), stamp.st_mtime_ns, stamp.st_size)
    except DataError:
        raise
    except Exception as error:  # each of the readers below has errors of its own
        raise DataError(
            f"the mask cannot be read ({type(error).__name__}: {error})",
            where=path,
            advice="`medssl check` lists every such file.",
        ) from error


@lru_cache(maxsize=65536)
def _read_values(path: str, _mtime_ns: int, _size: int) -> frozenset[int]:
    values = np.unique(read_image(path)[0])
    whole = values[np.isfinite(values) & (values == np.floor(values))]
    if len(whole) < len(values):
        raise DataError(
            "a mask holds values that are not whole numbers",
            where=path,
            found=", ".join(str(value) for value in np.setdiff1d(values, whole)[:3]),
            advice="Save it again as integers, without interpolation.",
        )
    return frozenset(int(value) for value in whole)
