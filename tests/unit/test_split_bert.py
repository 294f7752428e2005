"""A split ranker's lower layers see one text at a time: held to transformers' own layers, run on each text alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification

from rankdistill.export.torch_models.checkpoint import load_ranker, save_ranker
from rankdistill.export.torch_models.cls_only import ClsOnlyBert
from rankdistill.export.torch_models.packing import CHUNK
from rankdistill.export.torch_models.split_bert import SplitBert, split

LAYERS, POSITION = 4, 7
SIZES = st.lists(st.tuples(st.integers(2, 9), st.integers(1, 14)), min_size=1, max_size=CHUNK + 4)


def ordinary(attention: str = "eager") -> ClsOnlyBert:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=LAYERS, num_attention_heads=4, intermediate_size=24,
        max_position_embeddings=40, initializer_range=0.3, num_labels=1, attn_implementation=attention,
    )  # fmt: skip
    return ClsOnlyBert(config).eval()


def pairs(sizes: list[tuple[int, int]], extra: int = 0, seed: int = 0) -> dict[str, torch.Tensor]:
    """Return pairs with so many tokens of the query and the item, special ones included."""
    generator = torch.Generator().manual_seed(seed)
    query, item = (torch.tensor(each)[:, None] for each in zip(*sizes, strict=True))
    steps = torch.arange(int((query + item).max()) + extra)
    ids = torch.randint(1, 40, (len(sizes), len(steps)), generator=generator)  # at the padding too
    there = steps < query + item
    types = (steps >= query) & there
    return {"input_ids": ids, "attention_mask": there.long(), "token_type_ids": types.long()}


def alone(model: BertForSequenceClassification, layers: int, ids: torch.Tensor, kind: int, start: int) -> torch.Tensor:
    """Return a text's states after the lower layers, by transformers' modules: no mask, no other text."""
    positions = torch.arange(start, start + len(ids))[None]
    hidden = model.bert.embeddings(
        input_ids=ids[None], token_type_ids=torch.full_like(ids, kind)[None], position_ids=positions
    )
    for layer in model.bert.encoder.layer[:layers]:
        hidden = layer(hidden)
    return hidden


def reference(model: BertForSequenceClassification, layers: int, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    scores = []
    for ids, there, types in zip(*inputs.values(), strict=True):
        query, item = (ids[(there == 1) & (types == kind)] for kind in (0, 1))
        texts = [alone(model, layers, query, 0, 0), alone(model, layers, item, 1, POSITION)]
        hidden = torch.cat(texts, dim=1)
        for layer in model.bert.encoder.layer[layers:]:
            hidden = layer(hidden)
        scores.append(model.classifier(model.bert.pooler(hidden)))
    return torch.cat(scores)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("layers", [1, 3])
@settings(max_examples=8, deadline=None)
@given(sizes=SIZES, extra=st.integers(0, 3))
def test_scores_are_those_of_texts_read_apart(attention, layers, sizes, extra):
    model, inputs = split(ordinary(attention), layers, POSITION), pairs(sizes, extra)
    torch.testing.assert_close(model(**inputs).logits, reference(model, layers, inputs), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_gradients_are_those_of_texts_read_apart(attention):
    model, inputs = split(ordinary(attention), 2, POSITION), pairs([(3, 9), (5, 2), (4, 4), (9, 14)], 2)
    found = []
    for scores in (model(**inputs).logits, reference(model, 2, inputs)):
        model.zero_grad()
        (scores * torch.arange(1.0, 5.0)[:, None]).sum().backward()
        found.append([each.grad.clone() for each in model.parameters()])
    for ours, wanted in zip(*found, strict=True):
        torch.testing.assert_close(ours, wanted, atol=2e-4, rtol=1e-3)


def test_it_is_saved_as_what_no_library_reads_as_an_ordinary_bert(tmp_path):
    model, inputs = split(ordinary(), 2, POSITION), pairs([(3, 9), (5, 2)])
    save_ranker(model, str(tmp_path))
    for cls_only in (True, False):
        loaded = load_ranker(str(tmp_path), cls_only=cls_only)
        assert isinstance(loaded, SplitBert)
        torch.testing.assert_close(loaded(**inputs).logits, model(**inputs).logits, atol=1e-6, rtol=1e-6)
    with pytest.raises(ValueError, match="split_bert"):
        AutoModelForSequenceClassification.from_pretrained(tmp_path)
