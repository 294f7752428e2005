"""The rerank APIs of Cohere (v1, v2) and Jina (v1): one request and one answer that clients of each understand.

Sources: Cohere's Python SDK 7 (`rerank`, `V2RerankResponse`, `ApiMeta`), Jina's API page. Where Jina and Cohere v1
differ, documents are returned unless that is declined (Jina); a Cohere client gets a field that it may ignore.
"""

from __future__ import annotations

import math
import uuid
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from rankdistill.export.runtime.scorer import Float32
from rankdistill.export.serve.http.api import About, Api, Score, best_first, sigmoid
from rankdistill.export.serve.http.refusal import Refused

SEARCH_UNIT = 100  # documents that Cohere counts as one search


class Document(Struct):
    """An item with a text."""

    text: str


class RerankV2Request(Struct):
    """A query and documents."""

    query: Annotated[str, Meta(description="text of the query")]
    documents: Annotated[list[str | Document], Meta(min_length=1, description="items to rank")]
    model: Annotated[str | None, Meta(description="any name; the bundle's model serves it")] = None
    top_n: Annotated[Annotated[int, Meta(ge=1)] | None, Meta(description="how many to return; null for all")] = None
    return_documents: bool | None = None
    max_tokens_per_doc: Annotated[
        Annotated[int, Meta(ge=1)] | None, Meta(description="accepted; the model's own length rules")
    ] = None
    priority: Annotated[int | None, Meta(description="accepted; the header X-Priority rules")] = None
    relevant_spans: Annotated[None, Meta(description="not offered")] = None

    def items(self) -> list[str]:
        """See `api.Body`."""
        return [document if isinstance(document, str) else document.text for document in self.documents]

    def uncut(self) -> bool:
        """See `api.Body`."""
        return False


class RerankV1Request(RerankV2Request):
    """As v2, with what Cohere v1 and Jina have besides."""

    rank_fields: Annotated[list[Literal["text"]] | None, Meta(description="documents have a text alone")] = None
    max_chunks_per_doc: Annotated[
        Annotated[int, Meta(ge=1)] | None, Meta(description="accepted; a document is one chunk")
    ] = None


class Result(Struct, omit_defaults=True):
    """A document's place."""

    index: Annotated[int, Meta(ge=0, description="in the request")]
    relevance_score: Score
    document: Document | None = None


class ApiVersion(Struct):
    """Of Cohere."""

    version: str
    is_experimental: bool = False


class BilledUnits(Struct):
    """What Cohere would count; nothing is billed."""

    search_units: int


class ApiMeta(Struct):
    """About the answer."""

    api_version: ApiVersion
    billed_units: BilledUnits


class Usage(Struct):
    """Tokens that were read, as Jina counts them: of all pairs, the query's with each."""

    total_tokens: int
    prompt_tokens: int


class RerankV2Response(Struct, omit_defaults=True):
    """Documents, best first."""

    id: str
    model: str
    results: list[Result]
    meta: ApiMeta


class RerankV1Response(RerankV2Response):
    """As v2, with Jina's count of tokens."""

    usage: Usage


def _results(body: RerankV2Request, scores: Float32, documents: bool) -> list[Result]:
    order, shown = best_first(scores, body.top_n), sigmoid(scores)
    if not documents:
        return [Result(index, shown[index]) for index in order]
    texts = body.items()
    return [Result(index, shown[index], Document(texts[index])) for index in order]


def _meta(body: RerankV2Request, version: str) -> ApiMeta:
    return ApiMeta(ApiVersion(version), BilledUnits(math.ceil(len(body.documents) / SEARCH_UNIT)))


def _answer_v1(body: RerankV1Request, scores: Float32, served: About) -> RerankV1Response:
    results = _results(body, scores, documents=body.return_documents is not False)
    usage = Usage(served.tokens, served.tokens)
    return RerankV1Response(str(uuid.uuid4()), served.name, results, _meta(body, "1"), usage)


def _answer_v2(body: RerankV2Request, scores: Float32, served: About) -> RerankV2Response:
    results = _results(body, scores, documents=bool(body.return_documents))
    return RerankV2Response(str(uuid.uuid4()), served.name, results, _meta(body, "2"))


def _refuse_v1(refused: Refused) -> dict[str, Any]:
    return {"message": refused.message, "detail": refused.message}  # Cohere's clients read one, Jina's the other


def _refuse_v2(refused: Refused) -> dict[str, Any]:
    return {"message": refused.message}


_EXAMPLE = {"model": "any", "query": "desk lamp", "documents": ["garden chair", "LED lamp, warm light"], "top_n": 1}
V1 = Api(
    path="/v1/rerank",
    summary="Rank documents, as Jina and Cohere v1 do",
    body=RerankV1Request,
    result=RerankV1Response,
    example=_EXAMPLE,
    answer=_answer_v1,
    refuse=_refuse_v1,
    counts_tokens=True,
)
V2 = Api(
    path="/v2/rerank",
    summary="Rank documents, as Cohere v2 does",
    body=RerankV2Request,
    result=RerankV2Response,
    example=_EXAMPLE,
    answer=_answer_v2,
    refuse=_refuse_v2,
)
