"""A training that learns nothing is ended or told of; one that learns is left alone."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rankdistill.errors import TrainingError
from rankdistill.export.measure.quality import ranking_metrics
from rankdistill.losses import score_losses
from rankdistill.training.monitor import LEAST_QUERIES, LEAST_STEPS, Monitor, chance_ndcg, spread

STEPS = 200
QUERIES = 100


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=5))
def test_chance_is_the_mean_over_every_order(grades):
    offsets = np.array([0, len(grades)])
    orders = [
        ranking_metrics(np.array(order, dtype=float), np.array(grades), offsets)["ndcg@10"][0]
        for order in itertools.permutations(range(len(grades)))
    ]
    np.testing.assert_allclose(chance_ndcg(np.array(grades), offsets), [np.mean(orders)], atol=1e-12)


def test_chance_of_long_lists_is_what_random_scores_come_to():
    rng = np.random.default_rng(0)
    grades, offsets = rng.integers(0, 3, size=4000), np.arange(0, 4001, 40)
    found = [ranking_metrics(rng.random(4000), grades, offsets)["ndcg@10"].mean() for _ in range(50)]
    assert chance_ndcg(grades, offsets).mean() == pytest.approx(np.mean(found), abs=0.005)


def test_spread_is_the_deviation_within_groups_and_knows_no_level():
    scores = torch.tensor([[1.0, 3.0, 99.0], [10.0, 10.0, 10.0]])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    wanted = (np.std([1, 3], ddof=1) + 0) / 2
    assert float(spread(scores, mask)) == pytest.approx(wanted)
    assert float(spread(scores[:1], torch.tensor([[True, False, False]]))) == 0


def follow(monitor: Monitor, signal: float, noise: float, steps: int = STEPS, seed: int = 0) -> None:
    """Show a monitor steps whose scores are `signal` times the label and noise."""
    generator = torch.Generator().manual_seed(seed)
    grades = torch.tensor([[1, 0, 0, 0, 0, 0, 0, 0]] * 4)
    mask = torch.ones_like(grades, dtype=torch.bool)
    for step in range(1, steps + 1):
        scores = signal * grades + noise * torch.randn(grades.shape, generator=generator)
        monitor.step(lambda values: score_losses.listwise_labels(values, grades, mask), scores, mask)
        monitor.check(step, STEPS)


@pytest.mark.parametrize(
    ("signal", "noise", "told"),
    [
        (0.0, 0.001, "scores of a list differ by a standard deviation of 0.00"),
        (0.0, 0.5, "the loss of equal scores falls by -?0.0\\d+ towards the model's, standard error 0.0"),
        (-0.5, 0.5, "the loss of equal scores falls by -0.0\\d+ towards the model's, standard error 0.0"),
    ],
)
def test_a_training_at_chance_is_ended_after_half_of_its_steps(signal, noise, told):
    monitor = Monitor("teacher", hints="try another", baselines={"bm25": np.array([0.2, 0.4])})
    with pytest.raises(TrainingError, match=rf"^teacher: nothing is learned by step 1\d\d of 200: .*{told}") as error:
        follow(monitor, signal, noise)
    assert str(error.value).endswith("; dev nDCG@10 of rankers that cost nothing: bm25 0.300; try another")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("seed", range(10))
def test_a_training_that_learns_is_left_alone_whatever_its_scale(seed, scale):
    follow(Monitor("teacher"), signal=0.4 * scale, noise=0.8 * scale, seed=seed)


@pytest.mark.parametrize("seed", range(10))
def test_one_at_chance_is_found_before_its_end(seed):
    with pytest.raises(TrainingError, match="falls by"):
        follow(Monitor("teacher"), signal=0.0, noise=1.0, seed=seed)


def test_what_the_steps_show_is_told():
    monitor = Monitor("teacher")
    assert monitor.shown(STEPS) == {}
    follow(monitor, signal=1.0, noise=0.5)
    found = monitor.shown(STEPS)
    assert found["fall"] > 5 * found["standard_error"] > 0
    assert found["spread"] > 0.3


def test_too_few_steps_decide_nothing():
    few = LEAST_STEPS - 1
    monitor = Monitor("teacher")
    mask = torch.ones(1, 4, dtype=torch.bool)
    for step in range(1, few + 1):
        monitor.step(lambda values: values.sum() * 0, torch.zeros(1, 4), mask)
        monitor.check(step, few)


def test_a_warning_is_told_once_and_none_looks_at_nothing(caplog):
    follow(Monitor("student", "warn"), 0.0, 0.0)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "student: nothing is learned by step 100 of 200" in caplog.text
    caplog.clear()
    follow(Monitor("student", "none"), 0.0, 0.0)
    assert not caplog.records


def evaluated(monitor: Monitor, lead: float, done: int = STEPS, queries: int = QUERIES) -> None:
    rng = np.random.default_rng(0)
    chance = rng.uniform(0.1, 0.3, queries)
    monitor.evaluated(done, STEPS, chance + lead + rng.normal(0, 0.2, queries), chance)


def test_dev_that_is_not_surely_above_chance_ends_a_training():
    with pytest.raises(TrainingError, match=r"dev nDCG@10 0\.\d+ is not surely above chance: [+-]0\.\d+ \[-0\.\d+, "):
        evaluated(Monitor("teacher"), 0.0)
    evaluated(Monitor("teacher"), 0.1)
    evaluated(Monitor("teacher"), 0.0, done=STEPS // 4)
    evaluated(Monitor("teacher"), 0.0, queries=LEAST_QUERIES - 1)
    evaluated(Monitor("warm-up", holds_dev=False), 0.0)
    evaluated(Monitor("teacher", "none"), 0.0)


def test_processes_of_a_torchrun_end_together(monkeypatch):
    monkeypatch.setattr(
        "rankdistill.training.monitor.torchrun.agree", lambda _: True
    )  # the first process has found something
    with pytest.raises(TrainingError, match="by step 100 of 200: so the first process found"):
        follow(Monitor("teacher"), signal=1.0, noise=0.5)
    monkeypatch.setattr("rankdistill.training.monitor.torchrun.agree", lambda _: False)
    follow(Monitor("teacher"), signal=0.0, noise=0.0)
