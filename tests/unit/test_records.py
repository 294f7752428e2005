"""Tables of texts: more than 2 GiB of them, and long ones, are written and taken as short ones are."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from rankdistill.data import records, shortened_items
from rankdistill.data.records import ArrowWriter, TextTable


def test_no_text_has_offsets_that_end_at_2_gib():
    for schema in (records.TEXT_SCHEMA, records.ITEM_SCHEMA, shortened_items.SCHEMA):
        texts = [each.type for each in schema if each.name in ("id", "text", shortened_items.WHOLE)]
        assert texts == [pa.large_string()] * len(texts)
        assert not [each for each in schema if each.type in (pa.string(), pa.binary())]


def test_rows_are_taken_of_a_table_with_more_than_2_gib_of_text(tmp_path):
    block = pa.record_batch(
        [
            pa.array([f"i{n}" for n in range(64)], pa.large_string()),
            pa.array(["x" * (1 << 20)] * 64, pa.large_string()),
        ],
        schema=records.TEXT_SCHEMA,
    )
    table = TextTable(pa.Table.from_batches([block] * 33))  # one block 33 times: 2.06 GiB of text, 64 MiB of memory
    column = table.table.column("text")
    assert column.nbytes > 1 << 31
    assert [len(text) for text in table.texts([5, 33 * 64 - 1])] == [1 << 20] * 2
    assert table.texts(np.array([0], dtype=np.int32), "id") == ["i0"]


def test_long_texts_go_to_disk_in_smaller_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "BATCH_CHARACTERS", 1000)
    writer = ArrowWriter(tmp_path / "t.arrow", records.TEXT_SCHEMA)
    texts = ["x" * 300] * 10 + ["y"] * 10
    for number, text in enumerate(texts):
        writer.add(f"i{number}", text)
    writer.close()
    table = TextTable.open(tmp_path / "t.arrow")
    assert table.texts() == texts
    assert table.table.column("text").num_chunks == 3


@given(st.lists(st.integers(0, 6), max_size=8), st.data())
def test_rows_come_in_their_order_whatever_the_batches(sizes, data):
    schema = pa.schema([("id", pa.large_string()), ("text", pa.large_string())])
    names = [[f"{number}.{row}" for row in range(size)] for number, size in enumerate(sizes)]
    batches = [pa.record_batch([pa.array(each, pa.large_string())] * 2, schema=schema) for each in names]
    table, texts = TextTable(pa.Table.from_batches(batches, schema)), [text for each in names for text in each]
    rows = data.draw(st.lists(st.integers(0, len(texts) - 1), max_size=20)) if texts else []
    assert table.texts(rows) == [texts[row] for row in rows]
    assert table.texts(np.array(rows, dtype=np.int32), "id") == [texts[row] for row in rows]
