"""Contrastive pre-training: one step against one made by hand, labels used where they are known."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_training import Recorder, assert_state, batch, copy_state, tiny_net

from medssl_monai.core import ConfigError
from medssl_monai.engines import SupConTrainer
from medssl_monai.losses import SupConLoss


def run(network: torch.nn.Module, data: list[dict[str, Any]], temperature: float = 0.3) -> list[dict[str, float]]:
    recorder = Recorder()
    SupConTrainer(
        loss=SupConLoss(temperature), device="cpu", max_epochs=1, train_data_loader=data, network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.2), train_handlers=[recorder],
    ).run()  # fmt: skip
    return recorder.rows


def test_one_step_by_hand() -> None:
    data = batch(2, labels=(1, -1, 1, -1))
    network, twin = tiny_net(), tiny_net()

    # both views go through the network together, so that they share their batch statistics
    z = twin.projector(twin.encoder(torch.cat([data["view1"], data["view2"]])))
    z = z / z.norm(dim=1, keepdim=True)
    labels = [1, -1, 1, -1] * 2
    loss = torch.zeros((), dtype=torch.float64)
    for i in range(8):
        positives = [j for j in range(8) if j != i and (j % 4 == i % 4 or (labels[i] == labels[j] == 1))]
        assert len(positives) == (3 if labels[i] == 1 else 1)
        denominator = sum((z[i] @ z[j] / 0.3).exp() for j in range(8) if j != i)
        loss = loss - sum(((z[i] @ z[p] / 0.3).exp() / denominator).log() for p in positives) / len(positives) / 8
    loss.backward()
    with torch.no_grad():
        for parameter in twin.parameters():
            if parameter.grad is not None:
                parameter -= 0.2 * parameter.grad

    rows = run(network, [data])
    assert rows == [pytest.approx({"supcon": loss.item(), "loss": loss.item()}, rel=1e-10)]
    assert_state(network, copy_state(twin), rtol=1e-10, atol=1e-12)
    assert twin.classifier.weight.grad is None  # the classifier is not trained here


def test_labels_change_the_loss() -> None:
    unlabelled = batch(2, labels=(-1, -1, -1, -1))
    labelled = {**unlabelled, "label": torch.tensor([1, -1, 1, -1])}
    assert run(tiny_net(), [unlabelled]) != run(tiny_net(), [labelled])


def test_it_has_one_term_and_takes_no_weights() -> None:
    assert SupConTrainer.terms == ("supcon",)
    with pytest.raises(TypeError, match="weights"):
        SupConTrainer(loss=SupConLoss(), weights={"supervised": 1.0})  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match="unknown precision"):
        SupConTrainer(
            loss=SupConLoss(), device="cpu", max_epochs=1, train_data_loader=[], network=tiny_net(),
            optimizer=torch.optim.SGD(tiny_net().parameters(), lr=1.0), amp_dtype="int8",
        )  # fmt: skip
