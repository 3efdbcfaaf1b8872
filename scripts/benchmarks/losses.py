"""Contrastive losses, forward and backward, against the packages people use now; D = 128."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.contrastive_peers import CHUNK, TEMPERATURE, peers, step, views
from benchmarks.harness import Row, alone, paired
from medssl_monai.losses import DCLLoss, NTXentLoss, SupConLoss, contrastive_loss


def losses(tiny: bool = False) -> list[Row]:
    """Times of NT-Xent and DCL, of the others alone, and peak memory at 2N = 8,192."""
    return [*_times(tiny), *_alone(tiny), *_memory(tiny)]


def _times(tiny: bool) -> list[Row]:
    rows, ours = [], {"nt_xent": NTXentLoss(TEMPERATURE), "dcl": DCLLoss(TEMPERATURE)}
    shown = {"nt_xent": "NT-Xent", "dcl": "DCL"}
    found, absent = peers()
    for peer, (name, loss, largest) in found.items():
        for count in (8,) if tiny else (64, 128, 256, 512, 1024, 2048):
            if count > largest:
                continue
            first, second = views(count)
            for mine, theirs in zip(step(ours[name], first, second), step(loss, first, second)):
                torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)
            pairs = paired(
                partial(step, ours[name], first, second),
                partial(step, loss, first, second),
                1 if tiny else 31 if count < 1024 else 7,
            )
            row = pairs.row("losses", f"{shown[name]}, {count:,} pairs", peer, "value and gradient, 1e-4")
            rows.append(_with_goal(row, count, tiny) if peer.startswith("lightly") else row)
    for reason in absent:
        first, second = views(8 if tiny else 128)
        milliseconds = alone(partial(step, ours["nt_xent"], first, second), 1 if tiny else 31)
        rows.append(Row("losses", f"NT-Xent, {len(first)} pairs; no peer: {reason}", milliseconds))
    return rows


def _with_goal(row: Row, count: int, tiny: bool) -> Row:
    goal = 1.5 if 128 <= count <= 512 else 1.0
    met = None if tiny or row.ratio is None else row.ratio >= goal
    return replace(row, goal="1.5 times as fast" if goal > 1 else "no slower", met=met)


def _alone(tiny: bool) -> list[Row]:
    first, second = views(8 if tiny else 256)
    rows = []
    for name in ("dclw", "binary", "euclidean", "combo", "mio_v1", "mio_v2", "mio_v3", "dystress"):
        milliseconds = alone(partial(step, contrastive_loss(name), first, second), 1 if tiny else 31)
        rows.append(Row("losses", f"`{name}`, {len(first)} pairs", milliseconds))

    def supervised(one: Tensor, two: Tensor) -> Tensor:
        value: Tensor = SupConLoss(TEMPERATURE)(torch.stack([one, two], dim=1))
        return value

    for mine, theirs in zip(step(supervised, first, second), step(NTXentLoss(TEMPERATURE), first, second)):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)
    milliseconds = alone(partial(step, supervised, first, second), 1 if tiny else 31)
    return [*rows, Row("losses", f"SupCon without labels, {len(first)} pairs", milliseconds)]


def _memory(tiny: bool) -> list[Row]:
    """Growth of the resident size over one step, each loss in a process of its own."""
    count = 8 if tiny else 4096
    whole, chunked = (NTXentLoss(TEMPERATURE, chunk_size=chunk) for chunk in (None, 4 if tiny else CHUNK))
    first, second = views(count)
    for one, other in zip(step(whole, first, second), step(chunked, first, second)):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)
    found, _ = peers()
    usable = {peer: growth(peer, count) for peer, (name, _, most) in found.items() if name == "nt_xent" and most > 128}
    leanest = min(usable, key=lambda peer: usable[peer][0])
    rows = []
    for ours, what in (("chunked", f"chunks of {CHUNK}"), ("whole", "no chunks")):
        memory, digest = growth(ours, count)
        for peer, (theirs, value) in usable.items():
            torch.testing.assert_close(torch.tensor(digest), torch.tensor(value), rtol=1e-4, atol=1e-6)
            aim = (ours, peer) == ("chunked", leanest)
            rows.append(
                Row(
                    "losses", f"peak memory of NT-Xent, 2N = {2 * count:,}, {what}", memory, "MiB", peer, theirs,
                    theirs / memory, (theirs / memory,) * 2, "value, 1e-4",
                    goal="a quarter of the leanest peer" if aim else None,
                    met=None if tiny or not aim else memory <= 0.25 * theirs,
                )
            )  # fmt: skip
    return rows


def growth(loss: str, count: int) -> tuple[float, float]:
    """MiB that a process grows by over one step, at its peak, and the loss's value."""
    program = Path(__file__).with_name("contrastive_peers.py")
    command = [sys.executable, str(program), loss, str(count), str(torch.get_num_threads())]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    megabytes, value = json.loads(done.stdout)
    return float(megabytes), float(value)
