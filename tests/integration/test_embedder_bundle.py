"""A run with an embedder: its table and page, the bundle, `ranker verify` and `ranker embed`, the service."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import sys

import httpx
import numpy as np
import pytest

from rankdistill.export.errors import BundleError
from rankdistill.export.measure.quality import ranking_metrics
from rankdistill.export.runtime.embedder import Embedder
from rankdistill.export.runtime.manifest import EMBEDDER
from tests.integration.commands import begin_with, distill, newest_run, small, table
from tests.serving import serving

pytestmark = pytest.mark.integration

TEXTS = ["red car", "a lamp that is warm", "", "红色 🚀", "red " * 300]
OPTIONS = ["embed=distilled", "embed.max_length=32", "embed.dimensions=[8,16]", "embed.steps=10"]


@pytest.fixture(scope="module")
def place(tmp_path_factory, beir, encoder, begun):
    folder = begin_with(begun, tmp_path_factory.mktemp("embedder"))
    done = distill(*small(beir, encoder), *OPTIONS, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, done


@pytest.fixture(scope="module")
def made(place):
    return newest_run(place[0]) / "bundle"


def ranker(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "rankdistill.export.commands.main", *arguments], capture_output=True, text=True
    )


def test_the_table_has_every_form_of_the_vectors(place, beir):
    run = newest_run(place[0])
    found = table(run)["embedder"]
    forms = [(row["precision"], row["dtype"], row["dimensions"]) for row in found["rows"]]
    assert forms[:4] == [
        ("fp32", "float32", 32),
        ("fp32", "float32", 32),
        ("fp32", "float32", 16),
        ("fp32", "float32", 8),
    ]
    assert forms[4:] == [("int8", dtype, size) for dtype in ("int8", "binary") for size in (32, 16, 8)]
    assert found["rows"][0]["ndcg@10_over_zero_shot"] == 0
    assert found["rows"][1]["ndcg@10_kept"] == 1
    assert "recall over 80 items" in place[1].stdout
    page = (run / "report.html").read_text()
    assert "What do vectors of texts keep?" in page


def test_its_quality_is_that_of_the_bundles_own_vectors(place, made, beir):
    items = {row["_id"]: row["text"] for row in map(json.loads, (beir / "corpus.jsonl").read_text().splitlines())}
    queries = {row["_id"]: row["text"] for row in map(json.loads, (beir / "queries.jsonl").read_text().splitlines())}
    judged: dict[str, list[tuple[str, int]]] = {}
    for line in (beir / "qrels" / "test.tsv").read_text().splitlines()[1:]:
        query, item, grade = line.split("\t")
        judged.setdefault(query, []).append((item, int(grade)))
    ids = [*items]
    with Embedder.load(made, "fp32") as model:
        catalogue = model.embed([items[each] for each in ids], 16)
        ndcg, recall = [], []
        for query, rows in judged.items():
            cosines = catalogue @ model.embed([queries[query]], 16)[0]
            scores = np.array([cosines[ids.index(item)] for item, _ in rows])
            grades = np.array([grade for _, grade in rows])
            ndcg.append(ranking_metrics(scores, grades, np.array([0, len(rows)]))["ndcg@10"][0])
            near = {ids[row] for row in np.argsort(-cosines)[:50]}
            recall.append(np.mean([item in near for item, grade in rows if grade >= 1]))
    row = table(newest_run(place[0]))["embedder"]["rows"][2]
    assert row["ndcg@10"] == pytest.approx(np.mean(ndcg), abs=0.02)  # candidates that tie may be dealt otherwise
    assert row["recall@50"] == pytest.approx(np.mean(recall), abs=0.01)


def test_the_bundle_is_verified_with_its_embedder_and_damage_is_found(made, tmp_path):
    done = ranker("verify", str(made))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "golden texts" in done.stdout
    copy = tmp_path / "bundle"
    shutil.copytree(made, copy)
    graph = copy / "embedder" / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"x")
    assert ranker("verify", str(copy)).returncode == 1
    with pytest.raises(BundleError, match="is not the file of its manifest"):
        Embedder.load(copy, "fp32")


def test_the_cards_code_gives_cosines_and_its_table_what_was_measured(place, made):
    card = (made / "README.md").read_text(encoding="utf-8")
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", card, re.DOTALL) if "Embedder" in block]
    found: dict[str, object] = {}
    exec(code.replace("BUNDLE", str(made)), found)
    with Embedder.load(made) as model:
        vectors = model.embed(["desk lamp", "LED lamp, warm light", "garden chair"], 8)
    assert found["cosines"] == pytest.approx((vectors[1:] @ vectors[0]).tolist())
    section = card[card.index("### Vectors of texts") :].split("### ")[1]
    rows = [line for line in section.splitlines() if line.startswith("| ")][1:]
    told = table(newest_run(place[0]))["embedder"]["rows"]
    assert [row.split(" | ")[2] for row in rows] == [str(row["dimensions"]) for row in told]
    assert all(f"{row['ndcg@10']:.3f}" in line for row, line in zip(told, rows, strict=True))


def test_a_graph_of_other_weights_is_found_by_its_vectors(made, tmp_path):
    import onnx
    from onnx import numpy_helper

    from rankdistill.export.bundle.writer import sums_of
    from rankdistill.export.runtime.untrusted.bounded_files import hash_file

    copy = tmp_path / "bundle"
    shutil.copytree(made, copy)
    path = copy / "embedder" / "model.onnx"
    model = onnx.load(str(path))
    (weight,) = [each for each in model.graph.initializer if each.name == "projection.weight"]
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight)[:, ::-1].copy(), weight.name))
    onnx.save(model, str(path))
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["files"]["embedder/model.onnx"] = {"sha256": hash_file(path), "bytes": path.stat().st_size}
    (copy / "manifest.json").write_text(json.dumps(manifest))
    (copy / "SHA256SUMS").write_text(sums_of(copy))
    done = ranker("verify", str(copy))
    assert done.returncode == 1
    assert "WRONG embedder/model.onnx: vectors of" in done.stdout


def test_the_command_embeds_a_file(made, tmp_path):
    (tmp_path / "t.jsonl").write_text("\n".join(json.dumps({"text": text, "id": n}) for n, text in enumerate(TEXTS)))
    done = ranker("embed", str(made), str(tmp_path / "t.jsonl"), str(tmp_path / "v.npy"), "--id-field", "id",
                  "--dimensions", "16", "--dtype", "int8")  # fmt: skip
    assert done.returncode == 0, done.stderr
    with Embedder.load(made) as model:
        assert (np.load(tmp_path / "v.npy") == model.embed(TEXTS, 16, "int8")).all()
    done = ranker("embed", str(made), str(tmp_path / "t.jsonl"), str(tmp_path / "v.npy"), "--text-field", "title")
    assert done.returncode == 2
    assert "no field 'title'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_bundle_without_one_says_so(bundle, tmp_path):
    (tmp_path / "t.jsonl").write_text('{"text": "red"}\n')
    done = ranker("embed", str(bundle), str(tmp_path / "t.jsonl"), str(tmp_path / "v.npy"))
    assert done.returncode == 2
    assert "has no embedder" in done.stderr
    assert EMBEDDER not in json.loads((bundle / "manifest.json").read_text())["files"]


@pytest.fixture(scope="module")
def service(made):
    with serving(made, "--threads", "2") as running:
        yield running


@pytest.fixture(scope="module")
def expected(made):
    with Embedder.load(made) as model:
        yield model


def test_the_service_embeds_as_text_embeddings_inference_does(service, expected):
    answer = service.post("/embed", inputs=TEXTS)
    assert answer.status_code == 200, answer.text
    assert np.array(answer.json(), dtype=np.float32) == pytest.approx(expected.embed(TEXTS), abs=1e-6)
    one = service.post("/embed", inputs=TEXTS[0], normalize=False, dimensions=8).json()
    assert np.array(one) == pytest.approx(expected.embed(TEXTS[:1], 8, normalize=False), abs=1e-5)
    assert service.post("/rerank", query="red car", texts=TEXTS[:2]).status_code == 200


def test_the_service_embeds_as_openai_does(service, expected):
    answer = service.post("/v1/embeddings", input=TEXTS, model="any").json()
    assert [row["index"] for row in answer["data"]] == [*range(len(TEXTS))]
    assert answer["usage"]["total_tokens"] == sum(min(n, 32) for n in expected.encoder.lengths(TEXTS))
    packed = service.post("/v1/embeddings", input=TEXTS[1], encoding_format="base64", dimensions=16).json()
    found = np.frombuffer(base64.b64decode(packed["data"][0]["embedding"]), dtype="<f4")
    assert found == pytest.approx(expected.embed([TEXTS[1]], 16)[0], abs=1e-6)


def test_its_description_has_an_example_that_works(service):
    with httpx.Client(base_url=service.url) as client:
        paths = client.get("/openapi.json").json()["paths"]
    for path in ("/embed", "/v1/embeddings"):
        described = paths[path]["post"]
        assert described["responses"]["200"]["description"] == "A vector a text, in the order of the request"
        assert [header["name"] for header in described["parameters"]] == ["X-Deadline-Ms"]
        example = described["requestBody"]["content"]["application/json"]["examples"]["items"]["value"]
        example = {name: 16 if name == "dimensions" else value for name, value in example.items()}
        assert service.post(path, **example).status_code == 200


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({}, 422), ({"inputs": []}, 422), ({"inputs": 3}, 422), ({"inputs": ["a", 3]}, 422),
        ({"inputs": "a", "dimensions": 0}, 422), ({"inputs": "a", "dimensions": 33}, 422),
        ({"inputs": TEXTS[4], "truncate": False}, 413), ({"inputs": ["a"] * 20_000}, 413),
    ],
)  # fmt: skip
def test_what_cannot_be_embedded_is_refused(service, fields, status):
    answer = service.post("/embed", **fields)
    assert answer.status_code == status
    assert set(answer.json()) == {"error", "error_type"}


def test_a_service_without_an_embedder_says_so(bundle):
    with serving(bundle) as running:
        answer = running.post("/embed", inputs="red")
        assert answer.status_code == 424
        assert answer.json() == {"error": "the bundle has no embedder", "error_type": "backend"}
        assert running.post("/v1/embeddings", input="red").json()["code"] == "424"
