"""What the command line would make of overrides."""

from __future__ import annotations

from hydra import compose, initialize_config_module

from rankdistill import options
from rankdistill.commands.distill import convert
from rankdistill.options import Config
from rankdistill.sweep import plugins


def composed(*overrides: str) -> Config:
    """Compose, convert and validate a configuration.

    Raises:
        ConfigError: if options are wrong.
    """
    options.register()
    plugins.register()
    with initialize_config_module(version_base="1.3", config_module="rankdistill.conf"):
        return convert(compose("config", list(overrides)))
