"""Verifying a bundle beside a service, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from rankdistill.export.errors import BundleError
from rankdistill.export.runtime.manifest import Manifest

LONGEST_S = 600.0
TICK_S = 0.05
# of a process that gives way to the service
VERIFY = "import os; os.nice(10); from rankdistill.export.commands.main import main; main()"


def check(folder: Path, key: Path | None, stop: threading.Event) -> str:
    """Verify a bundle in a process of its own, which a broken graph may take down.

    Args:
        folder: of the bundle.
        key: file of the public key that must have signed it; None to ask for no signature.
        stop: ends it early.

    Returns:
        The digest of the manifest that was there before: whoever loads another one has a bundle that was not checked.

    Raises:
        BundleError: naming the first thing that is wrong.
    """
    digest = Manifest.read(folder).digest
    command = [sys.executable, "-c", VERIFY, "verify", str(folder), "--quiet", *(["--key", str(key)] if key else [])]
    end = time.monotonic() + LONGEST_S
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
        while process.poll() is None:
            if stop.wait(TICK_S) or time.monotonic() > end:
                process.kill()
                process.wait()
                raise BundleError(f"{folder} was not verified: the service ends, or it took {LONGEST_S:.0f} s")
        output.seek(0)
        told = output.read().strip().splitlines()
    if process.returncode:
        ended = f"verifying {folder} ended with {process.returncode}"
        raise BundleError(told[0].removeprefix("ranker: ") if told else ended)
    return digest
