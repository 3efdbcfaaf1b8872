"""The choice of cases to label: against brute force, and against random and pure uncertainty on built embeddings."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medssl_monai.metrics import choose_batch, coverage_radius, embedding, predictive_entropy


def names(n):
    return [f"c{i:03d}.png" for i in range(n)]


def unit(row):
    length = math.sqrt(sum(v * v for v in row))
    return [v / length for v in row]


def brute_force(z, u, labels_of, k, labelled=(), subjects=None, per_subject=None, floor=0.1):
    """The rule by loops over plain lists, written from its statement."""
    z, centres = [unit(row) for row in z], [unit(row) for row in labelled]
    chosen, taken = [], {}
    while len(chosen) < k:
        best = None
        for i in range(len(z)):
            if i in chosen or (subjects is not None and taken.get(subjects[i], 0) >= per_subject):
                continue
            near = min((math.dist(z[i], c) for c in centres), default=None)
            weight = floor + (1 - floor) * u[i]
            score = weight if near is None else weight * near
            key = (-round(score, 8), -u[i], labels_of[i])
            if best is None or key < best[0]:
                best = (key, i)
        if best is None:
            break
        chosen.append(best[1])
        centres.append(z[best[1]])
        if subjects is not None:
            taken[subjects[best[1]]] = taken.get(subjects[best[1]], 0) + 1
    return chosen


@pytest.fixture(autouse=True, params=[None, 24], ids=["one chunk", "many chunks"], scope="module")
def _chunks(request):
    """Distances to the labelled cases through one chunk of rows and through many."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param:
            patch.setattr(embedding, "_CHUNK", request.param)
        yield


class TestEntropy:
    def test_exclusive_classes(self):
        p = [[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3]]
        assert predictive_entropy(p) == pytest.approx([math.log(2) / math.log(3), 0.0, 1.0], abs=1e-12)

    def test_several_labels(self):
        def bits(q):
            return -q * math.log2(q) - (1 - q) * math.log2(1 - q)

        p = [[0.5, 0.5], [1.0, 0.0], [0.9, 0.2]]
        assert predictive_entropy(p, exclusive=False) == pytest.approx([1.0, 0.0, (bits(0.9) + bits(0.2)) / 2])

    def test_logits_are_refused(self):
        with pytest.raises(ValueError, match="are not probabilities"):
            predictive_entropy([[2.0, -1.0]])
        with pytest.raises(ValueError, match="expected 0 to 1"):
            predictive_entropy([[2.0, -1.0]], exclusive=False)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(0, 4), st.integers(1, 12), st.booleans())
def test_is_the_brute_force_rule(seed, n_labelled, k, by_subject):
    rng = np.random.default_rng(seed)
    z, u, labelled = rng.normal(size=(15, 3)), rng.random(15), rng.normal(size=(n_labelled, 3))
    subjects = [f"s{i % 6}" for i in range(15)] if by_subject else None
    per_subject = 2 if by_subject else None
    choice = choose_batch(z, u, names(15), k, labelled=labelled, subjects=subjects, per_subject=per_subject)
    expected = brute_force(z, u, names(15), k, labelled, subjects, per_subject)
    assert choice.indices.tolist() == expected
    if by_subject:
        assert max(np.unique([subjects[i] for i in choice.indices], return_counts=True)[1]) <= 2
    distances = [min((math.dist(unit(a), unit(b)) for b in labelled), default=math.inf) for a in z]
    assert choice.to_labelled == pytest.approx(distances, abs=1e-6)


@pytest.mark.parametrize("seed", range(8))
def test_covering_radius_is_within_twice_the_best(seed):
    """The bound of greedy k-centre, against every possible choice of 3 of 12."""
    z = np.random.default_rng(seed).normal(size=(12, 2))
    choice = choose_batch(z, np.zeros(12), names(12), 3, strategy="coverage")
    best = min(coverage_radius(z, z[list(three)]) for three in combinations(range(12), 3))
    assert coverage_radius(z, z[choice.indices]) <= 2 * best + 1e-9


def scene():
    """Six clusters of 50; the largest uncertainties all lie in the first, which is labelled already."""
    rng = np.random.default_rng(0)
    centres = np.eye(6)
    cluster = np.repeat(np.arange(6), 50)
    z = centres[cluster] + 0.05 * rng.normal(size=(300, 6))
    u = np.where(cluster == 0, rng.uniform(0.8, 1.0, 300), rng.uniform(0.3, 0.7, 300))
    labelled = centres[[0, 0]] + 0.05 * rng.normal(size=(2, 6))
    return z, u, cluster, labelled


