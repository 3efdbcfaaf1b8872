"""What the batched operations share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from medssl_monai.transforms.batched.draws import Draws

Params = dict[str, Tensor]
Size = tuple[int, int]
_LARGE = 2**14  # values


class BatchedOperation:
    """A random array transform, done to a batch with parameters of its own for every image.

    ``draw`` gives the parameters, with the distribution that the array transform's ``randomize`` has; ``apply`` does
    what its ``__call__`` does with ``randomize=False``. It may write into its input, unless ``reads_only`` says that
    it never does.

    Args:
        transform: the array transform whose settings are taken.
        name: what tells the operation's random numbers apart from those of the others.

    Raises:
        ValueError: when the transform has settings that the batched form lacks.
    """

    kind: ClassVar[type]
    reads_only: ClassVar[bool] = False

    def __init__(self, transform: Any, name: str) -> None:
        self.name = name
        self.prob = float(getattr(transform, "prob", 1.0))

    def out_size(self, size: Size) -> Size:
        """(H, W) of the result for images of ``size``."""
        return size

    def draw(self, draws: Draws, size: Size, channels: int) -> Params:
        """Parameters of each image: tensors whose first axis is the batch."""
        params = self.parameters(draws, size, channels)
        if self.prob < 1.0:
            params["on"] = self.uniform(draws, "on")[:, 0] < self.prob
        return params

    def __call__(self, images: Tensor, params: Params) -> Tensor:
        """Change the images (N, C, H, W), or those of them that were drawn to be changed."""
        on = params.get("on")
        if on is None:
            return self.apply(images, params)
        if not self.selects(images):  # no waiting for the device to say which
            return torch.where(on.view(-1, 1, 1, 1), self.apply(images.clone(), params), images)
        return apply_to(on, images, params, self.apply)

    @staticmethod
    def selects(images: Tensor) -> bool:
        """Whether to pick out the images that need a step: saves work on a CPU, elsewhere waits for the device."""
        return images.device.type == "cpu"

    def uniform(self, draws: Draws, purpose: str, count: int = 1) -> Tensor:
        """Uniform numbers of this operation, float64, shape (N, count)."""
        return draws.uniform(f"{self.name}:{purpose}", count)

    def parameters(self, draws: Draws, size: Size, channels: int) -> Params:
        """Parameters of each image, when it is changed."""
        raise NotImplementedError

    def apply(self, images: Tensor, params: Params) -> Tensor:
        """Change all images."""
        raise NotImplementedError


def apply_to(on: Tensor, images: Tensor, params: Params, function: Callable[[Tensor, Params], Tensor]) -> Tensor:
    """Change the images with ``on`` (N,) only, in place where that is not all; ``function`` must keep the size."""
    chosen = on.nonzero()[:, 0]
    if not len(chosen):
        return images
    if len(chosen) == len(images):
        return function(images, params)
    if images.device.type == "cpu" and is_large(images):  # gathering and putting back would cost more
        for i in chosen.tolist():
            one = slice(i, i + 1)
            images[one] = function(images[one], {name: value[one] for name, value in params.items()})
        return images
    changed = function(images[chosen], {name: value[chosen] for name, value in params.items()})
    return images.index_copy_(0, chosen, changed)


def is_large(images: Tensor) -> bool:
    """Whether one pass over one image (C, H, W) of these takes longer than to start it: then one image at a time."""
    return images[0].numel() >= _LARGE


def column(value: Tensor, images: Tensor) -> Tensor:
    """Numbers a sample (N,) in a shape and type that multiply images (N, C, H, W)."""
    return value.to(images.dtype).view(-1, 1, 1, 1)


def between(uniform: Tensor, low: float, high: float) -> Tensor:
    """Uniform in [low, high) from uniform in [0, 1)."""
    return uniform * (high - low) + low


def integer_below(uniform: Tensor, count: Tensor | int) -> Tensor:
    """Integers uniform in [0, count) from uniform numbers in [0, 1); int64."""
    return torch.floor(uniform * count).to(torch.int64)


def refuse(transform: Any, setting: str, found: object, wanted: str) -> ValueError:
    """The error of a setting without a batched form."""
    return ValueError(
        f"BatchedViews: {type(transform).__name__} with {setting}={found!r} has no batched form, it needs {wanted}; "
        "use TwoViewsd for this chain"
    )
