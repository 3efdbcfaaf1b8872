"""What the images of the training data are like, and in what a new image differs from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import permutations
from typing import Any

import numpy as np
from monai.data import MetaTensor

from medssl_monai.core import DataError, generator
from medssl_monai.transforms.serving import DESCRIPTION_KEY, VOLUME_FIELDS

#: an image's mean or deviation is unusual when it lies this many (robust) deviations off the training images' median
_ROBUST_LIMIT = 5.0
#: of fewer images no deviation is known: then a mean is unusual when it lies a standard deviation of the voxels off,
_FEW = 4
#: and a deviation when it is this factor off
_FEW_FACTOR = 3.0
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
        slices: of volumes, smallest and largest number of slices; ``None`` for pictures, and where it is not known.
    """

    n: int
    channels: tuple[int, ...]
    height: tuple[float, float]
    width: tuple[float, float]
    mean: tuple[float, float]
    std: tuple[float, float]
    slices: tuple[float, float] | None = None

    @classmethod
    def from_descriptions(cls, descriptions: np.ndarray) -> InputProfile:
        """Summarise descriptions (N, 5), of volumes (N, 6), columns as in :data:`VOLUME_FIELDS`."""
        channels, width, height, mean, std, *volume = descriptions.T
        return cls(
            n=len(descriptions),
            channels=tuple(sorted({int(c) for c in channels})),
            height=(float(height.min()), float(height.max())),
            width=(float(width.min()), float(width.max())),
            mean=_robust(mean),
            std=_robust(std),
            slices=(float(volume[0].min()), float(volume[0].max())) if volume else None,
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
        values = dict(zip(VOLUME_FIELDS, map(float, description)))
        found = []
        if int(values["channels"]) not in self.channels:
            seen = " or ".join(map(str, self.channels))
            found.append(f"{int(values['channels'])} channels (trained on {seen})")
        found += self._sizes(values)
        for name, (low, high) in self._intensities().items():
            if not low <= values[name] <= high:
                middle, spread = getattr(self, name)
                trained = f"{middle:.4g}" + f" +- {spread:.2g}" * (self.n >= _FEW)
                found.append(f"intensity {name} {values[name]:.4g} (trained on {trained})")
        return found

    def _intensities(self) -> dict[str, tuple[float, float]]:
        """What mean and standard deviation of an image are usually between."""
        if self.n < _FEW:
            middle, deviation = self.mean[0], self.std[0]
            return {
                "mean": (middle - deviation, middle + deviation),
                "std": (deviation / _FEW_FACTOR, deviation * _FEW_FACTOR),
            }
        limits = {}
        for name in ("mean", "std"):
            middle, spread = getattr(self, name)
            # a floor of 5 % of the level, so that a set of near-identical images does not flag every other one
            width = _ROBUST_LIMIT * max(spread, 0.05 * abs(middle))
            limits[name] = (middle - width, middle + width)
        return limits

    def _sizes(self, values: Mapping[str, float]) -> list[str]:
        if "slices" in values and self.slices is not None:
            stored = [values[name] for name in ("width", "height", "slices")]
            orders = [(0, 1, 2), (2, 1, 0), *permutations(range(3))]  # as stored, then a stack with its slices first
            fitting = next((order for order in orders if self._fits([stored[axis] for axis in order])), (0, 1, 2))
            if fitting[2] != 2:
                usual = ", ".join(f"{low:.0f} to {high:.0f}" for low, high in (self.width, self.height, self.slices))
                return [
                    f"axes seem mixed up: columns, rows, slices are {', '.join(f'{size:.0f}' for size in stored)} "
                    f"(trained on {usual}); bring the slices last, numpy.transpose(array, {fitting})"
                ]
        found = []
        for name, unit in (("height", " px"), ("width", " px"), ("slices", "")):
            limits = getattr(self, name)
            if limits is not None and name in values and not _within(values[name], limits):
                found.append(f"{name} {values[name]:.0f}{unit} (trained on {limits[0]:.0f} to {limits[1]:.0f})")
        return found

    def _fits(self, sizes: Sequence[float]) -> bool:
        """Whether columns, rows and slices are as in training."""
        limits = (self.width, self.height, self.slices)
        return all(one is not None and _within(size, one) for size, one in zip(sizes, limits))

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> InputProfile:
        """From what :meth:`to_json` gave."""
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
        return cls(**fields)


def _within(size: float, limits: tuple[float, float]) -> bool:
    return limits[0] / _SIZE_FACTOR <= size <= limits[1] * _SIZE_FACTOR


def _robust(values: np.ndarray) -> tuple[float, float]:
    median = float(np.median(values))
    return median, float(1.4826 * np.median(np.abs(values - median)))
