"""Linear probe and support vector machine, against their optimality conditions and scikit-learn's own search."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from medssl_monai.metrics import fit_linear, linear_probe, linear_svm


def clusters(n, classes=3, d=6, noise=1.2, seed=0):
    """Embeddings around a centre for each class, on axes of very different scale."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    centres = np.random.default_rng(99).normal(size=(classes, d))
    return (centres[labels] + noise * rng.normal(size=(n, d))) * np.logspace(-2, 2, d) + 5.0, labels


@pytest.mark.parametrize("classes", [2, 3])
def test_the_probe_is_where_the_penalised_likelihood_has_no_slope(classes):
    x, y = clusters(90, classes)
    found = fit_linear("logistic", x, y, strengths=[0.3])
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    probabilities = []
    for row in z:
        logits = [sum(row[j] * found.weight[j, c] for j in range(len(row))) + found.bias[c] for c in range(classes)]
        total = sum(math.exp(v) for v in logits)
        probabilities.append([math.exp(v) / total for v in logits])
    np.testing.assert_allclose(found.scores(x), probabilities, rtol=1e-9)
    slope = z.T @ (np.array(probabilities) - np.eye(classes)[y])
    if classes == 2:  # scikit-learn penalises the one weight vector, ours holds half of it in each class
        np.testing.assert_allclose(slope[:, 1] + 2 * found.weight[:, 1] / 0.3, 0, atol=2e-2)
    else:
        np.testing.assert_allclose(slope + found.weight / 0.3, 0, atol=2e-2)
    assert np.abs(slope).max() > 0.5  # the penalty is felt
    assert (found.chosen_by, found.strength, found.converged) == ("given", 0.3, True)


@pytest.mark.parametrize("classes", [2, 4])
def test_scores_are_those_of_scikit_learn(classes):
    (x, y), (q, t) = clusters(120, classes), clusters(60, classes, seed=1)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000)).fit(x, y)
    result = linear_probe(x, y, q, t, strengths=[0.1])
    np.testing.assert_allclose(result.scores, model.predict_proba(q), atol=1e-6)
    assert result.accuracy == model.score(q, t)
    machine = make_pipeline(StandardScaler(), LinearSVC(C=0.1, random_state=0)).fit(x, y)
    found = linear_svm(x, y, q, t, strengths=[0.1])
    assert found.accuracy == machine.score(q, t)
    decision = machine.decision_function(q)
    ours = found.classifier.decision(q)
    if classes == 2:
        np.testing.assert_allclose(ours[:, 1] - ours[:, 0], decision, rtol=1e-6)
        assert roc_auc_score(t, found.scores[:, 1]) == roc_auc_score(t, decision)
    else:
        np.testing.assert_allclose(ours, decision, rtol=1e-6)


@pytest.mark.parametrize("kind", ["logistic", "svm"])
def test_validation_chooses_the_strength(kind):
    """Noise of many directions: a strongly held probe is better, by the criterion computed here again."""
    (x, y), (v, w) = clusters(40, 2, 30, 3.0), clusters(60, 2, 30, 3.0, seed=1)
    found = fit_linear(kind, x, y, validation=(v, w))
    assert found.chosen_by == "validation"
    by_hand = {}
    for strength in found.criteria:
        one = fit_linear(kind, x, y, strengths=[strength])
        p = one.scores(v)
        by_hand[strength] = (
            sum(math.log(row[k]) for row, k in zip(p, w)) / len(w) if kind == "logistic" else roc_auc_score(w, p[:, 1])
        )
    assert found.criteria == pytest.approx(by_hand, rel=1e-9)
    assert len(set(np.round(list(by_hand.values()), 6))) > 1
    assert by_hand[found.strength] == max(by_hand.values())
    assert found.strength == min(k for k, value in by_hand.items() if value == max(by_hand.values()))


