"""Kill -9 random workers of a sweep, and check that nothing is lost, nothing is made twice and the table is the same.

python scripts/bench/sweep_kill.py --kills 20 --out sweep_kill.json -- experiment=tiny bundle=false student.layers=1,2 \
    student.fit.learning_rate=2e-4,3e-4
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from kill import quality

from rankdistill.export.measure.host import describe_host, versions

LAUNCHER = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.launcher.tries=50"]
KILLS_A_SWEEP = 5


def start(arguments: list[str], folder: Path) -> subprocess.Popen[bytes]:
    """Start a sweep of two jobs at once."""
    folder.mkdir(exist_ok=True)
    log = (folder / "log").open("ab")
    command = [sys.executable, "-m", "rankdistill", "-m", *arguments, *LAUNCHER]
    return subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)


def workers(sweep: int) -> list[int]:
    """Return the processes of the jobs that a sweep's process is waiting for."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = path.read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue
        if int(parent) == sweep:
            found.append(int(path.parent.name))
    return found


def tables(folder: Path) -> dict[str, Any]:
    """Return each job's rows without what a clock says."""
    return {
        path.parent.name: quality(json.loads(path.read_text(encoding="utf-8")))
        for path in (folder / "runs/sweeps").glob("*/*/*/tradeoff.json")
    }


def made_twice(folder: Path) -> list[str]:
    """Return the stages that more than one job, or one job twice, says to have made."""
    counted: collections.Counter[str] = collections.Counter()
    for path in (folder / "runs/sweeps").glob("*/*/*/distill.log"):
        counted.update(re.findall(r": made (\S+) in ", path.read_text(encoding="utf-8")))
    return [key for key, times in counted.items() if times > 1]


def storm(arguments: list[str], folder: Path, kills: int, whole: float, rng: random.Random) -> dict[str, Any]:
    """Run a sweep, killing a random worker now and then."""
    process, struck = start(arguments, folder), []
    begin = time.monotonic()
    for _ in range(kills):
        wait = rng.uniform(0.05, 1.8 / kills) * whole
        try:
            process.wait(timeout=wait)
        except subprocess.TimeoutExpired:
            alive = workers(process.pid)
            if alive:
                os.kill(rng.choice(alive), signal.SIGKILL)
                struck.append(round(time.monotonic() - begin, 1))
    return {"killed_at_s": struck, "exit_code": process.wait(), "wall_s": round(time.monotonic() - begin, 1)}


def main() -> None:
    """Run an undisturbed sweep, then disturbed ones until enough workers were killed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("arguments", nargs="+", help="of distill -m")
    options = parser.parse_args()
    rng, results, done = random.Random(options.seed), [], 0
    with tempfile.TemporaryDirectory() as place:
        begin = time.monotonic()
        if start(options.arguments, calm := Path(place) / "calm").wait():
            sys.exit(f"the undisturbed sweep failed: {(calm / 'log').read_text()[-500:]}")
        whole, expected = time.monotonic() - begin, tables(calm)
        while done < options.kills:
            folder = Path(place) / f"storm-{len(results)}"
            result = storm(options.arguments, folder, min(KILLS_A_SWEEP, options.kills - done), whole, rng)
            result |= {"same_table": tables(folder) == expected, "made_twice": made_twice(folder)}
            done += len(result["killed_at_s"])
            results.append(result)
            print(f"{done} of {options.kills} workers killed; {result}", flush=True)
    good = [r["exit_code"] == 0 and r["same_table"] and not r["made_twice"] for r in results]
    content = {
        "arguments": options.arguments, "jobs": len(expected), "whole_s": round(whole, 1), "killed": done,
        "sweeps": results, "good": sum(good), "host": describe_host(), "versions": versions(["rankdistill", "torch"]),
    }  # fmt: skip
    options.out.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    print(f"{sum(good)} of {len(good)} sweeps ended with the undisturbed table and no stage made twice")
    sys.exit(not all(good))


if __name__ == "__main__":
    main()
