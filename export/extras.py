"""Which extra of the package a missing library comes from."""

from __future__ import annotations

import importlib.util

from rankdistill.export.errors import UserError


def require(extra: str, *modules: str) -> None:
    """Ask for an extra's modules before any of them is imported.

    Raises:
        UserError: naming the pip command, if one is not installed.
    """
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise UserError(f"{', '.join(missing)} not installed; run: pip install 'rankdistill[{extra}]'")
