"""What the parties of a private run agree on before any data is seen, whatever the mechanism.

Every number here is public and the same for all clients. With `target_epsilon` the noise multiplier follows from how
many releases the run is going to make: rounds times releases of a round, for a client that takes part in all of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from fedsim.config import Section
from fedsim.privacy.accountant import Releases, guarantee, noise_for
from fedsim.privacy.ledger import Charge, Known, Ledger, Status, check_delta
from fedsim.privacy.mechanism import MOST_SIGMA, Mechanism
from fedsim.privacy.noise import Noise, SeededNoise, SystemNoise
from fedsim.privacy.premises import statement, worst
from fedsim.seeding import Streams
from fedsim.types import UserError

IN_THE_CONFIG = (
    "vectors depend on one record each", "bounded contributions", "every class is released",
    "nothing but the noisy sums", "normalisation and class list are public",
)  # fmt: skip
"""Premises that need no ledger to be seen to."""
WEAKER = ("enforced", "assumed", "violated")
"""Status of a premise, the worst last."""


class Terms(Section):
    """Settings that every mechanism shares."""

    sigma: float | None = Field(default=None, gt=0, le=MOST_SIGMA, allow_inf_nan=False)
    """σ: noise deviation over the sensitivity, at most 2²⁰. Give this or target_epsilon."""
    target_epsilon: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """ε of the whole run for each client; σ follows."""
    delta: float = Field(default=1e-5, gt=0, lt=1)
    """δ: fixed, public, the same for all clients; less than 1/public_bound."""
    adjacency: Literal["add_remove", "replace"] = "add_remove"
    """What neighbouring data sets differ in: a record more or less, or another value of one."""
    public_bound: int = Field(ge=1)
    """A number of records that no client exceeds, known without looking at their data."""
    rate: float = Field(default=1.0, gt=0, le=1)
    """q: probability with which each record takes part in a release, independently (Poisson sampling); 1: all do."""
    noise: Literal["system", "seeded"] = "system"
    """`system`: the operating system's cryptographic generator; `seeded`: a simulation of it that can be repeated,
    which protects nobody and is labelled simulated_dp."""

    @model_validator(mode="after")
    def _one_of_two(self) -> Terms:
        if (self.sigma is None) == (self.target_epsilon is None):
            raise ValueError("give exactly one of sigma and target_epsilon")
        return self

    @model_validator(mode="after")
    def _replace_needs_all(self) -> Terms:
        if self.adjacency == "replace" and self.rate < 1:
            raise ValueError(
                f"adjacency: replace is accounted for with all records in every release only, and rate is {self.rate}; "
                "valid: rate: 1, or adjacency: add_remove"
            )
        return self


class Agreement:
    """The terms of a run with its noise multiplier, and each client's ledger and noise."""

    mechanism: Mechanism
    """What every release is made and charged by."""
    most_weight: float | None = None
    """Largest weight of an uploaded image, where images are uploaded with weights; None: they are not."""
    sends_previous: bool = False
    """Whether clients are sent images of the round before."""
    data: Status = "assumed"
    """Whether normalisation and class list are seen to be public."""
    model: Status = "assumed"
    """Whether the network is seen to look at one record at a time."""

    def __init__(self, config: Any, releases: int) -> None:
        """`config`: `Terms`, and what a mechanism adds; `releases`: of one client in the whole run, at most."""
        check_delta(config.delta, config.public_bound)
        self.config, self.number = config, releases
        if config.sigma is not None:
            self.sigma = float(config.sigma)
        else:
            self.sigma = noise_for(config.target_epsilon, config.delta, releases, config.rate, config.adjacency)

    def ledger(self, folder: Path | None) -> Ledger:
        """That of the client who owns the folder."""
        if folder is None:
            raise UserError("privacy: a client without a folder cannot keep a ledger; give its node a store")
        return Ledger(folder, self.config.delta, self.config.adjacency, Known(self.number, self.data, self.model))

    def noise(self, streams: Streams) -> Callable[[str], Noise]:
        """Question → source of its noise; `streams` are the client's, read for a simulation only."""
        if self.config.noise == "system":
            return lambda question: SystemNoise()
        return lambda question: SeededNoise(streams.generator("noise", question))

    def planned(self) -> float:
        """ε of a client that takes part in everything."""
        return guarantee(
            [Releases(self.sigma, self.number, self.config.rate)], self.config.delta, self.config.adjacency
        ).epsilon

    def result(self, clients: Sequence[tuple[Path, int]], elsewhere: int = 0) -> dict[str, Any]:
        """What result.json says, from the ledgers (folder, records) that can be read here; ε is of the worst client.

        Of the clients `elsewhere`, whose ledgers cannot be read, what was agreed is said: they keep to it unless a kill
        cost them a release, which only their own ledgers know. A premise stands as with the client where it is weakest.
        """
        said = [statement(self.ledger(folder), self.config.public_bound, records) for folder, records in clients]
        if elsewhere or not said:
            said.insert(0, self._unseen())
        found = {"planned_epsilon": self.planned(), "ledgers": len(clients), "sigma": self.sigma} | worst(said)
        return found | {"assumptions": weakest([found["assumptions"], *(one["assumptions"] for one in said)])}

    def _unseen(self) -> dict[str, Any]:
        """The statement of a client whose ledger is elsewhere: what that alone shows is assumed."""
        ledger = self.ledger(Path(os.devnull))  # no folder: nothing is read or written
        ledger.charges = [Charge.of("", self.mechanism, self.number, simulated=self.config.noise == "seeded")]
        said = statement(ledger, self.config.public_bound, 0)
        for premise in said["assumptions"]:
            if premise["status"] == "enforced" and premise["name"] not in IN_THE_CONFIG:
                premise |= {"status": "assumed", "evidence": "agreed; what shows it stays with the client"}
        return said | {"evidence": "planned: ledgers stay with the clients"}


def weakest(premises: Sequence[list[dict[str, str]]]) -> list[dict[str, str]]:
    """Of the same premise of several statements the one of the worst status, of equals the first."""
    return [max(same, key=lambda one: WEAKER.index(one["status"])) for same in zip(*premises, strict=True)]
