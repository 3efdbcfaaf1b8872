"""Linear classifiers on frozen embeddings: logistic regression (the linear probe) and a linear support vector machine.

Features are standardised by the training embeddings. How strongly the weights are held small is chosen on validation
embeddings where there are some, else by cross-validation within the training subjects; test embeddings choose nothing.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypedDict, Unpack

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold
from sklearn.svm import LinearSVC

from medssl_monai.metrics.checks import FloatArray, IntArray, as_binary, as_classes, check_same_length, one_vs_rest
from medssl_monai.metrics.classification import macro_auroc
from medssl_monai.metrics.embedding import _embeddings
from medssl_monai.metrics.resampling import group_codes

Kind = Literal["logistic", "svm"]

#: strengths that are tried: inverse regularisation, scikit-learn's C, on standardised features
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
#: where nothing can be chosen: scikit-learn's own default
_PLAIN = 1.0
_FOLDS = 5
#: decision of a class that training has not shown, relative to the others: a probability of about 1e-13
_UNSEEN = 30.0


@dataclass(frozen=True)
class LinearClassifier:
    """A linear classifier of standardised embeddings.

    Attributes:
        mean: of the training embeddings, shape (D,).
        scale: their standard deviation, 1 where it is 0, shape (D,).
        weight: shape (D, C).
        bias: shape (C,).
        exclusive: an image is of one class; otherwise each column is a label of its own.
        strength: scikit-learn's C.
        chosen_by: ``validation``, ``cross-validation``, ``given`` or ``default`` (too few subjects to choose by).
        criteria: what each strength tried scored, higher is better: minus the log loss of a logistic regression, the
            macro AUROC of a support vector machine.
        converged: whether the solver came to its end.
    """

    mean: FloatArray
    scale: FloatArray
    weight: FloatArray
    bias: FloatArray
    exclusive: bool
    strength: float
    chosen_by: str = "given"
    criteria: dict[float, float] = field(default_factory=dict)
    converged: bool = True

    def decision(self, embeddings: ArrayLike) -> FloatArray:
        """Decision values (N, C) of embeddings (N, D).

        Raises:
            ValueError: for another shape or values that are not finite.
        """
        rows = _embeddings(embeddings, "embeddings")
        if rows.shape[1] != len(self.mean):
            raise ValueError(f"embeddings has {rows.shape[1]} features; trained on {len(self.mean)}")
        return np.asarray((rows - self.mean) / self.scale @ self.weight + self.bias)

    def scores(self, embeddings: ArrayLike) -> FloatArray:
        """Scores (N, C) from 0 to 1: softmax of the decision values, or the sigmoid of each where labels may be joined.

        Those of a logistic regression are its probabilities; those of a support vector machine are not calibrated.
        """
        decision = self.decision(embeddings)
        return np.asarray(softmax(decision, axis=1) if self.exclusive else expit(decision))


@dataclass(frozen=True)
class ProbeResult:
    """What :func:`linear_probe` and :func:`linear_svm` give.

    Attributes:
        scores: of the queries, shape (N, C).
        accuracy: share of the queries whose highest score is their class; ``None`` without query labels, or where
            labels may be joined.
        classifier: what was fitted, with the strength chosen.
    """

    scores: FloatArray
    accuracy: float | None
    classifier: LinearClassifier


class FitOptions(TypedDict, total=False):
    """How a linear classifier is fitted.

    Attributes:
        validation: embeddings and labels that choose among ``strengths``; ``None`` chooses by cross-validation within
            the training embeddings.
        groups: (M,) subject of each training image, kept together in cross-validation; ``None``: each its own.
        num_classes: number of columns; ``None`` takes the largest label + 1.
        strengths: values of scikit-learn's C to choose from; a single one is taken as it is.
        class_weight: ``balanced`` weighs classes by the inverse of their frequency; ``None`` weighs images alike.
        seed: of the folds and solvers, 0 by default.
    """

    validation: tuple[ArrayLike, ArrayLike] | None
    groups: Sequence[Hashable] | None
    num_classes: int | None
    strengths: Sequence[float]
    class_weight: Literal["balanced"] | None
    seed: int


def linear_probe(
    embeddings: ArrayLike,
    labels: ArrayLike,
    query: ArrayLike,
    query_labels: ArrayLike | None = None,
    **options: Unpack[FitOptions],
) -> ProbeResult:
    """Logistic regression on frozen embeddings; its strength is chosen by the log loss.

    Args:
        embeddings: of the training images, shape (M, D).
        labels: class indices (M,), or a 0/1 table (M, C) where an image may carry several labels: then one logistic
            regression a label.
        query: embeddings to classify, shape (N, D).
        query_labels: class indices (N,); only counted, never learnt from.
        options: ``validation``, ``groups``, ``num_classes``, ``strengths``, ``class_weight``, ``seed``; see
            :class:`FitOptions`.

    Raises:
        ValueError: for shapes or labels that do not fit, values that are not finite, fewer than two classes among the
            training labels, or a strength not above 0.
    """
    return _judged(fit_linear("logistic", embeddings, labels, **options), query, query_labels)


def linear_svm(
    embeddings: ArrayLike,
    labels: ArrayLike,
    query: ArrayLike,
    query_labels: ArrayLike | None = None,
    **options: Unpack[FitOptions],
) -> ProbeResult:
    """Linear support vector machine (squared hinge, one class against the rest) on frozen embeddings.

    Arguments as :func:`linear_probe`; the strength is chosen by the macro AUROC of the decision values. The scores are
    their softmax (sigmoid for a table): the order of the classes is that of the machine, but they are no probabilities
    until a temperature is set on validation (:func:`~medssl_monai.metrics.fit_temperature`).

    Raises:
        ValueError: as :func:`linear_probe`.
    """
    return _judged(fit_linear("svm", embeddings, labels, **options), query, query_labels)


def fit_linear(
    kind: Kind,
    embeddings: ArrayLike,
    labels: ArrayLike,
    *,
    validation: tuple[ArrayLike, ArrayLike] | None = None,
    groups: Sequence[Hashable] | None = None,
    num_classes: int | None = None,
    strengths: Sequence[float] = STRENGTHS,
    class_weight: Literal["balanced"] | None = None,
    seed: int = 0,
) -> LinearClassifier:
    """The classifier of :func:`linear_probe` (``logistic``) or :func:`linear_svm` (``svm``), to be asked of any images.

    Raises:
        ValueError: as :func:`linear_probe`.
    """
    task = _Task.of(kind, embeddings, labels, num_classes, class_weight, seed)
    tried = [float(value) for value in strengths]
    if not tried or any(not 0 < value < np.inf for value in tried):
        raise ValueError(f"strengths: expected finite numbers above 0, got {list(strengths)}")
    if len(tried) == 1:
        return task.fit(tried[0], "given")
    if validation is not None:
        features, truth = _embeddings(validation[0], "validation"), task.table(validation[1])
        check_same_length(validation=features, validation_labels=truth)
        folds, chosen_by = iter([(task, features, truth)]), "validation"
    else:
        folds, chosen_by = task.folds(groups), "cross-validation"
    totals = np.zeros(len(tried))
    count = 0
    for part, features, truth in folds:
        totals += [part.criterion(part.fit(value), features, truth) for value in tried]
        count += 1
    if not count or not np.isfinite(totals).any():
        return task.fit(_PLAIN, "default")
    criteria = {value: float(total / count) for value, total in sorted(zip(tried, totals))}
    # of strengths that are as good the one that holds the weights smallest
    best = max(criteria, key=lambda value: (np.nan_to_num(criteria[value], nan=-np.inf), -value))
    return task.fit(best, chosen_by, criteria)


def _judged(classifier: LinearClassifier, query: ArrayLike, query_labels: ArrayLike | None) -> ProbeResult:
    scores = classifier.scores(query)
    accuracy = None
    if query_labels is not None and classifier.exclusive:
        truth = np.asarray(query_labels)
        check_same_length(query=scores, query_labels=truth)
        accuracy = float((scores.argmax(axis=1) == truth).mean())
    return ProbeResult(scores, accuracy, classifier)


@dataclass(frozen=True)
class _Task:
    """Training embeddings with their truth table (M, C)."""

    kind: Kind
    features: FloatArray
    truth: IntArray
    exclusive: bool
    class_weight: Literal["balanced"] | None
    seed: int

    @classmethod
    def of(
        cls, kind: Kind, embeddings: ArrayLike, labels: ArrayLike, num_classes: int | None,
        class_weight: Literal["balanced"] | None, seed: int,
    ) -> _Task:  # fmt: skip
        features, exclusive = _embeddings(embeddings, "embeddings"), np.ndim(labels) == 1
        if exclusive:
            largest = int(np.max(np.asarray(labels), initial=0)) + 1
            truth = one_vs_rest(labels, largest if num_classes is None else num_classes)
        else:
            truth = one_vs_rest(labels, np.shape(labels)[1] if num_classes is None else num_classes)
        check_same_length(embeddings=features, labels=truth)
        if exclusive and truth.any(axis=0).sum() < 2:
            raise ValueError("the training labels are all of one class: expected two or more to tell apart")
        if not exclusive and not (truth.any(axis=0) & ~truth.all(axis=0)).any():
            raise ValueError("no label is both present and absent among the training images")
        return cls(kind, features, truth.astype(np.int64), exclusive, class_weight, seed)

    def table(self, labels: ArrayLike) -> IntArray:
        """Truth table of further labels of the same classes."""
        columns = self.truth.shape[1]
        checked = as_classes(labels, columns, "validation labels") if self.exclusive else as_binary(labels)
        return np.asarray(one_vs_rest(checked, columns)).astype(np.int64)

    def folds(self, groups: Sequence[Hashable] | None) -> Iterator[tuple[_Task, FloatArray, IntArray]]:
        """Parts to fit on, each with embeddings and truth that were left out; none where subjects are too few."""
        codes = group_codes(groups, len(self.features))
        subjects = np.arange(len(self.features)) if codes is None else codes
        present = self.truth[:, self.truth.any(axis=0)]
        number = min(_FOLDS, *(len(np.unique(subjects[column == 1])) for column in present.T))
        if number < 2:
            return
        splitter = (
            StratifiedGroupKFold(number, shuffle=True, random_state=self.seed) if self.exclusive else
            GroupKFold(number, shuffle=True, random_state=self.seed)
        )  # fmt: skip
        for kept, left in splitter.split(self.features, self.truth.argmax(axis=1), subjects):
            part = _Task(self.kind, self.features[kept], self.truth[kept], self.exclusive, self.class_weight, self.seed)
            yield part, self.features[left], self.truth[left]

    def fit(self, strength: float, chosen_by: str = "given", criteria: dict[float, float] | None = None) -> (
        LinearClassifier
    ):  # fmt: skip
        mean, scale = self.features.mean(axis=0), self.features.std(axis=0)
        scale[scale <= 1e-12 * np.maximum(np.abs(mean), 1e-300)] = 1.0
        rows = (self.features - mean) / scale
        number = self.truth.shape[1]
        weight, bias, converged = np.zeros((rows.shape[1], number)), np.zeros(number), True
        if self.exclusive:
            seen = np.flatnonzero(self.truth.any(axis=0))
            bias[:] = -_UNSEEN
            if len(seen) > 1:
                coefficients, offsets, converged = self._solve(rows, self.truth.argmax(axis=1), strength)
                weight[:, seen], bias[seen] = coefficients, offsets
            else:
                bias[seen] = 0.0
        else:
            for column in range(number):
                positive = self.truth[:, column]
                if positive.min() == positive.max():
                    bias[column] = _UNSEEN if positive[0] else -_UNSEEN
                    continue
                coefficients, offsets, done = self._solve(rows, positive, strength)
                weight[:, column], bias[column] = 2 * coefficients[:, 1], 2 * offsets[1]
                converged = converged and done
        return LinearClassifier(
            mean, scale, weight, bias, self.exclusive, strength, chosen_by, criteria or {}, converged
        )

    def _solve(self, rows: FloatArray, labels: IntArray, strength: float) -> tuple[FloatArray, FloatArray, bool]:
        """Weights (D, C) and biases (C,) of the classes that occur; of two classes one has minus the other's."""
        model = (
            LogisticRegression(C=strength, class_weight=self.class_weight, max_iter=2000)
            if self.kind == "logistic"
            else LinearSVC(C=strength, class_weight=self.class_weight, max_iter=20000, random_state=self.seed)
        )
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            model.fit(rows, labels)
        weights, biases = model.coef_.T, np.atleast_1d(model.intercept_)
        if weights.shape[1] == 1:
            weights, biases = np.hstack([-weights, weights]) / 2, np.concatenate([-biases, biases]) / 2
        return weights, biases, not any(issubclass(one.category, ConvergenceWarning) for one in caught)

    def criterion(self, classifier: LinearClassifier, features: FloatArray, truth: IntArray) -> float:
        """How well a classifier does on embeddings it was not fitted on; higher is better, NaN where undefined."""
        if self.kind == "svm":
            decision = classifier.decision(features)
            return macro_auroc(truth.argmax(axis=1) if self.exclusive else truth, decision).value
        scores = classifier.scores(features)
        if self.exclusive:
            return -float(log_loss(truth.argmax(axis=1), scores, labels=np.arange(truth.shape[1])))
        return -float(np.mean([log_loss(a, b, labels=[0, 1]) for a, b in zip(truth.T, scores.T)]))
