"""What the images of the training data are like, and in what a new image differs from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from monai.data import MetaTensor

from medssl_monai.core import DataError, generator
from medssl_monai.transforms.serving import DESCRIPTION_FIELDS, DESCRIPTION_KEY

#: an image's mean or deviation is unusual when it lies this many (robust) deviations off the training images' median
_ROBUST_LIMIT = 5.0
#: and a size when it is this factor outside the training images' range
_SIZE_FACTOR = 2.0


@dataclass(frozen=True)
class InputProfile:
    """Sizes, channels and intensities of images as stored, before resizing and rescaling.

    Attributes:
        n: number of images looked at.
        channels: the channel counts seen.
        height: smallest and largest height in pixels.
        width: smallest and largest width in pixels.
        mean: median and robust deviation (1.4826 x median absolute deviation) of the images' mean values.
        std: the same of the images' standard deviations.
    """

    n: int
    channels: tuple[int, ...]
    height: tuple[float, float]
    width: tuple[float, float]
    mean: tuple[float, float]
    std: tuple[float, float]

    @classmethod
    def from_descriptions(cls, descriptions: np.ndarray) -> InputProfile:
        """Summarise descriptions (N, 5), columns as in :data:`DESCRIPTION_FIELDS`."""
        channels, width, height, mean, std = descriptions.T
        return cls(
            n=len(descriptions),
            channels=tuple(sorted({int(c) for c in channels})),
            height=(float(height.min()), float(height.max())),
            width=(float(width.min()), float(width.max())),
            mean=_robust(mean),
            std=_robust(std),
        )

    @classmethod
    def from_records(
        cls,
        records: Sequence[Mapping[str, Any]],
        loading: Callable[[dict[str, Any]], Mapping[str, Any]],
        limit: int = 256,
        seed: int = 0,
    ) -> InputProfile:
        """Load a seeded choice of at most ``limit`` records and summarise them.

        Args:
            records: data dictionaries with ``image``.
            loading: the loading part of the preprocessing, up to and with ``DescribeInputd``.
            limit: images to look at.
            seed: seed of the choice.

        Raises:
            DataError: when there is no record, or ``loading`` describes nothing.
        """
        if not len(records):
            raise DataError("there is no image to describe")
        chosen = generator(seed, "input profile").permutation(len(records))[:limit]
        descriptions = []
        for index in sorted(chosen):
            image = loading({"image": records[index]["image"]})["image"]
            if not isinstance(image, MetaTensor) or DESCRIPTION_KEY not in image.meta:
                raise DataError("the loading transforms describe no image", advice="Put DescribeInputd among them.")
            descriptions.append(image.meta[DESCRIPTION_KEY].numpy())
        return cls.from_descriptions(np.stack(descriptions))

    def differences(self, description: Sequence[float]) -> list[str]:
        """In what an image differs from those of the training data, in words; empty where it does not."""
        values = dict(zip(DESCRIPTION_FIELDS, map(float, description)))
        found = []
        if int(values["channels"]) not in self.channels:
            seen = " or ".join(map(str, self.channels))
            found.append(f"{int(values['channels'])} channels (trained on {seen})")
        for name in ("height", "width"):
            low, high = getattr(self, name)
            if not low / _SIZE_FACTOR <= values[name] <= high * _SIZE_FACTOR:
                found.append(f"{name} {values[name]:.0f} px (trained on {low:.0f} to {high:.0f})")
        for name in ("mean", "std"):
            middle, spread = getattr(self, name)
            # a floor of 5 % of the level, so that a set of near-identical images does not flag every other one
            if not abs(values[name] - middle) <= _ROBUST_LIMIT * max(spread, 0.05 * abs(middle)):
                found.append(f"intensity {name} {values[name]:.4g} (trained on {middle:.4g} +- {spread:.2g})")
        return found

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> InputProfile:
        """From what :meth:`to_json` gave."""
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
        return cls(**fields)


def _robust(values: np.ndarray) -> tuple[float, float]:
    median = float(np.median(values))
    return median, float(1.4826 * np.median(np.abs(values - median)))
