"""Two random views of every image of a batch, on the batch's device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import Compose
from torch import Tensor

from medssl_monai.transforms.batched.colour import BatchedColorJitter, BatchedGrayscale
from medssl_monai.transforms.batched.draws import Draws
from medssl_monai.transforms.batched.geometry import BatchedFlip, BatchedResizedCrop, BatchedRotation
from medssl_monai.transforms.batched.intensity import (
    BatchedCoarseDropout,
    BatchedGaussianBlur,
    BatchedGaussianNoise,
    BatchedRange,
)
from medssl_monai.transforms.batched.operation import BatchedOperation, Params

OPERATIONS: dict[type, type[BatchedOperation]] = {
    operation.kind: operation
    for operation in (
        BatchedResizedCrop,
        BatchedFlip,
        BatchedRotation,
        BatchedGaussianBlur,
        BatchedCoarseDropout,
        BatchedColorJitter,
        BatchedGrayscale,
        BatchedGaussianNoise,
        BatchedRange,
    )
}
_CHUNK = 2**19  # values of a chunk on a CPU, so that it stays in its cache


class BatchedViews:
    """The batched form of :class:`TwoViewsd`: ``views(batch, epoch)`` makes two views of every image of a batch.

    It takes the very chain of array transforms that :class:`TwoViewsd` takes (:func:`mr_views`, :func:`rgb_views`, or
    a ``Compose`` of their transforms), so that both draw from one distribution: the same parameters are drawn from the
    same ranges, and the same parameters give the same image to rounding. What differs is the source of the numbers:
    here they are hashes of (seed, epoch, sample index, view), computed in tensors. Views depend on nothing else, not on
    which samples share a batch, nor on the device (images agree to float32 rounding).

    Resizing and rotating are two interpolations, as in the array chain. Arithmetic is float32 (float64 for float64
    images), also under autocast; the views have the images' type.

    Args:
        transform: the chain for one image; its random state is not used.
        seed: the run's seed.
        image_key: key of the images: (N, C, H, W), floating, in [0, 1], all of one size.
        index_key: key of the samples' numbers: (N,), integers; see ``index_key`` of :class:`SeededCacheDataset`.
        names: keys of the two views.
        drop: remove the images from the batch.

    Raises:
        ValueError: when the chain holds a transform, or a setting, without a batched form; for names that are equal;
            and when called with a batch that lacks a key, or has images or indices of another shape or type.
    """

    def __init__(
        self,
        transform: Compose,
        seed: int = 0,
        image_key: str = "image",
        index_key: str = "index",
        names: Sequence[str] = ("view1", "view2"),
        drop: bool = True,
    ) -> None:
        if isinstance(names, str) or len(names) != 2 or names[0] == names[1]:
            raise ValueError(f"BatchedViews needs two different names for its views, got {names!r}")
        self.names = (str(names[0]), str(names[1]))
        self.seed, self.image_key, self.index_key, self.drop = seed, image_key, index_key, drop
        self.operations = batched_operations(transform)

    @torch.no_grad()
    def __call__(self, batch: Mapping[str, Any], epoch: int) -> dict[str, Any]:
        """Return a copy of ``batch`` with the views, (N, C, h, w), and without the images where ``drop`` is set."""
        images, index = self._inputs(batch)
        result = dict(batch)
        with torch.autocast(images.device.type, enabled=False):
            for view, name in enumerate(self.names):
                params = self.draw(images, index, epoch, view)
                result[name] = self.apply(images, params)
        if self.drop:
            del result[self.image_key]
        return result

    def draw(self, images: Tensor, index: Tensor, epoch: int, view: int) -> list[Params]:
        """Parameters of one view of each image, one mapping an operation; the batch is their first axis."""
        draws = Draws(index.to(images.device), self.seed, epoch, view, "view")
        size, params = (images.shape[2], images.shape[3]), []
        for operation in self.operations:
            params.append(operation.draw(draws, size, images.shape[1]))
            size = operation.out_size(size)
        return params

    def apply(self, images: Tensor, params: Sequence[Params]) -> Tensor:
        """Views (N, C, h, w) of images (N, C, H, W) with these parameters, in the images' type."""
        if images.device.type != "cpu":
            return self._chain(images, params)
        # Each operation passes over its input anew: a chunk that stays in the cache is read from memory once. Buffers
        # beyond about a megabyte would moreover be given back to the system, and be mapped anew, by every operation.
        sizes = self._sizes(images)
        length = max(1, torch.get_num_threads() * _CHUNK // (images.shape[1] * max(h * w for h, w in sizes)))
        views = images.new_empty(*images.shape[:2], *sizes[-1])
        for i in range(0, len(images), length):
            chunk = slice(i, i + length)
            views[chunk] = self._chain(images[chunk], [{name: p[name][chunk] for name in p} for p in params])
        return views

    def _chain(self, images: Tensor, params: Sequence[Params]) -> Tensor:
        dtype = torch.float64 if images.dtype == torch.float64 else torch.float32
        views = images.to(dtype, copy=not self.operations[0].reads_only)  # the caller's images stay as they are
        for operation, own in zip(self.operations, params, strict=True):
            views = operation(views, own)
        return views.to(images.dtype).contiguous()

    def _sizes(self, images: Tensor) -> list[tuple[int, int]]:
        sizes = [(images.shape[2], images.shape[3])]
        for operation in self.operations:
            sizes.append(operation.out_size(sizes[-1]))
        return sizes

    def _inputs(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        for key, advice in (
            (self.image_key, "it holds the images before augmentation"),
            (self.index_key, f"set index_key={self.index_key!r} on the dataset, which then numbers its samples"),
        ):
            if key not in batch:
                raise ValueError(f"BatchedViews: the batch has no {key!r} (it has {sorted(batch)}); {advice}")
        images, index = batch[self.image_key], batch[self.index_key]
        if not isinstance(images, Tensor) or images.ndim != 4 or not images.is_floating_point() or not images.numel():
            raise ValueError(
                f"BatchedViews needs floating images of shape (N, C, H, W) in {self.image_key!r}, got {_what(images)}"
            )
        index = torch.as_tensor(index)
        if index.shape != images.shape[:1] or index.is_floating_point() or index.dtype == torch.bool:
            raise ValueError(
                f"BatchedViews needs an integer for each of the {len(images)} images in {self.index_key!r}, got "
                f"{_what(index)}"
            )
        return (images.as_tensor() if isinstance(images, MetaTensor) else images), index


def batched_operations(transform: Compose) -> list[BatchedOperation]:
    """The batched forms of a chain's transforms.

    Raises:
        ValueError: when there is none for one of them.
    """
    if not isinstance(transform, Compose) or not transform.transforms:
        raise ValueError(f"BatchedViews needs a Compose of array transforms, got {type(transform).__name__}")
    operations = []
    for place, step in enumerate(transform.flatten().transforms):  # type: ignore[no-untyped-call]
        form = OPERATIONS.get(type(step))
        if form is None:
            known = ", ".join(sorted(kind.__name__ for kind in OPERATIONS))
            raise ValueError(
                f"BatchedViews: {type(step).__name__} has no batched form, only {known} have; use TwoViewsd for this "
                "chain"
            )
        operations.append(form(step, str(place)))
    return operations


def _what(value: Any) -> str:
    return f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
