"""The processes of a torchrun: which one this is, and the few words they exchange around a stage.

Outside torchrun there is one process and nothing here imports torch.
"""

from __future__ import annotations

import os
from datetime import timedelta

LONGEST_STAGE = timedelta(days=7)  # other ranks wait for the first one's single-process stages


def count() -> int:
    """Return how many processes torchrun started (1 without it)."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Return whether this process is the one that locks, writes and reports."""
    return int(os.environ.get("RANK", "0")) == 0


def join() -> None:
    """Join the process group that torchrun describes; nothing to do without torchrun or when joined."""
    if count() == 1:
        return
    import torch
    from torch import distributed

    if not distributed.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        distributed.init_process_group(backend, timeout=LONGEST_STAGE)


def agree(answer: bool) -> bool:
    """Return the first process's answer in every process."""
    if count() == 1:
        return answer
    from torch import distributed

    join()
    box = [answer]
    distributed.broadcast_object_list(box, src=0)
    return box[0]


def wait() -> None:
    """Wait until every process is here."""
    if count() == 1:
        return
    import torch
    from torch import distributed

    join()
    distributed.all_reduce(torch.zeros(1))  # on the CPU: a barrier that needs no GPU


def part() -> None:
    """End the group once training is done: from here on the first process works alone."""
    if count() == 1:
        return
    from torch import distributed

    wait()
    distributed.destroy_process_group()
    os.environ["WORLD_SIZE"] = "1"  # for this process and those it starts
