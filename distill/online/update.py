"""One update: read events, learn from them, check, export, and publish, or say why not."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rankdistill.errors import ConfigError
from rankdistill.export import machine_lock
from rankdistill.export.files import write_atomic
from rankdistill.online import checks as checks_
from rankdistill.online.candidate import Clock, Learning, consumed
from rankdistill.online.checks import Check
from rankdistill.online.events.catalogue import Catalogue
from rankdistill.online.events.feedback import Counts, Feedback, read_feedback
from rankdistill.online.events.labelled_lists import Shown, cut_newest, lists_of
from rankdistill.online.events.seen_ids import SeenEvents
from rankdistill.online.origin import Origin
from rankdistill.online.version_state import State
from rankdistill.online.versions import FIRST, REFUSED, ROLLBACK, SET_ASIDE, UPDATE, Published, Version
from rankdistill.options import Update, Updating

WAITING, REFUSED_ = "waiting", "refused"


@dataclass(frozen=True)
class Outcome:
    """What came of an update.

    Attributes:
        what: "update", "waiting" (too little to learn from), "refused" or "set aside".
        version: that is served now.
        checks: what was looked at.
        seconds: of each step.
        detail: in words.
    """

    what: str
    version: Version
    checks: Sequence[Check] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    detail: str = ""


def open_published(config: Updating, origin: Origin) -> Published:
    """Return the folder of versions that is asked for."""
    return Published(Path(config.published).expanduser() if config.published else origin.published)


def first_version(published: Published, origin: Origin, remembered: int) -> Version:
    """Return the served version, publishing the origin's bundle as version 0 where there is none yet."""
    current = published.current()
    if current is not None:
        return current
    with published.next() as (number, work):
        published.copy(origin.bundle, work / "bundle")
        State(None, SeenEvents(remembered)).save(work / "state")
        return published.publish(number, work, {"kind": FIRST, "origin": str(origin.bundle.resolve())})


def run_update(
    config: Updating,
    origin: Origin,
    published: Published,
    *,
    cue: str = "asked for",
    catalogue: Catalogue | None = None,
    threads: int | None = None,
) -> Outcome:
    """Learn from the events after the served version's cursor; the caller holds `published.locked()`.

    Args:
        config: the validated options.
        origin: of the first version.
        published: the folder of versions.
        cue: why now, for the record.
        catalogue: texts that events may leave out; None reads it.
        threads: that train; None for every core.

    Raises:
        UserError: if something is wrong that a user can mend; nothing is consumed then.
    """
    clock = Clock()
    served = first_version(published, origin, config.feedback.remembered)
    state = State.load(served.state)
    feedback = read_events(config, state, origin.catalogue(config.catalogue) if catalogue is None else catalogue)
    fresh = lists_of(feedback)
    clock.lap("read events")
    found = [*checks_.event_checks(fresh, feedback.counts, config.update)]
    if lacking := _lacking(state, fresh, feedback.counts, config.update):
        enough = feedback.counts.read >= config.update.min_events  # to tell of them that they are broken
        found = [check for check in found if check.name == checks_.BROKEN and enough]
        if not checks_.refusals(found):
            return Outcome(WAITING, served, seconds=clock.seconds, detail=lacking)
    if checks_.refusals(found):
        return _refuse(config, published, served, state, feedback, found, clock)
    with machine_lock.working(), published.next() as (number, work):
        making = Learning(config, origin, served, state, fresh, work, clock, threads)
        found.append(making.label_check())
        if not checks_.refusals(found):
            making.learn()
            found += making.judge()
        if not checks_.refusals(found):
            found += making.export(number, feedback, found, cue)
        if not checks_.refusals(found):
            making.state_after(feedback).save(work / "state")
            feedback.save_broken(work / "state")
            making.leave_out()
            version = published.publish(number, work, making.record(feedback, found, cue))
            clock.lap("publish")
            (published.folder / REFUSED).unlink(missing_ok=True)
            return Outcome(UPDATE, version, found, clock.seconds)
    return _refuse(config, published, served, state, feedback, found, clock)


