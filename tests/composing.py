"""What the command line would make of overrides."""

from __future__ import annotations

from hydra import compose, initialize_config_module

from distill import schema
from distill.cli import convert
from distill.schema import Config
from distill.sweep import plugins


def composed(*overrides: str) -> Config:
    """Compose, convert and validate a configuration.

    Raises:
        ConfigError: if options are wrong.
    """
    schema.register()
    plugins.register()
    with initialize_config_module(version_base="1.3", config_module="distill.conf"):
        return convert(compose("config", list(overrides)))
