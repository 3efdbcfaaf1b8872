"""Losses on class probabilities: supervision of the labelled rows of a batch, agreement of student and teacher."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medssl_monai.core import Registry
from medssl_monai.core.distributed import sum_over_processes, world_size
from medssl_monai.losses._common import check_labels, full_precision, without_autocast

ClassReduction = Literal["sum", "mean"]


class LabelledLoss(nn.Module, ABC):
    """A classification loss over the labelled rows of a batch: rows labelled -1 are left out.

    The row losses are averaged with the weight of their class: ``sum_i w[y_i] l_i / sum_i w[y_i]``, as torch's
    weighted cross-entropy does. A batch without a labelled row (or with labels of weight 0 only) gives a zero that
    still carries a graph, so that a step of unlabelled images needs no special case.

    Args:
        class_weights: one non-negative weight a class, shape (C,); ``None`` weighs all rows alike.
        gather_distributed: divide by the mean over the processes of the sum of weights. The mean of their losses, and
            of their gradients, is then that of one process with all rows, however the labels are spread. Every process
            must call the loss.

    Raises:
        ValueError: when ``class_weights`` is not a vector of finite non-negative numbers with one above 0.
    """

    class_weights: Tensor | None

    def __init__(self, class_weights: Sequence[float] | Tensor | None = None, gather_distributed: bool = False) -> None:
        super().__init__()
        self.gather_distributed = gather_distributed
        weights = None if class_weights is None else torch.as_tensor(class_weights, dtype=torch.float64).detach()
        if weights is not None and (
            weights.dim() != 1 or not weights.isfinite().all() or (weights < 0).any() or not (weights > 0).any()
        ):
            raise ValueError(
                f"class_weights: expected one finite weight >= 0 a class, at least one above 0, got {weights.tolist()}"
            )
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            logits: class scores before softmax, shape (N, C).
            labels: integer class indices, shape (N,), -1 where unlabelled.

        Returns:
            The loss, a scalar in the logits' precision, never below float32.

        Raises:
            ValueError: for a wrong shape or dtype, labels outside -1..C-1, or another number of class weights than C.
        """
        scores = _check_logits("logits", logits)
        classes = scores.shape[1]
        target = check_labels(labels, scores.shape[0], classes).to(scores.device)
        known = target >= 0
        index = target.clamp(min=0)
        if self.class_weights is None:
            weights = known.to(scores.dtype)
        else:
            if len(self.class_weights) != classes:
                raise ValueError(
                    f"class_weights: expected {classes} weights, one a class, got {len(self.class_weights)}"
                )
            weights = self.class_weights.to(scores)[index] * known
        with without_autocast(scores):
            rows = self.row_losses(scores, index)
            total = weights.sum()
            if self.gather_distributed:
                total = sum_over_processes(total) / world_size()
            return (rows * weights).sum() / torch.where(total > 0, total, 1.0)

    @abstractmethod
    def row_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Loss of each row, shape (N,); ``labels`` are valid class indices."""


class ProbabilityMSELoss(LabelledLoss):
    """Squared error between softmax probabilities and the one-hot label (SRCL, eq. 3).

    Eq. 3 averages over samples. The squared error of a sample is the squared distance between its probability vector
    and its one-hot label, summed over the classes (the multi-class Brier score, 0 to 2); ``class_reduction="mean"``
    divides it by the number of classes, as torch's ``MSELoss`` on the (N, C) matrices does.

    Args:
        class_weights: one weight a class, shape (C,), or ``None`` (see :class:`LabelledLoss`).
        class_reduction: ``"sum"`` or ``"mean"`` over the classes.
        gather_distributed: see :class:`LabelledLoss`.

    Raises:
        ValueError: for weights or a reduction it does not know.
    """

    def __init__(
        self,
        class_weights: Sequence[float] | Tensor | None = None,
        class_reduction: ClassReduction = "sum",
        gather_distributed: bool = False,
    ) -> None:
        super().__init__(class_weights, gather_distributed)
        self.class_reduction = _check_reduction(class_reduction)

    def row_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Squared error of each row, shape (N,)."""
        error = logits.softmax(dim=1) - F.one_hot(labels, logits.shape[1]).to(logits.dtype)
        return _reduce_classes(error.square(), self.class_reduction)


