"""Paths as people give them: `~` in every option, no home, no right to write, names that are no UTF-8."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rankdistill import options as options_
from rankdistill.commands import distill, track
from rankdistill.data import movielens
from rankdistill.errors import ConfigError, DataError
from rankdistill.export.commands.main import app
from rankdistill.export.serve.settings import Settings
from rankdistill.options import from_hydra
from rankdistill.options.from_hydra import at_home
from rankdistill.options.tracker_uri import uri_problem
from tests.composing import composed

ROOT = Path(__file__).parents[2]
NO_PATHS = {"kind", "name", "licence", "subset", "sha256", "fields", "keep", "importance", "optimizer", "experiment"}


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_a_home_in_every_path_of_an_experiment(home):
    (home / "data").mkdir()
    (home / "words").write_text("lamp\n")
    (home / "rivals.json").write_text('{"least": 1, "margin": 0, "curves": []}')
    config = composed(
        "data=movielens", "data.path='~/data'", "runs='~/runs'", "rivals='~/rivals.json'", "teacher.model='~/teacher'",
        "teacher.init='~/init'", "student.vocabulary.safety='~/words'", "student.vocabulary.min_count=1",
        "track=mlflow", "track.uri='sqlite:///~/m.db'",
    )  # fmt: skip
    named = [config.data.path, config.runs, config.rivals, config.teacher.model, config.teacher.init,
             config.student.vocabulary.safety]  # fmt: skip
    assert named == [str(home / name) for name in ("data", "runs", "rivals.json", "teacher", "init", "words")]
    assert config.track.uri == f"sqlite:///{home}/m.db"


def test_no_option_that_may_be_a_path_is_forgotten():
    """A new option of text is a path, or is named here."""
    known = {
        *NO_PATHS,
        *"pooling last rule pairs propensity late split measure precision attention importance revision floor".split(),
    }
    for nodes in options_.NODES.values():
        for kind in nodes.values():
            if not dataclasses.is_dataclass(kind) or "launcher" in kind.__module__ or "sweep" in kind.__module__:
                continue
            paths = {option for each in kind.__mro__ for option in from_hydra.PATHS.get(each, ())}
            texts = {each.name for each in dataclasses.fields(kind) if each.type in ("str", "str | None")}
            registered = {"model"} if kind is options_.MlflowTrack else set()
            assert texts - paths <= known | registered, kind


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("data.path=~/x", "data.path='{}/x'"),
        ('data.path="~/x y"', 'data.path="{}/x y"'),
        ("hydra.run.dir='~/x'", "hydra.run.dir='{}/x'"),
        ("--config-dir=~/x", "--config-dir={}/x"),
        ("~data.path", "~data.path"),
        ("licence=~x", "licence=~x"),
    ],
)
def test_a_home_on_the_command_line(home, given, read):
    assert distill.at_home_all([given]) == [read.format(home)]


def test_hydras_folder_is_at_home(home):
    from hydra import compose, initialize_config_module

    options_.register()
    with initialize_config_module(version_base="1.3", config_module="rankdistill.conf"):
        config = compose("config", ["experiment=tiny", "runs='~/r'"], return_hydra_config=True)
        assert str(config.hydra.run.dir).startswith(f"{home}/r/tiny/")
        assert str(config.hydra.sweep.dir).startswith(f"{home}/r/sweeps/tiny/")


def test_without_a_home_a_tilde_is_told(monkeypatch):
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(ConfigError, match="no home folder"):
        at_home("~/x")
    with pytest.raises(ConfigError, match=r"^runs=~/x: .*no home folder"):
        composed("experiment=tiny", "runs='~/x'")


def test_an_argument_that_is_no_utf8_is_refused():
    with pytest.raises(ConfigError, match="no UTF-8; give a link"):
        distill.at_home_all([os.fsdecode(b"data.path=/a/\xff")])


def test_movielens_is_found_at_home(home):
    (home / "ml-100k").mkdir()
    for name in movielens.OFFICIAL_FILES:
        (home / "ml-100k" / name).touch()
    assert movielens.locate("~/ml-100k")[0] == home / "ml-100k"


def test_a_home_that_is_not_there_or_cannot_be_written_is_told(tmp_path, monkeypatch):
    monkeypatch.delenv("RANKDISTILL_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))  # no folder can be made below a file
    with pytest.raises(DataError, match="RANKDISTILL_CACHE=FOLDER, or give the ml-100k folder"):
        movielens.locate(None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert movielens.cache_folder() == tmp_path / "rankdistill"


def test_a_uri_with_a_percent_sign_is_refused():
    assert "without %" in uri_problem("sqlite:////a/ml%20p/m.db")
    assert uri_problem("sqlite:////a b/#é/m.db") is None


def test_a_home_in_rankers_options(home):
    done = CliRunner().invoke(app, ["verify", "~/bundle"])
    assert f"{home / 'bundle'}" in done.output
    done = CliRunner().invoke(app, ["gate", "x", "--budget=~/budget.yaml", "--json=~/a/b.json"])
    assert f"{home / 'a'}" in done.output


def test_a_home_in_the_services_settings(home):
    (home / "key.pem").touch()
    (home / "serve.yaml").write_text(
        "states: ~/states\ncache: {head: ~/head}\nreload: {watch: ~/current, key: ~/key.pem}\ntokens: {file: ~/t}\n"
    )
    found = Settings.read(home / "serve.yaml", {})
    named = [found.states, found.cache.head, found.reload.watch, found.reload.key, found.tokens.file]
    assert named == [str(home / name) for name in ("states", "head", "current", "key.pem", "t")]
    assert Settings.read(None, {"variant": "~"}).variant == "~"


def test_a_folder_that_cannot_be_written_is_told_in_one_line():
    command = [sys.executable, "-m", "rankdistill", "experiment=tiny", "runs=/proc/nowhere"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("/proc/nowhere/tiny/")
    assert "cannot be written: No such file or directory; give another runs=FOLDER" in line


def test_the_tracker_of_a_linked_run_is_that_of_its_stages(tmp_path):
    (tmp_path / "runs" / "stages" / "x").mkdir(parents=True)
    run = tmp_path / "elsewhere" / "now"
    run.mkdir(parents=True)
    (run / "run.json").write_text('{"stages": {"data": "../../runs/stages/x"}}')
    assert track._runs_of(run) == tmp_path / "runs"
