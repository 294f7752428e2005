"""scripts/bench/update_kill.py: it looks at folders that another process makes, and leaves no process behind."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from rankdistill.export.files import write_atomic
from rankdistill.online.versions import Published
from tests.bench_scripts import bench_script


@pytest.fixture(scope="module")
def update_kill():
    with bench_script("update_kill") as script:
        yield script


@pytest.fixture
def published(tmp_path):
    found = Published(tmp_path)
    with found.locked(), found.next() as (_, work):
        (work / "bundle").mkdir()
        yield found


def test_what_is_being_made_is_known_by_the_last_of_its_parts(update_kill, published):
    assert update_kill.stands(published) == (-1, "bundle")


def test_a_version_that_gets_its_name_while_it_is_looked_at_is_seen_under_it(update_kill, published, monkeypatch):
    look = Path.iterdir

    def renamed_first(path):
        if path.name.startswith(".0000."):
            path.rename(published.versions / "0000")
        return look(path)

    monkeypatch.setattr(Path, "iterdir", renamed_first)
    assert update_kill.stands(published) == (-1, "folder")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_processes_end_with_the_look_that_fails(update_kill, published, tmp_path, monkeypatch):
    started = tmp_path / "started"

    def work():
        write_atomic(started, str(os.getpid()))
        time.sleep(60)

    def look(_):
        if started.exists():
            raise OSError("cannot be read")
        return -1, "nothing"

    monkeypatch.setattr(update_kill, "stands", look)
    with pytest.raises(OSError, match="cannot be read"):
        update_kill.kill(published, [work], "state", 0.1)
    with pytest.raises(ProcessLookupError):
        os.kill(int(started.read_text()), 0)
