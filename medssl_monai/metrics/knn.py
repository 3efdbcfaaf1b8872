"""Weighted nearest neighbours on frozen embeddings: scores (N, C), from which accuracy, AUROC and intervals are had."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from medssl_monai.metrics.checks import FloatArray, IntArray, _whole, as_binary, as_classes, check_same_length
from medssl_monai.metrics.embedding import _check_positive, _labels

#: similarities in a chunk of queries: 16 MB in single precision, which caches still hold in part
_CHUNK = 2**22
#: lengths of which the squares of single coordinates are still exact enough
_SMALL = {torch.float32: 1e-12, torch.float64: 1e-140}


def knn_scores(
    bank: ArrayLike,
    bank_labels: ArrayLike,
    query: ArrayLike,
    k: int = 200,
    temperature: float = 0.1,
    num_classes: int | None = None,
) -> FloatArray:
    """Share of the votes of the ``k`` nearest neighbours that each class gets.

    Neighbours are nearest by cosine similarity and vote with weight ``exp(cosine / temperature)`` (Wu et al. 2018,
    section 3.4). Embeddings of single or half precision are compared in single precision, others in double.

    Args:
        bank: embeddings with known labels, shape (M, D).
        bank_labels: class indices (M,), not negative; or a 0/1 table (M, C) where an image may carry several labels.
        query: embeddings to classify, shape (N, D).
        k: number of neighbours; the whole bank where it is smaller.
        temperature: of the votes, above 0.
        num_classes: number of columns; ``None`` takes the largest label + 1 (a table has its own number).

    Returns:
        Shape (N, C), float64. Rows add up to 1 for class indices; for a table each column is the weighted share of the
        neighbours that carry the label.

    Raises:
        ValueError: for shapes that do not fit, values that are not finite, a row of zeros, labels out of range, ``k``
            below 1 or ``temperature`` not above 0.
    """
    known, asked = _unit_tensors(bank, query)
    votes_for = _vote_labels(bank_labels, num_classes)
    check_same_length(bank=known, bank_labels=votes_for)
    if isinstance(k, bool) or int(k) != k or k < 1:
        raise ValueError(f"k: expected a whole number of at least 1, got {k!r}")
    _check_positive(temperature, "temperature")
    k, labels = min(int(k), len(known)), torch.from_numpy(votes_for)
    several = labels.dim() == 2
    classes = labels.shape[1] if several else max(int(labels.max()) + 1, num_classes or 0)
    scores = np.empty((len(asked), classes))
    step = max(1, _CHUNK // len(known))
    cosines = _products(known)
    for start in range(0, len(asked), step):
        similarity = cosines(asked[start : start + step])
        nearest = _largest(similarity, k)
        near = similarity.gather(1, nearest)
        # relative to the nearest, so that a small temperature neither overflows nor leaves no vote at all
        weights = ((near - near.amax(dim=1, keepdim=True)) / temperature).exp_().double()
        weights /= weights.sum(dim=1, keepdim=True)
        if several:
            votes = torch.einsum("nk,nkc->nc", weights, labels[nearest].double())
        else:
            votes = torch.zeros(len(near), classes, dtype=torch.float64).scatter_add_(1, labels[nearest], weights)
        scores[start : start + step] = votes.numpy()
    return scores


def knn_accuracy(
    bank: ArrayLike,
    bank_labels: ArrayLike,
    query: ArrayLike,
    query_labels: ArrayLike,
    k: int = 200,
    temperature: float = 0.1,
) -> float:
    """Share of the queries whose ``k`` nearest neighbours in the bank vote for their class.

    The votes are those of :func:`knn_scores`; of classes with equal votes the lowest index wins.

    Args:
        bank: embeddings with known labels, shape (M, D).
        bank_labels: class indices, shape (M,), not negative.
        query: embeddings to classify, shape (N, D).
        query_labels: class indices, shape (N,).
        k: number of neighbours; the whole bank where it is smaller.
        temperature: of the votes, above 0.

    Raises:
        ValueError: as :func:`knn_scores`.
    """
    truth = _labels(query_labels, "query_labels")
    _labels(bank_labels, "bank_labels")
    check_same_length(query=np.asarray(query), query_labels=truth)
    return float((knn_scores(bank, bank_labels, query, k, temperature).argmax(axis=1) == truth).mean())


def _products(known: Tensor) -> Callable[[Tensor], Tensor]:
    """What multiplies rows (N, D) by those of the bank, (N, M)."""
    if known.dtype is torch.float32 and torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        # oneDNN's kernel: a quarter less time than torch's own product, which is MKL's, on a processor of AMD's
        packed = known.to_mkldnn()
        return lambda rows: torch.nn.functional.linear(rows.to_mkldnn(), packed).to_dense()
    return lambda rows: rows @ known.T


def _largest(similarity: Tensor, k: int) -> Tensor:
    """Columns of the ``k`` largest values of each row, in no order."""
    columns = similarity.shape[1]
    if k == columns:
        return torch.arange(columns).expand(len(similarity), -1)
    # half the time of torch.topk on a processor, which sorts what need not be sorted
    return torch.from_numpy(np.argpartition(similarity.numpy(), columns - k, axis=1)[:, columns - k :].copy())


def _vote_labels(values: ArrayLike, num_classes: int | None) -> IntArray:
    if np.ndim(values) == 2:
        table = as_binary(values, "bank_labels")
        if num_classes not in (None, table.shape[1]):
            raise ValueError(f"bank_labels has {table.shape[1]} columns; expected {num_classes}")
        return table
    labels = _whole(values, "bank_labels")
    if labels.ndim != 1:
        raise ValueError(f"bank_labels has shape {labels.shape}; expected class indices (M,) or a table (M, C)")
    if labels.min() < 0:
        raise ValueError(f"bank_labels holds {labels.min()}; an unknown label cannot vote, leave those rows out")
    return labels if num_classes is None else as_classes(labels, num_classes, "bank_labels")


def _unit_tensors(bank: ArrayLike, query: ArrayLike) -> tuple[Tensor, Tensor]:
    """Unit rows of both, in one precision."""
    given: dict[str, NDArray[np.generic]] = {"bank": np.asarray(bank), "query": np.asarray(query)}
    single = all(values.dtype in (np.float16, np.float32) for values in given.values())
    units = []
    for name, values in given.items():
        if values.ndim != 2 or not values.size:
            raise ValueError(f"{name} has shape {values.shape}; expected (N, D) with at least one row and feature")
        rows = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32 if single else np.float64))
        lengths = rows.norm(dim=1, keepdim=True)
        if not (lengths > _SMALL[rows.dtype]).all() or not (lengths < 1 / _SMALL[rows.dtype]).all():
            rows = _in_range(rows, name)  # squares that leave the range, zeros, or what is not finite
            lengths = rows.norm(dim=1, keepdim=True)
        units.append(rows / lengths)
    if units[0].shape[1] != units[1].shape[1]:
        raise ValueError(f"bank has {units[0].shape[1]} features and query {units[1].shape[1]}; expected the same")
    return units[0], units[1]


def _in_range(rows: Tensor, name: str) -> Tensor:
    """Rows divided by their largest value, so that their squares stay in the range of their precision."""
    bad = int((~rows.isfinite()).sum())
    if bad:
        raise ValueError(f"{name} holds {bad} values that are NaN or infinite")
    largest = rows.abs().amax(dim=1, keepdim=True)
    if not largest.all():
        raise ValueError(f"{name}: row {int((largest == 0).nonzero()[0, 0])} is zero and has no direction")
    return rows / largest
