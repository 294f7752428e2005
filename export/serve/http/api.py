"""What every API of the service has: how a body is read, answered and refused."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple, Protocol, TypeVar

import msgspec
import numpy as np
from msgspec import Meta
from starlette.requests import Request
from starlette.types import Message

from rankdistill.export.runtime.scorer import Float32
from rankdistill.export.serve.http.refusal import BACKEND, GONE, VALIDATION, Refused

Score = Annotated[float, Meta(description="higher is better")]
CLOSE = {"connection": "close"}  # what is left of the body is not waited for


class Body(Protocol):
    """A decoded request."""

    @property
    def query(self) -> str:
        """Text of the query."""

    def items(self) -> list[str]:
        """Texts of the items."""

    def uncut(self) -> bool:
        """Whether it is to be refused rather than cut where it is longer than the model reads."""


class About(NamedTuple):
    """What an answer says of the model that gave it.

    Attributes:
        name: of the bundle.
        tokens: of the request's pairs, special ones included, as the model reads them; 0 if not counted.
    """

    name: str
    tokens: int


Decoded = TypeVar("Decoded")


@dataclass(frozen=True)
class Api:
    """One way to ask for a ranking, or for vectors.

    Attributes:
        path: of the POST.
        summary: a line for the documentation.
        body: msgspec type of a request.
        result: msgspec type of an answer.
        example: of a request.
        answer: makes an answer of the request, its raw logits (float32 [items]), and what served it.
        refuse: makes the body of a refusal.
        counts_tokens: whether an answer tells how many tokens were read.
        tag: what is asked for: "ranking" or "embedding".
    """

    path: str
    summary: str
    body: Any
    result: Any
    example: dict[str, Any]
    answer: Callable[[Any, Float32, About], Any]
    refuse: Callable[[Refused], dict[str, Any]]
    counts_tokens: bool = False
    tag: str = "ranking"


async def read_body(request: Request, most: int) -> bytes:
    """Read a request's JSON text, but no more of it than is allowed.

    Raises:
        Refused: 413 if it is longer than `most` bytes, 415 if it is said to be something else, or two things, or its
            client has gone.
    """
    kinds = {kind.partition(";")[0].strip().lower() for kind in request.headers.getlist("content-type")}
    if kinds != {"application/json"}:  # a page of another site could send other types without asking the browser
        raise Refused(415, VALIDATION, "the body must be JSON: content-type: application/json", CLOSE)
    too_long = Refused(413, VALIDATION, f"the body is longer than {most} bytes", CLOSE)
    if int(request.headers.get("content-length", "0")) > most:
        raise too_long
    message = await _part(request)
    body: bytes = message.get("body", b"")
    if message.get("more_body"):
        parts, size = [body], len(body)
        while message.get("more_body") and size <= most:
            message = await _part(request)
            parts.append(message.get("body", b""))
            size += len(parts[-1])
        body = b"".join(parts)
    if len(body) > most:
        raise too_long
    return body


async def _part(request: Request) -> Message:
    message = await request.receive()
    if message["type"] == "http.disconnect":
        raise Refused(499, GONE, "the client closed the connection")
    return message


def decode(decoder: msgspec.json.Decoder[Decoded], body: bytes) -> Decoded:
    """Decode and check a request.

    Raises:
        Refused: 400 if it is no JSON, 422 if it lacks something or something is of the wrong type.
    """
    try:
        return decoder.decode(body.removeprefix(codecs.BOM_UTF8))  # which some systems' shells put before UTF-8
    except msgspec.ValidationError as error:
        raise Refused(422, VALIDATION, str(error)) from error
    except RecursionError as error:
        raise Refused(400, VALIDATION, "JSON is nested too deep") from error
    except ValueError as error:  # malformed JSON, or no UTF-8
        raise Refused(400, VALIDATION, f"no JSON: {error}") from error


def check_size(query: str, items: Sequence[str], most_texts: int, most_characters: int) -> None:
    """Refuse a request that asks for too much.

    Raises:
        Refused: 413.
    """
    if len(items) > most_texts:
        raise Refused(413, VALIDATION, f"batch size {len(items)} > maximum allowed batch size {most_texts}")
    longest = max(len(query), *map(len, items))
    if longest > most_characters:
        raise Refused(413, VALIDATION, f"a text of {longest} characters; at most {most_characters} are allowed")


def best_first(scores: Float32, top: int | None = None) -> list[int]:
    """Return the rows of scores, float32 [items], best first; of equal scores the earlier item.

    Raises:
        Refused: 424 if a score is no number, as text-embeddings-inference does.
    """
    if not np.isfinite(scores).all():
        raise Refused(424, BACKEND, "score is NaN or infinite")
    order: list[int] = np.argsort(-scores, kind="stable")[:top].tolist()
    return order


def sigmoid(logits: Float32) -> list[float]:
    """Return 1 / (1 + exp(-logit)) of float32 [items], without overflow."""
    probabilities: list[float] = np.exp(-np.logaddexp(0.0, -logits.astype(np.float64))).tolist()
    return probabilities
