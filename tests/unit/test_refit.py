"""Weights fitted to the teacher's states: least squares, exact where an exact student exists."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from transformers import BertForSequenceClassification

from rankdistill.export.torch_models.split_bert import split
from rankdistill.models import refit as refit_
from rankdistill.models.importance import magnitude
from rankdistill.models.narrowing import Parts, choose_parts, cut
from rankdistill.models.refit import refit
from rankdistill.options.student_width import Width
from tests.unit.test_shrink import HEADS, HIDDEN, LAYERS, NEURONS, TEACHER, Pairs, bert, scores

PAIRS = Pairs(queries=20)
ROWS = np.arange(160)
EXACT = 1e-9


def teacher_of(student) -> BertForSequenceClassification:
    """Return the same weights in a model that computes all tokens in its last layer."""
    whole = bert(kind=BertForSequenceClassification)
    whole.load_state_dict(student.state_dict())
    return whole


def test_linear_layers_get_the_weights_of_ridge_regression():
    rng = np.random.default_rng(0)
    inputs, wanted = rng.normal(size=(50, 4)), rng.normal(size=(50, 3))
    linear = nn.Linear(4, 3)
    old = linear.weight.detach().double().numpy().copy()
    pull = refit_.RIDGE * (inputs**2).sum(axis=0).mean()
    with torch.no_grad():
        parts = [
            (torch.tensor(i).float(), torch.tensor(w).float())
            for i, w in ((inputs[:20], wanted[:20]), (inputs[20:], wanted[20:]))
        ]
        refit_._fit(linear, parts)
    # the ridge written as rows more, one a weight, that ask for the weight as it was; the bias is free
    left = np.block([[inputs, np.ones((50, 1))], [np.sqrt(pull) * np.eye(4), np.zeros((4, 1))]])
    solution = np.linalg.lstsq(left, np.concatenate([wanted, np.sqrt(pull) * old.T]), rcond=None)[0]
    np.testing.assert_allclose(linear.weight.detach().numpy(), solution[:4].T, atol=1e-4)
    np.testing.assert_allclose(linear.bias.detach().numpy(), solution[4], atol=1e-4)


def test_norms_get_the_line_through_each_dimension():
    rng = np.random.default_rng(0)
    seen, wanted = torch.tensor(rng.normal(size=(60, 5))).float(), torch.tensor(rng.normal(size=(60, 5))).float()
    norm = nn.LayerNorm(5, eps=1e-12)
    with torch.no_grad():
        plain = norm(seen).numpy()
        refit_._fit_norm(norm, [(seen[:25], wanted[:25]), (seen[25:], wanted[25:])])
    for dimension in range(5):
        gain, bias = np.polyfit(plain[:, dimension], wanted[:, dimension].numpy(), 1)
        assert norm.weight[dimension].item() == pytest.approx(gain, abs=1e-4)
        assert norm.bias[dimension].item() == pytest.approx(bias, abs=1e-4)


def test_a_student_that_is_its_teacher_stays_it():
    student = bert()
    refit(student, teacher_of(student), range(LAYERS), Parts.all(TEACHER, LAYERS), PAIRS, ROWS)
    torch.testing.assert_close(scores(student), scores(bert()), rtol=1e-3, atol=1e-3)


def test_neurons_that_others_can_stand_in_for_are_made_up_for(monkeypatch):
    """Each dropped neuron fires as a kept one does, with weights of its own: the kept one's can take them over."""
    monkeypatch.setattr(refit_, "RIDGE", EXACT)
    teacher, half = bert(), NEURONS // 2
    with torch.no_grad():
        for layer in teacher.bert.encoder.layer:
            for part in (layer.intermediate.dense.weight, layer.intermediate.dense.bias):
                part[half:] = part[:half]
    everything = Parts.all(TEACHER, LAYERS)
    parts = Parts(**vars(everything) | {"neurons": everything.neurons[:, :half]})
    student = cut(teacher, parts, Width(HIDDEN, HEADS, half))
    assert (scores(student) - scores(teacher)).abs().max() > 0.1
    refit(student, teacher_of(teacher), range(LAYERS), parts, PAIRS, ROWS)
    torch.testing.assert_close(scores(student), scores(teacher), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    ("width", "layers"),
    [
        (TEACHER, [0]), (TEACHER, [1]), (Width(8, 2, 12), [0]), (Width(8, 2, 12), [0, 1]), (Width(12, 4, 24), [1]),
        (Width(12, 4, 24), [0, 1]), (Width(16, 4, 6), [0, 1]),
    ],
)  # fmt: skip
def test_states_come_nearer_to_the_teachers(width, layers):
    whole, shallow = teacher_of(bert()), bert()
    shallow.bert.encoder.layer = nn.ModuleList(shallow.bert.encoder.layer[layer] for layer in layers)
    shallow.config.num_hidden_layers = len(layers)
    parts = choose_parts(magnitude(shallow), width)
    student = cut(shallow, parts, width)
    inputs = PAIRS.inputs()

    def pooled(model) -> torch.Tensor:
        with torch.no_grad():
            return model.bert(**inputs).pooler_output

    def distance() -> float:
        return float(((pooled(student) - pooled(whole)[:, torch.from_numpy(parts.pooled)]) ** 2).mean())

    before = distance()
    refit(student, whole, layers, parts, PAIRS, ROWS)
    assert distance() < before / 2


def test_embedding_tables_stay_the_teachers():
    width = Width(8, 2, 12)
    parts = choose_parts(magnitude(bert()), width)
    student = cut(bert(), parts, width)
    refit(student, teacher_of(bert()), range(LAYERS), parts, PAIRS, ROWS)
    words = bert().bert.embeddings.word_embeddings.weight[:, torch.from_numpy(parts.hidden)]
    assert torch.equal(student.bert.embeddings.word_embeddings.weight, words)


def test_a_split_student_is_fitted_on_what_it_computes(monkeypatch):
    """With nothing fitted, the states that reach the head are those of the model itself."""
    student = split(bert(), 1, 5)
    monkeypatch.setattr(refit_, "_fit", lambda linear, rows: None)
    monkeypatch.setattr(refit_, "_fit_norm", lambda norm, rows: None)
    reached = []
    monkeypatch.setattr(refit_, "_refit_head", lambda *arguments: reached.extend(arguments[2]))
    rows = np.arange(48)  # all of them, in the order of `scores`
    refit(student, bert(kind=BertForSequenceClassification), range(LAYERS), Parts.all(TEACHER, LAYERS), Pairs(), rows)
    cls = torch.cat([batch.ours[:, 0] for batch in reached])
    with torch.no_grad():
        found = student.classifier(torch.tanh(student.bert.pooler.dense(cls)))[:, 0]
    torch.testing.assert_close(found, scores(student), atol=1e-5, rtol=1e-5)
    assert (scores(student) - scores(bert())).abs().max() > 1e-2


def test_a_split_student_comes_nearer_to_its_teacher():
    teacher = bert()
    student = split(bert(), 1, 5)
    before = (scores(student) - scores(teacher)).square().mean()
    refit(student, teacher_of(teacher), range(LAYERS), Parts.all(TEACHER, LAYERS), PAIRS, ROWS)
    assert (scores(student) - scores(teacher)).square().mean() < 0.7 * before
