"""Episodes: building the store of superpixels, and items drawn from it against superpixels cut at each access."""

from __future__ import annotations

import os
import resource
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, Randomizable, Transform
from torch import Tensor

from benchmarks.harness import Pairs, Row, alone, chosen_clock, paired
from medssl_monai.apps.superpixels import prepare
from medssl_monai.core import seed_transform
from medssl_monai.data import SampleKey, episode_dataset
from medssl_monai.data.episodes import PreparedScan
from medssl_monai.data.phantoms import make_phantom
from medssl_monai.transforms import EpisodeViews, Superpixels, scan_transforms

_SIZE = 256  # pixels of a slice, thesis 7.5.1


def superpixels(tiny: bool = False) -> list[Row]:
    """Scans to their store, as ``medssl superpixels`` makes it: a process for each core."""
    size, repeats, cores = (32, 1, 1) if tiny else (_SIZE, 3, os.cpu_count() or 1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        records = _phantoms(folder / "data", 3 if tiny else max(4, 2 * cores), size)
        each = []
        for repeat in range(repeats):
            milliseconds, scans = _built(_settings(records, folder / f"cache{repeat}", size), cores)
            slices = sum(scan.slices for scan in scans)
            each.append(milliseconds / slices)
        settings = _settings(records, folder / "cache0", size)
        found = alone(lambda: episode_dataset(**settings), repeats)
        np.testing.assert_equal(len(list((folder / "cache0").rglob("*.volume"))), len(records), "made anew")
    median, mean = statistics.median(each), slices / len(records)
    pixels = f"{size} x {size} pixels"
    many = f"{cores} process{'es'[: 2 * (cores > 1)]}"
    return [
        Row("superpixels", f"building, a slice of {pixels}; {len(records)} scans, {many}", median,
            goal="25 ms or less", met=None if tiny else median <= 25),
        Row("superpixels", f"cutting alone, a slice of {pixels}; 1 process", _cutting(size, 1 if tiny else 3)),
        Row("superpixels", f"finding {len(records)} scans of {mean:.0f} slices prepared, digests compared", found),
        Row("superpixels", f"store of a scan of {mean:.0f} slices of {pixels}, image included",
            sum(scan.size for scan in scans) / len(records) / 2**20, "MiB"),
    ]  # fmt: skip


def _phantoms(folder: Path, number: int, size: int) -> list[dict[str, Any]]:
    """Records of abdominal scans with slices of ``size`` pixels."""
    datalist = make_phantom("abdomen", folder, subjects=number, size=size)
    return [{**datalist.record(item), "name": item.name} for _, item in datalist]


def _settings(records: Sequence[Mapping[str, Any]], cache: Path, size: int) -> dict[str, Any]:
    return {"data": records, "cache_dir": str(cache), "image_size": size, "progress": False}


def _built(settings: Mapping[str, Any], processes: int) -> tuple[float, list[PreparedScan]]:
    """Milliseconds of preparing scans; of processor time, what the processes took on average."""
    before, start = _processor_seconds(), time.perf_counter()
    scans = prepare(settings, processes)
    wall, used = time.perf_counter() - start, _processor_seconds() - before
    return 1000 * (wall if chosen_clock() == "wall" else used / processes), scans


def _processor_seconds() -> float:
    """Of this process and of those it has waited for."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _cutting(size: int, repeats: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        slices = _slices(_phantoms(Path(folder), 3, size)[0], size)
        cut = Superpixels(**_method(size))
        return alone(lambda: [cut(one[None]) for one in slices], repeats) / len(slices)


def _method(size: int) -> dict[str, Any]:
    """Felzenszwalb's settings for MR in [0, 1], by ``size``: what :func:`episode_dataset` takes by default."""
    return {"settings": {"scale": 1 / 1000, "min_size": round(400 * (size / _SIZE) ** 2)}, "threshold": 0.05}


def _slices(record: Mapping[str, Any], size: int) -> Tensor:
    """Slices (S, H, W) of a scan on the net's grid."""
    scan = scan_transforms("image", image_size=size)
    prepared = Compose([LoadImaged("image"), EnsureChannelFirstd("image"), *scan])(record)["image"]
    slices: Tensor = prepared.as_tensor()[0].permute(2, 0, 1)
    return slices


class _CutAtEachAccess(Randomizable, Transform):
    """Draw a slice of a scan in memory, cut it, and draw one of its superpixels: nothing but the scan is kept."""

    def __init__(self, size: int) -> None:
        self.cut = Superpixels(**_method(size))
        self.smallest = max(1, round(100 * (size / _SIZE) ** 2))

    def __call__(self, slices: Tensor) -> dict[str, Tensor]:
        order, chance = self.R.permutation(len(slices)), self.R.random_sample()
        for position in order:
            labels = np.asarray(self.cut(slices[int(position)][None]))
            numbers = [n for n in range(1, labels.max() + 1) if (labels == n).sum() >= self.smallest]
            if numbers:
                mask = torch.from_numpy(labels == numbers[int(chance * len(numbers))]).float()
                return {"image": slices[int(position)][None], "mask": mask}
        raise ValueError("no slice has a superpixel")


def episode_items(tiny: bool = False) -> list[Row]:
    """Items of the store, and what it takes to make a query of each."""
    size, repeats = (32, 1) if tiny else (_SIZE, 21)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        records = _phantoms(folder / "data", 3, size)
        ours = episode_dataset(seed=0, **_settings(records, folder / "cache", size))
        peer = _CutAtEachAccess(size)
        chain = Compose([peer])
        kept = []
        for slices in (_slices(record, size) for record in records):  # the store has none without a superpixel either
            kept.append(torch.stack([one for one in slices if torch.as_tensor(peer.cut(one[None])).any()]))

        def cut_at_access(epoch: int) -> list[dict[str, Tensor]]:
            items = []
            for index, slices in enumerate(kept):
                seed_transform(chain, 0, epoch, index, 0)
                items.append(peer(slices))
            return items

        def read(epoch: int) -> list[dict[str, Tensor]]:
            return [ours[SampleKey(index, epoch)] for index in range(len(records))]

        for epoch in range(2 if tiny else 5):
            for one, other in zip(read(epoch), cut_at_access(epoch)):
                torch.testing.assert_close(one["mask"], other["mask"], rtol=0, atol=0)
                torch.testing.assert_close(one["image"], other["image"].half().float(), rtol=0, atol=0)
        epochs = iter(range(10**9))
        pairs = paired(lambda: read(next(epochs)), lambda: cut_at_access(next(epochs)), repeats)
        batch = read(0)
    number = len(records)
    pairs = Pairs([t / number for t in pairs.ours], [t / number for t in pairs.theirs])
    row = pairs.row(
        "episode-item",
        f"slice of {size} x {size} pixels and a superpixel of it",
        "superpixels cut at each access",
        "images (half precision) and masks, exactly",
        goal="1 ms or less",
        met=None if tiny else statistics.median(pairs.ours) <= 1,
    )
    return [row, *_queries(batch, size, repeats)]


def _queries(batch: Sequence[Mapping[str, Tensor]], size: int, repeats: int) -> list[Row]:
    views, rows = EpisodeViews(), []
    for number in (1, 4):
        chosen = [batch[i % len(batch)] for i in range(number)]
        images, masks = (torch.stack([item[key] for item in chosen]) for key in ("image", "mask"))
        index = torch.arange(number)
        milliseconds = alone(lambda a=images, b=masks, c=index: views(a, b, c, 0), repeats) / number
        what = f"its query (`EpisodeViews`), {number} at once" if number > 1 else "its query (`EpisodeViews`)"
        rows.append(Row("episode-item", what, milliseconds))
    return rows
