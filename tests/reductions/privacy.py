"""Private matching without clipping and with next to no noise, and what it then is."""

from __future__ import annotations

import tempfile
from pathlib import Path

from torch import Tensor

from fedsim.distill.distribution.dm import DistributionMatching
from fedsim.distill.distribution.private_dm import PrivateMatching
from fedsim.distill.drive import condense
from fedsim.distill.networks import FreshConfig
from fedsim.privacy.mechanism import Mechanism
from fedsim.seeding import Streams
from tests.reference import dm as problem
from tests.reference.private_dm import config, task, terms

COUNTS, FRESH = (7, 4, 5, 9), FreshConfig()


def private_per_step_without_noise() -> Tensor:
    """C → ∞, σ → 0, a new network and a release every step: bytes of the images."""
    method = PrivateMatching(config(networks=FRESH), terms(mode="per_step"))
    with tempfile.TemporaryDirectory() as folder:
        here = task(Path(folder), COUNTS, mechanism=Mechanism(clip=1e3, kappa=1e3, sigma=1e-7))
        return condense(method, here, 3, Streams(0))[0].images.double()


def dm_of_new_networks_and_all_images() -> Tensor:
    """`dm` with fresh networks and batch_real 0."""
    method = DistributionMatching(config(networks=FRESH))
    return condense(method, problem.task(counts=COUNTS), 3, Streams(0))[0].images.double()
