"""The training of an update: what of the student changes, and that kept moments make many updates one training."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import BertForSequenceClassification, TrainingArguments

from rankdistill.errors import ConfigError
from rankdistill.export.graphs.tables import distinct_rows
from rankdistill.export.runtime.text.tokens import PairEncoder
from rankdistill.export.torch_models.cls_only import ClsOnlyBert
from rankdistill.online.trainable_parts import ADAPTED, open_up
from rankdistill.online.update_loss import update_loss
from rankdistill.online.update_trainer import KEPT, NEW, load_state, save_state, train_update
from rankdistill.options import AllUpdate, HeadUpdate, LoraUpdate, TopLayersUpdate, Train
from rankdistill.training.collator import Collator
from rankdistill.training.steps import draw_steps
from tests.update_parts import DEVICE, lessons_of, random_lists, small_model

HEAD = ("bert.pooler", "classifier")
STEADY = {"warmup": 0.0, "learning_rate": 1e-3, "group_size": 6, "batch_groups": 4}


@pytest.fixture(scope="module")
def pair_encoder(encoder):
    return PairEncoder.load(encoder, 24)


def trained(model, lessons, update, tmp_path, state=None, *, frozen=True, seed=3):
    options = {"train": Train(dropout=0.0), "device": DEVICE, "freeze_embeddings": frozen, "seed": seed}
    return train_update(model, lessons, state or {}, update=update, work=tmp_path, **options)


def changed(before, after):
    """The names of what differs, without adapters' own part of a name."""
    old = {name: value.clone() for name, value in before.state_dict().items()}
    return {name for name, value in after.state_dict().items() if not torch.equal(old[name], value)}


@pytest.mark.parametrize(
    ("update", "frozen", "may"),
    [
        (HeadUpdate(**STEADY), True, HEAD),
        (TopLayersUpdate(k=1, **STEADY), True, (*HEAD, "bert.encoder.layer.1.")),
        (TopLayersUpdate(k=2, **STEADY), True, (*HEAD, "bert.encoder.layer.")),
        (AllUpdate(**STEADY), True, (*HEAD, "bert.encoder.layer.")),
        (AllUpdate(**STEADY), False, (*HEAD, "bert.encoder.layer.", "bert.embeddings.")),
        (LoraUpdate(**STEADY), True, ("bert.pooler", "bert.encoder.layer.")),
    ],
    ids=lambda value: getattr(value, "kind", None),
)
def test_only_what_should_change_does(encoder, pair_encoder, tmp_path, update, frozen, may):
    model = small_model(str(encoder))
    before = copy.deepcopy(model)
    trained(model, lessons_of(random_lists(12), pair_encoder), update, tmp_path, frozen=frozen)
    found = changed(before, model)
    assert all(name.startswith(may) for name in found)
    assert all(any(name.startswith(part) for name in found) for part in may)
    assert set(model.state_dict()) == set(before.state_dict())  # of an ordinary checkpoint again
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_tokens_that_a_vocabulary_lost_stay_one_with_unknown_ones(encoder, pair_encoder, tmp_path):
    """Else a graph has to store them all again, and each means something else that nobody taught it."""
    model = small_model(str(encoder))
    table = model.bert.embeddings.word_embeddings.weight
    ids = np.unique(np.concatenate([lessons_of(random_lists(12), pair_encoder).pairs.table.items.ids]))
    unknown, dropped = 1, ids[-4:]
    with torch.no_grad():
        table[dropped] = table[unknown].clone()
    before = table.detach().clone()
    trained(model, lessons_of(random_lists(12), pair_encoder), AllUpdate(**STEADY), tmp_path, frozen=False)
    after = model.bert.embeddings.word_embeddings.weight
    assert after.shape == before.shape
    assert not torch.equal(after[unknown], before[unknown])
    assert (after[dropped] == after[unknown]).all()
    assert len(distinct_rows(after.detach().numpy())[0]) == len(distinct_rows(before.numpy())[0])


