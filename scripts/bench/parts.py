"""Bundles made of a bundle's parts, to be swapped against each other: its student, one graph of it, its teacher."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from rankdistill.export.runtime.manifest import CASCADE, MANIFEST, STAGES
from rankdistill.export.runtime.untrusted.bounded_files import hash_file

SUMS = "SHA256SUMS"


def student(bundle: Path, out: Path, variant: str | None = None) -> Path:
    """Write a bundle without its cascade.

    Args:
        bundle: its folder.
        out: to be made.
        variant: the graph that every processor is to run: another model, with another key. None to leave that.
    """
    shutil.copytree(bundle, out, ignore=shutil.ignore_patterns(STAGES, CASCADE, SUMS))
    path = out / MANIFEST
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    content.pop("cascade", None)
    content["files"] = {name: told for name, told in content["files"].items() if (out / name).exists()}
    if variant is not None:
        content["variants"].sort(key=lambda each: each["name"] != variant)
        content["key"] = content["key"][::-1]
    path.write_text(json.dumps(content), encoding="utf-8")
    return _summed(out)


def teacher(bundle: Path, out: Path) -> Path:
    """Write a bundle of a cascade's last stage alone."""
    shutil.copytree(bundle / STAGES / "teacher", out)
    return _summed(out)


def ordered(bundle: Path, out: Path) -> Path:
    """Write a bundle whose levels have, as retention, the share that they keep of the last stage's first items.

    That falls with every cheaper level. Where a cheap level has happened to measure better than the dearest one, a
    governor has nothing to move along: it stays with the cheap one.
    """
    shutil.copytree(bundle, out)
    path = out / CASCADE
    content = json.loads(path.read_text(encoding="utf-8"))
    for level in content["levels"]:
        level["retention"] = 1 - level["lost"]["measured"]
    path.write_text(json.dumps(content), encoding="utf-8")
    manifest = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
    manifest["files"][CASCADE] = {"sha256": hash_file(path), "bytes": path.stat().st_size}
    (out / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    return _summed(out)


def _summed(folder: Path) -> Path:
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    lines = [f"{hash_file(folder / name)}  {name}\n" for name in names if name != SUMS]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")
    return folder
