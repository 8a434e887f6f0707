"""The runs of an audit, several at a time: `python -m fedsim.audit_runs FOLDER NUMBER OF` does its share of them.

    FOLDER/plan/NAME.yaml   a run to make       FOLDER/plan/NAME.done   its folder, relative to FOLDER, once it is made

A run that was cut off is resumed, one that is done is not made again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedsim.config import to_yaml
from fedsim.runs import write_atomic
from fedsim.schema import FederatedRun


@dataclass(frozen=True)
class Plans:
    """The files that say what is to be run, and what is done."""

    folder: Path
    """The audit's folder."""

    def write(self, runs: Mapping[str, FederatedRun]) -> None:
        """Say what is to be run, by name."""
        for name, config in runs.items():
            path = self._path(name, "yaml")
            if not path.is_file():
                write_atomic(path, to_yaml(config))

    def names(self) -> list[str]:
        """Everything planned, in order."""
        return sorted(path.stem for path in (self.folder / "plan").glob("*.yaml"))

    def missing(self) -> list[str]:
        """What is not done."""
        return [name for name in self.names() if not self._path(name, "done").is_file()]

    def config(self, name: str) -> Path:
        """The file of a run."""
        return self._path(name, "yaml")

    def finish(self, name: str, run: Path) -> None:
        """Say where a run lies that is done."""
        write_atomic(self._path(name, "done"), f"{run.relative_to(self.folder)}\n")

    def run(self, name: str) -> Path:
        """The folder of a run that is done."""
        return self.folder / self._path(name, "done").read_text().strip()

    def _path(self, name: str, suffix: str) -> Path:
        return self.folder / "plan" / f"{name}.{suffix}"
