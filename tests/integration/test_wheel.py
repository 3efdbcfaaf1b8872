"""The wheel carries everything: package, bundles and overlays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    # a copy of what git tracks, so that no build folder is left in the checkout
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, check=False
    )  # fmt: skip
    if listed.returncode:
        pytest.skip("not a git checkout: the wheel cannot be built from tracked files")
    for name in listed.stdout.decode().split("\0"):
        if name and (REPOSITORY / name).is_file():
            target = source / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((REPOSITORY / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(folder), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked"


def run(unpacked: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # the unpacked wheel comes before the checkout that the environment has installed
    return subprocess.run(
        [sys.executable, "-m", "medssl_monai.apps", *arguments],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(unpacked)}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_every_file_of_the_bundles_is_in_the_wheel(unpacked: Path) -> None:
    for kind in ("bundles", "configs"):
        tracked = subprocess.run(
            ["git", "ls-files", kind], cwd=REPOSITORY, capture_output=True, text=True, check=True
        ).stdout.split()
        assert tracked
        for name in tracked:
            assert (unpacked / "medssl_monai/_share" / name).read_bytes() == (REPOSITORY / name).read_bytes()


def test_bundles_and_overlays_are_found_by_name(unpacked: Path, tmp_path: Path) -> None:
    listed = run(unpacked, tmp_path, "bundle", "list")
    assert listed.returncode == 0, listed.stderr
    name = "srcl_skin_lesion_classification"
    version = json.loads((REPOSITORY / "bundles" / name / "configs/metadata.json").read_text())["version"]
    assert f"{name}  {version}" in listed.stdout
    copied = run(unpacked, tmp_path, "bundle", "copy", name, "mine")
    assert copied.returncode == 0, copied.stderr
    assert (tmp_path / "mine" / name / "configs/train.yaml").is_file()
    dry = run(unpacked, tmp_path, "run", name, "train", "dataset_dir=x", "--overlay", "smoke", "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert "image_size: 32" in dry.stdout
    # a bundle that ships with the package is never written into
    assert f"{tmp_path / 'runs' / name / 'models'}" in dry.stdout