def test_more_layers_than_there_are_is_a_mistake(encoder):
    with pytest.raises(ConfigError, match=r"update\.k=3: the student has 2 layers"):
        open_up(small_model(str(encoder)), TopLayersUpdate(k=3), True)


@pytest.mark.parametrize("kind", [BertForSequenceClassification, ClsOnlyBert])
def test_merged_adapters_score_as_the_adapted_model(encoder, kind):
    model = kind(small_model(str(encoder)).config).eval()
    model.load_state_dict(small_model(str(encoder)).state_dict())
    update = LoraUpdate(rank=4, alpha=12.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    merge = open_up(model, update, True)
    torch.manual_seed(0)
    learning = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learning
    assert all(".lora_" in name for name in learning)
    with torch.no_grad():
        for parameter in learning.values():
            parameter.copy_(torch.randn_like(parameter) * 0.1)
    low_rank = {name.replace(".default", ""): value.detach().clone() for name, value in learning.items()}
    ids = torch.randint(5, 50, (7, 12))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    adapted = model(**inputs).logits
    adapted.sum().backward()
    assert all(p.grad is not None and p.grad.any() for n, p in learning.items() if not n.endswith("key.bias")), kind
    with torch.no_grad():
        merge()
        merged = model(**inputs).logits
    assert torch.allclose(adapted, merged, atol=1e-5)
    for name, value in model.state_dict().items():  # W + alpha / rank * B A, the paper's formula
        module = name.removesuffix(".weight")
        change = 0.0
        if f"{module}.lora_A.weight" in low_rank:
            change = 12.0 / 4 * low_rank[f"{module}.lora_B.weight"] @ low_rank[f"{module}.lora_A.weight"]
        assert torch.allclose(value, before[name] + change, atol=1e-6), name
    adapted_names = {name.split(".lora_")[0] for name in low_rank}
    wanted = {n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and n.split(".")[-1] in ADAPTED}
    assert adapted_names == wanted


def by_hand(model, parts, update, seed):
    """One AdamW over all parts, written out: constant rate, no decay of vectors, gradients cut to a norm of 1."""
    names = [name for name, _ in model.named_parameters() if name.startswith(HEAD)]
    learning = {name: p for name, p in model.named_parameters() if name in names}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in learning)
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in learning.values() if p.ndim > 1], "weight_decay": update.weight_decay},
            {"params": [p for p in learning.values() if p.ndim == 1], "weight_decay": 0.0},
        ],
        lr=update.learning_rate,
    )
    loss = update_loss(labels=update.labels, replay=update.replay, anchor=update.anchor)
    for lessons in parts:
        pairs = lessons.pairs
        steps = draw_steps(
            pairs.split, pairs.lengths, size=update.group_size, batch=update.batch_groups, tokens=None, epochs=1.0,
            max_pairs=None, seed=seed,
        )  # fmt: skip
        collate = Collator(pairs, lessons.known, steps.mean_groups)
        for step in range(len(steps)):
            batch = collate([steps[step]])
            ids = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
            scores = torch.zeros(batch["mask"].shape)
            scores[batch["mask"]] = model(**ids).logits[:, 0]
            optimizer.zero_grad()
            (loss(scores, batch) * batch["weight"]).backward()
            torch.nn.utils.clip_grad_norm_(learning.values(), 1.0)
            optimizer.step()


def test_kept_moments_make_two_updates_one_training(encoder, pair_encoder, tmp_path):
    update = HeadUpdate(**STEADY)
    parts = [lessons_of(random_lists(17, seed=seed), pair_encoder, seed=seed) for seed in (1, 2)]
    model, other, anew = (small_model(str(encoder)) for _ in range(3))
    state, began = trained(model, parts[0], update, tmp_path / "a")
    assert began == NEW
    save_state(state, update.kind, tmp_path / "moments")
    _, began = trained(model, parts[1], update, tmp_path / "b", load_state(tmp_path / "moments", update.kind))
    assert began == KEPT
    by_hand(other, parts, update, seed=3)
    for part in parts:
        trained(anew, part, update, tmp_path / "c")
    apart, nearest = [], []
    for name, value in model.state_dict().items():
        assert torch.allclose(value, other.state_dict()[name], atol=2e-6), name
        apart.append(float((value - anew.state_dict()[name]).abs().max()))
        nearest.append(float((value - other.state_dict()[name]).abs().max()))
    assert max(apart) > 100 * max(nearest)  # so that the comparison tells the two apart


