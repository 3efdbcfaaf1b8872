"""Blur, holes, noise and range of a batch."""

from __future__ import annotations

import math

import torch
from monai.transforms import RandCoarseDropout, RandGaussianNoise, ScaleIntensityRange
from torch import Tensor

from medssl_monai.transforms.batched.draws import Draws, normal_field
from medssl_monai.transforms.batched.operation import (
    BatchedOperation,
    Params,
    Size,
    between,
    column,
    integer_below,
    is_large,
    refuse,
)
from medssl_monai.transforms.blur import RandGaussianBlur, check_blur_size, gaussian_taps

_FEW_TAPS = 7
_REACH = 5.5  # sigmas: the taps beyond weigh 4e-8 together, less than float32 rounds (6e-8)


class BatchedGaussianBlur(BatchedOperation):
    """:class:`RandGaussianBlur`: ``sigma`` (N,) float64, pixels."""

    kind = RandGaussianBlur

    def __init__(self, transform: RandGaussianBlur, name: str) -> None:
        super().__init__(transform, name)
        self.taps, self.sigma = transform.kernel_size, transform.sigma

    def parameters(self, draws: Draws, size: Size, channels: int) -> Params:
        """Sigmas."""
        check_blur_size(self.taps, size)
        return {"sigma": between(self.uniform(draws, "sigma")[:, 0], *self.sigma)}

    def apply(self, images: Tensor, params: Params) -> Tensor:
        """Blur along one axis, then the other, each image with its own kernel."""
        weights, radius = gaussian_taps(params["sigma"], self.taps).to(images.dtype), self.taps // 2
        selects = self.selects(images)
        if selects and self.taps > _FEW_TAPS and is_large(images):
            result = torch.empty_like(images)
            for i, (sigma, taps) in enumerate(zip(params["sigma"].tolist(), weights.tolist(), strict=True)):
                spare = _spare(radius, sigma)
                result[i] = _blurred(images[i : i + 1], taps[spare : self.taps - spare])
            return result
        if selects:
            spare = _spare(radius, float(params["sigma"].max()))
            weights, radius = weights[:, spare : self.taps - spare], radius - spare
        padded = torch.nn.functional.pad(images, (radius,) * 4, mode="reflect")
        if selects or self.taps <= _FEW_TAPS:  # shifted sums cost less there
            return _shifted_sum(_shifted_sum(padded, weights, 2), weights, 3)
        n, c, h, w = padded.shape
        kernels = weights.repeat_interleave(c, dim=0).view(n * c, 1, -1, 1)
        columns = torch.nn.functional.conv2d(padded.view(1, n * c, h, w), kernels, groups=n * c)
        return torch.nn.functional.conv2d(columns, kernels.transpose(2, 3), groups=n * c).view(images.shape)


def _spare(radius: int, sigma: float) -> int:
    """Number of taps at each end that are not worth their time."""
    return max(0, radius - math.ceil(_REACH * sigma))


def _blurred(image: Tensor, taps: list[float]) -> Tensor:
    """Blur (1, C, H, W) with one kernel, by sums of its shifted memory.

    Shifting the memory of the padded image instead of the image itself keeps every sum one contiguous pass. What runs
    over the ends of rows and channels falls into the padding, which is left out at last.
    """
    radius = len(taps) // 2
    padded = torch.nn.functional.pad(image, (radius,) * 4, mode="reflect").contiguous()
    channels, height, width = padded.shape[1:]
    memory = padded.view(-1)
    for step in (width, 1):
        length = len(memory) - 2 * radius * step
        total = memory.narrow(0, radius * step, length) * taps[radius]
        for k, weight in enumerate(taps):
            if k != radius:
                total.add_(memory.narrow(0, k * step, length), alpha=weight)
        memory = total
    return memory.as_strided((channels, *image.shape[2:]), (height * width, width, 1))


def _shifted_sum(images: Tensor, weights: Tensor, axis: int) -> Tensor:
    """Correlate ``axis`` with symmetric ``weights`` (N, K), without padding."""
    radius = weights.shape[1] // 2
    length = images.shape[axis] - 2 * radius
    result = images.narrow(axis, radius, length) * weights[:, radius].view(-1, 1, 1, 1)
    for k in range(radius):
        both = images.narrow(axis, k, length) + images.narrow(axis, 2 * radius - k, length)
        result.addcmul_(both, weights[:, k].view(-1, 1, 1, 1))
    return result


