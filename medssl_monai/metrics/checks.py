"""Checks shared by the metrics: shapes, labels, scores; every message says what was found and what was expected."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


def as_scores(values: ArrayLike, name: str = "y_score", ndim: tuple[int, ...] = (1, 2)) -> FloatArray:
    """Finite float64 scores of one of the allowed numbers of dimensions.

    Raises:
        ValueError: for an empty array, another number of dimensions, or NaN and infinity.
    """
    scores = np.asarray(values, dtype=np.float64)
    if scores.ndim not in ndim:
        wanted = " or ".join({1: "(N,)", 2: "(N, C)"}[n] for n in ndim)
        raise ValueError(f"{name} has shape {scores.shape}; expected {wanted}")
    if scores.size == 0:
        raise ValueError(f"{name} is empty (shape {scores.shape}): there is nothing to evaluate")
    bad = int((~np.isfinite(scores)).sum())
    if bad:
        raise ValueError(f"{name} holds {bad} values that are NaN or infinite; every case needs a finite score")
    return scores


def as_probabilities(values: ArrayLike, name: str = "probabilities") -> FloatArray:
    """Probabilities (N, C) with C >= 2 whose rows add up to 1 (to 1e-3).

    Raises:
        ValueError: for another shape, values outside [0, 1] or rows that do not add up to 1 (logits, for example).
    """
    scores = as_scores(values, name, ndim=(2,))
    if scores.shape[1] < 2:
        raise ValueError(f"{name} has shape {scores.shape}; expected (N, C) with at least two classes")
    totals = scores.sum(axis=1)
    if scores.min() < 0 or scores.max() > 1 + 1e-6 or np.abs(totals - 1).max() > 1e-3:
        raise ValueError(
            f"{name} are not probabilities: values from {scores.min():.4g} to {scores.max():.4g}, row sums from "
            f"{totals.min():.4g} to {totals.max():.4g}; apply softmax to logits first"
        )
    return scores


def _whole(values: ArrayLike, name: str) -> IntArray:
    labels = np.asarray(values)
    if labels.size == 0:
        raise ValueError(f"{name} is empty: there is nothing to evaluate")
    if labels.dtype == np.bool_:
        return labels.astype(np.int64)
    if not (np.issubdtype(labels.dtype, np.integer) or np.issubdtype(labels.dtype, np.floating)):
        raise ValueError(f"{name} must be whole numbers; found {labels.dtype}, such as {labels.ravel()[0]!r}")
    broken = labels[np.mod(labels, 1) != 0]
    if len(broken):
        raise ValueError(f"{name} must be whole numbers; found {broken[0]!s}")
    return labels.astype(np.int64)


def as_binary(values: ArrayLike, name: str = "y_true") -> IntArray:
    """Labels 0/1 of shape (N,) or (N, C).

    Raises:
        ValueError: when another value occurs.
    """
    labels = _whole(values, name)
    found = np.unique(labels)
    if found[0] < 0 or found[-1] > 1:
        raise ValueError(f"{name} holds labels {_some(found)}; a binary metric expects 0 and 1 only")
    return labels


def as_classes(values: ArrayLike, num_classes: int, name: str = "y_true") -> IntArray:
    """Class indices (N,) in ``range(num_classes)``.

    Raises:
        ValueError: for another shape or an index outside the range.
    """
    labels = _whole(values, name)
    if labels.ndim != 1:
        raise ValueError(f"{name} has shape {labels.shape}; expected class indices of shape (N,)")
    found = np.unique(labels)
    if found[0] < 0 or found[-1] >= num_classes:
        raise ValueError(f"{name} holds labels {_some(found)}; expected class indices 0 to {num_classes - 1}")
    return labels


def check_same_length(**arrays: Any) -> None:
    """Raise ``ValueError`` unless all named arrays have the same number of cases."""
    lengths = {name: len(array) for name, array in arrays.items() if array is not None}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise ValueError(f"every case needs one entry in each: {found}")


def check_class_names(class_names: Sequence[str], num_classes: int) -> list[str]:
    """Class names as a list; ``ValueError`` when their number differs from the columns or a name occurs twice."""
    names = [str(name) for name in class_names]
    if len(names) != num_classes:
        raise ValueError(f"{len(names)} class names {names} for {num_classes} columns of probabilities")
    if len(set(names)) != len(names):
        raise ValueError(f"class names must differ; found {names}")
    return names


def check_fraction(value: float, name: str) -> float:
    """``value`` when it lies in [0, 1], else ``ValueError``."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is {value}; expected a number from 0 to 1")
    return float(value)


def one_vs_rest(y_true: ArrayLike, num_classes: int) -> BoolArray:
    """Truth table (N, C): class indices (N,) as one-hot rows; a 0/1 table (N, C) (several labels a case) as it is."""
    if np.ndim(y_true) == 2:
        table = as_binary(y_true)
        if table.shape[1] != num_classes:
            raise ValueError(f"y_true has {table.shape[1]} columns; the scores have {num_classes}")
        return table.astype(np.bool_)
    labels = as_classes(y_true, num_classes)
    return np.asarray(labels[:, None] == np.arange(num_classes))


def _some(found: NDArray[Any]) -> str:
    text = ", ".join(str(value) for value in found[:8])
    return text + (", ..." if len(found) > 8 else "")
