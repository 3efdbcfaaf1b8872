"""One process: identities. Two processes: what is exchanged, and the gradient through a gather against autograd."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
import torch.distributed as dist
from two_processes import Pair

from medssl_monai.core import ConfigError
from medssl_monai.core import distributed as d


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of the second of two processes that torchrun started."""
    for name, value in {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)


class TestOneProcess:
    def test_everything_is_an_identity(self) -> None:
        tensor = torch.arange(6.0).reshape(3, 2)
        assert (d.rank(), d.world_size(), d.is_main()) == (0, 1, True)
        assert d.gather_with_gradient(tensor) is tensor
        assert torch.equal(d.sum_over_processes(tensor), tensor)
        assert d.all_gather_objects("a") == ["a"]
        assert d.broadcast_object({"a": 1}) == {"a": 1}
        assert (d.any_process(True), d.any_process(False)) == (True, False)
        d.broadcast_tensors([tensor])
        assert torch.equal(tensor, torch.arange(6.0).reshape(3, 2))
        d.barrier()
        assert d.collective_device() == torch.device("cpu")
        d.leave_processes()

    def test_no_group_is_made_of_one(self) -> None:
        d.join_processes(True, "cpu")
        assert not dist.is_initialized()

    def test_started_by_torchrun_without_the_overlay(self, launched: None) -> None:
        with pytest.raises(
            ConfigError,
            match=r"distributed: torchrun started 2 processes, but the configuration is that of one "
            r"\(found False, expected True\). Add the overlay multi_gpu",
        ):
            d.join_processes(False, "cpu")

    def test_rank_is_known_before_the_group_is(self, launched: None, monkeypatch: pytest.MonkeyPatch) -> None:
        assert not d.is_main()
        monkeypatch.setenv("RANK", "0")
        assert d.is_main()

    def test_a_rank_without_a_world_says_nothing(self, launched: None, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("WORLD_SIZE")  # clusters name ranks of their own
        assert d.is_main()
        d.join_processes(False, "cpu")

    def test_device_of_a_process(self, launched: None, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        assert d.process_device() == torch.device("cpu")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        assert d.process_device() == torch.device("cuda", 1)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        with pytest.raises(
            ConfigError,
            match=r"device: more processes than GPUs on this machine \(found local rank 1, expected below 1, the "
            r"number of GPUs\). Give torchrun a smaller --nproc_per_node, or add the overlay cpu.",
        ):
            d.process_device()

    def test_a_scalar_is_refused(self) -> None:
        with pytest.raises(ValueError, match="expected a tensor with a first dimension, got a scalar"):
            d.gather_with_gradient(torch.tensor(1.0))


def rows(rank: int) -> torch.Tensor:
    return torch.tensor([[1.0, -2.0], [0.5, 3.0], [2.0, 0.25]], dtype=torch.float64) * (rank + 1) + rank


def loss(gathered: torch.Tensor, rank: int) -> torch.Tensor:
    """Another one in each process, and no sum over rows: every row meets every other."""
    return (gathered @ gathered.T).tanh().square().sum() * (rank + 1) + gathered[rank].prod()


def gather_and_differentiate() -> tuple[torch.Tensor, torch.Tensor]:
    own = rows(d.rank()).requires_grad_()
    gathered = d.gather_with_gradient(own)
    loss(gathered, d.rank()).backward()
    assert own.grad is not None
    return gathered.detach(), own.grad


def exchange() -> dict[str, Any]:
    rank = d.rank()
    tensors = [
        torch.full((2, 2), float(rank + 5)), torch.tensor(rank + 7), torch.full((3,), float(rank + 6)),
        torch.ones(4, 3).mT * (rank + 2),
    ]  # fmt: skip
    d.broadcast_tensors(tensors)
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.INFO)
    d.join_processes(True, "cpu")
    joined = logging.getLogger().level
    logging.getLogger().setLevel(level)
    return {
        "who": (rank, d.world_size(), d.is_main()),
        "objects": d.all_gather_objects(["x"] * (rank + 1)),
        "object": d.broadcast_object({"from": rank}),
        "flags": [d.any_process(rank == 1), d.any_process(rank == 0), d.any_process(False), d.any_process(True)],
        "sum": d.sum_over_processes(torch.tensor([1.0, rank])).tolist(),
        "tensors": [tensor.tolist() for tensor in tensors],
        "level": joined,
        "labels": d.gather_with_gradient(torch.tensor([rank, -1])).tolist(),
    }


def refused(kind: str) -> str:
    rank = d.rank()
    tensors = {
        "rows": torch.zeros(2 + rank, 3), "width": torch.zeros(2, 3 + rank), "dimensions": torch.zeros(2, *[1] * rank),
        "dtype": torch.zeros(2, dtype=(torch.float32, torch.float64)[rank]),
    }  # fmt: skip
    try:
        d.gather_with_gradient(tensors[kind])
    except ValueError as error:
        return str(error)
    return "accepted"


class TestTwoProcesses:
    def test_gather_and_its_gradient(self, pair: Pair) -> None:
        leaves = [rows(rank).requires_grad_() for rank in range(2)]
        together = torch.cat(leaves)
        (loss(together, 0) + loss(together, 1)).backward()
        for rank, (gathered, gradient) in enumerate(pair(gather_and_differentiate)):
            assert torch.equal(gathered, together)
            torch.testing.assert_close(gradient, leaves[rank].grad, rtol=1e-13, atol=1e-13)

    def test_exchange(self, pair: Pair) -> None:
        first, second = pair(exchange)
        assert (first.pop("who"), second.pop("who")) == ((0, 2, True), (1, 2, False))
        assert (first.pop("level"), second.pop("level")) == (logging.INFO, logging.WARNING)
        assert first == second
        assert first["objects"] == [["x"], ["x", "x"]]
        assert first["object"] == {"from": 0}
        assert first["flags"] == [True, True, False, True]
        assert first["sum"] == [2.0, 1.0]
        assert first["tensors"] == [[[5.0] * 2] * 2, 7, [6.0] * 3, [[2.0] * 4] * 3]
        assert first["labels"] == [0, -1, 1, -1]

    @pytest.mark.parametrize(
        ("kind", "shapes"),
        [
            ("rows", r"\(2, 3\), \(3, 3\)"), ("width", r"\(2, 3\), \(2, 4\)"), ("dimensions", r"\(2,\), \(2, 1\)"),
            ("dtype", r"\(2,\), \(2,\)"),
        ],
    )  # fmt: skip
    def test_unequal_tensors_are_refused_by_both(self, pair: Pair, kind: str, shapes: str) -> None:
        for rank, message in enumerate(pair(refused, kind)):
            dtype = "torch.float64" if kind == "dtype" and rank else "torch.float32"
            with pytest.raises(
                ValueError, match=rf"one shape and dtype \({dtype} here\) in all processes, got {shapes}"
            ):
                raise ValueError(message)
