"""Environment of every process of Flower and Ray that fedsim starts: nothing is reported, nothing is installed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
}
"""No telemetry, no look for updates, no `uv sync` of the app's dependencies on a node."""


def quiet_flower() -> None:
    """Switch those off in this process and in those it starts."""
    os.environ.update(QUIET)


def environment(home: Path, threads: int) -> dict[str, str]:
    """Environment of a Flower process whose FLWR_HOME is `home`: nothing is written to the user's."""
    own = {"FLWR_HOME": str(home.resolve()), "OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
    # Flower starts its own commands by name, so they must be found where this Python's are.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return os.environ | QUIET | own | {"PATH": path}
