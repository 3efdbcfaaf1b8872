"""Momentum contrast (MoCo v2): queries against the keys of a momentum encoder and a queue."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from medssl_monai.core import ConfigError, permutation
from medssl_monai.core.distributed import rank
from medssl_monai.engines.contrastive import TwoViewTrainer
from medssl_monai.handlers.queue import FeatureQueue
from medssl_monai.handlers.teacher import EMATeacher
from medssl_monai.losses.momentum import MomentumContrastLoss


class MoCoTrainer(TwoViewTrainer):
    """MoCo v2 (He et al. 2020, algorithm 1; Chen et al. 2020, "Improved baselines with momentum contrastive learning").

    The first view goes through the network (query), the second without gradient through the momentum encoder (key).
    Queries are contrasted with their own keys and the queue's; after the optimiser's step the momentum encoder follows
    the network, and the keys enter the queue. The queue starts empty, where the authors' starts with random vectors:
    only what is in it counts, and the very first step, without negatives, has loss 0. What makes it version 2, the
    two-layer projector and the stronger augmentation, is the network's and the views'; so is the cosine schedule.

    **Shuffled BatchNorm** (He et al. 2020, section 3.3). Statistics shared by a query and its key tell which key is
    whose, and shuffling only helps where they are taken over parts of a batch. On one device the batch therefore goes
    through either network in groups of about ``batch_norm_group`` samples, the keys in another order than the queries.
    Networks without BatchNorm take the batch whole. With several processes on GPUs, the groups' statistics are
    synchronised over the processes (each group then has so many times more samples), and keys are shuffled within their
    process; on the processor each process has its own.

    The momentum encoder and the queue belong to the objects of the run's checkpoint
    (:class:`medssl_monai.handlers.RunCheckpoint`), beside network and optimiser.

    Args:
        momentum_encoder: ``EMATeacher(network, decay=0.999, average_buffers=False, ramp=False)``. It starts as a copy
            of the network as the first step finds it, and normalises by its own batches' statistics.
        queue: of features of the embedding's length; its size is the number of negatives (65,536 in the paper, a
            twentieth of its images). Keep it well below the number of images: a longer queue holds keys of the very
            sample from the epoch before, as negatives.
        temperature: divisor of the cosines (0.2; 0.07 in the first version and in the thesis).
        batch_norm_group: samples that share BatchNorm statistics (32: the authors' batch of 256 on 8 GPUs); ``None``
            takes the batch whole, without shuffling.
        **kwargs: as for :class:`TwoViewTrainer`, but ``weights``.

    Raises:
        ConfigError: when ``batch_norm_group`` is below 2, or the queue has columns beside the features.
        ValueError: when ``temperature`` is not a finite number above 0.
    """

    terms = ("contrastive",)

    def __init__(
        self,
        *,
        momentum_encoder: EMATeacher,
        queue: FeatureQueue,
        temperature: float = 0.2,
        batch_norm_group: int | None = 32,
        **kwargs: Any,
    ) -> None:
        if batch_norm_group is not None and batch_norm_group < 2:
            raise ConfigError(
                "samples that share BatchNorm statistics", where="batch_norm_group", found=batch_norm_group,
                expected="2 or more, or null for the whole batch",
            )  # fmt: skip
        if queue.names != ("features",):
            raise ConfigError(
                "the queue has columns that MoCo does not fill", where="queue", found=", ".join(queue.names),
                expected="features alone",
            )  # fmt: skip
        self.momentum_encoder, self.queue = momentum_encoder, queue
        self.batch_norm_group = batch_norm_group
        self.momentum_contrast = MomentumContrastLoss(temperature)
        self._keys: Tensor | None = None
        super().__init__(weights={"contrastive": 1.0}, **kwargs)
        momentum_encoder.module.to(self.state.device)
        queue.to(self.state.device)
        self._has_batch_norm = any(isinstance(module, _BatchNorm) for module in self.network.modules())

    @property
    def stateful_modules(self) -> list[nn.Module]:
        """Network and momentum encoder; the queue changes behind the step only, and alike in all processes."""
        return [self.network, self.momentum_encoder.module]

    def loss_terms(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """InfoNCE of the first view's queries with the second view's keys."""
        if self.momentum_encoder.updates == 0 and not self._measuring:
            self.momentum_encoder.copy_from(self.network)
        queries = self._embed(self.network, batch["view1"])
        with torch.no_grad():
            self._keys = self._shuffled(batch["view2"])
        return {"contrastive": self.momentum_contrast(queries, self._keys, self.queue.rows())}

    def after_step(self) -> None:
        """The momentum encoder follows, the keys enter the queue."""
        assert self._keys is not None  # noqa: S101  (behind loss_terms)
        self.momentum_encoder.update(self.network)
        self.queue.enqueue(nn.functional.normalize(self._keys.to(self.queue.features.dtype), dim=1))
        self._keys = None
        super().after_step()

    def _groups(self, samples: int) -> int:
        if self.batch_norm_group is None or not self._has_batch_norm:
            return 1
        return max(round(samples / self.batch_norm_group), 1)

    def _embed(self, network: Any, images: Tensor) -> Tensor:
        """Embeddings, shape (N, D), in groups with statistics of their own."""
        groups = torch.tensor_split(images, self._groups(len(images)))
        return torch.cat([network.project(network.features(group)) for group in groups])

    def _shuffled(self, images: Tensor) -> Tensor:
        """Keys of images in the order of these, grouped in another."""
        if self._groups(len(images)) == 1:
            return self._embed(self.momentum_encoder.module, images)
        drawn = permutation(len(images), self.seed, "keys", self.state.epoch, self.state.iteration, rank())
        order = torch.from_numpy(drawn).to(images.device)
        return self._embed(self.momentum_encoder.module, images[order])[torch.argsort(order)]
