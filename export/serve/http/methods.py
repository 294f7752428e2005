"""What HTTP asks of every path: HEAD is answered as GET is, OPTIONS with what a path takes."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

METHODS = ("DELETE", "GET", "PATCH", "POST", "PUT")


class AnyMethod:
    """ASGI middleware that answers HEAD and OPTIONS for every route; no route names them itself.

    Args:
        app: what is behind it.
        routes: its own.
    """

    def __init__(self, app: ASGIApp, routes: Sequence[BaseRoute]) -> None:
        self._app, self._routes = app, routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102 - ASGI
        method = scope.get("method")
        if method == "HEAD":
            await self._app({**scope, "method": "GET"}, receive, _without_body(send))
        elif method == "OPTIONS" and (taken := allowed(self._routes, scope)):
            # no header lets pages of other sites in
            await Response(status_code=204, headers={"allow": taken})(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def allowed(routes: Sequence[BaseRoute], scope: Scope) -> str:
    """Return the methods that a path takes as `Allow` has them; none for a path that there is not.

    Args:
        routes: of the application.
        scope: of a request; its method does not matter. The path "*" asks for the service as a whole.
    """
    if local_path(scope) == "*":
        return "GET, HEAD, OPTIONS, POST"
    taken = {
        method for method in METHODS
        if any(route.matches({**scope, "method": method})[0] == Match.FULL for route in routes)
    }  # fmt: skip
    return ", ".join(sorted(taken | {"OPTIONS"} | ({"HEAD"} if "GET" in taken else set()))) if taken else ""


def local_path(scope: Scope) -> str:
    """Return a request's path from where the application stands: behind Ray's proxies that may be a prefix."""
    path, root = str(scope["path"]), str(scope.get("root_path", "")).rstrip("/")
    return path[len(root) :] if root and path.startswith(f"{root}/") else path


def _without_body(send: Send) -> Send:
    async def send_headers(message: Message) -> None:
        if message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await send(message)

    return send_headers
