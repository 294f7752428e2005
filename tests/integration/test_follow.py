"""A worker beside a service: events come, a version is published, and the service answers with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import httpx
import pytest

from rankdistill.online.versions import Published
from tests.event_rows import append, make_events
from tests.serving import serving

pytestmark = pytest.mark.integration

PATIENCE_S = 240
OPTIONS = [
    "update=head", "update.max_forgetting=0.3", "update.max_int8_drop=0.3", "update.resamples=200", "follow.count=50",
    "follow.poll_s=0.2",
]  # fmt: skip


@contextmanager
def worker(model, folder):
    """A worker in a session of its own, as a service manager starts it."""
    paths = [f"events={folder / 'log'}", f"published={folder / 'published'}"]
    code = "from rankdistill.__main__ import update; update()"
    with (folder / "worker.txt").open("w") as told:
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(model), *paths, "--follow", *OPTIONS], stdout=told, stderr=told,
            env=os.environ | {"HF_HUB_OFFLINE": "1"}, start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def until(what, process, folder):
    end = time.monotonic() + PATIENCE_S
    while not what():
        assert process.poll() is None, (folder / "worker.txt").read_text()
        assert time.monotonic() < end, (folder / "worker.txt").read_text()
        time.sleep(0.1)


def test_events_become_the_model_that_answers(bundle, tmp_path):
    append(tmp_path / "log", make_events(30))
    published = Published(tmp_path / "published")
    with worker(bundle.parent, tmp_path) as process:
        until(lambda: "following" in (tmp_path / "worker.txt").read_text(), process, tmp_path)
        assert published.current().number == 0  # 30 are too few
        current = published.folder / "current"
        reload = {"watch": str(current), "interval_s": 0.2, "share": 0.0}
        with serving(current, folder=tmp_path, reload=reload) as served:
            first = httpx.get(served.url + "/info").json()["model_sha"]
            append(tmp_path / "log", make_events(30, first=30))
            until(lambda: published.current().number == 1, process, tmp_path)
            until(lambda: httpx.get(served.url + "/info").json()["model_sha"] != first, process, tmp_path)
            key = json.loads((current / "manifest.json").read_text())["key"]
            assert key.startswith(httpx.get(served.url + "/info").json()["model_sha"])
            assert served.post("/rerank", query="red lamp", texts=["blue car", "red lamp"]).status_code == 200
        second = subprocess.run(
            [sys.executable, "-c", "from rankdistill.__main__ import update; update()", str(bundle.parent),
             f"events={tmp_path / 'log'}", f"published={published.folder}", *OPTIONS],
            capture_output=True, text=True, timeout=PATIENCE_S,
        )  # fmt: skip
        assert second.returncode == 2
        assert "another distill-update works there" in second.stderr
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
    told = (tmp_path / "worker.txt").read_text()
    assert "updating: 60 events" in told
    assert "SIGTERM: ended" in told
    assert "Traceback" not in told
    record = published.current().record
    assert (record["cue"], record["events"]["used"]) == ("60 events", 60)