class BatchedCoarseDropout(BatchedOperation):
    """MONAI's ``RandCoarseDropout`` with one fill value: ``holes`` (N, K, 4) int64, top, left, height, width.

    Holes that an image has fewer of than K have height and width 0.
    """

    kind = RandCoarseDropout

    def __init__(self, transform: RandCoarseDropout, name: str) -> None:
        super().__init__(transform, name)
        if not transform.dropout_holes:
            raise refuse(transform, "dropout_holes", False, "True")
        if not isinstance(transform.fill_value, (int, float)):
            raise refuse(transform, "fill_value", transform.fill_value, "one number")
        if transform.max_spatial_size is not None:
            raise refuse(transform, "max_spatial_size", transform.max_spatial_size, "None: holes of one size")
        self.fewest, self.most = transform.holes, max(transform.holes, transform.max_holes or transform.holes)
        hole = transform.spatial_size
        self.hole = (hole, hole) if isinstance(hole, int) else tuple(hole)
        self.fill = float(transform.fill_value)

    def parameters(self, draws: Draws, size: Size, channels: int) -> Params:
        """Holes that lie inside the image; a side that is not positive, or too long, is the image's."""
        hole = [min(side, limit) if side > 0 else limit for side, limit in zip(self.hole, size, strict=True)]
        count = self.fewest + integer_below(self.uniform(draws, "count"), self.most - self.fewest + 1)
        place = self.uniform(draws, "place", 2 * self.most).view(-1, self.most, 2)
        corner = integer_below(place, torch.tensor([s - n + 1 for s, n in zip(size, hole)], device=place.device))
        there = torch.arange(self.most, device=place.device) < count
        sides = torch.tensor(hole, device=place.device) * there.unsqueeze(2)
        return {"holes": torch.cat([corner, sides], dim=2)}

    def apply(self, images: Tensor, params: Params) -> Tensor:
        """Fill the holes."""
        if self.selects(images):
            # NumPy's view of the same memory: filling a part of it starts ten times as fast as torch's
            for image, holes in zip(images.numpy(), params["holes"].tolist(), strict=True):
                for top, left, height, width in holes:
                    image[:, top : top + height, left : left + width] = self.fill
            return images
        corner, side = params["holes"][..., :2], params["holes"][..., 2:]
        rows, columns = (_within(images.shape[2 + axis], corner[..., axis], side[..., axis]) for axis in (0, 1))
        holes = (rows.unsqueeze(3) & columns.unsqueeze(2)).any(dim=1, keepdim=True)
        return images.masked_fill_(holes, self.fill)


def _within(length: int, start: Tensor, count: Tensor) -> Tensor:
    """(N, K, length): whether a place lies in the ``count`` (N, K) from ``start`` (N, K) on."""
    place = torch.arange(length, device=start.device) - start.unsqueeze(2)
    return (place >= 0) & (place < count.unsqueeze(2))


class BatchedGaussianNoise(BatchedOperation):
    """MONAI's ``RandGaussianNoise``: ``std`` (N,) float64 and ``key`` (N,) int64, the noise's random bits."""

    kind = RandGaussianNoise

    def __init__(self, transform: RandGaussianNoise, name: str) -> None:
        super().__init__(transform, name)
        self.mean, self.std, self.sample_std = float(transform.mean), float(transform.std), transform.sample_std

    def parameters(self, draws: Draws, size: Size, channels: int) -> Params:
        """Deviations, and the keys of the noise."""
        uniform = self.uniform(draws, "std")[:, 0]
        std = between(uniform, 0.0, self.std) if self.sample_std else torch.full_like(uniform, self.std)
        return {"std": std, "key": draws.key(f"{self.name}:noise")}

    def apply(self, images: Tensor, params: Params) -> Tensor:
        """Add the noise."""
        noise = normal_field(params["key"], tuple(images.shape[1:])).to(images.dtype)
        noise *= column(params["std"], images)
        images += noise
        return images.add_(self.mean) if self.mean else images


class BatchedRange(BatchedOperation):
    """MONAI's ``ScaleIntensityRange``, which has no randomness."""

    kind = ScaleIntensityRange

    def __init__(self, transform: ScaleIntensityRange, name: str) -> None:
        super().__init__(transform, name)
        if transform.a_max == transform.a_min or transform.b_min is None or transform.b_max is None:
            raise refuse(transform, "b_min, b_max", (transform.b_min, transform.b_max), "two ranges, not empty")
        self.factor = (transform.b_max - transform.b_min) / (transform.a_max - transform.a_min)
        self.shift = transform.b_min - transform.a_min * self.factor
        self.clip = (transform.b_min, transform.b_max) if transform.clip else None

    def parameters(self, draws: Draws, size: Size, channels: int) -> Params:
        """None."""
        return {}

    def apply(self, images: Tensor, params: Params) -> Tensor:
        """Scale, and clip where asked for."""
        if (self.factor, self.shift) != (1.0, 0.0):
            images.mul_(self.factor).add_(self.shift)
        return images if self.clip is None else images.clamp_(*self.clip)
