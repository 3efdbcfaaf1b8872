"""What a run has run on, for its record: the versions of the packages, the machine."""

from __future__ import annotations

import os
import platform
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch

from medssl_monai import __version__

_CPU_INFO = Path("/proc/cpuinfo")
_MEMORY_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def versions() -> dict[str, str]:
    """Versions that a result depends on."""
    packages = {name: version(name) for name in ("torch", "monai", "pytorch-ignite", "numpy")}
    return {"medssl-monai": __version__, "python": platform.python_version(), **packages}


def describe_hardware() -> dict[str, Any]:
    """Processor, cores and memory this process may use, and the accelerator torch sees; names no host and no user.

    Returns:
        ``processor``, ``cores``, ``memory_gib`` (one decimal) and ``accelerator`` (``None`` where there is none).
    """
    return {
        "processor": _processor(),
        "cores": _cores(),
        "memory_gib": round(_memory() / 2**30, 1),
        "accelerator": _accelerator(),
    }


def _processor() -> str:
    # platform.processor() is empty or only the architecture on Linux
    if _CPU_INFO.is_file():
        found = re.search(r"^model name\s*:\s*(.+)$", _CPU_INFO.read_text(encoding="utf-8", errors="replace"), re.M)
        if found:
            return found.group(1).strip()
    return platform.processor() or platform.machine() or "unknown"


def _cores() -> int:
    # a container or a job of a cluster may have fewer than the machine
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory() -> int:
    limits = [path.read_text(encoding="ascii").strip() for path in _MEMORY_LIMITS if path.is_file()]
    return min([int(psutil.virtual_memory().total), *(int(limit) for limit in limits if limit.isdecimal())])


def _accelerator() -> str | None:
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        return ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))
    return "Apple GPU (Metal)" if torch.backends.mps.is_available() else None
