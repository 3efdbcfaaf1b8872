"""Two views of a batch, made at once, against the same chain image by image."""

from __future__ import annotations

import copy
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import Compose

from benchmarks.harness import Row, paired
from medssl_monai.transforms import BatchedViews, TwoViewsd, mr_views, rgb_views


def batched_views(tiny: bool = False) -> list[Row]:
    """MR (thesis table 4.3) and RGB (SimCLR) at 64 and 224 pixels on the CPU, and on a GPU where there is one."""
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    sizes = ((20, 16),) if tiny else ((64, 64), (256, 224))
    return [
        _row(what, builder(size), channels, stored, size, device, tiny)
        for what, builder, channels in (("MR", mr_views, 1), ("RGB", rgb_views, 3))
        for stored, size in sizes
        for device in devices
    ]


def _row(what: str, chain: Compose, channels: int, stored: int, size: int, device: str, tiny: bool) -> Row:
    number, repeats = (4, 1) if tiny else (64, 7)
    images = _images(number, channels, stored)
    views, peer = BatchedViews(chain), TwoViewsd("image", chain)
    equal = _equal_moments(views, chain, images[: 4 if tiny else 32], 2 if tiny else 16)
    batch = {"image": images.to(device), "index": torch.arange(number, device=device)}
    items = [{"image": MetaTensor(image)} for image in images[: max(1, number // 8)]]

    def ours() -> None:
        views(batch, 0)
        if device == "cuda":
            torch.cuda.synchronize()

    pairs = paired(ours, lambda: [peer(item) for item in items], repeats, number / len(items))
    label = f"{2 * number} {what} views of {size} pixels" + (" on the GPU" if device == "cuda" else "")
    goal: dict[str, Any] = {}
    if channels == 1:
        met = None if tiny else sorted(pairs.ratios)[repeats // 2] >= 10
        goal = {"goal": "10 times as fast", "met": met}
    return pairs.row("batched-views", label, "`TwoViewsd` of the same chain", equal, **goal)


def _images(number: int, channels: int, size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(number, channels, 8, 8, generator=generator)
    return torch.nn.functional.interpolate(coarse, (size, size), mode="bilinear")


def _equal_moments(views: BatchedViews, chain: Compose, images: torch.Tensor, draws: int) -> str:
    """Mean and deviation of the views of both; equality draw by draw is a test of the package."""
    index = torch.arange(len(images))
    mine = torch.cat([views({"image": images, "index": index}, epoch)["view1"] for epoch in range(draws)])
    alone = copy.deepcopy(chain).set_random_state(seed=0)
    theirs = torch.stack([torch.as_tensor(alone(image)) for _ in range(draws) for image in images])
    limit = 0.03 if len(mine) > 100 else 0.5
    torch.testing.assert_close(mine.mean(), theirs.mean(), rtol=0, atol=limit)
    torch.testing.assert_close(mine.std(), theirs.std(), rtol=0, atol=limit)
    return f"mean and deviation of the views, {limit}"
