"""The memory of a search: an Optuna study that several processes and machines may share and that outlives them."""

from __future__ import annotations

import logging
import os
import re
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

import optuna
from filelock import FileLock
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from rankdistill.errors import ConfigError
from rankdistill.options.from_hydra import at_home
from rankdistill.sweep.optuna_sampler import SAMPLERS, NumberedSampler
from rankdistill.sweep.search_space import Space
from rankdistill.training.median_stopping import Curve, Rivals

log = logging.getLogger(__name__)

OWNER, FOLDER, CURVE, BEGUN = "owner", "folder", "curve", "begun with"
DIRECTIONS = ("maximize", "minimize")


class Study:
    """A study whose trials are runs.

    Args:
        name: of the study.
        storage: a journal file, or a URL of a database.
        objectives: field of the table -> maximize or minimize.
        sampler: tpe or nsga2.
        seed: of the sampler, null for a random one.
        space: what is searched.

    Raises:
        ConfigError: if it cannot be opened, or was begun with other objectives, choices or fixed overrides.
    """

    def __init__(
        self,
        name: str,
        storage: str,
        objectives: Mapping[str, str],
        sampler: str,
        seed: int | None,
        space: Space,
        population: int,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.objectives, self._space = objectives, space
        try:
            self._study = optuna.create_study(
                storage=_open(storage), study_name=name, directions=list(objectives.values()), load_if_exists=True,
                sampler=NumberedSampler(sampler, seed, population),
            )  # fmt: skip
        except Exception as error:  # each database's driver has errors of its own
            told = str(error).strip().splitlines() or [type(error).__name__]
            line = f"hydra.sweeper.storage={storage}: cannot be opened: {told[0]}"
            raise ConfigError(_without_passwords(line)) from error
        self._check(name)

    def ask(self) -> Trial:
        """Return the next trial, its choices made: other ones than whoever shares the study and asked before has."""
        trial = self._study.ask(dict(self._space.distributions))
        trial.set_user_attr(OWNER, _me())
        return trial

    def tell(
        self, trial: Trial, folder: Path, values: Sequence[float] | None, *, pruned: bool, curve: Curve | None
    ) -> None:
        """Note how a trial ended.

        Args:
            trial: which.
            folder: of its run.
            values: of the objectives; None if it has none.
            pruned: whether it was given up.
            curve: how its student learned.
        """
        trial.set_user_attr(FOLDER, str(folder))
        if curve is not None:
            trial.set_user_attr(CURVE, {"cost": curve.cost, "points": [list(point) for point in curve.points]})
        if values is not None:
            self._study.tell(trial, list(values))
        else:
            self._study.tell(trial, state=TrialState.PRUNED if pruned else TrialState.FAIL)

    def rivals(self, least: int, margin: float) -> Rivals:
        """Return the curves of all finished trials."""
        curves = [trial.user_attrs[CURVE] for trial in self._trials(TrialState.COMPLETE) if CURVE in trial.user_attrs]
        return Rivals(least, margin, [Curve(curve["cost"], [tuple(p) for p in curve["points"]]) for curve in curves])

    def ended(self) -> int:
        """Return how many trials have a result or were given up."""
        return len(self._trials(TrialState.COMPLETE, TrialState.PRUNED))

    def under_way(self) -> int:
        """Return how many trials other living processes, and machines that cannot be looked at, are at."""
        return len(self._trials(TrialState.RUNNING))

    def folders(self) -> list[Path]:
        """Return the runs' folders of all trials that ended, in the order of their beginning."""
        return [Path(trial.user_attrs[FOLDER]) for trial in self._study.trials if FOLDER in trial.user_attrs]

    def adopt_abandoned(self) -> int:
        """Put the trials of killed processes of this machine in the queue again; returns how many."""
        found = 0
        for trial in self._trials(TrialState.RUNNING):
            if _is_gone(trial.user_attrs.get(OWNER, "")):
                try:
                    self._study.tell(trial.number, state=TrialState.FAIL)
                except (ValueError, UpdateFinishedTrialError):  # another process took it up meanwhile
                    continue
                self._study.enqueue_trial(trial.params, skip_if_exists=False)
                found += 1
        return found

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        trials: list[FrozenTrial] = self._study.get_trials(deepcopy=False, states=states)
        return trials

    def _check(self, name: str) -> None:
        wanted = self._space.shaping() | {
            "hydra.sweeper.objectives": ",".join(f"{field}:{direction}" for field, direction in self.objectives.items())
        }
        begun = self._study.user_attrs.get(BEGUN)
        if begun is None:
            self._study.set_user_attr(BEGUN, wanted)
            self._study.set_metric_names(list(self.objectives))
            return
        problems = [
            f"{key}={wanted.get(key, 'as it is')}: study {name} was begun with {begun.get(key, 'none given')}"
            for key in {**begun, **wanted} if begun.get(key) != wanted.get(key)
        ]  # fmt: skip
        if problems:
            raise ConfigError("\n".join([*problems, "give the search another name: hydra.sweeper.study=..."]))


class _KernelLock:
    """What Optuna asks of a journal's lock; it goes with a killed process, where those of Optuna stay behind."""

    def __init__(self, path: Path) -> None:
        self._lock = FileLock(f"{path}.lock")

    def acquire(self) -> bool:
        self._lock.acquire()
        return True

    def release(self) -> None:
        self._lock.release()


def _open(storage: str) -> str | BaseStorage:
    if "://" in storage:
        return storage
    path = Path(at_home(storage))
    path.parent.mkdir(parents=True, exist_ok=True)
    return JournalStorage(JournalFileBackend(str(path), _KernelLock(path)))


def _without_passwords(text: str) -> str:
    return re.sub(r"(://[^:/@\s]*):\S*@", r"\1:***@", text)


def _me() -> str:
    return f"{socket.gethostname()} {os.getpid()} {_began(os.getpid())}"


def _is_gone(owner: str) -> bool:
    """Return whether a trial's process is of this machine and ended; a process number may have been given anew."""
    host, _, rest = owner.partition(" ")
    number, _, began = rest.partition(" ")
    return host == socket.gethostname() and number.isdigit() and _began(int(number)) != began


def _began(process: int) -> str:
    """Return when a process began, in the kernel's ticks; nothing if there is none."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return "" if not Path("/proc").is_dir() else "gone"


def check_options(sampler: str, objectives: Mapping[str, str], known: Sequence[str]) -> list[str]:
    """Return a line for each option of a search that cannot be."""
    problems = (
        [] if sampler in SAMPLERS else [f"hydra.sweeper.sampler={sampler}: allowed is one of {', '.join(SAMPLERS)}"]
    )
    for field, direction in objectives.items():
        if field not in known:
            problems.append(f"hydra.sweeper.objectives.{field}: no such field; there are {', '.join(known)}")
        if direction not in DIRECTIONS:
            problems.append(f"hydra.sweeper.objectives.{field}={direction}: allowed is one of {', '.join(DIRECTIONS)}")
    return problems if objectives else [*problems, "hydra.sweeper.objectives: at least one is needed"]
