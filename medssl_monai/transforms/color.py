"""Random colour changes of 2-D images, as SimCLR and its successors use them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.transforms import MapTransform, RandomizableTransform

from medssl_monai.transforms._image import BACKEND, check_probability, unwrap

GRAY_WEIGHTS = (0.2989, 0.587, 0.114)  # ITU-R 601-2, as in PIL and torchvision
OPERATIONS = ("brightness", "contrast", "saturation", "hue")
_COLOUR_ONLY = ("saturation", "hue")


class RandColorJitter(RandomizableTransform):
    """Change brightness, contrast, saturation and hue by random factors, in random order.

    The definitions are those of torchvision's ``ColorJitter``, for images in [0, 1]; every operation's result is
    clipped to [0, 1]:

    - brightness: f x image.
    - contrast: f x image + (1 - f) x mean of the gray image.
    - saturation: f x image + (1 - f) x gray image, gray = 0.2989 R + 0.587 G + 0.114 B.
    - hue: the hue angle moves by h turns; value and chroma stay.

    f is uniform in [max(0, 1 - b), 1 + b] for each of the first three with its own b, h uniform in [-hue, hue].
    Saturation and hue have no meaning without red, green and blue: images that do not have 3 channels get brightness
    and contrast only, and their gray image is the mean of the channels.

    Args:
        brightness: b of the brightness factor.
        contrast: b of the contrast factor.
        saturation: b of the saturation factor.
        hue: largest turn of the hue, at most 0.5.
        prob: probability that the image is changed at all.

    Raises:
        ValueError: for a negative strength, a hue above 0.5, a prob outside [0, 1], and when called with an image that
            is not (C, H, W) and floating.
    """

    backend = BACKEND

    def __init__(
        self,
        brightness: float = 0.4,
        contrast: float = 0.4,
        saturation: float = 0.4,
        hue: float = 0.1,
        prob: float = 0.8,
    ) -> None:
        super().__init__(check_probability(prob, "RandColorJitter"))
        self.strengths = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue}
        for name, strength in self.strengths.items():
            limit = 0.5 if name == "hue" else float("inf")
            if not 0.0 <= strength <= limit or strength == float("inf"):
                raise ValueError(f"RandColorJitter: {name} must lie in [0, {limit}], got {strength}")
        self.operations: list[tuple[str, float]] = []

    def randomize(self, data: Any | None = None) -> None:
        """Draw whether to change the image, and the operations in their order with their factors."""
        super().randomize(None)
        if not self._do_transform:
            return
        self.operations = []
        for index in self.R.permutation(len(OPERATIONS)):
            name = OPERATIONS[index]
            strength = self.strengths[name]
            low, high = (-strength, strength) if name == "hue" else (max(0.0, 1.0 - strength), 1.0 + strength)
            factor = float(self.R.uniform(low, high))
            if strength > 0.0:
                self.operations.append((name, factor))

    def __call__(self, image: NdarrayOrTensor, randomize: bool = True) -> NdarrayOrTensor:
        """Return the changed image (C, H, W); with ``randomize=False`` the last draw is used again."""
        tensor, restore = unwrap(image, "RandColorJitter")
        if randomize:
            self.randomize()
        if not self._do_transform:
            return image
        colour = tensor.shape[0] == 3
        for name, factor in self.operations:
            if colour or name not in _COLOUR_ONLY:
                tensor = adjust(tensor, name, factor)
        return restore(tensor)


class RandGrayscale(RandomizableTransform):
    """Replace the three channels of a colour image by its gray image, 0.2989 R + 0.587 G + 0.114 B, at random.

    Images that do not have 3 channels have no colour to lose and stay as they are.

    Args:
        prob: probability.

    Raises:
        ValueError: for a prob outside [0, 1], and when called with an image that is not (C, H, W) and floating.
    """

    backend = BACKEND

    def __init__(self, prob: float = 0.2) -> None:
        super().__init__(check_probability(prob, "RandGrayscale"))

    def __call__(self, image: NdarrayOrTensor, randomize: bool = True) -> NdarrayOrTensor:
        """Return the image (C, H, W), gray or as it was; with ``randomize=False`` the last draw is used again."""
        tensor, restore = unwrap(image, "RandGrayscale")
        if randomize:
            self.randomize(None)
        if not self._do_transform or tensor.shape[0] != 3:
            return image
        return restore(_gray(tensor).repeat(3, 1, 1))


class _RandImaged(RandomizableTransform, MapTransform):
    """Dictionary form of a random image transform: one draw for all keys."""

    backend = BACKEND

    def __init__(self, keys: KeysCollection, transform: RandomizableTransform, allow_missing_keys: bool) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, transform.prob)
        self.transform: Any = transform

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> _RandImaged:
        """Seed the transform."""
        super().set_random_state(seed=seed, state=state)
        self.transform.set_random_state(seed=seed, state=state)
        return self

    def randomize(self, data: Any | None = None) -> None:
        """Draw once for all keys."""
        self.transform.randomize(data)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with the keys' images changed by one draw."""
        result = dict(data)
        self.randomize(None)
        for key in self.key_iterator(result):
            result[key] = self.transform(result[key], randomize=False)
        return result


