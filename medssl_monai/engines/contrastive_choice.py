"""What a bundle's ``loss_name`` asks for: which keys are read, and the trainer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from medssl_monai.core import ConfigError, did_you_mean
from medssl_monai.engines.contrastive import ContrastiveTrainer, TwoViewTrainer
from medssl_monai.engines.moco import MoCoTrainer
from medssl_monai.handlers.queue import FeatureQueue
from medssl_monai.handlers.teacher import EMATeacher
from medssl_monai.losses.factory import CONTRASTIVE_LOSSES

#: ``loss_name`` of momentum contrast, which is no loss of two views
_MOCO = "moco"


def check_objective(
    loss_name: str,
    of_losses: Mapping[str, Any],
    of_moco: Mapping[str, Any],
    micro_batch_size: int | None = None,
) -> None:
    """Refuse a ``loss_name`` that there is not, and keys that it would not read.

    It stands first in ``initialize`` of the stages that pre-train by contrast, so that nobody waits for data to be
    prepared before a slip is told.

    Args:
        loss_name: one of the contrastive losses, or ``moco``.
        of_losses: keys of the configuration that only losses read, and their values; ``None`` is not given.
        of_moco: keys that only MoCo reads, likewise.
        micro_batch_size: see :class:`ContrastiveTrainer`.

    Raises:
        ConfigError: names the key, and what was given.
    """
    names = (*CONTRASTIVE_LOSSES, _MOCO)
    if loss_name not in names:
        raise ConfigError(
            f"unknown contrastive loss {loss_name!r}", where="loss_name", advice=did_you_mean(str(loss_name), names)
        )
    moco = loss_name == _MOCO
    why = "is not read with loss_name moco" if moco else f"is read with loss_name moco only, not with {loss_name}"
    for key, value in (of_losses if moco else of_moco).items():
        if value is not None:
            raise ConfigError(f"{key} {why}", where=key, found=value, expected="null")
    if moco:
        _refuse_micro_batches(micro_batch_size)


def contrastive_trainer(
    *,
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    momentum_encoder: EMATeacher | None = None,
    queue: FeatureQueue | None = None,
    temperature: float | None = None,
    micro_batch_size: int | None = None,
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
        **kwargs: as for both trainers.

    Raises:
        ConfigError: when it is not clear which of the two is meant, or MoCo is to run by micro-batches.
    """
    if loss is not None and momentum_encoder is None and queue is None:
        return ContrastiveTrainer(loss=loss, micro_batch_size=micro_batch_size, **kwargs)
    if loss is not None or momentum_encoder is None or queue is None:
        given = {"loss": loss, "momentum_encoder": momentum_encoder, "queue": queue}
        raise ConfigError(
            "the trainer's objective is not clear", where="train::trainer",
            found=", ".join(name for name, value in given.items() if value is not None) or "none of them",
            expected="a loss, or a momentum_encoder with its queue",
        )  # fmt: skip
    _refuse_micro_batches(micro_batch_size)
    if temperature is not None:
        kwargs["temperature"] = temperature
    return MoCoTrainer(momentum_encoder=momentum_encoder, queue=queue, **kwargs)


def _refuse_micro_batches(micro_batch_size: int | None) -> None:
    if micro_batch_size is not None:
        raise ConfigError(
            "MoCo does not run by micro-batches: its negatives come from the queue, whatever the batch",
            where="micro_batch_size", found=micro_batch_size, expected="null",
            advice="Make batch_size smaller and queue_size larger.",
        )  # fmt: skip
