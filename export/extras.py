"""Which extra of the package a missing library comes from."""

from __future__ import annotations

import importlib.util
import sys


def require(extra: str, *modules: str) -> None:
    """End the program, naming the pip command, if one of an extra's modules is not installed."""
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        sys.exit(f"{', '.join(missing)} not installed; run: pip install 'rankdistill[{extra}]'")
