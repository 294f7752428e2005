"""What a sweep costs beyond its stages, what it costs again, and what several jobs at once gain.

python scripts/bench/sweep.py --out sweep.json -- experiment=tiny bundle=false student=l1_h384,l2_h384,l3_h384 \
    loss=kl,margin_mse student.fit.learning_rate=2e-4,3e-4
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rankdistill.export.measure.host import describe_host, versions


def run(arguments: list[str], folder: Path) -> dict[str, Any]:
    """Run a sweep; returns its wall seconds, its children's CPU seconds and its jobs."""
    folder.mkdir(exist_ok=True)
    start, before = time.monotonic(), os.times()
    with (folder / "log").open("ab") as log:
        command = [sys.executable, "-m", "rankdistill", "-m", *arguments]
        code = subprocess.run(command, cwd=folder, stdout=log, stderr=log, check=False).returncode
    wall, after = time.monotonic() - start, os.times()
    if code:
        sys.exit(f"the sweep ended with code {code}: {(folder / 'log').read_text()[-1000:]}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    with max((folder / "runs/sweeps").glob("*/*/sweep.csv"), key=lambda path: path.stat().st_mtime).open() as file:
        rows = list(csv.DictReader(file))
    return {"wall_s": round(wall, 1), "cpu_s": round(cpu, 1), "rows": rows}


def stages(folder: Path) -> dict[str, float]:
    """Return the seconds of making, by kind of stage."""
    found: dict[str, float] = {}
    for path in (folder / "runs/stages").glob("*/stage.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        found[record["stage"]] = round(found.get(record["stage"], 0.0) + record["seconds"], 1)
    return found


def main() -> None:
    """Run the sweep from nothing, again, and from nothing with two jobs at once."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("arguments", nargs="+", help="of distill -m")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        alone, beside = Path(place) / "alone", Path(place) / "beside"
        first = run(options.arguments, alone)
        made = stages(alone)
        again = run(options.arguments, alone)
        parallel = run([*options.arguments, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"], beside)
        made_beside = stages(beside)
    jobs = len(first["rows"])
    content = {
        "arguments": options.arguments,
        "jobs": jobs,
        "first": {"wall_s": first["wall_s"], "cpu_s": first["cpu_s"], "stages_s": made},
        "overhead_s_per_job": round((first["wall_s"] - sum(made.values())) / jobs, 2),
        "again": {"wall_s": again["wall_s"], "cpu_s": again["cpu_s"]},
        "joblib_2": {"wall_s": parallel["wall_s"], "cpu_s": parallel["cpu_s"], "stages_s": made_beside},
        "gain_of_joblib": round(first["wall_s"] / parallel["wall_s"], 3),
        "host": describe_host(),
        "versions": versions(["rankdistill", "torch", "transformers", "onnxruntime", "joblib"]),
    }
    options.out.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    print(
        json.dumps(
            {key: content[key] for key in ("jobs", "first", "overhead_s_per_job", "again", "joblib_2")}, indent=1
        )
    )
    print(f"gain of two jobs at once: {content['gain_of_joblib']}")


if __name__ == "__main__":
    main()
