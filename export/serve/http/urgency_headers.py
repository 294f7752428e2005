"""The headers that say how pressing a request is."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import NamedTuple

from rankdistill.export.serve.http.refusal import VALIDATION, Refused
from rankdistill.export.serve.service import PRIORITIES

PRIORITY, USER, DEADLINE = "x-priority", "x-user", "x-deadline-ms"
LONGEST_USER = 256  # characters
LONGEST_DEADLINE_MS = 86_400_000
MILLISECONDS = re.compile(r"[0-9]{1,8}")


class Urgency(NamedTuple):
    """How pressing a request is, as its headers say; the parts of `service.RankRequest`."""

    priority: int
    user: str | None
    deadline: float | None


def read_urgency(headers: Mapping[str, str], deadline_ms: int | None) -> Urgency:
    """Read X-Priority (high, normal, low), X-User and X-Deadline-Ms (from now).

    Args:
        headers: of the request.
        deadline_ms: where it names none; None for no deadline.

    Raises:
        Refused: 400 if a header says something else.
    """
    named = headers.get(PRIORITY, "normal").lower()
    if named not in PRIORITIES:
        raise Refused(400, VALIDATION, f"X-Priority: one of {', '.join(PRIORITIES)}")
    user = headers.get(USER)
    if user is not None and len(user) > LONGEST_USER:
        raise Refused(400, VALIDATION, f"X-User: at most {LONGEST_USER} characters")
    given = headers.get(DEADLINE)
    if given is not None:
        if not MILLISECONDS.fullmatch(given) or not 0 < int(given) <= LONGEST_DEADLINE_MS:
            raise Refused(400, VALIDATION, f"X-Deadline-Ms: milliseconds, 1 to {LONGEST_DEADLINE_MS}")
        deadline_ms = int(given)
    deadline = None if deadline_ms is None else time.monotonic() + deadline_ms / 1000
    return Urgency(PRIORITIES[named], user, deadline)
