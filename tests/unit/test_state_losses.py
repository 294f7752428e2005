"""Losses on states against loops over layers, heads and tokens; what is captured against transformers' own outputs."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import rel_entr, softmax
from transformers import BertConfig, BertForSequenceClassification

from rankdistill.errors import ConfigError
from rankdistill.export.torch_models.cls_only import ClsOnlyBert
from rankdistill.losses import state_losses
from rankdistill.losses.state_terms import Shape, mapped_layers, problems
from rankdistill.options import Attention, Embedding, Hidden, Relations
from rankdistill.training.device import Device
from rankdistill.training.recorded_states import Place, every_token, recording
from rankdistill.training.teacher_states import PROJECTIONS, Imitation, imitating

FP32 = Device("cpu", bf16=False, attention="eager")


def bert(kind=BertForSequenceClassification, *, layers=2, width=16, heads=4, seed=0, attention="eager"):
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=50, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=24,
        max_position_embeddings=32, initializer_range=0.3, num_labels=1, attn_implementation=attention,
    )  # fmt: skip
    return kind(config).eval()


def batch(seed=1, pairs=3, tokens=7):
    rng = np.random.default_rng(seed)
    mask = np.arange(tokens) < np.r_[tokens, rng.integers(1, tokens + 1, pairs - 1)][:, None]
    ids = {
        "input_ids": rng.integers(1, 50, (pairs, tokens)) * mask,
        "attention_mask": mask,
        "token_type_ids": (np.arange(tokens) > tokens // 2) * mask,
    }
    return {name: torch.tensor(value, dtype=torch.int64) for name, value in ids.items()}


@st.composite
def states(draw):
    """Layers of a student and a teacher of other widths, whose padding holds large numbers, and the mask."""
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    pairs, tokens, layers, heads = (draw(st.integers(1, most)) for most in (3, 5, 3, 3))
    mask = np.arange(tokens) < rng.integers(1, tokens + 1, pairs)[:, None]
    scale = draw(st.sampled_from([0.1, 1.0, 5.0]))
    student, teacher = (
        [np.where(mask[:, :, None], rng.normal(0, scale, (pairs, tokens, width)), 1e4) for _ in range(2 * layers + 1)]
        for width in (2 * heads, 3 * heads)
    )
    return student, teacher, mask, heads


def tensors(arrays):
    return [torch.tensor(each, dtype=torch.float32) for each in arrays]


def couples(values):
    return list(zip(values[0:-1:2], values[1::2], strict=True))


def head(vectors, pair, number, heads):
    size = vectors.shape[2] // heads
    return vectors[pair, :, number * size : (number + 1) * size]


@settings(max_examples=60, deadline=None)
@given(states())
def test_hidden_is_the_mean_over_layers_tokens_and_width(case):
    student, teacher, mask, heads = case
    projection = np.random.default_rng(0).normal(size=(3 * heads, 2 * heads))
    by_layer = []
    for ours, theirs in zip(student, teacher, strict=True):
        squares = [
            (projection[row] @ ours[pair, token] - theirs[pair, token, row]) ** 2
            for pair, token in zip(*mask.nonzero(), strict=True)
            for row in range(3 * heads)
        ]
        by_layer.append(np.mean(squares))
    weight = torch.tensor(projection, dtype=torch.float32)
    value = state_losses.hidden(tensors(student), tensors(teacher), torch.tensor(mask), weight)
    assert value.item() == pytest.approx(np.mean(by_layer), rel=1e-4)
    value = state_losses.embedding(tensors(student)[0], tensors(teacher)[0], torch.tensor(mask), weight)
    assert value.item() == pytest.approx(by_layer[0], rel=1e-4)


@settings(max_examples=60, deadline=None)
@given(states())
def test_attention_is_the_mean_over_layers_real_tokens_what_they_look_at_and_heads(case):
    student, teacher, mask, heads = case
    by_layer = []
    for (query, key), (teacher_query, teacher_key) in zip(couples(student), couples(teacher), strict=True):
        rows = []
        for pair, token in zip(*mask.nonzero(), strict=True):
            squares = []
            for other in mask[pair].nonzero()[0]:
                for number in range(heads):
                    q, k = head(query, pair, number, heads)[token], head(key, pair, number, heads)[other]
                    tq = head(teacher_query, pair, number, heads)[token]
                    tk = head(teacher_key, pair, number, heads)[other]
                    squares.append((q @ k / np.sqrt(2) - tq @ tk / np.sqrt(3)) ** 2)
            rows.append(np.mean(squares))
        by_layer.append(np.mean(rows))
    ours, theirs = couples(tensors(student)), couples(tensors(teacher))
    value = state_losses.attention(ours, theirs, torch.tensor(mask), heads)
    assert value.item() == pytest.approx(np.mean(by_layer), rel=1e-3)


@settings(max_examples=60, deadline=None)
@given(states())
def test_relations_are_scipys_relative_entropy_of_every_row(case):
    student, teacher, mask, heads = case
    student, teacher = student[:3], teacher[:3]
    expected = 0.0
    for ours, theirs in zip(student, teacher, strict=True):
        rows = []
        for pair, token in zip(*mask.nonzero(), strict=True):
            for number in range(heads):
                a, b = (head(side, pair, number, heads)[mask[pair]] for side in (theirs, ours))
                wanted, given_ = (softmax(x @ x[token] / np.sqrt(x.shape[1])) for x in (a, b))
                rows.append(rel_entr(wanted, given_).sum())
        expected += np.mean(rows)
    value = state_losses.relations(tensors(student), tensors(teacher), torch.tensor(mask), heads)
    assert value.item() == pytest.approx(expected, rel=1e-3, abs=1e-4)


def losses_of(student, teacher, mask, heads):
    """Every loss of these states, of one width."""
    return {
        "hidden": state_losses.hidden(student, teacher, mask, None),
        "embedding": state_losses.embedding(student[0], teacher[0], mask, None),
        "attention": state_losses.attention(couples(student), couples(teacher), mask, heads),
        "relations": state_losses.relations(student[:3], teacher[:3], mask, heads),
    }


@settings(max_examples=30, deadline=None)
@given(states())
def test_each_is_zero_where_the_states_are_equal_and_only_there(case):
    student, _, mask, heads = case
    student, mask = tensors(student), torch.tensor(mask)
    assert all(value == 0 for value in losses_of(student, student, mask, heads).values())
    moved = [state + torch.randn(state.shape, generator=torch.Generator().manual_seed(0)) for state in student]
    found = losses_of(moved, student, mask, heads)
    if mask.sum(dim=1).max() > 1:  # a lone token is alike to itself alone
        assert found["relations"] > 0
    assert min(found["hidden"], found["embedding"], found["attention"]) > 0


@pytest.mark.parametrize("name", ["hidden", "embedding", "attention", "relations"])
def test_padding_shapes_neither_value_nor_gradient(name):
    mask = batch()["attention_mask"].bool()
    torch.manual_seed(0)
    student, teacher = ([torch.randn(3, 7, 8) for _ in range(4)] for _ in range(2))
    found = []
    for fill in (0.0, 1e4):
        ours, theirs = ([state.masked_fill(~mask[:, :, None], fill) for state in side] for side in (student, teacher))
        ours = [state.requires_grad_() for state in ours]
        value = losses_of(ours, theirs, mask, 2)[name]
        value.backward()
        found.append((value.detach(), [state.grad for state in ours if state.grad is not None]))
    (value, gradients), (filled, filled_gradients) = found
    assert value == pytest.approx(filled)
    assert len(gradients) == len(filled_gradients) > 0
    for gradient, other in zip(gradients, filled_gradients, strict=True):
        assert torch.isfinite(other).all()
        assert gradient[mask].abs().sum() > 0
        assert not other[~mask].any()
        torch.testing.assert_close(gradient, other)


def test_everything_is_computed_in_float32_under_autocast_too():
    torch.manual_seed(0)
    student, teacher = ([torch.randn(2, 5, 8) for _ in range(3)] for _ in range(2))
    mask, weight = torch.ones(2, 5, dtype=torch.bool), torch.randn(8, 8)
    plain = losses_of(student, teacher, mask, 2) | {"projected": state_losses.hidden(student, teacher, mask, weight)}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = losses_of(student, teacher, mask, 2) | {"projected": state_losses.hidden(student, teacher, mask, weight)}
    assert cast == plain
    assert {value.dtype for value in cast.values()} == {torch.float32}


def test_states_of_another_width_are_not_broadcast():
    mask = torch.ones(2, 5, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"the student's states are \[10, 1\], the teacher's \[10, 8\]"):
        state_losses.hidden([torch.randn(2, 5, 1)], [torch.randn(2, 5, 8)], mask, None)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_what_is_recorded_is_what_transformers_gives(attention):
    model, ids = bert(layers=3, attention=attention), batch()
    places = [Place("embedding", 0), *(Place(part, layer) for layer in range(3) for part in ("output", "query", "key"))]
    with recording(model, places) as found:
        model(**ids)
    eager = bert(layers=3)
    own = eager(**ids, output_hidden_states=True, output_attentions=True)
    assert set(found) == set(places)
    real = ids["attention_mask"].bool()
    layers = [Place("embedding", 0), *(Place("output", layer) for layer in range(3))]
    for place, state in zip(layers, own.hidden_states, strict=True):
        torch.testing.assert_close(found[place][real], state[real])
    for layer, probabilities in enumerate(own.attentions):
        scores = state_losses.attention_scores(found[Place("query", layer)], found[Place("key", layer)], 4)
        weights = scores.masked_fill(~real[:, None, None, :], -torch.inf).softmax(dim=3)
        torch.testing.assert_close(weights.transpose(1, 2)[real], probabilities.transpose(1, 2)[real])


def test_values_are_what_attention_mixes():
    model, ids = bert(), batch()
    mixed = []
    model.bert.encoder.layer[1].attention.output.dense.register_forward_pre_hook(lambda _, args: mixed.append(args[0]))
    with recording(model, [Place("value", 1)]) as found:
        own = model(**ids, output_attentions=True)
    values = found[Place("value", 1)].view(3, 7, 4, 4).transpose(1, 2)
    torch.testing.assert_close((own.attentions[1] @ values).transpose(1, 2).reshape(3, 7, 16), mixed[0])


def test_nothing_is_kept_beyond_the_context():
    model, ids = bert(), batch()
    with recording(model, [Place("output", 0), Place("query", 1)]) as found:
        model(**ids)
    kept = [weakref.ref(state) for state in found.values()]
    model(**ids)
    assert len(found) == 2
    assert not any(module._forward_hooks for module in model.modules())
    del found
    gc.collect()
    assert [ref() for ref in kept] == [None, None]
    with pytest.raises(ZeroDivisionError), recording(model, [Place("output", 0)]):
        raise ZeroDivisionError
    assert not any(module._forward_hooks for module in model.modules())


def test_a_second_pass_is_refused_and_so_is_a_model_that_computes_cls_alone():
    model, ids = bert(), batch()
    with recording(model, [Place("output", 0)]):
        model(**ids)
        with pytest.raises(RuntimeError, match="second forward pass while output of layer 0"):
            model(**ids)
    with pytest.raises(TypeError, match="ClsOnlyBert"), recording(bert(ClsOnlyBert), [Place("output", 0)]):
        pass


def test_every_token_is_the_same_model():
    state = torch.get_rng_state()
    short, ids = bert(ClsOnlyBert), batch()
    full = every_token(short)
    assert isinstance(full, BertForSequenceClassification)
    assert not isinstance(full, ClsOnlyBert)
    torch.testing.assert_close(full(**ids).logits, short(**ids).logits)
    assert {id(each) for each in full.parameters()} == {id(each) for each in short.parameters()}
    assert full.state_dict().keys() == short.state_dict().keys()
    torch.set_rng_state(state)
    bert(ClsOnlyBert)
    expected = torch.rand(1)
    torch.set_rng_state(state)
    every_token(bert(ClsOnlyBert))
    assert torch.rand(1) == expected  # it draws nothing


@pytest.mark.parametrize(
    ("student", "teacher", "layers"),
    [
        (2, 6, [2, 5]),
        (1, 6, [5]),
        (3, 6, [1, 3, 5]),
        (4, 6, [1, 2, 4, 5]),
        (6, 6, [0, 1, 2, 3, 4, 5]),
        (4, 12, [2, 5, 8, 11]),
    ],
)
def test_the_uniform_map_is_tinyberts(student, teacher, layers):
    assert mapped_layers("uniform", student, teacher) == layers
    assert mapped_layers(layers[::-1], student, teacher) == layers[::-1]


@given(st.integers(1, 24), st.data())
def test_the_uniform_map_rises_to_the_last_layer(teacher, data):
    student = data.draw(st.integers(1, teacher))
    layers = mapped_layers("uniform", student, teacher)
    assert layers == sorted(set(layers))
    assert len(layers) == student
    assert layers[-1] == teacher - 1
    assert layers[0] >= 0


TERMS = {
    "hidden": Hidden(weight=2.0),
    "attention": Attention(layer_map=[0, 0]),
    "embedding": Embedding(weight=0.5),
    "relations": Relations(heads=2, teacher_layer=1),
}


def test_imitation_is_the_weighted_sum_of_the_terms_on_the_two_models():
    student, teacher, ids = bert(width=8), bert(layers=3, seed=1), batch()
    imitation = Imitation(TERMS, student, teacher, bf16=False)
    assert set(imitation.projections) == {"hidden", "embedding"}
    outputs, value = imitation(student, ids)
    own, theirs = (model(**ids, output_hidden_states=True).hidden_states for model in (student, bert(layers=3, seed=1)))
    real = ids["attention_mask"].bool()

    def mse(name, ours, their):
        return (imitation.projections[name](ours[real]) - their[real]).square().mean()

    places = [Place(part, layer) for layer in range(2) for part in ("query", "key", "value")]
    with recording(student, places) as a, recording(whole := bert(layers=3, seed=1), places) as b:
        student(**ids)
        whole(**ids)
    first = (b[Place("query", 0)], b[Place("key", 0)])
    expected = (
        2.0 * (mse("hidden", own[1], theirs[2]) + mse("hidden", own[2], theirs[3])) / 2
        + state_losses.attention([(a[places[0]], a[places[1]]), (a[places[3]], a[places[4]])], [first, first], real, 4)
        + 0.5 * mse("embedding", own[0], theirs[0])
        + state_losses.relations([a[p] for p in places[3:]], [b[p] for p in places[3:]], real, 2)
    )
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(outputs.logits, student(**ids).logits)


def test_a_student_that_is_its_teacher_has_nothing_to_learn():
    terms = TERMS | {"attention": Attention()}
    student = bert()
    outputs, value = Imitation(terms, student, bert(), bf16=False)(student, batch())
    assert value == 0
    assert outputs.logits.requires_grad


def test_the_gradient_reaches_student_and_projections_and_never_the_teacher():
    student, teacher = bert(width=8), bert(seed=1)
    teacher.train()
    imitation = Imitation(TERMS, student, teacher, bf16=True)
    assert not teacher.training
    _, value = imitation(student, batch())
    value.backward()
    assert value.dtype == torch.float32
    assert all(each.weight.grad.abs().sum() > 0 for each in imitation.projections.values())
    assert student.bert.encoder.layer[0].attention.self.query.weight.grad.abs().sum() > 0
    assert not any(parameter.grad is not None or parameter.requires_grad for parameter in teacher.parameters())


def test_layers_that_nobody_looks_at_are_not_computed():
    for terms, layers in (
        ({"relations": Relations(heads=2, teacher_layer=1)}, 2),
        ({"embedding": Embedding()}, 0),
        ({"hidden": Hidden(layer_map=[2, 0])}, 3),
        ({"hidden": Hidden()}, 4),
    ):
        student, teacher = bert(), bert(layers=4)
        imitation = Imitation(terms, student, teacher, bf16=False)
        assert len(teacher.bert.encoder.layer) == layers
        _, value = imitation(student, batch())
        assert torch.isfinite(value)


def test_projections_are_the_students_while_it_trains(tmp_path):
    bert(width=16).save_pretrained(tmp_path)
    student, ids = bert(width=8), batch()
    before = set(student.state_dict())
    with imitating(student, {"hidden": Hidden()}, tmp_path, FP32) as imitation:
        assert set(student.state_dict()) - before == {f"{PROJECTIONS}.hidden.weight"}
        assert imitation(student, ids)[1] > 0
    assert set(student.state_dict()) == before
    with imitating(bert(), {"hidden": Hidden()}, tmp_path, FP32) as imitation:
        assert not imitation.projections
    with imitating(student, {}, None, FP32) as nothing:
        assert nothing is None


def test_terms_on_states_need_the_teachers_model():
    with pytest.raises(ConfigError) as refused, imitating(bert(), TERMS, None, FP32):
        pass
    told = "needs the teacher's model beside the student; where there are but its scores, allowed are terms on scores"
    assert str(refused.value).splitlines() == [f"loss.terms.{name}: {told}" for name in TERMS]


@pytest.mark.parametrize(
    ("term", "told"),
    [
        (Hidden(layer_map=[1]), "loss.terms.x.layer_map=[1]: allowed is uniform, or 2 of the teacher's layers 0 to 5"),
        (Attention(layer_map=[0, 6]), "loss.terms.x.layer_map=[0, 6]: allowed is uniform, or 2 of the teacher's"),
        (Relations(heads=5), "loss.terms.x.heads=5: allowed is a number that divides the student's width 8 and the te"),
        (Relations(heads=8), "loss.terms.x.heads=8: allowed is a number that divides"),  # 8, not 12
        (Relations(heads=4, teacher_layer=6), "loss.terms.x.teacher_layer=6: allowed is 0 to 5, or null"),
        (Attention(), "student.heads=2: allowed is 4, the teacher's number of heads, with loss.terms.x"),
    ],
)
def test_what_does_not_fit_the_two_models_is_told(term, told):
    found = [*problems({"x": term}, Shape(2, 8, 2), Shape(6, 12, 4))]
    assert any(line.startswith(told) for line in found), found
    fitting = {"x": Hidden(layer_map=[5, 0]), "y": Attention(), "z": Relations(heads=4, teacher_layer=5)}
    assert [*problems(fitting, Shape(2, 8, 4), Shape(6, 12, 4))] == []


def test_imitation_refuses_what_does_not_fit():
    with pytest.raises(ConfigError, match=r"student\.heads=2: allowed is 4.*loss\.terms\.attention"):
        Imitation({"attention": Attention()}, bert(heads=2), bert(), bf16=False)
