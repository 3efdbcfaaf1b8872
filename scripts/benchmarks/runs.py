"""The trainer against a bare loop, and whole stages of a bundle."""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn

from benchmarks.harness import Pairs, Row, clock
from medssl_monai.data.phantoms import make_phantom
from medssl_monai.engines import MeanTeacherTrainer, SupConTrainer
from medssl_monai.losses import SupConLoss
from medssl_monai.networks import SRCLNet


def engine(tiny: bool = False) -> list[Row]:
    """Our trainers and a bare PyTorch loop: same network, batches, optimiser and seeds; the same weights at the end."""
    steps, number, size, repeats = (2, 4, 32, 1) if tiny else (6, 32, 64, 7)
    random = torch.Generator().manual_seed(0)
    batches = [
        {
            "view1": torch.rand(number, 3, size, size, generator=random),
            "view2": torch.rand(number, 3, size, size, generator=random),
            "label": torch.randint(0, 7, (number,), generator=random),
            "name": [f"{step}-{i}" for i in range(number)],
        }
        for step in range(steps)
    ]
    supervised = nn.CrossEntropyLoss(ignore_index=-1)
    contrastive = SupConLoss(0.1)

    def supcon(net: Any, batch: dict[str, Any]) -> torch.Tensor:
        views = torch.cat([batch["view1"], batch["view2"]])
        return contrastive(torch.stack(net.project(net.features(views)).chunk(2), dim=1), batch["label"])

    trainers: dict[str, tuple[Callable[..., Any], Callable[..., torch.Tensor]]] = {
        "supervised step of `MeanTeacherTrainer`": (
            lambda **kwargs: MeanTeacherTrainer(supervised_loss=supervised, weights={"supervised": 1.0}, **kwargs),
            lambda net, batch: supervised(net(batch["view1"]), batch["label"]),
        ),
        "step of `SupConTrainer`": (lambda **kwargs: SupConTrainer(loss=contrastive, **kwargs), supcon),
    }
    rows = []
    for name, (trainer, loss) in trainers.items():
        pairs = _overhead(batches, trainer, loss, repeats, 0.125 if tiny else 1.0)
        per_step = Pairs([t / steps for t in pairs.ours], [t / steps for t in pairs.theirs])
        enough = statistics.median(per_step.theirs) >= 80
        met = None if tiny or not enough else statistics.median(per_step.ratios) >= 1 / 1.1
        rows.append(
            per_step.row(
                "engine",
                f"{name}, {number} images of {size} pixels, ResNet-18",
                "bare PyTorch loop",
                "weights after the run, exactly",
                goal="at most 10 % slower (ratio 0.91 or more) at 80 ms and more",
                met=met,
            )
        )
    return rows


def _overhead(
    batches: list[dict[str, Any]],
    trainer: Callable[..., Any],
    loss: Callable[..., torch.Tensor],
    repeats: int,
    width: float,
) -> Pairs:
    def fresh() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        # without dropout, whose seeding the bare loop would have to imitate
        net = SRCLNet("resnet18", dropout=0.0, width=width).to(memory_format=torch.channels_last)
        return net, torch.optim.Adam(net.parameters(), 1e-4)

    def ours() -> tuple[nn.Module, float]:
        net, optimizer = fresh()
        made = trainer(device="cpu", max_epochs=1, train_data_loader=batches, network=net, optimizer=optimizer)
        return net, clock(made.run)

    def bare() -> tuple[nn.Module, float]:
        net, optimizer = fresh()

        def run() -> None:
            net.train()
            for batch in batches:
                moved = {
                    key: value.contiguous(memory_format=torch.channels_last) if key.startswith("view") else value
                    for key, value in batch.items()
                }
                optimizer.zero_grad(set_to_none=True)
                loss(net, moved).backward()
                optimizer.step()

        return net, clock(run)

    for (name, one), other in zip(ours()[0].state_dict().items(), bare()[0].state_dict().values()):
        torch.testing.assert_close(one, other, rtol=0, atol=0, msg=lambda text, name=name: f"{name}: {text}")
    times = [(ours()[1], bare()[1]) for _ in range(repeats)]
    return Pairs([a for a, _ in times], [b for _, b in times])


def stages(tiny: bool = False) -> list[Row]:
    """Every stage of the SRCL bundle with the smoke overlay, as a process of its own."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        make_phantom("skin_lesions", Path(folder) / "data", subjects=70 if tiny else 140, size=96, balance=1.0)
        for stage in ("pretrain",) if tiny else ("pretrain", "train", "evaluate", "inference"):
            command = [
                sys.executable,
                "-m",
                "medssl_monai.apps",
                "run",
                "srcl_skin_lesion_classification",
                stage,
                f"dataset_dir={folder}/data",
                "--overlay",
                "smoke",
                "--run-dir",
                f"{folder}/run",
            ]
            start = time.perf_counter()
            with open(Path(folder) / "log", "wb") as log:
                process = subprocess.Popen(command, stdout=log, stderr=log)
                peak = watch_memory(process)
            status = process.returncode
            seconds = time.perf_counter() - start
            if status:
                tail = (Path(folder) / "log").read_text(encoding="utf-8", errors="replace")[-2000:]
                raise SystemExit(f"stage {stage} failed:\n{tail}")
            memory = f"peak memory {peak / 2**30:.1f} GiB"
            rows.append(
                Row("stages", f"{stage}, {memory}", seconds, "s", goal="under 60 s", met=None if tiny else seconds < 60)
            )
    return rows


def watch_memory(process: subprocess.Popen[bytes]) -> int:
    """Largest resident bytes of a process, looked at until it ends.

    What the system says at the end (`ru_maxrss`) counts the memory this process had when it started the other.
    """
    peak, watched = 0, psutil.Process(process.pid)
    while process.poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess):
            peak = max(peak, watched.memory_info().rss)
        time.sleep(0.05)
    return peak
