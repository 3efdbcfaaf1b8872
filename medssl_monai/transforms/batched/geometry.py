"""Crop, flip and rotation of a batch."""

from __future__ import annotations

import math

import torch
from monai.transforms import RandFlip, RandRotate
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate

from medssl_monai.transforms.batched.draws import Draws
from medssl_monai.transforms.batched.operation import (
    BatchedOperation,
    Params,
    Size,
    between,
    integer_below,
    refuse,
)
from medssl_monai.transforms.crop import TRIES, RandResizedCrop


class BatchedResizedCrop(BatchedOperation):
    """:class:`RandResizedCrop`, bilinear: ``box`` (N, 4) int64, top, left, height, width."""

    kind = RandResizedCrop
    reads_only = True

    def __init__(self, transform: RandResizedCrop, name: str) -> None:
        super().__init__(transform, name)
        if transform.mode != "bilinear":
            raise refuse(transform, "mode", transform.mode, "'bilinear'")
        self.size, self.scale, self.ratio = transform.spatial_size, transform.scale, transform.ratio

    def out_size(self, size: Size) -> Size:
        """The crop's size."""
        return self.size

    def draw(self, draws: Draws, size: Size, channels: int) -> Params:
        """A box for each image; the whole image where none is cut, because the size must change anyway."""
        box = self._boxes(draws, *size)
        if self.prob < 1.0:
            on = self.uniform(draws, "on") < self.prob
            box = torch.where(on, box, torch.tensor([0, 0, *size], device=box.device))
        return {"box": box}

    def _boxes(self, draws: Draws, height: int, width: int) -> Tensor:
        """All tries at once; of each image the first that fits, else the centred box."""
        (lowest, highest), image = self.ratio, float(height * width)
        area = between(self.uniform(draws, "area", TRIES), *self.scale) * image
        aspect = torch.exp(between(self.uniform(draws, "aspect", TRIES), math.log(lowest), math.log(highest)))
        w, h = torch.round(torch.sqrt(area * aspect)), torch.round(torch.sqrt(area / aspect))
        fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
        first = fits.to(torch.int8).argmax(dim=1, keepdim=True)
        w, h = w.gather(1, first)[:, 0], h.gather(1, first)[:, 0]
        place = self.uniform(draws, "place", 2)
        top, left = integer_below(place[:, 0], height - h + 1), integer_below(place[:, 1], width - w + 1)
        boxes = torch.stack([top, left, h.to(torch.int64), w.to(torch.int64)], dim=1)
        w_last, h_last = width, height
        if width / height < lowest:
            h_last = max(1, round(width / lowest))
        elif width / height > highest:
            w_last = max(1, round(height * highest))
        centred = [(height - h_last) // 2, (width - w_last) // 2, h_last, w_last]
        return torch.where(fits.any(dim=1, keepdim=True), boxes, torch.tensor(centred, device=boxes.device))

    def __call__(self, images: Tensor, params: Params) -> Tensor:
        """Cut and resize; every image gets another size, so that there is none to leave alone."""
        return self.apply(images, params)

    def apply(self, images: Tensor, params: Params) -> Tensor:
        """Cut and resize the boxes: one by one on a CPU, elsewhere as two batched matrix products."""
        if not self.selects(images):
            return resize_boxes(images, params["box"], self.size)
        result = images.new_empty(len(images), images.shape[1], *self.size)
        for i, (top, left, height, width) in enumerate(params["box"].tolist()):
            # channels as images of their own: torch's kernel takes half the time for three that way
            crop = images[i, :, top : top + height, left : left + width].unsqueeze(1)
            # where nothing shrinks there is nothing to anti-alias, and the plain kernel takes half the time
            shrinks = height > self.size[0] or width > self.size[1]
            result[i] = interpolate(crop, self.size, mode="bilinear", align_corners=False, antialias=shrinks)[:, 0]
        return result


def resize_boxes(images: Tensor, box: Tensor, size: Size) -> Tensor:
    """Resize ``box`` (N, 4) of images (N, C, H, W) with the weights of torch's anti-aliased bilinear resizing."""
    rows = _weights(images.shape[2], size[0], box[:, 0], box[:, 2], images.dtype)
    columns = _weights(images.shape[3], size[1], box[:, 1], box[:, 3], images.dtype)
    return rows.unsqueeze(1) @ images @ columns.transpose(1, 2).unsqueeze(1)


def _weights(length: int, out: int, start: Tensor, count: Tensor, dtype: torch.dtype) -> Tensor:
    """(N, out, length): a triangle around each new pixel's centre, as wide as the step where that is above 1."""
    step = (count.to(dtype) / out).view(-1, 1, 1)
    centre = step * (torch.arange(out, dtype=dtype, device=start.device) + 0.5).view(1, -1, 1)
    pixel = torch.arange(length, device=start.device).view(1, 1, -1) - start.view(-1, 1, 1)
    inside = (pixel >= 0) & (pixel < count.view(-1, 1, 1))
    weights = (1.0 - (pixel.to(dtype) + 0.5 - centre).abs_() / step.clamp(min=1.0)).clamp_(min=0.0) * inside
    return weights / weights.sum(dim=2, keepdim=True)


class BatchedFlip(BatchedOperation):
    """MONAI's ``RandFlip``."""

    kind = RandFlip

    def __init__(self, transform: RandFlip, name: str) -> None:
        super().__init__(transform, name)
        axis = transform.flipper.spatial_axis
        axes = (0, 1) if axis is None else (axis,) if isinstance(axis, int) else tuple(axis)
        if any(a not in (-2, -1, 0, 1) for a in axes):
            raise refuse(transform, "spatial_axis", axis, "0, 1 or both")
        self.axes = sorted({2 + a % 2 for a in axes})

    def parameters(self, draws: Draws, size: Size, channels: int) -> Params:
        """None."""
        return {}

    def apply(self, images: Tensor, params: Params) -> Tensor:
        """Flip all."""
        return images.flip(self.axes)


class BatchedRotation(BatchedOperation):
    """MONAI's ``RandRotate``, bilinear, in the plane: ``angle`` (N,) float64, radians."""

    kind = RandRotate

    def __init__(self, transform: RandRotate, name: str) -> None:
        super().__init__(transform, name)
        if str(transform.mode) != "bilinear":
            raise refuse(transform, "mode", str(transform.mode), "'bilinear'")
        if str(transform.padding_mode) not in ("zeros", "border"):
            raise refuse(transform, "padding_mode", str(transform.padding_mode), "'zeros' or 'border'")
        if not transform.keep_size:
            raise refuse(transform, "keep_size", False, "True: the views of a batch have one size")
        self.range, self.padding = transform.range_x, str(transform.padding_mode)

    def parameters(self, draws: Draws, size: Size, channels: int) -> Params:
        """Angles."""
        return {"angle": between(self.uniform(draws, "angle")[:, 0], *self.range)}

    def apply(self, images: Tensor, params: Params) -> Tensor:
        """Rotate about the middle; the pixel (i, j) comes from angle's rotation of it, as in MONAI."""
        height, width = images.shape[2:]
        angle = params["angle"].to(images.dtype).view(-1, 1, 1)
        cos, sin = torch.cos(angle), torch.sin(angle)
        i = torch.arange(height, dtype=images.dtype, device=images.device).sub_((height - 1) / 2).view(1, -1, 1)
        j = torch.arange(width, dtype=images.dtype, device=images.device).sub_((width - 1) / 2).view(1, 1, -1)
        # in units of half the image, pixel edges at -1 and 1 (align_corners=False), x before y
        grid = images.new_empty(len(images), 2, height, width)
        torch.add(sin * i * (2 / width), cos * j * (2 / width), out=grid[:, 0])
        torch.add(cos * i * (2 / height), -sin * j * (2 / height), out=grid[:, 1])
        return grid_sample(images, grid.permute(0, 2, 3, 1), padding_mode=self.padding, align_corners=False)
