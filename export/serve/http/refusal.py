"""Why a request got no scores."""

from __future__ import annotations

VALIDATION, OVERLOADED, BACKEND, UNHEALTHY = "validation", "overloaded", "backend", "unhealthy"  # TEI's own words
UNAUTHORIZED, TIMEOUT, GONE = "unauthorized", "timeout", "gone"


class Refused(Exception):  # noqa: N818 - an answer, no fault
    """A request that is answered with an error.

    Attributes:
        status: of HTTP.
        kind: text-embeddings-inference's `error_type`, or one of ours in its manner.
        message: one line for the client.
        headers: of the answer.
    """

    def __init__(self, status: int, kind: str, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.kind, self.message, self.headers = status, kind, message, headers or {}
