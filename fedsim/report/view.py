"""One run as a page sees it: what its folder holds and what follows from it.

Counts and class means of the private images, which the folder deliberately does not hold, are taken from the data while
they can still be loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from fedsim.config import Raw
from fedsim.data.images import Dataset, Images
from fedsim.data.partition import cells
from fedsim.data.split import Split
from fedsim.data.synthetic import SyntheticSet
from fedsim.federated.defences import Verdict, verdicts_in
from fedsim.federated.record import RoundRecord

SMALL = 10
"""A cell is small with at most this many real images per synthetic one (`small_classes` of result.json)."""
LISTED = 100
"""Clients that are shown one by one, the first of them; totals, medians and extremes are over all."""


@dataclass
class RunView:
    """One run as the page sees it."""

    path: Path
    key: str
    """A letter that stands for the run in charts; empty where it is the only one."""
    config: Raw
    config_text: str
    """config.yaml as it lies there."""
    manifest: dict[str, Any] = field(default_factory=dict)
    result: dict[str, Any] | None = None
    """result.json; None while the run is not finished."""
    records: list[RoundRecord] = field(default_factory=list)
    """Finished rounds of a federated run."""
    metrics: list[dict[str, Any]] = field(default_factory=list)
    uploads: dict[int, SyntheticSet] = field(default_factory=dict)
    """Client → the set it uploaded in `upload_round`."""
    upload_round: int = 0
    sets: list[SyntheticSet] = field(default_factory=list)
    """The sets of a central condensation."""
    dataset: Dataset | None = None
    split: Split | None = None
    notes: list[str] = field(default_factory=list)
    """What could not be read, and why."""

    @property
    def name(self) -> str:
        """Given by its config."""
        return str(self.config["name"])

    @property
    def federated(self) -> bool:
        """Rounds over clients, rather than one central condensation."""
        return "algorithm" in self.config

    @property
    def unlisted(self) -> int:
        """Clients that are not shown one by one."""
        return max(0, int(self.config["partition"]["clients"]) - LISTED) if self.federated else 0

    @property
    def status(self) -> str:
        """finished, interrupted, failed, or unfinished (at work, or killed)."""
        if self.result is not None:
            return "finished"
        said = str(self.manifest.get("status", "unfinished"))
        return said if said in {"interrupted", "failed"} else "unfinished"

    @property
    def method(self) -> str:
        """Short names of what was run: `feddm · dm`, `fedavg`, `dm`."""
        parts = [self.config.get(section) for section in ("algorithm", "method")]
        return " · ".join(str(part["name"]).rpartition(":")[2] for part in parts if part)

    @property
    def adversaries(self) -> dict[str, str]:
        """Who lies in it and what the server does about it, where there is such a one."""
        return adversaries(self.config)

    @property
    def labels(self) -> str:
        """Label regime of the accuracy: `hard`, `soft` (stored in the sets, or uploaded) or `teacher`."""
        if not self.federated:
            return str((self.config.get("evaluation") or {}).get("labels", "hard"))
        return "soft" if (self.config.get("method") or {}).get("labels") == "learned" else "hard"

    @property
    def learned_steps(self) -> bool:
        """Whether networks were scored after steps that were learned with the sets (`evaluation.steps`)."""
        return (self.config.get("evaluation") or {}).get("steps") == "learned"

    @property
    def images_per_class(self) -> int:
        """Synthetic images per class, 0 where none are made."""
        return int((self.config.get("method") or {}).get("ipc", 0))

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, of the data or of any synthetic set; empty if neither is there."""
        if self.dataset is not None:
            return self.dataset.classes
        found = next(iter([*self.uploads.values(), *self.sets]), None)
        return found.classes if found is not None else ()

    @property
    def controls(self) -> dict[str, dict[str, Any]]:
        """Controls by name; empty while the run is not finished."""
        return self.result["controls"] if self.result is not None else {}

    @property
    def privacy(self) -> dict[str, Any] | None:
        """What the clients' ledgers say (`privacy` of result.json), empty where it is silent; None without them."""
        found = self.result.get("privacy") if self.result is not None else None
        silent = dict.fromkeys(("unit", "method", "note", "evidence", "charges", "assumptions", "not_covered"), ())
        return None if found is None else silent | found

    @property
    def metric_names(self) -> list[str]:
        """What a round logs beside its accuracy, verdicts of filters left out."""
        last = self.records[-1].metrics if self.records else {}
        return [name for name in last if name != "accuracy" and "." not in name]

    @property
    def backdoors(self) -> list[dict[str, Any]]:
        """What each attacker's trigger did; empty without attackers, or where nothing was measured."""
        return list((self.result or {}).get("backdoor", {}).get("triggers", ()))

    @property
    def verdicts(self) -> list[tuple[int, str, list[Verdict]]]:
        """(round, filter, verdicts on the clients that it could judge), of rounds in which there were some."""
        rounds = [(record.round, verdicts_in(record.metrics)) for record in self.records]
        told = [(number, name, said) for number, found in rounds for name, said in found.items()]
        judged = [(number, name, [one for one in said if one.judged]) for number, name, said in told]
        return [one for one in judged if one[2]]

    @property
    def real_pixels(self) -> bool:
        """Whether sets are made of real images, or started as such."""
        return any(one.provenance.get("init") in {"real", "mix"} for one in [*self.uploads.values(), *self.sets])

    @cached_property
    def table(self) -> Int[np.ndarray, "clients k"] | None:
        """Real images of each class at each client; None without the data."""
        if self.dataset is None or self.split is None:
            return None
        return cells(self.split.client, self.dataset.train.labels.numpy(), self.dataset.num_classes)

    @cached_property
    def small_cells(self) -> list[tuple[int, int, int]]:
        """(client, class, images) of the small cells, smallest first; none where the result does not say (privacy)."""
        if self.result is not None:
            found = [(cell[0], cell[1], cell[2]) for cell in self.result.get("small_classes") or ()]
        else:
            table, most = self.table, SMALL * self.images_per_class
            rows = [] if table is None else enumerate(table.tolist())
            found = [(client, k, n) for client, row in rows for k, n in enumerate(row) if 0 < n <= most]
        return sorted(found, key=lambda cell: (cell[2], cell[0], cell[1]))

    def mark(self, client: int, label: int) -> str:
        """`tiny`: a cell of no more real than synthetic images; `small`: another small one; else empty."""
        return self._marks.get((client, label), "")

    @cached_property
    def _marks(self) -> dict[tuple[int, int], str]:
        limit = self.images_per_class
        return {(client, label): "tiny" if n <= limit else "small" for client, label, n in self.small_cells}

    def total(self, name: str) -> int:
        """A sum over rounds by its name in result.json, from the finished rounds where there is no result."""
        if self.result is not None and name in self.result:
            return int(self.result[name])
        if name in {"uplink_bytes", "downlink_bytes"}:
            return sum(sum(getattr(record, name).values()) for record in self.records)
        kind = name.rpartition("_")[2]
        return sum(len(getattr(record, kind)) for record in self.records)

    @property
    def client_flops(self) -> float | None:
        """Operations of all clients in the finished rounds; None where a round did not count them."""
        each = [record.client_flops for record in self.records]
        known = [one for one in each if one is not None]
        return sum(known) if known and len(known) == len(each) else None

    def real_means(self, client: int | None) -> tuple[UInt8[Tensor, "k c h w"], Int[np.ndarray, "k"]] | None:
        """Class means and counts of a client's images, of all for None; None without the data."""
        if self.dataset is None or self.split is None:
            return None
        positions = self.split.train if client is None else self.split.client[client]
        images = self.dataset.train.take(torch.from_numpy(positions))
        return class_means(images, self.dataset.num_classes), images.counts(self.dataset.num_classes).numpy()


def adversaries(config: Raw) -> dict[str, str]:
    """`attackers` and `defences` of a run in words, where it has some."""
    liars = [
        f"{one['name']} in the place of {_clients(one['clients'])}"
        + (f", adaptive to {one['adaptive_to']}" if one.get("adaptive_to") else "")
        for one in config.get("attackers") or ()
    ]
    guards = [str(one["name"]) for one in config.get("defenses") or ()]
    found = {"attackers": "; ".join(liars), "defences": ", ".join(guards)}
    return {name: words for name, words in found.items() if words}


def _clients(which: Sequence[int]) -> str:
    return ("client " if len(which) == 1 else "clients ") + ", ".join(map(str, which))


def class_means(images: Images, num_classes: int) -> UInt8[Tensor, "k c h w"]:
    """Mean image of each class, rounded to grey levels 0..255; black where a class has no image."""
    sums = torch.zeros((num_classes, *images.pixels.shape[1:]), dtype=torch.float64)
    sums.index_add_(0, images.labels, images.pixels.double())
    counts = images.counts(num_classes).clamp(min=1).reshape(-1, 1, 1, 1)
    return (sums / counts).round().to(torch.uint8)
