"""Miniatures of published datasets, drawn with fixed values so that every image differs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def _draw(path: Path) -> Path:
    seed = int(hashlib.sha256(path.name.encode()).hexdigest()[:8], 16)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (6, 5), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def draw() -> Callable[[Path], Path]:
    """Write a small grey image (format by suffix) whose pixels follow from its name."""
    return _draw


@pytest.fixture
def class_folders(tmp_path: Path) -> Path:
    """SOURCE with classes ``cat`` (12 images) and ``dog`` (8): ten subjects with two images each, P0 to P9."""
    source = tmp_path / "pets"
    for index in range(20):
        name = "cat" if index < 12 else "dog"
        _draw(source / name / f"P{index // 2}_{index}.png")
    return source


@pytest.fixture
def snapshot() -> Callable[[Path], dict[str, tuple[int, str]]]:
    """Modification time and digest of every file below a folder (of links themselves, not of their targets)."""

    def take(folder: Path) -> dict[str, tuple[int, str]]:
        return {
            path.relative_to(folder).as_posix(): (
                path.lstat().st_mtime_ns,
                str(path.readlink()) if path.is_symlink() else hashlib.sha256(path.read_bytes()).hexdigest(),
            )
            for path in sorted(folder.rglob("*"))
            if path.is_symlink() or path.is_file()
        }

    return take
