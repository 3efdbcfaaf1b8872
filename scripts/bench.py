"""Benchmarks: what the pieces and the stages cost on this machine.

    python scripts/bench.py [losses] [views] [intervals] [stages]

Figures are medians of repeated runs on one thread; a peer is timed in turn with ours on the same input, after the
values have been compared. `stages` runs the smoke overlay of every stage of the SRCL bundle as its own process and
gives wall seconds and peak memory.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

Row = tuple[str, str, str]


def paired(ours: Callable[[], object], peer: Callable[[], object], repeats: int = 7) -> tuple[float, float]:
    """Median milliseconds of two functions called in turn, after one call each to warm up."""
    times: tuple[list[float], list[float]] = ([], [])
    ours(), peer()
    for _ in range(repeats):
        for function, record in zip((ours, peer), times):
            start = time.perf_counter()
            function()
            record.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[0]), statistics.median(times[1])


def losses() -> list[Row]:
    """SupCon without labels against MONAI's NT-Xent, forward and backward, D = 128."""
    from monai.losses import ContrastiveLoss

    from medssl_monai.losses import SupConLoss

    rows = []
    for n in (64, 128, 256):
        pair = torch.nn.functional.normalize(torch.randn(n, 2, 128), dim=-1)
        ours, peer = SupConLoss(0.1), ContrastiveLoss(temperature=0.1)
        values = ours(pair, None), peer(pair[:, 0], pair[:, 1])
        torch.testing.assert_close(values[0], values[1], rtol=1e-4, atol=1e-5)

        def step_ours(pair: torch.Tensor = pair, loss: torch.nn.Module = ours) -> None:
            loss(pair.clone().requires_grad_(), None).backward()

        def step_peer(pair: torch.Tensor = pair, loss: torch.nn.Module = peer) -> None:
            both = pair.clone().requires_grad_()
            loss(both[:, 0], both[:, 1]).backward()

        a, b = paired(step_ours, step_peer)
        rows.append((f"SupCon, N = {n}: ms (MONAI's NT-Xent: ms)", f"{a:.2f} ({b:.1f})", f"{b / a:.0f}x"))
    return rows


def views() -> list[Row]:
    """Two augmented views of an RGB image: crop, jitter, grey."""
    from monai.transforms import Compose

    from medssl_monai.transforms import RandColorJitter, RandGrayscale, RandResizedCrop, TwoViews

    rows = []
    for size in (64, 224):
        image = torch.rand(3, size, size)
        transform = TwoViews(Compose([RandResizedCrop([size, size]), RandColorJitter(), RandGrayscale()]))
        transform.set_random_state(seed=0)
        times = []
        for _ in range(50):
            start = time.perf_counter()
            transform(image)
            times.append(1000 * (time.perf_counter() - start))
        rows.append((f"two views of an image of {size} px: ms", f"{statistics.median(times):.2f}", ""))
    return rows


def intervals() -> list[Row]:
    """Bootstrap of an AUROC, 1,000 resamples of 120 cases, against a loop over scikit-learn (50 resamples, scaled)."""
    from sklearn.metrics import roc_auc_score

    from medssl_monai.metrics import bootstrap_interval

    generator = np.random.default_rng(0)
    truth, score = generator.integers(0, 2, 120), generator.random(120)
    resamples = generator.integers(0, 120, (50, 120))
    a, b = paired(
        lambda: bootstrap_interval("auroc", truth, score),
        lambda: [roc_auc_score(truth[r], score[r]) for r in resamples],
    )
    b *= 20
    return [("AUROC interval, 1,000 resamples: ms (loop over scikit-learn: ms)", f"{a:.2f} ({b:.0f})", f"{b / a:.0f}x")]


def stages() -> list[Row]:
    """Every stage of the SRCL bundle with the smoke overlay, as a process."""
    from medssl_monai.data.phantoms import make_phantom

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        make_phantom("skin_lesions", Path(folder) / "data", subjects=140, size=96, balance=1.0)
        for stage in ("pretrain", "train", "evaluate", "inference"):
            command = [
                sys.executable, "-m", "medssl_monai.apps", "run", "srcl_skin_lesion_classification", stage,
                f"dataset_dir={folder}/data", "--overlay", "smoke", "--run-dir", f"{folder}/run",
            ]  # fmt: skip
            start = time.perf_counter()
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            _, status, usage = os.wait4(process.pid, 0)
            if status:
                raise SystemExit(f"stage {stage} failed: {' '.join(command)}")
            seconds = time.perf_counter() - start
            rows.append((f"smoke, {stage}: s, peak memory", f"{seconds:.0f} s, {usage.ru_maxrss / 2**20:.1f} GiB", ""))
    return rows


BENCHMARKS = {"losses": losses, "views": views, "intervals": intervals, "stages": stages}


def main() -> int:
    """Run the named benchmarks, or all, and print one table."""
    named = sys.argv[1:] or list(BENCHMARKS)
    unknown = [name for name in named if name not in BENCHMARKS]
    if unknown:
        print(f"unknown benchmark {unknown[0]!r}; known: {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    print("| what | measured | ratio |\n| --- | --- | --- |")
    for name in named:
        for row in BENCHMARKS[name]():
            print(f"| {' | '.join(row)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
