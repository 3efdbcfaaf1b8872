"""Contrastive pre-training on two processes against one process with the doubled batch."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tiny_training import Recorder, copy_state, tiny_net
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.utils.data import DataLoader, Dataset
from two_processes import Pair

from medssl_monai.core import generator
from medssl_monai.core.distributed import rank
from medssl_monai.data import SampleKey, SeededBatchSampler
from medssl_monai.engines import ContrastiveTrainer, MoCoTrainer
from medssl_monai.handlers import EMATeacher, FeatureQueue, NonFiniteError
from medssl_monai.losses import NTXentLoss

SIZE, EPOCHS = 36, 3


class Views(Dataset[dict[str, Any]]):
    """Two views of sample ``index``, a function of (index, epoch)."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        draw = generator(7, "sample", key.index).standard_normal((2, 2, 2))
        view1, view2 = draw + 0.3 * generator(7, key.index, key.epoch).standard_normal((2, 2, 2, 2))
        return {
            "view1": torch.tensor(view1, dtype=self.dtype), "view2": torch.tensor(view2, dtype=self.dtype),
            "name": f"{key.index}.png",
        }  # fmt: skip


def made(kind: str, batch_size: int, dtype: torch.dtype, **options: Any) -> tuple[Any, Recorder]:
    net = {name: options.pop(name) for name in ("dropout", "batch_norm") if name in options}
    loss = NTXentLoss(0.2, gather_distributed=True, chunk_size=options.pop("chunk_size", None))
    network, recorder = tiny_net(1, dtype=dtype, **{"batch_norm": False, **net}), Recorder()
    keys = {
        "device": "cpu", "max_epochs": EPOCHS, "network": network, "train_handlers": [recorder], "seed": 5,
        "optimizer": torch.optim.Adam(network.parameters(), lr=0.02, weight_decay=0.01), "max_grad_norm": 0.5,
        "train_data_loader": DataLoader(
            Views(dtype), batch_sampler=SeededBatchSampler(SIZE, batch_size, seed=2, min_batch_size=2)
        ),
        **options,
    }  # fmt: skip
    if kind == "moco":
        teacher = EMATeacher(network, decay=0.9, average_buffers=False, ramp=False)
        return MoCoTrainer(momentum_encoder=teacher, queue=FeatureQueue(19, 4).to(dtype), **keys), recorder
    return ContrastiveTrainer(loss=loss, **keys), recorder


def train(kind: str, batch_size: int, dtype: torch.dtype, options: dict[str, Any]) -> dict[str, Any]:
    engine, recorder = made(kind, batch_size, dtype, **options)
    engine.run()
    outcome = {"rows": recorder.rows, "network": copy_state(engine.network)}
    if kind == "moco":
        outcome |= {"keys": copy_state(engine.momentum_encoder.module), "queue": copy_state(engine.queue)}
    return outcome


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("plain", {}),
        ("micro", {"micro_batch_size": 1}),
        ("micro", {"micro_batch_size": 2, "chunk_size": 3}),
        ("micro", {"micro_batch_size": 3}),
        ("moco", {}),
    ],
)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-5)], ids=["64", "32"])
def test_trajectory_of_one_process_with_the_doubled_batch(
    pair: Pair, kind: str, options: dict[str, Any], dtype: torch.dtype, tolerance: float
) -> None:
    one = train(kind, 8, dtype, {})
    two = pair(train, kind, 4, dtype, options)
    assert len(one["rows"]) == 5 * EPOCHS
    for result in two:
        for row, expected in zip(result["rows"], one["rows"], strict=True):
            assert row == pytest.approx(expected, rel=tolerance, abs=tolerance)
        for name in one.keys() - {"rows"}:
            assert result[name].keys() == one[name].keys()
            for key, value in one[name].items():
                torch.testing.assert_close(result[name][key], value, rtol=10 * tolerance, atol=10 * tolerance)
    assert_same(*two)
    weight = "encoder.1.weight"  # something was learnt that could have gone another way
    assert (one["network"][weight] - tiny_net(1, batch_norm=False).state_dict()[weight]).abs().max() > 0.05


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one["rows"] == other["rows"]
    for name in one.keys() - {"rows"}:
        for key, value in one[name].items():
            assert torch.equal(value, other[name][key]), f"{name} {key}"


@pytest.mark.parametrize(("kind", "options"), [("micro", {"micro_batch_size": 3}), ("moco", {"batch_norm_group": 4})])
def test_weights_statistics_and_queue_are_the_same_everywhere(pair: Pair, kind: str, options: dict[str, Any]) -> None:
    results = pair(train, kind, 8, torch.float64, {**options, "batch_norm": True, "dropout": 0.5})
    assert_same(*results)
    batches = EPOCHS * 3  # of 8, 8 and 2 samples in each process, in groups of 3, 3, 2 or of 4
    assert int(results[0]["network"]["encoder.2.num_batches_tracked"]) == EPOCHS * (3 + 3 + 1 if kind == "micro" else 5)
    assert len(results[0]["rows"]) == batches


def _averages(micro: int | None) -> int:
    """How often gradients are averaged in the first step."""
    engine, _ = made("micro", 8, torch.float32, micro_batch_size=micro, max_epochs=1)
    calls = []

    def averaged(state, bucket):  # type: ignore[no-untyped-def]  # torch wants these very types, or none
        calls.append(engine.state.iteration)
        return allreduce_hook(None, bucket)

    engine.objective.register_comm_hook(None, averaged)
    engine.run()
    return calls.count(1)


def test_gradients_are_averaged_once_a_step(pair: Pair) -> None:
    assert pair(_averages, 2) == pair(_averages, None) == [1, 1]


def _poisoned(process: int) -> str:
    engine, _ = made("micro", 4, torch.float64, micro_batch_size=2)
    engine.network.projector.weight.register_hook(
        lambda gradient: gradient * math.inf if rank() == process and engine.state.iteration == 3 else gradient
    )
    with pytest.raises(NonFiniteError) as caught:
        engine.run()
    return str(caught.value)


@pytest.mark.parametrize("process", [0, 1])
def test_all_stop_where_one_is_not_finite(pair: Pair, process: int) -> None:
    first, second = pair(_poisoned, process)
    assert first == second
    assert "step 3: gradient norm" in first
