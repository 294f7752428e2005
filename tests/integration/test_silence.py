"""Ranking, checking and serving a bundle leave nothing in a home, need none, and ask nothing of a network."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from rankdistill.export import SILENT
from tests.serving import serving
from tests.unit.test_silence import environment, left

pytestmark = pytest.mark.integration

NOWHERE = "/proc/no-home"  # where nothing can be made, by root either


def ranker(env: dict[str, str], *arguments: str, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [*before, sys.executable, "-m", "rankdistill.export.commands.main", *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)


@pytest.fixture
def home(tmp_path) -> Path:
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.fixture
def items(tmp_path) -> Path:
    path = tmp_path / "items.txt"
    path.write_text("red car\nblue lamp\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("command", ["rank", "verify", "bench"])
@pytest.mark.parametrize("somewhere", [True, False])
def test_commands_leave_a_home_empty_and_do_not_miss_it(bundle, home, items, command, somewhere):
    env = environment(home) | ({} if somewhere else {"HOME": NOWHERE})
    options = {"rank": ["--query", "car", str(items)], "verify": [], "bench": ["--seconds", "0.1", "--least", "1"]}
    done = ranker(env, command, str(bundle), *options[command])
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert left(home) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_a_service_leaves_a_home_empty(bundle, home, workers, monkeypatch):
    for name in SILENT:
        monkeypatch.delenv(name, raising=False)  # of these tests' own process
    with serving(bundle, "--workers", str(workers), env=environment(home)) as service:
        for _ in range(4):
            assert service.post("/rerank", query="car", texts=["red car"]).status_code == 200
        assert httpx.head(service.url + "/health").status_code == 200
        time.sleep(1)  # what was kept is written after a while
        assert service.stop() == 0
    assert left(home) == []
    assert len(service.lines) == 1


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_ranking_opens_no_connection(bundle, home, items, tmp_path):
    trace = tmp_path / "trace"
    before = ("strace", "-f", "-qq", "-e", "trace=connect,sendto,sendmsg", "-o", str(trace))
    done = ranker(environment(home), "rank", str(bundle), "--query", "car", str(items), before=before)
    if "ptrace" in done.stderr.lower():
        pytest.skip("strace may not trace here")
    assert done.returncode == 0, done.stderr
    assert not re.search(r"AF_INET", trace.read_text(encoding="utf-8"))
