"""Weighted kNN against lightly's ``knn_predict`` and scikit-learn's classifier: a bank of 20,000, 2,000 queries."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from benchmarks.harness import Row, alone, paired
from medssl_monai.metrics import knn_scores

_TEMPERATURE = 0.1


def knn(tiny: bool = False) -> list[Row]:
    """Scores of every class; the peers' are compared by the class they name."""
    size, queries, width, k, repeats = (60, 12, 8, 20, 1) if tiny else (20_000, 2_000, 512, 200, 5)
    rows = []
    for classes in (3,) if tiny else (10, 200):
        bank, bank_labels, query = _embeddings(size, queries, width, classes)
        ours = partial(knn_scores, bank.numpy(), bank_labels.numpy(), query.numpy(), k, _TEMPERATURE, classes)
        called = ours().argmax(axis=1)
        what = f"{size:,} x {width} embeddings, {queries:,} queries, k = {k}, {classes} classes"
        peers = _peers(bank, bank_labels, query, k, classes)
        if len(peers) == 1:
            rows.append(Row("knn", what, alone(ours, repeats)))
        for name, peer in peers.items():
            share = float((peer() == called).mean())
            np.testing.assert_array_less(0.999, share, f"{name} names other classes")
            pairs = paired(ours, peer, repeats)
            first = name.startswith("lightly") and classes == 200
            goal = "1.5 times or more" if first else None
            met = None if goal is None or tiny else sorted(pairs.ratios)[len(pairs.ratios) // 2] >= 1.5
            rows.append(pairs.row("knn", what, name, "class named, 99.9 % of the queries", goal=goal, met=met))
    return rows


def _embeddings(size: int, queries: int, width: int, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(classes)
    centres = torch.randn(classes, width, generator=generator)
    labels, asked = (torch.randint(classes, (n,), generator=generator) for n in (size, queries))
    bank, query = (
        torch.nn.functional.normalize(centres[which] + 3 * torch.randn(len(which), width, generator=generator), dim=1)
        for which in (labels, asked)
    )
    return bank, labels, query


def _peers(
    bank: Tensor, bank_labels: Tensor, query: Tensor, k: int, classes: int
) -> dict[str, Callable[[], NDArray[Any]]]:
    """The class each peer names; lightly's where it is installed, from its one file, which asks for nothing else."""
    model = KNeighborsClassifier(
        k, weights=lambda distance: np.exp((1 - distance) / _TEMPERATURE), metric="cosine", algorithm="brute"
    )

    def scikit_learn() -> NDArray[Any]:
        return np.asarray(model.fit(bank.numpy(), bank_labels.numpy()).predict(query.numpy()))

    peers: dict[str, Callable[[], NDArray[Any]]] = {"scikit-learn `KNeighborsClassifier`": scikit_learn}
    predict = _lightly()
    if predict is not None:

        def lightly() -> NDArray[Any]:
            # in batches of 256, as its online evaluation asks: the votes of all queries at once would take 320 MB
            parts = torch.split(query, 256)
            named = [predict(part, bank.T, bank_labels, classes, k, _TEMPERATURE)[:, 0] for part in parts]
            return torch.cat(named).numpy()

        peers["lightly `knn_predict`"] = lightly
    return peers


def _lightly() -> Callable[..., Tensor] | None:
    found = importlib.util.find_spec("lightly")
    if found is None or not found.submodule_search_locations:
        return None
    path = Path(found.submodule_search_locations[0]) / "utils" / "benchmarking" / "knn.py"
    spec = importlib.util.spec_from_file_location("lightly_knn", path)
    if spec is None or spec.loader is None or not path.is_file():
        return None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    predict: Callable[..., Tensor] = module.knn_predict
    return predict
