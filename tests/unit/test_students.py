"""The named students, what is refused of others, and which embeddings learn."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import BertConfig

from rankdistill.errors import ConfigError
from rankdistill.export.torch_models.cls_only import ClsOnlyBert
from rankdistill.models.importance import magnitude
from rankdistill.models.narrowing import choose_parts, cut
from rankdistill.models.student import choose_layers
from rankdistill.options import Student
from rankdistill.options.student_width import Width, freezes, head_counts, student_width, validate_student
from rankdistill.pipeline import model_stages
from tests.composing import composed

ROOT = Path(__file__).parents[2]
NAMES = sorted(path.stem for path in (ROOT / "conf/student").glob("*.yaml"))
MINILM = {"num_hidden_layers": 6, "hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536}
BERT_BASE = {"num_hidden_layers": 12, "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072}
VOCABULARY, POSITIONS = 30_522, 512


def named(name: str, *overrides: str) -> Student:
    return composed(f"student={name}", *overrides).student


def listed() -> dict[str, list[str]]:
    """Return the rows of the first table of docs/students.md by name."""
    text = (ROOT / "docs/students.md").read_text(encoding="utf-8")
    lines = text.partition("\n## ")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| `l")]
    return {row[0].strip("`"): row[1:] for row in rows}


def parameters(layers: int, width: Width) -> tuple[int, int]:
    """Return the parameters of a cross-encoder, all of them and those beyond the embeddings, written out."""
    h, f = width.hidden_size, width.intermediate_size
    norm, attention, feed_forward = 2 * h, 4 * (h * h + h), h * f + f + f * h + h
    beyond = layers * (attention + feed_forward + 2 * norm) + (h * h + h) + (h + 1)
    return (VOCABULARY + POSITIONS + 2) * h + norm + beyond, beyond


@pytest.fixture(scope="module")
def minilm() -> ClsOnlyBert:
    """A random BERT of MiniLM's shape with few words."""
    torch.manual_seed(0)
    return ClsOnlyBert(BertConfig(**MINILM, vocab_size=100, max_position_embeddings=POSITIONS, num_labels=1)).eval()


@pytest.mark.parametrize("name", NAMES)
def test_a_named_student_is_what_its_name_and_the_list_say(name, minilm):
    student = named(name)
    teacher = Width.of(BERT_BASE if name.endswith("_h768") else MINILM)
    validate_student(student, BERT_BASE if name.endswith("_h768") else MINILM)
    width = student_width(student, teacher)
    layers, hidden, *neurons = map(int, re.findall(r"\d+", name))
    assert (student.layers, width.hidden_size) == (layers, hidden)
    assert width.intermediate_size == (neurons or [4 * hidden])[0]
    total, beyond = parameters(layers, width)
    row = [str(layers), str(hidden), f"{width.heads} x {width.head_size}", str(width.intermediate_size),
           f"{total:,}", f"{beyond:,}"]  # fmt: skip
    assert listed()[name][:6] == row
    if hidden < 768:
        model = cut(minilm, choose_parts(magnitude(minilm), width), width)
        model.bert.encoder.layer = torch.nn.ModuleList(model.bert.encoder.layer[i] for i in choose_layers(layers, 6))
        words = (VOCABULARY - 100) * hidden
        assert sum(each.numel() for each in model.parameters()) + words == total


def test_the_list_has_every_named_student():
    assert sorted(listed()) == NAMES
    text = (ROOT / "docs/options.md").read_text(encoding="utf-8")
    assert [each.name for each in fields(Student) if f"`{each.name}" not in text] == []
    shown = (ROOT / "conf/hydra/help/rankdistill.yaml").read_text(encoding="utf-8")
    assert [name for name in NAMES if not re.search(rf"\b{name}\b", shown)] == []


REFUSED = {
    "student.layers=7": "student.layers=7: allowed is 1 to 6, the teacher's layers",
    "student.layers=[0,6]": "student.layers=[0, 6]: allowed is layers from 0 to 5, the teacher's",
    "student.hidden_size=416": "student.hidden_size=416: allowed is 1 to 384, the teacher's",
    "student.hidden_size=200": "student.hidden_size=200: allowed is a multiple of the teacher's head size 32",
    "student.heads=5": "student.heads=5: allowed is 12: a divisor of student.hidden_size=384",
    "student.heads=24": "student.heads=24: allowed is 12: a divisor of student.hidden_size=384, with heads",
    "student.intermediate_size=1537": "student.intermediate_size=1537: allowed is 1 to 1536, the teacher's",
}


