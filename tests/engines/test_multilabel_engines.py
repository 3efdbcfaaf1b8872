"""Supervised training on one view and evaluation of labels that are each there or not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from tiny_training import Recorder, assert_state, copy_state
from torch import Tensor, nn

from medssl_monai.engines import ClassificationEvaluator, ClassificationTrainer
from medssl_monai.losses import LabelledCrossEntropyLoss, supervised_loss


class SliceMax(nn.Module):
    """Mean of each slice (N, C, H, W, S), a linear layer, the maximum over slices: (N, L)."""

    def __init__(self, channels: int, labels: int) -> None:
        super().__init__()
        self.head = nn.Linear(channels, labels)

    def forward(self, x: Tensor) -> Tensor:
        pooled = x.mean(dim=(2, 3))
        return self.head(pooled.movedim(1, -1)).amax(dim=1) if x.dim() == 5 else self.head(pooled)


def network(labels: int, seed: int = 0) -> SliceMax:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return SliceMax(2, labels).double()


def batches(labels: int, volumes: bool, steps: int = 3, table: bool = True) -> list[dict[str, Any]]:
    rng = np.random.default_rng(labels)
    shape = (6, 2, 4, 4, 3) if volumes else (6, 2, 4, 4)
    found = []
    for step in range(steps):
        truth = rng.integers(0, 2, (6, labels))
        label = torch.tensor(truth, dtype=torch.float32) if table else torch.tensor(truth[:, 0])
        found.append(
            {
                "image": torch.tensor(rng.standard_normal(shape)),
                "label": label,
                "name": [f"{step}-{i}" for i in "abcdef"],
            }
        )
    return found


@pytest.mark.parametrize("volumes", [False, True])
@pytest.mark.parametrize("labels", [1, 3])
def test_training_steps_are_those_of_a_plain_loop(labels: int, volumes: bool) -> None:
    net, data = network(labels), batches(labels, volumes, table=labels > 1)
    optimizer, recorder = torch.optim.SGD(net.parameters(), lr=0.3), Recorder()
    ClassificationTrainer(
        device="cpu", max_epochs=2, train_data_loader=data, network=net, optimizer=optimizer,
        loss=supervised_loss("bce", [2.0, 0.5, 1.0][:labels]), train_handlers=[recorder],
    ).run()  # fmt: skip
    twin, losses = network(labels), []
    criterion = nn.BCEWithLogitsLoss(pos_weight=torch.tensor([2.0, 0.5, 1.0][:labels]).double())
    for entry in data * 2:
        loss = criterion(twin(entry["image"]), entry["label"].double().reshape(6, labels))
        losses.append(loss.item())
        gradients = torch.autograd.grad(loss, list(twin.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(twin.parameters(), gradients):
                parameter -= 0.3 * gradient
    assert [row["loss"] for row in recorder.rows] == pytest.approx(losses, rel=1e-12)
    assert [row["supervised"] for row in recorder.rows] == [row["loss"] for row in recorder.rows]
    assert_state(net, copy_state(twin), rtol=1e-12)


def test_it_trains_exclusive_classes_too() -> None:
    net, data = network(3), batches(3, False)
    data = [{**entry, "label": torch.arange(6) % 3} for entry in data]
    before = copy_state(net)
    recorder = Recorder()
    ClassificationTrainer(
        device="cpu", max_epochs=1, train_data_loader=data, network=net, loss=LabelledCrossEntropyLoss(),
        optimizer=torch.optim.SGD(net.parameters(), lr=0.1), train_handlers=[recorder],
    ).run()  # fmt: skip
    twin = network(3)
    twin.load_state_dict(before)
    first = nn.functional.cross_entropy(twin(data[0]["image"]), data[0]["label"])
    assert recorder.rows[0]["supervised"] == pytest.approx(first.item(), rel=1e-12)


def evaluate(net: nn.Module, data: Any) -> dict[str, float]:
    engine = ClassificationEvaluator(device=torch.device("cpu"), val_data_loader=data, network=net, exclusive=False)
    engine.run()
    return engine.state.metrics


@pytest.mark.parametrize("labels", [1, 3])
def test_metrics_over_labels(labels: int) -> None:
    net, data = network(labels), batches(labels, True, table=labels > 1)
    metrics = evaluate(net, data)
    with torch.no_grad():
        logits = torch.cat([net(entry["image"]) for entry in data]).numpy()
    truth = torch.cat([entry["label"] for entry in data]).numpy().reshape(-1, labels)
    aucs = [roc_auc_score(truth[:, k], logits[:, k]) for k in range(labels)]
    balanced = [balanced_accuracy_score(truth[:, k], logits[:, k] >= 0) for k in range(labels)]
    assert metrics == {
        "macro_auroc": pytest.approx(np.mean(aucs), abs=1e-12),
        "balanced_accuracy": pytest.approx(np.mean(balanced), abs=1e-12),
    }


def test_a_label_that_no_case_has() -> None:
    net, data = network(2), batches(2, False)
    for entry in data:
        entry["label"][:, 1] = 0
    metrics = evaluate(net, data)
    with torch.no_grad():
        logits = torch.cat([net(entry["image"]) for entry in data]).numpy()
    truth = torch.cat([entry["label"] for entry in data]).numpy()
    assert metrics["macro_auroc"] == pytest.approx(roc_auc_score(truth[:, 0], logits[:, 0]), abs=1e-12)
    specificity = (logits[:, 1] < 0).mean()
    first = balanced_accuracy_score(truth[:, 0], logits[:, 0] >= 0)
    assert metrics["balanced_accuracy"] == pytest.approx((first + specificity) / 2, abs=1e-12)


def test_labels_of_another_number_are_refused() -> None:
    data = [{**entry, "label": entry["label"][:, 0]} for entry in batches(3, False)]
    with pytest.raises(ValueError, match=r"labels: expected shape \(6, 3\), one entry a label, got \(6,\)"):
        evaluate(network(3), data)
