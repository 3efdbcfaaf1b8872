"""What the benchmarks share: rows, paired timing, the machine, and the table that is written."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        benchmark: name of the benchmark it belongs to.
        what: what was measured.
        ours: median of our runs, in ``unit``.
        unit: unit of ``ours`` and ``theirs``.
        peer: what it was compared with; ``None`` for a figure that stands alone.
        theirs: median of the peer's runs.
        ratio: median of the pairs' ratios, peer / ours: above 1, ours is faster.
        quartiles: first and third quartile of those ratios.
        equal: how far the results of both were asserted to be equal before the timing.
        goal: the goal set for this figure, in words; ``None`` where there is none.
        met: whether it was met here; ``None`` without a goal.
    """

    benchmark: str
    what: str
    ours: float
    unit: str = "ms"
    peer: str | None = None
    theirs: float | None = None
    ratio: float | None = None
    quartiles: tuple[float, float] | None = None
    equal: str | None = None
    goal: str | None = None
    met: bool | None = None


@dataclass(frozen=True)
class Pairs:
    """Milliseconds of two functions called in turn."""

    ours: list[float]
    theirs: list[float]

    @property
    def ratios(self) -> list[float]:
        """Peer / ours of each pair."""
        return [b / a for a, b in zip(self.ours, self.theirs)]

    def row(self, benchmark: str, what: str, peer: str, equal: str, **further: Any) -> Row:
        """The row of these pairs; ``further`` as for :class:`Row`."""
        ratios = self.ratios
        low, _, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else (ratios[0],) * 3
        return Row(
            benchmark,
            what,
            statistics.median(self.ours),
            "ms",
            peer,
            statistics.median(self.theirs),
            statistics.median(ratios),
            (low, high),
            equal,
            **further,
        )


CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
_chosen = "wall"


def choose_clock(name: str) -> None:
    """Measure by the clock on the wall, or by the processor time of this process: that one a busy machine allows."""
    global _chosen
    _chosen = name


def chosen_clock() -> str:
    """Name of the clock measured by."""
    return _chosen


def clock(function: Callable[[], object]) -> float:
    """Milliseconds of one call."""
    now = CLOCKS[_chosen]
    start = now()
    function()
    return 1000 * (now() - start)


def paired(ours: Callable[[], object], peer: Callable[[], object], repeats: int = 7, scale: float = 1.0) -> Pairs:
    """Time two functions in turn, after one call each to warm up; ``scale`` multiplies the peer's times."""
    ours()
    peer()
    times = [(clock(ours), scale * clock(peer)) for _ in range(repeats)]
    return Pairs([a for a, _ in times], [b for _, b in times])


def alone(function: Callable[[], object], repeats: int) -> float:
    """Median milliseconds of a function, after one call to warm up."""
    function()
    return statistics.median(clock(function) for _ in range(repeats))


def processor() -> str:
    """Model of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def machine(command: str, threads: int) -> dict[str, Any]:
    """What the figures were measured on and with; no name of the machine or its user."""
    packages = ("torch", "monai", "pytorch-ignite", "numpy", "scikit-learn", "medssl-monai")
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "command": command,
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "clock": _chosen,
        "load_at_start": round(os.getloadavg()[0], 1),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
    }


def to_json(machine: dict[str, Any], rows: list[Row], seconds: dict[str, float]) -> dict[str, Any]:
    """The table as plain values."""
    return {"format": 1, "machine": machine, "rows": [asdict(row) for row in rows], "seconds": seconds}
