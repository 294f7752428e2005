"""What an attacker or an accident does to a bundle, and what `verify` says of it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from rankdistill.export.bundle.finding import Finding
from rankdistill.export.bundle.verification import verify

ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"OMP_WAIT_POLICY": "PASSIVE", "RUST_BACKTRACE": "0", "PYTHONPATH": str(ROOT)}
MOST_MB, MOST_SECONDS = 900, 60  # of a verification, whatever the bundle
BOOKS = ("manifest.json", "SHA256SUMS", "signature.json")


def copy(bundle: Path, folder: Path) -> Path:
    return Path(shutil.copytree(bundle, folder / "copy"))


def files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and not p.is_symlink())


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def edit(path: Path, change: Callable[[dict], object]) -> None:
    """Change a JSON file in place."""
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def seal(folder: Path, change: Callable[[dict], object] = lambda content: None) -> None:
    """Rewrite manifest.json and SHA256SUMS so that they agree with the files, as an attacker can.

    Args:
        folder: of the bundle.
        change: of the manifest, after its files were listed.
    """

    def rewrite(content: dict) -> None:
        content["files"] = {
            name: {"sha256": digest(folder / name), "bytes": (folder / name).stat().st_size}
            for name in files(folder)
            if name not in BOOKS
        }
        change(content)

    edit(folder / "manifest.json", rewrite)
    sum_up(folder)


def sum_up(folder: Path) -> None:
    """Rewrite SHA256SUMS."""
    lines = [f"{digest(folder / name)}  {name}\n" for name in files(folder) if name not in BOOKS[1:]]
    (folder / "SHA256SUMS").write_text("".join(lines), encoding="utf-8")


def wrong(folder: Path, **options: object) -> list[Finding]:
    """Return what `verify` finds wrong; every line is one line."""
    found = [finding for finding in verify(folder, **options) if not finding.ok]
    for finding in found:
        assert f"{finding.what}{finding.detail}".isprintable()
        assert len(finding.detail) < 500
    return found


def names(findings: list[Finding], name: str) -> bool:
    """Return whether a finding names a file."""
    return any(name in f"{finding.what}: {finding.detail}" for finding in findings)


# a child's peak memory begins with its parent's, and pytest's is large: this one's is not
WEIGHED = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[2:])
open(sys.argv[1], "w").write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))
sys.exit(code)
"""


def check(folder: Path, name: str) -> str:
    """Verify as a user does: exit code 1, the file named, one line each, no traceback, bounded time and memory."""
    out, err, peak = (folder.with_name(name) for name in ("stdout", "stderr", "peak"))
    with out.open("wb") as stdout, err.open("wb") as stderr:
        command = [sys.executable, "-c", WEIGHED, str(peak), *_command("verify", "--quiet", folder)]
        process = subprocess.Popen(command, stdout=stdout, stderr=stderr, env=ENVIRONMENT, start_new_session=True)
        limit = threading.Timer(MOST_SECONDS, os.killpg, (process.pid, signal.SIGKILL))
        limit.start()
        code = process.wait()
        limit.cancel()
    told, errors = out.read_text(encoding="utf-8"), err.read_text(encoding="utf-8")
    assert code == 1, told + errors
    assert int(peak.read_text()) < MOST_MB << 10
    assert "Traceback" not in errors
    lines = told.splitlines()
    assert all(line.startswith("WRONG ") and len(line) < 1000 for line in lines)
    assert any(line.startswith(f"WRONG {name}: ") for line in lines), told
    return told


def ranker(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run `ranker` in a process of its own."""
    command = _command(*arguments)
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)


def _command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "rankdistill.export.commands.main", *map(str, arguments)]
