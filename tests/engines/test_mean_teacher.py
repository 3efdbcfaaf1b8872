"""SRCL's fine-tuning and its regimes against algorithm 2 written once more, in plain loops."""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Any

import pytest
import torch
from ignite.engine import Events
from tiny_training import CLASSES, EpochLoader, Recorder, assert_state, batch, copy_state, tiny_net
from torch import Tensor, nn

from medssl_monai.core import ConfigError
from medssl_monai.engines import MeanTeacherTrainer
from medssl_monai.handlers import EMATeacher
from medssl_monai.losses import ProbabilityMSELoss

TEMPERATURE, RATE = 0.2, 0.3


# --- algorithm 2 and equations 1 to 3, by loops
def supervised_term(logits: Tensor, labels: Tensor) -> Tensor:
    total, count = torch.zeros((), dtype=logits.dtype), 0
    for row, label in zip(logits, labels.tolist()):
        if label == -1:
            continue
        exponentials = [value.exp() for value in row]
        for c in range(CLASSES):
            total = total + (exponentials[c] / sum(exponentials) - float(c == label)) ** 2
        count += 1
    return total / max(count, 1)


def consistency_term(student: Tensor, teacher: Tensor) -> Tensor:
    total = torch.zeros((), dtype=student.dtype)
    for a, b in zip(student, teacher):
        for c in range(CLASSES):
            total = total + (a[c].exp() / a.exp().sum() - b[c].exp() / b.exp().sum()) ** 2
    return total / student.numel()


def relation_term(student: Tensor, teacher: Tensor) -> Tensor:
    def relations(features: Tensor) -> list[list[Tensor]]:
        gram = [[(a * b).sum() for b in features] for a in features]
        return [[value / sum(other**2 for other in row).sqrt() for value in row] for row in gram]

    total = torch.zeros((), dtype=student.dtype)
    for left, right in zip(relations(student), relations(teacher)):
        for a, b in zip(left, right):
            total = total + (a - b) ** 2
    return total / len(student)


def contrastive_term(first: Tensor, second: Tensor, labels: Tensor) -> Tensor:
    count = len(first)
    z = [row / row.pow(2).sum().sqrt() for row in [*first, *second]]
    total = torch.zeros((), dtype=first.dtype)
    for i in range(2 * count):
        own, label = i % count, int(labels[i % count])
        positives = [
            j
            for j in range(2 * count)
            if j != i and (j % count == own or (label >= 0 and label == int(labels[j % count])))
        ]
        denominator = sum(((z[i] * z[j]).sum() / TEMPERATURE).exp() for j in range(2 * count) if j != i)
        for p in positives:
            total = total - (((z[i] * z[p]).sum() / TEMPERATURE).exp() / denominator).log() / len(positives)
    return total / (2 * count)


