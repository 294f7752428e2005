"""Options as Hydra composed them, turned into dataclasses; what they may be, `rules` and `validate` say."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rankdistill.errors import ConfigError
from rankdistill.options import (
    BeirData,
    Config,
    EncoderTeacher,
    EventsData,
    HubData,
    LayeredCascade,
    MlflowTrack,
    MovieLensData,
    Teacher,
    Update,
    Updating,
    Vocabulary,
)
from rankdistill.options.tracker_uri import SQLITE

PATHS: Mapping[type, Sequence[str]] = {  # options that are, or may be, a path
    Config: ("runs", "rivals"),
    EventsData: ("path",),
    MovieLensData: ("path",),
    BeirData: ("path",),
    HubData: ("path",),
    Teacher: ("model",),
    EncoderTeacher: ("init",),
    Vocabulary: ("safety",),
    LayeredCascade: ("first",),
    MlflowTrack: ("uri",),
    Updating: ("model", "events", "published", "catalogue"),
    Update: ("sign",),
}


def to_dataclasses(composed: DictConfig) -> Any:
    """Return the instance of the dataclass whose schema was composed, a `~` in its paths expanded.

    Raises:
        ConfigError: listing every option that is missing, or naming one that cannot be resolved.
    """
    missing = sorted(name for name in OmegaConf.missing_keys(composed) if not name.startswith("hydra"))
    if missing:
        raise ConfigError("\n".join(f"{name}: missing; give {name}=..." for name in missing))
    try:
        config = OmegaConf.to_object(composed)
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0]) from error
    if homeless := [*_expand(config, "")]:
        raise ConfigError("\n".join(homeless))
    return config


def at_home(path: str) -> str:
    """Return a path, or the URI of a local tracker, with `~` replaced by the home folder.

    Raises:
        ConfigError: if there is none.
    """
    before, rest = (SQLITE, path[len(SQLITE) :]) if path.startswith(SQLITE) else ("", path)
    expanded = os.path.expanduser(rest)  # noqa: PTH111 - a URI's or a hub's name keeps its slashes
    if expanded == rest and rest.split("/")[0] == "~":
        raise ConfigError(f"{path}: allowed is a path without ~, as there is no home folder (HOME is not set)")
    return before + expanded


def _expand(node: Any, prefix: str) -> Iterator[str]:
    """Expand the paths among the options of a dataclass and of those in it; yield a line for each that cannot be."""
    for kind in type(node).__mro__:
        for option in PATHS.get(kind, ()):
            value = getattr(node, option)
            if isinstance(value, str):
                try:
                    setattr(node, option, at_home(value))
                except ConfigError as error:
                    yield f"{prefix}{option}={error}"
    for each in fields(node):
        child = getattr(node, each.name)
        if is_dataclass(child):
            yield from _expand(child, f"{prefix}{each.name}.")


def unknown_options(node: object, prefix: str) -> Iterator[str]:
    """Yield a line for each option that `+option=value` added and nothing reads."""
    known = {each.name for each in fields(node)} if is_dataclass(node) else set()
    for name, value in vars(node).items():
        if name not in known:
            yield f"{prefix}{name}={value}: no such option; there are {', '.join(sorted(known))}"
        for key, child in value.items() if isinstance(value, dict) else [("", value)]:
            if is_dataclass(child):
                yield from unknown_options(child, f"{prefix}{name}.{key + '.' if key else ''}")
