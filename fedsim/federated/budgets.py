"""How much work a client does in a round: the same for all, or less for some groups of them.

    s_k      share of the full work that client k does, in (0, 1]
    E_k      max(1, ⌊s_k E + ½⌋) of the E epochs of `algorithm.local`, for algorithms that send weights
    T_k      max(1, ⌊s_k T + ½⌋) of the T steps of `method.iterations`, for those that condense; with `ipc: true` as
             many of the images per class too

Who is in which group is drawn from the run's seed and stays so. Client and server both know: FedNova's server divides a
client's way by the steps that it really took.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from pydantic import Field, model_validator

from fedsim.config import Section
from fedsim.seeding import Streams
from fedsim.types import UserError


class UniformConfig(Section):
    """Every client does all of the work."""

    name: Literal["uniform"] = "uniform"


class GroupsConfig(Section):
    """Clients of a few kinds."""

    name: Literal["groups"] = "groups"
    shares: tuple[float, ...] = Field(default=(0.5, 0.3, 0.2), strict=False, min_length=1)
    """Share of the clients that each group has; they add up to 1."""
    scale: tuple[float, ...] = Field(default=(1.0, 0.5, 0.25), strict=False, min_length=1)
    """s, share of the full work that each group's clients do."""
    ipc: bool = False
    """Whether images per class are scaled like steps, where clients condense."""

    @model_validator(mode="after")
    def _groups(self) -> GroupsConfig:
        if len(self.shares) != len(self.scale):
            raise ValueError(f"shares has {len(self.shares)} groups and scale {len(self.scale)}; give one each")
        if any(share <= 0 for share in self.shares) or abs(sum(self.shares) - 1) > 1e-6:
            raise ValueError(f"shares add up to {sum(self.shares):.6g}; give shares above 0 that add up to 1")
        if odd := [scale for scale in self.scale if not 0 < scale <= 1]:
            raise ValueError(f"scale holds {odd[0]:g}; give shares of the full work, above 0 and at most 1")
        return self


class Uniform:
    """See the file's head."""

    Config = UniformConfig

    def __init__(self, config: UniformConfig) -> None:
        self.config = config

    def scales(self, clients: int, streams: Streams) -> tuple[float, ...]:
        """s_k of every client; none where all are 1."""
        return ()


class Groups:
    """See the file's head."""

    Config = GroupsConfig

    def __init__(self, config: GroupsConfig) -> None:
        self.config = config

    def scales(self, clients: int, streams: Streams) -> tuple[float, ...]:
        """s_k of every client: groups are cut, in a random order, where the running sum of their shares rounds to."""
        found = torch.ones(clients, dtype=torch.float64)
        order, first, reached = torch.randperm(clients, generator=streams.generator("budgets")), 0, 0.0
        for share, scale in zip(self.config.shares, self.config.scale, strict=True):
            reached += share
            end = round(reached * clients)
            found[order[first:end]] = scale
            first = end
        return tuple(found.tolist())


def whole(scale: float, count: int) -> int:
    """max(1, ⌊s n + ½⌋)."""
    return max(1, math.floor(scale * count + 0.5))


def scaled_local(algorithm: Any, scale: float) -> Any:
    """The settings of an algorithm with E_k local epochs."""
    local = algorithm.local
    return algorithm.model_copy(update={"local": local.model_copy(update={"epochs": whole(scale, local.epochs)})})


def scaled_method(method: Any, scale: float, budgets: Any) -> Any:
    """The settings of a condenser with T_k steps, and perhaps as many of the images per class."""
    update = {"iterations": whole(scale, method.iterations)} | (
        {"ipc": whole(scale, method.ipc)} if getattr(budgets, "ipc", False) else {}
    )
    return method.model_copy(update=update)


def check_budgets(budgets: Any, algorithm: Any, method: Any) -> None:
    """Refuse budgets that would do nothing, or that clients who work together cannot have."""
    if budgets.name == "uniform":
        return
    if method is None and not hasattr(algorithm, "local"):
        raise UserError(f"budgets: algorithm {algorithm.name} has neither local epochs nor a method; leave it out")
    what = "algorithm.local.epochs" if method is None else "method.iterations"
    full = algorithm.local.epochs if method is None else method.iterations
    for scale in getattr(budgets, "scale", ()):
        if scale < 1 and abs(whole(scale, full) - scale * full) > 0.25 * scale * full:
            raise UserError(
                f"budgets.scale: {scale:g} of {what}={full} is not near a whole number above 0; "
                f"give a multiple of {math.ceil(1 / scale - 1e-9)}, or another scale"
            )
    if getattr(getattr(method, "networks", None), "shared", False):
        raise UserError(
            "budgets: under method.networks.shared clients of a node take the same steps together; leave out one"
        )
    if method is None and getattr(budgets, "ipc", False):
        raise UserError(f"budgets.ipc: algorithm {algorithm.name} makes no images; leave it out")
