"""Stateless randomness: every draw is a function of what it is for, never of how many draws came before.

A run is then the same for any number of workers, and a resumed run goes on to the numbers of one never stopped.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from monai.transforms import Randomizable

Part = int | str

_MAX_SEED_32 = 2**32 - 1


def derive_seed(*parts: Part) -> int:
    """Hash ``parts`` (seed, epoch, sample index, view, purpose, ...) to an unsigned 64-bit seed.

    The hash is BLAKE2b over the parts' types and values, so that ``(1, 23)``, ``(12, 3)`` and ``("1", 23)`` differ, and
    the result is the same on every platform and Python version.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        # a part ends with a NUL; one inside a text is doubled, so that no text can stand for two parts
        text = str(part).replace("\0", "\0\0")
        digest.update(f"{'i' if isinstance(part, (int, np.integer)) else 's'}{text}\0".encode())
    return int.from_bytes(digest.digest(), "little")


def generator(*parts: Part) -> np.random.Generator:
    """A NumPy generator (Philox) of its own for ``parts``."""
    return np.random.Generator(np.random.Philox(derive_seed(*parts)))


def permutation(n: int, *parts: Part) -> np.ndarray:
    """A permutation of ``range(n)``, shape (n,), int64, determined by ``parts``."""
    return generator(*parts).permutation(n)


def seed_transform(transform: object, *parts: Part) -> None:
    """Seed a (possibly nested) MONAI transform from ``parts``; a transform without randomness is left alone."""
    if isinstance(transform, Randomizable):
        transform.set_random_state(seed=derive_seed(*parts) % _MAX_SEED_32)


def seed_torch(*parts: Part) -> None:
    """Seed torch's global generators (dropout and the like) from ``parts``; called at the start of every iteration."""
    torch.manual_seed(derive_seed(*parts) % 2**63)