class LabelledCrossEntropyLoss(LabelledLoss):
    """Cross-entropy over the labelled rows: the supervised baseline beside SRCL's eq. 3."""

    def row_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of each row, shape (N,)."""
        return F.cross_entropy(logits, labels, reduction="none")


class PredictionConsistencyLoss(nn.Module):
    """Mean squared error between student's and teacher's softmax probabilities (mean teacher, arXiv:1703.01780).

    The teacher is a fixed target: no gradient reaches it.

    Args:
        class_reduction: ``"mean"`` over the classes, as mean teacher has it, or ``"sum"``; the mean over the samples
            is taken in both.

    Raises:
        ValueError: for another ``class_reduction``.
    """

    def __init__(self, class_reduction: ClassReduction = "mean") -> None:
        super().__init__()
        self.class_reduction = _check_reduction(class_reduction)

    def forward(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            student_logits: class scores before softmax, shape (N, C).
            teacher_logits: the teacher's scores of the same images, shape (N, C).

        Returns:
            The loss, a scalar in the logits' precision, never below float32.

        Raises:
            ValueError: for a wrong dtype, or shapes that are not one (N, C).
        """
        student = _check_logits("student_logits", student_logits)
        teacher = _check_logits("teacher_logits", teacher_logits).detach()
        if student.shape != teacher.shape:
            raise ValueError(
                f"student_logits and teacher_logits: expected one shape, got {tuple(student.shape)} and "
                f"{tuple(teacher.shape)}"
            )
        with without_autocast(student):
            error = (student.softmax(dim=1) - teacher.softmax(dim=1)).square()
            return _reduce_classes(error, self.class_reduction).mean()


_SUPERVISED: Registry[type[LabelledLoss]] = Registry("supervised loss")
_SUPERVISED.register("mse")(ProbabilityMSELoss)
_SUPERVISED.register("cross_entropy")(LabelledCrossEntropyLoss)


def supervised_loss(
    kind: str = "mse", class_weights: Sequence[float] | Tensor | None = None, gather_distributed: bool = False
) -> LabelledLoss:
    """The supervised term by name, the one key ``supervised_loss`` of a study's arms.

    Args:
        kind: ``"mse"`` (:class:`ProbabilityMSELoss`, SRCL's eq. 3) or ``"cross_entropy"`` for exclusive classes;
            ``"bce"`` (:class:`LabelledBinaryCrossEntropyLoss`) for labels that are each there or not.
        class_weights: one weight a class, for example of :func:`class_weights` (for ``"bce"`` of
            :func:`positive_weights`); ``None`` weighs all rows alike.
        gather_distributed: see :class:`LabelledLoss`.

    Raises:
        ConfigError: for another kind; the message suggests the closest.
        ValueError: for weights that are not finite and non-negative.
    """
    return _SUPERVISED.get(kind)(class_weights, gather_distributed=gather_distributed)


def class_weights(label_counts: Sequence[int] | Tensor) -> Tensor:
    """Class weights inverse to how often a class is labelled.

    The weights of the classes seen have the mean 1. A class without a label gets the largest of them, not infinity:
    it is at least as rare as the rarest, and a weight of 0 would silence labels that turn up later.

    Args:
        label_counts: labels of each class in the labelled part of the training data, shape (C,).

    Returns:
        Weights, shape (C,), float64.

    Raises:
        ValueError: when the counts are not a vector of finite numbers >= 0 with at least one above 0.
    """
    counts = torch.as_tensor(label_counts, dtype=torch.float64)
    if counts.dim() != 1 or not counts.isfinite().all() or (counts < 0).any() or not (counts > 0).any():
        raise ValueError(f"label_counts: expected one count >= 0 a class, at least one above 0, got {counts.tolist()}")
    seen = counts > 0
    inverse = torch.where(seen, 1.0 / counts.clamp(min=torch.finfo(counts.dtype).tiny), 0.0)
    inverse = inverse / inverse[seen].mean()
    return torch.where(seen, inverse, inverse.max())


def _check_logits(name: str, logits: Tensor) -> Tensor:
    scores = full_precision(name, logits)
    if scores.dim() != 2 or 0 in scores.shape:
        raise ValueError(f"{name}: expected shape (N, C) = (samples, classes), got {tuple(scores.shape)}")
    return scores


def _check_reduction(reduction: ClassReduction) -> ClassReduction:
    if reduction not in ("sum", "mean"):
        raise ValueError(f"class_reduction: expected 'sum' or 'mean', got {reduction!r}")
    return reduction


def _reduce_classes(error: Tensor, reduction: ClassReduction) -> Tensor:
    return error.sum(dim=1) if reduction == "sum" else error.mean(dim=1)
