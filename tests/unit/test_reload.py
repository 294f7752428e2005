"""A bundle's way into a service that answers meanwhile: never a bad one, never a request lost or mixed."""

import dataclasses
import hashlib
import random
import re
import threading
import time

import numpy as np
import pytest

from rankdistill.export.errors import BundleError, UserError
from rankdistill.export.runtime.manifest import MANIFEST
from rankdistill.export.runtime.plan import OneModel
from rankdistill.export.serve.models import reload
from rankdistill.export.serve.models.model_slot import Model, Slot
from rankdistill.export.serve.models.reload import Reload
from rankdistill.export.serve.models.served_bundle import Served, ServedLevel
from rankdistill.export.serve.models.trial import Probation, TrialBudget
from rankdistill.export.serve.scheduling.dispatcher import Dispatcher
from rankdistill.export.serve.worker_commands import Commands, current
from tests.fake_ranker import FakePairs, FakeRanker

ITEMS = ["x" * (number + 1) for number in range(30)]


class Ranker(FakeRanker):
    """Adds its number to the fake's scores, after a while, or fails."""

    def __init__(self, number, work_s=0.0, sign=1.0, broken=None):
        super().__init__()
        self.number, self.work_s, self.sign, self.broken = number, work_s, sign, broken
        self.key = str(number)
        self.manifest = dataclasses.replace(self.manifest, digest=digest_of(number))
        self.closed = False

    def pairs(self, query, items):
        assert not self.closed
        return Pairs(self, query, items)

    def close(self):
        self.closed = True


class Pairs(FakePairs):
    def run(self, rows):
        end = time.thread_time() + self.ranker.work_s
        while time.thread_time() < end:
            pass
        super().run(rows)
        self.scores[rows] = self.ranker.sign * self.scores[rows] + 1000 * self.ranker.number
        assert not self.ranker.closed


def same_as(ranker, number):
    """The model of a ranker in the bundle of another number."""
    ranker.manifest = dataclasses.replace(ranker.manifest, digest=digest_of(number))
    return ranker


def model_of(ranker):
    plan = OneModel(ranker)
    return Model(ranker.key, Served(ranker, (ServedLevel("fake", plan, plan),)), ranker.close)


def digest_of(number):
    return hashlib.sha256(str(number).encode()).hexdigest()


@pytest.fixture
def checked(monkeypatch):
    """The bundles that were offered, each of which holds what is checked."""
    seen = []

    def check(number, key, stop):
        seen.append(number)
        return digest_of(number)

    monkeypatch.setattr(reload, "check", check)
    return seen


class Traffic:
    """Requests of two threads, each answered by one model; what they saw."""

    def __init__(self, slot, dispatcher, service):
        self.slot, self.dispatcher, self.reload = slot, dispatcher, service
        self.models, self.wrong, self.errors = [], [], []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(2)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, number):
        while not self._stop.is_set():
            with self.slot.lease() as model:
                try:
                    answer = self.dispatcher.submit(model.content.levels[0].plan, f"q{number}", ITEMS).result(10)
                except ValueError as error:
                    self.errors.append(error)
                    self.reload.failed(model, error)
                    continue
                models = set(np.round(answer.scores / 1000).tolist())
                if models != {float(model.name)}:
                    self.wrong.append((model.name, models))
                self.models.append(model.name)
                self.reload.answered(model, f"q{number}", ITEMS, answer)


@pytest.fixture
def served():
    """A slot with model 0, a dispatcher, and `reload` of models from a dict of rankers."""
    rankers = {0: Ranker(0)}
    slot, dispatcher = Slot(model_of(rankers[0])), Dispatcher(2, age=0.01)
    warmed = []
    budget = TrialBudget(requests=10, max_slowdown=3.0)
    service = Reload(slot, dispatcher, lambda number: model_of(rankers[number]), warmed.append, budget, 0.5, seed=0)
    yield rankers, slot, dispatcher, service, warmed
    service.close()
    dispatcher.close(5)
    slot.close()


def test_a_good_one_is_checked_warmed_tried_and_swapped_in(served, checked):
    rankers, slot, dispatcher, service, warmed = served
    rankers[1] = Ranker(1)
    with Traffic(slot, dispatcher, service) as traffic:
        offer = service.offer(1)
        until(lambda: traffic.models[-1:] == ["1"])
    assert offer.accepted, offer
    assert re.match(r"\d+ requests: ", offer.reason)
    assert checked == [1]
    assert [model.name for model in warmed] == ["1"]
    assert not traffic.wrong
    assert not traffic.errors
    assert slot.previous.name == "0"
    assert not rankers[0].closed


@pytest.mark.parametrize(
    ("ranker", "said"),
    [
        (Ranker(1, work_s=0.004), "slower than 3"),
        (Ranker(1, sign=-1.0), "ranks otherwise"),
        (Ranker(1, broken=ValueError("no")), "requests failed, the last by ValueError: no"),
        (same_as(Ranker(0), 1), "answers already"),
    ],
)
def test_one_that_breaks_the_budget_never_answers(served, checked, ranker, said):
    rankers, slot, dispatcher, service, _ = served
    rankers[1] = ranker
    with Traffic(slot, dispatcher, service) as traffic:
        offer = service.offer(1)
    assert not offer.accepted
    assert said in offer.reason
    assert set(traffic.models) == {"0"}
    assert not traffic.errors
    until(lambda: ranker.closed)
    assert service.on_trial is None


