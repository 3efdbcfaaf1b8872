"""Supervised training of a classifier on one view of each image: fine-tuning, and its baselines from scratch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from medssl_monai.engines.base import LabelEfficientTrainer


class ClassificationTrainer(LabelEfficientTrainer):
    """Supervised training: the network's outputs for ``image`` against ``label``.

    Batches hold ``image`` (N, C, H, W), or volumes (N, C, H, W, S) where the network takes them, and ``label``: class
    indices (N,) for exclusive classes, 0/1 entries (N,) or (N, L) for labels that are each there or not. The network
    maps images to logits (N, C) or (N, L).

    Args:
        loss: loss of (logits, labels), for example of :func:`medssl_monai.losses.supervised_loss`.
        **kwargs: as for :class:`LabelEfficientTrainer`.
    """

    terms = ("supervised",)

    def __init__(self, *, loss: Callable[[Tensor, Tensor], Tensor], **kwargs: Any) -> None:
        super().__init__(weights={"supervised": 1.0}, **kwargs)
        self.loss = loss

    def loss_terms(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """The supervised loss of a batch."""
        return {"supervised": self.loss(self.network(batch["image"]), batch["label"])}
