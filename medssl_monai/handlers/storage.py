"""Files of tensors, whole or not at all; a checkpoint carries a digest of its content, and the one before it stays.

Kept apart from the handlers that decide when to save.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medssl_monai.core import CheckpointError, MedSSLError, OutputError, atomic_path
from medssl_monai.core.files import TEMPORARY

logger = logging.getLogger(__name__)

_DIGEST = "digest"


def save_tensors(content: Any, path: str | Path) -> None:
    """``torch.save`` that leaves a whole file or the one that was there before.

    Raises:
        OutputError: when the file cannot be written (disk full, quota, no permission).
    """
    _save(content, Path(path))


def load_tensors(path: str | Path) -> Any:
    """``torch.load(weights_only=True)`` to the CPU.

    Raises:
        CheckpointError: when the file is missing, truncated or holds more than tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError("checkpoint not found", where=path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a different type for each kind of damage, some without a message
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:200]
        raise CheckpointError(
            f"not a readable checkpoint ({reason})", where=path,
            advice="The file is truncated or of another program. Remove it and run the stage that makes it again.",
        ) from error  # fmt: skip


def content_digest(content: Any) -> str:
    """SHA-256 over tensors (dtype, shape, bytes) and plain values, nested in mappings, lists and tuples; hexadecimal.

    It is of what a file says, not of how it is packed, so that it can lie in the same file.

    Raises:
        TypeError: for a value of another type.
    """
    digest = hashlib.sha256()
    _feed(digest, content)
    return digest.hexdigest()


class CheckpointFile:
    """The newest state of a run, and beside it the one before (``checkpoint.pt``, ``checkpoint.previous.pt``).

    Args:
        path: the newest one's file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.previous = self.path.with_name(f"{self.path.stem}.previous{self.path.suffix}")
        self._whole = False  # the newest is known to be whole, and of this run
        self._resumed = False

    def exists(self) -> bool:
        """Whether there is something to go on from."""
        return self.path.exists() or self.previous.exists()

    def save(self, state: Mapping[str, Any]) -> None:
        """Write a state with its digest; what was the newest becomes the one before.

        A damaged newest one is replaced instead, so that it never takes the place of a whole one; so is that of a run
        that was not resumed, together with the one before it.

        Raises:
            OutputError: when it cannot be written; what was there stays.
        """
        _save({**state, _DIGEST: content_digest(dict(state))}, self.path, self.previous if self._whole else None)
        if not self._whole and not self._resumed:
            self.previous.unlink(missing_ok=True)
        self._whole = True

    def load(self) -> tuple[dict[str, Any], Path]:
        """The newest whole state and the file it comes from; a damaged newest one is reported and left out.

        Raises:
            CheckpointError: when neither file is whole.
            OutputError: when a folder lies where the newest one is to be written.
        """
        if self.path.is_dir():
            raise OutputError("a file is to be written here, but this is a folder", where=self.path)
        problems: list[CheckpointError] = []
        for path in (self.path, self.previous):
            if not path.exists():
                continue
            try:
                state = self._read(path)
            except CheckpointError as error:
                problems.append(error)
                continue
            self._whole, self._resumed = path == self.path, True
            for problem in problems:
                logger.warning("%s The one before it is used instead: %s", problem, path)
            return state, path
        raise problems[0] if problems else CheckpointError("checkpoint not found", where=self.path)

    def clean(self) -> None:
        """Remove what a process that was killed while it wrote has left; only with the folder's lock in hand."""
        for leftover in self.path.parent.glob(f".*{TEMPORARY}"):
            leftover.unlink(missing_ok=True)

    def _read(self, path: Path) -> dict[str, Any]:
        state = load_tensors(path)
        if not isinstance(state, dict) or _DIGEST not in state:
            raise CheckpointError("not a run's checkpoint", where=path)
        if state.pop(_DIGEST) != content_digest(state):
            raise CheckpointError(
                "damaged: its content is not what was written", where=path,
                advice="Remove it; the run goes on from the checkpoint before it, or from the beginning.",
            )  # fmt: skip
        return state


def _save(content: Any, path: Path, previous: Path | None = None) -> None:
    try:
        with atomic_path(path) as temporary:
            torch.save(content, temporary)
            if previous is not None and path.exists():
                path.replace(previous)
    except MedSSLError:
        raise
    except RuntimeError as error:
        # torch's writer says only "file write failed"; what a full disk looks like is seen here
        free = shutil.disk_usage(path.parent).free
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:200]
        raise OutputError(
            f"cannot be written, {free / 2**20:.0f} MiB are free there ({reason})", where=path,
            advice="Free some space. What was written before is whole, and resume=True goes on from it.",
        ) from error  # fmt: skip


def _feed(digest: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        plain = value.detach().cpu().contiguous()
        digest.update(f"t{plain.dtype}{tuple(plain.shape)}".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    elif isinstance(value, Mapping):
        digest.update(f"m{len(value)}".encode())
        for key, entry in value.items():
            _feed(digest, key)
            _feed(digest, entry)
    elif isinstance(value, (list, tuple)):
        digest.update(f"l{len(value)}".encode())
        for entry in value:
            _feed(digest, entry)
    elif value is None or isinstance(value, (bool, str)):
        digest.update(_text(repr(value)))
    elif isinstance(value, int):
        digest.update(_text(f"int {int(value)!r}"))
    elif isinstance(value, float):
        digest.update(_text(f"float {float(value)!r}"))  # a subclass (NumPy's float64) prints otherwise
    else:
        raise TypeError(f"a checkpoint holds tensors and plain values, not {type(value).__name__}")


def _text(text: str) -> bytes:
    return f"v{len(text)}:{text}".encode()
