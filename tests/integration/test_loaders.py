"""A bundle loads as it stands in other tools, with the code of its model card, and gives its golden scores there."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess

import numpy as np
import onnxruntime as ort
import pytest

from rankdistill import Ranker
from tests.conftest import WORDS

pytestmark = pytest.mark.integration

OPTIMUM_ONNX = importlib.util.find_spec("optimum") and importlib.util.find_spec("optimum.onnxruntime")
needs_optimum_onnx = pytest.mark.skipif(
    not OPTIMUM_ONNX, reason="optimum-onnx takes no transformers 5: scripts/bench/stack.py tools runs it beside"
)
JS_PACKAGE = "@huggingface/transformers@4"
SCORE_ALL = """
import { readFileSync } from "node:fs";
const scores = [];
for (const [query, item] of JSON.parse(readFileSync(process.argv[2], "utf-8"))) scores.push(await score(query, item));
console.log(JSON.stringify(scores));
"""
ONNX_TYPES = {"TYPE_INT64": "tensor(int64)", "TYPE_FP32": "tensor(float)"}


@pytest.fixture(scope="module")
def rows(bundle) -> list[dict]:
    """The golden pairs: of every kind, empty ones and ones longer than max_length among them."""
    lines = (bundle / "golden.jsonl").read_text(encoding="utf-8").split("\n")
    found = [json.loads(line) for line in lines if line]
    assert {"empty", "truncated", "short"} <= {row["kind"] for row in found}
    return found


@pytest.fixture(scope="module")
def manifest(bundle) -> dict:
    return read(bundle / "manifest.json")


@pytest.fixture(scope="module")
def long_rows(bundle, rows, manifest) -> list[dict]:
    """Pairs that are cut in every way, with what the runtime makes of them, in the form of golden pairs."""
    room = manifest["max_length"] - manifest["truncation"]["special_tokens"]
    half = room // 2
    lengths = [(half + a, half + b) for a in range(3) for b in range(3)] + [(1, 4 * room), (4 * room, 1), (room, room)]
    texts = [(" ".join((WORDS * room)[:a]), " ".join((WORDS[::-1] * room)[:b])) for a, b in lengths]
    with Ranker.load(bundle, variant="fp32", threads=1) as ranker:
        scores = ranker.score(texts).tolist()
    same = {"tolerance": rows[0]["tolerance"]}
    return [{"query": q, "item": i, "scores": {"fp32": s}} | same for (q, i), s in zip(texts, scores, strict=True)]


@pytest.fixture(scope="module")
def int8(rows) -> list[str]:
    """Names of the int8 variants that this processor computes exactly."""
    names = [name for name in rows[0]["scores"] if name != "fp32"]
    assert names
    return names


@pytest.fixture(scope="module")
def measured(manifest) -> dict[str, dict]:
    """The variants by precision whose quality was measured: fp32, and the int8 graph of card and Triton."""
    found = {each["precision"]: each for each in manifest["variants"] if "quality" in each["measured"]}
    assert set(found) == {"fp32", "int8"}
    return found


@pytest.fixture(scope="module")
def node_modules(tmp_path_factory):
    """A folder in which transformers.js is installed, half a gigabyte that is not kept."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed: transformers.js cannot be tried")
    folder = tmp_path_factory.mktemp("node")
    (folder / "package.json").write_text("{}", encoding="utf-8")
    environment = os.environ | {"ONNXRUNTIME_NODE_INSTALL": "skip"}  # the CPU's library is in the package
    command = ["npm", "install", "--no-audit", "--no-fund", JS_PACKAGE]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    yield folder
    shutil.rmtree(folder)


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def pairs(rows):
    return [(row["query"], row["item"]) for row in rows]


def assert_scores(scores, rows, variant="fp32", seen=lambda logits: logits):
    """Compare scores with the golden ones, as a tool that applies `seen` to them would show them."""
    golden = seen(np.array([row["scores"][variant] for row in rows]))
    scores = np.array(scores, dtype=np.float64)
    assert scores.shape == golden.shape
    assert np.ptp(golden) > 100 * rows[0]["tolerance"]["fp32"]  # a constant would not pass
    assert np.abs(scores - golden).max() <= rows[0]["tolerance"][variant]


def sigmoid(logits):
    return 1 / (1 + np.exp(-logits))


