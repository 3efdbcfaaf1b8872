"""What all trainers share: weights of terms, guards, clipping, precision, seeds, a measurement without effect."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from ignite.engine import Events
from tiny_training import EpochLoader, Recorder, assert_state, batch, copy_state, tiny_net
from torch import Tensor, nn

from medssl_monai.core import ConfigError, MedSSLError, hash_case
from medssl_monai.engines import LabelEfficientTrainer, MeanTeacherTrainer
from medssl_monai.handlers import EMATeacher, NonFiniteError
from medssl_monai.losses import ProbabilityMSELoss


class TwoTermTrainer(LabelEfficientTrainer):
    """Two terms of one linear layer: easy to follow by hand."""

    terms = ("square", "linear")

    def loss_terms(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        out = self.network(batch["x"])
        out = out.float() if out.dtype == torch.float16 else out
        terms = {"square": (out**2).mean(), "linear": out.mean()}
        return {name: terms[name] for name in self.weights}


def layer(value: float = 2.0) -> nn.Linear:
    network = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(network.weight, value)
    return network


def x(*values: float) -> dict[str, Any]:
    return {
        "x": torch.tensor(values, dtype=torch.float64)[:, None],
        "name": [f"secret{i}.png" for i in range(len(values))],
    }


def two_terms(network: nn.Module, data: list[Any], weights: dict[str, float], **kwargs: Any) -> TwoTermTrainer:
    settings: dict[str, Any] = {
        "device": "cpu",
        "max_epochs": 1,
        "optimizer": torch.optim.SGD(network.parameters(), lr=0.1),
    }
    return TwoTermTrainer(train_data_loader=data, network=network, weights=weights, **{**settings, **kwargs})


def test_one_step_by_hand() -> None:
    network, recorder = layer(2.0), Recorder()
    two_terms(network, [x(1.0, 3.0)], {"square": 0.5, "linear": 3.0}, train_handlers=[recorder]).run()
    # out = 2, 6: square 20, linear 4; gradient 0.5 * 2 w mean(x^2) + 3 mean(x) = 10 + 6
    assert recorder.rows == [{"square": 20.0, "linear": 4.0, "loss": 22.0}]
    assert network.weight.item() == pytest.approx(2.0 - 0.1 * 16.0, rel=1e-12)


def test_terms_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"^weights: unknown loss term 'sqare'\. Did you mean 'square'\?$"):
        two_terms(layer(), [], {"sqare": 1.0})
    with pytest.raises(
        ConfigError, match=r"^weights: every loss term has weight 0 \(expected some of \('square', 'linear'"
    ):
        two_terms(layer(), [x(1.0)], {"square": 0.0})
    with pytest.raises(
        ConfigError, match=r"^amp_dtype: unknown precision \(found half, expected bfloat16 or float16\)"
    ):
        two_terms(layer(), [x(1.0)], {"square": 1.0}, amp=True, amp_dtype="half")


def test_a_non_finite_term_stops_before_the_step() -> None:
    network = layer()
    before = copy_state(network)
    data = [x(1.0), x(float("inf"), 1.0)]
    engine = two_terms(network, data, {"square": 1.0, "linear": 1.0})
    weights = []
    engine.add_event_handler(Events.ITERATION_COMPLETED, lambda: weights.append(copy_state(network)))
    with pytest.raises(NonFiniteError) as caught:
        engine.run()
    message = str(caught.value)
    assert message.startswith(
        "non-finite value at step 2: square = inf, linear = inf, loss = inf (learning rate 0.1; cases "
    )
    assert f"cases {hash_case('secret0.png')} {hash_case('secret1.png')})" in message
    assert "secret" not in message
    assert "Lower learning_rate, set max_grad_norm" in message
    assert isinstance(caught.value, MedSSLError)
    assert isinstance(caught.value, ArithmeticError)
    assert len(weights) == 1
    assert not torch.equal(weights[0]["weight"], before["weight"])
    assert_state(network, weights[0])  # the first step was taken, the second was not


def test_only_the_wrong_terms_are_named() -> None:
    class OneWrong(TwoTermTrainer):
        def loss_terms(self, batch: dict[str, Any]) -> dict[str, Tensor]:
            return {**super().loss_terms(batch), "linear": torch.tensor(float("nan"), dtype=torch.float64)}

    network = layer()
    engine = OneWrong(
        device="cpu", max_epochs=1, train_data_loader=[{"x": x(1.0)["x"]}], network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=1e-3), weights={"square": 1.0, "linear": 1.0},
    )  # fmt: skip
    with pytest.raises(
        NonFiniteError, match=r"step 1: linear = nan, loss = nan \(learning rate 0.001; cases unknown\)"
    ):
        engine.run()


def test_a_non_finite_gradient_of_a_finite_loss_stops_before_the_step() -> None:
    class Root(TwoTermTrainer):
        def loss_terms(self, batch: dict[str, Any]) -> dict[str, Tensor]:
            return {"square": self.network(batch["x"]).abs().sqrt().mean()}

    network = layer()
    engine = Root(
        device="cpu", max_epochs=1, train_data_loader=[x(0.0)], network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.1), weights={"square": 1.0},
    )  # fmt: skip
    with pytest.raises(NonFiniteError, match=r"step 1: gradient norm = nan"):
        engine.run()
    assert network.weight.item() == 2.0


def test_large_values_of_double_precision_are_finite() -> None:
    network = layer(1e200)
    two_terms(network, [x(1.0)], {"linear": 1.0}).run()


@pytest.mark.parametrize(("limit", "length"), [(None, 16.0), (1.5, 1.5), (100.0, 16.0)])
def test_the_gradient_is_clipped_to_its_norm(limit: float | None, length: float) -> None:
    network = layer()
    two_terms(network, [x(1.0, 3.0)], {"square": 0.5, "linear": 3.0}, max_grad_norm=limit).run()
    assert 2.0 - network.weight.item() == pytest.approx(0.1 * length, rel=1e-5)


@pytest.mark.parametrize("limit", [0, -1, -0.5, math.nan, math.inf, True, "1.0"])
def test_norms_that_no_gradient_is_clipped_to(limit: Any) -> None:
    """-1 would go up the gradient."""
    found = re.escape(repr(limit))
    with pytest.raises(ConfigError, match=rf"^max_grad_norm: .+ \(found {found}, expected a number above 0, or"):
        two_terms(layer(), [x(1.0)], {"linear": 1.0}, max_grad_norm=limit)


def activation_dtypes(amp: bool, **kwargs: Any) -> tuple[list[torch.dtype], list[dict[str, float]], nn.Module]:
    network = tiny_net(dtype=torch.float32)
    dtypes: list[torch.dtype] = []
    network.encoder[1].register_forward_hook(lambda module, args, output: dtypes.append(output.dtype))
    recorder = Recorder()
    MeanTeacherTrainer(
        device="cpu", max_epochs=2, train_data_loader=EpochLoader(dtype=torch.float32), network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.1), supervised_loss=ProbabilityMSELoss(),
        weights={"supervised": 1.0, "relation": 1.0}, teacher=EMATeacher(network), teacher_warmup=0.0, amp=amp,
        train_handlers=[recorder], **kwargs,
    ).run()  # fmt: skip
    return dtypes, recorder.rows, network


def test_mixed_precision_really_runs_in_bfloat16() -> None:
    plain, exact, _ = activation_dtypes(amp=False)
    mixed, rounded, network = activation_dtypes(amp=True)
    assert set(plain) == {torch.float32}
    assert set(mixed) == {torch.bfloat16}
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    for a, b in zip(exact, rounded):
        assert b == pytest.approx(a, rel=0.1, abs=0.01)
    assert exact != rounded


def test_float16_scales_the_gradient_and_skips_a_step_that_overflows() -> None:
    dtypes, rows, _ = activation_dtypes(amp=True, amp_dtype="float16")
    assert set(dtypes) == {torch.float16}
    assert len(rows) == 6
    network = layer().float()
    engine = two_terms(network, [{"x": torch.ones(1, 1)}], {"linear": 1e36}, amp=True, amp_dtype="float16")
    scale = engine.grad_scaler.get_scale()
    engine.run()
    assert network.weight.item() == 2.0
    assert engine.grad_scaler.get_scale() == scale / 2


def test_the_loader_is_told_the_epoch_before_it_is_read() -> None:
    loader = EpochLoader(steps=2)
    epochs = []
    network = tiny_net()
    engine = MeanTeacherTrainer(
        device="cpu", max_epochs=3, train_data_loader=loader, network=network, supervised_loss=ProbabilityMSELoss(),
        optimizer=torch.optim.SGD(network.parameters(), lr=0.1), weights={"supervised": 1.0},
    )  # fmt: skip
    engine.add_event_handler(Events.ITERATION_COMPLETED, lambda: epochs.append(engine.state.batch["name"][0]))
    engine.run()
    assert epochs == [
        "case0-0.png",
        "case1-0.png",
        "case1000-0.png",
        "case1001-0.png",
        "case2000-0.png",
        "case2001-0.png",
    ]


def test_dropout_is_a_function_of_seed_epoch_and_step() -> None:
    def run(seed: int, disturb: bool) -> list[dict[str, float]]:
        network, recorder = tiny_net(dropout=0.5), Recorder()
        engine = MeanTeacherTrainer(
            device="cpu", max_epochs=2, train_data_loader=EpochLoader(), network=network, weights={"supervised": 1.0},
            optimizer=torch.optim.SGD(network.parameters(), lr=0.0), supervised_loss=ProbabilityMSELoss(), seed=seed,
            train_handlers=[recorder],
        )  # fmt: skip
        if disturb:
            engine.add_event_handler(Events.ITERATION_STARTED, lambda: torch.rand(7))
        engine.run()
        return recorder.rows

    assert run(1, False) == run(1, True)
    assert run(1, False) != run(2, False)


def test_measuring_leaves_no_trace() -> None:
    network = tiny_net(dropout=0.5)
    teacher = EMATeacher(network)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.1)
    engine = MeanTeacherTrainer(
        device="cpu", max_epochs=2, train_data_loader=EpochLoader(), network=network, optimizer=optimizer,
        supervised_loss=ProbabilityMSELoss(), teacher=teacher,
        weights={"supervised": 1.0, "relation": 1.0, "supcon": 1.0},
    )  # fmt: skip
    engine.run()
    network.eval()
    before, theirs, updates = copy_state(network), copy_state(teacher.module), teacher.updates
    moments = {key: {k: v.clone() for k, v in value.items()} for key, value in optimizer.state_dict()["state"].items()}
    random_state, output = torch.get_rng_state(), engine.state.output

    seconds = engine.measure_step(batch(5))
    assert 0 < seconds < 10
    assert_state(network, before)
    assert_state(teacher.module, theirs)
    assert (teacher.updates, engine.state.output, network.training, teacher.module.training) == (
        updates,
        output,
        False,
        True,
    )
    assert all(p.grad is None for p in network.parameters())
    assert torch.equal(torch.get_rng_state(), random_state)
    after = optimizer.state_dict()["state"]
    assert moments
    for key, value in moments.items():
        for name, tensor in value.items():
            torch.testing.assert_close(after[key][name], tensor, rtol=0, atol=0)


def test_measuring_restores_after_an_error_too() -> None:
    network = tiny_net()
    engine = MeanTeacherTrainer(
        device="cpu", max_epochs=1, train_data_loader=EpochLoader(), network=network, weights={"supervised": 1.0},
        optimizer=torch.optim.SGD(network.parameters(), lr=0.1), supervised_loss=ProbabilityMSELoss(),
    )  # fmt: skip
    before, random_state = copy_state(network), torch.get_rng_state()
    with pytest.raises(ValueError, match="labels"):
        engine.measure_step({**batch(0), "label": torch.tensor([0, 1, 2, 9])})
    assert_state(network, before)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not engine._measuring
