"""Files of texts into files of vectors: every kind of input and output, broken input, kills."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from rankdistill.export.batch.embed_file import Job, _plan, embed_file
from rankdistill.export.batch.embed_progress import EmbedProgress
from rankdistill.export.batch.text_file import count_rows, read_rows
from rankdistill.export.errors import UserError
from rankdistill.export.runtime.embedder import Embedder
from tests.embedders import load, texts, write_checkpoint, write_graphs

ROOT = Path(__file__).parents[2]
ROWS = [{"key": f"t{number}", "title": text, "text": "" if number % 3 else "extra"} for number, text in
        enumerate([*texts(40), "", "红色 🚀", 'a "quoted", text'])]  # fmt: skip
MEANT = [" ".join(part for part in (row["title"], row["text"]) if part) for row in ROWS]


@pytest.fixture(scope="module")
def parts(encoder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("embedder")
    write_checkpoint(encoder, folder / "checkpoint")
    write_graphs(folder / "checkpoint", folder / "graphs")
    return folder / "checkpoint", folder / "graphs"


@pytest.fixture(scope="module")
def embedder(parts):
    with load(*parts) as model:
        yield model


def write_input(path: Path) -> None:
    table = pa.Table.from_pylist(ROWS)
    if path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS) + "\n", encoding="utf-8")
    elif path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ["key", "title", "text"])
            writer.writeheader()
            writer.writerows(ROWS)
    elif path.suffix == ".parquet":
        pq.write_table(table, path)
    else:
        with pa.ipc.new_stream(str(path), table.schema) as writer:
            writer.write_table(table, max_chunksize=10)


def read_output(path: Path) -> tuple[list[str], np.ndarray]:
    if path.suffix == ".npy":
        lines = path.with_name(path.name + ".ids.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines], np.load(path)
    table = pq.read_table(path) if path.suffix == ".parquet" else pa.ipc.open_file(str(path)).read_all()
    return table["id"].to_pylist(), np.array(table["vector"].to_pylist())


def job(source: Path, target: Path, **changes: object) -> Job:
    fields = {"text_fields": ("title", "text"), "id_field": "key", "dimensions": 16, "dtype": "int8", "part": 10}
    return Job(source, target, **fields | changes)


@pytest.mark.parametrize("target", ["v.npy", "v.parquet", "v.arrow"])
@pytest.mark.parametrize("source", ["t.jsonl", "t.csv", "t.parquet", "t.arrow"])
def test_every_kind_of_file_gives_the_same_vectors(embedder, tmp_path, source, target):
    write_input(tmp_path / source)
    counted = []
    done = embed_file(embedder, job(tmp_path / source, tmp_path / target), counted.append)
    assert done == (len(ROWS), 0)
    assert sum(counted) == len(ROWS)
    ids, vectors = read_output(tmp_path / target)
    assert ids == [row["key"] for row in ROWS]
    assert (vectors == embedder.embed(MEANT, 16, "int8")).all()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_without_ids_rows_are_numbered_and_binary_and_floats_are_kept(embedder, tmp_path):
    write_input(tmp_path / "t.jsonl")
    for dtype in ("float32", "binary"):
        embed_file(embedder, job(tmp_path / "t.jsonl", tmp_path / "v.npy", id_field=None, dtype=dtype), lambda _: None)
        ids, vectors = read_output(tmp_path / "v.npy")
        assert ids == [str(number) for number in range(len(ROWS))]
        expected = embedder.embed(MEANT, 16, dtype)
        assert vectors.dtype == expected.dtype
        assert (vectors == expected).all()


def test_an_empty_file_gives_no_vectors(embedder, tmp_path):
    (tmp_path / "t.jsonl").write_text("")
    for target in ("v.npy", "v.parquet"):
        assert embed_file(embedder, job(tmp_path / "t.jsonl", tmp_path / target), lambda _: None) == (0, 0)
    assert np.load(tmp_path / "v.npy").shape == (0, 16)
    assert pq.read_table(tmp_path / "v.parquet").num_rows == 0


def test_what_an_earlier_run_made_is_not_made_again_and_the_result_is_the_same(embedder, tmp_path, monkeypatch):
    write_input(tmp_path / "t.jsonl")
    asked = job(tmp_path / "t.jsonl", tmp_path / "v.parquet")
    real, calls = Embedder.embed, []

    def dies(self, given, *rest):
        calls.append(len(given))
        if len([count for count in calls if count]) == 3:
            raise KeyboardInterrupt
        return real(self, given, *rest)

    monkeypatch.setattr(Embedder, "embed", dies)
    with pytest.raises(KeyboardInterrupt):
        embed_file(embedder, asked, lambda _: None)
    assert not asked.target.exists()
    monkeypatch.setattr(Embedder, "embed", real)
    assert embed_file(embedder, asked, lambda _: None) == (len(ROWS), 20)
    ids, vectors = read_output(asked.target)
    assert ids == [row["key"] for row in ROWS]
    assert (vectors == embedder.embed(MEANT, 16, "int8")).all()


def test_parts_of_another_input_or_another_wish_are_not_used(embedder, tmp_path, monkeypatch):
    write_input(tmp_path / "t.jsonl")
    asked = job(tmp_path / "t.jsonl", tmp_path / "v.npy")
    real = Embedder.embed
    for change in ("input", "dtype"):
        monkeypatch.setattr(
            "rankdistill.export.batch.embed_file._join", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            embed_file(embedder, asked, lambda _: None)
        monkeypatch.undo()
        monkeypatch.setattr(Embedder, "embed", real)
        if change == "input":
            (tmp_path / "t.jsonl").write_text('{"key": "new", "title": "red car", "text": ""}\n')
            assert embed_file(embedder, asked, lambda _: None) == (1, 0)
            assert read_output(asked.target)[0] == ["new"]
        else:
            other = job(tmp_path / "t.jsonl", tmp_path / "v.npy", dtype="binary")
            assert embed_file(embedder, other, lambda _: None)[1] == 0
            assert np.load(asked.target).dtype == np.uint8


def test_an_input_that_changed_between_its_ends_alone_is_another(embedder, tmp_path, monkeypatch):
    monkeypatch.setattr("rankdistill.export.batch.embed_file.SAMPLE", 4)
    path, asked = tmp_path / "t.txt", job(tmp_path / "t.txt", tmp_path / "v.npy")
    path.write_text("begin red end.\n")
    before, status = _plan(embedder, asked), path.stat()
    assert _plan(embedder, asked) == before
    with path.open("r+") as file:
        file.write("begin big end.\n")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert _plan(embedder, asked) != before


def test_a_file_of_plain_lines_has_a_text_a_line(embedder, tmp_path):
    lines = ["red car", "", " 红色 🚀", 'a "quoted", text\t', "no end"]
    (tmp_path / "t.txt").write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
    asked = job(tmp_path / "t.txt", tmp_path / "v.npy", text_fields=("text",), id_field=None)
    assert embed_file(embedder, asked, lambda _: None) == (5, 0)
    ids, vectors = read_output(tmp_path / "v.npy")
    assert ids == ["0", "1", "2", "3", "4"]
    assert (vectors == embedder.embed(lines, 16, "int8")).all()


@pytest.mark.parametrize("name", ["t.jsonl", "t.parquet"])
def test_progress_knows_how_many_rows_there_are(tmp_path, name):
    write_input(tmp_path / name)
    assert count_rows(tmp_path / name) == len(ROWS)
    assert count_rows(tmp_path / "missing.jsonl") is None


def test_progress_is_a_bar_on_a_terminal_and_lines_elsewhere(monkeypatch):
    for terminal, wanted in ((True, "7/9"), (False, "embed: 7 of 9 texts, ")):
        told = io.StringIO()
        monkeypatch.setattr("rankdistill.export.batch.embed_progress.LINE_EVERY", 0.0)
        with EmbedProgress(Console(file=told, force_terminal=terminal, width=100), 9) as progress:
            progress.update(7)
        assert wanted in told.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.jsonl", b'{"key": "a", "title": "x", "text": "y"}\n{"key": "b"}\n', "t.jsonl:2: no field 'title'"),
        ("t.jsonl", b'{"key": "a", "title": null, "text": ""}\n', "t.jsonl:1: title is None, no text"),
        ("t.jsonl", b'{"key": 1.5, "title": "x", "text": ""}\n', "t.jsonl:1: key is 1.5"),
        ("t.jsonl", b"{\n", "t.jsonl:1: no JSON"),
        ("t.jsonl", b"[]\n", "t.jsonl:1: no JSON object"),
        ("t.csv", b"key,title,text\na,x\n", "t.csv:2: text is None"),
        ("t.csv", b"key,title,text\na,\xff,y\n", "not UTF-8"),
        ("t.parquet", b"PAR1", "no .parquet file"),
        ("t.arrow", b"nothing", "no .arrow file"),
        ("t.xlsx", b"", "read are .txt, .jsonl"),
        ("t.txt", b"a line\n\xff\n", "not UTF-8"),
        ("t.txt", b"a line\n", "t.txt:1: no field 'title'; there are text"),
    ],
)  # fmt: skip
def test_broken_input_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        list(read_rows(tmp_path / name, ("title", "text"), "key"))
    assert message in str(caught.value)


def test_a_missing_file_and_a_wrong_target_are_refused(embedder, tmp_path):
    write_input(tmp_path / "t.jsonl")
    with pytest.raises(UserError, match=r"missing\.jsonl cannot be read"):
        embed_file(embedder, job(tmp_path / "missing.jsonl", tmp_path / "v.npy"), lambda _: None)
    for target, message in (("v.txt", "written are"), ("no/v.npy", "is no folder")):
        with pytest.raises(UserError, match=message):
            embed_file(embedder, job(tmp_path / "t.jsonl", tmp_path / target), lambda _: None)


def test_without_pyarrow_the_pip_command_is_named(embedder, tmp_path, monkeypatch):
    write_input(tmp_path / "t.parquet")
    real = __import__("importlib.util").util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "pyarrow" else real(name))
    with pytest.raises(UserError, match=r"pip install 'rankdistill\[parquet\]'"):
        list(read_rows(tmp_path / "t.parquet", ("title",), None))
    with pytest.raises(UserError, match=r"pip install 'rankdistill\[parquet\]'"):
        embed_file(embedder, job(tmp_path / "t.parquet", tmp_path / "v.arrow"), lambda _: None)


CHILD = """
import sys
from pathlib import Path
from rankdistill.export.batch.embed_file import Job, _plan, embed_file
from rankdistill.export.runtime.embedder import Embedder, TextEncoder
from rankdistill.export.runtime.text.tokens import PairEncoder

