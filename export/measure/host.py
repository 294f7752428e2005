"""What machine a figure was measured on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rankdistill.export.runtime.processor import CPUINFO, cpuinfo_field, processor_flags
from rankdistill.export.runtime.threads import available_cores


def describe_host() -> dict[str, Any]:
    """Return processor, usable cores, memory, system and the instruction sets that matter here."""
    return {
        "processor": describe_processor(),
        "cores": available_cores(),
        "memory_gb": _memory_gb(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "flags": processor_flags(),
    }


def describe_processor(cpuinfo: Path = CPUINFO) -> str:
    """Return its name, and its generation where the system tells: virtual machines call several of them alike."""
    name = cpuinfo_field("model name", cpuinfo) or platform.processor() or platform.machine()
    family, model = cpuinfo_field("cpu family", cpuinfo), cpuinfo_field("model", cpuinfo)
    return f"{name} (family {family}, model {model})" if family and model else name


def has_bf16() -> bool:
    """Return whether the processor multiplies bfloat16 itself; emulated, it is slower than fp32."""
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(processor_flags())


def versions(libraries: Sequence[str]) -> dict[str, str]:
    """Return the versions of those libraries that are installed."""
    found = {}
    for name in libraries:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError, AttributeError):
        return None
