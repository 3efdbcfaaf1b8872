"""Scores of weighted nearest neighbours, against a loop over the definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medssl_monai.metrics import knn, knn_accuracy, knn_scores


def points(n, d=5, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d)) + 0.5


def loop(bank, table, query, k, temperature):
    """Every vote by hand; ``table`` holds 0/1 rows."""
    scores = []
    for q in query:
        cosines = [float(b @ q) / math.sqrt(float(b @ b) * float(q @ q)) for b in bank]
        near = sorted(range(len(bank)), key=lambda i: -cosines[i])[:k]
        weights = [math.exp(cosines[i] / temperature) for i in near]
        votes = [sum(w * table[i][c] for w, i in zip(weights, near)) for c in range(len(table[0]))]
        scores.append([vote / sum(weights) for vote in votes])
    return np.array(scores)


@pytest.mark.parametrize("chunk", [40, 2**22])
@pytest.mark.parametrize(("k", "temperature"), [(1, 0.1), (7, 0.1), (7, 2.0), (200, 0.5)])
def test_the_definition(chunk, k, temperature, monkeypatch):
    monkeypatch.setattr(knn, "_CHUNK", chunk)
    bank, query = points(31, seed=1), points(17, seed=2)
    labels = np.random.default_rng(0).integers(0, 4, 31)
    expected = loop(bank, np.eye(4)[labels], query, k, temperature)
    np.testing.assert_allclose(knn_scores(bank, labels, query, k, temperature), expected, rtol=1e-9, atol=1e-14)
    np.testing.assert_allclose(knn_scores(bank, labels, query, k, temperature).sum(axis=1), 1, rtol=1e-12)


def test_several_labels_an_image():
    bank, query = points(31, seed=1), points(17, seed=2)
    table = np.random.default_rng(0).integers(0, 2, (31, 3))
    expected = loop(bank, table, query, 9, 0.3)
    np.testing.assert_allclose(knn_scores(bank, table, query, 9, 0.3), expected, rtol=1e-9, atol=1e-14)


def test_a_class_without_an_image_in_the_bank_has_its_column():
    scores = knn_scores(points(5), [0, 0, 2, 2, 0], points(3, seed=1), num_classes=5)
    assert scores.shape == (3, 5)
    assert (scores[:, [1, 3, 4]] == 0).all()


def test_small_temperatures_and_large_values_stay_finite():
    bank = 1e30 * points(20).astype(np.float32)
    scores = knn_scores(bank, np.arange(20) % 2, bank, 20, 1e-4)
    assert np.isfinite(scores).all()
    np.testing.assert_allclose(scores.max(axis=1), 1, atol=1e-6)  # each is its own nearest


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.floats(1e-3, 1e3))
def test_the_length_of_an_embedding_does_not_matter(seed, factor):
    bank, query = points(12, seed=seed), points(6, seed=seed + 1)
    labels = np.arange(12) % 3
    np.testing.assert_allclose(
        knn_scores(bank * factor, labels, query, 5), knn_scores(bank, labels, query / factor, 5), rtol=1e-6, atol=1e-9
    )


def test_single_precision_agrees_with_double():
    bank, query = points(400, 16, 1).astype(np.float32), points(50, 16, 2).astype(np.float32)
    labels = np.arange(400) % 7
    # all neighbours: no tie at the last place can be decided another way
    double = knn_scores(bank.astype(float), labels, query.astype(float), 400)
    np.testing.assert_allclose(knn_scores(bank, labels, query, 400), double, atol=1e-5)


def test_accuracy_counts_the_scores():
    bank, query = points(60, seed=1), points(40, seed=2)
    rng = np.random.default_rng(3)
    labels, truth = rng.integers(0, 3, 60), rng.integers(0, 3, 40)
    right = [int(np.argmax(row)) == label for row, label in zip(loop(bank, np.eye(3)[labels], query, 9, 0.1), truth)]
    assert knn_accuracy(bank, labels, query, truth, 9) == sum(right) / 40


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: knn_scores(points(3), [0, 1, -1], points(3)), "an unknown label cannot vote"),
        (lambda: knn_scores(points(3), [0, 1, 4], points(3), num_classes=3), "expected class indices 0 to 2"),
        (lambda: knn_scores(points(3), [[0, 2]] * 3, points(3)), "a binary metric expects 0 and 1 only"),
        (lambda: knn_scores(points(3), [[0, 1]] * 3, points(3), num_classes=3), "has 2 columns; expected 3"),
        (lambda: knn_scores(points(3), [[[0]]] * 3, points(3)), r"bank_labels has shape \(3, 1, 1\)"),
        (lambda: knn_scores(points(3), [0, 1], points(3)), "bank has 3, bank_labels has 2"),
        (lambda: knn_scores(points(3), [0, 1, 1], np.zeros((2, 5))), "query: row 0 is zero and has no direction"),
        (lambda: knn_scores(points(3), [0, 1, 1], np.full((2, 5), np.nan)), "query holds 10 values that are NaN"),
        (lambda: knn_scores(np.ones(3), [0, 1, 1], points(3)), r"bank has shape \(3,\)"),
        (lambda: knn_scores(points(3), [0, 1, 1], points(3), k=1.5), "k: expected a whole number"),
    ],
)
def test_what_cannot_be_computed_is_said(call, message):
    with pytest.raises(ValueError, match=message):
        call()
