"""The evaluator: figures as scikit-learn computes them, precision, empty validation."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch
from monai.handlers import ValidationHandler
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from tiny_training import EpochLoader, tiny_net
from torch import nn

from medssl_monai.engines import ClassificationEvaluator, MeanTeacherTrainer
from medssl_monai.handlers import EMATeacher
from medssl_monai.losses import ProbabilityMSELoss


def batches(count: int = 3, classes: int = 3) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    return [
        {
            "image": torch.tensor(rng.standard_normal((4, 2, 2, 2))),
            "label": torch.tensor(rng.permutation([0, 1, classes - 1, 0])),
            "name": [f"{i}-{j}" for j in range(4)],
        }
        for i in range(count)
    ]


def evaluator(network: nn.Module, data: Any, **kwargs: Any) -> ClassificationEvaluator:
    return ClassificationEvaluator(device=torch.device("cpu"), val_data_loader=data, network=network, **kwargs)


def test_metrics_over_all_batches() -> None:
    network, data = tiny_net(), batches()
    engine = evaluator(network, data)
    engine.run(7)
    with torch.no_grad():
        logits = torch.cat([network.eval()(entry["image"]) for entry in data])
    labels = torch.cat([entry["label"] for entry in data]).numpy()
    probabilities = logits.softmax(1).numpy()
    aucs = [roc_auc_score(labels == c, probabilities[:, c]) for c in range(3)]
    assert engine.state.metrics["macro_auroc"] == pytest.approx(np.mean(aucs), abs=1e-12)
    expected = balanced_accuracy_score(labels, probabilities.argmax(1))
    assert engine.state.metrics["balanced_top1_accuracy"] == pytest.approx(expected, abs=1e-12)
    assert engine.state.epoch == 7
    assert isinstance(engine.state.output, dict)  # batches stay batches


def test_a_class_without_a_case_is_left_out_of_the_mean() -> None:
    network, data = tiny_net(), batches(classes=2)
    engine = evaluator(network, data)
    engine.run()
    with torch.no_grad():
        probabilities = torch.cat([network.eval()(entry["image"]) for entry in data]).softmax(1).numpy()
    labels = torch.cat([entry["label"] for entry in data]).numpy()
    aucs = [roc_auc_score(labels == c, probabilities[:, c]) for c in range(2)]
    assert engine.state.metrics["macro_auroc"] == pytest.approx(np.mean(aucs), abs=1e-12)


def test_without_metrics_and_labels() -> None:
    data = [{"image": entry["image"], "name": entry["name"]} for entry in batches()]
    engine = evaluator(tiny_net(), data, with_metrics=False)
    engine.run()
    assert engine.state.metrics == {}
    assert engine.state.iteration == 3


def test_mixed_precision_is_used_where_asked_for() -> None:
    network = tiny_net(dtype=torch.float32)
    data = [{**entry, "image": entry["image"].float()} for entry in batches()]
    seen: list[torch.dtype] = []
    network.classifier.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    evaluator(network, data, amp=True).run()
    evaluator(network, data).run()
    assert seen == [torch.bfloat16] * 3 + [torch.float32] * 3


def test_an_empty_loader_is_not_run(caplog: pytest.LogCaptureFixture) -> None:
    engine = evaluator(tiny_net(), [])
    with caplog.at_level(logging.INFO):
        engine.run(3)
    assert engine.state.metrics == {}
    assert engine.state.epoch == 0


def test_validation_of_the_teacher_leaves_it_in_its_mode_and_changes_no_number() -> None:
    def train(validated: bool) -> tuple[EMATeacher, dict[str, torch.Tensor]]:
        network = tiny_net(dropout=0.3)
        teacher = EMATeacher(network)
        engine = evaluator(teacher.module, batches())
        handlers = [ValidationHandler(interval=1, validator=engine)] if validated else []
        MeanTeacherTrainer(
            device="cpu", max_epochs=3, train_data_loader=EpochLoader(), network=network, teacher=teacher,
            weights={"supervised": 1.0, "consistency": 1.0}, supervised_loss=ProbabilityMSELoss(),
            train_handlers=handlers, optimizer=torch.optim.SGD(network.parameters(), lr=0.1),
        ).run()  # fmt: skip
        return teacher, network.state_dict()

    (validated, student), (alone, other) = train(True), train(False)
    assert validated.module.training
    for a, b in ((student, other), (validated.module.state_dict(), alone.module.state_dict())):
        assert all(torch.equal(a[name], b[name]) for name in a)
