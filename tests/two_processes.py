"""Two real processes in one gloo group, kept for a whole module of tests: starting them takes seconds."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

WORLD = 2


def _serve(rank: int, store: str, connection: Connection) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(WORLD), OMP_NUM_THREADS="1")
    import ignite.distributed as idist
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=WORLD)
    idist.sync()
    while (task := connection.recv()) is not None:
        function, arguments = task
        try:
            connection.send((function(*arguments), None))
        except BaseException:
            connection.send((None, traceback.format_exc()))
    dist.destroy_process_group()


class Pair:
    """Calls a module-level function in both processes at once; the function finds out by itself which it is in."""

    def __init__(self, folder: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self.connections: list[Connection] = []
        self.processes = []
        for rank in range(WORLD):
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(rank, str(folder / "store"), there), daemon=True)
            process.start()
            there.close()
            self.connections.append(here)
            self.processes.append(process)

    def __call__(self, function: Callable[..., Any], *arguments: Any, timeout: float = 240) -> list[Any]:
        """The two results, in the order of the ranks; the error of either is an error here."""
        for connection in self.connections:
            connection.send((function, arguments))
        results = []
        for rank, connection in enumerate(self.connections):
            if not connection.poll(timeout):
                self.close()
                raise TimeoutError(f"process {rank} gave no answer to {function.__name__} within {timeout} s")
            value, error = connection.recv()
            if error is not None:
                raise AssertionError(f"in process {rank}:\n{error}")
            results.append(value)
        return results

    def close(self) -> None:
        """End both."""
        for connection in self.connections:
            try:
                connection.send(None)
            except OSError:
                continue
        for process in self.processes:
            process.join(1)
            if process.is_alive():
                process.kill()
