"""Swapping models on command: what an operator sees and may do."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from rankdistill.export.serve.http.api import decode, read_body
from rankdistill.export.serve.http.auth import ADMIN
from rankdistill.export.serve.http.refusal import VALIDATION, Refused
from rankdistill.export.serve.http.tei import refuse
from rankdistill.export.serve.service import Service
from rankdistill.export.serve.worker_commands import OFFER, ROLL_BACK, give

MOST_BYTES = 100_000


class OfferBody(msgspec.Struct, forbid_unknown_fields=True):
    """A bundle that is offered: its folder, on the machine of the service."""

    bundle: str


def add_admin(app: FastAPI, service: Service, commands: Path) -> None:
    """Add the routes of an operator to an application.

    Args:
        app: gets them.
        service: whose models are told of.
        commands: folder in which all workers find what they are told.
    """
    decoder = msgspec.json.Decoder(OfferBody)

    @app.get(f"{ADMIN}/models", summary="Models of the worker that answers, and what was offered", tags=["admin"])
    async def models() -> dict[str, Any]:
        slot, reload = service.slot, service.reload
        return {
            "current": slot.current.name,
            "previous": None if slot.previous is None else slot.previous.name,
            "on_trial": reload.on_trial,
            "rollbacks": reload.rollbacks,
            "offers": [asdict(offer) for offer in reload.offers],
        }

    @app.post(f"{ADMIN}/rollback", summary="Let the model before the last one answer again", tags=["admin"])
    async def rollback() -> Response:
        if service.slot.previous is None:
            return _refused(Refused(409, VALIDATION, "there is no model to go back to"))
        give(commands, ROLL_BACK)
        return JSONResponse({"told": "all workers"}, 202)

    @app.post(
        f"{ADMIN}/offer", summary="Offer a bundle: it is checked, tried and let in", tags=["admin"],
        openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": {
            "type": "object", "properties": {"bundle": {"type": "string"}}, "required": ["bundle"],
            "additionalProperties": False,
        }}}}},
    )  # fmt: skip
    async def offer(request: Request) -> Response:
        try:
            body = decode(decoder, await read_body(request, MOST_BYTES))
            folder = Path(body.bundle)
            if "\0" in body.bundle or not folder.is_absolute():
                raise Refused(422, VALIDATION, "bundle: an absolute path of a folder")
        except Refused as refused:
            return _refused(refused)
        give(commands, OFFER, str(folder))
        return JSONResponse({"told": "all workers"}, 202)


def _refused(refused: Refused) -> Response:
    return JSONResponse(refuse(refused), refused.status)
