"""What machine a figure was measured on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from export.runtime.threads import available_cores

TOLD_FLAGS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimddp", "i8mm")


def describe_host() -> dict[str, Any]:
    """Return processor, usable cores, memory, system and the instruction sets that matter here."""
    return {
        "processor": _cpuinfo("model name") or platform.processor() or platform.machine(),
        "cores": available_cores(),
        "memory_gb": _memory_gb(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "flags": cpu_flags(),
    }


def cpu_flags() -> list[str]:
    """Return which of `TOLD_FLAGS` the processor has."""
    flags = set((_cpuinfo("flags") or _cpuinfo("Features") or "").split())
    return [flag for flag in TOLD_FLAGS if flag in flags]


def has_bf16() -> bool:
    """Return whether the processor multiplies bfloat16 itself; emulated, it is slower than fp32."""
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(cpu_flags())


def versions(libraries: Sequence[str]) -> dict[str, str]:
    """Return the versions of those libraries that are installed."""
    found = {}
    for name in libraries:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _cpuinfo(field: str) -> str | None:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return None
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == field:
            return value.strip()
    return None


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError, AttributeError):
        return None
