"""What runs refer to is not pruned, wherever a run lies and however it names a stage."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rankdistill.commands.store import app
from rankdistill.export.files import relative_path
from rankdistill.store import references
from rankdistill.store.references import register
from rankdistill.store.stages import Stage, Store
from rankdistill.sweep.jobs import _begin_again

STAGE = Stage("teacher", 1)
OTHER = replace(STAGE, version=2)


def build(out: Path) -> None:
    (out / "model.bin").write_bytes(b"weights")


@pytest.fixture
def runs(tmp_path) -> Path:
    store = Store(tmp_path / "runs" / "stages")
    for stage in (STAGE, OTHER):
        store.get(stage, build)
    return tmp_path / "runs"


def write_run(folder: Path, *stages: Path, **options) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    named = {str(number): relative_path(stage, folder) for number, stage in enumerate(stages)}
    (folder / "run.json").write_text(json.dumps({"status": "finished", "stages": named}))
    if options:
        (folder / "config.yaml").write_text(json.dumps(options))
    return folder


def prune(runs: Path, *more: str):
    return CliRunner().invoke(app, ["prune", "--runs", str(runs), *more])


def left(runs: Path) -> list[str]:
    return Store(runs / "stages").finished()


def is_kept(runs: Path) -> bool:
    """Prune; tell whether of the two stages the one that a run refers to is left, and it alone."""
    done = prune(runs)
    assert done.exit_code == 0, done.output
    return left(runs) == [STAGE.key]


def stage(runs: Path) -> Path:
    return runs / "stages" / STAGE.key


@pytest.mark.parametrize("where", ["default/now", "sweeps/tiny/now/3", "a/b/c/d/e/f", "default/now/nested/run"])
def test_runs_at_any_depth(runs, where):
    write_run(runs / where, stage(runs))
    assert is_kept(runs)


@pytest.mark.parametrize("status", ["running", "failed", "pruned", "finished"])
def test_runs_of_every_status(runs, status):
    run = write_run(runs / "default" / "now", stage(runs))
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | {"status": status}))
    assert is_kept(runs)


def test_a_stage_by_its_absolute_path(runs):
    run = write_run(runs / "default" / "now")
    (run / "run.json").write_text(json.dumps({"stages": {"teacher": f"{stage(runs)}/"}}))
    assert is_kept(runs)


@pytest.mark.parametrize("linked", ["experiment", "run"])
def test_runs_behind_a_link(runs, tmp_path, linked):
    elsewhere = tmp_path / "big" / "deep" / "er"
    write_run(elsewhere / "now" if linked == "experiment" else elsewhere, stage(runs))
    link = runs / "linked" if linked == "experiment" else runs / "default" / "now"
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(elsewhere)
    assert is_kept(runs)


def test_the_folder_of_runs_is_a_link(runs, tmp_path):
    write_run(runs / "default" / "now", stage(runs))
    (tmp_path / "link").symlink_to(runs)
    assert is_kept(tmp_path / "link")


def test_links_in_a_circle(runs):
    write_run(runs / "default" / "now", stage(runs))
    (runs / "default" / "again").symlink_to(runs)
    assert is_kept(runs)


def test_a_link_to_a_disk_that_is_not_there_refuses(runs, tmp_path):
    (runs / "linked").symlink_to(tmp_path / "unmounted" / "runs")
    done = prune(runs)
    assert done.exit_code == 2
    assert f"{runs / 'linked'} leads to {tmp_path / 'unmounted' / 'runs'}, which is not there" in done.output
    assert len(left(runs)) == 2


def test_a_link_to_a_run_that_was_deleted_is_none(runs):
    write_run(runs / "default" / "now", stage(runs))
    (runs / "default" / "latest").symlink_to("gone")
    assert is_kept(runs)


def test_a_run_elsewhere(runs, tmp_path):
    register(runs / "stages", write_run(tmp_path / "elsewhere" / "run", stage(runs)))
    assert is_kept(runs)
    shutil.rmtree(tmp_path / "elsewhere")
    assert prune(runs).exit_code == 0
    assert left(runs) == []


def test_a_run_on_a_disk_that_is_not_there_refuses(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(references, "_mount", lambda _: tmp_path / "elsewhere")  # a disk of its own
    register(runs / "stages", write_run(tmp_path / "elsewhere" / "run", stage(runs)))
    shutil.rmtree(tmp_path / "elsewhere")
    done = prune(runs)
    assert done.exit_code == 2
    assert "is on a disk that is not there; mount it, or delete" in done.output
    assert len(left(runs)) == 2


def test_folders_of_runs_that_share_a_store(runs, tmp_path):
    other = tmp_path / "others"
    other.mkdir()
    (other / "stages").symlink_to(runs / "stages")
    register(other / "stages", write_run(other / "default" / "now", stage(runs)))
    assert is_kept(runs)
    shutil.rmtree(other / "default")
    write_run(runs / "default" / "now", stage(runs))  # of before runs registered
    Store(runs / "stages").get(OTHER, build)
    assert is_kept(other)


@pytest.mark.parametrize("option", ["init", "model", "first"])
@pytest.mark.parametrize("of", ["stage", "run", "bundle"])
def test_what_options_name(runs, tmp_path, option, of):
    older = write_run(tmp_path / "elsewhere", stage(runs))  # never registered
    (older / "bundle").mkdir()
    named = {"stage": stage(runs), "run": older, "bundle": older / "bundle"}[of]
    write_run(runs / "default" / "now", teacher={option: str(named)})
    assert is_kept(runs)


def test_what_options_name_from_where_the_command_was_given(runs, tmp_path):
    run = write_run(runs / "default" / "now", teacher={"init": "../elsewhere"})
    write_run(tmp_path / "elsewhere", stage(runs))
    (run / ".hydra").mkdir()
    (run / ".hydra" / "hydra.yaml").write_text(f"hydra:\n  runtime:\n    cwd: {runs}\n")
    assert is_kept(runs)


@pytest.mark.parametrize("name", ["run.json", "config.yaml"])
def test_a_damaged_run_refuses(runs, name):
    run = write_run(runs / "default" / "now", stage(runs), teacher={"init": "/x"})
    (run / name).write_text('{"teacher": {"init": /x\n init: /x')
    done = prune(runs)
    assert done.exit_code == 2
    assert f"{name} cannot be read" in done.output
    assert len(done.output.strip().splitlines()) == 1 or name == "config.yaml"
    assert len(left(runs)) == 2


def test_a_run_that_is_given_again_keeps_what_it_stood_on_until_it_is_done(runs):
    run = write_run(runs / "default" / "now", stage(runs))
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({"stages": {}, "earlier": list(record["stages"].values())}))
    assert is_kept(runs)


def test_a_job_that_is_begun_again_keeps_what_it_stood_on(runs):
    job = write_run(runs / "sweeps" / "tiny" / "now" / "0", stage(runs))
    _begin_again(job / "run.json")
    assert json.loads((job / "run.json").read_text())["status"] == "running"
    assert is_kept(runs)


def test_a_stage_that_a_living_run_has_found_and_not_yet_named_is_kept(runs):
    code = f"""
