"""Which slices of a volume are looked at: the axis they lie along, and draws around the volume's middle.

Draws are a pure function of (seed, number of slices), of integer and double-precision tensor operations only, so that
TorchScript can compile it and the draws inside a served network are those of Python, on every device and release.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_THICKER = 1.5  # times the length of voxels along both other axes: then these are slices
_ROUNDING = 1e-3  # of spacings in a header; 0.6 x 0.6 x 0.9 mm has a slice axis


def find_slice_axis(affine: NDArray[np.floating[Any]] | Tensor, fallback: int = 2) -> int:
    """The axis along which a volume was acquired slice by slice.

    Slices are clearly thicker than pixels, and volumes may be stored with their slices along any axis: it is the axis
    along which voxels are at least half as long again as along both others. Where there is none, as in isotropic
    volumes or where pixels differ a little from squares, it is ``fallback``: scanners store slices along the third
    axis, and so do DICOM series that are stacked.

    Args:
        affine: (4, 4) voxel-to-world matrix; lengths of its columns count, not where they point.
        fallback: 0, 1 or 2.

    Returns:
        0, 1 or 2.
    """
    matrix = affine.detach().cpu().numpy() if isinstance(affine, Tensor) else affine
    spacing = np.linalg.norm(np.asarray(matrix, dtype=np.float64)[:3, :3], axis=0)
    second, largest = np.sort(spacing)[1:]
    return int(spacing.argmax()) if largest >= (_THICKER - _ROUNDING) * second else fallback


def slice_probabilities(size: int) -> Tensor:
    """Probability of each slice when its position is drawn from N(S/2, S/4), rounded and clipped to 0..S-1.

    The second parameter is the standard deviation (thesis 3.4.2.3). What lies beyond an end belongs to the end.

    Args:
        size: S, slices of the volume.

    Returns:
        Shape (S,), float64, sum 1.

    Raises:
        ValueError: when ``size`` is below 1.
    """
    if size < 1:
        raise ValueError(f"size: expected a volume of at least one slice, got {size}")
    edges = (torch.arange(1, size, dtype=torch.float64) - 0.5 - size / 2) / (size / 4)
    below = torch.special.ndtr(edges)
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    return torch.diff(torch.cat([ends[:1], below, ends[1:]]))


def draw_slices(size: int, num: int, draws: int = 1, seed: int = 0) -> Tensor:
    """Draw slices around the middle of a volume (thesis 3.4.2.3): eq. 3.3 averages over eight draws of sixteen.

    Positions come from N(S/2, S/4), rounded and clipped to the volume; a position that is already there is drawn anew,
    so that those of a draw are distinct. Where the volume has no more than ``num`` slices each draw has all of them.

    Drawing anew is drawing without replacement with probability proportional to :func:`slice_probabilities`. That law
    is also that of the ``num`` first arrivals of independent exponential clocks with these rates (Efraimidis & Spirakis
    2006), which needs one number a slice and no loop.

    Args:
        size: S, slices of the volume.
        num: slices of a draw.
        draws: number of draws.
        seed: any integer; other seeds and other S give independent draws.

    Returns:
        Positions from 0, shape (draws, min(num, S)), int64, ascending in each row, on the CPU.

    Raises:
        ValueError: when ``size``, ``num`` or ``draws`` is below 1.
    """
    if num < 1 or draws < 1:
        raise ValueError(f"num and draws: expected at least 1 of each, got {num} and {draws}")
    rates = slice_probabilities(size)
    if num >= size:
        return torch.arange(size).expand(draws, size)
    arrivals = -torch.log(_uniform(draws * size, seed, size).reshape(draws, size)) / rates
    first = torch.topk(arrivals, num, dim=1, largest=False)[1]
    return torch.sort(first, dim=1)[0]


def _uniform(count: int, seed: int, stream: int) -> Tensor:
    """Numbers in (0, 1), shape (count,), float64: a hash of (seed, stream, position), the same everywhere."""
    state = torch.zeros(1, dtype=torch.int64)
    for part in [seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF, stream]:
        state = _scramble((state + part + 1) & 0xFFFFFFFF)
    return (_scramble((state + torch.arange(count)) & 0xFFFFFFFF) + 0.5) / 4294967296.0


def _scramble(x: Tensor) -> Tensor:
    """A permutation of the 32-bit integers without visible pattern (C. Wellons' ``lowbias32``), held in int64."""
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & 0xFFFFFFFF
    x = x ^ (x >> 15)
    # times 0x846CA68B, its highest bit apart: the product would not fit int64
    x = (x * 0x046CA68B + ((x & 1) << 31)) & 0xFFFFFFFF
    return x ^ (x >> 16)
