"""The slim install: its size, what loads, how fast a bundle is imported and loaded, and its memory while scoring.

python scripts/bench/slim.py --bundle BUNDLE --out slim.json

Makes a virtual environment in a temporary folder and installs the project into it without extras.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

REPEATS = 5
NOT_COUNTED = ("pip", "setuptools", "pkg_resources", "_distutils_hack")  # what venv itself puts there
PROBE = """
import json, resource, sys, time
start = time.perf_counter()
from rankdistill import Ranker
imported = time.perf_counter()
ranker = Ranker.load(sys.argv[1])
loaded = time.perf_counter()
with open(sys.argv[1] + "/golden.jsonl", encoding="utf-8") as file:
    rows = [json.loads(line) for line in file]
for turn in range(100):
    ranker.score([(row["query"], row["item"]) for row in rows])
with open("/proc/self/status") as file:
    peak = next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))
heavy = sorted({name.split(".")[0] for name in sys.modules} & {"torch", "transformers", "hydra", "optimum", "datasets"})
print(json.dumps({"import_s": imported - start, "load_s": loaded - imported, "peak_rss_mb": peak / 1e6,
                  "heavy": heavy}))
"""


def _output(command: list[str], folder: str) -> str:
    return subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True).stdout


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    project = Path(__file__).parents[2]
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder) / "bin" / "python"
        subprocess.run([python, "-m", "pip", "install", "--quiet", str(project)], check=True)
        packages = next(Path(folder).glob("lib/python*/site-packages"))
        size = sum(
            path.stat().st_size
            for path in packages.rglob("*")
            if path.is_file() and not path.relative_to(packages).parts[0].startswith(NOT_COUNTED)
        )
        command = [str(python), "-c", PROBE, str(options.bundle.resolve())]
        probes = [json.loads(_output(command, folder)) for _ in range(REPEATS)]
        listed = json.loads(_output([str(python), "-m", "pip", "list", "--format=json"], folder))
    names = ("import_s", "load_s", "peak_rss_mb")
    result: dict[str, Any] = {name: round(statistics.median(probe[name] for probe in probes), 3) for name in names}
    result |= {"heavy": probes[0]["heavy"], "site_packages_mb": round(size / 1e6, 1)}
    if options.out:
        from rankdistill.export.measure.host import describe_host

        content = {"command": sys.argv[1:], "host": describe_host(), "packages": listed, "result": result}
        options.out.write_text(json.dumps(content, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
