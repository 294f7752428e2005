"""What all workers of a service are told to do: a folder that each of them looks at."""

from __future__ import annotations

import json
import time
import uuid
from pathlib import Path

from rankdistill.export.errors import UserError
from rankdistill.export.files import write_atomic
from rankdistill.export.runtime.manifest import MANIFEST, Manifest
from rankdistill.export.runtime.untrusted.bounded_files import hash_file

ROLL_BACK, OFFER = "roll_back", "offer"
CURRENT = "current"


class Commands:
    """Reads, in the order they were given, the commands that came after it was made.

    Args:
        folder: that all workers share; made by who starts them.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen = {path.name for path in folder.glob("*.command")}

    def next(self) -> list[tuple[str, str]]:
        """Return the new commands: what to do, and with which bundle (empty if with none)."""
        names = sorted(path.name for path in self._folder.glob("*.command") if path.name not in self._seen)
        self._seen.update(names)
        rows = [json.loads((self._folder / name).read_text(encoding="utf-8")) for name in names]
        return [(row["what"], row["bundle"]) for row in rows]

    def keep_current(self, manifest: Manifest) -> None:
        """Say which bundle answers, for a worker that is begun later: the one that was read, whatever stands there."""
        told = {"bundle": str(manifest.folder.resolve()), MANIFEST: manifest.digest}
        write_atomic(self._folder / CURRENT, json.dumps(told))


def current(folder: Path) -> Path | None:
    """Return the bundle that was said to answer, where its link led to then; None if nothing was said.

    Raises:
        UserError: if another bundle stands there now, which nobody has looked at.
    """
    path = folder / CURRENT
    if not path.exists():
        return None
    told = json.loads(path.read_text(encoding="utf-8"))
    bundle = Path(told["bundle"])
    try:
        same = hash_file(bundle / MANIFEST) == told[MANIFEST]
    except OSError as error:
        raise UserError(
            f"{bundle}, the bundle that answers, is gone ({error.strerror}); start the service anew"
        ) from error
    if not same:
        raise UserError(f"{bundle}, the bundle that answers, was replaced by another; offer that one, or start anew")
    return bundle


def give(folder: Path, what: str, bundle: str = "") -> None:
    """Give a command to all who read a folder.

    Args:
        folder: that they share.
        what: ROLL_BACK or OFFER.
        bundle: folder of the bundle that is offered.
    """
    name = f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.command"
    write_atomic(folder / name, json.dumps({"what": what, "bundle": bundle}))
