"""A network of a few dozen weights, batches for it, and a loader that knows the epoch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

PIXELS, FEATURES, CLASSES = 8, 5, 3


class TinyNet(nn.Module):
    """Encoder, classifier and projection head with the methods of SRCLNet."""

    def __init__(self, dropout: float = 0.0, batch_norm: bool = True, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        norm: nn.Module = nn.BatchNorm1d(FEATURES) if batch_norm else nn.Identity()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, FEATURES), norm, nn.Tanh())
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(FEATURES, CLASSES)
        self.projector = nn.Linear(FEATURES, 4)
        self.to(dtype)

    def features(self, x: Tensor) -> Tensor:
        return self.dropout(self.encoder(x))

    def classify(self, features: Tensor) -> Tensor:
        return self.classifier(features)

    def project(self, features: Tensor) -> Tensor:
        return self.projector(features)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.features(x))


def tiny_net(seed: int = 0, **kwargs: Any) -> TinyNet:
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    network = TinyNet(**kwargs)
    torch.set_rng_state(state)
    return network


def batch(
    seed: int = 0, labels: tuple[int, ...] = (0, 2, -1, -1), dtype: torch.dtype = torch.float64
) -> dict[str, Any]:
    """Two views (N, 2, 2, 2), labels and names."""
    values = np.random.default_rng(seed).standard_normal((2, len(labels), 2, 2, 2))
    view1, view2 = torch.tensor(values, dtype=dtype)
    names = [f"case{seed}-{i}.png" for i in range(len(labels))]
    return {"view1": view1, "view2": view2, "label": torch.tensor(labels), "name": names}


class EpochLoader:
    """Batches that are a function of (epoch, step); it is its own batch sampler."""

    def __init__(
        self, steps: int = 3, labels: tuple[int, ...] = (0, 2, -1, -1), dtype: torch.dtype = torch.float64
    ) -> None:
        self.steps, self.labels, self.dtype, self.epoch, self.offset = steps, labels, dtype, -1, 0
        self.batch_sampler = self

    def set_epoch(self, epoch: int, offset: int = 0) -> None:
        self.epoch, self.offset = epoch, offset

    def batches(self, epoch: int) -> list[dict[str, Any]]:
        return [batch(1000 * epoch + step, self.labels, self.dtype) for step in range(self.steps)]

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.batches(self.epoch)[self.offset :])


class Recorder:
    """Collects the terms and the loss of every step, as floats."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def attach(self, engine: Any) -> None:
        from ignite.engine import Events

        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Any) -> None:
        output = engine.state.output
        self.rows.append({"loss": float(output["loss"]), **{k: float(v) for k, v in output["terms"].items()}})


def copy_state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def assert_state(module: nn.Module, expected: dict[str, Tensor], rtol: float = 0.0, atol: float = 0.0) -> None:
    state = module.state_dict()
    assert state.keys() == expected.keys()
    for name, value in state.items():
        torch.testing.assert_close(value, expected[name], rtol=rtol, atol=atol, msg=lambda text, n=name: f"{n}: {text}")
