"""A bundle's `loss_name` becomes one trainer or the other."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from medssl_monai.core import ConfigError
from medssl_monai.engines import ContrastiveTrainer, MoCoTrainer, check_objective, contrastive_trainer
from medssl_monai.handlers import EMATeacher, FeatureQueue
from medssl_monai.losses import NTXentLoss
from medssl_monai.networks import ContrastiveNet


@pytest.fixture
def common() -> dict[str, Any]:
    network = ContrastiveNet("resnet18", projection_dim=8, in_channels=1, width=0.125)
    return {
        "device": "cpu", "max_epochs": 1, "train_data_loader": [], "network": network,
        "optimizer": torch.optim.SGD(network.parameters(), lr=0.1),
    }  # fmt: skip


@pytest.fixture
def momentum(common: dict[str, Any]) -> dict[str, Any]:
    return {
        "momentum_encoder": EMATeacher(common["network"], decay=0.999, average_buffers=False, ramp=False),
        "queue": FeatureQueue(16, 8),
    }


def test_a_loss(common: dict[str, Any]) -> None:
    trainer = contrastive_trainer(loss=NTXentLoss(), micro_batch_size=4, **common)
    assert isinstance(trainer, ContrastiveTrainer)
    assert trainer.micro_batch_size == 4


def test_momentum_contrast(common: dict[str, Any], momentum: dict[str, Any]) -> None:
    trainer = contrastive_trainer(**momentum, **common)
    assert isinstance(trainer, MoCoTrainer)
    assert trainer.momentum_contrast.temperature == 0.2
    warmer = contrastive_trainer(temperature=0.5, **momentum, **common)
    assert isinstance(warmer, MoCoTrainer)
    assert warmer.momentum_contrast.temperature == 0.5


def test_what_is_not_clear(common: dict[str, Any], momentum: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="none of them"):
        contrastive_trainer(**common)
    with pytest.raises(ConfigError, match="loss, momentum_encoder, queue"):
        contrastive_trainer(loss=NTXentLoss(), **momentum, **common)
    with pytest.raises(ConfigError, match="found queue"):
        contrastive_trainer(queue=momentum["queue"], **common)
    with pytest.raises(ConfigError, match="micro-batches"):
        contrastive_trainer(micro_batch_size=4, **momentum, **common)


def test_keys_of_the_other_kind() -> None:
    losses: dict[str, Any] = {"tau_min": None, "chunk_size": 8}
    moco: dict[str, Any] = {"queue_size": None, "momentum": 0.0}  # 0 is a value
    with pytest.raises(
        ConfigError, match=r"^chunk_size: chunk_size is not read with loss_name moco \(found 8, expected "
    ):
        check_objective("moco", losses, moco)
    with pytest.raises(
        ConfigError,
        match=r"^momentum: momentum is read with loss_name moco only, not with dcl \(found 0\.0, expected null\)",
    ):
        check_objective("dcl", losses, moco)
    with pytest.raises(
        ConfigError, match=r"^micro_batch_size: MoCo does not run by micro-batches.*\(found 4, expected"
    ):
        check_objective("moco", {"chunk_size": None}, moco, 4)
    check_objective("dcl", losses, {"momentum": None}, 4)
    check_objective("moco", {"chunk_size": None}, moco)


def test_names_that_there_are_not() -> None:
    with pytest.raises(ConfigError, match=r"^loss_name: unknown contrastive loss 'mocco'\. Did you mean 'moco'\?$"):
        check_objective("mocco", {}, {"momentum": 0.9})  # not the key of a loss that is none
    with pytest.raises(ConfigError, match=r"unknown contrastive loss 'simclr'\. Known: binary, .*moco, nt_xent\.$"):
        check_objective("simclr", {}, {})
    with pytest.raises(ConfigError, match=r"^loss_name: unknown contrastive loss None"):
        check_objective(None, {}, {})  # type: ignore[arg-type]
