"""Several processes as one run: who is who, what is exchanged; with one process every function is an identity.

Rank and world size are Ignite's (:mod:`ignite.distributed`), which finds the process group of whoever started it. The
exchanges go to :mod:`torch.distributed` itself: Ignite moves tensors to the GPU wherever there is one, where gloo, the
backend of runs on the processor, cannot gather them.
"""

from __future__ import annotations

import logging
import os
import zlib
from collections.abc import Iterable
from typing import Any, TypeVar

import ignite.distributed as idist
import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from medssl_monai.core.errors import ConfigError

T = TypeVar("T")


def rank() -> int:
    """Number of this process, from 0."""
    return int(idist.get_rank())


def world_size() -> int:
    """Number of processes that make up this run."""
    return int(idist.get_world_size())


def is_main() -> bool:
    """Whether this process is the one that writes files, draws bars and logs (rank 0).

    A process that ``torchrun`` started knows this before it has joined the others.
    """
    launched = os.environ.get("RANK", "0") if "WORLD_SIZE" in os.environ else "0"
    return rank() == 0 if world_size() > 1 else launched in ("", "0")


def barrier() -> None:
    """Wait until every process has come here."""
    idist.barrier()


def process_device() -> torch.device:
    """The device of this process: the GPU of its local rank, or the processor where there is no GPU.

    Raises:
        ConfigError: when there are more processes on this machine than GPUs.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if local >= torch.cuda.device_count():
        raise ConfigError(
            "more processes than GPUs on this machine", where="device",
            found=f"local rank {local}", expected=f"below {torch.cuda.device_count()}, the number of GPUs",
            advice="Give torchrun a smaller --nproc_per_node, or add the overlay cpu.",
        )  # fmt: skip
    return torch.device("cuda", local)


def join_processes(distributed: bool, device: torch.device | str) -> None:
    """Join the processes that ``torchrun`` started to one group (nccl on GPUs, gloo on the processor).

    Processes other than the first log from warnings on. With ``distributed=False``, in a process that was started
    alone, or in a group that exists already, no group is made.

    Args:
        distributed: the bundle's key of that name, which the overlay ``multi_gpu`` sets.
        device: device of this process.

    Raises:
        ConfigError: when ``torchrun`` started several processes but ``distributed`` is false: each would train for
            itself and write over the others' files.
    """
    launched = int(os.environ.get("WORLD_SIZE") or 1) if "RANK" in os.environ else 1
    if launched > 1 and not distributed:
        raise ConfigError(
            f"torchrun started {launched} processes, but the configuration is that of one", where="distributed",
            found=False, expected=True, advice="Add the overlay multi_gpu (configs/multi_gpu.yaml).",
        )  # fmt: skip
    if launched > 1 and not dist.is_initialized():
        device = torch.device(device)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        if "SLURM_JOB_ID" in os.environ:
            # Ignite reads the local rank here, where Slurm has that of the launcher, not of its processes
            os.environ["SLURM_LOCALID"] = os.environ["LOCAL_RANK"]
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        idist.sync()
    if not is_main():
        logging.getLogger().setLevel(logging.WARNING)


def leave_processes() -> None:
    """Leave the group when the stage is done; nothing where there is none."""
    if dist.is_available() and dist.is_initialized():
        idist.finalize()


def collective_device() -> torch.device:
    """Where the tensors of an exchange must lie: the current GPU under nccl, else the processor."""
    nccl = world_size() > 1 and dist.get_backend() == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if nccl else torch.device("cpu")


def any_process(flag: bool) -> bool:
    """Whether ``flag`` is true in at least one process; the same answer in all of them, so that all stop together."""
    if world_size() == 1:
        return flag
    value = torch.tensor(int(flag), device=collective_device())
    dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return bool(value)


def sum_over_processes(tensor: Tensor) -> Tensor:
    """Sum of every process's tensor, of equal shapes; no gradient flows through it."""
    total = tensor.detach().clone()
    if world_size() > 1:
        dist.all_reduce(total)
    return total


def all_gather_objects(value: T) -> list[T]:
    """Every process's value (anything that can be pickled), in the order of the ranks."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def broadcast_object(value: T) -> T:
    """The value (anything that can be pickled) of rank 0, in every process."""
    if world_size() == 1:
        return value
    values = [value if rank() == 0 else None]
    dist.broadcast_object_list(values, src=0)
    return values[0]  # type: ignore[return-value]


@torch.no_grad()
def broadcast_tensors(tensors: Iterable[Tensor]) -> None:
    """Overwrite tensors, the same in number, shape and dtype everywhere, with those of rank 0; one message a dtype."""
    if world_size() == 1:
        return
    groups: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        groups.setdefault(tensor.dtype, []).append(tensor)
    for group in groups.values():
        flat = torch.cat([tensor.reshape(-1) for tensor in group])
        dist.broadcast(flat, src=0)
        for tensor, part in zip(group, torch.split(flat, [tensor.numel() for tensor in group])):
            tensor.copy_(part.view_as(tensor))


class _Gather(torch.autograd.Function):
    """Concatenation over the ranks; its transpose hands every rank the sum of all ranks' gradients for its rows.

    ``torch.distributed.nn.functional.all_gather`` does the same but is deprecated; what it names instead is private.
    """

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        ctx.rows = len(tensor)
        parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(world_size())]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total[rank() * ctx.rows :][: ctx.rows]


def gather_with_gradient(tensor: Tensor) -> Tensor:
    """Concatenate a tensor over the processes along its first dimension; the gradient flows back to all of them.

    The backward pass sums over ranks: row i gets ``sum_r dL_r / d row_i`` with L_r the loss of rank r. Where every rank
    computes the same loss L of the gathered rows, that is W times the gradient of L; DistributedDataParallel then
    averages the parameters' gradients, ``(1/W) sum_r W dL/dz_r dz_r/dw = dL/dw``: exactly the gradient that one process
    with all the rows has. Without that average, divide by W.

    Args:
        tensor: shape (n, ...), the same shape and dtype in every process.

    Returns:
        Shape (W n, ...), in the order of the ranks; the tensor itself with one process.

    Raises:
        ValueError: when the tensor has no dimension, or the processes' shapes or dtypes differ (in every process).
    """
    if tensor.dim() == 0:
        raise ValueError("gather_with_gradient: expected a tensor with a first dimension, got a scalar")
    if world_size() == 1:
        return tensor
    _check_same_layout(tensor)
    gathered: Tensor = _Gather.apply(tensor)  # type: ignore[no-untyped-call]
    return gathered


def _check_same_layout(tensor: Tensor) -> None:
    """Refuse unequal shapes in all processes alike: a gather of them would hang or mix up rows."""
    largest = 8
    own = [tensor.dim(), zlib.crc32(str(tensor.dtype).encode()), *tensor.shape[:largest]]
    layout = torch.tensor(own + [0] * (largest + 2 - len(own)), device=collective_device())
    layouts = [torch.empty_like(layout) for _ in range(world_size())]
    dist.all_gather(layouts, layout)
    if any(not torch.equal(layout, other) for other in layouts):
        shapes = ", ".join(str(tuple(other[2 : 2 + int(other[0])].tolist())) for other in layouts)
        raise ValueError(
            f"gather_with_gradient: expected one shape and dtype ({tensor.dtype} here) in all processes, got {shapes}"
        )
