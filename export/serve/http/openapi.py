"""The OpenAPI description, made of the types that requests are decoded with, so that it says what is checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from rankdistill.export.serve.http.api import Api
from rankdistill.export.serve.http.refusal import Refused

REFERENCE = "#/components/schemas/{name}"
STATUSES = {
    400: "The body is no JSON, or a header says something that is not allowed",
    401: "No valid bearer token",
    413: "Too large: the body, the number of texts, or a text",
    415: "The body is not said to be JSON",
    422: "The request lacks something, or something is of the wrong type",
    424: "Scoring failed",
    429: "The queue is full; Retry-After says when to come back",
    503: "The service is going down",
    504: "The deadline passed before the scores were there",
}
ANSWERS = {"ranking": "Best first", "embedding": "A vector a text, in the order of the request"}
DEADLINE = "X-Deadline-Ms"  # of these headers the one that requests for vectors, worked on in their order, heed
HEADERS = (
    ("X-Priority", {"type": "string", "enum": ["high", "normal", "low"]}, "class of the request; normal without it"),
    ("X-User", {"type": "string", "maxLength": 256}, "who asks: active users' requests are worth more"),
    (DEADLINE, {"type": "integer", "minimum": 1, "maximum": 86_400_000}, "after which 504 is the answer"),
)


def operation(api: Api) -> dict[str, Any]:
    """Return what FastAPI cannot know of an API's route."""
    (body, result), _ = _schemas(api)
    refusal = api.refuse(Refused(400, "validation", "what was wrong"))
    error = {
        "type": "object",
        "properties": {name: {"type": "string"} for name in refusal},
        "required": [*refusal],
        "example": refusal,
    }
    responses: dict[str, Any] = {
        "200": {"description": ANSWERS[api.tag], "content": {"application/json": {"schema": result}}}
    }
    for status, meaning in STATUSES.items():
        responses[str(status)] = {"description": meaning, "content": {"application/json": {"schema": error}}}
    return {
        "tags": [api.tag],
        "parameters": [
            {"name": name, "in": "header", "required": False, "schema": schema, "description": meaning}
            for name, schema, meaning in HEADERS
            if api.tag == "ranking" or name == DEADLINE
        ],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": body, "examples": {"items": {"value": api.example}}}},
        },
        "responses": responses,
    }


def describe(app: FastAPI, apis: Sequence[Api], guarded: bool) -> None:
    """Let an application describe these APIs' types.

    Args:
        app: whose description it is.
        apis: whose types are described.
        guarded: whether a bearer token is needed.
    """

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            content = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            components = content.setdefault("components", {})
            schemas = components.setdefault("schemas", {})
            for api in apis:
                schemas |= _schemas(api)[1]
            if guarded:
                components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
                content["security"] = [{"token": []}]
            app.openapi_schema = content
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend it


def _schemas(api: Api) -> tuple[tuple[dict[str, Any], dict[str, Any]], dict[str, Any]]:
    """Return references to the request's and the answer's type, and all types they consist of."""
    (body, result), components = msgspec.json.schema_components([api.body, api.result], ref_template=REFERENCE)
    return (body, result), components
