"""Two processes of a torchrun train one model; the first alone keeps the store and the run's folder."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.integration.commands import newest_run, small, table

pytestmark = pytest.mark.integration


def test_two_processes_finish_one_run(tmp_path, beir, encoder):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "-m", "distill"]
    env = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    for _ in range(2):  # made, then reused
        done = subprocess.run([*command, *small(beir, encoder)], cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "runs/small").iterdir())) == 2
    assert [path.name for path in (tmp_path / "runs").iterdir() if path.name not in ("small", "stages")] == []
    assert not list((tmp_path / "runs/stages").glob("work-*"))
    rows = {row["model"]: row for row in reversed(table(newest_run(tmp_path))["rows"])}
    assert rows["teacher"]["ndcg@10"] > 0.7
