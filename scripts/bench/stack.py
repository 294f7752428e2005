"""The tests with the newest and the oldest libraries that pyproject.toml allows, and a bundle in yesterday's tools.

    stack.py newest --work FOLDER         every dependency as new as the resolver takes it
    stack.py oldest --work FOLDER         direct dependencies at their lower bounds, by uv
    stack.py tools BUNDLE --work FOLDER   a bundle in transformers 4.57 with optimum-onnx
    stack.py resolve                      what uv resolves for each Python, without installing

`resolve` needs uv in this Python (pip install uv). The others make an environment of their own below FOLDER (gigabytes;
kept, so that a second call only brings it up to date), run tests in it and write what was installed and what failed as
JSON. The next break of a library is seen here first.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
EXTRAS = "train,demo,sweep,serve,track,online,openvino,ray,redis,index,parquet,sign,dev"
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
TOOLS = (  # the last that optimum-onnx knows, as teams have them who serve
    "sentence-transformers[onnx]>=5.1,<6", "transformers>=4.57,<4.58", "flashrank>=0.2.10", "tritonclient[grpc]>=2.60",
    "pytest>=8", "pyarrow",
)  # fmt: skip
TOLD = ("torch", "transformers", "optimum", "optimum-onnx", "sentence-transformers", "huggingface-hub", "datasets")


def main() -> None:
    """Try what is asked; exit code 1 where something failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("newest", "oldest", "tools", "resolve"))
    parser.add_argument("bundle", nargs="?", type=Path, help="for tools: the bundle that they load")
    parser.add_argument("--work", type=Path, default=Path("runs/stack"), help="folder of the environments")
    parser.add_argument("--tests", nargs="*", default=["tests/unit"], help="what is run, of newest and oldest")
    parser.add_argument("--out", type=Path, help="JSON to write; it is printed anyway")
    asked = parser.parse_args()
    if (asked.what == "tools") != (asked.bundle is not None):
        parser.error("tools takes a bundle, the others none")
    told = resolve() if asked.what == "resolve" else tried(asked)
    text = json.dumps(told, indent=2)
    print(text)
    if asked.out:
        asked.out.write_text(text + "\n", encoding="utf-8")
    sys.exit(bool(told.get("failed")))


def tried(asked: argparse.Namespace) -> dict[str, Any]:
    """Install, run the tests, and return what was found."""
    python = environment(asked.work / asked.what)
    variables, tests = dict(os.environ), list(asked.tests)
    if asked.what == "tools":
        pip(python, "install", *TOOLS, "--editable", str(ROOT))
        variables["RANKDISTILL_BUNDLE"], tests = str(asked.bundle.resolve()), ["tests/integration/test_loaders.py"]
    elif asked.what == "oldest":
        pip(python, "install", "uv")
        uv = [str(python), "-m", "uv", "pip", "install", "--python", str(python), "--resolution", "lowest-direct"]
        run([*uv, "--editable", f"{ROOT}[{EXTRAS}]"])
    else:
        pip(python, "install", "--upgrade", "--upgrade-strategy", "eager", "--editable", f"{ROOT}[{EXTRAS}]")
    done = subprocess.run(
        [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests],
        cwd=ROOT, env=variables, capture_output=True, text=True, check=False,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    if done.returncode and not failed:
        failed = [*lines[-20:], *done.stderr.splitlines()[-20:]]
    return {"what": asked.what, "versions": versions(python), "tests": lines[-1:] or [""], "failed": failed}


def resolve() -> dict[str, Any]:
    """Return what uv resolves of every extra together, by Python."""
    found: dict[str, Any] = {"what": "resolve", "failed": []}
    for version in PYTHONS:
        command = [
            sys.executable, "-m", "uv", "pip", "compile", "--python-version", version, "--quiet",
            *(each for extra in EXTRAS.split(",") for each in ("--extra", extra)), str(ROOT / "pyproject.toml"),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            found["failed"].append(f"{version}: {done.stderr.strip()[-2000:]}")
        pins = dict(re.findall(r"^([\w.-]+)==(\S+)", done.stdout, re.MULTILINE))
        found[version] = {name: pins[name] for name in TOLD if name in pins} | {"packages": len(pins)}
    return found


def environment(folder: Path) -> Path:
    """Return the Python of an environment, made where there is none."""
    python = folder / "bin/python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    return python.absolute()


def versions(python: Path) -> dict[str, str]:
    """Return the installed versions of what pyproject.toml names, and of what the tools are."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [*project["dependencies"], *(each for extra in project["optional-dependencies"].values() for each in extra)]
    names = {re.split(r"[\[<>=!~; ]", each)[0].lower() for each in asked} | set(TOLD)
    listed = subprocess.run(
        [str(python), "-m", "pip", "list", "--format", "json"], capture_output=True, text=True, check=True
    )
    installed = {each["name"].lower().replace("_", "-"): each["version"] for each in json.loads(listed.stdout)}
    return {"python": python.resolve().name} | {name: installed[name] for name in sorted(names) if name in installed}


def pip(python: Path, *arguments: str) -> None:
    """Run pip of an environment."""
    run([str(python), "-m", "pip", "--quiet", *arguments])


def run(command: list[str]) -> None:
    """Run a command whose failure ends this one with its words."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout[-3000:]}{done.stderr[-3000:]}")


if __name__ == "__main__":
    main()
