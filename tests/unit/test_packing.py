"""A model that computes no padding gives what transformers' own gives with it: scores, gradients, any lengths."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertConfig, BertForSequenceClassification

from rankdistill.export.errors import ModelError
from rankdistill.export.torch_models.cls_only import ClsOnlyBert
from rankdistill.export.torch_models.packing import CHUNK, ROWS, Packing
from rankdistill.training.recorded_states import every_token

LENGTHS = st.lists(st.integers(1, 70), min_size=1, max_size=3 * CHUNK)


def padded(lengths: list[int], extra: int, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (len(lengths), max(lengths) + extra)
    mask = torch.arange(shape[1]) < torch.tensor(lengths)[:, None]
    ids = torch.randint(1, 40, shape, generator=generator)  # what stands at the padding must not matter
    types = (torch.arange(shape[1]) > 3).long().expand(shape)
    return {"input_ids": ids, "attention_mask": mask.long(), "token_type_ids": types}


def pair_of_models(attention: str) -> tuple[BertForSequenceClassification, ClsOnlyBert]:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=3, num_attention_heads=4, intermediate_size=24,
        max_position_embeddings=80, initializer_range=0.3, num_labels=1, attn_implementation=attention,
    )  # fmt: skip
    ordinary = BertForSequenceClassification(config).eval()
    short = ClsOnlyBert(config).eval()
    short.load_state_dict(ordinary.state_dict())
    return ordinary, short


MODELS = {attention: pair_of_models(attention) for attention in ("eager", "sdpa")}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@settings(max_examples=40, deadline=None)
@given(lengths=LENGTHS, extra=st.integers(0, 3))
def test_scores_and_gradients_are_those_of_transformers(attention, lengths, extra):
    ordinary, short = MODELS[attention]
    inputs = padded(lengths, extra)
    wanted, found = ordinary(**inputs).logits, short(**inputs).logits
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    side = torch.arange(1.0, len(lengths) + 1)[:, None]  # a loss that knows which pair is which
    for model, logits in ((ordinary, wanted), (short, found)):
        model.zero_grad()
        (logits * side).mean().backward()
    for (name, a), b in zip(ordinary.named_parameters(), short.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=2e-4, rtol=1e-3, msg=name)


@settings(max_examples=100, deadline=None)
@given(lengths=LENGTHS, extra=st.integers(0, 3))
def test_every_token_stands_once_and_chunks_pad_it_to_its_pair(lengths, extra):
    inputs = padded(lengths, extra)
    packing = Packing.of(inputs["attention_mask"])
    flat = inputs["input_ids"].reshape(-1)[packing.cells]
    assert len(flat) == sum(lengths)
    for pair, length in enumerate(lengths):
        start = int(packing.first[packing.place[pair]])
        assert flat[start : start + length].tolist() == inputs["input_ids"][pair, :length].tolist()
        assert (packing.cells % inputs["input_ids"].shape[1])[start : start + length].tolist() == list(range(length))
    for chunk in (*packing.chunks, *packing.wide):
        values = torch.arange(4.0 * len(flat)).view(-1, 4)[chunk.tokens]
        there = chunk.pad(values, heads=2)
        np.testing.assert_array_equal(chunk.pack(there), values)
        whole = chunk.pad(values, heads=1)[:, 0]
        np.testing.assert_array_equal(torch.cat([there[:, 0], there[:, 1]], dim=-1), whole)
        for pair, length in zip(whole, sorted(lengths, reverse=True)[chunk.rows], strict=True):
            np.testing.assert_array_equal(pair[:length].diff(dim=0), torch.full((length - 1, 4), 4.0))
        assert there.shape[0] <= CHUNK
        assert there.shape[2] == chunk.longest


@settings(max_examples=50, deadline=None)
@given(lengths=LENGTHS)
def test_under_autocast_a_batch_has_one_of_few_numbers_of_tokens_and_those_too_many_stand_in_no_pair(lengths):
    mask = padded(lengths, 0)["attention_mask"]
    exact = Packing.of(mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = Packing.of(mask)
    assert len(rounded.cells) % ROWS == 0
    assert len(rounded.cells) - sum(lengths) < ROWS
    assert rounded.cells[: sum(lengths)].tolist() == exact.cells.tolist()
    for chunks in (rounded.chunks, rounded.wide):
        assert [index for chunk in chunks for index in range(len(exact.cells))[chunk.tokens]] == [*range(sum(lengths))]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_dropout_of_attention_is_the_modules(attention):
    _, short = pair_of_models(attention)
    inputs = padded([7, 3, 9], 0)
    still = short(**inputs).logits
    for module in short.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    torch.testing.assert_close(short.train()(**inputs).logits, still)
    for layer in short.bert.encoder.layer:
        layer.attention.self.dropout.p = 0.5
    assert not torch.allclose(short(**inputs).logits, still)
    torch.testing.assert_close(short.eval()(**inputs).logits, still)


def test_autocast_changes_no_more_than_rounding():
    ordinary, short = MODELS["eager"]
    inputs = padded([24, 5, 17, 9], 0)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        wanted, found = ordinary(**inputs).logits.float(), short(**inputs).logits.float()
    exact = ordinary(**inputs).logits
    assert (found - exact).abs().max() < 2 * (wanted - exact).abs().max() + 0.02


def test_gradients_in_bf16_point_where_those_of_fp32_do():
    _, short = pair_of_models("eager")
    inputs, side = padded([24, 5, 17, 9], 0), torch.tensor([1.0, -2.0, 3.0, -4.0])[:, None]
    exact = torch.autograd.grad((short(**inputs).logits * side).mean(), [*short.parameters()])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = short(**inputs).logits.float()
    rounded = torch.autograd.grad((logits * side).mean(), [*short.parameters()])
    flat = [torch.cat([each.flatten() for each in part]) for part in (exact, rounded)]
    assert torch.cosine_similarity(*flat, dim=0) > 0.999
    assert all(each.dtype == torch.float32 for each in rounded)


def test_relative_positions_are_refused():
    with pytest.raises(ModelError, match="position_embedding_type=relative_key"):
        ClsOnlyBert(BertConfig(num_labels=1, position_embedding_type="relative_key"))


@pytest.mark.parametrize("kind", ["cls only", "every token"])
def test_logits_under_autocast_are_not_rounded_to_bfloat16(kind):
    model = MODELS["eager"][1]
    if kind == "every token":
        model = every_token(model)
    inputs = padded([20] * 40, 0)
    with torch.inference_mode():
        wanted = model(**inputs).logits
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = model(**inputs).logits
    assert found.dtype == torch.float32
    on_grid = (found.view(torch.int32) & 0xFFFF) == 0  # bfloat16 is the upper half of a float32
    assert on_grid.float().mean() < 0.1
    assert len(found.unique()) == len(wanted.unique())
    torch.testing.assert_close(found, wanted, atol=0.1, rtol=0.1)
