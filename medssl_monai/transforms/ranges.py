"""Bring images of any data type and channel count to what a network takes: [0, 1] and ``in_channels``."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.transforms import MapTransform, Transform

from medssl_monai.transforms._image import BACKEND, named, unwrap


class ToUnitRange(Transform):
    """Make an image float32 in [0, 1], by its data type.

    - ``uint8``: divided by 255; ``bool``: 0 and 1.
    - floating, already within [0, 1]: left as it is (converted to float32).
    - every other (16-bit and wider integers, floating values outside [0, 1]): minimum and maximum of this image, over
      all its channels, become 0 and 1; an image of one value becomes 0.

    A reader that converts bytes to float (``LoadImage`` by default) hides that they were bytes: such an image gets the
    last rule. Read with ``dtype=None`` to keep 8-bit images comparable with each other.

    Channel-first images with any number of spatial axes.

    Raises:
        ValueError: when called with an image that holds NaN or infinite values, or is empty.
    """

    backend = BACKEND

    def __call__(self, image: NdarrayOrTensor) -> NdarrayOrTensor:
        """Return the image as float32 in [0, 1], in the container it came in."""
        tensor, restore = unwrap(image, "ToUnitRange", dims=None, floating=False)
        if tensor.dtype == torch.uint8:
            return restore(tensor.to(torch.float32).div_(255.0))
        if tensor.dtype == torch.bool:
            return restore(tensor.to(torch.float32))
        # float64 holds all 32-bit integers, and the difference of any two float32 values
        exact = tensor.to(torch.float64)
        low, high = (float(extreme) for extreme in torch.aminmax(exact))
        if not math.isfinite(high - low):
            raise ValueError(
                f"ToUnitRange: the image{named(image)} holds NaN or infinite values; mend or remove the file"
            )
        if tensor.is_floating_point() and low >= 0.0 and high <= 1.0:
            return restore(tensor.to(torch.float32))
        if high == low:
            return restore(torch.zeros_like(exact, dtype=torch.float32))
        return restore(((exact - low) / (high - low)).to(torch.float32))


class MatchChannels(Transform):
    """Give an image the channel count a network takes: one channel is repeated, an equal count left as it is.

    Args:
        in_channels: channels of the result.

    Raises:
        ValueError: when ``in_channels`` is not positive, or when called with an image of another channel count that
            is not 1.
    """

    backend = BACKEND

    def __init__(self, in_channels: int) -> None:
        if in_channels < 1:
            raise ValueError(f"MatchChannels: in_channels must be at least 1, got {in_channels}")
        self.in_channels = int(in_channels)

    def __call__(self, image: NdarrayOrTensor) -> NdarrayOrTensor:
        """Return the image with ``in_channels`` channels; data type and container are kept."""
        tensor, restore = unwrap(image, "MatchChannels", dims=None, floating=False)
        found = tensor.shape[0]
        if found == self.in_channels:
            return image
        if found != 1:
            raise ValueError(
                f"MatchChannels: the image{named(image)} has {found} channels, expected {self.in_channels} (or 1, "
                f"which is repeated); set in_channels={found} to train on these images, or convert them"
            )
        return restore(tensor.repeat(self.in_channels, *[1] * (tensor.ndim - 1)))


class ToUnitRanged(MapTransform):
    """Dictionary form of :class:`ToUnitRange`."""

    backend = ToUnitRange.backend

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = ToUnitRange()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with the keys' images in [0, 1]."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self.transform(result[key])
        return result


class MatchChannelsd(MapTransform):
    """Dictionary form of :class:`MatchChannels`."""

    backend = MatchChannels.backend

    def __init__(self, keys: KeysCollection, in_channels: int, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = MatchChannels(in_channels)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with the keys' images in ``in_channels`` channels."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self.transform(result[key])
        return result
