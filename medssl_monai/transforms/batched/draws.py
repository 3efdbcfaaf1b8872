"""Stateless random numbers for a batch: integer hashes of (seed, epoch, sample, view, purpose), computed in tensors.

Integer arithmetic is the same on every device, so that the numbers depend on neither the device nor on which samples
share a batch.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from medssl_monai.core import derive_seed

_STEP = 0x9E3779B97F4A7C15 - 2**64  # 2^64 / golden ratio, as a signed number
_MIX = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)  # SplitMix64's finaliser (Steele et al. 2014)
_MIX_32 = (0x7FEB352D, 0x846CA68B - 2**32)  # a 32-bit finaliser of the same form with low bias (Wellons 2018)
_LEVELS = 65536


class Draws:
    """The random numbers of one view of a batch.

    Args:
        index: which samples, int64, shape (N,); the numbers come on its device.
        parts: what the numbers are for, the same for all samples (seed, epoch, view, ...).
    """

    def __init__(self, index: Tensor, *parts: int | str) -> None:
        base = derive_seed(*parts)
        self.keys = _mix64(_mix64(index.to(torch.int64) * _STEP + (base - 2**63)) + (derive_seed(base) - 2**63))

    def uniform(self, purpose: str, count: int = 1) -> Tensor:
        """Uniform numbers in [0, 1): float64, shape (N, count), the same for the same ``purpose``."""
        counter = torch.arange(count, device=self.keys.device) * _STEP
        mixed = _mix64((self.keys + (derive_seed(purpose) - 2**63)).unsqueeze(1) ^ _mix64(counter))
        return _shift(mixed, 11).to(torch.float64) * 2.0**-53

    def key(self, purpose: str) -> Tensor:
        """64 random bits a sample, int64, shape (N,), for :func:`normal_field` and :func:`uniform_field`."""
        return _mix64(self.keys + (derive_seed(purpose) - 2**63))


def normal_field(key: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Standard normal numbers, float32, shape (N, *shape), independent for every element; ``key`` (N,) int64.

    Each is one of 65,536 equally likely quantiles of the normal distribution (the largest 4.3), scaled to unit
    variance: a table look-up, half as dear as two logarithms and a cosine, and equal to the bit on every device.
    """
    return _quantiles(key.device).index_select(0, _levels(key, shape).reshape(-1)).reshape(len(key), *shape)


def uniform_field(key: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Uniform numbers in (-1, 1), float32, shape (N, *shape), independent for every element; ``key`` (N,) int64.

    Each is the middle of one of 65,536 equal parts, equal to the bit on every device.
    """
    return _levels(key, shape).to(torch.float32).add_(0.5 - _LEVELS / 2).mul_(2.0 / _LEVELS).reshape(len(key), *shape)


def _levels(key: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Integers, each of 0 to 65,535 as likely: int32, shape (N, elements of ``shape``); ``key`` (N,) int64."""
    count = 1
    for n in shape:
        count *= n
    low, high = (half.unsqueeze(1) for half in (key.to(torch.int32), (key >> 32).to(torch.int32)))
    bits = _scattered((count + 1) // 2, key.device) ^ low
    bits *= _MIX_32[0]
    bits ^= high  # so that two samples that share the one half of their keys do not share a field
    bits ^= (bits >> 15).bitwise_and_(0x1FFFF)
    bits *= _MIX_32[1]
    bits ^= (bits >> 16).bitwise_and_(0xFFFF)
    return bits.view(torch.int16)[:, :count].to(torch.int32).add_(_LEVELS // 2)


@functools.lru_cache(maxsize=8)
def _scattered(count: int, device: torch.device) -> Tensor:
    """The first steps of the hash of 0, 1, ..., which are the same for all samples; int32."""
    bits: Tensor = torch.arange(count, dtype=torch.int32, device=device) * (_STEP >> 32)
    bits ^= (bits >> 16).bitwise_and_(0xFFFF)
    return bits


@functools.cache
def _quantiles(device: torch.device) -> Tensor:
    middle = (torch.arange(_LEVELS, dtype=torch.float64) + 0.5) / _LEVELS
    table: Tensor = torch.special.ndtri(middle)
    return (table / table.square().mean().sqrt()).to(torch.float32).to(device)


def _shift(value: Tensor, by: int) -> Tensor:
    """Logical right shift of int64; torch's fills with the sign."""
    return (value >> by) & ((1 << (64 - by)) - 1)


def _mix64(value: Tensor) -> Tensor:
    value = (value ^ _shift(value, 30)) * _MIX[0]
    value = (value ^ _shift(value, 27)) * _MIX[1]
    return value ^ _shift(value, 31)
