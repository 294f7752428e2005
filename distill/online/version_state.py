"""What an update goes on with: it stands beside the bundle, in the version's folder, and is published with it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from rankdistill.data.records import Float32
from rankdistill.errors import StoreError
from rankdistill.export.runtime.event_log import Cursor
from rankdistill.online.events import labelled_lists as lists_
from rankdistill.online.events.labelled_lists import Shown
from rankdistill.online.events.seen_ids import SeenEvents

CURSOR, SEEN, HELD, MEMORY, MOMENTS, TEST = (
    "cursor.json", "seen.json", "held.jsonl.gz", "memory.jsonl.gz", "optimizer.safetensors", "test.npy",
)  # fmt: skip


@dataclass(frozen=True)
class State:
    """What is known when a version is published.

    Attributes:
        cursor: after the last event that was consumed; None before the first.
        seen: ids of those, so that an event that is sent again is not used again.
        held: lists that showed whether the version is better, and that the next update learns from.
        memory: lists that earlier updates learned from, the latest last.
        moments: file of the optimizer's state; None if there is none.
        test: the version's raw logits of the old test set, float32 [pairs]; None where there is no such set.
        first: mean nDCG@10 of the first version on it.
    """

    cursor: Cursor | None
    seen: SeenEvents
    held: Sequence[Shown] = field(default_factory=list)
    memory: Sequence[Shown] = field(default_factory=list)
    moments: Path | None = None
    test: Float32 | None = None
    first: float | None = None

    def save(self, folder: Path) -> None:
        """Write it into a new folder."""
        folder.mkdir()
        cursor = None if self.cursor is None else self.cursor.as_dict()
        content: dict[str, Any] = {"cursor": cursor, "first": self.first}
        (folder / CURSOR).write_text(json.dumps(content) + "\n", encoding="utf-8")
        self.seen.save(folder / SEEN)
        lists_.save(self.held, folder / HELD)
        lists_.save(self.memory, folder / MEMORY)
        if self.moments is not None:
            (folder / MOMENTS).write_bytes(self.moments.read_bytes())
        if self.test is not None:
            np.save(folder / TEST, self.test)

    @classmethod
    def load(cls, folder: Path) -> State:
        """Read what `save` wrote.

        Raises:
            StoreError: if it is broken.
        """
        path = folder / CURSOR
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise StoreError(f"{path} cannot be read ({error}); roll back: distill-update --rollback") from error
        return cls(
            cursor=None if content["cursor"] is None else Cursor.from_dict(content["cursor"]),
            seen=SeenEvents.load(folder / SEEN),
            held=lists_.load(folder / HELD),
            memory=lists_.load(folder / MEMORY),
            moments=folder / MOMENTS if (folder / MOMENTS).is_file() else None,
            test=np.asarray(np.load(folder / TEST), dtype=np.float32) if (folder / TEST).is_file() else None,
            first=content["first"],
        )

    def after(self, cursor: Cursor | None, seen: SeenEvents) -> State:
        """Return the same with other events consumed."""
        return replace(self, cursor=cursor, seen=seen)
