"""Two views of a batch, made at once, against MONAI's dictionary transforms and against the same chain image by image.

Timed from the images in memory to the collated views of a batch, for all.

MONAI's chains are what its user would write for the same augmentations, sample by sample over a ``Dataset``:

- the resized crop is ``RandSpatialCropd`` and ``Resized``: the sides of the box are drawn one by one, not area and
  aspect ratio;
- the blur is ``RandGaussianSmoothd``, a sigma an axis and no kernel size; contrast keeps the mean of all channels;
- the colour jitter has no saturation and hue, which MONAI lacks, and one order; grey is a ``RandLambdad``.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from monai.data import Dataset, MetaTensor, list_data_collate
from monai.transforms import (
    Compose,
    CopyItemsd,
    RandCoarseDropoutd,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandLambdad,
    RandRotated,
    RandScaleIntensityd,
    RandScaleIntensityFixedMeand,
    RandSpatialCropd,
    Resized,
    ScaleIntensityRanged,
)

from benchmarks.harness import Row, paired
from medssl_monai.transforms import BatchedViews, TwoViewsd, mr_views, rgb_views
from medssl_monai.transforms.color import GRAY_WEIGHTS

_VIEWS = ("view1", "view2")
_MONAI_LIMIT = 0.05  # of mean and deviation of the views: its crop, blur and jitter are drawn a little otherwise


def batched_views(tiny: bool = False) -> list[Row]:
    """MR (thesis table 4.3) and RGB (SimCLR) at 64 and 224 pixels on the CPU, and on a GPU where there is one."""
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    sizes = ((20, 16),) if tiny else ((64, 64), (256, 224))
    return [
        row
        for what, builder, channels in (("MR", mr_views, 1), ("RGB", rgb_views, 3))
        for stored, size in sizes
        for device in devices
        for row in _rows(what, builder(size), channels, stored, size, device, tiny)
    ]


def _rows(what: str, chain: Compose, channels: int, stored: int, size: int, device: str, tiny: bool) -> list[Row]:
    number, repeats = (4, 1) if tiny else (64, 7)
    images = _images(number, channels, stored)
    views, alone = BatchedViews(chain), TwoViewsd("image", chain)
    monai = _monai_rgb(stored, size) if channels == 3 else _monai_mr(stored, size)
    items = [{"image": MetaTensor(image)} for image in images[: max(1, number // 8)]]
    numbered = [{"image": MetaTensor(image), "index": i} for i, image in enumerate(images)]

    def ours() -> None:
        views({key: value.to(device) for key, value in list_data_collate(numbered).items()}, 0)
        if device == "cuda":
            torch.cuda.synchronize()

    one_by_one = Dataset(items, alone)
    dictionary = Dataset(items, monai)
    peers: list[tuple[str, Callable[[], object], Callable[[torch.Tensor], Any]]] = [
        (
            "MONAI's dictionary transforms" + (", without saturation and hue" if channels == 3 else ""),
            lambda: list_data_collate([dictionary[i] for i in range(len(items))]),
            lambda image: monai({"image": MetaTensor(image)})["view1"],
        ),
        (
            "`TwoViewsd` of the same chain",
            lambda: list_data_collate([one_by_one[i] for i in range(len(items))]),
            copy.deepcopy(chain),
        ),
    ]
    rows = []
    label = f"{2 * number} {what} views of {size} pixels" + (" on the GPU" if device == "cuda" else "")
    for place, (peer, run, view) in enumerate(peers):
        limit = 0.03 if place else _MONAI_LIMIT
        equal = _equal_moments(views, view, images[: 4 if tiny else 32], 2 if tiny else 16, 0.5 if tiny else limit)
        pairs = paired(ours, run, repeats, number / len(items))
        goal: dict[str, Any] = {}
        if not place:
            met = None if tiny else sorted(pairs.ratios)[repeats // 2] >= 10
            goal = {"goal": "10 times as fast", "met": met}
        rows.append(pairs.row("batched-views", label, peer, equal, **goal))
    return rows


def _monai_mr(stored: int, size: int) -> Compose:
    """Thesis table 4.3 of MONAI's dictionary transforms, each view with its own draws."""

    def view(key: str) -> list[Any]:
        return [
            *_crop(key, stored, size),
            RandGaussianSmoothd(key, (0.1, 2.0), (0.1, 2.0), prob=1.0),
            RandRotated(key, math.radians(30), prob=1.0, padding_mode="zeros"),
            RandCoarseDropoutd(key, 1, (size // 4, size // 4), fill_value=0.0, max_holes=4, prob=1.0),
            RandScaleIntensityd(key, 0.2, prob=1.0),
            RandScaleIntensityFixedMeand(key, prob=1.0, factors=0.2),
            RandGaussianNoised(key, prob=1.0, std=0.1, sample_std=False),
            ScaleIntensityRanged(key, 0.0, 1.0, 0.0, 1.0, clip=True),
        ]

    return _two(view)


def _monai_rgb(stored: int, size: int) -> Compose:
    """SimCLR's augmentations as far as MONAI has them."""

    def view(key: str) -> list[Any]:
        return [
            *_crop(key, stored, size),
            RandFlipd(key, prob=0.5, spatial_axis=0),
            RandScaleIntensityd(key, 0.8, prob=0.8),
            ScaleIntensityRanged(key, 0.0, 1.0, 0.0, 1.0, clip=True),
            RandScaleIntensityFixedMeand(key, prob=0.8, factors=0.8),
            ScaleIntensityRanged(key, 0.0, 1.0, 0.0, 1.0, clip=True),
            RandLambdad(key, _grey, prob=0.2),
            RandGaussianSmoothd(key, (0.1, 2.0), (0.1, 2.0), prob=0.5),
        ]

    return _two(view)


def _two(view: Callable[[str], list[Any]]) -> Compose:
    """A dictionary transform gives all its keys one draw: two views take the chain twice."""
    chain = Compose([CopyItemsd("image", 2, list(_VIEWS)), *view(_VIEWS[0]), *view(_VIEWS[1])])
    return chain.set_random_state(seed=0)


def _crop(key: str, stored: int, size: int) -> list[Any]:
    """Boxes of about the same areas, 0.08 to 1 of the image's."""
    shortest = round(stored * math.sqrt(0.08))
    return [
        RandSpatialCropd(key, (shortest,) * 2, (stored,) * 2, random_center=True, random_size=True),
        Resized(key, (size, size), mode="bilinear", anti_aliasing=False),
    ]


def _grey(image: torch.Tensor) -> torch.Tensor:
    weights = torch.tensor(GRAY_WEIGHTS).view(3, 1, 1)
    return (image * weights).sum(dim=0, keepdim=True).repeat(3, 1, 1)


def _images(number: int, channels: int, size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(number, channels, 8, 8, generator=generator)
    return torch.nn.functional.interpolate(coarse, (size, size), mode="bilinear")


def _equal_moments(
    views: BatchedViews, view: Callable[[torch.Tensor], Any], images: torch.Tensor, draws: int, limit: float
) -> str:
    """Mean and deviation of the views of both; equality draw by draw is a test of the package."""
    index = torch.arange(len(images))
    mine = torch.cat([views({"image": images, "index": index}, epoch)["view1"] for epoch in range(draws)])
    if isinstance(view, Compose):
        view.set_random_state(seed=0)
    theirs = torch.stack([torch.as_tensor(view(image)) for _ in range(draws) for image in images])
    torch.testing.assert_close(mine.mean(), theirs.mean(), rtol=0, atol=limit)
    torch.testing.assert_close(mine.std(), theirs.std(), rtol=0, atol=limit)
    return f"mean and deviation of the views, {limit}"
