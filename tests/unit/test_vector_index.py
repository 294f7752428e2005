"""An index finds nearly what the exact comparison finds, and is read back as it was."""

from __future__ import annotations

import numpy as np
import pytest

from rankdistill.export.errors import UserError
from rankdistill.export.runtime.index import VectorIndex
from rankdistill.export.runtime.vectors import prefix

pytest.importorskip("usearch")


def vectors(count: int, dimensions: int, seed: int) -> np.ndarray:
    return prefix(np.random.default_rng(seed).normal(size=(count, dimensions)).astype(np.float32), dimensions)


def exact_nearest(items: np.ndarray, query: np.ndarray, dtype: str) -> tuple[np.ndarray, float]:
    """Return every item's cosine, and that of the tenth nearest: between signs alone where an index has bits."""
    if dtype == "binary":
        items, query = (prefix(np.where(each > 0, 1, -1).astype(np.float32), 64) for each in (items, query[None]))
        query = query[0]
    cosines = items @ query
    rows = np.argsort(-cosines, kind="stable")[:10]
    return cosines, float(cosines[rows[-1]])


@pytest.mark.parametrize(("dtype", "least"), [("float32", 0.95), ("int8", 0.9), ("binary", 0.9)])
def test_it_finds_nearly_all_of_the_exact_nearest(dtype, least, tmp_path):
    items, queries = vectors(3000, 64, 0), vectors(20, 64, 1)
    index = VectorIndex.of(items, dtype)
    found = index.nearest(queries, 10)
    good = []
    for rows, query in zip(found, queries, strict=True):
        cosines, last = exact_nearest(items, query, dtype)
        good.append((cosines[rows] >= last - 1e-6).mean())  # bits have many ties: any of them will do
    assert np.mean(good) >= least  # a random ten would have 10 / 3000
    index.save(tmp_path / "v.usearch")
    again = VectorIndex.load(tmp_path / "v.usearch")
    assert len(again) == 3000
    assert [rows.tolist() for rows in again.nearest(queries, 10)] == [rows.tolist() for rows in found]


def test_few_and_no_items():
    assert VectorIndex.of(vectors(0, 8, 0), "int8").nearest(vectors(2, 8, 1), 5)[1].tolist() == []
    assert sorted(VectorIndex.of(vectors(3, 8, 0), "int8").nearest(vectors(1, 8, 1), 5)[0].tolist()) == [0, 1, 2]


def test_wrong_files_and_bits_are_refused(tmp_path):
    with pytest.raises(UserError, match="multiple of 8"):
        VectorIndex.of(vectors(3, 12, 0), "binary")
    (tmp_path / "v.usearch").write_bytes(b"nothing")
    with pytest.raises(UserError, match="is no index"):
        VectorIndex.load(tmp_path / "v.usearch")


def test_without_the_extra_the_pip_command_is_named(monkeypatch):
    real = __import__("importlib.util").util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "usearch" else real(name))
    with pytest.raises(UserError, match=r"pip install 'rankdistill\[index\]'"):
        VectorIndex.of(vectors(3, 8, 0), "int8")


@pytest.mark.parametrize("content", ["{}", "[]", '{"dtype": "int8", "items": "3", "dimensions": 8}'])
def test_a_damaged_file_beside_an_index_is_told(tmp_path, content):
    VectorIndex.of(vectors(3, 8, 0), "int8").save(tmp_path / "v.usearch")
    (tmp_path / "v.usearch.json").write_text(content)
    with pytest.raises(UserError, match="does not tell of one"):
        VectorIndex.load(tmp_path / "v.usearch")
