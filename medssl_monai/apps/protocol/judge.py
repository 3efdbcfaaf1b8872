"""The protocols themselves: from embeddings and labels to scores of the test images, and what was chosen on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from medssl_monai.core import DataError
from medssl_monai.data import Item
from medssl_monai.metrics import collapse_warning, fit_linear, fit_temperature, knn_scores

_KINDS: dict[str, Literal["logistic", "svm"]] = {"linear_probe": "logistic", "linear_svm": "svm"}


@dataclass(frozen=True)
class Samples:
    """Embeddings (N, D) of items with their labels: class indices (N,), or a 0/1 table (N, C)."""

    items: Sequence[Item]
    embeddings: np.ndarray
    labels: np.ndarray

    @property
    def groups(self) -> list[str]:
        """The items' subjects."""
        return [item.group for item in self.items]


@dataclass(frozen=True)
class Verdict:
    """What a protocol says of the test images.

    Attributes:
        scores: shape (N, C), from 0 to 1.
        validation_scores: of the validation images; ``None`` where they are too few to choose anything by.
        temperature: set on validation; ``None`` where none was.
        facts: what was chosen, plain values.
        warnings: in words.
    """

    scores: np.ndarray
    validation_scores: np.ndarray | None
    temperature: float | None
    facts: dict[str, Any]
    warnings: list[str] = field(default_factory=list)


def label_array(items: Sequence[Item], exclusive: bool) -> np.ndarray:
    """Labels of items: class indices (N,), or a 0/1 table (N, C)."""
    labels = np.array([item.label for item in items], dtype=np.int64)
    return labels if exclusive else labels.reshape(len(items), -1)


def check_embeddings(samples: Samples, where: Path) -> None:
    """Refuse embeddings without a direction.

    Raises:
        DataError: when an embedding is zero.
    """
    blind = int((~samples.embeddings.any(axis=1)).sum())
    if blind:
        raise DataError(
            f"{blind} of {len(samples.items)} embeddings are zero: the encoder is blind to these images", where=where,
            advice="The pre-training has collapsed, or the encoder is of another input.",
        )  # fmt: skip


def judge(
    name: str, training: Samples, validation: Samples | None, test: Samples, class_names: Sequence[str],
    k: int, temperature: float, seed: int,
) -> Verdict:  # fmt: skip
    """Score the test images by a protocol.

    Args:
        name: of the protocol.
        training: labelled training images.
        validation: images that choose; ``None`` where they are too few.
        test: images to score.
        class_names: C names.
        k: neighbours of kNN.
        temperature: of the votes of kNN.
        seed: of folds and solvers.
    """
    collapsed = collapse_warning(test.embeddings)
    warnings = [] if collapsed is None else [collapsed]
    if name == "knn":
        return _neighbours(training, validation, test, class_names, k, temperature, warnings)
    exclusive = training.labels.ndim == 1
    fitted = fit_linear(
        _KINDS[name], training.embeddings, training.labels, groups=training.groups, seed=seed,
        num_classes=len(class_names),
        validation=None if validation is None else (validation.embeddings, validation.labels),
    )  # fmt: skip
    if not fitted.converged:
        warnings.append("the solver did not come to its end: the classifier may not be the best of its kind")
    if fitted.chosen_by == "default":
        warnings.append("too few subjects of a class to choose the regularisation by: scikit-learn's default is used")
    facts = {
        "regularisation": fitted.strength, "chosen_by": fitted.chosen_by,
        "criterion": {"linear_probe": "minus log loss", "linear_svm": "macro AUROC"}[name],
        "tried": {f"{value:g}": score for value, score in fitted.criteria.items() if np.isfinite(score)},
    }  # fmt: skip
    scale = None
    if validation is not None and exclusive:
        scale = fit_temperature(fitted.decision(validation.embeddings), validation.labels)
    return Verdict(
        fitted.scores(test.embeddings), None if validation is None else fitted.scores(validation.embeddings),
        scale, facts, warnings,
    )  # fmt: skip


def _neighbours(
    training: Samples, validation: Samples | None, test: Samples, class_names: Sequence[str], k: int,
    temperature: float, warnings: list[str],
) -> Verdict:  # fmt: skip
    number = len(training.items)
    used = min(k, number)
    if used < k:
        warnings.append(f"k is {used}, the number of labelled training images, not {k}")

    def scores(samples: Samples) -> np.ndarray:
        return knn_scores(training.embeddings, training.labels, samples.embeddings, used, temperature, len(class_names))

    facts = {"k": used, "k_asked": k, "temperature": temperature, "similarity": "cosine"}
    return Verdict(scores(test), None if validation is None else scores(validation), None, facts, warnings)
