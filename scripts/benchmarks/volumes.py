"""Epochs over prepared volumes with random crops: ours on disk, MONAI's in memory, and nothing prepared."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import CacheDataset, Dataset
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    EnsureTyped,
    LoadImaged,
    Orientationd,
    RandFlipd,
    RandSpatialCropd,
    ScaleIntensityRanged,
    Spacingd,
)

from benchmarks.harness import Row, clock, paired
from medssl_monai.core import seed_transform
from medssl_monai.data import CachedVolumeDataset, SampleKey


def volumes(tiny: bool = False) -> list[Row]:
    """Eight volumes of 128 x 128 x 32, int16, compressed NIfTI."""
    shape, crop, number = ((20, 20, 8), (8, 8, 4), 2) if tiny else ((128, 128, 32), (64, 64, 16), 8)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        records = _write(Path(folder), shape, number)
        for name, keys in (("image", ["image"]), ("image and mask", ["image", "label"])):
            transform = _pipeline(keys, crop)
            chosen = [{key: record[key] for key in keys} for record in records]
            rows += _compare(name, chosen, transform, Path(folder) / "cache", tiny)
    return rows


def _write(folder: Path, shape: Sequence[int], number: int) -> list[dict[str, str]]:
    random = np.random.default_rng(0)
    records = []
    for i in range(number):
        image = random.integers(0, 1000, shape).astype(np.int16)
        record = {}
        for key, values in (("image", image), ("label", (image > 500).astype(np.uint8))):
            record[key] = str(folder / f"{i}_{key}.nii.gz")
            nib.save(nib.Nifti1Image(values, np.diag([1.0, 1.0, 2.0, 1.0])), record[key])
        records.append(record)
    return records


def _pipeline(keys: list[str], crop: Sequence[int]) -> Compose:
    modes = ["bilinear", "nearest"][: len(keys)]
    return Compose(
        [
            LoadImaged(keys),
            EnsureChannelFirstd(keys),
            Orientationd(keys, axcodes="RAS", labels=None),
            Spacingd(keys, pixdim=(1.25, 1.25, 2.0), mode=modes),
            ScaleIntensityRanged("image", 0, 1000, 0, 1, clip=True),
            EnsureTyped(keys, track_meta=False),
            RandSpatialCropd(keys, crop, random_size=False),
            RandFlipd(keys, prob=0.5, spatial_axis=0),
        ]
    )


def _compare(name: str, records: list[dict[str, str]], transform: Compose, cache: Path, tiny: bool) -> list[Row]:
    cold = clock(lambda: CachedVolumeDataset(records, transform, cache, num_workers=1, progress=False))
    warm = clock(lambda: CachedVolumeDataset(records, transform, cache, num_workers=1, progress=False))
    ours = CachedVolumeDataset(records, transform, cache, progress=False)
    cached, naive = CacheDataset(records, transform, progress=False), Dataset(records, transform)

    def seeded(dataset: Any, epoch: int) -> list[dict[str, Any]]:
        samples = []
        for index in range(len(records)):
            seed_transform(dataset.transform, 0, epoch, index, 0)
            samples.append(dataset[index])
        return samples

    def epoch_of_ours(epoch: int = 0) -> list[dict[str, Any]]:
        return [ours[SampleKey(index, epoch)] for index in range(len(records))]

    for epoch in range(2):
        for one, other, third in zip(epoch_of_ours(epoch), seeded(cached, epoch), seeded(naive, epoch)):
            for key in records[0]:
                torch.testing.assert_close(one[key], other[key].as_tensor(), rtol=0, atol=0)
                torch.testing.assert_close(one[key], third[key].as_tensor(), rtol=0, atol=0)

    def epoch_of(dataset: Any) -> list[dict[str, Any]]:  # without seeding its samples: MONAI does not
        return [dataset[index] for index in range(len(records))]

    what = f"warm epoch of {len(records)} crops, {name}"
    fast = paired(epoch_of_ours, lambda: epoch_of(cached), 2 if tiny else 21)
    slow = paired(epoch_of_ours, lambda: epoch_of(naive), 1 if tiny else 3)
    met = None if tiny else statistics.median(fast.ours) <= 3
    return [
        fast.row("volumes", what, "MONAI `CacheDataset`", "samples, exactly", goal="3 ms or less", met=met),
        slow.row("volumes", what, "MONAI `Dataset`", "samples, exactly"),
        Row("volumes", f"preparing {len(records)} items ({name})", cold),
        Row("volumes", f"finding them prepared, digests compared ({name})", warm),
    ]
