"""Slices of volumes: which axis they lie along, some of them, one of them."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import torch
from monai.config import NdarrayOrTensor
from monai.data import MetaTensor
from monai.transforms import Randomizable, Transform
from scipy.special import ndtr

from medssl_monai.core import find_slice_axis
from medssl_monai.transforms._image import BACKEND, named, rewrap

SliceMode = Literal["random", "normal"]


class SlicesLast(Transform):
    """Move the axis along which a volume was acquired slice by slice to the end: (C, ...) to (C, H, W, S).

    Slices are thicker than pixels, so it is the axis along which the voxels of the volume's affine are at least half as
    long again as along both others (:func:`medssl_monai.core.find_slice_axis`); sagittal, coronal and axial volumes of
    any format then look alike to what follows. The other two axes keep their order, and the affine follows. Volumes
    without an affine (plain arrays), and those without such an axis, use ``fallback_axis``. A plain array whose slices
    lie along another axis by all appearances, such as (30, 256, 256) with slices last, is refused: nothing that follows
    would notice.

    Args:
        fallback_axis: spatial axis of the slices where the spacing does not tell: 0, 1, 2, or counted from the end. A
            NumPy stack with slices first has 0.

    Raises:
        ValueError: for another ``fallback_axis``, and when called with what is not a volume (C, X, Y, Z) or an array
            with its axes mixed up.
    """

    backend = BACKEND

    def __init__(self, fallback_axis: int = -1) -> None:
        if not -3 <= fallback_axis <= 2:
            raise ValueError(f"SlicesLast: fallback_axis must lie in -3..2, got {fallback_axis}")
        self.fallback_axis = fallback_axis % 3

    def __call__(self, volume: NdarrayOrTensor) -> NdarrayOrTensor:
        """Return the volume (C, H, W, S), contiguous, in the container it came in."""
        _checked(volume, "SlicesLast")
        axis = self.slice_axis(volume)
        if axis == self.fallback_axis and _is_plain(volume):
            _refuse_mixed_axes(tuple(volume.shape[1:]), axis)
        return _contiguous(_reordered(volume, [a for a in range(3) if a != axis] + [axis]))

    def slice_axis(self, volume: NdarrayOrTensor) -> int:
        """Spatial axis (0, 1 or 2) of the slices."""
        if not isinstance(volume, MetaTensor) or "affine" not in volume.meta:
            return self.fallback_axis
        return find_slice_axis(volume.affine, self.fallback_axis)


def _is_plain(volume: NdarrayOrTensor) -> bool:
    """Whether a volume says nothing of its place in the world: no affine, or the one that stands for none."""
    if not isinstance(volume, MetaTensor) or "affine" not in volume.meta:
        return True
    return torch.equal(volume.affine, torch.eye(4, dtype=volume.affine.dtype, device=volume.affine.device))


def _refuse_mixed_axes(shape: tuple[int, ...], axis: int) -> None:
    """Refuse a shape whose slices, to be along ``axis``, lie along another one by all appearances.

    Pixels in the plane are square as a rule, (256, 256, 30); (30, 256, 256) is a stack with its slices first.
    """
    first, second = (shape[a] for a in range(3) if a != axis)
    if first == second or shape[axis] != max(first, second):
        return
    found = shape.index(min(first, second))
    order = [0, 1, 2]
    order[axis], order[found] = found, axis
    raise ValueError(
        f"the axes of this array seem to be mixed up: found shape {shape}, its slices along axis {found} by all "
        f"appearances, expected them along axis {axis}, such as {tuple(shape[a] for a in order)}. Save it with its "
        f"axes in that order, numpy.transpose(array, {tuple(order)}), or as NIfTI with its voxel sizes"
    )


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
        _checked(volume, "SlicesFirst")
        return _contiguous(_reordered(volume, [2, 0, 1]))


class SliceTransform(Randomizable, Transform):
    """What the transforms that pick slices share."""

    backend = BACKEND

    def __init__(self, slice_axis: int) -> None:
        who = type(self).__name__
        if slice_axis not in (1, 2, 3, -1, -2, -3):
            raise ValueError(f"{who}: slice_axis must be an axis of (C, H, W, S) behind the channels, got {slice_axis}")
        self.axis = slice_axis % 4 - 1  # among the spatial axes
        self.last = [a for a in range(3) if a != self.axis] + [self.axis]  # their order with it last

    def count(self, volume: NdarrayOrTensor) -> int:
        """Number of slices of a volume."""
        _checked(volume, type(self).__name__)
        return int(volume.shape[1 + self.axis])


class RandSlice(SliceTransform):
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
        count = self.count(volume)
        if randomize:
            self.randomize(count)
        result = _taken(volume, 1 + self.axis, self.position)
        if isinstance(result, MetaTensor):
            result.affine = _at_slice(result.affine, self.axis, self.position, self.last)
        return result


class SampleSlices(SliceTransform):
    """Some slices of a volume, in their order: (C, H, W, S) to (C, H, W, num_slices).

    - ``random``: drawn without replacement, each slice as likely ("sampled only 16 slices randomly", thesis 4.5.2.2).
    - ``normal``: positions from N(S/2, S/4), rounded, clipped to the volume and drawn again until they differ (the rule
      of evaluation, thesis 3.4.2.3): the middle is seen more often than the ends.

    A volume of fewer slices than asked for gives every slice equally often, as far as that goes (``num_slices // S``
    times), and the rest by the rule, so that volumes of any depth form batches: 16 of 6 slices are each slice twice and
    4 of them once more. The slice column of the affine is kept, moved to the first slice: along the slices it no longer
    tells distances.

    Args:
        num_slices: slices of the result.
        mode: ``random`` or ``normal``.
        slice_axis: the slices' axis of the array with its channels: -1 for (C, H, W, S), 1 for (C, S, H, W). The result
            has it last in any case (as a view where it was not: forming the batch makes it contiguous).

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
        count = self.count(volume)
        if randomize:
            self.randomize(count)
        result = _taken(volume, 1 + self.axis, self.positions)
        if isinstance(result, MetaTensor):
            result.affine = _at_slice(result.affine, self.axis, self.positions[0], [0, 1, 2])
        return _reordered(result, self.last)