from pathlib import Path
from rankdistill.store.stages import Stage, Store
Store(Path({str(runs / "stages")!r}), holding=True).get(Stage("teacher", 1), None)
print("found", flush=True)
input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as living:
        assert living.stdout.readline() == "found\n"
        done = prune(runs)
        assert f"kept {STAGE.key}: somebody is making or using it" in done.output
        assert left(runs) == [STAGE.key]
        living.communicate("\n")
    assert prune(runs).exit_code == 0
    assert left(runs) == []


def test_a_stage_that_is_a_link_is_left_alone(runs, tmp_path):
    stage(runs).rename(tmp_path / "big")
    stage(runs).symlink_to(tmp_path / "big")
    assert f"kept {STAGE.key}: it is a link" in prune(runs).output
    assert (stage(runs) / "model.bin").is_file()


def test_a_path_through_links_leads_where_it_should(tmp_path):
    target = tmp_path / "runs" / "stages" / "x"
    target.mkdir(parents=True)
    (tmp_path / "big" / "deep" / "er").mkdir(parents=True)
    link = tmp_path / "runs" / "linked"
    link.symlink_to(tmp_path / "big" / "deep" / "er")
    plain = tmp_path / "runs" / "default" / "now"
    plain.mkdir(parents=True)
    (link / "now").mkdir()
    (tmp_path / "again").symlink_to(tmp_path / "runs")
    for start in (plain, link, link / "now", tmp_path / "again" / "default" / "now"):
        for named in (target, tmp_path / "again" / "stages" / "x"):
            found = relative_path(named, start)
            assert not Path(found).is_absolute()
            assert (start / found).samefile(target)
    assert relative_path(target, plain) == "../../stages/x"
