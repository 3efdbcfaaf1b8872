"""LARS against the published update by hand and by loops; optimisers by name; the learning rate of a batch."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from medssl_monai.core import ConfigError
from medssl_monai.engines import LARS, build_optimizer, cosine_with_warmup, scaled_learning_rate
from medssl_monai.networks import ContrastiveNet


def parameter(*values):
    return nn.Parameter(torch.tensor(values, dtype=torch.float64))


def give(parameter, *values):
    parameter.grad = torch.tensor(values, dtype=torch.float64).reshape(parameter.shape)


# --- LARS ------------------------------------------------------------------------------------------------------------


def test_two_steps_by_hand():
    """|w| = 5, |g| = 2, b = 0.2: scale 0.003 * 5 / (2 + 1) = 0.005 of g + b w = (0.6, 2.8), at rate 2."""
    w = parameter(3.0, 4.0)
    optimizer = LARS([w], lr=2.0, momentum=0.5, weight_decay=0.2, trust_coefficient=0.003)
    give(w, 0.0, 2.0)
    optimizer.step()
    torch.testing.assert_close(w.data, torch.tensor([2.994, 3.972], dtype=torch.float64), rtol=0, atol=1e-15)
    # the gradient 0 leaves the decay: scale 0.003 / 0.2 of b w; half of the old velocity is kept, at its old rate
    optimizer.param_groups[0]["lr"] = 1.0
    give(w, 0.0, 0.0)
    optimizer.step()
    expected = [2.994 - (0.003 + 0.003 * 2.994), 3.972 - (0.014 + 0.003 * 3.972)]
    torch.testing.assert_close(w.data, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-15)


@pytest.mark.parametrize("decay", [0.0, 1e-3])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_many_tensors_and_a_changing_rate_by_loops(decay, momentum):
    generator = np.random.default_rng(0)
    shapes = [(4, 3), (5,), (2, 3, 2, 2), (1,), ()]
    start = [generator.standard_normal(shape) for shape in shapes]
    weights = [nn.Parameter(torch.tensor(value)) for value in start]
    optimizer = LARS(
        [{"params": weights[:3]}, {"params": weights[3:], "scaled": False, "weight_decay": 0.0}],
        lr=0.5,
        momentum=momentum,
        weight_decay=decay,
    )
    expected, velocity = [value.copy() for value in start], [np.zeros(shape) for shape in shapes]
    for step in range(6):
        rate = 0.5 / (step + 1)
        for group in optimizer.param_groups:
            group["lr"] = rate
        for number, shape in enumerate(shapes):
            gradient = generator.standard_normal(shape)
            weights[number].grad = torch.tensor(gradient)
            w, wd = expected[number], decay if number < 3 else 0.0
            scale = 1.0
            if number < 3:
                scale = (
                    0.001 * math.sqrt((w**2).sum()) / (math.sqrt((gradient**2).sum()) + wd * math.sqrt((w**2).sum()))
                )
            velocity[number] = momentum * velocity[number] + rate * scale * (gradient + wd * w)
            expected[number] = w - velocity[number]
        optimizer.step()
    for weight, value in zip(weights, expected):
        np.testing.assert_allclose(weight.detach(), value, rtol=1e-12)


def test_zero_weights_and_zero_gradients_move_as_in_plain_sgd():
    new, still = parameter(0.0, 0.0), parameter(1.0, 2.0)
    optimizer = LARS([new, still], lr=0.1, momentum=0.0)
    give(new, 1.0, -2.0)
    give(still, 0.0, 0.0)
    optimizer.step()
    torch.testing.assert_close(new.data, torch.tensor([-0.1, 0.2], dtype=torch.float64))
    assert still.tolist() == [1.0, 2.0]


def test_the_gradient_and_weights_without_one_are_left_alone():
    w, frozen = parameter(3.0, 4.0), parameter(1.0)
    optimizer = LARS([w, frozen], lr=1.0, weight_decay=0.1)
    give(w, 1.0, 2.0)
    optimizer.step()
    assert w.grad.tolist() == [1.0, 2.0]
    assert frozen.tolist() == [1.0]
    assert frozen not in optimizer.state


def test_the_scale_of_the_loss_does_not_matter():
    torch.manual_seed(0)
    start, ends = torch.randn(6, 3, dtype=torch.float64), []
    gradients = torch.randn(4, 6, 3, dtype=torch.float64)
    for factor in (1.0, 1e6):
        w = nn.Parameter(start.clone())
        optimizer = LARS([w], lr=0.3)
        for gradient in gradients:
            w.grad = factor * gradient
            optimizer.step()
        ends.append(w.detach())
    torch.testing.assert_close(*ends)


def test_a_closure_is_evaluated_with_gradient():
    w = parameter(2.0)
    optimizer = LARS([w], lr=0.1, scaled=False, momentum=0.0)

    def closure():
        optimizer.zero_grad()
        loss = (w**2).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 4.0
    torch.testing.assert_close(w.data, torch.tensor([1.6], dtype=torch.float64))


def test_a_resumed_run_goes_on_to_the_same_weights():
    def train(network, optimizer, scheduler, epochs):
        for epoch in epochs:
            for step in range(3):
                x = torch.rand(4, 5, generator=torch.Generator().manual_seed(10 * epoch + step))
                optimizer.zero_grad()
                network(x).square().mean().backward()
                optimizer.step()
            scheduler.step()

    def make():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
        optimizer = build_optimizer("lars", network, 0.5, weight_decay=1e-4)
        return network, optimizer, cosine_with_warmup(optimizer, 6, 1.5)

    whole = make()
    train(*whole, range(6))
    first, second = make(), make()
    train(*first, range(3))
    for part, other in zip(second, first):
        part.load_state_dict(copy.deepcopy(other.state_dict()))
    train(*second, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(second[0].state_dict().values(), whole[0].state_dict().values()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lr": -1.0}, r"lr: expected a finite number of at least 0, got -1.0"),
        ({"lr": math.nan}, r"lr: expected a finite number of at least 0, got nan"),
        ({"lr": 1.0, "weight_decay": -1e-3}, r"weight_decay: expected a finite number of at least 0, got -0.001"),
        ({"lr": 1.0, "trust_coefficient": math.inf}, r"trust_coefficient: expected a finite number .* got inf"),
        ({"lr": 1.0, "momentum": 1.0}, r"momentum: expected a number in \[0, 1\), got 1.0"),
    ],
)
def test_wrong_numbers_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        LARS([parameter(1.0)], **arguments)


# --- by name ---------------------------------------------------------------------------------------------------------


def net():
    torch.manual_seed(0)
    return ContrastiveNet("resnet18", 8, batch_norm=True, width=0.125)


@pytest.mark.parametrize(
    ("name", "kind", "own", "expected"),
    [
        ("sgd", torch.optim.SGD, {"momentum": 0.8}, {"momentum": 0.8}),
        ("sgd", torch.optim.SGD, {"momentum": 0}, {"momentum": 0}),
        ("sgd", torch.optim.SGD, {"momentum": None, "trust_coefficient": None}, {"momentum": 0.9}),
        ("adam", torch.optim.Adam, {"momentum": None}, {"betas": (0.9, 0.999)}),
        ("adamw", torch.optim.AdamW, {}, {"betas": (0.9, 0.999)}),
        ("lars", LARS, {"momentum": 0.8, "trust_coefficient": 0.01}, {"momentum": 0.8, "trust_coefficient": 0.01}),
        ("lars", LARS, {}, {"momentum": 0.9, "trust_coefficient": 0.001, "scaled": True}),
    ],
)
def test_each_name_makes_its_optimiser(name, kind, own, expected):
    optimizer = build_optimizer(name, net(), 0.06, 5e-4, **own)
    assert type(optimizer) is kind
    expected = {"lr": 0.06, "weight_decay": 5e-4, **expected}
    assert {key: optimizer.param_groups[0][key] for key in expected} == expected


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_momentum_of_an_optimiser_that_has_none_is_refused(name):
    message = (
        rf"^sgd_momentum: the optimiser '{name}' does not read sgd_momentum \(found 0.9, expected null\)\. "
        r"Leave it out, or take optimizer_name sgd or lars\.$"
    )
    with pytest.raises(ConfigError, match=message):
        build_optimizer(name, net(), 0.1, momentum=0.9)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_the_trust_coefficient_is_of_lars(name):
    message = (
        rf"^trust_coefficient: the optimiser '{name}' does not read trust_coefficient \(found 0.001, expected null\)\. "
        r"Leave it out, or take optimizer_name lars\.$"
    )
    with pytest.raises(ConfigError, match=message):
        build_optimizer(name, net(), 0.1, trust_coefficient=0.001)


@pytest.mark.parametrize(("name", "spare", "groups"), [("lars", None, 2), ("adamw", None, 2), ("sgd", None, 1)])
def test_biases_and_norm_layers_stand_apart(name, spare, groups):
    network = net()
    optimizer = build_optimizer(name, network, 0.1, 1e-4, spare_vectors=spare)
    assert len(optimizer.param_groups) == groups
    norms = {
        id(p) for m in network.modules() if isinstance(m, (nn.BatchNorm2d, nn.BatchNorm1d)) for p in m.parameters()
    }
    biases = {id(p) for key, p in network.named_parameters() if key.endswith("bias")}
    if groups == 2:
        assert {id(p) for p in optimizer.param_groups[1]["params"]} == norms | biases
        assert optimizer.param_groups[1]["weight_decay"] == 0
        assert optimizer.param_groups[1].get("scaled", False) is False
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in network.parameters())
    one = build_optimizer(name, network, 0.1, 1e-4, spare_vectors=False)
    assert len(one.param_groups) == 1


def test_frozen_parameters_are_left_out_and_lists_are_taken():
    network = net()
    network.encoder.requires_grad_(False)
    optimizer = build_optimizer("sgd", network, 0.1)
    assert {id(p) for p in optimizer.param_groups[0]["params"]} == {id(p) for p in network.projector.parameters()}
    assert len(build_optimizer("adam", [parameter(1.0)], 0.1).param_groups[0]["params"]) == 1
    network.requires_grad_(False)
    with pytest.raises(ConfigError, match=r"optimizer: the network has no parameter to train. Unfreeze a part of it."):
        build_optimizer("sgd", network, 0.1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: build_optimizer("lasr", net(), 0.1),
            r"optimizer_name: unknown optimiser 'lasr'. Did you mean 'lars'",
        ),
        (lambda: build_optimizer("sgd", net(), -0.1), r"learning_rate: learning rate \(found -0.1, expected a finite"),
        (lambda: build_optimizer("sgd", net(), 0.1, -1), r"weight_decay: weight decay \(found -1, expected a finite"),
        (lambda: build_optimizer(["sgd"], net(), 0.1), r"optimizer_name: unknown optimiser \['sgd'\]"),
        (lambda: build_optimizer("sgd", net(), "0.1"), r"learning_rate: learning rate \(found 0.1, expected a finite"),
        (lambda: build_optimizer("sgd", net(), True), r"learning_rate: learning rate \(found True, expected a finite"),
        (
            lambda: build_optimizer("sgd", net(), 0.1, math.inf),
            r"weight_decay: weight decay \(found inf, expected a fi",
        ),
        (
            lambda: build_optimizer("lars", net(), 0.1, momentum=1),
            r"^sgd_momentum: momentum \(found 1, expected at lea",
        ),
        (
            lambda: build_optimizer("sgd", net(), 0.1, momentum=False),
            r"^sgd_momentum: momentum \(found False, expected",
        ),
        (lambda: build_optimizer("sgd", net(), 0.1, momentum=math.nan), r"^sgd_momentum: momentum \(found nan, expec"),
        (
            lambda: build_optimizer("lars", net(), 0.1, trust_coefficient=-1),
            r"trust_coefficient: trust coefficient \(found -1, expected a finite number of at least 0",
        ),
        (lambda: scaled_learning_rate(0.1, 0), r"batch_size: batch size \(found 0, expected 1 or more\)"),
        (lambda: scaled_learning_rate(0.1, 8, "sqr"), r"lr_scaling: unknown rule 'sqr'. Did you mean 'sqrt'\?"),
        (lambda: scaled_learning_rate(math.nan, 8), r"learning_rate: learning rate \(found nan, expected a finite"),
    ],
)
def test_errors_say_which_key(call, message):
    with pytest.raises(ConfigError, match=message):
        call()


def test_the_rate_of_a_batch():
    assert scaled_learning_rate(0.075, 256) == pytest.approx(1.2)
    assert scaled_learning_rate(0.075, 64, "sqrt") == pytest.approx(0.6)
    assert scaled_learning_rate(0.3, 4096, "linear") == pytest.approx(4.8)
    assert scaled_learning_rate(0.06, 128, None) == 0.06
