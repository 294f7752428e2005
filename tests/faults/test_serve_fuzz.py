"""Requests made from the service's own description, right and wrong ones: none breaks it.

RANKER_FUZZ_EXAMPLES sets how many are tried of each operation: 60 without it.
"""

from __future__ import annotations

import os

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.serving import serving

pytestmark = pytest.mark.faults

EXAMPLES = int(os.environ.get("RANKER_FUZZ_EXAMPLES", "60"))
OPERATIONS = [("POST", path) for path in ("/rerank", "/v1/rerank", "/v2/rerank", "/embed", "/v1/embeddings")]
OPERATIONS += [("GET", path) for path in ("/health", "/ready", "/info", "/metrics")]
CHECKS = [status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture(scope="module")
def service(bundle):
    with serving(bundle) as served:
        yield served


@pytest.fixture(scope="module")
def schema(service):
    return schemathesis.openapi.from_url(f"{service.url}/openapi.json")


@pytest.mark.parametrize("mode", GenerationMode)
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_no_request_breaks_the_service(service, schema, method, path, mode):
    operation = schema[path][method]
    if mode is GenerationMode.NEGATIVE and method == "GET":
        pytest.skip("it takes nothing that could be wrong")

    @settings(
        max_examples=EXAMPLES, deadline=None, database=None, phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case):
        answer = case.call(base_url=service.url, timeout=30)
        kept = answer.status_code == 504 and "x-deadline-ms" in answer.request.headers  # which is what was asked for
        assert answer.status_code < 500 or kept, answer.text
        case.validate_response(answer, checks=CHECKS)

    ask()
    answer = httpx.post(f"{service.url}/rerank", json={"query": "a", "texts": ["b", "c"]})
    assert answer.status_code == 200
    assert not any("Traceback" in line for line in service.lines)
