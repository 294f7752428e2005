"""What is gathered beside the labels is made again only where what it depends on has changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rankdistill.data import beir
from rankdistill.data.records import RankingData
from rankdistill.models import encoder_embeddings
from rankdistill.pipeline import data_stages
from rankdistill.store.stages import Built, Store
from tests.conftest import write_beir


def prepared(folder: Path, out: Path) -> Built:
    out.mkdir()
    beir.prepare(folder, out, name="set", relevant=1, candidates=10, dev_fraction=0.25, seed=0)
    return Built(key=out.name, folder=out, seconds=0.0, reused=False)


def test_another_split_of_the_same_texts_reuses_their_embeddings(tmp_path, encoder):
    store, folder = Store(tmp_path / "stages"), tmp_path / "set"
    write_beir(folder)
    first = data_stages.embeddings(store, prepared(folder, tmp_path / "data-1"), encoder)
    dev, test = (folder / "qrels" / f"{split}.tsv" for split in ("dev", "test"))
    swapped = dev.read_text(), test.read_text()
    test.write_text(swapped[0])
    dev.write_text(swapped[1])
    data = prepared(folder, tmp_path / "data-2")
    again = data_stages.embeddings(store, data, encoder)
    assert not first.reused
    assert again.reused
    assert again.folder == first.folder
    texts = RankingData.open(data.folder).queries.texts()
    expected = encoder_embeddings.embed(texts, encoder, encoder_embeddings.TOKENS, "queries")
    np.testing.assert_allclose(encoder_embeddings.read(again.folder)[0], expected, atol=1e-6)


def test_other_texts_are_embedded_anew(tmp_path, encoder):
    store = Store(tmp_path / "stages")
    built = []
    for seed in (0, 1):
        write_beir(tmp_path / f"set-{seed}", seed=seed)
        data = prepared(tmp_path / f"set-{seed}", tmp_path / f"data-{seed}")
        built.append(data_stages.embeddings(store, data, encoder))
    assert not built[1].reused
    assert built[1].folder != built[0].folder
