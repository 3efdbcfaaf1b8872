"""What all tests share: few threads, the folder of real images, a fixed key for case hashes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from two_processes import Pair

os.environ.setdefault("MEDSSL_HASH_KEY", "tests")
torch.set_num_threads(1)

REPOSITORY = Path(__file__).resolve().parents[1]


def real_data_root() -> Path | None:
    """Folder of the real images: ``MEDSSL_TEST_DATA``, then ``../shared/data``; ``None`` where neither exists."""
    named = os.environ.get("MEDSSL_TEST_DATA")
    for candidate in ([Path(named)] if named else []) + [REPOSITORY.parent / "shared" / "data"]:
        if candidate.is_dir():
            return candidate.resolve()
    return None


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real images, or a skip that says how to name one."""
    root = real_data_root()
    if root is None:
        pytest.skip("real images not found: set MEDSSL_TEST_DATA to their folder (nor does ../shared/data exist)")
    return root


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Two processes in one gloo group, started when the first test asks for them."""
    both = Pair(tmp_path_factory.mktemp("pair"))
    yield both
    both.close()
