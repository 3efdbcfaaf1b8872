"""Stages as processes that can be stopped: first asked to save and end, then killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

#: seconds between asking a process to end and killing it
GRACE_SECONDS = 60.0
#: exit codes of a process that SIGTERM has ended: after saving its state, or without
_STOPPED = (128 + signal.SIGTERM, -signal.SIGTERM)
_POLL_SECONDS = 0.1


class Stop:
    """When to end: at a deadline, or as soon as somebody asks.

    Args:
        max_minutes: minutes from now on; ``None`` for no limit.
        grace: seconds a process that was asked to end may take.
    """

    def __init__(self, max_minutes: float | None = None, grace: float = GRACE_SECONDS) -> None:
        self.deadline = None if max_minutes is None else time.monotonic() + 60 * max_minutes
        self.grace = grace
        self._asked = threading.Event()

    def request(self) -> None:
        """Ask to end now; a second request leaves running processes no further time."""
        if self._asked.is_set():
            self.grace = 0.0
        self._asked.set()

    @property
    def requested(self) -> bool:
        """Whether somebody has asked."""
        return self._asked.is_set()

    @property
    def reached(self) -> bool:
        """Whether to end: asked for, or the deadline has passed."""
        return self.requested or (self.deadline is not None and time.monotonic() >= self.deadline)


def run_process(command: Sequence[str], log: Path, threads: int = 1, stop: Stop | None = None) -> int | None:
    """Run a command with its output appended to ``log``.

    The process leads a session of its own, so that an interrupt at the terminal reaches it through ``stop`` only. When
    ``stop`` is reached it gets SIGTERM (a training stage saves its checkpoint and exits with 143) and, after the grace
    time, it and its workers get SIGKILL.

    Args:
        command: the command line.
        log: file its output is appended to.
        threads: threads of computation.
        stop: when to end it.

    Returns:
        Its exit code; ``None`` where it was stopped, by us or by somebody else's SIGTERM.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    with log.open("a", encoding="utf-8") as stream:
        process = subprocess.Popen(
            command, stdout=stream, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment,
            start_new_session=True,
        )  # fmt: skip
        try:
            code = _wait(process, stop or Stop())
        finally:
            if process.poll() is None:
                _kill(process)
    return None if code in _STOPPED or code is None else code


def _wait(process: subprocess.Popen[bytes], stop: Stop) -> int | None:
    """Exit code; ``None`` where it had to be killed."""
    asked_at: float | None = None
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(_POLL_SECONDS)
        if asked_at is None and stop.reached:
            asked_at = time.monotonic()
            process.terminate()
        elif asked_at is not None and time.monotonic() - asked_at >= stop.grace:
            _kill(process)
            return None


def _kill(process: subprocess.Popen[bytes]) -> None:
    # the whole group: its data loader's workers too
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
