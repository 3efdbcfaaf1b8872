"""Arithmetic that repeats bit for bit, on request."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from medssl_monai.core.errors import ConfigError

_CUBLAS = "CUBLAS_WORKSPACE_CONFIG"
#: sizes of cuBLAS's workspace with which its sums have a fixed order
_CUBLAS_FIXED = (":4096:8", ":16:8")


@dataclass(frozen=True)
class _Flags:
    """torch's switches, as a process has them."""

    algorithms: bool
    warn_only: bool
    cudnn_deterministic: bool
    cudnn_benchmark: bool

    @classmethod
    def read(cls) -> _Flags:
        return cls(
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            torch.backends.cudnn.deterministic,
            torch.backends.cudnn.benchmark,
        )

    def write(self) -> None:
        torch.use_deterministic_algorithms(self.algorithms, warn_only=self.warn_only)
        torch.backends.cudnn.deterministic = self.cudnn_deterministic
        torch.backends.cudnn.benchmark = self.cudnn_benchmark


_before: _Flags | None = None


def set_deterministic(enabled: bool) -> None:
    """Choose algorithms whose results repeat bit for bit; ``False`` undoes an earlier ``True`` of this function.

    It stands first in ``initialize`` of every stage, because cuBLAS reads its setting when the GPU is first used. An
    operation that has no deterministic algorithm stops the run with torch's message, which names it: a warning would
    leave a promise that is not kept. MONAI's ``set_determinism`` is not used: it reseeds the global generators, of
    which no draw of ours depends, and does not set cuBLAS.

    Args:
        enabled: the bundle's key ``deterministic``. With ``False`` the process stays as its owner has set it.

    Raises:
        ConfigError: when ``CUBLAS_WORKSPACE_CONFIG`` is set to a value with which cuBLAS does not repeat.
    """
    global _before
    if enabled:
        workspace = os.environ.setdefault(_CUBLAS, _CUBLAS_FIXED[0])
        if workspace not in _CUBLAS_FIXED:
            raise ConfigError(
                "cuBLAS does not repeat its results with this setting", where=f"environment variable {_CUBLAS}",
                found=workspace, expected=" or ".join(_CUBLAS_FIXED), advice="Unset it, or set deterministic=false.",
            )  # fmt: skip
        _before = _before or _Flags.read()
        _Flags(algorithms=True, warn_only=False, cudnn_deterministic=True, cudnn_benchmark=False).write()
    elif _before is not None:
        _before.write()
        _before = None
