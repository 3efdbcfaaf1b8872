"""The trainer that a bundle's ``loss_name`` asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from medssl_monai.core import ConfigError
from medssl_monai.engines.contrastive import ContrastiveTrainer, TwoViewTrainer
from medssl_monai.engines.moco import MoCoTrainer
from medssl_monai.handlers.queue import FeatureQueue
from medssl_monai.handlers.teacher import EMATeacher


def contrastive_trainer(
    *,
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    momentum_encoder: EMATeacher | None = None,
    queue: FeatureQueue | None = None,
    temperature: float | None = None,
    micro_batch_size: int | None = None,
    of_losses: Mapping[str, Any] | None = None,
    of_moco: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> TwoViewTrainer:
    """:class:`ContrastiveTrainer` where there is a loss, :class:`MoCoTrainer` where there is a momentum encoder.

    A configuration disables what its ``loss_name`` does not need, which then arrives here as ``None``.

    Args:
        loss: of the two views' embeddings.
        momentum_encoder: MoCo's encoder of the keys.
        queue: MoCo's negatives.
        temperature: MoCo's; a loss has its own. ``None``: the trainer's default.
        micro_batch_size: see :class:`ContrastiveTrainer`.
        of_losses: keys of the configuration that only losses read, and their values; with MoCo one that is not ``None``
            is refused, because nothing would read it.
        of_moco: keys that only MoCo reads, likewise.
        **kwargs: as for both trainers.

    Raises:
        ConfigError: when it is not clear which of the two is meant, a key is given that the other one reads, or MoCo
            is to run by micro-batches.
    """
    if loss is not None and momentum_encoder is None and queue is None:
        _refuse(of_moco, "is read with loss_name moco only")
        return ContrastiveTrainer(loss=loss, micro_batch_size=micro_batch_size, **kwargs)
    if loss is not None or momentum_encoder is None or queue is None:
        given = {"loss": loss, "momentum_encoder": momentum_encoder, "queue": queue}
        raise ConfigError(
            "the trainer's objective is not clear", where="train::trainer",
            found=", ".join(name for name, value in given.items() if value is not None) or "none of them",
            expected="a loss, or a momentum_encoder with its queue",
        )  # fmt: skip
    _refuse(of_losses, "is not read with loss_name moco")
    if micro_batch_size is not None:
        raise ConfigError(
            "MoCo does not run by micro-batches: its negatives come from the queue, whatever the batch",
            where="micro_batch_size", found=micro_batch_size, expected="null",
            advice="Make batch_size smaller and queue_size larger.",
        )  # fmt: skip
    if temperature is not None:
        kwargs["temperature"] = temperature
    return MoCoTrainer(momentum_encoder=momentum_encoder, queue=queue, **kwargs)


def _refuse(keys: Mapping[str, Any] | None, why: str) -> None:
    for key, value in (keys or {}).items():
        if value is not None:
            raise ConfigError(f"{key} {why}", where=key, found=value, expected="null")
