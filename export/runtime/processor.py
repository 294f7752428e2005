"""Which instruction sets the processor has: what a graph's integer kernels may rely on."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
TOLD_FLAGS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimddp", "i8mm")
MACHINES = {"amd64": "x86_64", "aarch64": "arm64"}  # other names of the same architecture


def machine(name: str | None = None) -> str:
    """Return an architecture by one name on every system: x86_64, arm64, or what the system calls it.

    Args:
        name: as a system calls it; None for this one's.
    """
    name = (platform.machine() if name is None else name).lower()
    return MACHINES.get(name, name)


def processor_flags(cpuinfo: Path = CPUINFO) -> list[str]:
    """Return which of `TOLD_FLAGS` the processor has; none where the system has no /proc/cpuinfo."""
    flags = set((cpuinfo_field("flags", cpuinfo) or cpuinfo_field("Features", cpuinfo) or "").split())
    return [flag for flag in TOLD_FLAGS if flag in flags]


def cpuinfo_field(name: str, cpuinfo: Path = CPUINFO) -> str | None:
    """Return the first value of a field of /proc/cpuinfo, None without one."""
    try:
        text = cpuinfo.read_text(encoding="utf-8")
    except OSError:
        return None
    for line in text.splitlines():
        found, _, value = line.partition(":")
        if found.strip() == name:
            return value.strip()
    return None


def abilities() -> frozenset[str]:
    """Return everything that a variant can ask of a processor: its architecture and its flags."""
    return frozenset([machine(), *processor_flags()])


def kernels(architecture: str | None = None, flags: Iterable[str] | None = None, onnxruntime: str | None = None) -> str:
    """Name, in 12 hexadecimal digits, the kernels that a graph is run with: others may round a score otherwise.

    Args:
        architecture: as `machine` names it; None for this one's, as for the others.
        flags: of the processor, of `TOLD_FLAGS`.
        onnxruntime: its version.
    """
    version = importlib.metadata.version("onnxruntime") if onnxruntime is None else onnxruntime
    parts = [
        machine() if architecture is None else architecture,
        *sorted(processor_flags() if flags is None else flags),
        version,
    ]
    return blake2b(" ".join(parts).encode(), digest_size=6).hexdigest()


def meets(any_of: Iterable[str], has: Iterable[str]) -> bool:
    """Return whether a processor has at least one of what is asked for; nothing asked is met by all."""
    wanted = set(any_of)
    return not wanted or not wanted.isdisjoint(has)
