"""Slices of volumes: which axis they lie along, some of them, one of them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, Literal, get_args

import numpy as np
import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.data import MetaTensor
from monai.transforms import MapTransform, Randomizable, Transform
from scipy.special import ndtr

from medssl_monai.transforms._image import BACKEND, named, rewrap, unwrap

SliceMode = Literal["random", "normal"]
_SAME_SPACING = 1.01  # spacings closer than this do not tell the axes apart


class SlicesLast(Transform):
    """Move the axis along which a volume was acquired slice by slice to the end: (C, ...) to (C, H, W, S).

    Slices are thicker than pixels, so it is the axis of the largest voxel spacing in the volume's affine; sagittal,
    coronal and axial volumes of any format then look alike to what follows. The other two axes keep their order, and
    the affine follows. Volumes without an affine (plain arrays), and those whose largest spacing two axes share within
    1 %, use ``fallback_axis``.

    Args:
        fallback_axis: spatial axis of the slices where the spacing does not tell: 0, 1, 2, or counted from the end. A
            NumPy stack with slices first has 0.

    Raises:
        ValueError: for another ``fallback_axis``, and when called with what is not a volume (C, X, Y, Z).
    """

    backend = BACKEND

    def __init__(self, fallback_axis: int = -1) -> None:
        if not -3 <= fallback_axis <= 2:
            raise ValueError(f"SlicesLast: fallback_axis must lie in -3..2, got {fallback_axis}")
        self.fallback_axis = fallback_axis % 3

    def __call__(self, volume: NdarrayOrTensor) -> NdarrayOrTensor:
        """Return the volume (C, H, W, S), contiguous, in the container it came in."""
        tensor, _ = _volume(volume, "SlicesLast")
        axis = self.slice_axis(volume)
        order = [a for a in range(3) if a != axis] + [axis]
        return _reordered(volume, tensor, order)

    def slice_axis(self, volume: NdarrayOrTensor) -> int:
        """Spatial axis (0, 1 or 2) of the slices."""
        if not isinstance(volume, MetaTensor) or "affine" not in volume.meta:
            return self.fallback_axis
        spacing = torch.linalg.vector_norm(volume.affine[:3, :3].to(torch.float64), dim=0)
        thickest = int(spacing.argmax())
        others = torch.cat([spacing[:thickest], spacing[thickest + 1 :]])
        return thickest if bool(spacing[thickest] > _SAME_SPACING * others.max()) else self.fallback_axis


class SlicesFirst(Transform):
    """Move the last axis of a volume behind the channels: (C, H, W, S) to (C, S, H, W), contiguous.

    For volumes of which single slices are read, with ``slice_axis=1`` in :class:`RandSlice` and :class:`SampleSlices`:
    a slice then lies in one piece in memory and on disk. With the slices last, one slice touches every page of the
    volume's file.

    Raises:
        ValueError: when called with what is not a volume (C, H, W, S).
    """

    backend = BACKEND

    def __call__(self, volume: NdarrayOrTensor) -> NdarrayOrTensor:
        """Return the volume (C, S, H, W) in the container it came in."""
        tensor, _ = _volume(volume, "SlicesFirst")
        return _reordered(volume, tensor, [2, 0, 1])


class _SliceTransform(Randomizable, Transform):
    """What the transforms that pick slices share."""

    backend = BACKEND

    def __init__(self, slice_axis: int) -> None:
        who = type(self).__name__
        if slice_axis not in (1, 2, 3, -1, -2, -3):
            raise ValueError(f"{who}: slice_axis must be an axis of (C, H, W, S) behind the channels, got {slice_axis}")
        self.axis = slice_axis % 4 - 1  # among the spatial axes

    def _found(self, volume: NdarrayOrTensor) -> tuple[torch.Tensor, int]:
        tensor, _ = _volume(volume, type(self).__name__)
        return tensor, tensor.shape[1 + self.axis]


class RandSlice(_SliceTransform):
    """One slice of a volume, each as likely: (C, H, W, S) to (C, H, W).

    For pre-training on one random slice per scan and epoch (thesis 4.5.2.1). Only the slice is copied: of a volume
    that is mapped into memory the rest is not read, as far as the layout allows (see :class:`SlicesFirst`). The affine
    is moved to the slice.

    Args:
        slice_axis: the slices' axis of the array with its channels: -1 for (C, H, W, S), 1 for (C, S, H, W).

    Raises:
        ValueError: for another axis, and when called with what is not a volume.
    """

    def __init__(self, slice_axis: int = -1) -> None:
        super().__init__(slice_axis)
        self.position = 0

    def randomize(self, data: int) -> None:
        """Draw a position for a volume of ``data`` slices."""
        self.position = int(self.R.randint(data))

    def __call__(self, volume: NdarrayOrTensor, randomize: bool = True) -> NdarrayOrTensor:
        """Return the slice (C, H, W), a copy; with ``randomize=False`` the last position is used again."""
        tensor, count = self._found(volume)
        if randomize:
            self.randomize(count)
        result = rewrap(tensor.select(1 + self.axis, self.position).clone(), volume)
        if isinstance(result, MetaTensor):
            order = [a for a in range(3) if a != self.axis] + [self.axis]
            result.affine = _at_slice(result.affine, self.axis, self.position, order)
        return result


class SampleSlices(_SliceTransform):
    """Some slices of a volume, in their order: (C, H, W, S) to (C, H, W, num_slices).

    - ``random``: drawn without replacement, each slice as likely ("sampled 16 slices randomly", thesis 4.5.2.2).
    - ``normal``: positions from N(S/2, S/4), rounded, clipped to the volume and drawn again until they differ (the rule
      of evaluation, thesis 3.4.2.3): the middle is seen more often than the ends.

    A volume of fewer slices than asked for gives every slice equally often, as far as that goes (``num_slices // S``
    times), and the rest by the rule, so that volumes of any depth form batches: 16 of 6 slices are each slice twice and
    4 of them once more. The slice column of the affine is kept, moved to the first slice: along the slices it no longer
    tells distances.

    Args:
        num_slices: slices of the result.
        mode: ``random`` or ``normal``.
        slice_axis: the slices' axis of the array with its channels, which keeps its place: -1 for (C, H, W, S).

    Raises:
        ValueError: for a ``num_slices`` that is not positive, an unknown mode or axis, and when called with what is not
            a volume.
    """

    def __init__(self, num_slices: int = 16, mode: SliceMode = "random", slice_axis: int = -1) -> None:
        super().__init__(slice_axis)
        if num_slices < 1:
            raise ValueError(f"SampleSlices: num_slices must be at least 1, got {num_slices}")
        if mode not in get_args(SliceMode):
            raise ValueError(f"SampleSlices: mode must be one of {', '.join(get_args(SliceMode))}, got {mode!r}")
        self.num_slices, self.mode = int(num_slices), mode
        self.positions: list[int] = []

    def randomize(self, data: int) -> None:
        """Draw the positions for a volume of ``data`` slices, in ascending order."""
        whole, rest = divmod(self.num_slices, data)
        chances = normal_chances(data) if self.mode == "normal" else None
        # NumPy draws without replacement as one who redraws what is already there
        drawn = self.R.choice(data, size=rest, replace=False, p=chances)
        self.positions = sorted([*np.repeat(np.arange(data), whole).tolist(), *drawn.tolist()])

    def __call__(self, volume: NdarrayOrTensor, randomize: bool = True) -> NdarrayOrTensor:
        """Return the slices (C, H, W, num_slices), a copy; with ``randomize=False`` the last positions are used."""
        tensor, count = self._found(volume)
        if randomize:
            self.randomize(count)
        chosen = torch.tensor(self.positions, device=tensor.device)
        result = rewrap(tensor.index_select(1 + self.axis, chosen), volume)
        if isinstance(result, MetaTensor):
            result.affine = _at_slice(result.affine, self.axis, self.positions[0], [0, 1, 2])
        return result


def normal_chances(count: int) -> np.ndarray:
    """Chances of the positions 0..count-1 by N(count/2, count/4), rounded and clipped: float64, shape (count,).

    Every position has one in a volume of any size, the ends the tails' share.
    """
    edges = (np.arange(1, count) - 0.5 - count / 2) / (count / 4)
    return np.diff(np.concatenate([[0.0], ndtr(edges), [1.0]]))


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

    def __init__(self, keys: KeysCollection, transform: _SliceTransform, allow_missing_keys: bool) -> None:
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
            count = self.transform._found(result[key])[1]
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


def _volume(volume: NdarrayOrTensor, who: str) -> tuple[torch.Tensor, Any]:
    if len(volume.shape) != 4:
        raise ValueError(
            f"{who} needs a volume of shape (C, H, W, S), got shape {tuple(volume.shape)}{named(volume)}; put "
            "EnsureChannelFirst before it"
        )
    return unwrap(volume, who, dims=None, floating=False)


def _reordered(volume: NdarrayOrTensor, tensor: torch.Tensor, order: list[int]) -> NdarrayOrTensor:
    """The volume with its spatial axes in another order, and with them the affine's columns."""
    result = rewrap(tensor.permute(0, *(1 + a for a in order)).contiguous(), volume)
    if isinstance(result, MetaTensor):
        result.affine = _columns(result.affine, order)
    return result


def _at_slice(affine: torch.Tensor, axis: int, position: int, order: list[int]) -> torch.Tensor:
    """The affine of what begins at slice ``position``, its columns in the ``order`` of the result's axes."""
    moved = affine.clone()
    moved[:, 3] += position * affine[:, axis]
    return _columns(moved, order)


def _columns(affine: torch.Tensor, order: list[int]) -> torch.Tensor:
    return affine[:, [*order, 3]]
