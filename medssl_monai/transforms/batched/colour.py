"""Colour changes of a batch."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from medssl_monai.transforms.batched.draws import Draws
from medssl_monai.transforms.batched.operation import BatchedOperation, Params, Size, apply_to, column, is_large
from medssl_monai.transforms.color import GRAY_WEIGHTS, OPERATIONS, RandColorJitter, RandGrayscale

_CONTRAST, _SATURATION, _HUE = (OPERATIONS.index(name) for name in ("contrast", "saturation", "hue"))


class BatchedColorJitter(BatchedOperation):
    """:class:`RandColorJitter`: ``order`` (N, K) int64, places in ``OPERATIONS``, and ``factor`` (N, K).

    K counts the operations whose strength is not 0, of those that the images' channels have.
    """

    kind = RandColorJitter

    def __init__(self, transform: RandColorJitter, name: str) -> None:
        super().__init__(transform, name)
        self.strengths = [transform.strengths[operation] for operation in OPERATIONS]

    def parameters(self, draws: Draws, size: Size, channels: int) -> Params:
        """Orders and factors."""
        colour = channels == 3
        wanted = [i for i, s in enumerate(self.strengths) if s > 0.0 and (colour or i not in (_SATURATION, _HUE))]
        order = torch.tensor(wanted, dtype=torch.int64, device=draws.keys.device)[
            self.uniform(draws, "order", len(wanted)).argsort(dim=1)
        ]
        ranges = [(-s, s) if i == _HUE else (max(0.0, 1.0 - s), 1.0 + s) for i, s in enumerate(self.strengths)]
        low, high = torch.tensor(ranges, dtype=torch.float64, device=order.device)[order].unbind(dim=2)
        return {"order": order, "factor": self.uniform(draws, "factor", len(wanted)) * (high - low) + low}

    def apply(self, images: Tensor, params: Params) -> Tensor:
        """One operation of each image after the other."""
        order, factor = params["order"], params["factor"]
        if self.selects(images) and images.shape[1] == 3 and is_large(images):
            for i, steps in enumerate(zip(order.tolist(), factor.tolist(), strict=True)):
                for place, by in zip(*steps, strict=True):
                    _adjust_(OPERATIONS[place], images[i : i + 1], by)
            return images
        for place in range(order.shape[1]):
            if images.shape[1] == 3 and self.selects(images):
                images = _each_its_own(images, order[:, place], factor[:, place])
            else:
                images = _all_alike(images, order[:, place], factor[:, place], self.strengths[_HUE] > 0.0)
        return images


def _each_its_own(images: Tensor, operation: Tensor, factor: Tensor) -> Tensor:
    """Colour images grouped by their operation: nothing is computed that no image needs."""
    for number, name in enumerate(OPERATIONS):
        images = apply_to(operation == number, images, {"factor": factor}, partial(_adjust, name))
    return images


def _adjust(name: str, images: Tensor, params: Params) -> Tensor:
    return _adjust_(name, images, column(params["factor"], images))


def _adjust_(name: str, images: Tensor, factor: Tensor | float) -> Tensor:
    """One operation, in place; ``factor`` is one number, or one an image (N, 1, 1, 1)."""
    if name == "hue":
        return turn_hue_(images, factor)
    if name == "contrast":  # the mean of the gray image is the gray of the channels' means
        means = images.mean(dim=(2, 3), keepdim=True)
        gray = gray_image(means) if images.shape[1] == 3 else means.mean(dim=1, keepdim=True)
    elif name == "saturation":
        gray = gray_image(images)
    images *= factor
    if name != "brightness":
        gray *= 1.0 - factor
        images += gray
    return images.clamp_(0.0, 1.0)


def _all_alike(images: Tensor, operation: Tensor, factor: Tensor, hue: bool) -> Tensor:
    """The same arithmetic for all images, without asking the device which needs what.

    Brightness, contrast and saturation are f x image + (1 - f) x (black, mean of the gray image, gray image).
    """
    colour, turned = images.shape[1] == 3, operation == _HUE
    weight = torch.where(turned, 1.0, factor)
    gray = gray_image(images) if colour else images
    mean = gray.mean(dim=(1, 2, 3), keepdim=True)
    if colour and hue:
        images = torch.where(turned.view(-1, 1, 1, 1), turn_hue_(images.clone(), column(factor, images)), images)
    images *= column(weight, images)
    images += mean * column((1.0 - weight) * (operation == _CONTRAST), images)
    if colour:
        images += gray * column((1.0 - weight) * (operation == _SATURATION), images)
    return images.clamp_(0.0, 1.0)


class BatchedGrayscale(BatchedOperation):
    """:class:`RandGrayscale`."""

    kind = RandGrayscale

    def parameters(self, draws: Draws, size: Size, channels: int) -> Params:
        """None."""
        return {}

    def apply(self, images: Tensor, params: Params) -> Tensor:
        """Gray in all three channels; images without colour stay."""
        return gray_image(images).repeat(1, 3, 1, 1) if images.shape[1] == 3 else images


def gray_image(images: Tensor) -> Tensor:
    """Gray images (N, 1, H, W) of colour images (N, 3, H, W)."""
    red, green, blue = GRAY_WEIGHTS
    gray = (images[:, 0] * red).add_(images[:, 1], alpha=green).add_(images[:, 2], alpha=blue)
    return gray.unsqueeze(1)


def turn_hue_(images: Tensor, turns: Tensor | float) -> Tensor:
    """Move the hue of (N, 3, H, W) in place by ``turns``, one number or one an image (N, 1, 1, 1).

    With value, low and chroma = value - low fixed, a channel is low + chroma x clip(||d| - 3| - 1, 0, 1) where d is the
    distance of the hue from the channel's own (0, 2, -2 sextants), within a whole turn. The distance of the hue h from
    red, |h|, is 1 + (green + blue - red - low) / chroma whichever channel is largest: no case has to be told apart.
    """
    red, green, blue = (images[:, i : i + 1] for i in range(3))
    # not aminmax, which takes twenty times as long over an axis that is not the last
    low = images.amin(dim=1, keepdim=True)
    chroma = images.amax(dim=1, keepdim=True) - low
    hue = (green + blue).sub_(red).sub_(low).div_(chroma.clamp(min=torch.finfo(images.dtype).tiny)).add_(1.0)
    hue = hue.copysign_(green - blue).add_(6.0 * turns)
    hue.sub_((hue / 6.0).round_(), alpha=6.0)
    for channel, own in ((red, 0.0), (green, 2.0), (blue, -2.0)):
        torch.sub(hue, own, out=channel)
    images.abs_().sub_(3.0).abs_().sub_(1.0).clamp_(0.0, 1.0)
    return images.mul_(chroma).add_(low).clamp_(0.0, 1.0)
