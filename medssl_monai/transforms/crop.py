"""Random crop of any scale and aspect ratio, resized."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.data import MetaTensor
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import ensure_tuple_rep

from medssl_monai.transforms._image import BACKEND, check_pair, check_probability, unwrap

Mode = Literal["bilinear", "bicubic", "nearest-exact"]
TRIES = 10


class RandResizedCrop(RandomizableTransform):
    """Cut a random box and resize it (the Inception crop; SimCLR, Chen et al. 2020, appendix A).

    Of a volume (C, H, W, S) the same box of every slice is cut and resized in its plane; the slices stay apart.

    Sampling is torchvision's: area uniform in ``scale`` x the image's area, logarithm of the aspect ratio uniform in
    the logarithms of ``ratio``, position uniform; after ten boxes that do not fit, the largest centred box whose aspect
    ratio lies in ``ratio``. Where the box is larger than ``spatial_size`` the resizing is anti-aliased (not for
    ``nearest-exact``, which is for masks).

    Args:
        spatial_size: (height, width) of the result, or one number for both.
        scale: smallest and largest share of the image's area.
        ratio: smallest and largest aspect ratio, width / height (second spatial axis / first).
        mode: ``bilinear``, ``bicubic`` (clipped to the extremes of the box) or ``nearest-exact`` (any data type).
        prob: probability of a random box; else the whole image is resized, so that the result always has the same size.

    Raises:
        ValueError: for sizes that are not positive, a scale not within (0, 1], an unordered or non-positive range, an
            unknown mode, a prob outside [0, 1]; and when called with an image that is not (C, H, W) or (C, H, W, S), or
            not floating (other than in mode ``nearest-exact``).
    """

    backend = BACKEND

    def __init__(
        self,
        spatial_size: int | Sequence[int],
        scale: Sequence[float] = (0.08, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
        mode: Mode = "bilinear",
        prob: float = 1.0,
    ) -> None:
        super().__init__(check_probability(prob, "RandResizedCrop"))
        size = (spatial_size, spatial_size) if isinstance(spatial_size, int) else tuple(spatial_size)
        if len(size) != 2 or any(n < 1 for n in size):
            raise ValueError(f"RandResizedCrop: spatial_size must be one or two positive numbers, got {spatial_size}")
        self.spatial_size = (int(size[0]), int(size[1]))
        self.scale = _range("scale", scale, 1.0)
        self.ratio = _range("ratio", ratio, math.inf)
        if mode not in get_args(Mode):
            raise ValueError(f"RandResizedCrop: mode must be one of {', '.join(get_args(Mode))}, got {mode!r}")
        self.mode: Mode = mode
        self.box = (0, 0, 0, 0)

    def randomize(self, data: tuple[int, int]) -> None:
        """Draw a box (top, left, height, width) for an image of ``data`` = (H, W)."""
        super().randomize(None)
        self.box = self._draw(*data) if self._do_transform else (0, 0, *data)

    def __call__(self, image: NdarrayOrTensor, randomize: bool = True, mode: Mode | None = None) -> NdarrayOrTensor:
        """Return the resized box (C, *spatial_size[, S]); with ``randomize=False`` the last box is used again."""
        mode = self.mode if mode is None else mode
        tensor, restore = unwrap(image, "RandResizedCrop", dims=(3, 4), floating=mode != "nearest-exact")
        if randomize:
            self.randomize((tensor.shape[1], tensor.shape[2]))
        top, left, height, width = self.box
        crop = tensor[:, top : top + height, left : left + width]
        result = restore(resize(crop, self.spatial_size, mode))
        if isinstance(result, MetaTensor):
            result.affine = _moved_affine(result.affine, self.box, self.spatial_size)
        return result

    def _draw(self, height: int, width: int) -> tuple[int, int, int, int]:
        lowest, highest = self.ratio
        for _ in range(TRIES):
            area = height * width * self.R.uniform(*self.scale)
            aspect = math.exp(self.R.uniform(math.log(lowest), math.log(highest)))
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                return int(self.R.randint(height - h + 1)), int(self.R.randint(width - w + 1)), h, w
        w, h = width, height
        if width / height < lowest:
            h = max(1, round(width / lowest))
        elif width / height > highest:
            w = max(1, round(height * highest))
        return (height - h) // 2, (width - w) // 2, h, w


class RandResizedCropd(RandomizableTransform, MapTransform):
    """Dictionary form of :class:`RandResizedCrop`: one box for all keys, which must agree in height and width.

    Args:
        keys: keys of the images.
        spatial_size: as there.
        scale: as there.
        ratio: as there.
        mode: one for all keys, or one a key (``nearest-exact`` for masks).
        prob: as there.
        allow_missing_keys: leave out keys that are not there.

    Raises:
        ValueError: as there, and when the keys' images differ in size.
    """

    backend = BACKEND

    def __init__(
        self,
        keys: KeysCollection,
        spatial_size: int | Sequence[int],
        scale: Sequence[float] = (0.08, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
        mode: Mode | Sequence[Mode] = "bilinear",
        prob: float = 1.0,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, check_probability(prob, "RandResizedCropd"))
        self.modes: tuple[Mode, ...] = ensure_tuple_rep(mode, len(self.keys))
        for each in self.modes:
            self.transform = RandResizedCrop(spatial_size, scale, ratio, each, prob)

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> RandResizedCropd:
        """Seed the transform."""
        super().set_random_state(seed=seed, state=state)
        self.transform.set_random_state(seed=seed, state=state)
        return self

    def randomize(self, data: tuple[int, int]) -> None:
        """Draw one box for all keys."""
        self.transform.randomize(data)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with the same box of every key's image, resized."""
        result = dict(data)
        drawn: tuple[Hashable, tuple[int, ...]] | None = None
        for key, mode in self.key_iterator(result, self.modes):
            size = tuple(result[key].shape[1:])
            if drawn is None:
                drawn = (key, size)
                if len(size) in (2, 3):  # another number of dimensions is the array form's error
                    self.randomize((size[0], size[1]))
            elif size != drawn[1]:
                raise ValueError(
                    f"RandResizedCropd cuts one box of all keys, but {drawn[0]!r} has size {drawn[1]} and {key!r} has "
                    f"size {size}; resize them to one size first"
                )
            result[key] = self.transform(result[key], randomize=False, mode=mode)
        return result


