"""The lines of the membership table (membership_table.py) and the settings of the methods behind them."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

IPCS = (1, 5, 10)
AUGMENT: dict[str, dict[str, Any]] = {
    "mnist": {"strategy": ["color", "crop", "cutout", "scale", "rotate"]},
    "cifar10": {},
}
METHODS: dict[str, dict[str, Any]] = {
    "dm": {"name": "dm", "iterations": 500, "optimiser": "adam", "lr": 0.2, "batch_real": 256,
           "networks": {"name": "pool", "size": 30, "shared": True}},
    "dsa": {"name": "dsa", "iterations": 50, "optimiser": "adam", "lr": 0.1, "batch_real": 128, "outer": 5, "inner": 5},
    "random": {"name": "random"},
}  # fmt: skip
"""Steps of the shelf on MNIST (cells.py), fewer of them; tuned on nothing. DSA's are few, since its rows go one after another."""
KINDS = (("model", "real"), ("random", "real"), ("dm", "noise"), ("dm", "real"), ("dsa", "noise"))


@dataclass(frozen=True)
class Line:
    """One line of the table."""

    data: str
    method: str
    """`model`: no set but a network trained on the members."""
    init: str
    ipc: int
    """Synthetic images of each class; 0 of a network."""

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.data}_{self.method}" + (f"_{self.init}_ipc{self.ipc}" if self.ipc else "")

    def settings(self, options: argparse.Namespace) -> dict[str, Any]:
        """Of its method."""
        if not self.ipc:
            return {"name": "model", "train": {"epochs": options.real_epochs}}
        chosen = METHODS[self.method] | {"ipc": self.ipc}
        if self.method != "random":
            chosen |= {"init": self.init, "augment": AUGMENT[self.data]}
            chosen |= {"iterations": options.iterations} if options.iterations else {}
        return chosen


def lines() -> list[Line]:
    """All of the table, cheap ones first."""
    return [
        Line(data, method, init, ipc)
        for data in ("mnist", "cifar10")
        for method, init in KINDS
        for ipc in (IPCS if method != "model" else (0,))
    ]


def model(options: argparse.Namespace) -> dict[str, Any]:
    """Of sets, attacks and the network beside them."""
    return {"name": "convnet", "depth": 3, "width": options.width, "norm": "instance"}
