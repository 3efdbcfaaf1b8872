"""Training by episodes: segment a query by one masked support, and the support back by the query's prediction."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from medssl_monai.core import ConfigError
from medssl_monai.engines.base import LabelEfficientTrainer, to_device
from medssl_monai.losses import CoWProLoss

EpisodeQueries = Callable[[Tensor, Tensor, Tensor, int], tuple[Tensor, Tensor]]


class EpisodicTrainer(LabelEfficientTrainer):
    """Trains a :class:`CoWProNet` by episodes (thesis 7.4.1.5), several a step.

    Batches hold ``image`` (N, C, H, W), the supports, their masks ``mask`` (N, 1, H, W) of 0 and 1, and the samples'
    numbers ``index`` (N,); ``views`` makes the queries and their masks of them, on the device. The terms are ``query``
    (eq. 7.12) and ``cycle`` (eq. 7.13), both with weight 1.

    An episode whose support or query shows no foreground is left out of its step and counted (:attr:`skipped`, and the
    handler :class:`SkippedEpisodes`). A step without any usable episode leaves gradients of zero.

    Args:
        views: from (images, masks, index, epoch from 0) to queries and their masks, of the same shapes: an
            :class:`EpisodeViews`; a function of these alone, so that a resumed run sees the same queries.
        loss: loss of both terms; ``None``: that of the paper.
        **kwargs: as for :class:`LabelEfficientTrainer`.

    Attributes:
        skipped: episodes of the last step that were left out, of this process.

    Raises:
        ConfigError: in the first step, for batches that lack one of these.
    """

    terms = ("query", "cycle")

    def __init__(self, *, views: EpisodeQueries, loss: CoWProLoss | None = None, **kwargs: Any) -> None:
        self.views, self.skipped = views, 0
        weights: Mapping[str, float] = kwargs.pop("weights", {"query": 1.0, "cycle": 1.0})
        super().__init__(weights=weights, **kwargs)
        self.loss = (loss or CoWProLoss()).to(self.state.device)

    def prepare(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch with its queries, on the device."""
        missing = [key for key in ("image", "mask", "index") if key not in batch]
        if missing:
            raise ConfigError(
                f"the batches have no {' and no '.join(missing)}", where="train::preprocessing",
                found=", ".join(sorted(batch)), expected="image, mask and index",
                advice="Draw image and mask with medssl_monai.transforms.DrawEpisoded, and give the dataset "
                "index_key=index.",
            )  # fmt: skip
        batch = to_device(batch, self.state.device, self.non_blocking)
        query, mask = self.views(batch["image"], batch["mask"], batch["index"], max(self.state.epoch - 1, 0))
        return to_device({**batch, "query": query, "query_mask": mask}, self.state.device)

    def loss_terms(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """The terms of the usable episodes of a batch."""
        masks = (batch["mask"], batch["query_mask"])
        usable = torch.stack([mask.flatten(1).any(dim=1) for mask in masks]).all(dim=0)
        self.skipped = int((~usable).sum())
        keys = ("image", "mask", "query", "query_mask")
        # with several processes each goes through the network, so that none waits for gradients of another
        chosen = usable if self.skipped < len(usable) else torch.ones_like(usable)
        support, mask, query, query_mask = (batch[key][chosen] for key in keys)
        network: Any = self.network
        scores = network.episode(support, mask, query)
        pair = self.loss.terms(scores.query, query_mask, scores.support, mask[scores.cyclic])
        named = dict(zip(self.terms, pair))
        return {name: named[name] * usable.any() for name in self.weights}