folder = Path(sys.argv[1])
encoder = TextEncoder(PairEncoder.load(Path(sys.argv[2]), 24))
graph = Path(sys.argv[3]) / "model.onnx"
job = Job(folder / "t.jsonl", folder / "v.npy", ("title", "text"), "key", 16, "int8", 20)
with Embedder(graph, encoder, width=32, dimensions=(), key="k", variant="fp32", threads=1) as model:
    print("ready", flush=True)
    print(*embed_file(model, job, lambda count: None), flush=True)
"""


def test_killed_with_signal_9_at_any_instant_it_goes_on(parts, embedder, tmp_path):
    rows = [{"key": f"t{number}", "title": text, "text": ""} for number, text in enumerate(texts(2000, seed=3))]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    command = [sys.executable, "-c", CHILD, str(tmp_path), *map(str, parts)]
    rng, killed = np.random.default_rng(0), 0
    for _ in range(3):
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=os.environ)
        assert child.stdout.readline() == "ready\n"
        time.sleep(rng.uniform(0.02, 0.15))
        child.send_signal(signal.SIGKILL)
        killed += child.wait() == -signal.SIGKILL
        assert (tmp_path / "v.npy").exists() == ("2000" in child.stdout.read())
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert killed >= 2
    assert int(done.stdout.split()[-1]) > 0  # what earlier runs made was used
    ids, vectors = read_output(tmp_path / "v.npy")
    assert ids == [row["key"] for row in rows]
    assert (vectors == embedder.embed([row["title"] for row in rows], 16, "int8")).all()


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.tsv", 'text\n"unclosed\nsecond "row"\n', ['"unclosed', 'second "row"']),
        ("a.txt", "one\rstill one\r\ntwo\n", ["one\rstill one", "two"]),
    ],
)
def test_a_row_is_a_line_whatever_is_in_it(tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(content.encode())
    assert [text for _, text in read_rows(tmp_path / name, ["text"], None)] == expected


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.csv", 'text\n"unclosed\nsecond row\n', "a.csv:"),
        ("a.jsonl", '{"id": 1, "text": ' + "[" * 100_000 + "]" * 100_000 + "}\n", "no JSON"),
        ("a.jsonl", '{"id": "\\ud800", "text": "a"}\n', "half a surrogate pair"),
    ],
)
def test_rows_that_cannot_be_are_told_as_they_are_read(tmp_path, name, content, told):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=told):
        list(read_rows(tmp_path / name, ["text"], "id" if "id" in content else None))
