"""The contrastive losses of other packages, where they are installed; as a program, the memory that a loss takes.

    python contrastive_peers.py LOSS PAIRS THREADS

It stands outside the package of the benchmarks, so that a process that is measured loads no more than it needs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
from monai.losses import ContrastiveLoss
from torch import Tensor
from torch.nn import functional as F

from medssl_monai.losses import NTXentLoss

Loss = Callable[[Tensor, Tensor], Tensor]
DIMENSION, TEMPERATURE, CHUNK = 128, 0.1, 256
_PLAIN = "plain torch: one product, `fill_diagonal_`, cross-entropy"


def step(loss: Loss, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Value and gradients of one call."""
    leaf, other = first.clone().requires_grad_(), second.clone().requires_grad_()
    value = loss(leaf, other)
    value.backward()
    return value.detach(), torch.cat([view.grad for view in (leaf, other) if view.grad is not None])


def plain(first: Tensor, second: Tensor) -> Tensor:
    """NT-Xent as one writes it down."""
    unit = F.normalize(torch.cat([first, second]), dim=1)
    logits = (unit @ unit.T / TEMPERATURE).fill_diagonal_(-torch.inf)
    count = len(first)
    return F.cross_entropy(logits, torch.arange(2 * count, device=unit.device).roll(count))


def peers() -> tuple[dict[str, tuple[str, Loss, int]], list[str]]:
    """By what is shown: name of our loss, the peer and the largest batch it is asked for; and what is not installed."""
    found: dict[str, tuple[str, Loss, int]] = {
        _PLAIN: ("nt_xent", plain, 2048),
        "MONAI `ContrastiveLoss`": ("nt_xent", ContrastiveLoss(temperature=TEMPERATURE), 128),
    }
    absent = []
    try:
        from lightly import loss as lightly

        name = f"lightly {version('lightly')}"
        found[f"{name} `NTXentLoss`"] = ("nt_xent", lightly.NTXentLoss(temperature=TEMPERATURE), 2048)
        found[f"{name} `DCLLoss`"] = ("dcl", lightly.DCLLoss(temperature=TEMPERATURE), 2048)
    except ImportError as error:
        absent.append(f"lightly ({error})")
    try:
        from pytorch_metric_learning import losses as metric_learning

        wrapped = metric_learning.SelfSupervisedLoss(metric_learning.NTXentLoss(temperature=TEMPERATURE))
        name = f"pytorch-metric-learning {version('pytorch-metric-learning')}"
        found[f"{name} `NTXentLoss`"] = ("nt_xent", wrapped, 128)
    except ImportError as error:
        absent.append(f"pytorch-metric-learning ({error})")
    return found, absent


def views(count: int) -> tuple[Tensor, Tensor]:
    """Embeddings of both views, the same at every call."""
    pair = torch.randn(2, count, DIMENSION, generator=torch.Generator().manual_seed(count))
    return pair[0], pair[1]


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])


def _measure(name: str, count: int, threads: int) -> None:
    torch.set_num_threads(threads)
    own = {"whole": NTXentLoss(TEMPERATURE), "chunked": NTXentLoss(TEMPERATURE, chunk_size=min(CHUNK, max(1, count)))}
    loss: Loss = own[name] if name in own else peers()[0][name][1]
    step(loss, *views(8))  # what is loaded on first use does not count
    first, second = views(count)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts anew
    before = _resident("VmRSS")
    value, _ = step(loss, first, second)
    print(json.dumps([max(_resident("VmHWM") - before, 1) / 1024, float(value)]))


if __name__ == "__main__":
    _measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
