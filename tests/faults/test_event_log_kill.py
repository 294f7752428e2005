"""kill -9 of a process that appends in a loop: every acknowledged event is read exactly once."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from rankdistill.online.events.catalogue import Catalogue
from rankdistill.online.events.feedback import read_feedback
from rankdistill.options.update import Events

pytestmark = pytest.mark.faults

KILLS = 20
WRITER = """
import os, sys, time
from pathlib import Path
from rankdistill.export.runtime import event_log
from rankdistill.export.runtime.event_log import EventLog

def write_slowly(file, content):
    for start in range(0, len(content), 60):  # the kernel would take a line whole, and no kill would ever tear one
        file.write(content[start:start + 60])
        time.sleep(0.0001)

event_log._write = write_slowly
log = EventLog(Path(sys.argv[1]), segment_bytes=20_000)
acknowledged = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND)
number = int(sys.argv[3])
while True:
    names = [f"{number}-{part}" for part in range(3)]
    log.append([
        {"id": name, "time": time.time(), "query": {"text": "q"},
         "items": [{"id": name, "text": "t" * (200 + number % 200), "outcome": "click"}]}
        for name in names
    ])
    os.write(acknowledged, b"".join(name.encode() + b"\\n" for name in names))
    number += 1
"""


def acknowledged_ids(path):
    return [line for line in path.read_text().split("\n")[:-1] if line]


def test_every_acknowledged_event_is_read_exactly_once(tmp_path):
    folder, file = tmp_path / "log", tmp_path / "acknowledged"
    folder.mkdir()
    file.touch()
    rng = random.Random(0)
    used, cursor, seen = [], None, None
    for kill in range(KILLS):
        before = file.stat().st_size
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder), str(file), str(kill * 1_000_000)], start_new_session=True
        )
        while file.stat().st_size == before:
            assert writer.poll() is None
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.03))
        os.killpg(writer.pid, signal.SIGKILL)
        writer.wait()
        if kill % 3 == 0:  # a reader that goes on where it was
            feedback = read_feedback(folder, cursor, Events(), Catalogue(), seen=seen)
            used, cursor, seen = used + feedback.ids, feedback.cursor, feedback.seen
    feedback = read_feedback(folder, cursor, Events(), Catalogue(), seen=seen)
    used += feedback.ids
    whole = read_feedback(folder, None, Events(), Catalogue())
    assert used == whole.ids
    assert len(set(used)) == len(used)
    acknowledged = acknowledged_ids(file)
    assert len(acknowledged) > 3 * KILLS
    assert [name for name in used if name in set(acknowledged)] == acknowledged
    unacknowledged = len(used) - len(acknowledged)
    assert unacknowledged <= 3 * KILLS  # of the append that the kill met
    assert KILLS / 4 < whole.counts.broken <= KILLS  # torn lines, each of them one
    assert whole.counts.used + whole.counts.broken == whole.counts.read