def card_code(bundle, language, holding, **places):
    """Return the one block of code in the model card that holds a word, with paths for its BUNDLE and CACHE."""
    card = (bundle / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(rf"^```{language}\n(.*?)^```", card, re.MULTILINE | re.DOTALL)
    (code,) = [block for block in blocks if holding in block]
    for name, path in (places | {"BUNDLE": bundle}).items():
        code = code.replace(name, path.as_posix())
    return code


def run_card(bundle, holding, **places):
    """Run a Python block of the model card and return what it defines."""
    names: dict = {}
    exec(card_code(bundle, "python", holding, **places), names)
    return names


def test_sentence_transformers_loads_it(bundle, rows, long_rows, manifest):
    assert_cross_encoder(run_card(bundle, "PyTorch; raw logits")["model"], rows, long_rows, manifest)


@needs_optimum_onnx
def test_sentence_transformers_loads_its_graphs(bundle, rows, long_rows, manifest, measured):
    defined = run_card(bundle, 'onnx = CrossEncoder("BUNDLE", backend="onnx"')
    assert_cross_encoder(defined["onnx"], rows, long_rows, manifest)
    assert_scores(defined["int8"].predict(pairs(rows), batch_size=1), rows, measured["int8"]["name"])


def assert_cross_encoder(model, rows, long_rows, manifest):
    import torch

    assert isinstance(model.activation_fn, torch.nn.Identity)
    assert model.tokenizer.model_max_length == manifest["max_length"]
    assert_scores(model.predict(pairs(rows)), rows)
    assert_scores(model.predict(pairs(long_rows)), long_rows)


@needs_optimum_onnx
def test_sentence_transformers_loads_every_int8_graph_and_finds_the_plain_one_alone(bundle, rows, int8):
    from sentence_transformers import CrossEncoder

    for name in int8:
        model = CrossEncoder(str(bundle), backend="onnx", model_kwargs={"file_name": f"onnx/model_{name}.onnx"})
        assert_scores(model.predict(pairs(rows), batch_size=1), rows, name)
    assert_scores(CrossEncoder(str(bundle), backend="onnx").predict(pairs(rows)), rows)


def test_transformers_loads_it(bundle, rows, long_rows, manifest):
    defined = run_card(bundle, "AutoModelForSequenceClassification, AutoTokenizer\n")
    assert defined["tokenizer"].is_fast
    assert defined["tokenizer"].model_max_length == manifest["max_length"]
    assert_scores(logits(defined["tokenizer"], defined["model"], rows + long_rows), rows + long_rows)


@needs_optimum_onnx
def test_optimum_loads_its_graphs(bundle, rows, long_rows, int8, measured):
    from optimum.onnxruntime import ORTModelForSequenceClassification

    defined = run_card(bundle, "import ORTModelForSequenceClassification")
    tokenizer = defined["tokenizer"]
    for model in (defined["onnx"], ORTModelForSequenceClassification.from_pretrained(bundle)):
        assert_scores(logits(tokenizer, model, rows + long_rows), rows + long_rows)
    for name in int8:
        file = f"model_{name}.onnx"
        model = ORTModelForSequenceClassification.from_pretrained(bundle, subfolder="onnx", file_name=file)
        assert_scores([logits(tokenizer, model, [row])[0] for row in rows], rows, name)
    assert_scores([logits(tokenizer, defined["int8"], [row])[0] for row in rows], rows, measured["int8"]["name"])


def logits(tokenizer, model, some):
    import torch

    queries, items = map(list, zip(*pairs(some), strict=True))
    inputs = tokenizer(queries, items, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        return model(**inputs).logits[:, 0].numpy()


def test_flashrank_loads_it_under_a_name_of_its_own(bundle, rows, long_rows, int8, tmp_path):
    import flashrank

    script = card_code(bundle, "bash", "flashrank", CACHE=tmp_path)
    subprocess.run(["bash", "-e"], input=script, text=True, check=True)

    def scores(ranker, some):
        requests = [flashrank.RerankRequest(query, [{"text": item}]) for query, item in pairs(some)]
        return [ranker.rerank(request)[0]["score"] for request in requests]

    defined = run_card(bundle, "flashrank", CACHE=tmp_path)
    assert_scores(scores(defined["model"], rows + long_rows), rows + long_rows, seen=sigmoid)
    assert [set(passage) for passage in defined["best"]] == [{"text", "score"}] * 2
    query = rows[0]["query"]
    group = [row for row in rows if row["query"] == query]
    ranked = defined["model"].rerank(flashrank.RerankRequest(query, [{"row": r, "text": r["item"]} for r in group]))
    assert_scores([passage["score"] for passage in ranked], [passage["row"] for passage in ranked], seen=sigmoid)
    for name in int8:
        (alias,) = tmp_path.glob("*/*.onnx")
        shutil.copyfile(bundle / "onnx" / f"model_{name}.onnx", alias)
        model = flashrank.Ranker(alias.parent.name, cache_dir=str(tmp_path))
        assert_scores(scores(model, rows), rows, name, seen=sigmoid)


def test_transformers_js_loads_it(bundle, rows, long_rows, int8, node_modules):
    assert f"npm install {JS_PACKAGE}`" in (bundle / "README.md").read_text(encoding="utf-8")
    code = card_code(bundle, "js", "AutoTokenizer")
    for name in ("fp32", *int8):
        graph, some = (f"model_{name}", rows) if name in int8 else ("model", rows + long_rows)
        (node_modules / "pairs.json").write_text(json.dumps(pairs(some)), encoding="utf-8")
        script = node_modules / f"{name}.mjs"
        script.write_text(code.replace('graph = "model"', f'graph = "{graph}"') + SCORE_ALL, encoding="utf-8")
        command = ["node", script.name, "pairs.json"]
        done = subprocess.run(command, cwd=node_modules, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert_scores(json.loads(done.stdout.splitlines()[-1]), some, name)


def test_text_embeddings_inference_finds_a_reranker_its_length_and_its_graph(bundle, rows, long_rows, manifest):
    """The server is not run: this reads the files that its source reads, and scores as it does."""
    from tokenizers import Tokenizer

    config = read(bundle / "config.json")
    assert config["model_type"] == "bert"
    assert config["architectures"] == ["BertForSequenceClassification"]  # "...Classification": no embedding model
    assert len(config["id2label"]) == len(config["label2id"]) == 1  # one label: a reranker
    assert read(bundle / "tokenizer_config.json").get("padding_side", "right") == "right"
    assert not (bundle / "model.onnx").exists()  # would be taken before onnx/model.onnx
    length = read(bundle / "sentence_bert_config.json")["max_seq_length"]
    assert length == manifest["max_length"] <= config["max_position_embeddings"]
    tokenizer = Tokenizer.from_file(str(bundle / "tokenizer.json"))
    tokenizer.enable_truncation(length, strategy="longest_first", direction="right")
    tokenizer.enable_padding(pad_id=config["pad_token_id"])
    session = ort.InferenceSession(bundle / "onnx" / "model.onnx")
    scores: list[float] = []
    every = rows + long_rows
    for start in range(0, len(every), 8):  # its largest batch of an ONNX graph
        encoded = tokenizer.encode_batch(pairs(every[start : start + 8]))
        feed = {
            "input_ids": np.array([each.ids for each in encoded]),
            "attention_mask": np.array([each.attention_mask for each in encoded]),
            "token_type_ids": np.array([each.type_ids for each in encoded]),
        }
        scores += session.run(["logits"], feed)[0][:, 0].tolist()
    assert_scores(scores, every)


def test_tokenizer_json_alone_gives_the_tokens(bundle, rows):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(bundle / "tokenizer.json"))
    for row in rows:
        encoded = tokenizer.encode(row["query"], row["item"])
        assert (encoded.ids, encoded.type_ids) == (row["input_ids"], row["token_type_ids"])


@pytest.fixture(scope="module")
def triton(bundle) -> dict:
    """The parsed configurations by precision; a field that Triton does not know ends the parsing."""
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    assert sorted(path.name for path in (bundle / "triton").iterdir()) == ["ranker_fp32", "ranker_int8"]
    texts = {name: (bundle / "triton" / f"ranker_{name}" / "config.pbtxt").read_text() for name in ("fp32", "int8")}
    return {name: text_format.Parse(text, model_config_pb2.ModelConfig()) for name, text in texts.items()}


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_triton_model_fits_its_graph(bundle, manifest, measured, triton, precision):
    config, variant = triton[precision], measured[precision]
    graph = bundle / "triton" / config.name / "1" / "model.onnx"
    assert config.name == f"ranker_{precision}"
    assert config.backend == "onnxruntime"
    assert graph.read_bytes() == (bundle / variant["file"]).read_bytes()
    session = ort.InferenceSession(graph)
    for told, real in ((config.input, session.get_inputs()), (config.output, session.get_outputs())):
        # a name stands for a dimension that may be any; the batch is in front and not told
        shapes = {each.name: [-1 if isinstance(dim, str) else dim for dim in each.shape] for each in real}
        assert {each.name: [-1, *each.dims] for each in told} == shapes
        types = {each.name: each.type for each in real}
        assert {each.name: ONNX_TYPES[data_type(each)] for each in told} == types
    gathers = precision == "fp32" and variant["batch_invariant"]
    assert config.HasField("dynamic_batching") == gathers
    assert (config.max_batch_size > 1) == gathers
    assert all(1 < size <= config.max_batch_size for size in config.dynamic_batching.preferred_batch_size)
    assert config.parameters["intra_op_thread_count"].string_value == "1"
    (group,) = config.instance_group
    assert group.kind == type(group).KIND_CPU
    assert group.count == manifest["threads"]["measured_with"]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_triton_model_would_give_the_scores(bundle, rows, measured, triton, precision):
    config = triton[precision]
    assert set(run_card(bundle, "type_ids")["inputs"]) == {each.name for each in config.input}
    session = ort.InferenceSession(bundle / "triton" / config.name / "1" / "model.onnx")
    by_length: dict[int, list[int]] = {}
    for number, row in enumerate(rows):
        by_length.setdefault(len(row["input_ids"]), []).append(number)
    scores = np.full(len(rows), np.nan)
    for numbers in by_length.values():  # requests of equal shape may share a call
        for start in range(0, len(numbers), config.max_batch_size):
            batch = numbers[start : start + config.max_batch_size]
            ids, types = (np.array([rows[n][name] for n in batch]) for name in ("input_ids", "token_type_ids"))
            feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": types}
            scores[batch] = session.run(["logits"], feed)[0][:, 0]
    assert_scores(scores, rows, measured[precision]["name"])


def data_type(tensor):
    return tensor.DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number[tensor.data_type].name
