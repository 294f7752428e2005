"""What runs were asked for, and in what of it they vary."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rankdistill.export.report.run_folders import Run

NUMBER = re.compile(r"[-+]?(\d+|(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][-+]?\d+)?)", re.ASCII)
MOST_DIGITS = 25  # a longer number is an id, and stays a text
REMOVED = "removed"
OWN = ("name", "runs")  # settings of where a run lies, not of what it does

Value = str | int | float | bool


def split(override: str) -> tuple[str, Value]:
    """Return the name and the value of an override as Hydra writes it: "+student.layers=2" is student.layers and 2.

    A number and true or false become one; the rest stays a text, without the quotes around it.
    """
    if override.startswith("~"):
        return override[1:].split("=")[0], REMOVED
    name, _, text = override.lstrip("+").partition("=")
    return name, _value(text)


def overrides_of(run: Run) -> dict[str, Value]:
    """Return a run's overrides by name; of several with one name the last counts."""
    return dict(split(override) for override in run.overrides)


def settings_of(run: Run, names: Iterable[str]) -> dict[str, Value | None]:
    """Return a run's values of options: its override, else what its configuration says; None if neither does."""
    given = {"experiment": run.experiment, **_leaves(_config(run))} | overrides_of(run)
    return {name: given.get(name) for name in names}


def varied(runs: Sequence[Run]) -> list[str]:
    """Return the options that an override names and that are not the same in all runs, in order of appearance."""
    named = list(dict.fromkeys(["experiment", *(name for run in runs for name in overrides_of(run))]))
    settings = [settings_of(run, named) for run in runs]
    return [name for name in named if name not in OWN and not _same(found[name] for found in settings)]


def unnamed_differences(runs: Sequence[Run], names: Sequence[str]) -> list[str]:
    """Return the options in which configurations differ without an override of `names`, or of a group, saying so."""
    leaves = [_leaves(_config(run)) for run in runs if _config(run)]
    paths = dict.fromkeys(path for found in leaves for path in found)
    differing = [path for path in paths if not _same(found.get(path) for found in leaves)]
    covered = [*OWN, *names]
    return [path for path in differing if not any(f"{path}.".startswith(f"{name}.") for name in covered)]


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Return for each dotted name as much of its end as no other has: layers for student.layers."""
    return dict(zip(names, shortest_tails([name.split(".") for name in names], "."), strict=True))


def shortest_tails(paths: Sequence[Sequence[str]], separator: str) -> list[str]:
    """Return for each path the fewest last parts, joined, that no other path has too."""
    found = []
    for path in paths:
        for depth in range(1, len(path) + 1):
            tail = list(path[-depth:])
            if sum(list(other[-depth:]) == tail for other in paths) == 1:
                break
        found.append(separator.join(path[-depth:]))
    return found


def _value(text: str) -> Value:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if len(text) <= MOST_DIGITS and NUMBER.fullmatch(text):
        return float(text) if set(text) & set(".eE") else int(text)
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    return text[1:-1] if quoted else text


def _config(run: Run) -> Mapping[str, Any]:
    config = (run.tradeoff or {}).get("config")
    return config if isinstance(config, Mapping) else {}


def _leaves(config: Mapping[str, Any]) -> dict[str, Value]:
    """Return a configuration's values by their dotted names; a list is written as a text."""

    def walk(node: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Value]]:
        for name, value in node.items():
            if isinstance(value, Mapping):
                yield from walk(value, f"{prefix}{name}.")
            elif isinstance(value, str | int | float):
                yield f"{prefix}{name}", value
            elif value is not None:
                yield f"{prefix}{name}", json.dumps(value, ensure_ascii=False)

    return dict(walk(config, ""))


def _same(values: Iterable[Value | None]) -> bool:
    """Return whether values are equal; 2 and 2.0 are, true and 1 are not."""
    return len({(isinstance(value, bool), value) for value in values}) <= 1
