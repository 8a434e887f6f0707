"""The run in which records were planted, as a target: what its worst-case observer holds, and which coins fell how.

The observer knows the planted records and every other one; of each noisy sum it holds the sum, the exact sum of the
other records and every planted one's vector (privacy/observed.py). It is not told which planted records are in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Int

from fedsim.audit.types import Truth
from fedsim.build import Parts
from fedsim.data.images import Images
from fedsim.privacy.observed import Look, stored_looks
from fedsim.runs import RunDirectory
from fedsim.schema import FederatedRun
from fedsim.workload import settled


@dataclass(frozen=True)
class CanaryRelease:
    """Of m planted records, in their order."""

    kinds: np.ndarray
    """(m) names."""
    clients: Int[np.ndarray, "m"]
    """Whose each is, if it is anybody's."""
    looks: Callable[[int], list[Look]]
    """Reads what was watched of a client's noisy sums, in the order of its planted records; none without privacy."""
    epsilon: float | None
    """What the accountant claims of the run, for the client where it is largest; None: nothing is claimed."""
    delta: float | None
    deviation: float | None
    """σΔ, as claimed; None: there is no noise."""


@dataclass(frozen=True)
class CanaryRun:
    """The run, once it is made."""

    config: FederatedRun
    folder: Path

    @cached_property
    def parts(self) -> Parts:
        """What it was made from."""
        return settled(Parts(self.config))

    @property
    def images(self) -> Images:
        """The planted records, in or not."""
        return self.parts.canaries.images

    def release(self) -> CanaryRelease:
        """What the observer holds."""
        planted, agreed = self.parts.canaries, self.parts.privacy
        result = RunDirectory(self.folder).read_json("result")

        def looks(client: int) -> list[Look]:
            return stored_looks(self.folder / "clients" / f"client_{client:04d}")

        return CanaryRelease(
            planted.kinds, planted.clients, looks, result["epsilon"], result["delta"],
            agreed.mechanism.deviation if agreed is not None else None,
        )  # fmt: skip

    def truth(self) -> Truth:
        """Which planted records are in."""
        return {"included": self.parts.canaries.included}
