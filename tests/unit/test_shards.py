"""Several workers: lists dealt out by user, changes averaged by lists, on Ray as in one process."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from rankdistill.export.runtime.text.tokens import PairEncoder
from rankdistill.online.federated_averaging import average, deal, train_on
from rankdistill.online.update_trainer import train_update
from rankdistill.options import AllUpdate, HeadUpdate, LoraUpdate, Train
from tests.update_parts import DEVICE, lessons_of, random_lists, small_model

STEADY = {"warmup": 0.0, "learning_rate": 1e-3, "group_size": 6, "batch_groups": 4, "optimizer": "new"}


@pytest.fixture(scope="module")
def lessons(encoder):
    return lessons_of(random_lists(23, users=5), PairEncoder.load(encoder, 24))


def options(tmp_path):
    return {
        "train": Train(dropout=0.0), "device": DEVICE, "freeze_embeddings": True, "seed": 3, "work": tmp_path,
    }  # fmt: skip


def test_every_list_goes_to_one_worker_and_a_users_to_the_same(lessons):
    shares = deal(lessons, 2)
    owners = [set(share.owner.tolist()) for share in shares]
    assert owners == [{0, 2, 4}, {1, 3}]
    assert sum(len(share.owner) for share in shares) == len(lessons.owner)
    for share in shares:
        assert set(share.known) == set(lessons.known)
        assert all(len(values) == len(share.pairs) for values in share.known.values())
    served = np.concatenate([share.known["served"] for share in shares])
    assert sorted(served.tolist()) == sorted(lessons.known["served"].tolist())


def test_a_share_is_its_lists_with_what_is_known_of_them(lessons):
    split = lessons.pairs.split
    share = deal(lessons, 2)[1]
    lists = [number for number in range(len(split.query)) if lessons.owner[number] % 2]
    rows = [row for number in lists for row in range(split.offsets[number], split.offsets[number + 1])]
    assert share.pairs.split.grade.tolist() == split.grade[rows].tolist()
    assert share.known["teacher"].tolist() == lessons.known["teacher"][rows].tolist()


def test_workers_without_users_have_no_share(lessons):
    assert len(deal(lessons, 20)) == 5


def test_changes_are_averaged_by_lists():
    start = {"w": torch.tensor([1.0, 2.0]), "n": torch.tensor(3)}
    trained = [
        {"w": torch.tensor([2.0, 2.0]), "n": torch.tensor(3)},
        {"w": torch.tensor([1.0, 6.0]), "n": torch.tensor(3)},
    ]
    mean = average(start, trained, [30, 10])
    wanted = (30 * trained[0]["w"].numpy() + 10 * trained[1]["w"].numpy()) / 40
    assert mean["w"].tolist() == wanted.tolist()
    assert mean["n"] is not start["n"]
    assert mean["n"].item() == 3
    assert average(start, [start], [7])["w"].tolist() == [1.0, 2.0]


def test_one_worker_is_the_training_itself(encoder, lessons, tmp_path):
    one, other = small_model(str(encoder)), small_model(str(encoder))
    update = HeadUpdate(**STEADY)
    moments, began = train_on(one, lessons, {}, update=update, **options(tmp_path))
    train_update(other, lessons, {}, update=update, **options(tmp_path))
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())
    assert (bool(moments), began) == (True, "new")


@pytest.mark.parametrize("kind", [AllUpdate, LoraUpdate])
def test_two_workers_on_ray_are_the_mean_of_two_trainings(encoder, lessons, tmp_path, kind):
    pytest.importorskip("ray")
    model = small_model(str(encoder))
    start = copy.deepcopy(model)
    update = kind(workers=2, **STEADY)
    moments, began = train_on(model, lessons, {}, update=update, **options(tmp_path))
    assert (moments, began) == ({}, "new")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as each worker has
    try:
        trained = []
        for number, share in enumerate(deal(lessons, 2)):
            student = copy.deepcopy(start)
            train_update(student, share, {}, update=kind(**STEADY), **options(tmp_path / str(number)))
            trained.append({name: value.numpy() for name, value in student.state_dict().items()})
    finally:
        torch.set_num_threads(threads)
    counts = [len(share.owner) for share in deal(lessons, 2)]
    moved = 0.0
    for name, value in model.state_dict().items():
        wanted = sum(count * each[name] for count, each in zip(counts, trained, strict=True)) / sum(counts)
        assert np.allclose(value.numpy(), wanted, atol=1e-6), name
        moved = max(moved, float(np.abs(wanted - start.state_dict()[name].numpy()).max()))
    assert moved > 1e-3
