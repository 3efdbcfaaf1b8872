"""Metrics of embeddings against float64 loops, scikit-learn and hand-worked cases."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ortho_group
from sklearn.neighbors import KNeighborsClassifier

from medssl_monai.metrics import (
    alignment,
    collapse_warning,
    effective_rank,
    embedding,
    knn_accuracy,
    spread,
    tolerance,
    uniformity,
)


@pytest.fixture(autouse=True, params=[None, 24], ids=["one chunk", "many chunks"])
def _chunks(request, monkeypatch):
    """Every formula through one chunk of rows and through many."""
    if request.param:
        monkeypatch.setattr(embedding, "_CHUNK", request.param)


def points(n=13, d=5, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d)) + 0.5


def unit(row):
    return [value / math.sqrt(sum(v * v for v in row)) for value in row]


def dot(a, b):
    return sum(x * y for x, y in zip(a, b))


class TestEffectiveRank:
    def test_hand_worked(self):
        """Singular values 3 and 1: shares 3/4 and 1/4."""
        expected = math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
        assert effective_rank([[3.0, 0.0], [0.0, 1.0]]) == pytest.approx(expected, rel=1e-12)

    def test_is_the_entropy_of_the_singular_values(self):
        z = points(40, 6)
        sigma = np.sqrt(np.linalg.eigvalsh(z.T @ z))
        share = sigma / sigma.sum()
        assert effective_rank(z) == pytest.approx(math.exp(-sum(p * math.log(p) for p in share)), rel=1e-9)

    @pytest.mark.parametrize("k", [1, 3, 6])
    def test_counts_equal_directions(self, k):
        z = ortho_group.rvs(6, random_state=1)[:k]
        assert effective_rank(z) == pytest.approx(k, rel=1e-12)

    def test_many_rows_go_through_a_chunked_decomposition(self):
        """More rows than a chunk: the value is that of one decomposition of all of them."""
        z = points(9001, 4) @ np.diag([1.0, 0.5, 0.1, 1e-6])
        sigma = np.linalg.svd(z, compute_uv=False)
        share = sigma / sigma.sum()
        assert effective_rank(z) == pytest.approx(math.exp(-(share * np.log(share)).sum()), rel=1e-9)

    def test_centring_leaves_the_variation(self):
        z = np.outer(np.linspace(-1, 1, 20), [1.0, 2.0, 0.0]) + np.array([0.0, 0.0, 7.0])
        assert effective_rank(z) > 1.2
        assert effective_rank(z, center=True) == pytest.approx(1.0, abs=1e-6)

    def test_nothing_but_zeros(self):
        assert effective_rank(np.zeros((4, 3))) == 0.0
        assert effective_rank(np.ones((4, 3)), center=True) == 0.0

    @given(st.integers(0, 10**6), st.floats(0.01, 100))
    def test_scale_and_order_do_not_matter(self, seed, scale):
        z = points(11, 4, seed)
        order = np.random.default_rng(seed).permutation(11)
        assert effective_rank(z[order] * scale) == pytest.approx(effective_rank(z), rel=1e-9)


def test_spread_of_all_directions_alike_is_one_over_root_d():
    z = np.random.default_rng(0).normal(size=(20000, 16))
    assert spread(z) == pytest.approx(1 / 4, rel=0.01)
    assert spread(np.outer([1.0, 2.0, 5.0], [1.0, 2.0])) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("alpha", [2.0, 1.0])
def test_alignment_by_a_loop(alpha):
    a, b = points(), points(seed=1)
    total = 0.0
    for x, y in zip(a, b):
        total += math.sqrt(sum((p - q) ** 2 for p, q in zip(unit(x), unit(y)))) ** alpha
    assert alignment(a, b, alpha) == pytest.approx(total / len(a), rel=1e-12)
    assert alignment(a, 3 * a, alpha) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("t", [2.0, 0.5])
def test_uniformity_by_a_loop(t):
    z = points()
    rows = [unit(row) for row in z]
    values = [
        math.exp(-t * sum((p - q) ** 2 for p, q in zip(rows[i], rows[j])))
        for i in range(len(rows))
        for j in range(len(rows))
        if i != j
    ]
    assert uniformity(z, t) == pytest.approx(math.log(sum(values) / len(values)), rel=1e-12)


def test_uniformity_of_opposite_points():
    """Two antipodes: squared distance 4."""
    assert uniformity([[1.0, 0.0], [-2.0, 0.0]]) == pytest.approx(-8.0)


def test_tolerance_by_a_loop():
    z, labels = points(), np.array([0, 1, 2, 0, 1, 2, 0, 0, 4, -1, -1, 1, 2])
    rows = [unit(row) for row in z]
    similar = [
        dot(rows[i], rows[j])
        for i in range(len(rows))
        for j in range(len(rows))
        if i != j and labels[i] == labels[j] >= 0
    ]
    assert tolerance(z, labels) == pytest.approx(sum(similar) / len(similar), rel=1e-12)


def test_tolerance_without_a_pair_is_undefined():
    assert math.isnan(tolerance(points(3), [0, 1, 2]))


class TestNeighbours:
    def loop(self, bank, bank_labels, query, query_labels, k, temperature):
        correct = 0
        for q, truth in zip(query, query_labels):
            near = sorted(((dot(unit(q), unit(b)), c) for b, c in zip(bank, bank_labels)), key=lambda pair: -pair[0])
            votes = {}
            for cosine, c in near[:k]:
                votes[c] = votes.get(c, 0.0) + math.exp(cosine / temperature)
            correct += min(votes, key=lambda c: (-votes[c], c)) == truth
        return correct / len(query)

    @pytest.mark.parametrize(("k", "temperature"), [(1, 0.1), (7, 0.1), (7, 1.0), (200, 0.07)])
    def test_by_a_loop(self, k, temperature):
        rng = np.random.default_rng(0)
        bank, query = points(60, 4, 1), points(35, 4, 2)
        labels, truth = rng.integers(0, 5, 60), rng.integers(0, 5, 35)
        expected = self.loop(bank, labels, query, truth, k, temperature)
        assert 0 < expected < 1
        assert knn_accuracy(bank, labels, query, truth, k, temperature) == expected

    def test_as_scikit_learn_weighs(self):
        rng = np.random.default_rng(3)
        bank, query = points(80, 4, 1), points(40, 4, 2)
        labels, truth = rng.integers(0, 4, 80), rng.integers(0, 4, 40)
        model = KNeighborsClassifier(9, weights=lambda d: np.exp((1 - d) / 0.2), metric="cosine", algorithm="brute")
        assert knn_accuracy(bank, labels, query, truth, 9, 0.2) == model.fit(bank, labels).score(query, truth)

    def test_a_small_temperature_is_the_nearest_neighbour(self):
        rng = np.random.default_rng(3)
        bank, query = points(80, 4, 1), points(40, 4, 2)
        labels, truth = rng.integers(0, 4, 80), rng.integers(0, 4, 40)
        assert knn_accuracy(bank, labels, query, truth, 80, 1e-6) == knn_accuracy(bank, labels, query, truth, 1)

    def test_default_k_is_cut_to_the_bank(self):
        assert knn_accuracy([[1.0, 0.0], [0.0, 1.0]], [1, 0], [[0.9, 0.1]], [1]) == 1.0

    @pytest.mark.parametrize("dtype", [np.float16, np.float32])
    def test_in_single_precision(self, dtype):
        """Clusters that no rounding moves: the same as in double precision."""
        rng = np.random.default_rng(0)
        labels, truth = rng.integers(0, 3, 60), rng.integers(0, 3, 30)
        bank = (3 * np.eye(3)[labels] + 0.3 * rng.normal(size=(60, 3))).astype(dtype)
        query = (3 * np.eye(3)[(truth + (np.arange(30) < 6)) % 3] + 0.3 * rng.normal(size=(30, 3))).astype(dtype)
        assert knn_accuracy(bank, labels, query, truth, 5) == 0.8
        assert knn_accuracy(bank.astype(float), labels, query.astype(float), truth, 5) == 0.8

    def test_tensors_are_taken(self):
        assert knn_accuracy(torch.eye(2), torch.tensor([0, 1]), torch.eye(2), torch.tensor([0, 1]), k=1) == 1.0


class TestCollapse:
    def test_healthy_embeddings(self):
        assert collapse_warning(points(200, 16)) is None

    def test_features_with_a_large_common_part_are_healthy(self):
        """Mean cosine about 0.95, as behind a ReLU."""
        z = np.random.default_rng(0).normal(size=(200, 16)) + 4.4
        assert 0.9 < tolerance(z, np.zeros(200, dtype=int)) < 0.97
        assert collapse_warning(z) is None

    def test_two_separate_classes_are_healthy(self):
        rng = np.random.default_rng(0)
        z = np.array([[2.0, 0, 0, 0], [0, 2.0, 0, 0]])[rng.integers(0, 2, 100)] + 0.2 * rng.normal(size=(100, 4))
        assert collapse_warning(z) is None

    def test_one_way(self):
        z = np.ones((50, 8)) + 1e-3 * np.random.default_rng(0).normal(size=(50, 8))
        assert re.match(r"the embeddings have collapsed: they all point .* mean cosine 1\.0000", collapse_warning(z))

    def test_one_direction(self):
        z = np.outer(np.linspace(0, 3, 50), [1.0, 0, 0, 0]) + np.array([0.0, 1.0, 0, 0])
        assert re.match(
            r"the embeddings have collapsed to one direction \(effective rank 1\.00 of 4\)", collapse_warning(z)
        )

    def test_not_finite(self):
        z = points(20)
        z[3, 1] = np.nan
        assert collapse_warning(z) == "1 of 20 embeddings are not finite"

    def test_zeros(self):
        z = points(20)
        z[:2] = 0
        assert collapse_warning(z) == "2 of 20 embeddings are zero: the encoder is blind to these images"

    def test_few_say_nothing(self):
        assert collapse_warning(np.ones((9, 3))) is None
        assert collapse_warning(np.ones((10, 3))) is not None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: effective_rank(np.ones(3)), r"embeddings has shape \(3,\); expected \(N, D\)"),
        (lambda: effective_rank([[1.0, np.inf]]), "embeddings holds 1 values that are NaN or infinite"),
        (lambda: spread([[0.0, 0.0], [1.0, 0.0]]), "embeddings: row 0 is zero and has no direction"),
        (lambda: alignment(points(3), points(4)), r"z1 has shape \(3, 5\) and z2 \(4, 5\)"),
        (lambda: alignment(points(3), points(3), 0), "alpha: expected a finite number above 0, got 0"),
        (lambda: uniformity(points(1)), "expected two embeddings or more, got 1"),
        (lambda: uniformity(points(3), -1.0), "t: expected a finite number above 0, got -1.0"),
        (lambda: tolerance(points(3), [0, 1]), "z has 3, labels has 2"),
        (lambda: tolerance(points(3), [[0], [1], [1]]), r"labels has shape \(3, 1\)"),
        (lambda: knn_accuracy(points(3), [0, 1, -1], points(3), [0, 1, 1]), "an unknown label cannot vote"),
        (lambda: knn_accuracy(points(3), [0, 1, 1], points(3, 4), [0, 1, 1]), "bank has 5 features and query 4"),
        (lambda: knn_accuracy(points(3), [0, 1], points(3), [0, 1, 1]), "bank has 3, bank_labels has 2"),
        (lambda: knn_accuracy(points(3), [0, 1, 1], points(3), [0, 1, 1], k=0), "k: expected a whole number"),
        (lambda: knn_accuracy(points(3), [0, 1, 1], points(3), [0, 1, 1], 1, 0), "temperature: expected a finite"),
        (lambda: collapse_warning(np.ones(3)), r"embeddings has shape \(3,\)"),
    ],
)
def test_what_cannot_be_computed_is_said(call, message):
    with pytest.raises(ValueError, match=message):
        call()