def normal_chances(count: int) -> np.ndarray:
    """Chances of the positions 0..count-1 by N(count/2, count/4), rounded and clipped: float64, shape (count,).

    Every position has one in a volume of any size, the ends the tails' share.
    """
    edges = (np.arange(1, count) - 0.5 - count / 2) / (count / 4)
    return np.diff(np.concatenate([[0.0], ndtr(edges), [1.0]]))


def _checked(volume: NdarrayOrTensor, who: str) -> None:
    if not isinstance(volume, np.ndarray | torch.Tensor):
        raise ValueError(f"{who} needs a NumPy array or torch tensor, got {type(volume).__name__}")
    if volume.ndim != 4 or 0 in volume.shape:
        raise ValueError(
            f"{who} needs a volume of shape (C, H, W, S), not empty, got shape {tuple(volume.shape)}{named(volume)}; "
            "put EnsureChannelFirst before it"
        )


def _taken(volume: NdarrayOrTensor, axis: int, positions: int | list[int]) -> NdarrayOrTensor:
    """A copy of these positions along an axis of the array, in its container; nothing else is read."""
    if isinstance(volume, np.ndarray):
        taken: np.ndarray = np.array(volume.take(positions, axis=axis))
        return taken
    plain = volume.as_tensor() if isinstance(volume, MetaTensor) else volume
    if isinstance(positions, int):
        return rewrap(plain.select(axis, positions).clone(memory_format=torch.contiguous_format), volume)
    return rewrap(plain.index_select(axis, torch.tensor(positions, device=plain.device)), volume)


def _contiguous(volume: NdarrayOrTensor) -> NdarrayOrTensor:
    return np.ascontiguousarray(volume) if isinstance(volume, np.ndarray) else volume.contiguous()


def _reordered(volume: NdarrayOrTensor, order: list[int]) -> NdarrayOrTensor:
    """A view of the volume with its spatial axes in another order, and with them the affine's columns."""
    if order == [0, 1, 2]:
        return volume
    axes = [0, *(1 + a for a in order)]
    if isinstance(volume, np.ndarray):
        return volume.transpose(axes)
    plain = volume.as_tensor() if isinstance(volume, MetaTensor) else volume
    result = rewrap(plain.permute(axes), volume)
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
