"""Phantom datasets and the command lines that bundle tests share."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from medssl_monai.core import bundle_dir, overlay_path
from medssl_monai.data.phantoms import make_phantom

RunBundle = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def lesions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of skin-lesion phantoms with all seven classes in every split."""
    folder = tmp_path_factory.mktemp("lesions") / "data"
    make_phantom("skin_lesions", folder, subjects=140, seed=1, size=48, balance=1.0)
    return folder


@pytest.fixture
def run_bundle() -> RunBundle:
    """Run a stage as a user does: ``python -m monai.bundle run`` in the bundle's folder, with the smoke overlay."""

    def run(bundle: str, stage: str, **overrides: object) -> subprocess.CompletedProcess[str]:
        files = [f"configs/{stage}.yaml", str(overlay_path("smoke"))]
        command = [
            sys.executable, "-m", "monai.bundle", "run",
            "--config_file", str(files), "--meta_file", "configs/metadata.json",
            "--logging_file", "configs/logging.conf",
            *(part for key, value in overrides.items() for part in (f"--{key}", str(value))),
        ]  # fmt: skip
        return subprocess.run(
            command, cwd=bundle_dir(bundle), capture_output=True, text=True, check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300,
        )  # fmt: skip

    return run
