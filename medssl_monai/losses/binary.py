"""Binary cross-entropy of labels that are each there or not: binary and multilabel tasks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from medssl_monai.core.distributed import sum_over_processes, world_size
from medssl_monai.losses._common import without_autocast
from medssl_monai.losses.probability import _SUPERVISED, LabelledLoss, _check_logits


@_SUPERVISED.register("bce")
class LabelledBinaryCrossEntropyLoss(LabelledLoss):
    """Binary cross-entropy of logits over the labels that are known; entries of -1 are left out.

    With ``p`` the sigmoid of the logit, the mean over known entries (i, k) of ``-(w_k y log p + (1 - y) log(1 - p))``,
    as torch's ``BCEWithLogitsLoss`` with ``pos_weight`` has it. A batch without a known entry gives a zero that still
    carries a graph.

    Args:
        class_weights: weight of the positive entries of each label, shape (L,), for example of
            :func:`positive_weights`; ``None`` weighs them as the negative ones.
        gather_distributed: divide by the mean over the processes of the number of known entries, see
            :class:`LabelledLoss`.

    Raises:
        ValueError: when ``class_weights`` is not a vector of finite non-negative numbers with one above 0.
    """

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            logits: scores before the sigmoid, shape (N, L).
            labels: 0, 1 or -1 (unknown), shape (N, L), integers or floating point; with one label also (N,).

        Returns:
            The loss, a scalar in the logits' precision, never below float32.

        Raises:
            ValueError: for a wrong shape or dtype, other labels, or another number of weights than L.
        """
        scores = _check_logits("logits", logits)
        target = check_label_table(labels, scores.shape).to(scores)
        known = target >= 0
        weights = None
        if self.class_weights is not None:
            if len(self.class_weights) != scores.shape[1]:
                raise ValueError(
                    f"class_weights: expected {scores.shape[1]} weights, one a label, got {len(self.class_weights)}"
                )
            weights = self.class_weights.to(scores)
        with without_autocast(scores):
            entries = F.binary_cross_entropy_with_logits(
                scores, target.clamp(min=0), pos_weight=weights, reduction="none"
            )
            total = known.sum().to(scores.dtype)
            if self.gather_distributed:
                total = sum_over_processes(total) / world_size()
            return (entries * known).sum() / torch.where(total > 0, total, 1.0)

    def row_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Sum of the entries' losses of each row, shape (N,), without weights; ``labels`` are 0 and 1."""
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits), reduction="none").sum(dim=1)


def check_label_table(labels: Tensor, shape: Sequence[int]) -> Tensor:
    """Labels as a plain tensor (N, L) of 0, 1 and -1.

    Raises:
        ValueError: for another shape, a complex or boolean dtype, or other values.
    """
    if not isinstance(labels, Tensor):
        raise ValueError(f"labels: expected a tensor, got {type(labels).__name__}")
    plain = labels.as_subclass(Tensor)
    if plain.dim() == 1 and shape[1] == 1:
        plain = plain[:, None]
    if tuple(plain.shape) != tuple(shape):
        either = f" or ({shape[0]},)" if shape[1] == 1 else ""
        raise ValueError(f"labels: expected shape {tuple(shape)}{either}, one entry a label, got {tuple(labels.shape)}")
    if plain.is_complex() or plain.dtype == torch.bool:
        raise ValueError(f"labels: expected integers or floating-point numbers, got {plain.dtype}")
    wrong = ~((plain == 0) | (plain == 1) | (plain == -1))
    if bool(wrong.any()):
        raise ValueError(f"labels: expected 0, 1, or -1 for unknown, got {plain[wrong][0].item()}")
    return plain


def positive_weights(n_positive: Sequence[int] | Tensor, n_labels: int) -> Tensor:
    """Weight of the positive entries of each label, negatives / positives.

    These are the positive class weights of the thesis (5.5.3.3, 6.5.2.2). Positive and negative entries of a label
    then weigh as much as one another in the loss. A count of 0 is taken as 1, so that the weight stays finite and above
    0.

    Args:
        n_positive: items of the labelled part of the training data that show each label, shape (L,).
        n_labels: items of that part.

    Returns:
        Weights, shape (L,), float64.

    Raises:
        ValueError: when the counts are not a vector of numbers from 0 to ``n_labels``, or there is no item.
    """
    counts = torch.as_tensor(n_positive, dtype=torch.float64)
    usable = counts.dim() == 1 and len(counts) and bool(counts.isfinite().all()) and n_labels >= 1
    if not usable or bool((counts < 0).any()) or bool((counts > n_labels).any()):
        raise ValueError(
            f"n_positive: expected one count from 0 to n_labels ({n_labels}, at least 1) a label, got {counts.tolist()}"
        )
    return (n_labels - counts).clamp(min=1) / counts.clamp(min=1)
