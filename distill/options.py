"""Options as Hydra composed them, turned into dataclasses; what they may be, `rules` and `validate` say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from distill.errors import ConfigError


def to_dataclasses(composed: DictConfig) -> Any:
    """Return the instance of the dataclass whose schema was composed.

    Raises:
        ConfigError: listing every option that is missing, or naming one that cannot be resolved.
    """
    missing = sorted(name for name in OmegaConf.missing_keys(composed) if not name.startswith("hydra"))
    if missing:
        raise ConfigError("\n".join(f"{name}: missing; give {name}=..." for name in missing))
    try:
        return OmegaConf.to_object(composed)
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0]) from error


def unknown_options(node: object, prefix: str) -> Iterator[str]:
    """Yield a line for each option that `+option=value` added and nothing reads."""
    known = {each.name for each in fields(node)} if is_dataclass(node) else set()
    for name, value in vars(node).items():
        if name not in known:
            yield f"{prefix}{name}={value}: no such option; there are {', '.join(sorted(known))}"
        for key, child in value.items() if isinstance(value, dict) else [("", value)]:
            if is_dataclass(child):
                yield from unknown_options(child, f"{prefix}{name}.{key + '.' if key else ''}")
