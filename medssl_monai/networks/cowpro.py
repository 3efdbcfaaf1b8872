"""The net that is trained by episodes: one encoder for support and query, and a prototype head."""

from __future__ import annotations

from copy import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from medssl_monai.networks.prototype_heads import PrototypeHead

#: share of a window that a predicted mask must cover (thesis 7.4.1.5), whatever the head asks of a given one
_CYCLE_THRESHOLD = 0.95


class EpisodeScores(NamedTuple):
    """What an episode gives.

    Attributes:
        query: (N, 2, h, w), background first.
        support: (M, 2, h, w) of the items whose query had any foreground predicted: the support's scores by that mask.
        cyclic: (N,), true for those M items.
    """

    query: Tensor
    support: Tensor
    cyclic: Tensor


class CoWProNet(nn.Module):
    """Encoder and head of few-shot segmentation (thesis fig. 7.1).

    Args:
        encoder: images (N, C, H, W) -> features (N, D, h, w), a :class:`DenseEncoder`.
        head: compares the features, a :class:`CoWProHead`, :class:`ALPNetHead` or :class:`PANetHead`.
    """

    def __init__(self, encoder: nn.Module, head: PrototypeHead) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self._cycle_head = copy(head)  # heads have no parameters
        self._cycle_head.dynamic, self._cycle_head.threshold = False, _CYCLE_THRESHOLD

    def forward(self, support: Tensor, support_mask: Tensor, query: Tensor) -> Tensor:
        """Scores (N, 2, h, w) of queries on the grid of the features, background first.

        Args:
            support: images (N, C, H, W).
            support_mask: (N, 1, H, W), 1 in the foreground.
            query: images (N, C, H, W).

        Raises:
            ValueError: for shapes that do not fit.
        """
        of_support, of_query = self._encoded(support, query)
        scores: Tensor = self.head(of_support, support_mask, of_query)
        return scores

    def episode(self, support: Tensor, support_mask: Tensor, query: Tensor) -> EpisodeScores:
        """The query's scores, and the support's when both change places (thesis 7.4.1.5).

        The query's prediction on the grid of the features is then the mask (no gradient passes through it), and windows
        count where 95 % of them are predicted. An item whose query has no foreground predicted has no such scores.

        Args:
            support: images (N, C, H, W).
            support_mask: (N, 1, H, W), 1 in the foreground.
            query: images (N, C, H, W).

        Raises:
            ValueError: for shapes that do not fit.
        """
        of_support, of_query = self._encoded(support, query)
        scores = self.head(of_support, support_mask, of_query)
        predicted = (scores[:, 1:] > scores[:, :1]).detach()
        cyclic = predicted.flatten(1).any(dim=1)
        back = self._cycle_head(of_query[cyclic], predicted[cyclic], of_support[cyclic])
        return EpisodeScores(scores, back, cyclic)

    def _encoded(self, support: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        """Features of both, in one pass: the encoder's batch statistics are those of all images of a step."""
        if support.shape != query.shape:
            raise ValueError(f"query: expected the support's shape {tuple(support.shape)}, got {tuple(query.shape)}")
        features = self.encoder(torch.cat([support, query]))
        return features[: len(support)], features[len(support) :]
