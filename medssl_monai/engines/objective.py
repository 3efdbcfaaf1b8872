"""A trainer's objective as one module, so that DistributedDataParallel can average its gradients over processes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
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

LossTerms = Callable[[dict[str, Any]], dict[str, Tensor]]


class _Objective(nn.Module):
    """Forward pass and losses of one batch. The network is a sub-module; it stays what the trainer calls by method."""

    def __init__(self, network: nn.Module, loss_terms: LossTerms) -> None:
        super().__init__()
        self.network, self.loss_terms = network, loss_terms

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        return self.loss_terms(batch)


def distributed_objective(network: nn.Module, loss_terms: LossTerms, all_parameters_used: bool = False) -> LossTerms:
    """The objective, such that a backward pass leaves the mean over all processes in the network's gradients.

    With one process it is ``loss_terms`` itself. Trainers call methods of the network (``features``, ``classify``), so
    that wrapping the network would leave its synchronisation aside; what is wrapped is a module around both. The
    network itself is not: its state dict has the keys of one process. Ignite's ``auto_model`` is not used because it
    moves the network to the GPU wherever there is one, also under the overlay ``cpu``.

    Args:
        network: holds the parameters; on its device.
        loss_terms: from a batch to named scalars, by way of ``network``.
        all_parameters_used: every parameter gets a gradient in every step, so that none need be searched for.
    """
    if world_size() == 1:
        return loss_terms
    return DistributedDataParallel(
        _Objective(network, loss_terms),
        find_unused_parameters=not all_parameters_used,
        # `same_buffers` does it behind every step, so that what is validated and saved is the same everywhere
        **dict[str, Any]({_SYNC_BUFFERS: False}),
    )


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
