"""Supervised contrastive loss that takes whatever labels a batch has."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from medssl_monai.core.distributed import gather_with_gradient
from medssl_monai.losses._common import (
    check_flag,
    check_labels,
    check_positive,
    full_precision,
    normalize_rows,
    without_autocast,
)


class SupConLoss(nn.Module):
    """Supervised contrastive loss (SRCL, eq. 2; Khosla et al., arXiv:2004.11362, eq. 2).

    All N*V embeddings are anchors. For anchor ``i`` with positives ``P(i)`` (the other views of its sample and all
    views of samples with its label) and all other embeddings ``A(i)``::

        L = mean_i  -1/|P(i)|  sum_{p in P(i)}  log( exp(z_i.z_p / t) / sum_{a in A(i)} exp(z_i.z_a / t) )

    Eq. 2 sums over anchors; the mean is taken here, so that the loss does not grow with the batch, and without the
    factor ``temperature / 0.07`` of the first published implementation. A sample labelled -1 is a class of its own:
    its only positives are its own other views. Without labels and with two views this is NT-Xent.

    Embeddings are L2-normalised inside; a zero embedding has cosine 0 to every other. The loss is computed in the
    input's precision but never below float32, also under autocast.

    Args:
        temperature: divisor of the cosines, above 0.
        gather_distributed: compare with the samples of all processes, as one process with all of them would. Every
            process must then call the loss, with as many samples as the others, and gets the same value; averaged
            over the processes, as DistributedDataParallel does, the gradients are those of that one process.

    Raises:
        ValueError: when ``temperature`` is not a finite number above 0.
    """

    def __init__(self, temperature: float = 0.1, gather_distributed: bool = False) -> None:
        super().__init__()
        self.temperature = check_positive("temperature", temperature)
        self.gather_distributed = check_flag("gather_distributed", gather_distributed)

    def forward(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        """Compute the loss.

        Args:
            features: embeddings, shape (N, V, D), V >= 2 views of each of N >= 2 samples (over all processes, where
                they are gathered).
            labels: integer class indices, shape (N,), -1 where unlabelled; ``None`` when no sample is labelled.

        Returns:
            The loss, a scalar.

        Raises:
            ValueError: for a wrong shape or dtype, labels below -1, fewer than two views, a batch of one sample, or
                processes with different shapes.
        """
        _check_shape(features)
        features = full_precision("features", features)
        if labels is not None:
            labels = check_labels(labels, len(features)).to(features.device)
        if self.gather_distributed:
            features = gather_with_gradient(features)
            labels = None if labels is None else gather_with_gradient(labels)
        _check_pairs(features)
        with without_autocast(features):
            unit = normalize_rows(features)
            count, views, width = unit.shape
            if labels is None:
                same = torch.eye(count, dtype=torch.bool, device=unit.device)
            else:
                same = (labels[:, None] == labels) & (labels >= 0)
                same.fill_diagonal_(True)
            # The sum of an anchor's positive cosines is its product with the sum of its positives.
            positives = (same.to(unit.dtype) @ unit.sum(dim=1))[:, None] - unit
            positive_mean = (unit * positives).sum(dim=-1) / (same.sum(dim=1) * views - 1)[:, None]

            flat = unit.reshape(count * views, width)
            similarity = (flat / self.temperature) @ flat.T
            similarity.fill_diagonal_(-math.inf)
            return (torch.logsumexp(similarity, dim=1) - positive_mean.reshape(-1) / self.temperature).mean()

    def extra_repr(self) -> str:
        """The temperature, for ``print``."""
        return f"temperature={self.temperature}"


def _check_shape(features: Tensor) -> None:
    if not isinstance(features, Tensor):
        raise ValueError(f"features: expected a tensor, got {type(features).__name__}")
    shape = tuple(features.shape)
    if len(shape) != 3 or 0 in shape:
        raise ValueError(f"features: expected shape (N, V, D) = (samples, views, embedding), got {shape}")
    if shape[1] < 2:
        raise ValueError(f"features: expected at least 2 views of each sample, got {shape[1]} in shape {shape}")


def _check_pairs(features: Tensor) -> None:
    if len(features) < 2:
        raise ValueError(
            f"features: one pair has no negatives; expected at least 2 samples, got shape {tuple(features.shape)}"
        )
