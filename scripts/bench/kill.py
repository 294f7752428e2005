"""Kill -9 a tiny experiment at random instants, in every stage, and check that it always finishes with the same table.

python scripts/bench/kill.py --kills 30 --out kill.json -- experiment=tiny
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from export.host import describe_host, versions

TIMED = {"p50_ms", "p95_ms", "p99_ms", "pairs_per_s", "cpu_ms_per_query", "peak_rss_mb"}


def quality(tradeoff: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows without what a clock or the memory says."""
    return [{k: v for k, v in row.items() if k not in TIMED and "speedup" not in k} for row in tradeoff["rows"]]


def table(folder: Path) -> list[dict[str, Any]]:
    """Return the newest run's rows."""
    newest = max((folder / "runs").glob("*/*/tradeoff.json"), key=lambda path: path.stat().st_mtime)
    return quality(json.loads(newest.read_text(encoding="utf-8")))


def start(arguments: list[str], folder: Path) -> subprocess.Popen[bytes]:
    """Start the experiment in a process group of its own."""
    command = [sys.executable, "-m", "distill", *arguments]
    log = (folder / "log").open("ab")
    return subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)


def stage_under_way(folder: Path) -> str:
    """Return which stage was being made, told from the folder it left."""
    left = sorted((folder / "runs/stages").glob("work-*")) if (folder / "runs/stages").is_dir() else []
    return left[0].name.split("-")[1] if left else "between stages"


def kill_and_resume(arguments: list[str], folder: Path, after: float) -> dict[str, Any]:
    """Run once to be killed after `after` seconds, then until it ends."""
    process = start(arguments, folder)
    try:
        process.wait(timeout=after)
        killed_in = "finished before"
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        killed_in = stage_under_way(folder)
    code = start(arguments, folder).wait()
    return {"after_s": round(after, 2), "killed_in": killed_in, "exit_code": code}


def main() -> None:
    """Kill, resume, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("arguments", nargs="*", default=["experiment=tiny"], help="of distill")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    results = []
    with tempfile.TemporaryDirectory() as place:
        calm = Path(place) / "calm"
        calm.mkdir()
        begin = time.monotonic()
        if start(options.arguments, calm).wait():
            sys.exit(f"the undisturbed run failed: {(calm / 'log').read_text()[-500:]}")
        whole, expected = time.monotonic() - begin, table(calm)
        for number in range(options.kills):
            storm = Path(place) / f"storm-{number}"
            storm.mkdir()
            # every kill starts from nothing, so that all stages get their share of instants
            result = kill_and_resume(options.arguments, storm, rng.uniform(0, whole))
            result["same_table"] = result["exit_code"] == 0 and table(storm) == expected
            results.append(result)
            print(f"{number + 1}/{options.kills} {result}", flush=True)
            shutil.rmtree(storm)
    good = sum(result["same_table"] for result in results)
    print(f"{good} of {len(results)} killed runs finished with the undisturbed table; a run takes {whole:.0f} s")
    if options.out:
        host = {"host": describe_host(), "versions": versions(["rankdistill", "torch", "transformers"])}
        content = host | {"arguments": options.arguments, "whole_s": round(whole, 1), "kills": results}
        options.out.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    sys.exit(good != len(results))


if __name__ == "__main__":
    main()