@pytest.mark.parametrize("override", REFUSED)
def test_what_the_teacher_does_not_have_is_refused(override):
    with pytest.raises(ConfigError, match=re.escape(REFUSED[override])):
        validate_student(named("l2_h384", override), MINILM)


def test_all_that_is_wrong_is_told_at_once():
    student = named("l2_h384", "student.layers=9", "student.heads=7", "student.intermediate_size=9999")
    with pytest.raises(ConfigError) as caught:
        validate_student(student, MINILM)
    assert [line.split("=")[0] for line in str(caught.value).splitlines()] == [
        "student.layers", "student.heads", "student.intermediate_size",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("override", "allowed"),
    [
        ("student.importance=luck", "student.importance=luck: allowed is one of fisher, taylor, magnitude"),
        ("student.importance_pairs=1", "student.importance_pairs=1: allowed is a number >= 2"),
        ("student.refit_pairs=1", "student.refit_pairs=1: allowed is 0, or a number >= 2"),
        ("student.input.words=1048577", "student.input.words=1048577: allowed is a number from 1 to 1048576"),
        ("seed=4294967296", "seed=4294967296: allowed is a number from 0 to 4294967295"),
        ("student.heads=0", "student.heads=0: allowed is a number >= 1"),
        ("student.intermediate_size=0", "student.intermediate_size=0: allowed is a number >= 1"),
    ],
)
def test_what_no_teacher_has_is_refused_by_the_rules(override, allowed):
    with pytest.raises(ConfigError, match=re.escape(allowed)):
        named("l2_h384", override)


@pytest.mark.parametrize(("student", "depends"), [("l2_h384", False), ("l2_h384_f768", True), ("l2_h256", True)])
def test_what_tells_of_importance_is_no_part_of_a_student_that_leaves_nothing_out(tmp_path, student, depends):
    rest = {"model_type": "bert", "vocab_size": VOCABULARY, "max_position_embeddings": POSITIONS, "hidden_act": "gelu"}
    (tmp_path / "config.json").write_text(json.dumps(MINILM | rest))
    made = SimpleNamespace(key="key", folder=tmp_path)
    store = SimpleNamespace(get=lambda stage, *_, **__: stage.key)
    keys = {
        model_stages.student(store, composed(f"student={student}", *override), made, made, made, made, None, {})
        for override in ((), ("student.importance=taylor",), ("student.importance_pairs=64",))
    }
    assert len(keys) == (3 if depends else 1)


@pytest.mark.parametrize(
    ("hidden", "counts"),
    [(384, [12]), (256, [8]), (192, [6, 8, 12]), (96, [3, 4, 6, 8, 12]), (200, [8, 10]), (385, []), (7, [1, 7])],
)
def test_numbers_of_heads_that_can_be(hidden, counts):
    assert head_counts(hidden, Width.of(MINILM)) == counts


def test_other_heads_than_the_teachers_may_be_asked_for():
    student = named("l2_h192", "student.heads=12", "student.intermediate_size=100")
    validate_student(student, MINILM)
    assert student_width(student, Width.of(MINILM)) == Width(192, 12, 100)


@pytest.mark.parametrize(("hidden", "frozen"), [(384, True), (256, False)])
def test_embeddings_are_frozen_where_they_are_the_teachers(hidden, frozen):
    assert freezes(None, hidden, 384) is frozen
    for given in (True, False):
        assert freezes(given, hidden, 384) is given


@pytest.mark.parametrize(
    ("layers", "teacher", "taken"),
    [(1, 6, [5]), (2, 6, [0, 5]), (6, 6, [0, 1, 2, 3, 4, 5]), (3, 5, [0, 2, 4]), (1, 1, [0]), ([1, 3], 6, [1, 3])],
)
def test_layers_are_spread_evenly_and_the_last_is_kept(layers, teacher, taken):
    assert choose_layers(layers, teacher) == taken


@pytest.mark.parametrize("teacher", [6, 12])
def test_no_layer_is_taken_twice(teacher):
    for layers in range(1, teacher + 1):
        taken = choose_layers(layers, teacher)
        assert taken == sorted(set(taken))
        assert (len(taken), taken[-1]) == (layers, teacher - 1)
