"""Runs in a real MLflow store: what is recorded, once, whole, under one parent, and without it."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from rankdistill.commands.track import choose
from rankdistill.errors import TrackerError
from rankdistill.export.errors import UserError
from rankdistill.options import MlflowTrack, NoTrack
from rankdistill.options.tracker_uri import uri_problem, without_password
from rankdistill.tracking import recorder

pytest.importorskip("mlflow")
pytestmark = pytest.mark.integration

STARTED = "2026-01-02T03:04:05+00:00"
STEPS = (1, 2, 3)
LONG = "x" * 700
ROWS = [
    {"model": "teacher", "engine": "pytorch", "precision": "fp32", "ndcg@10": 0.5, "ndcg@10_ci": [0.4, 0.6],
     "retention": 1.0, "retention_ci": [1.0, 1.0], "speedup": 1.0, "speedup_ci": [1.0, 1.0], "size_mb": 90.0},
    {"model": "student", "engine": "onnxruntime", "precision": "int8", "ndcg@10": 0.45, "ndcg@10_ci": [0.4, 0.5],
     "retention": 0.9, "retention_ci": [0.85, 0.95], "speedup": 20.0, "speedup_ci": [18.0, 22.0], "size_mb": 16.3},
    {"model": "bm25", "engine": None, "precision": None, "ndcg@10": 0.3, "ndcg@10_ci": [0.2, 0.4], "retention": 0.6,
     "speedup": None, "speedup_ci": None, "size_mb": None},
]  # fmt: skip
LINES = [
    {"metric": "retention", "model": "student int8", "bound": "retention >= 0.8", "allowed": 0.8, "verdict": "pass",
     "measured": 0.9, "low": 0.85, "high": 0.95, "note": ""},
]  # fmt: skip
CONFIG = {
    "name": "small", "note": LONG, "many": {f"o{n}": n for n in range(150)}, "loss": {"terms": {"a@b": 1.0}},
    "budget": {"require": ["retention >= 0.8"]}, "track": {"kind": "none"},
}  # fmt: skip
TRADEOFF = {
    "experiment": "small", "dataset": "things", "fingerprint": "data-0123", "rows": ROWS, "warnings": [],
    "host": {"processor": "EPYC", "cores": 2}, "versions": {"torch": "2.13.0"}, "seconds": {"teacher": 4.5},
}  # fmt: skip


def make_run(folder: Path, status: str = "finished", layers: int = 2, error: str | None = None) -> Path:
    """Write a run's folder and the stages it names, as `distill` leaves them."""
    folder.mkdir(parents=True, exist_ok=True)
    runs = next(parent for parent in folder.parents if parent.name == "runs")
    stages = {
        role: os.path.relpath(runs / "stages" / f"{role}-0123", folder) for role in ("data", "teacher", "student")
    }
    history = [{"loss": 1.0 / step, "learning_rate": 0.1, "epoch": step / 3, "step": step} for step in STEPS]
    for role in ("teacher", "student"):
        training = {"best_step": 3, "history": [*history, {"eval_ndcg@10": 0.4, "epoch": 1.0, "step": 3}]}
        write(folder / stages[role] / "training.json", training)
    record = {"experiment": "small", "status": status, "overrides": [f"student.layers={layers}"], "started": STARTED,
              "seconds": 12.5, "stages": stages, "reused": []}  # fmt: skip
    write(folder / "run.json", record | ({"error": error} if error else {}))
    config = CONFIG | {"student": {"layers": layers}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    (folder / "distill.log").write_text("log\n", encoding="utf-8")
    if status == "finished":
        add_result(folder)
    return folder


def add_result(folder: Path) -> None:
    write(folder / "tradeoff.json", TRADEOFF)
    write(folder / "gate.json", {"verdict": "pass", "confidence": 0.95, "lines": LINES, "key": "baf6"})
    (folder / "report.html").write_text("<p>report</p>", encoding="utf-8")
    write(folder / "bundle" / "manifest.json", {})
    write(folder / "bundle" / "onnx" / "model.json", {})


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> MlflowTrack:
    """A local store; each test uses an experiment of its own, as making a database takes a second."""
    file = tmp_path_factory.mktemp("store") / "runs" / "mlflow.db"
    return MlflowTrack(uri=f"sqlite:///{file}", experiment="first", model="ranker")


@pytest.fixture
def track(store, request) -> MlflowTrack:
    return MlflowTrack(uri=store.uri, experiment=request.node.name, model=f"ranker {request.node.name}")


@pytest.fixture
def runs(tmp_path) -> Path:
    return tmp_path / "runs"


def runs_in(track: MlflowTrack) -> list:
    from mlflow import MlflowClient

    client = MlflowClient(track.uri)
    return client.search_runs([client.get_experiment_by_name(track.experiment).experiment_id])


def versions_of(track: MlflowTrack) -> list:
    from mlflow import MlflowClient

    return [each for each in MlflowClient(track.uri).search_model_versions() if each.name == track.model]


def test_a_run_is_recorded_whole(track, runs):
    from mlflow import MlflowClient

    folder = make_run(runs / "small" / "t")
    client, found = MlflowClient(track.uri), recorder.log_run(folder, track, None)
    run = client.get_run(found)
    assert (run.info.run_name, run.info.status) == ("t", "FINISHED")
    assert run.info.end_time - run.info.start_time == 12500
    params = run.data.params
    assert (params["student.layers"], params["many.o149"], params["loss.terms.a_b"]) == ("2", "149", "1.0")
    assert params["budget.require"] == '["retention >= 0.8"]'
    assert params["note"].endswith("x…")
    assert len(params["note"]) == 500
    assert not [name for name in params if name.startswith("track")]
    metrics = run.data.metrics
    expected = {
        "student.int8/retention": 0.9, "student.int8/retention.low": 0.85, "student.int8/ndcg_10.high": 0.5,
        "teacher.pytorch.fp32/size_mb": 90.0, "bm25/ndcg_10": 0.3, "gate/retention": 0.9, "gate/retention.low": 0.85,
        "gate/retention.allowed": 0.8, "seconds/teacher": 4.5, "seconds/run": 12.5,
        "student.training/eval_ndcg_10": 0.4,
    }  # fmt: skip
    assert {name: metrics[name] for name in expected} == expected
    assert "bm25/speedup" not in metrics
    curve = client.get_metric_history(found, "teacher.training/loss")
    assert [(point.step, point.value) for point in curve] == [(step, 1.0 / step) for step in STEPS]
    tags = run.data.tags
    assert (tags["verdict"], tags["verdict.retention"], tags["data"]) == ("pass", "pass", "data-0123")
    assert (tags["host"], tags["versions"], tags["overrides"]) == ("EPYC, 2 cores", "torch 2.13.0", "student.layers=2")
    assert tags["folder"] == str(folder)
    assert tags["mlflow.note.content"].startswith("Not shown: ")
    assert "keeps 90.0%" in tags["mlflow.note.content"]
    assert tags["recommendation"] == "not_shown"
    files = {each.path for each in client.list_artifacts(found)}
    assert files == {"report.html", "tradeoff.json", "gate.json", "config.yaml", "run.json", "distill.log", "bundle"}
    assert {each.path for each in client.list_artifacts(found, "bundle")} == {"bundle/manifest.json", "bundle/onnx"}
    (version,) = versions_of(track)
    assert (version.run_id, version.source) == (found, f"{run.info.artifact_uri}/bundle")
    summary = {"retention": "0.9", "size_mb": "16.3", "verdict": "pass", "bundle_key": "baf6"}
    assert version.tags == summary | {"recommendation": "not_shown"}


def test_a_local_store_keeps_its_files_beside_it(track, runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recorder.log_run(make_run(runs / "small" / "t"), track, None)
    (run,) = runs_in(track)
    database = Path(track.uri.removeprefix("sqlite:///"))
    assert run.info.artifact_uri.startswith((database.parent / "mlflow-artifacts").as_uri())
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}


def test_recording_again_changes_nothing(track, runs):
    from mlflow import MlflowClient

    folder = make_run(runs / "small" / "t")
    first = recorder.log_run(folder, track, None)
    moved = folder.rename(runs / "small" / "elsewhere")
    assert recorder.log_run(moved, track, None) == first
    assert len(runs_in(track)) == len(versions_of(track)) == 1
    client = MlflowClient(track.uri)
    assert len(client.get_metric_history(first, "student.training/loss")) == len(STEPS)
    client.delete_run(first)
    assert recorder.log_run(moved, track, None) != first


@pytest.mark.parametrize(("status", "shown"), [("failed", "FAILED"), ("pruned", "KILLED"), ("running", "KILLED")])
def test_a_run_without_a_result_has_no_bundle(status, shown, track, runs):
    folder = make_run(runs / "small" / "t", status, error="student.layers=99: allowed is 1 to 6")
    recorder.log_run(folder, track, None)
    (run,) = runs_in(track)
    assert run.info.status == shown
    assert run.data.tags["error"] == "student.layers=99: allowed is 1 to 6"
    assert run.data.params["student.layers"] == "2"
    assert versions_of(track) == []


def test_a_job_that_was_tried_again_is_one_run(track, runs):
    folder = make_run(runs / "sweeps" / "s" / "0", "failed", error="killed")
    first = recorder.log_run(folder, track, folder.parent)
    assert recorder.log_run(make_run(folder), track, folder.parent) == first
    child = next(run for run in runs_in(track) if run.info.run_id == first)
    assert child.info.status == "FINISHED"
    assert "error" not in child.data.tags
    other = recorder.log_run(make_run(folder, layers=3), track, folder.parent)
    assert other != first, "parameters of an MLflow run cannot change"


WORKER = """
import os, sys
from pathlib import Path
from rankdistill.tracking import recorder as tracking
from rankdistill.options import MlflowTrack
track = MlflowTrack(uri=sys.argv[1], experiment="together", model="ranker")
for job in map(Path, sys.argv[2:]):
    tracking.log_run(job, track, job.parent)
from mlflow.telemetry.client import get_telemetry_client
assert get_telemetry_client() is None, "telemetry is on"
"""


def test_jobs_that_end_together_in_a_new_store_share_one_parent(runs):
    track = MlflowTrack(uri=f"sqlite:///{runs / 'mlflow.db'}", experiment="together", model="ranker")
    sweep = runs / "sweeps" / "small" / "t"
    jobs = [make_run(sweep / str(number), layers=number + 1) for number in range(4)]
    make_run(sweep / "4", "failed", error="no")
    quiet = ("PYTEST", "CI", "MLFLOW", "DO_NOT_TRACK")  # in a test or CI MLflow's telemetry is off anyway
    env = {name: value for name, value in os.environ.items() if not name.startswith(quiet)}
    commands = [[sys.executable, "-c", WORKER, track.uri, *map(str, half)] for half in (jobs[:2], jobs[2:])]
    workers = [subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) for command in commands]
    for worker in workers:
        said = worker.communicate(timeout=120)[1]
        assert worker.returncode == 0, said
        assert said == "", "MLflow talks about its tables"
    recorder.after_run(sweep / "4", track, sweep)
    (sweep / "sweep.csv").write_text("job\n", encoding="utf-8")
    recorder.after_sweep(sweep, track)
    found = runs_in(track)
    (parent,) = [run for run in found if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in found if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert sorted(run.info.run_name for run in children) == [f"job {number}" for number in range(5)]
    assert (parent.info.run_name, parent.info.status) == ("sweep t", "FINISHED")
    counted = {name: value for name, value in parent.data.metrics.items() if value}
    assert counted == {"jobs/finished": 4, "jobs/failed": 1}
    assert sorted(int(version.version) for version in versions_of(track)) == [1, 2, 3, 4]


def test_a_tracker_that_is_away_costs_seconds_and_a_line(runs, caplog):
    folder = make_run(runs / "small" / "t")
    away = MlflowTrack(uri="http://127.0.0.1:9", experiment="x")
    started = time.perf_counter()
    with caplog.at_level(logging.INFO, logger="rankdistill"):
        recorder.after_run(folder, away, None)
    assert time.perf_counter() - started < 15
    told = [record for record in caplog.records if record.name.startswith("rankdistill")]
    (warning,) = [record.getMessage() for record in told if record.levelno >= logging.WARNING]
    assert "not recorded in MLflow: http://127.0.0.1:9" in warning
    assert "Connection refused" in warning
    assert warning.endswith(f"distill-track {folder}")
    assert "\n" not in warning
    assert json.loads((folder / "run.json").read_text())["status"] == "finished"


@pytest.mark.parametrize(("uri", "said"), [("ftp://h", "allowed is sqlite"), ("sqlite:////proc/no/mlflow.db", "proc")])
def test_a_tracker_that_cannot_be_is_an_error(uri, said, runs):
    with pytest.raises(TrackerError, match=said):
        recorder.log_run(make_run(runs / "small" / "t"), MlflowTrack(uri=uri, experiment="x"), None)


def test_without_tracking_mlflow_is_not_imported(runs):
    folder = make_run(runs / "small" / "t")
    code = (
        "import sys; from pathlib import Path; "
        "from rankdistill.commands import track; from rankdistill.options import NoTrack; "
        "from rankdistill.pipeline import validation; from rankdistill.tracking import recorder; "
        f"recorder.after_run(Path({str(folder)!r}), NoTrack(), None); "
        f"recorder.after_sweep(Path({str(folder.parent)!r}), NoTrack()); print('mlflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "False", done.stderr
    assert not (folder / ".mlflow-id").exists()


def test_a_folder_without_a_record_is_passed_over(track, tmp_path, caplog):
    recorder.after_run(tmp_path, track, None)
    recorder.after_sweep(tmp_path, NoTrack())
    assert caplog.records == []


URIS = {
    "sqlite:///runs/mlflow.db": None, "sqlite:////abs/mlflow.db": None, "http://127.0.0.1:5000": None,
    "https://tracker.example": None, "sqlite://": "sqlite:///FILE", "sqlite:///": "sqlite:///FILE",
    "file:///runs": "plain files", "mlruns": "plain files", "http://": "HOST", "http://h:port": "HOST",
    "postgresql://h/d": "HOST", "https://me:secret@h": "MLFLOW_TRACKING_PASSWORD",
}  # fmt: skip


@pytest.mark.parametrize("uri", URIS)
def test_what_a_uri_can_be(uri):
    allowed = uri_problem(uri)
    assert (allowed is None) == (URIS[uri] is None)
    assert URIS[uri] is None or URIS[uri] in allowed
    assert "secret" not in without_password(uri)


def command(*arguments: object, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    code = "import sys; from rankdistill.__main__ import track; sys.argv[0] = 'distill-track'; track()"
    line = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=120, env=os.environ | (env or {}))


def test_the_command_records_a_sweep_and_names_what_it_cannot(runs, store):
    sweep = runs / "sweeps" / "small" / "t"
    for number in range(2):
        make_run(sweep / str(number), layers=number + 1)
    (make_run(sweep / "2") / "tradeoff.json").write_text("{", encoding="utf-8")
    living = make_run(runs / "small" / "t", "running")
    done = command(sweep, living, runs / "nothing", "--uri", store.uri, "--experiment", "told", "--model", "told")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 3, done.stderr
    for line, part in zip(lines, ("2/tradeoff.json cannot be read", "is not finished", "neither a run"), strict=True):
        assert part in line
    track = MlflowTrack(uri=store.uri, experiment="told", model="told")
    assert sorted(run.info.run_name for run in runs_in(track)) == ["job 0", "job 1", "sweep t"]
    assert len(versions_of(track)) == 2
    parent = next(run for run in runs_in(track) if run.info.run_name == "sweep t")
    assert parent.data.metrics["jobs/damaged"] == 1


def test_the_command_finds_the_store_beside_the_stages(runs):
    folder = make_run(runs / "small" / "t")
    done = command(folder)
    assert done.returncode == 0, done.stderr
    assert f"experiment small, sqlite:///{runs}/mlflow.db" in done.stdout
    assert len(runs_in(MlflowTrack(uri=f"sqlite:///{runs}/mlflow.db", experiment="small"))) == 1


def test_the_command_goes_where_the_run_was_asked_to_be(runs):
    folder = make_run(runs / "small" / "t")
    asked = {"kind": "mlflow", "uri": "http://127.0.0.1:9", "experiment": "asked", "model": None, "bundle": False}
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG | {"track": asked}), encoding="utf-8")
    done = command(folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "http://127.0.0.1:9: [Errno 111] Connection refused\n"
    with pytest.raises(UserError, match="model told is made of bundles"):
        choose(folder, {"model": "told"})
