"""A teacher that is warmed up, begun from another, and a student that learns from unlabelled pairs, by the command."""

from __future__ import annotations

import json

import pytest

from tests.integration.commands import begin_with, distill, newest_run, small

WARM = [
    "warm=similarity", "warm.pairs.item_queries=5", "warm.pairs.embedding=4", "warm.pairs.bm25=2",
    "warm.pairs.random=2", "warm.fit.learning_rate=1e-3",
]  # fmt: skip
DRAWN = [
    "augment=histories", "augment.bm25=2", "augment.embedding=2", "augment.random=2", "augment.crossed_queries=5",
    "augment.hard_negatives=1", "augment.margin=0",
]  # fmt: skip


def stages(run):
    return json.loads((run / "run.json").read_text())["stages"]


@pytest.fixture(scope="module")
def warmed(tmp_path_factory, beir, encoder, begun):
    folder = begin_with(begun, tmp_path_factory.mktemp("warmed"))
    done = distill(*small(beir, encoder), *WARM, *DRAWN, "loss=[margin_mse,labels]", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, newest_run(folder)


def test_every_stage_is_kept_by_the_run(warmed):
    _, run = warmed
    found = stages(run)
    assert {"embeddings", "warm-up's pairs", "warm-up", "unlabelled pairs", "their scores"} <= set(found)
    scored = json.loads((run / found["their scores"] / "summary.json").read_text())
    drawn = json.loads((run / found["unlabelled pairs"] / "summary.json").read_text())
    assert scored["pairs"] == sum(drawn["pairs"].values()) > 0


def test_the_same_again_makes_nothing(warmed, beir, encoder):
    folder, run = warmed
    done = distill(*small(beir, encoder), *WARM, *DRAWN, "loss=[margin_mse,labels]", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert sorted(json.loads((newest_run(folder) / "run.json").read_text())["reused"]) == sorted(stages(run))


def test_what_is_drawn_for_the_student_leaves_the_teacher_alone(warmed, beir, encoder):
    folder, run = warmed
    done = distill(*small(beir, encoder), *WARM, *DRAWN, "augment.random=3", "loss=[margin_mse,labels]", cwd=folder)
    assert done.returncode == 0, done.stderr
    found = stages(newest_run(folder))
    assert found["teacher"].rsplit("/", 1)[-1] == stages(run)["teacher"].rsplit("/", 1)[-1]
    assert found["student"].rsplit("/", 1)[-1] != stages(run)["student"].rsplit("/", 1)[-1]


def test_a_teacher_learns_what_the_baselines_know_together(tmp_path, beir, encoder):
    done = distill(
        *small(beir, encoder), "warm=baselines", "warm.fit.max_pairs=600", "warm.fit.learning_rate=1e-3", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    run = newest_run(tmp_path)
    found = stages(run)
    assert {"embeddings", "all train baselines", "all dev baselines", "warm-up"} <= set(found)
    combination = json.loads((run / found["warm-up"] / "combination.json").read_text())
    assert combination["weight"].keys() == {"bm25", "embedding"}  # a set without popularity
    best = max(found_ndcg(run / found["all dev baselines"], run / found["data"]).values())
    assert combination["dev_ndcg@10"] >= best - 0.02
    assert f"have dev nDCG@10 {combination['dev_ndcg@10']:.3f}" in done.stderr + done.stdout


def found_ndcg(baselines, data):
    from rankdistill.baselines import floor
    from rankdistill.data.records import RankingData

    return {name: each.mean() for name, each in floor.read(baselines, RankingData.open(data).splits["dev"]).items()}


def test_a_teacher_begins_where_another_ended(warmed, beir, encoder):
    folder, run = warmed
    kept = ["teacher.fit.learning_rate=1e-9", "teacher.fit.weight_decay=0"]  # so that it stays where it began
    done = distill(*small(beir, encoder), f"teacher.init={run}", *kept, cwd=folder)
    assert done.returncode == 0, done.stderr
    import torch
    from safetensors.torch import load_file

    begun, before = (
        load_file(folder_ / stages(folder_)["teacher"] / "model.safetensors") for folder_ in (newest_run(folder), run)
    )
    assert all(torch.allclose(begun[name], before[name], atol=1e-5) for name in before)


def test_a_teacher_of_another_shape_is_refused(tmp_path, beir, encoder):
    from tests.conftest import THINGS, WORDS, write_encoder

    other = tmp_path / "other"
    write_encoder(other, [*WORDS, *THINGS], layers=3)
    done = distill(*small(beir, encoder), f"teacher.init={other}", cwd=tmp_path)
    assert done.returncode == 1
    assert "num_hidden_layers is 3, teacher.model's 2" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("runs/stages/*-*"))
