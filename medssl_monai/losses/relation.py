"""Sample relation consistency: student and teacher must agree on how the samples of a batch relate."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medssl_monai.core.distributed import gather_with_gradient
from medssl_monai.losses._common import full_precision, normalize_rows, without_autocast


class SampleRelationLoss(nn.Module):
    """Sample relation consistency (SRCL, eq. 1; SRC-MT, Liu et al. 2020).

    Activations are flattened to a row a sample, A (N, K); the relation matrix R is the Gram matrix ``A A^T`` with its
    rows L2-normalised (a zero row stays zero). The loss is the squared Frobenius norm of the difference of student's
    and teacher's relation matrices, divided by N. The teacher is a fixed target: no gradient reaches it.

    A batch of one sample has the relation matrix 1 on both sides and the loss 0.

    Args:
        gather_distributed: relate the samples of all processes, as one process with all of them would. Every process
            must then call the loss, with as many samples as the others, and gets the same value; averaged over the
            processes, as DistributedDataParallel does, the gradients are those of that one process.
    """

    def __init__(self, gather_distributed: bool = False) -> None:
        super().__init__()
        self.gather_distributed = gather_distributed

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            student: the student's activations, shape (N, ...).
            teacher: the teacher's activations of the same samples, the same shape.

        Returns:
            The loss, a scalar in the inputs' precision, never below float32.

        Raises:
            ValueError: when the shapes differ, have fewer than two dimensions or are empty, or a dtype is not
                floating point, or processes have different shapes.
        """
        left, right = full_precision("student", student), full_precision("teacher", teacher).detach()
        if left.shape != right.shape:
            raise ValueError(
                f"student and teacher: expected activations of one shape, got {tuple(left.shape)} and "
                f"{tuple(right.shape)}"
            )
        if left.dim() < 2 or left.numel() == 0:
            raise ValueError(f"student and teacher: expected shape (N, ...) with N >= 1, got {tuple(left.shape)}")
        if self.gather_distributed:
            left, right = gather_with_gradient(left), gather_with_gradient(right)
        with without_autocast(left):
            difference = relation_matrix(left) - relation_matrix(right)
            return difference.square().sum() / left.shape[0]


def relation_matrix(activations: Tensor) -> Tensor:
    """Row-normalised Gram matrix, shape (N, N), of floating-point activations of shape (N, ...) (SRCL, eq. 1)."""
    rows = activations.flatten(1)
    # One scale for the whole batch cancels in the row norm; it only keeps the products in range.
    scale = rows.detach().abs().amax()
    rows = rows / torch.where(scale >= torch.finfo(rows.dtype).tiny, scale, 1.0)
    return normalize_rows(rows @ rows.T)
