"""The rooms: which may import which, how many entries each has, and that they are one package under one name."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {"rankdistill": "distill", "rankdistill.export": "export"}
# a room, and the rooms beside it that it may import: all of them stand further down
ROOMS = {
    "rankdistill": {
        "__main__": "commands sweep",
        "commands": "errors online options pipeline store sweep torchrun tracking training",
        "online": "data errors losses models options pipeline training",
        "pipeline": "baselines data embedder errors losses models options store torchrun training",
        "baselines": "data errors models options store training",
        "embedder": "data losses models options training",
        "models": "data errors losses options store training",
        "sweep": "errors options tracking training",
        "training": "data errors losses options torchrun",
        "data": "errors options store",
        "losses": "errors options",
        "tracking": "errors options",
        "options": "errors",
        "store": "errors torchrun",
        "deprecated_export": "",
        "errors": "",
        "torchrun": "",
    },
    "rankdistill.export": {
        "commands": "batch bundle compare errors extras files full_disk gate measure runtime serve",
        "bundle": "errors extras files gate graphs measure progress report runtime",
        "compare": "errors extras files gate measure report runtime",
        "gate": "errors files graphs machine_lock measure report runtime yaml_file",
        "quantization": "errors graphs measure progress runtime",
        "report": "errors files graphs measure runtime",
        "measure": "errors graphs machine_lock progress runtime torch_models",
        "batch": "errors extras files runtime",
        "graphs": "errors runtime torch_models",
        "serve": "errors extras files runtime yaml_file",
        "runtime": "errors extras",
        "extras": "errors",
        "full_disk": "errors",
        "progress": "machine_lock",
        "torch_models": "errors",
        "yaml_file": "errors",
        "errors": "",
        "files": "",
        "machine_lock": "",
    },
    "rankdistill.export.serve": {
        "server": "http service settings worker_commands workers",
        "ray_app": "http service settings",
        "workers": "http settings",
        "http": "caching models scheduling service settings worker_commands",
        "service": "caching models scheduling settings worker_commands",
        "models": "caching scheduling settings worker_commands",
        "caching": "scheduling settings",
        "settings": "scheduling",
        "scheduling": "",
        "worker_commands": "",
    },
}
MOST_ENTRIES, MOST_FLOORS = 21, 10


def module_of(path: Path) -> str:
    package = next(name for name, folder in PACKAGES.items() if path.is_relative_to(ROOT / folder))
    parts = path.relative_to(ROOT / PACKAGES[package]).with_suffix("").parts
    return ".".join([package, *(parts[:-1] if parts[-1] == "__init__" else parts)])


MODULES = {module_of(path): path for folder in PACKAGES.values() for path in (ROOT / folder).rglob("*.py")}


def imported(path: Path) -> set[str]:
    """Return which of our modules a file imports, in functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            below = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= below & MODULES.keys() or {node.module}
    return found & MODULES.keys()


def room(module: str, package: str) -> str | None:
    """Return in which room of a package a module is; None if in none, or in a package below it."""
    parents = [name for name in PACKAGES if f"{module}.".startswith(f"{name}.")]
    if not module.startswith(f"{package}.") or (package in PACKAGES and package != max(parents, key=len)):
        return None
    return module.removeprefix(f"{package}.").partition(".")[0]


@pytest.mark.parametrize("package", ROOMS)
def test_rooms_import_what_they_may_and_nothing_may_that_is_not_used(package):
    found: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        if here := room(module, package):
            there = {room(each, package) for each in imported(path)} - {here, None}
            found.setdefault(here, set()).update(there)
    assert found == {name: set(allowed.split()) for name, allowed in ROOMS[package].items()}


@pytest.mark.parametrize("package", ROOMS)
def test_rooms_stand_above_those_that_they_import_on_few_floors(package):
    floors: dict[str, int] = {}
    for name, allowed in reversed(ROOMS[package].items()):
        floors[name] = 1 + max((floors[below] for below in allowed.split()), default=0)
    assert max(floors.values()) <= MOST_FLOORS


def test_no_folder_has_many_entries():
    folders = {path.parent for path in MODULES.values()}
    entries = {
        folder: [path for path in folder.iterdir() if path.name != "__pycache__" and not path.name.startswith(".")]
        for folder in folders
    }
    assert {folder.name: len(each) for folder, each in entries.items() if len(each) > MOST_ENTRIES} == {}


@pytest.mark.parametrize("folder", sorted({path.parent for path in MODULES.values()}), ids=lambda path: path.name)
def test_every_room_says_what_it_is_for(folder):
    tree = ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)


@pytest.mark.parametrize("package", ROOMS)
def test_every_room_says_what_it_imports(package):
    for name, allowed in ROOMS[package].items():
        path = MODULES[f"{package}.{name}"]
        if path.name == "__init__.py":
            said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
            named = f"Imports {', '.join(allowed.split())}." if allowed else "Imports no other room."
            assert said.splitlines()[-1] == named, name


def test_nothing_imports_the_folders_by_their_own_names():
    for top in (*PACKAGES.values(), "tests", "scripts"):
        for path in (ROOT / top).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                assert not {name.partition(".")[0] for name in names} & {"distill", "export", "conf"}, path


@pytest.mark.parametrize(("folder", "told"), [("distill", "import rankdistill"), ("export", "from rankdistill import")])
def test_a_folder_by_its_own_name_is_refused_with_the_packages_name(folder, told):
    done = subprocess.run([sys.executable, "-c", f"import {folder}.errors"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert told in done.stderr.splitlines()[-1]
