"""A search's memory: what is refused, what a killed process leaves, and many processes at one study."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from rankdistill.errors import ConfigError
from rankdistill.sweep import optuna_study as study_
from rankdistill.sweep.optuna_study import OWNER, Study, check_options
from rankdistill.sweep.search_space import Space
from rankdistill.training.median_stopping import Curve, Pruned

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

OBJECTIVES = {"retention": "maximize", "size_mb": "minimize"}
CHOICES = ("student.layers=1,2,3", "student.fit.learning_rate=tag(log,interval(1e-4,1e-2))", "name=x")
OTHER_NAME = "give the search another name: hydra.sweeper.study=..."


def space(*overrides: str) -> Space:
    return Space.of(OverridesParser.create().parse_overrides(list(overrides)))


def study(
    place: Path | str, *overrides: str, objectives=None, sampler="tpe", seed: int | None = 0, population=50
) -> Study:
    storage = place if isinstance(place, str) else str(place / "a folder" / "study.journal")
    return Study("s", storage, objectives or OBJECTIVES, sampler, seed, space(*(overrides or CHOICES)), population)


def finish(which: Study, place: Path, values=(0.9, 10.0), curve: Curve | None = None) -> dict:
    """Ask for a trial, tell its values; returns what was chosen."""
    trial = which.ask()
    which.tell(trial, place / str(trial.number), values, pruned=False, curve=curve)
    return trial.params


def states(which: Study) -> list[str]:
    return [trial.state.name for trial in which._study.get_trials()]


def test_what_is_told_is_found_by_the_next_process(tmp_path):
    first = study(tmp_path)
    chosen = [finish(first, tmp_path, (value, 1.0)) for value in (0.1, 0.2)]
    again = study(tmp_path)
    trials = again._study.get_trials()
    assert [trial.params for trial in trials] == chosen
    assert [trial.values for trial in trials] == [[0.1, 1.0], [0.2, 1.0]]
    assert again._study.metric_names == ["retention", "size_mb"]
    assert again.folders() == [tmp_path / "0", tmp_path / "1"]
    assert (again.ended(), again.under_way()) == (2, 0)


def test_a_trial_ends_finished_pruned_or_failed(tmp_path):
    it = study(tmp_path)
    for values, pruned in (((0.5, 1.0), False), (None, True), (None, False)):
        trial = it.ask()
        it.tell(trial, tmp_path / str(trial.number), values, pruned=pruned, curve=None)
    it.ask()
    assert states(it) == ["COMPLETE", "PRUNED", "FAIL", "RUNNING"]
    assert (it.ended(), it.under_way()) == (2, 1)
    assert len(it.folders()) == 3


def test_rivals_are_the_finished_students_with_a_curve(tmp_path):
    it = study(tmp_path)
    finish(it, tmp_path)
    finish(it, tmp_path, curve=Curve(5.0, [(0.5, 0.7), (1.0, 0.8)]))
    trial = it.ask()
    it.tell(trial, tmp_path, None, pruned=True, curve=Curve(1.0, [(0.5, 0.9)]))
    rivals = study(tmp_path).rivals(1, 0.01)
    assert rivals.curves == [Curve(5.0, [(0.5, 0.7), (1.0, 0.8)])]
    rivals.check(5.0, 0.5, 0.695)
    with pytest.raises(Pruned, match=r"dev nDCG@10 0\.6800, below 0\.7000"):
        rivals.check(5.0, 0.5, 0.68)


def test_nobody_is_hopeless_beside_no_rivals(tmp_path):
    study(tmp_path).rivals(0, 0.01).check(5.0, 0.5, 0.1)


@pytest.mark.parametrize(
    ("overrides", "objectives", "line"),
    [
        (
            ("student.layers=1,2", *CHOICES[1:]),
            OBJECTIVES,
            "student.layers=1,2: study s was begun with 1,2,3",
        ),
        (
            (CHOICES[0], "student.fit.learning_rate=tag(log,interval(1e-4,1e-1))", CHOICES[2]),
            OBJECTIVES,
            "student.fit.learning_rate=FloatDistribution(high=0.1, log=True, low=0.0001, step=None): study s was begun "
            "with FloatDistribution(high=0.01, log=True, low=0.0001, step=None)",
        ),
        ((*CHOICES[:2], "name=y"), OBJECTIVES, "name=y: study s was begun with x"),
        (CHOICES[:2], OBJECTIVES, "name=as it is: study s was begun with x"),
        ((*CHOICES, "seed=1"), OBJECTIVES, "seed=1: study s was begun with none given"),
        ((*CHOICES, "seed=1,2"), OBJECTIVES, "seed=1,2: study s was begun with none given"),
        ((CHOICES[0], CHOICES[2]), OBJECTIVES, "student.fit.learning_rate=as it is: study s was begun with Float"),
        (
            CHOICES,
            {"retention": "maximize"},
            "hydra.sweeper.objectives=retention:maximize: study s was begun with retention:maximize,size_mb:minimize",
        ),
        (
            CHOICES,
            dict(reversed(OBJECTIVES.items())),
            "hydra.sweeper.objectives=size_mb:minimize,retention:maximize: study s was begun with",
        ),
    ],
)
def test_another_search_under_the_same_name_is_refused(tmp_path, overrides, objectives, line):
    finish(study(tmp_path), tmp_path)
    with pytest.raises(ConfigError) as told:
        study(tmp_path, *overrides, objectives=objectives)
    first, last = str(told.value).splitlines()
    assert first.startswith(line)
    assert last == OTHER_NAME


def test_every_difference_is_named_at_once_before_any_trial_has_ended(tmp_path):
    study(tmp_path)
    with pytest.raises(ConfigError) as told:
        study(tmp_path, "student.layers=1,2", "name=y")
    lines = str(told.value).splitlines()
    assert [line.partition("=")[0] for line in lines[:-1]] == ["name", "student.layers", "student.fit.learning_rate"]


def test_what_shapes_no_result_may_change(tmp_path):
    finish(study(tmp_path, *CHOICES, "bundle=false"), tmp_path)
    it = study(tmp_path, *CHOICES, "bundle=true", "track=mlflow", "track.uri='sqlite:///x.db'", sampler="nsga2", seed=9)
    assert it.ended() == 1


def process(code: str, *arguments: str) -> subprocess.Popen[str]:
    """Run Python in a process of its own, this file's functions known to it."""
    lines = f"import sys\nfrom pathlib import Path\nfrom {__name__} import *\n{code}"
    root = Path(__file__).parents[2]
    return subprocess.Popen(
        [sys.executable, "-c", lines, *arguments], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True, cwd=root
    )


