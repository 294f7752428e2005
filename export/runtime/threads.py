"""How many threads this process may really use: its affinity and its cgroup's quota, which onnxruntime ignores."""

from __future__ import annotations

import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def available_cores(cgroup: Path = CGROUP) -> int:
    """Return the whole cores this process may keep busy: affinity, bounded by the cgroup v2 or v1 quota, at least 1.

    Args:
        cgroup: mount point of the cgroup file system.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(cgroup)
    return max(1, min(cores, int(quota)) if quota is not None else cores)


def allotted_cores() -> int:
    """Return the cores that this process is to keep busy: the share that its launcher gave it, else all it may use.

    The share is `OMP_NUM_THREADS`, what PyTorch, OpenMP and torchrun call it; one that is no number >= 1 says nothing.
    """
    cores = available_cores()
    share = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return min(cores, int(share)) if share.isdecimal() and int(share) >= 1 else cores


def _quota(cgroup: Path) -> float | None:
    """Return the CPU quota in cores, None without one."""
    try:
        if (cgroup / "cpu.max").exists():  # version 2: "max 100000" or "200000 100000", in microseconds
            quota, period = (cgroup / "cpu.max").read_text().split()
        else:
            quota = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text().strip()
    except (OSError, ValueError):
        return None
    return None if quota in ("max", "-1") else float(quota) / float(period)
