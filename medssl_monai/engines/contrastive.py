"""Pre-training with the supervised contrastive loss on two views (SRCL algorithm 1)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from medssl_monai.engines.base import LabelEfficientTrainer
from medssl_monai.losses import SupConLoss


class SupConTrainer(LabelEfficientTrainer):
    """Contrastive pre-training that uses whatever labels there are (SRCL eq. 2, algorithm 1).

    Batches hold ``view1`` and ``view2`` (N, C, H, W) and ``label`` (N,), -1 where unknown. The network has
    ``features`` and ``project``.

    Args:
        temperature: temperature of the loss.
        **kwargs: as for :class:`LabelEfficientTrainer`.
    """

    terms = ("supcon",)

    def __init__(self, *, temperature: float = 0.1, **kwargs: Any) -> None:
        kwargs.setdefault("weights", {"supcon": 1.0})
        super().__init__(**kwargs)
        self.contrastive_loss = SupConLoss(temperature)

    def loss_terms(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """SupCon over the two views."""
        network: Any = self.network
        # one pass, so that BatchNorm sees both views together
        embeddings = network.project(network.features(torch.cat([batch["view1"], batch["view2"]])))
        return {"supcon": self.contrastive_loss(torch.stack(embeddings.chunk(2), dim=1), batch["label"])}