ASK = "import json; print(json.dumps(study(Path(sys.argv[1])).ask().params), flush=True); input()"


def test_the_trial_of_a_killed_process_is_taken_up_with_the_same_choices_and_of_a_living_one_is_not(tmp_path):
    with process(ASK, str(tmp_path)) as alive, process(ASK, str(tmp_path)) as doomed:
        assert json.loads(alive.stdout.readline())
        chosen = json.loads(doomed.stdout.readline())
        it = study(tmp_path)
        assert it.adopt_abandoned() == 0
        doomed.kill()
        doomed.wait()
        assert it.under_way() == 2
        assert it.adopt_abandoned() == 1
        assert it.under_way() == 1
        assert sorted(states(it)) == ["FAIL", "RUNNING", "WAITING"]
        assert finish(it, tmp_path) == chosen
        assert it.adopt_abandoned() == 0  # once
        alive.kill()


def test_a_process_number_that_was_given_anew_is_not_the_owner(tmp_path):
    it = study(tmp_path)
    trial = it.ask()
    host, number, began = trial.user_attrs[OWNER].split()
    assert int(number) == os.getpid()
    trial.set_user_attr(OWNER, f"{host} {number} {int(began) - 1}")
    assert study(tmp_path).adopt_abandoned() == 1


def test_the_trials_of_other_machines_are_left_alone(tmp_path):
    it = study(tmp_path)
    it.ask().set_user_attr(OWNER, "elsewhere 1 1")
    assert it.adopt_abandoned() == 0
    assert it.under_way() == 1


