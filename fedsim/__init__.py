"""Federated dataset distillation over Flower, in three lines:

data = fedsim.load("digits")
synthetic = fedsim.distill(data, "dm", ipc=5, iterations=500)
print(fedsim.evaluate(synthetic, data).mean)
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedsim.api import distill, evaluate, load, save, simulate
    from fedsim.data.synthetic import SyntheticSet

__version__ = "0.1.0"
__all__ = ["SyntheticSet", "__version__", "distill", "evaluate", "load", "save", "simulate"]


# Libraries read these when they are imported: nothing leaves the machine, nothing is installed, unless a user says so.
for _switch in ("FLWR_TELEMETRY_ENABLED", "RAY_USAGE_STATS_ENABLED"):
    os.environ.setdefault(_switch, "0")
for _switch in ("FLWR_DISABLE_UPDATE_CHECK", "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"):
    os.environ.setdefault(_switch, "1")


def __getattr__(name: str) -> Any:
    """Import torch and Flower only when something is used: `fedsim list` stays quick."""
    if name not in __all__:
        raise AttributeError(f"module 'fedsim' has no attribute '{name}'")
    if name == "SyntheticSet":
        from fedsim.data.synthetic import SyntheticSet

        return SyntheticSet
    from fedsim import api

    return getattr(api, name)
