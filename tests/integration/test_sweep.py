"""Sweeps as a user starts them: a grid, launchers, a search; shared stages, failed jobs, wrong options."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import signal
import tempfile
from pathlib import Path

import pytest
from filelock import FileLock

from rankdistill.export.report.run_folders import jobs_of
from tests.integration import sweeps
from tests.integration.commands import TIMED, begin_with, distill, table
from tests.integration.sweeps import BOTH, BROKEN, newest, quality, record, rows, stages, sweep

pytestmark = pytest.mark.integration


@pytest.fixture
def grid(beir, encoder):
    folder, done = sweeps.broken_grid(beir, encoder)
    assert done.returncode == 1, done.stderr
    return folder


def test_a_failed_job_stops_no_other_and_is_named(grid, beir, encoder):
    folder, done = sweeps.broken_grid(beir, encoder)
    place = newest(folder)
    assert [record(place / str(number))["status"] for number in range(3)] == ["finished", "failed", "finished"]
    assert "student.layers=9: allowed is 1 to 2" in record(place / "1")["error"]
    assert "Traceback" in (place / "1" / "distill.log").read_text()
    assert "Traceback" not in done.stderr
    end = done.stderr[done.stderr.index("1 of 3 jobs failed; the same command runs again what is missing:") :]
    assert f"{place.relative_to(folder)}/1: student.layers=9: allowed is 1 to 2" in end
    found = rows(place)
    assert [(row["job"], row["student.layers"], row["status"]) for row in found] == [
        ("0", "1", "finished"), ("1", "9", "failed"), ("2", "2", "finished"),
    ]  # fmt: skip
    assert found[1]["error"] == record(place / "1")["error"]
    assert found[1]["ndcg@10"] == ""
    for number in (0, 2):
        last = [row for row in table(place / str(number))["rows"] if row["model"] == "student"][-1]
        assert float(found[number]["retention"]) == last["retention"]
    assert "<html" in (place / "sweep.html").read_text()
    assert "2 of 3 runs have a result" in done.stdout


def test_jobs_share_what_they_have_in_common(grid):
    counted = sweeps.kinds(grid)
    assert {name: counted[name] for name in ("data", "tokens", "teacher", "scores")} == {
        "data": 1, "tokens": 1, "teacher": 1, "scores": 1,
    }  # fmt: skip
    assert (counted["student"], counted["graphs"]) == (2, 3)


def test_the_same_sweep_again_makes_nothing(grid, beir, encoder):
    before, first = stages(grid), newest(grid)
    done = distill(*sweep(beir, encoder, BROKEN), cwd=grid)
    assert done.returncode == 1, done.stderr
    again = newest(grid)
    assert again != first
    assert stages(grid) == before
    assert len(quality(again)) == 2
    assert quality(again) == quality(first)


ODD = "a, b=c 'd' {e}"


def test_jobs_at_once_train_their_teacher_once_whatever_the_folders_are_called(tmp_path, grid, beir, encoder):
    folder = begin_with(grid, tmp_path / ODD, without="teacher")
    data, models = folder / "set, x=1" / beir.name, folder / "it's"
    shutil.copytree(beir, data)
    shutil.copytree(encoder, models / encoder.name)
    (folder / "conf=x, y" / "experiment").mkdir(parents=True)
    (folder / "conf=x, y" / "experiment" / "own.yaml").write_text("# @package _global_\nname: small\nseed: 0\n")
    quoted = [f"data.path='{data}'".replace("'d'", r"\'d\'"), f"teacher.model='{models / encoder.name}'"]
    quoted[1] = quoted[1].replace("'d'", r"\'d\'").replace("it's", r"it\'s")
    arguments = [a for a in sweep(beir, encoder, BOTH) if not a.startswith(("data.path=", "teacher.model=", "name="))]
    done = distill("--config-dir=conf=x, y", *arguments, *quoted, "experiment=own", "hydra/launcher=joblib", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "2 at once with" in done.stderr
    assert set(stages(folder)) == set(stages(grid))
    logs = [(newest(folder) / str(number) / "distill.log").read_text() for number in range(2)]
    told = [re.findall(r"\b(made|reused|another process makes) (teacher-\w+)", log) for log in logs]
    assert sum(how == "made" for each in told for how, _ in each) == 1
    assert all(each for each in told)
    assert len({key for each in told for _, key in each}) == 1
    assert any(how != "made" for each in told for how, _ in each)
    assert [row["status"] for row in rows(newest(folder))] == ["finished", "finished"]
    assert quality(newest(folder)) == quality(newest(grid))
    for number in range(2):
        run = newest(folder) / str(number)
        assert f"student.layers={number + 1}" in record(run)["overrides"]
        assert json.loads(json.dumps(table(run)["config"]))["data"]["path"] == str(data)


def test_jobs_run_through_submitit(tmp_path, grid, beir, encoder):
    begin_with(grid, tmp_path)
    launcher = ["hydra/launcher=submitit", "hydra.launcher.cluster=local", "+hydra.launcher.parameters.name=mine"]
    done = distill(*sweep(beir, encoder, BROKEN, *launcher), cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "1 of 3 jobs failed" in done.stderr
    assert "student.layers=9: allowed is 1 to 2" in done.stderr
    assert quality(newest(tmp_path)) == quality(newest(grid))
    assert len(list((newest(tmp_path) / ".submitit").glob("*/*_submitted.pkl"))) == 3


@pytest.fixture
def cluster():
    """Two nodes of a CPU each; nothing is left of them."""
    from ray.cluster_utils import Cluster

    place = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # sockets' paths are short
    (Path(tempfile.gettempdir()) / "ray").mkdir(exist_ok=True)  # a cluster's address is written there, made or not
    node = {"num_cpus": 1, "object_store_memory": 80_000_000, "include_dashboard": False}
    it = Cluster(initialize_head=True, head_node_args=node | {"temp_dir": place})
    it.add_node(num_cpus=1, object_store_memory=80_000_000)
    yield it
    it.shutdown()
    shutil.rmtree(place)


def test_jobs_run_on_the_nodes_of_a_ray_cluster_and_again_when_a_worker_is_lost(tmp_path, grid, beir, encoder, cluster):
    begin_with(grid, tmp_path)
    launcher = ["hydra/launcher=ray", f"hydra.launcher.address={cluster.address}"]
    locks = [tmp_path / "runs/stages/.locks" / f"{sweeps.student(grid, layers)}.lock" for layers in (1, 2)]
    for layers in (1, 2):
        shutil.rmtree(tmp_path / "runs/stages" / sweeps.student(grid, layers))
    locks[0].parent.mkdir()
    first, second = (FileLock(path) for path in locks)
    with first, second, sweeps.started(sweep(beir, encoder, BOTH, *launcher), tmp_path) as process:

        def both_wait() -> bool:
            said = [path.read_text() for path in tmp_path.glob("runs/sweeps/small/*/*/console.log")]
            return sum("another process makes student-" in each for each in said) == 2

        sweeps.until(both_wait, process, tmp_path)  # at the same time: neither node has two jobs' CPUs
        os.kill(lost := sweeps.parent(sweeps.job(tmp_path, 0)), signal.SIGKILL)
        sweeps.until(
            lambda: (found := sweeps.job(tmp_path, 0)) and sweeps.parent(found) not in (lost, 1), process, tmp_path
        )
        first.release()
        second.release()
        assert process.wait(sweeps.PATIENCE) == 0, (tmp_path / "said").read_text()
    nodes = re.findall(r"#\d finished on \S+, node (\w{8})", (tmp_path / "said").read_text())
    assert len(set(nodes)) == 2
    assert quality(newest(tmp_path)) == quality(newest(grid))


SEARCH = ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=3", BOTH, *TIMED]
STORAGE = "runs/sweeps/small.journal"


@functools.cache
def searched(grid, beir, encoder):
    folder = begin_with(grid, beir.parents[1] / "search")
    return folder, distill(*sweep_without_bundle(beir, encoder), *SEARCH, cwd=folder)


def sweep_without_bundle(beir, encoder):
    return [argument for argument in sweep(beir, encoder) if argument != "bundle=false"]


@pytest.fixture
def search(grid, beir, encoder):
    """A search of three trials: its folder, and what it said."""
    folder, done = searched(grid, beir, encoder)
    assert done.returncode == 0, done.stderr
    return folder, done


def trials(folder):
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    study = optuna.load_study(study_name="small", storage=JournalStorage(JournalFileBackend(str(folder / STORAGE))))
    return study.metric_names, study.get_trials()


def test_a_search_tells_its_study_what_was_measured_on_dev(search):
    folder, _ = search
    names, found = trials(folder)
    assert names == ["retention", "cpu_ms_per_query", "size_mb"]
    assert [trial.state.name for trial in found] == ["COMPLETE"] * 3
    place = newest(folder)
    for trial in found:
        run = place / str(trial.number)
        assert trial.user_attrs["folder"] == str(run)
        assert f"student.layers={trial.params['student.layers']}" in record(run)["overrides"]
        student = [row for row in table(run)["rows"] if row["model"] == "student"][-1]
        assert trial.values == [student[name] for name in names]
        assert {"bundle=False", "measure.split=dev"} <= set(record(run)["overrides"])
        assert table(run)["split"] == "dev"
        assert not (run / "bundle").exists()
        assert trial.user_attrs["curve"]["points"]
    assert [(row["job"], row["status"], row["split"]) for row in rows(place)] == [
        (str(number), "finished", "dev") for number in range(3)
    ]


def test_the_same_search_again_runs_nothing_and_shows_all_trials(search, beir, encoder):
    folder, done = search
    before, place = stages(folder), newest(folder)
    again = distill(*sweep_without_bundle(beir, encoder), *SEARCH, cwd=folder)
    assert again.returncode == 0, again.stderr
    assert stages(folder) == before
    assert len(trials(folder)[1]) == 3
    assert newest(folder) != place
    assert not (newest(folder) / "0").exists()
    assert again.stdout == done.stdout[done.stdout.index("   job ") :]  # before it, each run showed its own table
    assert "rivals" not in again.stdout
    assert "3 of 3\nnothing to run" in again.stderr
    assert [run.status for run in jobs_of(newest(folder))] == ["finished"] * 3  # what ranker compare reads
    assert [row | {"report": ""} for row in rows(newest(folder))] == [row | {"report": ""} for row in rows(place)]
    for row in rows(newest(folder)):
        assert (newest(folder) / row["report"]).is_file()


def test_a_hopeless_trial_is_given_up_and_that_is_no_failure(search, tmp_path, beir, encoder):
    folder, _ = search
    begin_with(folder, tmp_path, without="student")
    (tmp_path / "runs/sweeps").mkdir()
    shutil.copy(folder / STORAGE, tmp_path / STORAGE)
    prune = ["hydra.sweeper.prune.least=1", "hydra.sweeper.prune.margin=-1", "hydra.sweeper.n_trials=4"]
    done = distill(*sweep_without_bundle(beir, encoder), *SEARCH, *prune, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = newest(tmp_path) / "3"
    assert record(run)["status"] == "pruned"
    assert re.fullmatch(
        r"given up after \d+% of the training: dev nDCG@10 \S+, below \S+, the median of [1-3] students that cost no "
        "more, by more than -1",
        record(run)["error"],
    )
    assert not (run / "tradeoff.json").exists()
    _, found = trials(tmp_path)
    assert [trial.state.name for trial in found] == ["COMPLETE"] * 3 + ["PRUNED"]
    assert [row["status"] for row in rows(newest(tmp_path))] == ["finished"] * 3 + ["pruned"]
    assert "failed" not in done.stderr


def test_a_search_whose_trials_fail_ends_and_begins_none_of_them_twice(tmp_path, beir, encoder):
    options = ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "student.layers=8,9"]
    done = distill(*sweep(beir, encoder, *options), cwd=tmp_path)
    assert done.returncode == 1
    assert "2 of 2 jobs failed; the same command chooses others until n_trials have a result:" in done.stderr
    assert "allowed is 1 to 2" in done.stderr
    assert "Traceback" not in done.stderr
    assert [trial.state.name for trial in trials(tmp_path)[1]] == ["FAIL", "FAIL"]
    assert [row["status"] for row in rows(newest(tmp_path))] == ["failed", "failed"]


def test_trials_at_once_and_an_own_bundle_and_split(search, tmp_path, beir, encoder):
    folder, _ = search
    begin_with(folder, tmp_path)
    more = ["hydra/launcher=joblib", "hydra.sweeper.n_trials=2", "bundle=true",
            "measure.split=test", f"hydra.sweeper.storage=sqlite:///{tmp_path}/study.db"]  # fmt: skip
    done = distill(*sweep_without_bundle(beir, encoder), *SEARCH, *more, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "study small: trial 0, 1 (0 of 2 are done)" in done.stderr
    assert [row["split"] for row in rows(newest(tmp_path))] == ["test", "test"]
    for number in range(2):
        assert (newest(tmp_path) / str(number) / "bundle" / "manifest.json").is_file()


WRONG = {
    ("hydra/sweeper=optuna", "hydra.sweeper.sampler=foo", "+hydra.sweeper.objectives.foo=maximize",
     "hydra.sweeper.objectives.size_mb=down", "hydra.sweeper.n_trials=0", "hydra.sweeper.prune.least=0",
     "hydra.sweeper.n_jobs=-1"): [
        "hydra.sweeper.sampler=foo: allowed is one of tpe, nsga2",
        "hydra.sweeper.objectives.size_mb=down: allowed is one of maximize, minimize",
        "hydra.sweeper.objectives.foo: no such field; there are ndcg@10, ",
        "hydra.sweeper.n_trials=0: allowed is a number >= 1",
        "hydra.sweeper.n_jobs=-1: allowed is a number >= 1",
        "hydra.sweeper.prune.least=0: allowed is a number >= 1",
    ],
    ("hydra/sweeper=optuna", "hydra.sweeper.storage=sqlite:////nowhere/study.db"): [
        "hydra.sweeper.storage=sqlite:////nowhere/study.db: cannot be opened: "
    ],
    ("hydra/sweeper=optuna", "student.layers=1"): ["nothing to search: give values to choose from"],
    ("hydra/sweeper=optuna", "student.max_length=interval(8,16)"): ["Value '8.0' of type 'float' could not be"],
    ("hydra/sweeper=optuna", "loss=kl,nosuch"): ["Could not find 'loss/nosuch'"],
    ("hydra/launcher=joblib", "hydra.launcher.n_jobs=0", "hydra.launcher.threads=0", "hydra.launcher.tries=0"): [
        "hydra.launcher.n_jobs=0: allowed is a number >= 1",
        "hydra.launcher.threads=0: allowed is a number >= 1",
        "hydra.launcher.tries=0: allowed is a number >= 1",
    ],
    ("hydra/launcher=ray", "hydra.launcher.threads=-2"): ["hydra.launcher.threads=-2: allowed is a number >= 1"],
    ("hydra/launcher=ray", "hydra.launcher.address=auto"): ["hydra.launcher.address=auto: no Ray cluster answers ("],
    ("hydra/launcher=submitit", "+hydra.launcher.parameters.foo=1"): ["hydra.launcher.parameters: Parameter 'foo' "],
    ("hydra/launcher=submitit", "hydra.launcher.cluster=slurm"): ["hydra.launcher.cluster=slurm: Could not detect"],
}  # fmt: skip


@pytest.mark.parametrize("options", WRONG, ids=lambda options: options[-1])
def test_a_wrong_option_of_a_sweep_is_named_without_a_traceback(options, tmp_path, beir, encoder):
    environment = {"PATH": "/usr/bin:/bin", "RAY_ADDRESS": "", "RAY_TMPDIR": str(tmp_path)}
    done = distill(*sweep(beir, encoder, BOTH, *options), cwd=tmp_path, env=environment)
    assert done.returncode == 1
    for line in WRONG[options]:
        assert line in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("runs/stages/*"))
    assert not list(tmp_path.glob("runs/sweeps/*/*/[0-9]/run.json"))


def test_a_launcher_whose_library_is_missing_names_the_command_that_installs_it(tmp_path, beir, encoder):
    code = (
        "import importlib.util as u; f = u.find_spec; u.find_spec = lambda n, *a: None if n == 'submitit' else f(n, *a)"
    )
    (tmp_path / "sitecustomize.py").write_text(code)
    environment = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(__file__).parents[2]}"}
    done = distill(*sweep(beir, encoder, BOTH, "hydra/launcher=submitit"), cwd=tmp_path, env=environment)
    assert done.returncode == 1
    assert "submitit not installed; run: pip install 'rankdistill[sweep]'" in done.stderr
    assert "Traceback" not in done.stderr
