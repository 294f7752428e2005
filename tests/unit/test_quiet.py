"""Who measures is alone; who works gives way; what is killed holds nothing."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from rankdistill.export import machine_lock

ROOT = Path(__file__).parents[2]
WORKER = """
import time
from rankdistill.export import machine_lock as quiet
with quiet.working():
    print("works", flush=True)
    end = time.monotonic() + 30
    while time.monotonic() < end:
        quiet.give_way()
        print(time.monotonic(), flush=True)
        time.sleep(0.005)
"""

HOLDER = """
import time
from rankdistill.export import machine_lock as quiet
with quiet.{}():
    print("works", flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def own_locks(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)


@pytest.fixture
def start():
    processes = []

    def begin(code=WORKER):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT)
        assert process.stdout.readline() == "works\n"
        processes.append(process)
        return process

    yield begin
    for process in processes:
        process.kill()
        process.communicate()


def times(process):
    process.kill()
    return [float(line) for line in process.stdout.read().splitlines() if line.strip()]


def test_workers_stand_still_while_somebody_measures_and_go_on_after(start):
    workers = [start(), start()]
    time.sleep(0.2)
    with machine_lock.alone():
        begin = time.monotonic()
        time.sleep(0.5)
        end = time.monotonic()
    time.sleep(0.3)
    for worker in workers:
        seen = times(worker)
        assert not [t for t in seen if begin <= t <= end]
        assert [t for t in seen if t < begin]
        assert [t for t in seen if t > end]


def test_two_do_not_measure_at_once(start):
    other = start(HOLDER.format("alone"))
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run(
            [sys.executable, "-c", "from rankdistill.export import machine_lock as quiet\nwith quiet.alone(): pass"],
            timeout=0.7,
            cwd=ROOT,
        )
    other.kill()
    with machine_lock.alone():
        pass


@pytest.mark.parametrize("manner", ["working", "alone"])
def test_a_killed_process_holds_nothing(start, manner):
    process = start(HOLDER.format(manner))
    process.send_signal(signal.SIGKILL)
    process.wait()
    with machine_lock.alone():
        pass


@pytest.mark.skipif(not machine_lock.LOCKS.exists(), reason="says who holds a lock: Linux alone")
def test_a_stopped_worker_is_not_waited_for(start, caplog):
    worker = start()
    worker.send_signal(signal.SIGSTOP)
    with machine_lock.alone():
        pass
    assert f"not waiting for process {worker.pid}: stopped" in caplog.text


@pytest.mark.skipif(not machine_lock.LOCKS.exists(), reason="says who holds a lock: Linux alone")
def test_who_is_waited_for_is_told(start, caplog):
    caplog.set_level("INFO")
    holder = start(HOLDER.format("working"))
    waiting = threading.Thread(target=lambda: machine_lock.alone().__enter__())
    waiting.start()
    while f"waiting for process {holder.pid} to pause" not in caplog.text:
        time.sleep(0.05)
    holder.kill()
    waiting.join()


def test_a_worker_that_measures_does_not_wait_for_itself():
    with machine_lock.working(), machine_lock.working():
        with machine_lock.alone():
            assert not machine_lock._Lock("work").acquire(shared=True, wait=False)
        machine_lock.give_way()
    assert not machine_lock._workers


def test_children_do_not_inherit_the_locks(start):
    with machine_lock.working():
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(20)"])
    try:
        with machine_lock.alone():
            pass
    finally:
        child.kill()
        child.wait()


def test_a_system_without_a_place_for_locks_goes_on(monkeypatch, caplog):
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    with machine_lock.working(), machine_lock.alone():
        machine_lock.give_way()
    assert "others on this machine are not waited for" in caplog.text
