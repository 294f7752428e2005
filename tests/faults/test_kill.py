"""kill -9 at random instants: started again, a run finishes with the table of an undisturbed one."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from tests.integration.commands import distill, newest_run, quality, small, table

pytestmark = pytest.mark.faults

KILLS = 4


def test_a_killed_run_finishes_with_the_same_table(tmp_path, beir, encoder):
    arguments = small(beir, encoder)
    calm, storm = tmp_path / "calm", tmp_path / "storm"
    calm.mkdir()
    storm.mkdir()
    start = time.monotonic()
    done = distill(*arguments, cwd=calm)
    assert done.returncode == 0, done.stderr
    whole = time.monotonic() - start
    rng = random.Random(0)
    killed = 0
    for _ in range(KILLS):
        process = subprocess.Popen(
            [sys.executable, "-m", "distill", *arguments], cwd=storm, stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, start_new_session=True, env=os.environ | {"HF_HUB_OFFLINE": "1"},
        )  # fmt: skip
        try:
            process.wait(timeout=rng.uniform(0.1, 0.7) * whole)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            killed += 1
    assert killed >= 2
    done = distill(*arguments, cwd=storm)
    assert done.returncode == 0, done.stderr
    assert quality(table(newest_run(storm))) == quality(table(newest_run(calm)))
