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


def start(arguments, folder):
    return subprocess.Popen(
        [sys.executable, "-m", "rankdistill", *arguments], cwd=folder, stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, start_new_session=True, env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )  # fmt: skip


def kill(process):
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def stands(folder, pattern):
    try:
        return any(folder.glob(pattern))
    except FileNotFoundError:  # a folder was renamed or deleted while it was looked into
        return False


def kill_once(arguments, folder, pattern):
    """Start the command and kill it as soon as a file or folder stands there."""
    process = start(arguments, folder)
    while process.poll() is None and not stands(folder, pattern):
        time.sleep(0.005)
    kill(process)
    assert list(folder.glob(pattern))


def test_a_training_killed_after_a_checkpoint_goes_on_from_it(tmp_path, beir, encoder):
    arguments = [*small(beir, encoder), "teacher.fit.epochs=40", "teacher.fit.evaluations=8"]
    kill_once(arguments, tmp_path, "runs/stages/work-teacher-*/checkpoints/checkpoint-*/trainer_state.json")
    torn = next(tmp_path.glob("runs/stages/work-teacher-*/checkpoints")) / "checkpoint-9999"
    torn.mkdir()
    (torn / "trainer_state.json").write_text('{"half')  # what a kill leaves while a checkpoint is written
    done = distill(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "going on from checkpoint-" in done.stderr
    assert "checkpoint-9999" not in done.stderr
    calm = tmp_path / "calm"
    calm.mkdir()
    assert distill(*arguments, cwd=calm).returncode == 0
    assert quality(table(newest_run(tmp_path))) == quality(table(newest_run(calm)))


def keys_of_stages(folder):
    """In the order of their making."""
    stages = [path.parent for path in folder.glob("runs/stages/*/stage.json")]
    return [path.name for path in sorted(stages, key=lambda path: path.stat().st_mtime)]


def test_a_killed_run_finishes_with_the_same_table(tmp_path, beir, encoder):
    arguments = small(beir, encoder)
    calm, storm = tmp_path / "calm", tmp_path / "storm"
    calm.mkdir()
    storm.mkdir()
    done = distill(*arguments, cwd=calm)
    assert done.returncode == 0, done.stderr
    rng = random.Random(0)
    keys = keys_of_stages(calm)
    for at in sorted(rng.sample(range(len(keys)), KILLS)):  # while that stage is made, or just after
        process = start(arguments, storm)
        paths = [storm / "runs/stages" / name for name in (f"work-{keys[at]}", keys[at])]
        while process.poll() is None and not any(path.exists() for path in paths):
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.1))
        assert process.poll() is None
        kill(process)
    done = distill(*arguments, cwd=storm)
    assert done.returncode == 0, done.stderr
    assert quality(table(newest_run(storm))) == quality(table(newest_run(calm)))
