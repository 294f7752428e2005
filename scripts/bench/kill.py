"""Kill -9 a tiny experiment at random instants, in every stage, and check that it always finishes with the same table.

python scripts/bench/kill.py --kills 30 --out kill.json -- experiment=tiny
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rankdistill.export.measure.host import describe_host, versions

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
    command = [sys.executable, "-m", "rankdistill", *arguments]
    log = (folder / "log").open("ab")
    return subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)


def stages_made(folder: Path) -> list[tuple[str, float]]:
    """Return the keys of the stages and the seconds each took, in the order of their making."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in (folder / "runs/stages").glob("*/stage.json")]
    records.sort(key=lambda record: (folder / "runs/stages" / record["key"]).stat().st_mtime)
    return [(record["key"], record["seconds"]) for record in records]


def kill_and_resume(arguments: list[str], folder: Path, key: str, after: float) -> dict[str, Any]:
    """Start from nothing, kill `after` seconds into the making of a stage, and run again until it ends."""
    process = start(arguments, folder)
    working, made = folder / "runs/stages" / f"work-{key}", folder / "runs/stages" / key
    while process.poll() is None and not working.exists() and not made.exists():
        time.sleep(0.002)
    time.sleep(after)
    struck = process.poll() is None
    if struck:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    result = {"stage": key.partition("-")[0], "after_s": round(after, 3), "killed": struck}
    result["stage_was_whole"] = made.exists()
    return result | {"exit_code": start(arguments, folder).wait()}


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
        stages = stages_made(calm)
        for number in range(options.kills):
            storm = Path(place) / f"storm-{number}"
            storm.mkdir()
            key, seconds = stages[number % len(stages)]  # every stage in turn, at a random instant of its making
            result = kill_and_resume(options.arguments, storm, key, rng.uniform(0, seconds))
            result["same_table"] = result["exit_code"] == 0 and table(storm) == expected
            results.append(result)
            print(f"{number + 1}/{options.kills} {result}", flush=True)
            shutil.rmtree(storm)
    good = sum(result["same_table"] for result in results)
    print(f"{good} of {len(results)} killed runs finished with the undisturbed table; a run takes {whole:.0f} s")
    if options.out:
        host = {"host": describe_host(), "versions": versions(["rankdistill", "torch", "transformers"])}
        arguments = [re.sub(r"/\S*/", "", argument) for argument in options.arguments]  # no paths of this machine
        content = host | {"arguments": arguments, "whole_s": round(whole, 1), "kills": results}
        options.out.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    sys.exit(good != len(results))


if __name__ == "__main__":
    main()
