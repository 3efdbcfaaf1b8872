"""Pre-training on two views: contrastive losses, with and without labels, of batches larger than the memory."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from medssl_monai.core import ConfigError
from medssl_monai.engines.base import LabelEfficientTrainer, to_device
from medssl_monai.engines.micro_batches import CachedPasses, split_batch
from medssl_monai.engines.settings import check_settings

VIEWS = ("view1", "view2")

BatchViews = Callable[[dict[str, Any], int], dict[str, Any]]


class TwoViewTrainer(LabelEfficientTrainer):
    """What trainers on two views share: where the views come from.

    Batches hold ``view1`` and ``view2`` (N, C, H, W). With ``views`` they are made on the device, of what the batch
    holds instead (``image``); the loader then has one image a sample to hand over.

    Args:
        views: from a batch on the device and the epoch, from 0, to the batch with ``view1`` and ``view2``; a function
            of these alone, so that a resumed run sees the same views. ``None`` where the loader makes them.
        **kwargs: as for :class:`LabelEfficientTrainer`.

    Raises:
        ConfigError: in the first step, when a batch has no views.
    """

    def __init__(self, *, views: BatchViews | None = None, **kwargs: Any) -> None:
        self.views = views
        super().__init__(**kwargs)

    @property
    def whole_batches(self) -> bool:
        """Whether a batch goes through the network as it is, and is laid out for it as a whole."""
        return True

    def prepare(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch with its views, on the device."""
        batch = to_device(batch, self.state.device, self.non_blocking, self.whole_batches)
        if self.views is not None:
            made = self.views(batch, max(self.state.epoch - 1, 0))
            batch = to_device(made, self.state.device, channels_last=self.whole_batches)
        missing = [key for key in VIEWS if key not in batch]
        if missing:
            raise ConfigError(
                f"the batches have no {' and no '.join(missing)}",
                where="train::preprocessing" if self.views is None else "views",
                found=", ".join(sorted(batch)), expected="view1 and view2",
                advice="Make them in the preprocessing with medssl_monai.transforms.TwoViewsd, or give the trainer "
                "`views`.",
            )  # fmt: skip
        return batch


class PairTrainer(TwoViewTrainer):
    """A loss over the embeddings of both views of all samples of a batch, in one pass or by micro-batches.

    In one pass both views go through the network together, so that BatchNorm sees both. With ``micro_batch_size`` two
    passes by parts give the gradient of the same loss over the whole batch (:class:`CachedPasses`), in the memory of a
    part (beside the images themselves and the loss's own) and in about a third more time, that of a forward pass
    without graph; both views of a sample are in the same part. Networks without batch statistics get the gradient of
    the one pass. BatchNorm normalises by the statistics of a micro-batch then, and its running statistics take one
    update a micro-batch. Random numbers (dropout) are drawn part by part, others than in one pass. A batch that fits in
    one micro-batch takes the one pass.

    Args:
        micro_batch_size: largest number of samples of a part, at least 1 (at least 2 where the network has BatchNorm
            and one image gives one value a channel); of each process. ``None``: one pass.
        **kwargs: as for :class:`TwoViewTrainer`.

    Raises:
        ConfigError: when ``micro_batch_size`` is no whole number above 0.
    """

    def __init__(self, *, micro_batch_size: int | None = None, **kwargs: Any) -> None:
        check_settings(micro_batch_size=micro_batch_size)
        self.micro_batch_size = micro_batch_size
        super().__init__(**kwargs)
        self._cached: CachedPasses | None = None
        self._passes = CachedPasses(self.network, self.embed, self.objective, self.autocast, self.state.device)

    @property
    def whole_batches(self) -> bool:
        """Not with micro-batches: a second copy of all images would be held for parts that are small."""
        return self.micro_batch_size is None

    @abstractmethod
    def contrast(self, embeddings: Tensor, batch: dict[str, Any]) -> dict[str, Tensor]:
        """The terms of a batch's embeddings, shape (N, 2, D)."""

    def embed(self, batch: dict[str, Any]) -> Tensor:
        """Embeddings of both views, shape (N, 2, D)."""
        network: Any = self.network
        images = torch.cat([batch[key] for key in VIEWS])  # one pass, so that BatchNorm sees both views together
        if images.dim() == 4:
            images = images.contiguous(memory_format=torch.channels_last)
        embeddings = network.project(network.features(images))
        return torch.stack(embeddings.chunk(2), dim=1)

    def loss_terms(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """The loss over the two views, in one pass."""
        return self.contrast(self.embed(batch), batch)

    def network_pass(self, batch: dict[str, Any]) -> Any:
        """With micro-batches the embeddings alone: the loss is of them all."""
        return self.loss_terms(batch) if self.micro_batch_size is None else self.embed(batch)

    def forward_pass(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """The terms, in one pass or by micro-batches."""
        self._cached = None
        if self.micro_batch_size is None:
            return super().forward_pass(batch)
        parts = split_batch(batch, VIEWS, self.micro_batch_size)
        if len(parts) > 1:
            self._cached = self._passes
            embeddings = self._cached.forward(parts)
            with self.autocast():
                return self.contrast(embeddings, batch)
        with self.autocast():
            return self.contrast(self.objective(batch), batch)

    def backward_pass(self, total: Tensor) -> None:
        """The gradients, through what :meth:`forward_pass` went through."""
        if self._cached is None:
            super().backward_pass(total)
        else:
            self._cached.backward(total)


class ContrastiveTrainer(PairTrainer):
    """Contrastive pre-training without labels (thesis chapters 4 to 6, and NT-Xent, DCL and DCLW as peers).

    The network has ``features`` and ``project`` (:class:`medssl_monai.networks.ContrastiveNet`).

    Args:
        loss: loss of (embeddings of the first views (N, D), of the second (N, D)), for example
            :class:`medssl_monai.losses.NTXentLoss`; with ``gather_distributed`` the samples of all processes are
            compared.
        **kwargs: as for :class:`PairTrainer`: ``views``, ``micro_batch_size``, and those of all trainers but
            ``weights``.
    """

    terms = ("contrastive",)

    def __init__(self, *, loss: Callable[[Tensor, Tensor], Tensor], **kwargs: Any) -> None:
        super().__init__(weights={"contrastive": 1.0}, **kwargs)
        self.contrastive_loss = loss

    def contrast(self, embeddings: Tensor, batch: dict[str, Any]) -> dict[str, Tensor]:
        """The loss of the views."""
        return {"contrastive": self.contrastive_loss(embeddings[:, 0], embeddings[:, 1])}


class SupConTrainer(PairTrainer):
    """Contrastive pre-training that uses whatever labels there are (SRCL eq. 2, algorithm 1).

    Batches hold ``label`` (N,), -1 where unknown, beside the views. The network has ``features`` and ``project``.

    Args:
        loss: loss of (embeddings (N, 2, D), labels (N,)), for example :class:`SupConLoss`; with ``gather_distributed``
            the samples of all processes are compared.
        **kwargs: as for :class:`PairTrainer`.
    """

    terms = ("supcon",)

    def __init__(self, *, loss: Callable[[Tensor, Tensor], Tensor], **kwargs: Any) -> None:
        super().__init__(weights={"supcon": 1.0}, **kwargs)
        self.contrastive_loss = loss

    def contrast(self, embeddings: Tensor, batch: dict[str, Any]) -> dict[str, Tensor]:
        """SupCon over the two views."""
        return {"supcon": self.contrastive_loss(embeddings, batch["label"])}
