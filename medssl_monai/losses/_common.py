"""What the losses share: precision, input checks that say what was expected, row normalisation that stays finite."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def full_precision(name: str, tensor: Tensor) -> Tensor:
    """A plain tensor in the input's precision, never below float32.

    Raises:
        ValueError: when ``tensor`` is no real floating-point tensor.
    """
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{name}: expected a tensor, got {type(tensor).__name__}")
    if not tensor.is_floating_point():
        raise ValueError(f"{name}: expected a floating-point tensor, got {tensor.dtype}")
    plain = tensor.as_subclass(Tensor)  # MONAI's MetaTensor would carry its metadata through every operation
    return plain if plain.dtype in (torch.float32, torch.float64) else plain.float()


def without_autocast(tensor: Tensor) -> AbstractContextManager[object]:
    """A context in which autocast is off on the tensor's device, so that a loss is never computed in half precision."""
    kind = tensor.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


def check_positive(name: str, value: float) -> float:
    """Return a finite positive number as float.

    Raises:
        ValueError: when it is not one.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value <= 0:
        raise ValueError(f"{name}: expected a finite number above 0, got {value!r}")
    return float(value)


def check_flag(name: str, value: bool) -> bool:
    """Return a truth value; a text such as ``"false"`` would count as true.

    Raises:
        ValueError: when it is not one.
    """
    if not isinstance(value, bool):
        raise ValueError(f"{name}: expected true or false, got {value!r}")
    return value


def check_labels(labels: Tensor, count: int, num_classes: int | None = None) -> Tensor:
    """Class indices of a batch as a plain int64 tensor; -1 stands for "unlabelled".

    Args:
        labels: integers, shape (count,).
        count: N, the batch size.
        num_classes: C; when given, labels must be below it.

    Raises:
        ValueError: for another shape or dtype, a label below -1 or one not below ``num_classes``.
    """
    if not isinstance(labels, Tensor):
        raise ValueError(f"labels: expected a tensor, got {type(labels).__name__}")
    if labels.shape != (count,):
        raise ValueError(f"labels: expected shape ({count},), one label a sample, got {tuple(labels.shape)}")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"labels: expected integer class indices, got {labels.dtype}")
    plain = labels.as_subclass(Tensor).long()
    if count:
        low, high = (int(value) for value in torch.stack(torch.aminmax(plain)).tolist())
        if low < -1:
            raise ValueError(f"labels: expected class indices from 0, or -1 for unlabelled, got {low}")
        if num_classes is not None and high >= num_classes:
            raise ValueError(f"labels: expected class indices below {num_classes}, the number of classes, got {high}")
    return plain


def normalize_rows(matrix: Tensor) -> Tensor:
    """L2-normalise along the last dimension; a zero row stays zero, and its gradient is finite.

    Rows are first divided by their largest magnitude (a constant to the gradient, which it does not change), so that
    neither the squares of large entries overflow nor those of small ones vanish. Rows whose largest magnitude is below
    the square root of the smallest normal number (1e-19 in float32) count as zero.
    """
    largest = matrix.detach().abs().amax(dim=-1, keepdim=True)
    usable = ~(largest < torch.finfo(matrix.dtype).tiny ** 0.5)  # so written, not-a-number stays visible
    scaled = torch.where(usable, matrix, 0.0) / torch.where(usable, largest, 1.0)
    # The norm of a usable row is at least 1; in a zero row the 1 stands for 0/0.
    norm = torch.linalg.vector_norm(torch.where(usable, scaled, 1.0), dim=-1, keepdim=True)
    unit: Tensor = scaled / norm
    return unit
