"""When a worker updates, with a clock of its own; and that it reads a log only when there is something new."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest

from rankdistill.errors import ConfigError, DataError
from rankdistill.export.errors import UserError
from rankdistill.online import follow as follow_module
from rankdistill.online.events.catalogue import Catalogue
from rankdistill.online.events.feedback import read_feedback
from rankdistill.online.events.seen_ids import SeenEvents
from rankdistill.online.follow import Cue, Unread, _until_stopped, follow
from rankdistill.online.update import REFUSED_, WAITING, Outcome
from rankdistill.online.version_state import State
from rankdistill.online.versions import FIRST, SET_ASIDE, UPDATE, Published
from rankdistill.options import Follow, HeadUpdate, Train, Updating
from rankdistill.options.update import DriftSignal, Events
from tests.event_rows import append, make_events


def config(tmp_path, *, least=10, **options):
    return Updating(
        model="run", events=str(tmp_path / "log"), update=HeadUpdate(min_events=least), train=Train(),
        follow=Follow(**{"count": 100, "every_s": 60.0} | options),
    )  # fmt: skip


def feedback(tmp_path, count, position=None, name="events"):
    events = make_events(count)
    if position is not None:
        for event in events:
            good = [item for item in event["items"] if item["outcome"] != "skip"]
            bad = [item for item in event["items"] if item["outcome"] == "skip"]
            shown = [*good, *bad] if position(int(event["id"][1:])) else [*bad, *good]
            event["items"] = [item | {"position": number} for number, item in enumerate(shown, start=1)]
    return read_feedback(append(tmp_path / f"{name}-{count}", events), None, Events(), Catalogue())


def done(cue, what, events):
    cue.done(Outcome(what, SimpleNamespace(number=1)), events)


def test_nothing_new_is_no_reason(tmp_path):
    now = [0.0]
    cue = Cue(config(tmp_path), lambda: now[0])
    for now[0] in (0.0, 1000.0):
        assert cue.look(feedback(tmp_path / str(now[0]), 0)) is None


def test_enough_events_are_a_reason(tmp_path):
    cue = Cue(config(tmp_path), lambda: 0.0)
    assert cue.look(feedback(tmp_path, 99)) is None
    assert cue.look(feedback(tmp_path, 100)) == "100 events"


def test_time_since_the_first_of_them_is_a_reason(tmp_path):
    now = [500.0]
    cue = Cue(config(tmp_path), lambda: now[0])
    some = feedback(tmp_path, 12)
    assert cue.look(some) is None
    now[0] = 559.9
    assert cue.look(some) is None
    now[0] = 560.0
    assert cue.look(some) == "60 s"
    never = Cue(config(tmp_path, every_s=None), lambda: now[0])
    assert never.look(some) is None
    now[0] = 1e9
    assert never.look(some) is None


def test_time_alone_is_none_with_too_few_events(tmp_path):
    now = [0.0]
    cue = Cue(config(tmp_path), lambda: now[0])
    few, enough = feedback(tmp_path, 9), feedback(tmp_path, 10)
    assert cue.look(few) is None
    now[0] = 100.0
    assert cue.look(few) is None
    assert cue.look(enough) == "60 s"


def test_after_an_update_time_begins_with_the_next_event(tmp_path):
    now = [0.0]
    cue = Cue(config(tmp_path), lambda: now[0])
    some, none = feedback(tmp_path, 12), feedback(tmp_path / "none", 0)
    cue.look(some)
    now[0] = 61.0
    assert cue.look(some)
    done(cue, UPDATE, 12)
    assert cue.look(none) is None
    now[0] = 200.0
    assert cue.look(some) is None
    now[0] = 259.0
    assert cue.look(some) is None
    now[0] = 260.0
    assert cue.look(some) == "60 s"


def test_refused_events_are_tried_again_with_as_many_new_ones(tmp_path):
    now = [0.0]
    cue = Cue(config(tmp_path), lambda: now[0])
    assert cue.look(feedback(tmp_path, 100))
    done(cue, REFUSED_, 100)
    assert cue.look(feedback(tmp_path, 109)) is None
    assert cue.look(feedback(tmp_path, 199)) is None
    assert cue.look(feedback(tmp_path, 200)) == "200 events"
    done(cue, SET_ASIDE, 200)
    assert cue.look(feedback(tmp_path, 100)) == "100 events"


def test_refused_events_are_tried_again_later_with_a_few_new_ones(tmp_path):
    now = [0.0]
    cue = Cue(config(tmp_path), lambda: now[0])
    cue.look(feedback(tmp_path, 100))
    done(cue, REFUSED_, 100)
    assert cue.look(feedback(tmp_path, 100)) is None
    now[0] = 1000.0
    assert cue.look(feedback(tmp_path, 100)) is None  # the same would be refused again
    assert cue.look(feedback(tmp_path, 110)) == "60 s"


def test_too_few_to_learn_from_are_waited_with(tmp_path):
    """Events that tell nothing, or come twice, may be fewer when they are read again."""
    cue = Cue(config(tmp_path), lambda: 0.0)
    assert cue.look(feedback(tmp_path, 100))
    done(cue, WAITING, 100)
    assert cue.look(feedback(tmp_path, 105)) is None


def test_drift_is_a_reason(tmp_path):
    pytest.importorskip("river")
    options = config(tmp_path, count=10_000, every_s=None, drift=True)
    options.drift = DriftSignal(grace=30)
    cue = Cue(options, lambda: 0.0)
    steady = feedback(tmp_path, 200, position=lambda number: True, name="steady")
    assert cue.look(steady) is None
    assert cue.look(steady) is None  # the same outcomes are not followed twice
    worse = feedback(tmp_path, 400, position=lambda number: number < 200, name="worse")
    why = cue.look(worse)
    assert why is not None
    assert why.startswith("drift: ndcg@10 of the served model ")
    before, after = map(float, why.split()[-3::2])
    assert before > after + 0.1


def test_events_without_a_position_alone_are_left_out_of_drift(tmp_path):
    pytest.importorskip("river")
    options = config(tmp_path, count=10_000, every_s=None, drift=True)
    options.drift = DriftSignal(grace=30)
    worse = feedback(tmp_path, 400, position=lambda number: number < 200)
    worse.position[worse.split.offsets[[0, 150, 399]]] = 0
    why = Cue(options, lambda: 0.0).look(worse)
    assert why is not None
    assert why.startswith("drift: ")


def test_without_positions_drift_is_not_told(tmp_path):
    pytest.importorskip("river")
    events = [event | {"items": [{**item, "position": None} for item in event["items"]]} for event in make_events(60)]
    unplaced = read_feedback(append(tmp_path / "log", events), None, Events(), Catalogue())
    assert Cue(config(tmp_path, drift=True), lambda: 0.0).look(unplaced) is None


class Texts:
    """An origin without a run, that tells how often its texts were asked for."""

    def __init__(self):
        self.asked = 0

    def catalogue(self, folder):
        self.asked += 1
        return Catalogue() if folder is None else Catalogue.read(Path(folder))


def version(tmp_path, number=0, cursor=None):
    folder = tmp_path / f"version-{number}"
    folder.mkdir()
    State(cursor, SeenEvents(100)).save(folder / "state")
    return SimpleNamespace(number=number, state=folder / "state")


def test_a_log_is_read_again_only_when_it_has_grown(tmp_path, monkeypatch):
    append(tmp_path / "log", make_events(5))
    origin, served = Texts(), version(tmp_path)
    unread = Unread(config(tmp_path), origin)
    first = unread.read(served)
    assert len(first) == 5
    assert unread.read(served) is first
    append(tmp_path / "log", make_events(2, first=5))
    second = unread.read(served)
    assert len(second) == 7
    newer = version(tmp_path, 1, first.cursor)
    assert unread.read(newer).ids == ["e5", "e6"]
    assert origin.asked == 1


def test_texts_of_a_folder_are_read_again_when_they_have_changed(tmp_path):
    folder = tmp_path / "catalogue"
    folder.mkdir()
    (folder / "items.jsonl").write_text('{"_id": "a", "text": "red lamp"}\n')
    event = make_events(1)[0] | {"items": [{"id": "a", "outcome": "click"}, {"id": "b", "outcome": "skip"}]}
    append(tmp_path / "log", [event])
    options = config(tmp_path)
    options.catalogue = str(folder)
    unread, served = Unread(options, Texts()), version(tmp_path)
    assert unread.read(served).counts.unknown_items == 1
    (folder / "items.jsonl").write_text('{"_id": "a", "text": "red lamp"}\n{"_id": "b", "text": "blue lamp"}\n')
    assert len(unread.read(served)) == 1


def test_a_data_set_is_read_every_time(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(follow_module, "read_events", lambda *_: read.append(1) or SimpleNamespace())
    options = config(tmp_path)
    options.events = "somebody/events"
    unread, served = Unread(options, Texts()), version(tmp_path)
    unread.read(served)
    unread.read(served)
    assert len(read) == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_block_and_nothing_more(number):
    before = signal.getsignal(number)
    reached = []
    with _until_stopped():
        os.kill(os.getpid(), number)
        reached.append("after")  # pragma: no cover
    assert reached == []
    assert signal.getsignal(number) is before


@pytest.fixture
def following(tmp_path, monkeypatch):
    """A worker whose updates are told by the test; returns what it told, in order."""
    append(tmp_path / "log", make_events(30))
    monkeypatch.setattr(follow_module, "step_back", lambda nice: told.append(("nice", nice)))
    published, steps, told = Published(tmp_path / "published"), [], []
    with published.locked(), published.next() as (number, work):
        (work / "bundle").mkdir()
        State(None, SeenEvents(100)).save(work / "state")
        first = published.publish(number, work, {"kind": FIRST})

    def update(config, origin, published, *, cue, catalogue, threads):
        assert threads == 3
        step = steps.pop(0)
        if isinstance(step, Exception):
            raise step
        return Outcome(step, first, detail=cue)

    def tell(outcome):
        told.append((outcome.what, outcome.detail))

    def rest(_):
        if not steps:
            raise follow_module.Stopped("SIGTERM")

    monkeypatch.setattr(follow_module, "run_update", update)
    monkeypatch.setattr(follow_module.time, "sleep", rest)

    def run(*wanted, feedback=None, least=10, **options):
        steps.extend(wanted)
        asked = config(tmp_path, least=least, **{"count": 20, "threads": 3, "nice": 7} | options)
        asked.feedback = feedback or asked.feedback
        follow(asked, Texts(), published, tell)
        assert told.pop(0) == ("nice", 7)
        return told

    return run


def test_it_updates_until_it_is_stopped(following):
    assert following("waiting") == [("waiting", "30 events")]


@pytest.mark.parametrize(
    ("error", "told"),
    [(UserError("the log is away"), "the log is away"), (OSError(28, "No space left on device"), "no space left")],
)
def test_what_may_pass_is_told_and_tried_again(following, error, told, caplog):
    caplog.set_level("INFO")
    assert following(error, "waiting") == [("waiting", "30 events")]
    assert f"not updated: {told}" in caplog.text


def test_a_mistake_in_the_options_ends_it(following, tmp_path):
    (tmp_path / "log").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="nothing is there"):
        following("waiting")


@pytest.mark.parametrize("least", [2, 40])
def test_too_few_events_to_estimate_a_bias_end_no_worker(tmp_path, following, least, caplog):
    feedback = Events(propensity="estimated")
    assert following(feedback=feedback, least=least, count=100) == []
    assert ("not updated: feedback.propensity=estimated" in caplog.text) == (least == 2)


def test_without_events_there_is_nothing_to_follow(tmp_path):
    options = config(tmp_path)
    options.events = None
    with pytest.raises(ConfigError, match="events: missing"):
        Unread(options, Texts())