class TestAgainstSimplerRules:
    def test_every_unlabelled_cluster_is_asked_for_first(self):
        z, u, cluster, labelled = scene()
        choice = choose_batch(z, u, names(300), 5, labelled=labelled)
        assert sorted(cluster[choice.indices]) == [1, 2, 3, 4, 5]

    def test_it_covers_better_than_random_and_than_uncertainty(self):
        z, u, cluster, labelled = scene()

        def radius(indices):
            return coverage_radius(z, np.vstack([labelled, z[indices]]))

        both = radius(choose_batch(z, u, names(300), 5, labelled=labelled).indices)
        unsure = choose_batch(z, u, names(300), 5, labelled=labelled, strategy="uncertainty").indices
        assert set(cluster[unsure]) == {0}  # what pure uncertainty asks for: five times the same
        rng = np.random.default_rng(1)
        chance = [radius(rng.choice(300, 5, replace=False)) for _ in range(200)]
        assert both < 0.5 < radius(unsure)
        assert both < np.quantile(chance, 0.1)

    def test_within_a_cluster_the_uncertain_one_is_preferred(self):
        """Weights matter: the mean uncertainty is above that of coverage alone."""
        z, u, _, labelled = scene()
        both = choose_batch(z, u, names(300), 20, labelled=labelled).indices
        coverage = choose_batch(z, u, names(300), 20, labelled=labelled, strategy="coverage").indices
        assert u[both].mean() > u[coverage].mean()

    def test_duplicates_are_not_asked_for(self):
        """Each candidate twice, and a copy of a labelled case: every copy comes last."""
        rng = np.random.default_rng(0)
        z = rng.normal(size=(10, 4))
        labelled = rng.normal(size=(1, 4))
        points = np.vstack([z, 2 * z, labelled])  # scaled copies have the same direction
        u = np.r_[rng.uniform(0.2, 0.9, 10), rng.uniform(0.2, 0.9, 10), 1.0]
        choice = choose_batch(points, u, names(21), 21, labelled=labelled)
        assert len({i % 10 for i in choice.indices[:10]}) == 10
        assert 20 not in choice.indices[:10]
        assert choice.distances[10:] == pytest.approx(0.0)

    def test_a_sure_but_far_case_is_asked_for(self):
        """The floor: certainty about something unseen does not hide it."""
        z, labelled = np.array([[1.0, 0.01], [1.0, -0.01], [-1.0, 0.0]]), [[1.0, 0.0]]
        assert choose_batch(z, [0.9, 0.9, 0.0], names(3), 1, labelled=labelled).indices.tolist() == [2]

    def test_a_case_ten_times_as_far_counts_like_an_uncertain_one(self):
        def chord(distance):
            angle = 2 * math.asin(distance / 2)
            return [math.cos(angle), math.sin(angle)]

        for far, first in ((0.99, 1), (1.01, 0)):
            z = np.array([chord(far), chord(-0.1)])
            assert choose_batch(z, [0.0, 1.0], names(2), 1, labelled=[[1.0, 0.0]]).indices.tolist() == [first]


class TestDeterminism:
    def test_ties_go_by_uncertainty_then_by_name(self):
        z, order = np.ones((4, 2)), ["d", "c", "b", "a"]
        assert choose_batch(z, [0.5, 0.5, 0.7, 0.5], order, 4).indices.tolist() == [2, 3, 1, 0]
        assert choose_batch(z, [0.5] * 4, order, 4, strategy="uncertainty").indices.tolist() == [3, 2, 1, 0]

    def test_the_order_of_the_candidates_does_not_matter(self):
        z, u, _, labelled = scene()
        order = np.random.default_rng(5).permutation(300)
        named = np.array(names(300))
        first = named[choose_batch(z, u, named, 20, labelled=labelled).indices]
        second = named[order][choose_batch(z[order], u[order], named[order], 20, labelled=labelled).indices]
        assert first.tolist() == second.tolist()

    def test_fewer_where_subjects_run_out(self):
        choice = choose_batch(np.eye(4), [0.5] * 4, names(4), 4, subjects=["a", "a", "b", "b"], per_subject=1)
        assert len(choice.indices) == 2

    def test_the_first_without_labels_is_the_most_uncertain(self):
        choice = choose_batch(np.eye(3), [0.1, 0.9, 0.5], names(3), 2)
        assert choice.indices.tolist() == [1, 2]
        assert math.isinf(choice.distances[0])
        assert choice.nearest_labelled.tolist() == [-1, -1, -1]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"uncertainty": [0.5, 1.5]}, "uncertainty reaches from 0.5 to 1.5; expected 0 to 1"),
        ({"k": 0}, "k: expected a whole number of at least 1, got 0"),
        ({"per_subject": 0, "subjects": ["a", "b"]}, "per_subject: expected a whole number"),
        ({"per_subject": 1}, "per_subject is given without the subjects"),
        ({"strategy": "luck"}, "unknown strategy 'luck'; expected one of uncertainty_coverage"),
        ({"floor": 0.0}, r"floor: expected a weight in \(0, 1\], got 0.0"),
        ({"names": ["a"]}, "names has 1"),
        ({"labelled": [[1.0, 0.0, 0.0]]}, "labelled cases have 3 features, candidates 2"),
    ],
)
def test_what_cannot_be_chosen_is_said(keys, message):
    given_ = {"candidates": np.eye(2), "uncertainty": [0.5, 0.5], "names": ["a", "b"], "k": 1, **keys}
    with pytest.raises(ValueError, match=message):
        choose_batch(**given_)
