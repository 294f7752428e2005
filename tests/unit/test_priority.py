"""A worker steps back from processes of its session and of others."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os, sys
from pathlib import Path
from rankdistill.online.process_priority import step_back
if sys.argv[1] == "leads":
    os.setsid()
step_back(7, Path(sys.argv[2]))
print(os.nice(0))
"""


def stepped_back(leads: bool, autogroup: Path) -> int:
    words = [sys.executable, "-c", PROGRAM, "leads" if leads else "follows", str(autogroup)]
    found = subprocess.run(words, capture_output=True, text=True, check=True)
    return int(found.stdout)


@pytest.mark.parametrize("leads", [True, False])
def test_a_session_is_lowered_by_the_process_that_leads_it_alone(leads, tmp_path):
    file = tmp_path / "autogroup"
    file.write_text("/autogroup-1 nice 0", encoding="ascii")
    assert stepped_back(leads, file) == min(19, os.nice(0) + 7)
    assert file.read_text(encoding="ascii") == ("7" if leads else "/autogroup-1 nice 0")


def test_a_kernel_without_autogroups_is_no_fault(tmp_path):
    assert stepped_back(True, tmp_path / "none") == min(19, os.nice(0) + 7)
    assert not (tmp_path / "none").exists()


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="this system has no such class")
@pytest.mark.parametrize("lowest", [True, False])
def test_the_lowest_priority_leaves_a_core_idle_to_others_and_threads_begun_later_too(lowest):
    program = """
import os, sys, threading
from pathlib import Path
from rankdistill.online.process_priority import step_back
step_back(int(sys.argv[1]), Path("none"))
found = [os.sched_getscheduler(0)]
thread = threading.Thread(target=lambda: found.append(os.sched_getscheduler(threading.get_native_id())))
thread.start()
thread.join()
print(*found)
"""
    nice = 19 if lowest else max(0, 18 - os.nice(0))
    found = subprocess.run([sys.executable, "-c", program, str(nice)], capture_output=True, text=True, check=True)
    assert found.stdout.split() == [str(os.SCHED_IDLE if lowest else os.SCHED_OTHER)] * 2


@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="this kernel has no autogroups")
def test_the_kernel_takes_it():
    program = PROGRAM.replace("Path(sys.argv[2])", "").replace(
        "print(os.nice(0))", "print(open('/proc/self/autogroup').read())"
    )
    words = [sys.executable, "-c", program, "leads"]
    found = subprocess.run(words, capture_output=True, text=True, check=True)
    assert found.stdout.strip().endswith("nice 7")
