"""Two processes of a torchrun train one model; the first alone keeps the store and the run's folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.commands import newest_run, small, table

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
SLOW_SECOND = """
import os, sys, time
from pathlib import Path
from rankdistill import torchrun as ranks
from rankdistill.store.stages import Stage, Store

def build(out):
    rank = os.environ["RANK"]
    time.sleep(3 * int(rank))
    (out / f"rank-{rank}").write_text(rank)

found = Store(Path(sys.argv[1])).get(Stage("slow", 1, {}), build, every_rank=True)
assert sorted(path.name for path in found.folder.glob("rank-*")) == ["rank-0", "rank-1"]
ranks.part()  # as a run does: a process that ends in a group may be aborted by its threads
"""


def test_two_processes_finish_one_run(tmp_path, beir, encoder):
    command = [*TORCHRUN, "-m", "rankdistill", *small(beir, encoder)]
    for _ in range(2):  # made, then reused
        done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "runs/small").iterdir())) == 2
    assert [path.name for path in (tmp_path / "runs").iterdir() if path.name not in ("small", "stages")] == []
    assert not list((tmp_path / "runs/stages").glob("work-*"))
    rows = {row["model"]: row for row in reversed(table(newest_run(tmp_path))["rows"])}
    assert rows["teacher"]["ndcg@10"] > 0.7


def test_a_stage_is_published_when_the_slowest_has_written(tmp_path):
    (tmp_path / "slow.py").write_text(SLOW_SECOND)
    command = [*TORCHRUN, str(tmp_path / "slow.py"), str(tmp_path / "stages")]
    env = ENVIRONMENT | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
