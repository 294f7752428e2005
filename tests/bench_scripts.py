"""The scripts of scripts/bench as modules."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts/bench"


@contextmanager
def bench_script(name: str) -> Iterator[ModuleType]:
    """Import a script, which finds those beside it while this lasts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        yield importlib.import_module(name)