def _lacking(state: State, fresh: Sequence[Shown], counts: Counts, update: Update) -> str:
    """Return what events lack to learn from, "" if nothing: an event without outcomes that differ teaches nothing."""
    telling = sum(each.tells for each in fresh)
    if telling < update.min_events:
        return (
            f"{telling} new events with outcomes that differ, of {counts.read} read ({counts.used - telling} without, "
            f"{counts.broken} broken, {counts.late} late, {counts.duplicates} repeated); an update takes at least "
            f"update.min_events={update.min_events}"
        )
    older, _ = cut_newest(fresh, update.holdout)
    if not any(each.tells for each in [*state.held, *older]):
        return f"update.holdout={update.holdout:g} of {len(fresh)} new events leaves none to learn from"
    return ""


def read_events(config: Updating, state: State, catalogue: Catalogue) -> Feedback:
    """Return the events after a version's cursor.

    Raises:
        ConfigError: if none are named.
        UserError: if they cannot be read.
    """
    least = config.update.min_events
    return read_feedback(source_of(config), state.cursor, config.feedback, catalogue, seen=state.seen, least=least)


def source_of(config: Updating) -> str:
    """Return where events come from.

    Raises:
        ConfigError: if that is not told.
    """
    if config.events is None:
        raise ConfigError("events: missing; give events=PATH, a log of events")
    return os.path.expanduser(config.events)  # noqa: PTH111 (it may be a data set's name, whose slashes stay)


def roll_back(config: Updating, origin: Origin, published: Published, number: int | None) -> Version:
    """Serve an earlier version again, as a new one: what is served, and what was, always stands in the list.

    Its student, its lists and its optimizer are the earlier one's; events that were consumed since stay consumed, those
    held back too, as they may be what made the versions after it bad.

    Args:
        config: the validated options.
        origin: of the first version.
        published: the folder of versions, locked.
        number: of the version; None for the one that the served student was made of.

    Raises:
        UserError: if there is no such version.
    """
    served = first_version(published, origin, config.feedback.remembered)
    target = published.before(served) if number is None else published.find(number)
    now, then = State.load(served.state), State.load(target.state)
    with published.next() as (following, work):
        published.copy(target.bundle, work / "bundle")
        then.after(now.cursor, now.seen).save(work / "state")
        record = {"kind": ROLLBACK, "parent": target.number, "instead_of": served.number}
        return published.publish(following, work, record)


def _refuse(
    config: Updating,
    published: Published,
    served: Version,
    state: State,
    feedback: Feedback,
    found: Sequence[Check],
    clock: Clock,
) -> Outcome:
    """Leave the served version; after `max_refused` times in a row, go on behind the events that were refused.

    Until then they are tried again together with those that come after them: one poisoned part becomes a small one.
    """
    path = published.folder / REFUSED
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    times = 1 + (int(before["times"]) if before.get("version") == served.number else 0)
    names = ", ".join(check.name for check in checks_.refusals(found))
    events = consumed(state.cursor, feedback)
    told_ = {"version": served.number, "times": times, "events": events, "checks": [c.as_dict() for c in found]}
    write_atomic(path, json.dumps(told_, indent=2, ensure_ascii=False) + "\n")
    clock.lap("refuse")
    if times < config.update.max_refused:
        detail = (
            f"not published: {names} ({times} of {config.update.max_refused} times before its events are set aside)"
        )
        return Outcome(REFUSED_, served, found, clock.seconds, detail)
    with published.next() as (number, work):
        published.copy(served.bundle, work / "bundle")
        state.after(feedback.cursor, feedback.seen).save(work / "state")
        record = {"kind": SET_ASIDE, "parent": served.number, "events": events, "checks": told_["checks"]}
        version = published.publish(number, work, record)
    path.unlink(missing_ok=True)
    detail = f"not published: {names}; refused {times} times in a row, so its events are set aside"
    return Outcome(SET_ASIDE, version, found, clock.seconds, detail)
