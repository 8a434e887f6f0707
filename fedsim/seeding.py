"""Named random streams: every draw of the project comes from `stream(seed, *purpose)`.

A purpose is a path such as `("client", 3, "round", 2, "step", 17)`. Streams of different purposes are
independent, so nothing of a generator has to be checkpointed: a resumed run asks for the same stream again.
The global generators of torch, numpy and Python are neither seeded nor read.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch

Purpose = str | int


def derive(seed: int, *purpose: Purpose) -> int:
    """A 63-bit seed for one purpose: SHA-256 over the seed and the path, so that neighbours share nothing."""
    path = "/".join(f"{type(part).__name__}:{part}" for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(path.encode()).digest()[:8], "little") >> 1


def stream(seed: int, *purpose: Purpose, device: torch.device | str = "cpu") -> torch.Generator:
    """The torch generator of one purpose, on `device`."""
    generator = torch.Generator(device=device)
    generator.manual_seed(derive(seed, *purpose))
    return generator


def numpy_stream(seed: int, *purpose: Purpose) -> np.random.Generator:
    """The numpy generator of one purpose (partitions and splits are drawn with numpy)."""
    return np.random.default_rng(derive(seed, *purpose))


@dataclass(frozen=True)
class Streams:
    """A seed and the path so far: hands out the generators below that path, and narrower paths."""

    seed: int
    path: tuple[Purpose, ...] = ()

    def at(self, *purpose: Purpose) -> Streams:
        """The streams below a longer path."""
        return Streams(self.seed, (*self.path, *purpose))

    def generator(self, *purpose: Purpose) -> torch.Generator:
        """The torch generator of one purpose below this path (on the CPU: the same draws on every device)."""
        return stream(self.seed, *self.path, *purpose)
