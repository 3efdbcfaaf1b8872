"""Deterministic algorithms: switched on as a whole, undone, refused where they cannot be had."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from medssl_monai.core import ConfigError, set_deterministic


def flags() -> tuple[bool, bool, bool, bool]:
    return (
        torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def _left_as_found(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = flags()
    yield
    set_deterministic(False)
    assert flags() == before
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)


def test_on_and_off() -> None:
    before = flags()
    set_deterministic(True)
    assert flags() == (True, False, True, False)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    set_deterministic(True)  # the next stage, when this one has failed
    set_deterministic(False)
    assert flags() == before


def test_off_leaves_what_somebody_else_has_chosen() -> None:
    before = flags()
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = True
    try:
        set_deterministic(False)
        assert flags() == (True, True, before[2], True)
        set_deterministic(True)
        assert flags() == (True, False, True, False)
        set_deterministic(False)
        assert flags() == (True, True, before[2], True)
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[3]


def test_an_operation_without_deterministic_algorithm_is_an_error_that_names_it() -> None:
    target, index = torch.zeros(4), torch.tensor([0, 0, 1])
    target.put_(index, torch.ones(3))
    set_deterministic(True)
    with pytest.raises(RuntimeError, match=r"put_.*does not have a deterministic implementation"):
        target.put_(index, torch.ones(3))


def test_settings_of_cublas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    set_deterministic(True)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
    set_deterministic(False)
    before = flags()
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":0:0")
    with pytest.raises(
        ConfigError,
        match=r"^environment variable CUBLAS_WORKSPACE_CONFIG: cuBLAS does not repeat its results with this setting "
        r"\(found :0:0, expected :4096:8 or :16:8\)\. Unset it, or set deterministic=false\.$",
    ):
        set_deterministic(True)
    assert flags() == before
