"""Manifests, golden pairs, tokenizers and graphs that were changed together with the checksums."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from rankdistill.export.errors import BundleError
from rankdistill.export.runtime.manifest import Manifest
from tests.faults import bundles
from tests.faults.bundles import check, edit, seal

pytestmark = pytest.mark.faults


def set_variant(**values):
    return lambda content: content["variants"][0].update(values)


def rename_file(name):
    return lambda content: content["files"].update({name: content["files"].pop("README.md")})


def set_bytes(size):
    return lambda content: content["files"]["README.md"].update(bytes=size)


CHANGES = {
    "a file above": rename_file("../README.md"),
    "a file far above": rename_file("onnx/../../README.md"),
    "an absolute file": rename_file("/etc/passwd"),
    "a file of Windows": rename_file("C:\\README.md"),
    "a backslash": rename_file("onnx\\model.onnx"),
    "an empty part": rename_file("onnx//model.onnx"),
    "a dot": rename_file("./README.md"),
    "a nul": rename_file("README.md\0.json"),
    "a variant above": set_variant(file="../model.onnx"),
    "an unlisted variant": set_variant(file="onnx/other.onnx"),
    "a variant that is no graph": set_variant(file="README.md"),
    "no batch": set_variant(batch=0),
    "a huge batch": set_variant(batch=10**12),
    "a batch that is true": set_variant(batch=True),
    "a variant's name with a line": set_variant(name="fp16\nok"),
    "two of a name": set_variant(name="fp32"),
    "a negative size": set_bytes(-1),
    "a size that is no number": set_bytes("many"),
    "a size with a fraction": set_bytes(1.5),
    "a later format": lambda content: content.update(format=2),
    "a format of another type": lambda content: content.update(format=["1"]),
    "no format": lambda content: content.pop("format"),
    "no variants": lambda content: content.update(variants=[]),
    "no fp32": lambda content: content["variants"].pop(),
    "no files": lambda content: content.pop("files"),
    "billions of tokens": lambda content: content.update(max_length=10**12),
    "no tokens": lambda content: content.update(max_length=0),
    "no tolerance of fp32": lambda content: content["golden"].update(tolerance={}),
    "a negative tolerance": lambda content: content["golden"]["tolerance"].update(fp32=-1.0),
    "no golden pairs": lambda content: content["golden"].update(pairs=0),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_manifest_that_says_something_else_is_refused(hostile, change):
    seal(hostile, change)
    found = bundles.wrong(hostile)
    assert [finding.what for finding in found] == ["manifest.json"]
    with pytest.raises(BundleError, match=r"manifest\.json"):
        Manifest.read(hostile)


MANIFESTS = {
    "100 MB": b'{"format": 1, "name": "' + b"x" * 100_000_000 + b'"}',
    "deep": b"[" * 100_000 + b"]" * 100_000,
    "deep objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "a string without an end": b'{"format": 1, "x": "' + b'\\"' * 4_000_000,
    "many values": b'{"format": 1, "x": [' + b"[]," * 2_700_000 + b"0]}",
    "no text": b"\xff\xfe{}",
    "empty": b"",
    "a list": b"[]",
    "a number": b"1" * 5000,
    "a name twice": b'{"format": 1, "format": 1}',
}


@pytest.mark.parametrize("content", MANIFESTS.values(), ids=MANIFESTS)
def test_a_manifest_that_harms_its_reader_is_refused(hostile, content):
    (hostile / "manifest.json").write_bytes(content)
    bundles.sum_up(hostile)
    check(hostile, "manifest.json")


def set_golden(change, line=3):
    def rewrite(folder):
        path = folder / "golden.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines()
        row = json.loads(lines[line])
        lines[line] = change(row) or json.dumps(row)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")

    return rewrite


def set_tolerance(value):
    def rewrite(folder):
        rows = [json.loads(line) for line in (folder / "golden.jsonl").read_text(encoding="utf-8").splitlines()]
        for row in rows:
            row["tolerance"] = dict.fromkeys(row["tolerance"], value)
        (folder / "golden.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        seal(folder, lambda content: content["golden"].update(tolerance=rows[0]["tolerance"]))
        return True

    return rewrite


GOLDEN = {
    "NaN": set_golden(lambda row: row["scores"].update(fp32=float("nan"))),
    "Infinity": set_golden(lambda row: row["scores"].update(fp32=float("inf"))),
    "too large a float": set_golden(lambda row: json.dumps(row).replace('"fp32": 0.0001', '"fp32": 1e999')),
    "too large a number": set_golden(lambda row: row["scores"].update(fp32=10**400)),
    "another score": set_golden(lambda row: row["scores"].update(fp32=9.0)),
    "a text as score": set_golden(lambda row: row["scores"].update(fp32="0.1")),
    "no score": set_golden(lambda row: row["scores"].clear()),
    "a list": set_golden(lambda row: "[]"),
    "no JSON": set_golden(lambda row: "{"),
    "half a pair": set_golden(lambda row: row.update(query="\ud800")),
    "no query": set_golden(lambda row: row.update(query=None)),
    "other tokens": set_golden(lambda row: row["input_ids"].append(7)),
    "a token without bound": set_golden(lambda row: row["input_ids"].append(10**30)),
    "a tolerance of its own": set_golden(lambda row: row["tolerance"].update(fp32=1e9)),
    "huge tolerances everywhere": set_tolerance(1e5),
    "empty": lambda folder: (folder / "golden.jsonl").write_bytes(b""),
    "one line": lambda folder: (folder / "golden.jsonl").write_bytes(b"\n" * 1000),
}


@pytest.mark.parametrize("change", GOLDEN.values(), ids=GOLDEN)
def test_golden_pairs_that_were_changed_are_found(hostile, change):
    if change(hostile) is not True:
        seal(hostile)
    found = bundles.wrong(hostile)
    assert len(found) >= 1
    assert bundles.names(found, "tolerance" if change is GOLDEN["huge tolerances everywhere"] else "golden")


def test_a_changed_word_of_the_vocabulary_is_found(hostile):
    def swap(content):
        vocabulary = content["model"]["vocab"]
        vocabulary["red"], vocabulary["blue"] = vocabulary["blue"], vocabulary["red"]

    edit(hostile / "tokenizer.json", swap)
    seal(hostile)
    assert "gives other tokens than golden.jsonl:" in check(hostile, "tokenizer.json")


TOKENIZERS = {
    "deep": lambda path: path.write_text('{"a":' * 5000 + "1" + "}" * 5000),
    "no tokenizer": lambda path: path.write_text("{}"),
    "no unknown word": lambda path: edit(path, lambda content: content["model"].update(vocab={})),
    "a special token that is not there": lambda path: edit(
        path, lambda content: content["post_processor"].update(special_tokens={})
    ),
    "a table that is none": lambda path: edit(
        path, lambda content: content.update(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"})
    ),
}


@pytest.mark.parametrize("change", TOKENIZERS.values(), ids=TOKENIZERS)
def test_a_tokenizer_that_cannot_be_used_is_told(hostile, change):
    change(hostile / "tokenizer.json")
    seal(hostile)
    check(hostile, "tokenizer.json")


def change_graph(path, change):
    model = onnx.load(str(path))
    change(model)
    path.write_bytes(model.SerializeToString())


def test_changed_weights_are_found(hostile):
    def shake(model):
        for tensor in model.graph.initializer:
            if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) == 2:
                values = numpy_helper.to_array(tensor)
                tensor.CopyFrom(numpy_helper.from_array((values * 1.1).astype(np.float32), tensor.name))

    change_graph(hostile / "onnx/model.onnx", shake)
    seal(hostile)
    assert "differ by at most" in check(hostile, "onnx/model.onnx")


@pytest.mark.parametrize("location", ["../../../../etc/passwd", "/etc/passwd", "weights.txt", "*/_ORT_MEM_ADDR_/*"])
def test_a_graph_that_reads_another_file_is_refused_unopened(hostile, location):
    def move(model):
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", "0"), ("length", "64")):
            tensor.external_data.add(key=key, value=value)

    change_graph(hostile / "triton/ranker_fp32/1/model.onnx", move)
    (hostile / "triton/ranker_fp32/1/weights.txt").write_bytes(bytes(1 << 16))
    seal(hostile)
    found = check(hostile, "triton/ranker_fp32/1/model.onnx")
    assert location in found
    assert "refused" in found


GRAPHS = {
    "nothing": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("a graph"),
    "another model": lambda path: path.write_bytes(identity().SerializeToString()),
    "fields without end": lambda path: path.write_bytes(b"\x3a" + b"\x80\x89\x7a" + b"\x0a\x00" * 1_000_000),
    "fails when it runs": lambda path: change_graph(path, cut_positions),
}


def identity():
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    other = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [value], [other])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def cut_positions(model):
    """Leave too few position embeddings for the longest pair."""
    for tensor in model.graph.initializer:
        if list(tensor.dims) == [128, 32]:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)[:8], tensor.name))


@pytest.mark.parametrize("change", GRAPHS.values(), ids=GRAPHS)
def test_a_graph_that_is_no_cross_encoder_is_told(hostile, change):
    change(hostile / "onnx/model.onnx")
    seal(hostile)
    check(hostile, "onnx/model.onnx")
