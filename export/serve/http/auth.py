"""Who may ask: bearer tokens."""

from __future__ import annotations

import hmac
from collections.abc import Sequence

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from rankdistill.export.serve.http.methods import local_path
from rankdistill.export.serve.http.refusal import UNAUTHORIZED

OPEN = frozenset({"/health", "/ready"})  # probes carry no token
SCHEME = b"bearer "
ADMIN = "/admin"


class BearerTokens:
    """ASGI middleware that lets only requests with one of the tokens through.

    Args:
        app: what is behind it.
        tokens: any of which opens; none opens to everybody.
        admin_tokens: any of which opens /admin, which nothing else does.
    """

    def __init__(self, app: ASGIApp, tokens: Sequence[str], admin_tokens: Sequence[str] = ()) -> None:
        self._app = app
        self._tokens = [token.encode() for token in tokens]
        self._admin = [token.encode() for token in admin_tokens]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102 - ASGI
        if scope["type"] != "http" or self._opens(scope):
            await self._app(scope, receive, send)
            return
        message = "a valid bearer token is needed: Authorization: Bearer TOKEN"
        body = {"error": message, "error_type": UNAUTHORIZED, "message": message, "detail": message}
        response = JSONResponse(body, 401, {"www-authenticate": "Bearer", "connection": "close"})
        await response(scope, receive, send)

    def _opens(self, scope: Scope) -> bool:
        path = local_path(scope)
        admin = path == ADMIN or path.startswith(f"{ADMIN}/")
        if path in OPEN or not (admin or self._tokens):
            return True
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        if given[: len(SCHEME)].lower() != SCHEME:
            return False
        token = given[len(SCHEME) :].strip()
        # all are compared, so that the time tells nothing of which one came near
        return sum(hmac.compare_digest(token, each) for each in (self._admin if admin else self._tokens)) > 0
