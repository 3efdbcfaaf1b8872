"""Files of predictions: probabilities from logits, CSV tables, names of the files of each split."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medssl_monai.core import atomic_path

TEST = "test"


def split_file(name: str, split: str) -> str:
    """Name of a result file of a split: those of another split than ``test`` begin with its name."""
    return name if split == TEST else f"{split}_{name}"


def class_probabilities(
    logits: np.ndarray, temperature: float | Sequence[float] | None = None, exclusive: bool = True
) -> np.ndarray:
    """Probabilities (N, C) of logits (N, C) in float64: softmax of exclusive classes, sigmoid of labels.

    Args:
        logits: outputs of the network.
        temperature: logits are divided by it; of labels one each; ``None`` leaves them.
        exclusive: the outputs are exclusive classes.
    """
    scores = torch.from_numpy(logits).double()
    if temperature is not None:
        scores = scores / torch.as_tensor(temperature, dtype=torch.float64)
    return (torch.softmax(scores, dim=-1) if exclusive else torch.sigmoid(scores)).numpy()


def write_predictions(
    path: str | Path,
    names: Sequence[str],
    probabilities: np.ndarray,
    class_names: Sequence[str],
    columns: Mapping[str, Sequence[Any]] | None = None,
) -> None:
    """Write one row an image: name, further columns, the most probable class, the probability of each class.

    Args:
        path: the CSV file.
        names: N names.
        probabilities: (N, C).
        class_names: C names.
        columns: further columns of N values, after the name.
    """
    columns = columns or {}
    best = probabilities.argmax(axis=1)
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["image", *columns, "predicted", *(f"probability_{name}" for name in class_names)])
        for row, name in enumerate(names):
            further = [values[row] for values in columns.values()]
            writer.writerow([name, *further, class_names[best[row]], *(f"{p:.9g}" for p in probabilities[row])])


def write_label_predictions(
    path: str | Path,
    names: Sequence[str],
    probabilities: np.ndarray,
    called: np.ndarray,
    class_names: Sequence[str],
    columns: Mapping[str, Sequence[Any]] | None = None,
    truth: np.ndarray | None = None,
) -> None:
    """Write one row an image of labels that are each there or not.

    Columns are the name, further columns, ``label_NAME`` of each label where the truth is known, ``predicted_NAME``
    and ``probability_NAME``.

    Args:
        path: the CSV file.
        names: N names.
        probabilities: (N, L).
        called: (N, L), whether the label is called.
        class_names: L names.
        columns: further columns of N values, after the name.
        truth: 0/1 table (N, L).
    """
    columns = columns or {}
    tables = {} if truth is None else {"label": np.asarray(truth)}
    tables["predicted"] = called
    header = [f"{kind}_{name}" for kind in (*tables, "probability") for name in class_names]
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["image", *columns, *header])
        for row, name in enumerate(names):
            further = [values[row] for values in columns.values()]
            whole = [int(value) for table in tables.values() for value in table[row]]
            writer.writerow([name, *further, *whole, *(f"{p:.9g}" for p in probabilities[row])])