def algorithm_2(
    network: nn.Module,
    loader: EpochLoader,
    epochs: int,
    weights: dict[str, float],
    warmup: int,
    ramp: float,
    decay: float,
) -> tuple[list[dict[str, float]], nn.Module, nn.Module]:
    student: Any = deepcopy(network).train()
    teacher: Any = deepcopy(network).train()
    updates, rows = 0, []
    for epoch in range(epochs):
        factor = math.exp(-5 * (1 - min(epoch / ramp, 1.0)) ** 2)
        for data in loader.batches(epoch):
            terms = {}
            if "supcon" in weights:
                both = student.features(torch.cat([data["view1"], data["view2"]]))
                features, other = both[: len(both) // 2], both[len(both) // 2 :]
                terms["supcon"] = contrastive_term(student.project(features), student.project(other), data["label"])
            else:
                features = student.features(data["view1"])
            logits = student.classify(features)
            terms["supervised"] = supervised_term(logits, data["label"])
            if epoch >= warmup:
                if updates == 0:
                    teacher = deepcopy(student)
                with torch.no_grad():
                    seen = teacher.features(data["view2"])
                    said = teacher.classify(seen)
                if "consistency" in weights:
                    terms["consistency"] = factor * consistency_term(logits, said)
                if "relation" in weights:
                    terms["relation"] = factor * relation_term(features, seen)
            loss = sum(weights[name] * term for name, term in terms.items())
            parameters = list(student.parameters())
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            with torch.no_grad():
                for parameter, gradient in zip(parameters, gradients):
                    if gradient is not None:
                        parameter -= RATE * gradient
                if epoch >= warmup:
                    alpha = min(1 - 1 / (updates + 1), decay)
                    theirs = student.state_dict()
                    for name, value in teacher.state_dict().items():
                        if value.is_floating_point():
                            value.copy_(alpha * value + (1 - alpha) * theirs[name])
                        else:
                            value.copy_(theirs[name])
                    updates += 1
            rows.append({"loss": float(loss.detach()), **{name: float(term.detach()) for name, term in terms.items()}})
    return rows, student, teacher


def trainer(
    network: nn.Module, teacher: EMATeacher | None, weights: dict[str, float], **kwargs: Any
) -> MeanTeacherTrainer:
    settings: dict[str, Any] = {
        "device": "cpu", "max_epochs": 5, "train_data_loader": EpochLoader(), "weights": weights, "teacher": teacher,
        "supervised_loss": ProbabilityMSELoss(), "temperature": TEMPERATURE,
        "optimizer": torch.optim.SGD(network.parameters(), lr=RATE), **kwargs,
    }  # fmt: skip
    return MeanTeacherTrainer(network=network, **settings)


@pytest.mark.parametrize(
    "weights",
    [
        {"supervised": 1.0, "consistency": 1.0},
        {"supervised": 1.0, "consistency": 1.0, "relation": 1.0},
        {"supervised": 1.0, "consistency": 2.0, "relation": 0.5, "supcon": 0.7},
    ],
    ids=["mean_teacher", "src", "srcl_joint"],
)
def test_five_epochs_equal_algorithm_2(weights: dict[str, float]) -> None:
    network, loader = tiny_net(), EpochLoader(steps=3, labels=(0, 2, 2, -1, -1))
    # 5 epochs: the teacher warms up for 2, the ramp is at 1 from epoch 4 on; decay 0.6 is reached in the third update
    rows, student, mean = algorithm_2(network, loader, 5, weights, warmup=2, ramp=4.0, decay=0.6)
    recorder, teacher = Recorder(), EMATeacher(network, decay=0.6)
    trainer(
        network, teacher, weights, train_data_loader=loader, teacher_warmup=0.4, ramp_up=0.8, train_handlers=[recorder]
    ).run()

    assert len(recorder.rows) == len(rows) == 15
    for step, (got, expected) in enumerate(zip(recorder.rows, rows)):
        assert got.keys() == expected.keys(), step
        assert got == pytest.approx(expected, rel=1e-9, abs=1e-12), step
    behind = [row.keys() >= weights.keys() for row in recorder.rows]
    assert behind == [False] * 6 + [True] * 9
    assert_state(network, student.state_dict(), rtol=1e-9, atol=1e-12)
    assert_state(teacher.module, mean.state_dict(), rtol=1e-9, atol=1e-12)
    assert teacher.updates == 9
    assert teacher.module.training


def test_the_teacher_stands_still_while_it_warms_up_and_starts_as_a_copy() -> None:
    network = tiny_net()
    teacher = EMATeacher(network, decay=0.99)
    before = copy_state(teacher.module)
    engine = trainer(network, teacher, {"supervised": 1.0, "consistency": 1.0}, teacher_warmup=0.4)
    seen: list[int] = []

    def look(engine: Any) -> None:
        if engine.state.epoch <= 2:
            assert_state(teacher.module, before)
        elif teacher.updates == 1:
            # the first update copies the student: alpha = 1 - 1 / 1 = 0
            assert_state(teacher.module, copy_state(network))
        seen.append(teacher.updates)

    engine.add_event_handler(Events.ITERATION_COMPLETED, look)
    engine.run()
    assert seen == [0] * 6 + list(range(1, 10))


@pytest.mark.parametrize(
    ("share", "epochs", "first"), [(0.2, 100, 20), (0.07, 100, 7), (0.0, 10, 0), (0.2, 2, 1), (1.0, 3, 3)]
)
def test_the_warm_up_is_a_share_of_the_epochs(share: float, epochs: int, first: int) -> None:
    network = tiny_net()
    engine = trainer(
        network, EMATeacher(network), {"supervised": 1.0, "relation": 1.0}, max_epochs=epochs, teacher_warmup=share
    )
    started = []
    for epoch in range(epochs):
        engine.state.epoch = epoch + 1
        started.append(engine.teacher_started)
    assert started == [epoch >= first for epoch in range(epochs)]


def test_supervised_training_needs_no_teacher_and_computes_nothing_else() -> None:
    class SupervisedNet(type(tiny_net())):  # type: ignore[misc]
        def project(self, features: Tensor) -> Tensor:
            raise AssertionError("a term of weight 0 is computed")

    network = SupervisedNet()
    recorder = Recorder()
    weights = {"supervised": 1.0, "consistency": 0.0, "relation": 0, "supcon": 0.0}
    trainer(network, None, weights, train_handlers=[recorder]).run()
    assert all(row.keys() == {"loss", "supervised"} for row in recorder.rows)


def test_a_teacher_whose_terms_weigh_nothing_is_never_asked() -> None:
    network = tiny_net()
    teacher = EMATeacher(network)
    teacher.module.features = None  # type: ignore[assignment]
    recorder = Recorder()
    trainer(
        network, teacher, {"supervised": 1.0, "consistency": 0.0}, teacher_warmup=0.0, train_handlers=[recorder]
    ).run()
    assert recorder.rows[-1].keys() == {"loss", "supervised"}


def test_unlabelled_rows_never_reach_the_supervised_term() -> None:
    network = tiny_net(batch_norm=False)  # batch statistics would carry them in

    def step(data: dict[str, Any]) -> tuple[float, dict[str, Tensor]]:
        net, recorder = deepcopy(network), Recorder()
        trainer(net, None, {"supervised": 1.0}, max_epochs=1, train_data_loader=[data], train_handlers=[recorder]).run()
        return recorder.rows[0]["supervised"], copy_state(net)

    data = batch(3)
    value, state = step(data)
    other = {**data, "view1": data["view1"].clone()}
    other["view1"][2:] = 7.0
    other_value, other_state = step(other)
    assert other_value == value
    assert all(torch.equal(state[name], other_state[name]) for name in state)
    other["view1"][1] = 7.0
    assert step(other)[0] != value


def test_a_batch_without_any_label_leaves_the_weights() -> None:
    network = tiny_net(batch_norm=False)
    before = copy_state(network)
    data = batch(1, labels=(-1, -1, -1))
    trainer(network, None, {"supervised": 1.0}, max_epochs=1, train_data_loader=[data]).run()
    assert_state(network, before)


def test_no_gradient_reaches_the_teacher() -> None:
    network = tiny_net()
    teacher = EMATeacher(network)
    trainer(network, teacher, {"supervised": 1.0, "consistency": 1.0, "relation": 1.0}, teacher_warmup=0.0).run()
    assert all(p.grad is None and not p.requires_grad for p in teacher.module.parameters())


def test_errors() -> None:
    network = tiny_net()
    with pytest.raises(ConfigError, match=r"^teacher: consistency and relation need a teacher\.$"):
        trainer(network, None, {"supervised": 1.0, "relation": 1.0})
    for name, value in (("teacher_warmup", 1.5), ("ramp_up", -0.1)):
        with pytest.raises(
            ConfigError, match=rf"^{name}: share of max_epochs \(found {value}, expected a number from 0 to"
        ):
            trainer(network, None, {"supervised": 1.0}, **{name: value})
    with pytest.raises(
        ConfigError, match=r"weights: nothing is learnt while the teacher warms up \(found consistency\)"
    ):
        trainer(network, EMATeacher(network), {"consistency": 1.0})
    trainer(network, EMATeacher(network), {"consistency": 1.0}, teacher_warmup=0.0).run()
