"""The contrastive step by micro-batches: memory against a small batch, time and gradients against one pass."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.harness import Pairs, Row, clock
from medssl_monai.engines import ContrastiveTrainer
from medssl_monai.losses import NTXentLoss
from medssl_monai.networks import ContrastiveNet


def micro_batches(tiny: bool = False) -> list[Row]:
    """ResNet-18: peak memory of 1,024 samples by micro-batches, and what the second pass costs."""
    return [*_memory(tiny), _time(tiny)]


def step_of(count: int, micro: int | None, size: int, width: float = 1.0, batch_norm: bool = True) -> Any:
    """A trainer of one step on ``count`` samples, and its network."""
    random = torch.Generator().manual_seed(count)
    data = {f"view{view}": torch.rand(count, 3, size, size, generator=random) for view in (1, 2)}
    torch.manual_seed(0)
    network = ContrastiveNet("resnet18", projection_dim=128, in_channels=3, width=width)
    if not batch_norm:
        _without_statistics(network)
    return ContrastiveTrainer(
        loss=NTXentLoss(0.1, chunk_size=None if micro is None else 256), micro_batch_size=micro, network=network,
        device="cpu", max_epochs=1, train_data_loader=[data], optimizer=torch.optim.SGD(network.parameters(), 0.01),
    )  # fmt: skip


def _without_statistics(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, nn.GroupNorm(4, child.num_features))
        else:
            _without_statistics(child)


def _memory(tiny: bool) -> list[Row]:
    whole, part, size, width = (32, 8, 32, 0.125) if tiny else (1024, 128, 64, 1.0)
    small = _peak(part, None, size, width)
    rows = []
    for micro in (part,) if tiny else (part, part // 2):
        ours = _peak(whole, micro, size, width)
        rows.append(
            Row(
                "micro-batches",
                f"peak memory of a step on {whole:,} samples by {micro}, {size} pixels",
                ours,
                "MiB",
                f"one pass over {part} samples",
                small,
                small / ours,
                (small / ours, small / ours),
                "gradients, 1e-5",
                goal=f"in the memory of {part} samples (ratio 1 or more)" if micro < part else None,
                met=None if tiny or micro == part else small >= ours,
            )
        )
    return rows


def _peak(count: int, micro: int | None, size: int, width: float) -> float:
    """Largest resident MiB of a process that takes one step."""
    code = f"from benchmarks.micro_batches import print_peak; print_peak({count}, {micro}, {size}, {width})"
    paths = [str(Path(__file__).parents[1]), *sys.path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the step on {count} samples failed:\n{done.stderr[-2000:]}")
    return float(done.stdout.split()[-1])


def print_peak(count: int, micro: int | None, size: int, width: float) -> None:
    """Take one step and print the process's largest resident MiB, as Linux counts it.

    `ru_maxrss` counts what the process that started this one had; looking from outside misses short peaks.
    """
    step_of(count, micro, size, width).run()
    status = Path("/proc/self/status").read_text(encoding="ascii")
    print(int(status.split("VmHWM:")[1].split()[0]) / 1024)


def _time(tiny: bool) -> Row:
    whole, part, size, width, repeats = (16, 4, 32, 0.125, 1) if tiny else (128, 16, 64, 1.0, 5)
    _assert_equal_gradients(whole, part, size, width)

    def step(micro: int | None) -> float:
        return clock(step_of(whole, micro, size, width).run)

    step(None)
    step(part)
    times = [(step(part), step(None)) for _ in range(repeats)]
    pairs = Pairs([ours for ours, _ in times], [theirs for _, theirs in times])
    return pairs.row(
        "micro-batches", f"step on {whole} samples by {part}, {size} pixels", f"one pass over {whole} samples",
        "gradients, 1e-5",
    )  # fmt: skip


def _assert_equal_gradients(whole: int, part: int, size: int, width: float) -> None:
    """On the same net with group instead of batch statistics, which do not depend on the parts."""
    found = []
    for micro in (part, None):
        trainer = step_of(whole, micro, size, width, batch_norm=False)
        trainer.run()
        found.append(torch.cat([p.grad.flatten() for p in trainer.network.parameters()]).double())
    difference = (found[0] - found[1]).norm() / found[1].norm()
    if not difference < 1e-5:
        raise AssertionError(f"gradients are not close: relative difference {difference:.2g}")
