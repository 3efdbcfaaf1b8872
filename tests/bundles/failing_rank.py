"""Under torchrun: the second of two processes fails before a step in which the first waits for it."""

from __future__ import annotations

import torch
import torch.distributed as dist

from medssl_monai.core import DataError
from medssl_monai.core.distributed import any_process, join_processes, rank

torch.set_num_threads(1)
join_processes(True, "cpu")
for step in range(3):
    if rank() == 1 and step == 2:
        raise DataError("cannot be prepared", where="case.png")
    any_process(False)
dist.destroy_process_group()
