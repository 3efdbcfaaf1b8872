"""Contrast of queries with their keys and a queue of others (MoCo)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medssl_monai.losses._common import check_positive, full_precision, normalize_rows, without_autocast


class MomentumContrastLoss(nn.Module):
    """InfoNCE of a query with its own key against the keys of a queue (He et al. 2020, eq. 1).

    The value is ::

        L = mean_i  -log( exp(q_i.k_i / t) / (exp(q_i.k_i / t) + sum_{n in queue} exp(q_i.n / t)) )

    Vectors are L2-normalised inside; the loss is computed in the input's precision but never below float32. Only the
    queries get a gradient. With an empty queue it is 0, with gradient 0.

    Args:
        temperature: divisor of the cosines, above 0 (0.07 in MoCo, 0.2 in MoCo v2).

    Raises:
        ValueError: when ``temperature`` is not a finite number above 0.
    """

    def __init__(self, temperature: float = 0.2) -> None:
        super().__init__()
        self.temperature = check_positive("temperature", temperature)

    def forward(self, query: Tensor, key: Tensor, negatives: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            query: shape (N, D).
            key: shape (N, D), row i of the same sample as query i.
            negatives: shape (K, D), K 0 or more.

        Returns:
            The loss, a scalar.

        Raises:
            ValueError: for wrong shapes or dtypes.
        """
        query, key = full_precision("query", query), full_precision("key", key).detach()
        negatives = full_precision("negatives", negatives).detach()
        if query.dim() != 2 or 0 in query.shape:
            raise ValueError(f"query: expected shape (N, D), got {tuple(query.shape)}")
        if key.shape != query.shape:
            raise ValueError(f"key: expected the query's shape {tuple(query.shape)}, got {tuple(key.shape)}")
        if negatives.dim() != 2 or negatives.shape[1] != query.shape[1]:
            raise ValueError(f"negatives: expected shape (K, {query.shape[1]}), got {tuple(negatives.shape)}")
        with without_autocast(query):
            unit, positive, others = (normalize_rows(matrix) for matrix in (query, key, negatives))
            logits = torch.cat([(unit * positive).sum(dim=1, keepdim=True), unit @ others.to(unit).T], dim=1)
            logits = logits / self.temperature
            return (torch.logsumexp(logits, dim=1) - logits[:, 0]).mean()

    def extra_repr(self) -> str:
        """The temperature, for ``print``."""
        return f"temperature={self.temperature}"