@pytest.mark.parametrize("error", [ValueError, UpdateFinishedTrialError])
def test_a_trial_that_another_process_takes_up_meanwhile_is_done_once(tmp_path, monkeypatch, error):
    it = study(tmp_path)
    it.ask()
    monkeypatch.setattr(study_, "_is_gone", lambda owner: True)
    tell = it._study.tell

    def too_late(number, **state):
        tell(number, **state)  # the other one
        raise error

    monkeypatch.setattr(it._study, "tell", too_late)
    assert it.adopt_abandoned() == 0
    assert states(it) == ["FAIL"]


@pytest.mark.parametrize("sampler", study_.SAMPLERS)
def test_a_seed_gives_the_same_draws_but_not_again_to_a_study_that_goes_on(tmp_path, sampler):
    first = study(tmp_path / "a", sampler=sampler)
    draws = [finish(first, tmp_path) for _ in range(3)]
    same = study(tmp_path / "b", sampler=sampler)
    assert [finish(same, tmp_path) for _ in range(3)] == draws
    again = study(tmp_path / "a", sampler=sampler)
    rates = [finish(again, tmp_path)["student.fit.learning_rate"] for _ in range(3)]
    assert not set(rates) & {draw["student.fit.learning_rate"] for draw in draws}
    other = study(tmp_path / "c", sampler=sampler, seed=None)
    assert finish(other, tmp_path) != draws[0]


@pytest.mark.parametrize(
    ("sampler", "objectives", "lines"),
    [
        ("tpe", OBJECTIVES, []),
        ("nsga2", OBJECTIVES, []),
        ("foo", OBJECTIVES, ["hydra.sweeper.sampler=foo: allowed is one of tpe, nsga2"]),
        ("tpe", {}, ["hydra.sweeper.objectives: at least one is needed"]),
        ("foo", {}, ["hydra.sweeper.sampler=foo: allowed is one of tpe, nsga2",
                     "hydra.sweeper.objectives: at least one is needed"]),
        (
            "bar",
            {"foo": "maximize", "size_mb": "down"},
            [
                "hydra.sweeper.sampler=bar: allowed is one of tpe, nsga2",
                "hydra.sweeper.objectives.foo: no such field; there are retention, size_mb",
                "hydra.sweeper.objectives.size_mb=down: allowed is one of maximize, minimize",
            ],
        ),
    ],
)  # fmt: skip
def test_wrong_options_have_a_line_each(sampler, objectives, lines):
    assert check_options(sampler, objectives, list(OBJECTIVES)) == lines


@pytest.mark.parametrize(
    "storage",
    [
        "{here}/file/study.journal",
        "{here}/folder",
        "sqlite:///{here}/nowhere/study.db",
        "nosuch://host/db",
        "a://b://c",
    ],
)
def test_a_storage_that_cannot_be_opened_is_named(tmp_path, storage):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    storage = storage.format(here=tmp_path)
    with pytest.raises(ConfigError) as told:
        study(storage)
    assert str(told.value).startswith(f"hydra.sweeper.storage={storage}: cannot be opened: ")
    assert "\n" not in str(told.value)


def test_a_password_is_not_told(tmp_path):
    with pytest.raises(ConfigError) as told:
        study("sqlite://me:sec@ret@host/study")
    assert str(told.value).startswith("hydra.sweeper.storage=sqlite://me:***@host/study: cannot be opened: ")
    assert "ret" not in str(told.value).partition("cannot be opened")[2]
    assert "\n" not in str(told.value)


def test_a_file_that_is_no_journal_is_named(tmp_path):
    path = tmp_path / "study.journal"
    path.write_text("retention,size_mb\n0.9,10\n")
    with pytest.raises(ConfigError, match="cannot be opened"):
        study(str(path))


