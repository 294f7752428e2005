"""What a reader of events remembers: the ids of those it has read, and the time of the newest."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections import OrderedDict
from pathlib import Path

from rankdistill.export.errors import UserError
from rankdistill.export.files import write_atomic

DIGEST = 16  # bytes of BLAKE2b: ids that collide are not to be found


class SeenEvents:
    """The ids of the events that came last, in bounded memory; an event sent again after more than these is new.

    Args:
        capacity: ids that are remembered; the oldest goes first.

    Attributes:
        newest: greatest time of an event, unix seconds; -inf before the first.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.newest = -math.inf
        self._digests: OrderedDict[bytes, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._digests)

    def add(self, event_id: str) -> bool:
        """Remember an id; returns whether it is new."""
        digest = hashlib.blake2b(event_id.encode(), digest_size=DIGEST).digest()
        if digest in self._digests:
            return False
        self._digests[digest] = None
        if len(self._digests) > self.capacity:
            self._digests.popitem(last=False)
        return True

    def copy(self, capacity: int) -> SeenEvents:
        """Return another memory of the same, of which at most `capacity` ids."""
        other = SeenEvents(capacity)
        other.newest = self.newest
        kept = list(self._digests)[max(0, len(self) - capacity) :]
        other._digests = OrderedDict.fromkeys(kept)
        return other

    def save(self, path: Path) -> None:
        """Write it to a file, 22 bytes an id."""
        newest = self.newest if math.isfinite(self.newest) else None
        ids = base64.b64encode(b"".join(self._digests)).decode()
        write_atomic(path, json.dumps({"capacity": self.capacity, "newest": newest, "ids": ids}) + "\n")

    @classmethod
    def load(cls, path: Path) -> SeenEvents:
        """Read what `save` wrote.

        Raises:
            UserError: if the file is missing or broken.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            ids = base64.b64decode(values["ids"], validate=True)
            seen = cls(int(values["capacity"]))
            seen.newest = -math.inf if values["newest"] is None else float(values["newest"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: no memory of events seen ({error})") from error
        if len(ids) % DIGEST:
            raise UserError(f"{path}: no memory of events seen ({len(ids)} bytes of ids)")
        seen._digests = OrderedDict.fromkeys(ids[at : at + DIGEST] for at in range(0, len(ids), DIGEST))
        return seen
