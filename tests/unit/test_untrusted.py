"""JSON of unknown origin: what is read as every reader would, and what is refused."""

from __future__ import annotations

import json
import time
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankdistill.export.errors import BundleError
from rankdistill.export.runtime.untrusted import bounded_files
from rankdistill.export.runtime.untrusted.bounded_files import (
    MOST_DEPTH,
    hash_file,
    nests_deeper,
    parse_json,
    read_bytes,
    read_json,
)

texts = st.text(alphabet=st.characters(codec="utf-8"))
brackets = st.text(alphabet='[]{}"\\,: a')
leaves = st.none() | st.booleans() | st.integers(-(10**17), 10**17) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    leaves | texts | brackets,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts | brackets, inner, max_size=4),
    max_leaves=30,
)


def depth_of(value) -> int:
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if children is None else 1 + max(map(depth_of, children), default=0)


@given(values, st.booleans(), st.integers(0, 8))
def test_depth_is_that_of_the_value(value, ascii_only, indent):
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent or None)
    depth = depth_of(value)
    assert not nests_deeper(text, depth)
    assert depth == 0 or nests_deeper(text, depth - 1)


@given(values, st.booleans())
def test_what_is_json_is_read_as_json_reads_it(value, ascii_only):
    text = json.dumps(value, ensure_ascii=ascii_only)
    assert parse_json(text.encode(), "x") == json.loads(text)


@given(st.text(alphabet='[]{}"\\,:0 ') | st.text() | st.binary())
def test_any_bytes_are_read_or_refused_in_one_way(content):
    try:
        parse_json(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content, "here")
    except BundleError as error:
        assert str(error).startswith("here: ")  # noqa: PT017


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"[" * (MOST_DEPTH + 1) + b"]" * (MOST_DEPTH + 1), "nested deeper than 64"),
        (b"[" * 100_000, "nested deeper than 64"),
        (b'{"a":' * 100_000, "nested deeper than 64"),
        (b"NaN", "NaN is no JSON value"),
        (b"[-Infinity]", "-Infinity is no JSON value"),
        (b"1e999", "too large"),
        (b"9" * 30, "too large"),
        (b"9" * 1_000_000, "too large"),
        (b'"\\ud800"', "surrogate"),
        (b'{"\\udfff": 1}', "surrogate"),
        (b'"\xed\xa0\x80"', "utf-8"),
        (b'{"a": 1, "b": 2, "a": 3}', "'a' stands twice"),
        (b"", "no JSON"),
        (b'"a', "no JSON"),
        (b"{} {}", "no JSON"),
        (b"\x00", "no JSON"),
    ],
)
def test_what_readers_would_understand_differently_is_refused(content, why):
    with pytest.raises(BundleError, match=f"^here: .*{why}"):
        parse_json(content, "here")


def test_the_deepest_allowed_is_read_and_whole_pairs_too():
    deepest = b"[" * MOST_DEPTH + b"]" * MOST_DEPTH
    assert depth_of(parse_json(deepest, "x")) == MOST_DEPTH
    assert parse_json(b'"\\ud83d\\ude80 \\\\ud800"', "x") == "🚀 \\ud800"


@pytest.mark.parametrize(
    "content",
    [
        b'"' + b'\\"' * 2_000_000,
        b'"' + b"a" * 8_000_000,
        b'"' * 4_000_001,
        b'["' + b"\\" * 4_000_001,
        b"[]," * 2_000_000,
    ],
    ids=["escapes without end", "a text without end", "quotes", "backslashes", "lists"],
)
def test_a_text_made_to_take_long_takes_seconds_and_little_memory(content):
    begin = time.process_time()
    tracemalloc.start()
    with pytest.raises(BundleError):
        parse_json(content, "x")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert time.process_time() - begin < 30
    assert peak < 40 * len(content)


def test_more_values_than_a_vocabulary_has_are_refused_unparsed(monkeypatch):
    monkeypatch.setattr(bounded_files, "MOST_MARKS", 10)
    assert parse_json(b"[0,0,0,0,0,0,0,0]", "x") == [0] * 8
    with pytest.raises(BundleError, match="more than 10 values"):
        parse_json(b"[0,0,0,0,0,0,0,0,0,0,0]", "x")


def test_a_file_is_read_up_to_a_size(tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(b'{"a": 1}')
    assert read_json(path, 8) == {"a": 1}
    with pytest.raises(BundleError, match=r"x\.json: larger than 7 bytes; refused unread"):
        read_json(path, 7)
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(BundleError, match="larger than"):
        read_bytes(path, 1000)


def test_what_is_no_file_is_refused_with_its_name(tmp_path):
    with pytest.raises(BundleError, match=r"none\.json: No such file"):
        read_json(tmp_path / "none.json")
    with pytest.raises(BundleError, match="Is a directory"):
        read_json(tmp_path)


def test_the_hash_is_that_of_sha256sum(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert hash_file(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