def test_a_training_in_bf16_before_does_not_decide_the_precision(encoder, pair_encoder, tmp_path):
    lessons = lessons_of(random_lists(10), pair_encoder)
    one, two = small_model(str(encoder)), small_model(str(encoder))
    trained(one, lessons, HeadUpdate(**STEADY), tmp_path)
    TrainingArguments(output_dir=str(tmp_path / "other"), bf16=True, use_cpu=True)
    trained(two, lessons, HeadUpdate(**STEADY), tmp_path)
    assert changed(one, two) == set()


def test_moments_of_something_else_are_not_taken(encoder, pair_encoder, tmp_path):
    lessons = lessons_of(random_lists(8), pair_encoder)
    head, top = HeadUpdate(**STEADY), TopLayersUpdate(k=1, **STEADY)
    state, _ = trained(small_model(str(encoder)), lessons, head, tmp_path)
    save_state(state, head.kind, tmp_path / "moments")
    assert load_state(tmp_path / "moments", top.kind) == {}
    assert load_state(tmp_path / "none", head.kind) == {}
    kept = load_state(tmp_path / "moments", head.kind)
    assert {name.rpartition(".")[2] for name in kept} == {"exp_avg", "exp_avg_sq", "step"}
    assert trained(small_model(str(encoder)), lessons, head, tmp_path, kept)[1] == KEPT
    assert trained(small_model(str(encoder)), lessons, top, tmp_path, kept)[1] == NEW
    narrower = {name: value[..., :3] if value.ndim else value for name, value in kept.items()}
    assert trained(small_model(str(encoder)), lessons, head, tmp_path, narrower)[1] == NEW


def test_the_same_seed_gives_the_same_student(encoder, pair_encoder, tmp_path):
    lessons = lessons_of(random_lists(10), pair_encoder)
    for update in (HeadUpdate(**STEADY), LoraUpdate(**STEADY)):
        one, two, other = (small_model(str(encoder)) for _ in range(3))
        trained(one, lessons, update, tmp_path)
        trained(two, lessons, update, tmp_path)
        trained(other, lessons, update, tmp_path, seed=4)
        assert changed(one, two) == set()
        assert changed(one, other)


def test_it_learns_what_events_say_and_the_anchor_holds_it_back(encoder, pair_encoder, tmp_path):
    lists = random_lists(24)
    lessons = lessons_of(lists, pair_encoder)
    model = small_model(str(encoder))
    pairs = lessons.pairs
    inputs = {name: torch.from_numpy(v) for name, v in pairs.batch(np.arange(len(pairs))).items()}
    with torch.no_grad():
        served = model(**inputs).logits[:, 0].numpy()
    lessons = replace(lessons, known=lessons.known | {"served": served})

    def after(anchor):
        student = copy.deepcopy(model)
        update = AllUpdate(labels=1.0, replay=0.0, anchor=anchor, epochs=8.0, **STEADY)
        trained(student, lessons, update, tmp_path)
        with torch.no_grad():
            scores = student(**inputs).logits[:, 0].numpy()
        grades = pairs.split.grade
        gap = scores[grades == 2].mean() - scores[grades == 0].mean()
        return gap, float(np.square(scores - served).mean())

    loose, held = after(0.0), after(30.0)
    start = served[pairs.split.grade == 2].mean() - served[pairs.split.grade == 0].mean()
    assert loose[0] > start + 0.1
    assert held[1] < 0.2 * loose[1]