def test_one_that_fails_its_checks_is_never_loaded(served, monkeypatch):
    _, slot, _, service, _ = served

    def broken(folder, key, stop):
        raise BundleError(f"{folder}: flipped bit")

    monkeypatch.setattr(reload, "check", broken)
    offer = service.offer("nowhere")
    assert (offer.accepted, offer.reason) == (False, "nowhere: flipped bit")
    assert slot.current.name == "0"
    assert [*service.offers] == [offer]


def test_one_that_is_replaced_between_its_check_and_its_loading_never_answers(served, checked):
    rankers, slot, _, service, _ = served
    service.share, rankers[1] = 0.0, Ranker(2)
    offer = service.offer(1)
    assert (offer.accepted, offer.reason) == (False, "1 was replaced while it was checked")
    assert slot.current.name == "0"
    assert rankers[1].closed


def test_one_whose_loading_fails_in_an_unexpected_way_is_told(served, checked):
    _, slot, _, service, _ = served
    offer = service.offer(7)
    assert (offer.accepted, offer.reason) == (False, "KeyError: 7")
    assert slot.current.name == "0"


def test_one_that_fails_after_it_was_let_in_is_swapped_out(served, checked):
    rankers, slot, dispatcher, service, _ = served
    rankers[1] = Ranker(1)
    with Traffic(slot, dispatcher, service) as traffic:
        assert service.offer(1).accepted
        rankers[1].broken = ValueError("later")
        until(lambda: slot.current.name == "0")
    assert service.rollbacks == 1
    assert service.offers[-1].reason.startswith("swapped out for 0: 1 requests failed")
    assert traffic.models[-1] == "0"
    assert 1 <= len(traffic.errors) <= 2  # at most the requests that were with it already
    until(lambda: rankers[1].closed)
    assert not traffic.wrong


def test_one_that_grows_slow_after_it_was_let_in_is_swapped_out(served, checked):
    rankers, slot, dispatcher, service, _ = served
    rankers[1] = Ranker(1)
    with Traffic(slot, dispatcher, service):
        assert service.offer(1).accepted
        rankers[1].work_s = 0.004
        until(lambda: slot.current.name == "0")
    assert service.rollbacks == 1


def test_going_back_on_command(served, checked):
    rankers, slot, dispatcher, service, _ = served
    with pytest.raises(UserError, match="no model to go back to"):
        service.roll_back()
    rankers[1] = Ranker(1)
    with Traffic(slot, dispatcher, service):
        service.offer(1)
        assert service.roll_back() == "0"
    until(lambda: rankers[1].closed)
    assert not rankers[0].closed


def test_a_later_worker_does_not_begin_with_what_was_swapped_out_though_it_stands_in_the_old_ones_place(
    served, checked, tmp_path
):
    rankers, _, _, service, _ = served
    service.share, rankers[1] = 0.0, Ranker(1)
    live, told = tmp_path / "live", tmp_path / "told"
    live.mkdir()
    told.mkdir()
    for ranker in rankers.values():
        ranker.manifest = dataclasses.replace(ranker.manifest, folder=live)
    service.watch(None, 1.0, Commands(told))
    (live / MANIFEST).write_text("1")
    assert service.offer(1).accepted
    assert current(told) == live
    service.roll_back()
    with pytest.raises(UserError, match="was replaced by another"):
        current(told)
    (live / MANIFEST).write_text("0")
    assert current(told) == live


def test_a_newer_one_ends_the_trial_of_an_older(served, checked):
    """Nobody asks, so the trial of 1 stays open; 2 is let in by its checks when share is 0."""
    rankers, slot, _, service, _ = served
    rankers |= {1: Ranker(1), 2: Ranker(2)}
    found = iter([1, None, None, 2])

    class Queue:
        def look(self):
            return next(found, None)

        def keep(self, bundles):
            pass

        def close(self):
            pass

    service.watch(Queue(), 0.05)
    until(lambda: service.on_trial == "2: 0 of 10 requests")
    assert service.offers[0].reason.startswith("a newer one came")
    until(lambda: rankers[1].closed)
    service.close()
    until(lambda: len(service.offers) == 2)
    assert not service.offers[1].accepted
    assert slot.current.name == "0"


def test_a_hundred_swaps_and_twenty_rollbacks_under_load(served, checked):
    rankers, slot, dispatcher, service, _ = served
    service.share = 0.0
    rng = random.Random(0)
    with Traffic(slot, dispatcher, service) as traffic:
        for number in range(1, 101):
            rankers[number] = Ranker(number)
            assert service.offer(number).accepted
            if number % 5 == 0:
                service.roll_back()
            time.sleep(rng.uniform(0, 0.004))
    assert not traffic.wrong
    assert not traffic.errors
    assert service.rollbacks == 20
    slot.close()
    assert all(ranker.closed for ranker in rankers.values())


def test_probation_counts_errors_alone_where_nothing_was_measured():
    probation = Probation(TrialBudget(requests=2), float("nan"))
    assert probation.answered(5.0, 10) is None
    assert probation.answered(5.0, 10).accepted


def until(holds, seconds=10.0):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came about"
        time.sleep(0.005)
