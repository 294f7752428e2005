"""Nothing is sent to anybody and nothing is left in a home: libraries are silenced before they are imported."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rankdistill.export import SILENT
from rankdistill.export.bundle.dockerfile import write_dockerfile

ROOT = Path(__file__).parents[2]
DOORS = [
    "rankdistill.export.runtime",
    "rankdistill.export.commands.main",
    "rankdistill.export.serve.http.app",
    "rankdistill.export.serve.ray_app",
    "rankdistill.export.runtime.scorer",
]
TRAINING_DOORS = ["rankdistill", "rankdistill.__main__", "rankdistill.errors", "rankdistill.sweep.jobs"]
TOLD = """
import importlib, json, os, sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name in ("onnxruntime", "huggingface_hub", "datasets", "mlflow", "ray"):
            seen.setdefault(name, {key: os.environ.get(key) for key in names})
names, seen = json.loads(sys.argv[1]), {}
sys.meta_path.insert(0, Watch())
for name in sys.argv[2:]:
    importlib.import_module(name)
print(json.dumps([seen, {key: os.environ.get(key) for key in names}]))
"""


def environment(tmp_path: Path, **own: str) -> dict[str, str]:
    """Return an environment with an empty home, in which nothing is silenced yet."""
    unwanted = {*SILENT, "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "MPLCONFIGDIR"}
    kept = {name: value for name, value in os.environ.items() if name not in unwanted}
    return kept | {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"} | own


def left(home: Path) -> list[str]:
    return sorted(str(path.relative_to(home)) for path in home.rglob("*"))


def told(modules: list[str], env: dict[str, str]) -> tuple[dict, dict]:
    """Return what the environment said when libraries were first looked for, and in the end."""
    command = [sys.executable, "-c", TOLD, json.dumps([*SILENT]), *modules]
    done = subprocess.run(command, env=env, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    seen, end = json.loads(done.stdout)
    return seen, end


@pytest.mark.parametrize("door", [*DOORS, *TRAINING_DOORS])
def test_libraries_are_silenced_before_they_are_imported_whatever_is_imported_first(door, tmp_path):
    seen, end = told([door], environment(tmp_path))
    assert end == SILENT
    assert all(then == SILENT for then in seen.values())
    assert left(tmp_path) == []


def test_onnxruntime_is_loaded_by_the_runtime_after_it_was_silenced(tmp_path):
    seen, _ = told(["rankdistill.export.runtime.ranker"], environment(tmp_path))
    assert seen["onnxruntime"] == SILENT
    assert left(tmp_path) == []


def test_what_a_user_has_set_stays(tmp_path):
    own = {name: "0" if value != "0" else "1" for name, value in SILENT.items()}
    assert told(["rankdistill"], environment(tmp_path, **own))[1] == own


@pytest.mark.parametrize("package", ["distill", "export"])
def test_a_package_that_loads_such_libraries_is_below_one_that_silences_them(package):
    """Python runs a package's `__init__` before each of its modules; it must do so before it imports anything else."""
    tree = ast.parse((ROOT / package / "__init__.py").read_text(encoding="utf-8"))
    first = next(node for node in tree.body if isinstance(node, ast.Import))
    assert [alias.name for alias in first.names] == [{"distill": "rankdistill.export", "export": "os"}[package]]


def test_the_bundles_image_is_silent_too(tmp_path):
    path = tmp_path / "Dockerfile"
    write_dockerfile({"versions": {}}, path)
    assert "ENV ORT_DISABLE_TELEMETRY=1" in path.read_text(encoding="utf-8").splitlines()
