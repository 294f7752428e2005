"""What is answered where no endpoint answers: no such path, another method, a fault of the service itself."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from rankdistill.export.serve.http.api import Api
from rankdistill.export.serve.http.methods import allowed, local_path
from rankdistill.export.serve.http.refusal import BACKEND, VALIDATION, Refused
from rankdistill.export.serve.http.tei import refuse


def add_refusals(app: FastAPI, apis: Sequence[Api]) -> None:
    """Let an application refuse such requests as the API does that they were meant for.

    Args:
        app: whose answers they are.
        apis: by whose path that is known: the same, else one of the same version; text-embeddings-inference's
            without a version.
    """

    def answer(request: Request, refused: Refused) -> Response:
        path = local_path(request.scope).rstrip("/")
        version = path.lstrip("/").partition("/")[0]
        api = next((api for api in apis if api.path == path), None) or next(
            (api for api in apis if version.startswith("v") and api.path.startswith(f"/{version}/")), None
        )
        body = refuse(refused) if api is None else api.refuse(refused)
        return JSONResponse(body, refused.status, refused.headers)

    async def unrouted(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        path, headers = (
            str(request.scope["path"]),
            dict(error.headers or {}),
        )  # not of the URL, in which Host has a part
        message = HTTPStatus(error.status_code).phrase
        if error.status_code == HTTPStatus.NOT_FOUND:
            meant = path.rstrip("/")
            known = meant != path and allowed(app.routes, {**request.scope, "path": meant})
            message = f"there is no {path:.200}" + (f"; there is {meant}, without a slash at its end" if known else "")
        elif error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            message, headers = f"{request.method} is not for {path}", {"allow": allowed(app.routes, request.scope)}
        return answer(request, Refused(error.status_code, VALIDATION, message, headers))

    async def broken(request: Request, error: Exception) -> Response:  # noqa: ARG001 - uvicorn logs it
        return answer(request, Refused(500, BACKEND, "the service failed"))

    app.add_exception_handler(HTTPException, unrouted)
    app.add_exception_handler(Exception, broken)
