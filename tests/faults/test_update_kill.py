"""kill -9 of a worker that follows a log and of who writes it: every event is used once, every version is whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.faults

ROOT = Path(__file__).parents[2]
KILLS = 8


def test_every_event_is_used_once_and_every_version_is_whole(bundle, tmp_path):
    out = tmp_path / "kills.json"
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/bench/update_kill.py", "--model", bundle, "--kills", str(KILLS), "--out", out],
        env=os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(out.read_text())
    assert (found["killed"], found["after_kill_whole"]) == (KILLS, KILLS)
    assert (found["lost"], found["used_twice"], found["wrong_of_them"]) == (0, 0, [])
    assert found["used"] >= found["acknowledged"] > 5 * KILLS
    assert found["unacknowledged_used"] <= 5 * KILLS  # of the append that a kill met
    assert set(found["struck"]) - {"nothing", "begun"}  # while a version was made
    assert found["looks_at_what_is_served"] > 100
