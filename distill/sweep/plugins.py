"""Making the sweepers and launchers known to Hydra; their options are in `rankdistill.options`.

Hydra takes plugins of the package hydra_plugins alone, and finds them there by a scan that does not see an editable
install. So the classes are registered by hand, in a module of that name that is made here.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

from hydra.core.plugins import Plugins

from rankdistill.sweep.grid_sweeper import GridSweeper
from rankdistill.sweep.joblib_launcher import JoblibLauncher
from rankdistill.sweep.launcher import PLUGINS
from rankdistill.sweep.optuna_sweeper import OptunaSweeper
from rankdistill.sweep.ray_launcher import RayLauncher
from rankdistill.sweep.submitit_launcher import SubmititLauncher

CLASSES = (GridSweeper, OptunaSweeper, JoblibLauncher, SubmititLauncher, RayLauncher)


def register() -> None:
    """Register all of them."""
    package, _, name = PLUGINS.partition(".")
    try:
        parent = importlib.import_module(package)  # another project's plugins may have made it
    except ModuleNotFoundError:
        parent = sys.modules[package] = ModuleType(package)
        parent.__path__ = []
    module = sys.modules[PLUGINS] = ModuleType(PLUGINS, __doc__)
    setattr(parent, name, module)
    for each in CLASSES:
        setattr(module, each.__name__, each)
        Plugins.instance().register(each)
