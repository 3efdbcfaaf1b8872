"""Dictionary forms of the slice transforms."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.transforms import MapTransform, Randomizable, Transform

from medssl_monai.transforms._image import BACKEND
from medssl_monai.transforms.slices import (
    RandSlice,
    SampleSlices,
    SliceMode,
    SlicesFirst,
    SlicesLast,
    SliceTransform,
)


class _SliceMap(MapTransform):
    """Dictionary form of a transform without randomness."""

    backend = BACKEND

    def __init__(self, keys: KeysCollection, transform: Transform, allow_missing_keys: bool) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform: Any = transform

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with the keys' volumes changed."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self.transform(result[key])
        return result


class SlicesLastd(_SliceMap):
    """Dictionary form of :class:`SlicesLast`; every key by its own affine."""

    def __init__(self, keys: KeysCollection, fallback_axis: int = -1, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, SlicesLast(fallback_axis), allow_missing_keys)


class SlicesFirstd(_SliceMap):
    """Dictionary form of :class:`SlicesFirst`."""

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, SlicesFirst(), allow_missing_keys)


class _RandSliced(Randomizable, MapTransform):
    """Dictionary form of a transform that picks slices: one draw for all keys, which must be equally deep."""

    backend = BACKEND

    def __init__(self, keys: KeysCollection, transform: SliceTransform, allow_missing_keys: bool) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform: Any = transform

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> _RandSliced:
        """Seed the transform."""
        super().set_random_state(seed=seed, state=state)
        self.transform.set_random_state(seed=seed, state=state)
        return self

    def randomize(self, data: int) -> None:
        """Draw once for all keys."""
        self.transform.randomize(data)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with the same slices of every key's volume."""
        result = dict(data)
        drawn: tuple[Hashable, int] | None = None
        for key in self.key_iterator(result):
            count = self.transform.count(result[key])
            if drawn is None:
                drawn = (key, count)
                self.randomize(count)
            elif count != drawn[1]:
                raise ValueError(
                    f"{type(self).__name__} takes the same slices of all keys, but {drawn[0]!r} has {drawn[1]} and "
                    f"{key!r} has {count}; give each its own transform"
                )
            result[key] = self.transform(result[key], randomize=False)
        return result


class RandSliced(_RandSliced):
    """Dictionary form of :class:`RandSlice`; the same slice of every key."""

    def __init__(self, keys: KeysCollection, slice_axis: int = -1, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, RandSlice(slice_axis), allow_missing_keys)


class SampleSlicesd(_RandSliced):
    """Dictionary form of :class:`SampleSlices`; the same slices of every key."""

    def __init__(
        self,
        keys: KeysCollection,
        num_slices: int = 16,
        mode: SliceMode = "random",
        slice_axis: int = -1,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, SampleSlices(num_slices, mode, slice_axis), allow_missing_keys)