def test_without_validation_folds_keep_subjects_together():
    """Five images a subject that are nearly the same: folds that divided subjects would favour the loosest probe."""
    rng = np.random.default_rng(0)
    subject = np.repeat(np.arange(30), 5)
    labels = subject % 2
    centres = rng.normal(size=(30, 40)) + 0.35 * labels[::5, None]
    x = centres[subject] + 1e-3 * rng.normal(size=(150, 40))
    together, divided = (fit_linear("logistic", x, labels, groups=g) for g in (list(subject), None))
    assert together.chosen_by == divided.chosen_by == "cross-validation"
    assert divided.strength > together.strength


def test_too_few_subjects_of_a_class_to_choose_by():
    x, y = clusters(9, 3)
    found = fit_linear("logistic", x, y, groups=[0, 1, 2] * 3)
    assert (found.chosen_by, found.strength, found.criteria) == ("default", 1.0, {})


def test_a_class_training_does_not_show():
    x, y = clusters(60, 2)
    scores = linear_probe(x, 2 * y, x, num_classes=4).scores
    assert scores.shape == (60, 4)
    assert scores[:, [1, 3]].max() < 1e-6
    np.testing.assert_allclose(scores.sum(axis=1), 1)


@pytest.mark.parametrize("probe", [linear_probe, linear_svm])
def test_several_labels_an_image_are_one_classifier_each(probe):
    x, y = clusters(80, 4)
    q, _ = clusters(30, 4, seed=1)
    table = np.stack([y >= 2, y % 2, np.zeros(80, int), np.ones(80, int)], axis=1).astype(int)
    result = probe(x, table, q, strengths=[0.1])
    assert result.accuracy is None
    for column in (0, 1):
        alone = probe(x, table[:, column], q, strengths=[0.1]).scores[:, 1]
        np.testing.assert_allclose(result.scores[:, column], alone, rtol=1e-6)
    assert result.scores[:, 2].max() < 1e-6  # always absent, always there
    assert result.scores[:, 3].min() > 1 - 1e-6
    chosen = probe(x, table[:, :2], q, validation=(q, table[:30, :2])).classifier
    assert chosen.chosen_by == "validation"


def test_balanced_weights_raise_the_rare_class():
    x, y = clusters(400, 2, noise=2.0)
    keep = (y == 0) | (np.arange(400) % 16 == 1)
    plain, balanced = (
        linear_probe(x[keep], y[keep], x, strengths=[1.0], class_weight=weight).scores[:, 1].mean()
        for weight in (None, "balanced")
    )
    assert plain < 0.3 < 0.4 < balanced


def test_a_feature_that_never_changes():
    x, y = clusters(60)
    constant = np.hstack([x, np.full((60, 1), 7.0), np.zeros((60, 1))])
    np.testing.assert_allclose(
        linear_probe(constant, y, constant, strengths=[1.0]).scores, linear_probe(x, y, x, strengths=[1.0]).scores,
        atol=1e-6,
    )  # fmt: skip


X, Y = clusters(12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: linear_probe(X, np.zeros(12, int), X), "all of one class: expected two or more"),
        (lambda: linear_probe(X, np.zeros((12, 2), int), X), "no label is both present and absent"),
        (lambda: linear_probe(X, Y[:5], X), "embeddings has 12, labels has 5"),
        (lambda: linear_probe(X, Y, X[:, :3]), "embeddings has 3 features; trained on 6"),
        (lambda: linear_probe(X, Y, X, strengths=[]), "strengths: expected finite numbers above 0"),
        (lambda: linear_svm(X, Y, X, strengths=[1, -1]), "strengths: expected finite numbers above 0"),
        (lambda: linear_probe(X, Y, X, num_classes=2), "expected class indices 0 to 1"),
        (lambda: linear_probe(X, Y, X, validation=(X, Y[:3])), "validation has 12, validation_labels has 3"),
        (lambda: linear_probe(X * np.nan, Y, X), "embeddings holds 72 values that are NaN"),
        (lambda: linear_probe(X, Y, X, Y[:4]), "query has 12, query_labels has 4"),
    ],
)
def test_what_cannot_be_computed_is_said(call, message):
    with pytest.raises(ValueError, match=message):
        call()
