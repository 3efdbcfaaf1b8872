"""A trainer's objective as one module, so that DistributedDataParallel can average its gradients over processes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from medssl_monai.core.distributed import broadcast_tensors, sum_over_processes, world_size

# newer releases of torch warn of the older name
_SYNC_BUFFERS: Any = (
    "forward_sync_buffers"
    if "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    else "broadcast_buffers"
)

NetworkPass = Callable[[dict[str, Any]], Any]


class _Objective(nn.Module):
    """Forward pass and losses of one batch. The network is a sub-module; it stays what the trainer calls by method."""

    def __init__(self, network: nn.Module, network_pass: NetworkPass) -> None:
        super().__init__()
        self.network, self.network_pass = network, network_pass

    def forward(self, batch: dict[str, Any]) -> Any:
        return self.network_pass(batch)


def distributed_objective(
    network: nn.Module, network_pass: NetworkPass, all_parameters_used: bool = False
) -> NetworkPass:
    """The objective, such that a backward pass leaves the mean over all processes in the network's gradients.

    With one process it is ``network_pass`` itself. Trainers call methods of the network (``features``, ``classify``),
    so that wrapping the network would leave its synchronisation aside; what is wrapped is a module around both. The
    network itself is not: its state dict has the keys of one process. Ignite's ``auto_model`` is not used because it
    moves the network to the GPU wherever there is one, also under the overlay ``cpu``.

    Args:
        network: holds the parameters; on its device.
        network_pass: from a batch to named scalars, or to what they are computed from, by way of ``network``.
        all_parameters_used: every parameter gets a gradient in every step, so that none need be searched for.
    """
    if world_size() == 1:
        return network_pass
    return DistributedDataParallel(
        _Objective(network, network_pass),
        find_unused_parameters=not all_parameters_used,
        # `same_buffers` does it behind every step, so that what is validated and saved is the same everywhere
        **dict[str, Any]({_SYNC_BUFFERS: False}),
    )


def without_average(objective: NetworkPass) -> AbstractContextManager[object]:
    """A context in which a backward pass adds to each process's own gradients; the next one outside averages them."""
    return objective.no_sync() if isinstance(objective, DistributedDataParallel) else nullcontext()


def synchronised_batch_norm(modules: Iterable[nn.Module], device: torch.device) -> None:
    """Make BatchNorm layers take their statistics over all processes, on GPUs: torch has no such layer elsewhere.

    Layers are replaced in place, with their own parameters and buffers.
    """
    if world_size() > 1 and device.type == "cuda":
        for module in modules:
            nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]


def same_buffers(modules: Iterable[nn.Module]) -> None:
    """Overwrite the buffers (BatchNorm statistics) of modules with those of rank 0."""
    if world_size() > 1:
        broadcast_tensors(buffer for module in modules for buffer in module.buffers())


def mean_over_processes(values: dict[str, Tensor]) -> dict[str, Tensor]:
    """Mean of named scalars over the processes, without gradient; not-a-number in one process is so in all."""
    if world_size() == 1:
        return {name: value.detach() for name, value in values.items()}
    means = sum_over_processes(torch.stack([value.detach().double() for value in values.values()])) / world_size()
    return {name: mean.to(value.dtype) for (name, value), mean in zip(values.items(), means)}