def test_a_database_is_a_storage_too(tmp_path):
    url = f"sqlite:///{tmp_path}/study.db"
    chosen = finish(study(url), tmp_path, (0.25, 3.5))
    again = study(url)
    (trial,) = again._study.get_trials()
    assert (trial.params, trial.values, trial.state) == (chosen, [0.25, 3.5], TrialState.COMPLETE)
    with pytest.raises(ConfigError, match="name=y: study s was begun with x"):
        study(url, *CHOICES[:2], "name=y")


def test_a_relative_journal_outlives_a_process_killed_while_it_wrote(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = """
import os, signal
from optuna.storages.journal import JournalFileBackend
os.chdir(sys.argv[1])
it = study("runs/study.journal")
os.fsync = lambda file: os.kill(os.getpid(), signal.SIGKILL)  # it holds the lock now
it.ask()
"""
    with process(code, str(tmp_path)) as doomed:
        assert doomed.wait() == -9
    it = study("runs/study.journal")
    it.adopt_abandoned()
    assert finish(it, tmp_path)


MANY = """
it = study(Path(sys.argv[1]))
print("ready", flush=True)
input()
for _ in range(10):
    trial = it.ask()
    it.tell(trial, Path(str(trial.number)), (trial.number / 100, 1.0), pruned=False, curve=None)
    print(trial.number)
"""


def test_processes_share_a_study_and_lose_nothing(tmp_path):
    with process(MANY, str(tmp_path)) as one, process(MANY, str(tmp_path)) as two:
        assert [each.stdout.readline() for each in (one, two)] == ["ready\n", "ready\n"]
        for each in (one, two):
            each.stdin.write("\n")
            each.stdin.flush()
        numbers = [[int(line) for line in each.stdout] for each in (one, two)]
    assert (one.returncode, two.returncode) == (0, 0)
    assert [len(each) for each in numbers] == [10, 10]
    assert sorted(numbers[0] + numbers[1]) == list(range(20))
    it = study(tmp_path)
    assert states(it) == ["COMPLETE"] * 20
    assert [trial.values[0] for trial in it._study.get_trials()] == [number / 100 for number in range(20)]
    assert it.folders() == [Path(str(number)) for number in range(20)]


@pytest.mark.parametrize("sampler", study_.SAMPLERS)
def test_processes_that_begin_a_study_together_draw_different_trials(tmp_path, sampler):
    one, other = study(tmp_path, sampler=sampler), study(tmp_path, sampler=sampler)
    rates = [each.ask().params["student.fit.learning_rate"] for _ in range(4) for each in (one, other)]
    assert len(set(rates)) == 8


@pytest.mark.parametrize("sampler", study_.SAMPLERS)
def test_processes_that_ask_in_the_same_moment_draw_different_trials(tmp_path, monkeypatch, sampler):
    one, other = study(tmp_path, sampler=sampler), study(tmp_path, sampler=sampler)
    ask, trials = one._study.ask, []

    def late(distributions):
        trials.append(other.ask())  # after the first has begun to ask, before it has a trial
        return ask(distributions)

    monkeypatch.setattr(one._study, "ask", late)
    trials.append(one.ask())
    assert len({trial.params["student.fit.learning_rate"] for trial in trials}) == 2


@pytest.mark.parametrize("sampler", study_.SAMPLERS)
def test_what_was_measured_shapes_what_is_drawn(tmp_path, sampler):
    drawn = []
    for name, sign in (("a", 1), ("b", -1)):
        found = study(tmp_path / name, sampler=sampler, population=4)
        trials = []
        for _ in range(16):
            trial = found.ask()
            trials.append(trial.params)
            layers = trial.params["student.layers"]
            found.tell(trial, tmp_path, (sign * float(layers), sign * -float(layers)), pruned=False, curve=None)
        drawn.append(trials)
    assert drawn[0] != drawn[1]
