"""text-embeddings-inference's POST /embed and /v1/embeddings (OpenAI's shape): `EmbedRequest`, `OpenAICompatRequest`.

Of its router's types.rs, 1.7. Texts alone are taken, no token ids; there are no prompts.
"""

from __future__ import annotations

import base64
from typing import Annotated, Any, Literal

import numpy as np
from msgspec import Meta, Struct

from rankdistill.export.runtime.scorer import Float32
from rankdistill.export.serve.http.api import About, Api
from rankdistill.export.serve.http.refusal import Refused
from rankdistill.export.serve.http.tei import refuse

Texts = Annotated[list[str], Meta(min_length=1)]
Dimensions = Annotated[int, Meta(ge=1, description="the first of a vector that are kept")]
EXAMPLE = ["LED lamp, warm light", "garden chair"]


class EmbedRequest(Struct):
    """Texts to be embedded."""

    inputs: Annotated[str | Texts, Meta(description="a text, or texts")]
    normalize: Annotated[bool, Meta(description="whether vectors have length 1")] = True
    truncate: Annotated[
        bool | None, Meta(description="false: refuse what is longer than the model reads; else it is cut")
    ] = None
    truncation_direction: Annotated[Literal["Right", "right"], Meta(description="the end is cut off")] = "Right"
    dimensions: Dimensions | None = None

    def texts(self) -> list[str]:
        """Return what is embedded."""
        return [self.inputs] if isinstance(self.inputs, str) else self.inputs

    def uncut(self) -> bool:
        """Return whether it is to be refused rather than cut."""
        return self.truncate is False


class EmbeddingsRequest(Struct):
    """Texts to be embedded, as OpenAI's clients ask."""

    input: Annotated[str | Texts, Meta(description="a text, or texts")]
    model: Annotated[str | None, Meta(description="any; the bundle's answers")] = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Dimensions | None = None
    user: str | None = None

    normalize = True

    def texts(self) -> list[str]:
        """Return what is embedded."""
        return [self.input] if isinstance(self.input, str) else self.input

    def uncut(self) -> bool:
        """Return whether it is to be refused rather than cut."""
        return False


class Embedding(Struct):
    """A text's vector."""

    object: str
    embedding: Annotated[list[float] | str, Meta(description="or its float32 in base64")]
    index: int


class Usage(Struct):
    """Tokens that were read."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsResponse(Struct):
    """Vectors, in the order of the texts."""

    object: str
    data: list[Embedding]
    model: str
    usage: Usage


def _answer(_: EmbedRequest, vectors: Float32, __: About) -> list[list[float]]:
    return list(vectors.tolist())


def _answer_openai(body: EmbeddingsRequest, vectors: Float32, served: About) -> EmbeddingsResponse:
    if body.encoding_format == "base64":
        shown: list[Any] = [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in np.asarray(vectors)]
    else:
        shown = vectors.tolist()
    data = [Embedding("embedding", each, index) for index, each in enumerate(shown)]
    return EmbeddingsResponse("list", data, served.name, Usage(served.tokens, served.tokens))


def _refuse_openai(refused: Refused) -> dict[str, Any]:
    return {"message": refused.message, "code": str(refused.status), "type": refused.kind}


EMBED = Api(
    path="/embed",
    summary="Embed texts, as text-embeddings-inference does",
    body=EmbedRequest,
    result=list[list[float]],
    example={"inputs": EXAMPLE, "normalize": True, "dimensions": 64},
    answer=_answer,
    refuse=refuse,
    tag="embedding",
)
EMBEDDINGS = Api(
    path="/v1/embeddings",
    summary="Embed texts, as OpenAI does",
    body=EmbeddingsRequest,
    result=EmbeddingsResponse,
    example={"input": EXAMPLE, "model": "any", "encoding_format": "float"},
    answer=_answer_openai,
    refuse=_refuse_openai,
    counts_tokens=True,
    tag="embedding",
)
EMBED_APIS = (EMBED, EMBEDDINGS)
