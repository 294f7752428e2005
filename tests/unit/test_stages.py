"""The store: keys, reuse, atomic publishing, what a kill leaves, locks, pruning."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rankdistill.commands.store import app
from rankdistill.export.files import write_atomic
from rankdistill.store.stages import Stage, Store

STAGE = Stage("teacher", 1, {"lr": 0.1}, {"data": "data-1"}, {"vocab.txt": "ab"}, ("numpy",), {"cores": 2})


def build(out: Path) -> None:
    (out / "model.bin").write_bytes(b"weights")


@pytest.mark.parametrize(
    "change",
    [
        {"name": "student"}, {"version": 2}, {"config": {"lr": 0.2}}, {"inputs": {"data": "data-2"}},
        {"files": {"vocab.txt": "cd"}}, {"libraries": ("numpy", "torch")}, {"host": {"cores": 4}},
    ],
)  # fmt: skip
def test_key_changes_with_everything_that_shapes_the_output(change):
    assert replace(STAGE, **change).key != STAGE.key


def test_key_is_stable_and_ignores_the_order_of_options_and_the_title():
    one = replace(STAGE, config={"a": 1, "b": 2})
    assert one.key == replace(STAGE, config={"b": 2, "a": 1}, title="words").key


def test_another_build_of_a_library_shares_what_was_made(monkeypatch):
    found = {}
    for version in ("2.13.0", "2.13.0+cpu", "2.13.0+cu130", "2.14.0+cpu"):
        monkeypatch.setattr("importlib.metadata.version", lambda _, version=version: version)
        found.setdefault(STAGE.key, []).append(version)
    assert [*found.values()] == [["2.13.0", "2.13.0+cpu", "2.13.0+cu130"], ["2.14.0+cpu"]]


def test_a_stage_is_built_once(tmp_path):
    store, calls = Store(tmp_path), []
    first = store.get(STAGE, lambda out: (calls.append(1), build(out)))
    again = store.get(STAGE, lambda _: pytest.fail("built twice"))
    assert (first.reused, again.reused, calls) == (False, True, [1])
    assert (again.folder / "model.bin").read_bytes() == b"weights"
    assert json.loads((again.folder / "stage.json").read_text())["inputs"] == {"data": "data-1"}


def test_a_failed_build_leaves_no_stage_and_the_next_one_starts_clean(tmp_path):
    store = Store(tmp_path)

    def fail(out: Path) -> None:
        (out / "half.bin").write_bytes(b"half")
        (out / "checkpoints").mkdir()
        (out / "checkpoints" / "step-1").write_text("kept")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        store.get(STAGE, fail)
    assert store.finished() == []

    def resume(out: Path) -> None:
        assert sorted(path.name for path in out.iterdir()) == ["checkpoints"]
        assert (out / "checkpoints" / "step-1").read_text() == "kept"
        build(out)

    built = store.get(STAGE, resume)
    assert sorted(path.name for path in built.folder.iterdir()) == ["model.bin", "stage.json"]
    assert store.unfinished() == []


def _build_slowly(root: str, counter: str) -> None:
    def slowly(out: Path) -> None:
        with Path(counter).open("a") as file:
            file.write("x")
        time.sleep(0.5)
        build(out)

    Store(Path(root)).get(STAGE, slowly)


def test_two_processes_do_the_work_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    counter = tmp_path / "calls"
    workers = [context.Process(target=_build_slowly, args=(str(tmp_path / "s"), str(counter))) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert counter.read_text() == "x"


def test_lookup_among_a_thousand_stages_takes_milliseconds(tmp_path):
    store = Store(tmp_path)
    record = json.dumps({"seconds": 1})
    for number in range(1000):
        folder = tmp_path / f"data-{number:016x}"
        folder.mkdir()
        (folder / "stage.json").write_text(record)
    built = store.get(STAGE, build)
    start = time.perf_counter()
    for _ in range(100):
        assert store.find(built.key) is not None
    assert (time.perf_counter() - start) / 100 < 0.05  # a listing of the folder for each would show here


def test_write_atomic_leaves_the_old_file_when_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "table.json"
    write_atomic(path, "old")
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk")))
    with pytest.raises(OSError, match="disk"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["table.json"]


@pytest.fixture
def runs(tmp_path) -> Path:
    store = Store(tmp_path / "stages")
    used = store.get(STAGE, build)
    store.get(replace(STAGE, version=2), build)
    (tmp_path / "stages" / "work-teacher-0123456789abcdef").mkdir()
    run = tmp_path / "default" / "now"
    run.mkdir(parents=True)
    (run / "run.json").write_text(json.dumps({"stages": {"teacher": f"../../stages/{used.key}"}}))
    return tmp_path


def test_prune_deletes_what_no_run_refers_to(runs):
    dry = CliRunner().invoke(app, ["prune", "--runs", str(runs), "--dry-run"])
    unused = replace(STAGE, version=2).key
    assert dry.exit_code == 0
    assert f"would delete {unused}" in dry.output
    assert (runs / "stages" / unused).is_dir()
    done = CliRunner().invoke(app, ["prune", "--runs", str(runs)])
    assert done.exit_code == 0
    assert Store(runs / "stages").finished() == [STAGE.key]
    assert len(Store(runs / "stages").unfinished()) == 1  # a killed run may still go on from it
    CliRunner().invoke(app, ["prune", "--runs", str(runs), "--unfinished"])
    assert Store(runs / "stages").unfinished() == []


def test_prune_keeps_what_is_being_made(runs):
    unused = replace(STAGE, version=2).key
    with Store(runs / "stages").lock(unused):
        result = CliRunner().invoke(app, ["prune", "--runs", str(runs)])
    assert f"kept {unused}" in result.output
    assert unused in Store(runs / "stages").finished()


@pytest.mark.parametrize("command", ["list", "prune"])
def test_folders_that_vanish_while_they_are_looked_at_are_none(runs, monkeypatch, command):
    (runs / "run" / "gone").mkdir(parents=True, exist_ok=True)
    scandir = os.scandir

    def late(path):
        if str(path).endswith("gone"):
            Path(path).rmdir()
        return scandir(path)

    monkeypatch.setattr(os, "scandir", late)
    assert CliRunner().invoke(app, [command, "--runs", str(runs)]).exit_code == 0
    assert not (runs / "run" / "gone").exists()


def test_prune_refuses_when_a_folder_of_runs_cannot_be_read(runs, monkeypatch):
    (runs / "hidden").mkdir()
    before, scandir = sorted(runs.rglob("*")), os.scandir

    def closed(path):
        if str(path).endswith("hidden"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", closed)
        result = CliRunner().invoke(app, ["prune", "--runs", str(runs)])
    assert result.exit_code == 2
    assert result.output.strip() == f"{runs / 'hidden'} cannot be read: Permission denied"
    assert sorted(runs.rglob("*")) == before


def test_prune_refuses_when_a_run_cannot_be_read(runs):
    (runs / "default" / "now" / "run.json").write_text("{half")
    result = CliRunner().invoke(app, ["prune", "--runs", str(runs)])
    assert result.exit_code == 2
    assert "run.json cannot be read" in result.output
    assert len(Store(runs / "stages").finished()) == 2


def test_list_shows_size_and_users(runs):
    result = CliRunner().invoke(app, ["list", "--runs", str(runs)])
    assert result.exit_code == 0
    assert STAGE.key in result.output
    assert "3 stages" in result.output


def test_no_store_is_told(tmp_path):
    result = CliRunner().invoke(app, ["list", "--runs", str(tmp_path / "nowhere")])
    assert result.exit_code == 2
    assert "has no stages/" in result.output


def test_a_stage_that_a_run_began_to_use_meanwhile_stays(runs):
    store, unused = Store(runs / "stages"), replace(STAGE, version=2).key
    assert not store.remove(store.root / unused, lambda: True)
    assert unused in store.finished()
    assert store.remove(store.root / unused, lambda: False)
    assert not store.remove(store.root / unused)  # another prune was first


@pytest.mark.parametrize("content", ["[]", '{"stages": null}', '{"stages": [1]}', "{half"])
def test_a_run_that_cannot_be_read_ends_with_2(runs, content):
    (runs / "default" / "now" / "run.json").write_text(content)
    for command in ("list", "prune"):
        result = CliRunner().invoke(app, [command, "--runs", str(runs)])
        assert result.exit_code == 2
        assert "run.json cannot be read" in result.output
    assert len(Store(runs / "stages").finished()) == 2


def test_a_damaged_stage_ends_with_2(runs):
    (runs / "stages" / STAGE.key / "stage.json").write_text("")
    result = CliRunner().invoke(app, ["list", "--runs", str(runs)])
    assert result.exit_code == 2
    assert "stage.json cannot be read" in result.output
