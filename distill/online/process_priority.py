"""How little of a busy machine a worker takes."""

from __future__ import annotations

import os
from pathlib import Path

AUTOGROUP = Path("/proc/self/autogroup")
LOWEST = 19


def step_back(nice: int, autogroup: Path = AUTOGROUP) -> None:
    """Lower this process's priority by `nice` (`LOWEST` is the lowest), towards processes of other sessions too.

    Linux shares the processor out among sessions first (sched_autogroup, see sched(7)): nice alone counts only against
    processes of the same one, so that a worker in a session of its own would take as much as the service. Where this
    process leads its session, that gets the same priority; one that others lead, such as a terminal's, is left alone.

    Args:
        nice: as of nice(2).
        autogroup: the kernel's file for it; kernels without it share nothing out among sessions.
    """
    if os.nice(nice) >= LOWEST and hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    if os.getsid(0) == os.getpid() and autogroup.exists():
        autogroup.write_text(str(nice), encoding="ascii")
