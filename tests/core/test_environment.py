"""The machine, in words."""

from __future__ import annotations

import os
import platform
import socket
from pathlib import Path

import psutil
import pytest
import torch

from medssl_monai.core import environment
from medssl_monai.core.environment import describe_hardware


def test_this_machine() -> None:
    found = describe_hardware()
    assert set(found) == {"processor", "cores", "memory_gib", "accelerator"}
    assert 1 <= found["cores"] <= (os.cpu_count() or 1)
    assert 0 < found["memory_gib"] <= round(psutil.virtual_memory().total / 2**30, 1)
    assert (found["accelerator"] is None) == (not torch.cuda.is_available() and not torch.backends.mps.is_available())
    assert socket.gethostname() not in found["processor"]


def test_processor_and_memory_limit_are_read_from_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info, limit, unlimited = tmp_path / "cpuinfo", tmp_path / "limit", tmp_path / "unlimited"
    info.write_text("processor\t: 0\nmodel name\t: A Processor @ 3 GHz\nmodel name\t: another\n")
    limit.write_text(f"{3 * 2**29}\n")
    unlimited.write_text("max\n")
    monkeypatch.setattr(environment, "_CPU_INFO", info)
    monkeypatch.setattr(environment, "_MEMORY_LIMITS", (unlimited, limit, tmp_path / "absent"))
    found = describe_hardware()
    assert (found["processor"], found["memory_gib"]) == ("A Processor @ 3 GHz", 1.5)
    monkeypatch.setattr(environment, "_CPU_INFO", tmp_path / "absent")
    monkeypatch.setattr(environment, "_MEMORY_LIMITS", (unlimited,))
    found = describe_hardware()
    assert found["processor"] == (platform.processor() or platform.machine())
    assert found["memory_gib"] == round(psutil.virtual_memory().total / 2**30, 1)


def test_accelerators_of_one_kind_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["GPU A", "GPU B", "GPU A"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(names))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: names[index])
    assert describe_hardware()["accelerator"] == "2 x GPU A, 1 x GPU B"
