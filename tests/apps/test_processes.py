"""Processes that are asked to end, and killed where they do not."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from medssl_monai.apps.processes import Stop, run_process

#: exits with 143 on SIGTERM, as a training stage does when it has saved its state
SAVES = """
import signal, sys, time
def save(number, frame):
    print('saved', flush=True)
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
print('ready', flush=True)
time.sleep(60)
"""
#: ignores SIGTERM and has a worker of its own
STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
worker = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])
print('worker', worker.pid, flush=True)
time.sleep(60)
"""


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def stop_when_ready(log: Path, stop: Stop, text: str) -> threading.Thread:
    """Ask to stop as soon as the log holds the text."""

    def watch() -> None:
        while not (log.is_file() and text in log.read_text()):
            time.sleep(0.02)
        stop.request()

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def test_output_and_exit_code(tmp_path: Path) -> None:
    code = "import os, sys; print(os.environ['OMP_NUM_THREADS']); print('error', file=sys.stderr); sys.exit(5)"
    assert run_process(python(code), tmp_path / "log", threads=3) == 5
    assert run_process(python("print('again')"), tmp_path / "log") == 0
    assert (tmp_path / "log").read_text().splitlines() == ["3", "error", "again"]


def test_a_process_is_asked_to_save(tmp_path: Path) -> None:
    stop = Stop()
    thread = stop_when_ready(tmp_path / "log", stop, "ready")
    start = time.monotonic()
    assert run_process(python(SAVES), tmp_path / "log", stop=stop) is None
    assert time.monotonic() - start < 20
    assert "saved" in (tmp_path / "log").read_text()
    thread.join()


def test_one_that_does_not_end_is_killed_with_its_workers(tmp_path: Path) -> None:
    stop = Stop(grace=0.5)
    thread = stop_when_ready(tmp_path / "log", stop, "worker")
    assert run_process(python(STUBBORN), tmp_path / "log", stop=stop) is None
    thread.join()
    worker = int((tmp_path / "log").read_text().split()[1])
    for _ in range(100):
        state = Path(f"/proc/{worker}/stat")
        if not state.exists() or state.read_text().split()[2] == "Z":
            break
        time.sleep(0.05)
    else:
        os.kill(worker, signal.SIGKILL)
        pytest.fail("the worker lives on")


def test_the_deadline_stops_too(tmp_path: Path) -> None:
    start = time.monotonic()
    assert run_process(python("import time; time.sleep(60)"), tmp_path / "log", stop=Stop(0.5 / 60)) is None
    assert 0.4 < time.monotonic() - start < 20


def test_one_that_ends_well_in_its_grace_time_is_complete(tmp_path: Path) -> None:
    stop = Stop()
    thread = stop_when_ready(tmp_path / "log", stop, "ready")
    code = SAVES.replace("sys.exit(143)", "sys.exit(0)")
    assert run_process(python(code), tmp_path / "log", stop=stop) == 0
    thread.join()


def test_somebody_else_s_sigterm_is_no_failure(tmp_path: Path) -> None:
    code = "import os, signal; os.kill(os.getpid(), signal.SIGTERM)"
    assert run_process(python(code), tmp_path / "log") is None
    assert run_process(python("import sys; sys.exit(143)"), tmp_path / "log") is None
    assert run_process(python("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"), tmp_path / "log") == -11


def test_a_second_request_leaves_no_time() -> None:
    stop = Stop()
    assert not stop.reached
    stop.request()
    assert stop.reached
    assert stop.grace == 60
    stop.request()
    assert stop.grace == 0
