"""A job's process: how it ended, when it is begun again, what it is given, and that it ends with its launcher."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from rankdistill.sweep import jobs
from rankdistill.sweep.jobs import CONSOLE, Job, Outcome, run_job
from rankdistill.sweep.launcher import quoted

ROOT = Path(__file__).parents[2]
FAKE = """
import json, os, signal, sys
from pathlib import Path
folder, plan = Path(sys.argv[1]), sys.argv[2:]
with (folder / "starts").open("a") as file:
    file.write("x")
start = len((folder / "starts").read_text())
step = plan[min(start, len(plan)) - 1]
print(f"start {start} will be {step}", flush=True)
print("to stderr", file=sys.stderr, flush=True)
names = ("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "RANKDISTILL_PARENT")
told = {name: os.environ.get(name) for name in names} | {"cwd": os.getcwd(), "path": sys.path}
(folder / "told.json").write_text(json.dumps(told))
record = {"status": step if step in ("finished", "failed", "pruned") else "running"}
if step in ("failed", "pruned"):
    record["error"] = f"it {step}"
if step != "crashed":
    (folder / "run.json").write_text(json.dumps(record))
if step.startswith("SIG"):
    os.kill(os.getpid(), getattr(signal, step))
sys.exit({"failed": 1, "crashed": 3, "killed in a shell": 137}.get(step, 0))
"""


@pytest.fixture
def job(tmp_path, monkeypatch):
    """A function that runs a job whose starts go as planned."""
    package, directory = tmp_path / "fake" / "rankdistill", tmp_path / "a place, with = and spaces"
    package.mkdir(parents=True)
    directory.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(FAKE)
    monkeypatch.setenv("PYTHONPATH", str(package.parent))

    def run(*plan: str, tries: int = 3) -> tuple[Outcome, Path]:
        folder = directory / "sweep" / "0"
        return run_job(Job(0, folder, [str(folder), *plan], directory), threads=5, tries=tries), folder

    return run


def starts(folder: Path) -> int:
    return len((folder / "starts").read_text())


@pytest.mark.parametrize(
    ("step", "status", "error"),
    [
        ("finished", "finished", ""),
        ("pruned", "pruned", "it pruned"),
        ("failed", "failed", "it failed"),
        ("crashed", "failed", "ended with code 3: to stderr"),
        ("running", "failed", "ended with code 0: to stderr"),
    ],
)
def test_an_end_is_read_from_the_run_and_comes_once(job, step, status, error):
    outcome, folder = job(step)
    assert (outcome.status, outcome.error, outcome.starts) == (status, error, 1)
    assert outcome.place
    assert starts(folder) == 1


@pytest.mark.parametrize("step", ["SIGKILL", "SIGTERM", "SIGSEGV", "killed in a shell"])
def test_a_killed_job_is_begun_again_and_keeps_what_each_start_said(job, step):
    outcome, folder = job(step, step, "finished")
    assert (outcome.status, outcome.error, outcome.starts) == ("finished", "", 3)
    number = getattr(signal, step, signal.SIGKILL).value
    assert (folder / CONSOLE).read_text().splitlines() == [
        f"start 1 will be {step}", "to stderr", f"killed by signal {number} (start 1 of 3)",
        f"start 2 will be {step}", "to stderr", f"killed by signal {number} (start 2 of 3)",
        "start 3 will be finished", "to stderr",
    ]  # fmt: skip


@pytest.mark.parametrize("step", ["SIGKILL", "killed in a shell"])
@pytest.mark.parametrize("tries", [1, 2])
def test_a_job_is_begun_no_more_often_than_allowed(job, tries, step):
    outcome, folder = job(step, tries=tries)
    assert (outcome.status, outcome.starts) == ("killed", tries)
    assert outcome.error == f"killed by signal 9, begun {tries} times"
    assert starts(folder) == tries


def test_a_job_that_fails_after_a_kill_is_not_begun_again(job):
    outcome, folder = job("SIGKILL", "failed", "finished")
    assert (outcome.status, outcome.error, outcome.starts) == ("failed", "it failed", 2)
    assert starts(folder) == 2


def test_what_an_earlier_run_left_in_the_folder_is_not_taken_for_the_end(job):
    assert job("finished", "crashed")[0].status == "finished"
    outcome, _ = job("finished", "crashed")
    assert (outcome.status, outcome.error) == ("failed", "ended with code 3: to stderr")


def test_a_job_has_its_threads_its_directory_and_its_launcher(job, tmp_path):
    _, folder = job("finished")
    told = json.loads((folder / "told.json").read_text())
    assert (told["OMP_NUM_THREADS"], told["RAYON_NUM_THREADS"]) == ("5", "5")
    assert told["RANKDISTILL_PARENT"] == str(os.getpid())
    assert told["cwd"] == str(tmp_path / "a place, with = and spaces")


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 always looks into the working directory")
def test_modules_of_the_working_directory_are_not_imported(job):
    _, folder = job("finished")
    told = json.loads((folder / "told.json").read_text())
    assert told["cwd"] not in told["path"]
    assert "" not in told["path"]


def test_a_job_does_not_outlive_a_launcher_that_is_killed(tmp_path):
    """A real launcher's process waits for a real child; only the launcher is killed."""
    child = tmp_path / "child"
    child.write_text(
        f"#!{sys.executable}\n"
        "import os, sys, time\n"
        "from rankdistill.sweep.jobs import PARENT, end_with_parent\n"
        "end_with_parent()\n"
        "print('child', os.getpid(), PARENT in os.environ, flush=True)\n"
        "time.sleep(600)\n"
    )
    child.chmod(0o700)
    code = f"""
import sys
from contextlib import suppress
from pathlib import Path
from rankdistill.sweep.jobs import Job, run_job
sys.executable = {str(child)!r}
run_job(Job(0, Path({str(tmp_path)!r}), [], Path({str(tmp_path)!r})), 1, 3)
"""
    launcher = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    console = tmp_path / CONSOLE
    while launcher.poll() is None and not (console.exists() and console.read_text().endswith("\n")):
        pass
    _, number, handed_on = console.read_text().split()
    assert handed_on == "False"  # a job's own children are not bound to the launcher
    watched = os.pidfd_open(int(number))
    try:
        launcher.kill()
        launcher.wait()
        assert select.select([watched], [], [], 60)[0], "it goes on"  # a descriptor that is ready when its process ends
    finally:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(watched, signal.SIGKILL)
        os.close(watched)


def test_a_job_whose_launcher_was_killed_before_it_could_say_so_ends_itself(tmp_path):
    code = "from rankdistill.sweep.jobs import end_with_parent; end_with_parent(); print('went on')"
    environment = os.environ | {jobs.PARENT: "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "")


@pytest.mark.parametrize(
    "path",
    ["/a b/c,d/e=f", "/it's", "/back\\slash", "/ends\\", "/\\'", "/\\\\'x'", "/{a}[b](c)", "/${x}$", "/~:%", '/"'],
)
def test_hydra_reads_a_quoted_path_as_it_is(path):
    override = OverridesParser.create().parse_override(f"a={quoted(Path(path))}")
    assert not override.is_sweep_override()
    assert OmegaConf.create({"a": override.value(), "x": "wrong"}).a == path