class RandColorJitterd(_RandImaged):
    """Dictionary form of :class:`RandColorJitter`; all keys get the same change."""

    def __init__(
        self,
        keys: KeysCollection,
        brightness: float = 0.4,
        contrast: float = 0.4,
        saturation: float = 0.4,
        hue: float = 0.1,
        prob: float = 0.8,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, RandColorJitter(brightness, contrast, saturation, hue, prob), allow_missing_keys)


class RandGrayscaled(_RandImaged):
    """Dictionary form of :class:`RandGrayscale`; all keys are made gray, or none."""

    def __init__(self, keys: KeysCollection, prob: float = 0.2, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, RandGrayscale(prob), allow_missing_keys)


def adjust(image: torch.Tensor, name: str, factor: float) -> torch.Tensor:
    """One operation of :class:`RandColorJitter` on a plain tensor (C, H, W) in [0, 1]; returns a new tensor."""
    if name == "brightness":
        return image.mul(factor).clamp_(0.0, 1.0)
    if name == "contrast":
        gray = _gray(image) if image.shape[0] == 3 else image
        return image.mul(factor).add_(gray.mean() * (1.0 - factor)).clamp_(0.0, 1.0)
    if name == "saturation":
        return image.mul(factor).add_(_gray(image), alpha=1.0 - factor).clamp_(0.0, 1.0)
    return _turn_hue(image, factor)


def _gray(image: torch.Tensor) -> torch.Tensor:
    """Gray image (1, H, W) of a colour image (3, H, W)."""
    red, green, blue = GRAY_WEIGHTS
    return (image[0] * red).add_(image[1], alpha=green).add_(image[2], alpha=blue).unsqueeze_(0)


def _turn_hue(image: torch.Tensor, turns: float) -> torch.Tensor:
    """Move the HSV hue of (3, H, W) by ``turns``.

    Value and chroma stay, so only the hue is computed, and each channel follows from it in closed form:
    value - chroma x clip(min(k, 4 - k), 0, 1) with k = (n + hue / 60 degrees) mod 6 and n = 5, 3, 1.
    """
    red, green, blue = image.unbind(0)
    low, value = torch.aminmax(image, dim=0)
    chroma = value - low
    safe = torch.where(chroma > 0, chroma, 1.0)
    sextant = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, (blue - red) / safe + 2.0, (red - green) / safe + 4.0),
    )
    sextant += 6.0 * turns
    offsets = torch.tensor([5.0, 3.0, 1.0], dtype=image.dtype, device=image.device).view(3, 1, 1)
    k = sextant + offsets
    k -= torch.floor(k / 6.0) * 6.0
    weight = torch.minimum(k, 4.0 - k).clamp_(0.0, 1.0)
    return torch.addcmul(value, chroma, weight, value=-1.0).clamp_(0.0, 1.0)
