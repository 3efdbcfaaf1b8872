"""What embeddings are like: how many directions they use, how evenly they spread, whether neighbours share a class.

Embeddings are (N, D), of NumPy or of torch on the CPU. Everything works through chunks of rows, so that memory grows
with N x D and never with N x N.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike

from medssl_monai.metrics.checks import FloatArray, IntArray, _whole, check_same_length

#: values in a chunk of a pairwise table: 64 MB in double precision
_CHUNK = 2**23
#: fewer embeddings than this say nothing about collapse
_FEWEST = 10
#: share of the unit embeddings' energy that must lie off their mean
_LEAST_VARIATION = 1e-3
#: effective rank of the centred embeddings below which one direction holds (nearly) everything
_LEAST_RANK = 1.5


def effective_rank(embeddings: ArrayLike, *, center: bool = False) -> float:
    """Effective rank: exponential of the entropy of the normalised singular values (Roy & Vetterli 2007).

    From 1 (all rows along one direction) to ``min(N, D)`` (all directions alike); 0 for a matrix of zeros.

    Args:
        embeddings: shape (N, D).
        center: take the mean embedding off first, so that what is counted are directions of variation.

    Raises:
        ValueError: for another shape, no rows, or values that are not finite.
    """
    rows = _embeddings(embeddings, "embeddings")
    if center:
        rows = rows - rows.mean(axis=0)
    step = max(4 * rows.shape[1], 4096)
    triangle = rows[:step]
    for start in range(step, len(rows), step):  # R of a QR keeps the singular values, and their precision
        triangle = np.asarray(np.linalg.qr(np.vstack([triangle, rows[start : start + step]]), mode="r"))
    singular = np.linalg.svd(triangle, compute_uv=False)
    if singular.sum() == 0:
        return 0.0
    share = singular / singular.sum()
    share = share[share > 0]
    return float(np.exp(-(share * np.log(share)).sum()))


def spread(embeddings: ArrayLike) -> float:
    """Standard deviation of the unit embeddings' coordinates, averaged over the D coordinates.

    ``1 / sqrt(D)`` for embeddings in all directions alike, 0 when all point the same way (Chen & He 2021, figure 2).

    Args:
        embeddings: shape (N, D).

    Raises:
        ValueError: for another shape, no rows, values that are not finite, or a row of zeros.
    """
    return float(_unit(_embeddings(embeddings, "embeddings"), "embeddings").std(axis=0).mean())


def alignment(z1: ArrayLike, z2: ArrayLike, alpha: float = 2.0) -> float:
    """Mean distance between the unit embeddings of two views, to the power ``alpha``; lower is better.

    Wang & Isola 2020, section 4.1.

    Args:
        z1: embeddings of the first views, shape (N, D).
        z2: of the second views, shape (N, D).
        alpha: exponent, above 0.

    Raises:
        ValueError: for shapes that differ, no rows, values that are not finite, a row of zeros, or ``alpha`` not
            above 0.
    """
    first, second = _embeddings(z1, "z1"), _embeddings(z2, "z2")
    if first.shape != second.shape:
        raise ValueError(f"z1 has shape {first.shape} and z2 {second.shape}; expected two views of the same images")
    _check_positive(alpha, "alpha")
    return float((np.linalg.norm(_unit(first, "z1") - _unit(second, "z2"), axis=1) ** alpha).mean())


def uniformity(z: ArrayLike, t: float = 2.0) -> float:
    """Logarithm of the mean Gaussian potential of all pairs of unit embeddings; lower is more uniform.

    ``log E exp(-t |z_i - z_j|^2)`` over pairs i != j (Wang & Isola 2020, section 4.1); self pairs are left out.

    Args:
        z: embeddings, shape (N, D), N >= 2.
        t: width of the potential, above 0.

    Raises:
        ValueError: for another shape, fewer than two rows, values that are not finite, a row of zeros, or ``t`` not
            above 0.
    """
    unit = _unit(_embeddings(z, "z"), "z")
    if len(unit) < 2:
        raise ValueError("uniformity is of pairs: expected two embeddings or more, got 1")
    _check_positive(t, "t")
    total = 0.0
    for start, stop in _chunks(len(unit), len(unit)):
        # |a - b|^2 = 2 - 2 a.b; pairs of a chunk with later chunks count twice, those within it stand twice already
        within = np.exp(2 * t * (np.minimum(unit[start:stop] @ unit[start:stop].T, 1.0) - 1.0))
        total += float(within.sum() - np.trace(within))
        if stop < len(unit):
            total += 2.0 * float(np.exp(2 * t * (np.minimum(unit[start:stop] @ unit[stop:].T, 1.0) - 1.0)).sum())
    pairs = len(unit) * (len(unit) - 1)
    return float(np.log(total / pairs)) if total > 0 else -np.inf


def tolerance(z: ArrayLike, labels: ArrayLike) -> float:
    """Mean cosine similarity of pairs of one class: how close a representation leaves what belongs together.

    Wang & Liu 2021: over pairs i != j of equal label; self pairs are left out. NaN where no class has two
    embeddings.

    Args:
        z: embeddings, shape (N, D).
        labels: class indices, shape (N,); negative ones mean unknown and are left out.

    Raises:
        ValueError: for shapes that do not fit, values that are not finite, or a row of zeros.
    """
    unit, classes = _unit(_embeddings(z, "z"), "z"), _labels(labels, "labels")
    check_same_length(z=unit, labels=classes)
    unit, classes = unit[classes >= 0], classes[classes >= 0]
    present, members = np.unique(classes, return_inverse=True)
    counts = np.bincount(members, minlength=len(present))
    sums = np.zeros((len(present), unit.shape[1]))
    np.add.at(sums, members, unit)
    # the sum over all pairs of a class is |sum of its vectors|^2; its n self pairs are 1 each
    pairs = float((counts * (counts - 1)).sum())
    return float(((sums**2).sum(axis=1) - counts).sum() / pairs) if pairs else float("nan")


def collapse_warning(embeddings: ArrayLike) -> str | None:
    """Say in words whether embeddings have collapsed; ``None`` where they have not, or are fewer than ten.

    Two kinds are told apart, both with thresholds that healthy encoders are far from:

    - *complete*: less than 0.001 of the unit embeddings' energy lies off their mean, which is a mean cosine similarity
      above 0.999. Pooled features behind a ReLU share a large mean even in good encoders (cosines of 0.6 to 0.95), so
      a stricter limit would warn of those.
    - *dimensional*: the effective rank of the centred embeddings is below 1.5. One direction then holds nearly all
      variation (two equal directions give 2, and four fifths of the singular values' sum in one direction 1.65),
      and no more than two classes can be told apart. Supervised training pulls C classes to C - 1 directions, so any
      higher limit would warn of good classifiers of two or three classes.

    Args:
        embeddings: shape (N, D).

    Raises:
        ValueError: for another shape or no rows.
    """
    values = np.asarray(embeddings, dtype=np.float64)
    if values.ndim != 2 or not values.size:
        raise ValueError(f"embeddings has shape {values.shape}; expected (N, D) with at least one row and feature")
    broken = int((~np.isfinite(values).all(axis=1)).sum())
    if broken:
        return f"{broken} of {len(values)} embeddings are not finite"
    if len(values) < _FEWEST:
        return None
    lengths = np.linalg.norm(values, axis=1)
    if not lengths.all():
        return f"{int((lengths == 0).sum())} of {len(values)} embeddings are zero: the encoder is blind to these images"
    variation = 1.0 - float((np.square((values / lengths[:, None]).mean(axis=0))).sum())
    if variation < _LEAST_VARIATION:
        return (
            f"the embeddings have collapsed: they all point (nearly) the same way, mean cosine {1 - variation:.5f}, so "
            "that images can hardly be told apart by them"
        )
    rank = effective_rank(values, center=True)
    if rank < _LEAST_RANK:
        return (
            f"the embeddings have collapsed to one direction (effective rank {rank:.2f} of "
            f"{min(len(values) - 1, values.shape[1])}), so that no more than two groups can be told apart by them"
        )
    return None


def _embeddings(values: ArrayLike, name: str) -> FloatArray:
    rows = np.asarray(values, dtype=np.float64)
    if rows.ndim != 2 or not rows.size:
        raise ValueError(f"{name} has shape {rows.shape}; expected (N, D) with at least one row and feature")
    bad = int((~np.isfinite(rows)).sum())
    if bad:
        raise ValueError(f"{name} holds {bad} values that are NaN or infinite")
    return rows


def _unit(rows: FloatArray, name: str) -> FloatArray:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not lengths.all():
        raise ValueError(f"{name}: row {int(np.flatnonzero(lengths == 0)[0])} is zero and has no direction")
    return np.asarray(rows / lengths)


def _labels(values: ArrayLike, name: str) -> IntArray:
    labels = _whole(values, name)
    if labels.ndim != 1:
        raise ValueError(f"{name} has shape {labels.shape}; expected class indices of shape (N,)")
    return labels


def _check_positive(value: float, name: str) -> None:
    if not 0 < value < float("inf"):
        raise ValueError(f"{name}: expected a finite number above 0, got {value!r}")


def _chunks(rows: int, columns: int) -> Iterator[tuple[int, int]]:
    step = max(1, _CHUNK // max(columns, 1))
    for start in range(0, rows, step):
        yield start, min(start + step, rows)
