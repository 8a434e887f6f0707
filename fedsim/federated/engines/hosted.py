"""The grid that Flower gave: the ServerApp was started by `flwr run` or by a SuperLink, which have the nodes."""

from __future__ import annotations

from flwr.serverapp import Grid

from fedsim.federated.engines.base import Job, Serve
from fedsim.federated.engines.patience import PatientGrid


class Hosted:
    """An engine only in that it hands on a grid."""

    def __init__(self, grid: Grid, connect_timeout: float) -> None:
        self._grid, self.connect_timeout = grid, connect_timeout

    def run(self, job: Job, serve: Serve) -> None:
        """Serve: this is the ServerApp already, and nodes come and go as they like."""
        serve(PatientGrid(self._grid, job.timeout))
