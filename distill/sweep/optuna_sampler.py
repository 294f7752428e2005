"""What chooses a trial, seeded by the trial's number: whoever shares a study and whenever they ask, all draw others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

SAMPLERS = ("tpe", "nsga2")


class NumberedSampler(BaseSampler):  # type: ignore[misc]
    """A sampler of Optuna that is made anew for every trial.

    Two processes that make a sampler of one seed draw the same; the storage gives each trial another number.

    Args:
        name: tpe or nsga2.
        seed: of the first trial, that of the others is so much higher; None for random ones.
        population: of nsga2's generations.
    """

    def __init__(self, name: str, seed: int | None, population: int) -> None:
        self._name, self._seed, self._population = name, seed, population
        self._of_trial: BaseSampler | None = None

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """See `BaseSampler.before_trial`."""
        self._of_trial = self._make(trial.number)
        self._of_trial.before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """See `BaseSampler.infer_relative_search_space`."""
        space: dict[str, BaseDistribution] = self._own(trial).infer_relative_search_space(study, trial)
        return space

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """See `BaseSampler.sample_relative`."""
        chosen: dict[str, Any] = self._own(trial).sample_relative(study, trial, search_space)
        return chosen

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """See `BaseSampler.sample_independent`."""
        return self._own(trial).sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """See `BaseSampler.after_trial`."""
        self._own(trial).after_trial(study, trial, state, values)

    def _own(self, trial: FrozenTrial) -> BaseSampler:
        return self._of_trial or self._make(trial.number)

    def _make(self, number: int) -> BaseSampler:
        seed = None if self._seed is None else self._seed + number
        if self._name == "nsga2":
            return NSGAIISampler(seed=seed, population_size=self._population)
        return TPESampler(seed=seed, multivariate=True, constant_liar=True)
