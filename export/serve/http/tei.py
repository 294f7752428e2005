"""text-embeddings-inference's POST /rerank: its router's `RerankRequest`, `Rank`, `ErrorResponse` (types.rs, 1.7)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from rankdistill.export.runtime.scorer import Float32
from rankdistill.export.serve.http.api import About, Api, Score, best_first, sigmoid
from rankdistill.export.serve.http.refusal import Refused


class RerankRequest(Struct):
    """A query and texts."""

    query: Annotated[str, Meta(description="text of the query")]
    texts: Annotated[list[str], Meta(min_length=1, description="texts to rank")]
    raw_scores: Annotated[bool, Meta(description="logits instead of their sigmoid")] = False
    return_text: bool = False
    truncate: Annotated[
        bool | None, Meta(description="false: refuse what is longer than the model reads; else it is cut")
    ] = None
    truncation_direction: Annotated[Literal["Right", "right"], Meta(description="the end is cut off")] = "Right"

    def items(self) -> list[str]:
        """See `api.Body`."""
        return self.texts

    def uncut(self) -> bool:
        """See `api.Body`."""
        return self.truncate is False


class Rank(Struct, omit_defaults=True):
    """A text's place."""

    index: Annotated[int, Meta(ge=0, description="in the request")]
    score: Score
    text: str | None = None


class ErrorResponse(Struct):
    """What went wrong."""

    error: str
    error_type: str


def _answer(body: RerankRequest, scores: Float32, _: About) -> list[Rank]:
    order = best_first(scores)
    shown = scores.tolist() if body.raw_scores else sigmoid(scores)
    if body.return_text:
        return [Rank(index, shown[index], body.texts[index]) for index in order]
    return [Rank(index, shown[index]) for index in order]


def refuse(refused: Refused) -> dict[str, Any]:
    """Return the body of a refusal."""
    return {"error": refused.message, "error_type": refused.kind}


RERANK = Api(
    path="/rerank",
    summary="Rank texts, as text-embeddings-inference does",
    body=RerankRequest,
    result=list[Rank],
    example={"query": "desk lamp", "texts": ["garden chair", "LED lamp, warm light"], "raw_scores": False},
    answer=_answer,
    refuse=refuse,
)
