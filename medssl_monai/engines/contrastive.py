"""Pre-training with the supervised contrastive loss on two views (SRCL algorithm 1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from medssl_monai.engines.base import LabelEfficientTrainer


class SupConTrainer(LabelEfficientTrainer):
    """Contrastive pre-training that uses whatever labels there are (SRCL eq. 2, algorithm 1).

    Batches hold ``view1`` and ``view2`` (N, C, H, W) and ``label`` (N,), -1 where unknown. The network has
    ``features`` and ``project``.

    Args:
        loss: loss of (embeddings (N, 2, D), labels (N,)), for example :class:`SupConLoss`; with ``gather_distributed``
            the samples of all processes are compared.
        **kwargs: as for :class:`LabelEfficientTrainer`.
    """

    terms = ("supcon",)

    def __init__(self, *, loss: Callable[[Tensor, Tensor], Tensor], **kwargs: Any) -> None:
        super().__init__(weights={"supcon": 1.0}, **kwargs)
        self.contrastive_loss = loss

    def loss_terms(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """SupCon over the two views."""
        network: Any = self.network
        # one pass, so that BatchNorm sees both views together
        embeddings = network.project(network.features(torch.cat([batch["view1"], batch["view2"]])))
        return {"supcon": self.contrastive_loss(torch.stack(embeddings.chunk(2), dim=1), batch["label"])}