def resize(image: torch.Tensor, size: tuple[int, int], mode: Mode) -> torch.Tensor:
    """Resize a plain tensor (C, H, W), or (C, H, W, S) slice by slice, anti-aliased where it shrinks.

    See :class:`RandResizedCrop`.
    """
    if image.dim() == 4:
        slices = resize(image.movedim(3, 1).flatten(0, 1), size, mode)
        return slices.reshape(image.shape[0], image.shape[3], *size).movedim(1, 3)
    batch = image.unsqueeze(0)
    if mode == "nearest-exact":
        resized = torch.nn.functional.interpolate(batch.to(torch.float64), size=size, mode=mode)
        return resized[0].to(image.dtype)
    resized = torch.nn.functional.interpolate(batch, size=size, mode=mode, align_corners=False, antialias=True)[0]
    return resized.clamp_(*torch.aminmax(image)) if mode == "bicubic" else resized


def _moved_affine(affine: torch.Tensor, box: tuple[int, int, int, int], size: tuple[int, int]) -> torch.Tensor:
    """The affine after cutting ``box`` and resizing to ``size``; pixel centres, first two axes."""
    change = torch.eye(affine.shape[-1], dtype=affine.dtype, device=affine.device)
    for axis in (0, 1):
        step = box[2 + axis] / size[axis]
        change[axis, axis] = step
        change[axis, -1] = box[axis] + (step - 1) / 2
    return affine @ change


def _range(name: str, values: Sequence[float], limit: float) -> tuple[float, float]:
    return check_range("RandResizedCrop", name, values, limit)


def check_range(who: str, name: str, values: Sequence[float], limit: float) -> tuple[float, float]:
    """Return a range of factors, (smallest, largest).

    Raises:
        ValueError: when they are not two finite numbers in order, above 0 and at most ``limit``.
    """
    above = f" and at most {limit:g}" if math.isfinite(limit) else ""
    expected = f"(smallest, largest), above 0{above}, in order"
    low, high = check_pair(values, who, name, expected)
    if not 0.0 < low <= high <= limit or math.isinf(high):
        raise ValueError(f"{who}: {name} must be {expected}; got {(low, high)}")
    return float(low), float(high)
