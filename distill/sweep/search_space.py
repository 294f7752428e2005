"""What a search may choose from: Hydra's sweep overrides as Optuna's distributions, and choices as overrides again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any, cast

from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep

from rankdistill.errors import ConfigError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

SHAPE_NOTHING = ("bundle=", "track=", "track.", "runs=")  # overrides that leave a trial's result as it is


@dataclass(frozen=True)
class Space:
    """The overrides of a search.

    Attributes:
        fixed: overrides that every trial has.
        distributions: what is chosen, by the override's key.
    """

    fixed: Sequence[str]
    distributions: Mapping[str, BaseDistribution]

    @classmethod
    def of(cls, overrides: Sequence[Override]) -> Space:
        """Take the command line's overrides apart; the last one of a key counts.

        Raises:
            ConfigError: if there is nothing to choose, or an interval that is none.
        """
        fixed: dict[str, str] = {}
        distributions: dict[str, BaseDistribution] = {}
        for override in overrides:
            key = override.get_key_element()
            fixed.pop(key, None)
            distributions.pop(key, None)
            if override.is_sweep_override():
                distributions[key] = _distribution(override)
            else:
                fixed[key] = f"{key}={override.get_value_element_as_str()}"
        if not distributions:
            raise ConfigError(
                "nothing to search: give values to choose from, as in student=l1_h384,l2_h384 or "
                "'student.fit.learning_rate=tag(log,interval(1e-4,1e-3))'"
            )
        return cls(list(fixed.values()), distributions)

    def shaping(self) -> dict[str, str]:
        """Return the options that shape what a trial gives, and from what they are chosen, as texts."""
        given = dict(override.split("=", 1) for override in self.fixed if not override.startswith(SHAPE_NOTHING))
        return given | {key: _told(distribution) for key, distribution in self.distributions.items()}

    def samples(self) -> list[list[str]]:
        """Return the overrides of a few trials: each choice and each end of an interval, the others at their first."""
        ends = {key: _ends(distribution) for key, distribution in self.distributions.items()}
        first = {key: values[0] for key, values in ends.items()}
        found = [self.overrides(first | {key: value}) for key, values in ends.items() for value in values]
        return [list(each) for each in dict.fromkeys(map(tuple, found))]

    def overrides(self, chosen: Mapping[str, Any]) -> list[str]:
        """Return a trial's overrides."""
        return [*self.fixed, *(f"{key}={_written(value)}" for key, value in chosen.items())]


def _distribution(override: Override) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    sweep = override.value()
    key = override.get_key_element()
    try:
        if isinstance(sweep, IntervalSweep):
            log, low, high = "log" in sweep.tags, cast("float", sweep.start), cast("float", sweep.end)
            if isinstance(low, int) and isinstance(high, int):
                return IntDistribution(low, high, log=log)
            if not (isfinite(low) and isfinite(high)):
                raise ValueError("its ends must be finite")
            return FloatDistribution(low, high, log=log)
        if isinstance(sweep, ChoiceSweep | RangeSweep):
            if "log" in sweep.tags:
                raise ValueError("log is of an interval: tag(log,interval(LOW,HIGH)), tag(log,int(interval(LOW,HIGH)))")
            sweep.shuffle = False  # the sampler chooses; a study that goes on must find the same choices
        if isinstance(sweep, RangeSweep) and isinstance(values := sweep.range(), range):
            if not values:
                raise ValueError("it is empty")
            return IntDistribution(min(values), max(values), step=abs(values.step))
        return CategoricalDistribution(list(dict.fromkeys(override.sweep_string_iterator())))
    except ValueError as error:
        raise ConfigError(f"{override.input_line or key}: {error}") from error


def _ends(distribution: Any) -> Sequence[Any]:
    return distribution.choices if hasattr(distribution, "choices") else (distribution.low, distribution.high)


def _told(distribution: BaseDistribution) -> str:
    choices = getattr(distribution, "choices", None)
    return str(distribution) if choices is None else ",".join(choices)


def _written(value: Any) -> str:
    return repr(value) if isinstance(value, float) else str(value)
