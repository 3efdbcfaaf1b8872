"""Few-shot segmentation trained by episodes: the query's mask, and the support's from the query's prediction."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

from medssl_monai.losses._common import check_positive, full_precision, without_autocast

_REDUCTIONS = ("weighted_mean", "pixels")


class CoWProLoss(nn.Module):
    """Cross-entropy of the query and of the cyclic term (thesis eq. 7.12 to 7.14).

    The query's pixels are weighted by class (eq. 7.12). The cyclic term, in which support and query change places and
    the query's predicted mask is the support's, is not (eq. 7.13). Scores on a coarser grid than the masks are brought
    to them bilinearly (thesis 7.4.1.5).

    Args:
        class_weights: of background and foreground.
        reduction: of the query's term. ``"weighted_mean"``: the sum is divided by that of the weights, as trained.
            ``"pixels"``: by the number of pixels (eq. 7.12 as printed).

    Raises:
        ValueError: for weights that are not two finite numbers above 0, or another reduction.
    """

    class_weights: Tensor

    def __init__(self, class_weights: Sequence[float] = (0.05, 1.0), reduction: str = "weighted_mean") -> None:
        super().__init__()
        weights = [check_positive("class_weights", weight) for weight in class_weights]
        if len(weights) != 2:
            raise ValueError(f"class_weights: expected two, of background and foreground, got {len(weights)}")
        if reduction not in _REDUCTIONS:
            raise ValueError(f"reduction: expected one of {', '.join(_REDUCTIONS)}, got {reduction!r}")
        self.reduction = reduction
        self.register_buffer("class_weights", torch.tensor(weights, dtype=torch.float64), persistent=False)

    def forward(self, query_scores: Tensor, query_mask: Tensor, support_scores: Tensor, support_mask: Tensor) -> Tensor:
        """Compute the loss: the sum of both terms.

        Args:
            query_scores: (N, 2, h, w), background first.
            query_mask: (N, 1, H, W) of 0 and 1, of any type.
            support_scores: (M, 2, h, w) of the cyclic term; M = 0 (no query had a foreground predicted) leaves it out.
            support_mask: (M, 1, H, W).

        Returns:
            The loss, a scalar in the scores' precision, never below float32.

        Raises:
            ValueError: for shapes that do not fit, masks of other values, or no query.
        """
        query, cyclic = self.terms(query_scores, query_mask, support_scores, support_mask)
        return query + cyclic

    def terms(
        self, query_scores: Tensor, query_mask: Tensor, support_scores: Tensor, support_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Both terms apart, for logs: of the query (eq. 7.12) and the cyclic one (eq. 7.13), 0 where M is 0.

        Arguments and errors as for :meth:`forward`.
        """
        query, query_classes = _scores_and_classes("query", query_scores, query_mask)
        support, support_classes = _scores_and_classes("support", support_scores, support_mask)
        if len(query) == 0:
            raise ValueError("query_scores: expected at least one item, got none")
        with without_autocast(query):
            weights = self.class_weights.to(query)
            if self.reduction == "pixels":
                loss = cross_entropy(query, query_classes, weights, reduction="sum") / query_classes.numel()
            else:
                loss = cross_entropy(query, query_classes, weights)
            # an empty sum keeps its place in the graph
            cyclic = cross_entropy(support, support_classes) if len(support) else support.sum()
        return loss, cyclic


def _scores_and_classes(name: str, scores: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Scores on the mask's grid (N, 2, H, W), and classes (N, H, W)."""
    scores = full_precision(f"{name}_scores", scores)
    if scores.ndim != 4 or scores.shape[1] != 2:
        raise ValueError(f"{name}_scores: expected (N, 2, h, w), background first, got shape {tuple(scores.shape)}")
    if mask.ndim != 4 or mask.shape[:2] != (len(scores), 1):
        raise ValueError(f"{name}_mask: expected ({len(scores)}, 1, H, W), got shape {tuple(mask.shape)}")
    classes = mask.as_subclass(Tensor)[:, 0].long()
    if not torch.equal(classes.to(mask.dtype), mask.as_subclass(Tensor)[:, 0]) or ((classes < 0) | (classes > 1)).any():
        raise ValueError(f"{name}_mask: expected 0 (background) and 1 (foreground) only")
    if len(scores) and scores.shape[2:] != classes.shape[1:]:
        scores = interpolate(scores, classes.shape[1:], mode="bilinear")
    return scores, classes
