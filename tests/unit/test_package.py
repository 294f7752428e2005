"""`rankdistill` as a program imports it: what it offers, what it loads, also beside files of the same names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import rankdistill

OFFERED = ["Cascade", "Embedder", "EventLog", "Ranked", "Ranker", "__version__", "verify"]


def python(code: str, folder: Path, *, options: tuple[str, ...] = (), **environment: str) -> str:
    command = [sys.executable, *options, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=os.environ | environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def project(tmp_path):
    """Return a folder with files and folders that are called as this project's are."""
    for name in ("export.py", "distill.py", "runtime.py"):
        (tmp_path / name).write_text("raise SystemExit('the file of the user was imported')\n")
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/config.yaml").write_text("mine: 1\n")
    return tmp_path


def test_what_is_offered_is_there_beside_files_of_the_same_names(project):
    code = f"import rankdistill; print(sorted(dir(rankdistill)) == {OFFERED}, rankdistill.__version__); " + "; ".join(
        f"from rankdistill import {name}" for name in OFFERED
    )
    assert python(code, project).startswith("True 0.")


def test_commands_work_beside_files_of_the_same_names(project):
    for command in ("rankdistill", "rankdistill.export.commands.main"):
        arguments = ["--cfg", "job"] if command == "rankdistill" else ["--help"]
        done = subprocess.run(
            [sys.executable, "-m", command, *arguments], capture_output=True, text=True, cwd=project, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "mine: 1" not in done.stdout


def test_importing_it_loads_nothing_and_asking_for_a_name_loads_the_engine(tmp_path):
    code = "import sys, json, rankdistill; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    assert not {"numpy", "onnxruntime", "tokenizers", "torch", "yaml"} & set(json.loads(python(code, tmp_path)))
    assert python("from rankdistill import Ranker; import sys; print('torch' in sys.modules)", tmp_path) == "False\n"


def test_a_name_that_is_not_offered_is_an_attribute_error():
    name = "Rankers"
    with pytest.raises(AttributeError, match="no attribute 'Rankers'"):
        getattr(rankdistill, name)


def test_the_old_path_works_for_one_release_with_a_warning(tmp_path):
    code = "from export.runtime import Ranker; import rankdistill; print(Ranker is rankdistill.Ranker)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.stdout == "True\n", done.stderr
    assert "from rankdistill import Ranker" in done.stderr


def test_it_is_found_in_processes_that_are_spawned(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(
        "import multiprocessing as m\nfrom pathlib import Path\nfrom rankdistill.export.files import write_atomic\n"
        "if __name__ == '__main__':\n"
        "    with m.get_context('spawn').Pool(1) as pool:\n"
        "        pool.starmap(write_atomic, [(Path(__file__ + '.out'), 'written')])\n"
    )
    subprocess.run([sys.executable, script], check=True, cwd=tmp_path)
    assert Path(f"{script}.out").read_text() == "written"
