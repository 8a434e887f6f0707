"""Which of a hundred records of one class did the client hold? One question for images and for weights alike.

    named(x)   score(x) > max over m other records of its class that the client did not hold          chance  1/(m + 1)

    client_sets   nearest    − min over synthetic images s of the class of d(s, x)              (record_distances.py)
                  align      the trace of x in the mean of the class's images            (membership_embeddings.py)
    update        trace      mean over rounds of cos( ∇_θ ℓ(θ_r; x), θ_r − θ_r^k )
                  gain       mean over rounds of φ(θ_r^k; x) − φ(θ_r; x)
                  inverted   − min over images x̂ of the class of d(x̂, x), x̂ the inversion of θ_1 − θ_1^k

    θ_r   weights that client k was sent in round r      θ_r^k   what it sent back      φ = z_y − logsumexp(z_{≠y})

No score looks at another run, so that one release is enough; LiRA, which compares runs, tells more of a record. Whoever
attacks with several scores may take the best one: intervals are then as wide as for so many questions asked at once
(Bonferroni), and only the first is a registered test.

`inverted` takes θ_1 − θ_1^k for one gradient of a batch with equally many records of every class, whatever the client
did: the cosine does not ask for its length. For one step of one batch it is; for epochs over hundreds of records it is
a guess, and what it makes are at best means of records.

Source  identification among candidates: the fingerprint game of Homer et al., PLoS Genetics 4, 2008. Trace of a
        gradient in an update: Li, Li, Ribeiro, "Effective Passive Membership Inference Attacks in Federated Learning
        against Overparameterized Models", ICLR 2023. Inversion: inverting_gradients.py.
Code    none read.
Differs all rounds count the same.
Cost    `trace` a gradient for every candidate and round; `inverted` its steps; the others passes of the candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Float64, Int
from pydantic import Field, model_validator

from attacks.alone import alone
from attacks.inverting_gradients import Config as InversionConfig
from attacks.membership_embeddings import Embeddings
from attacks.membership_findings import rows_of, stacked
from attacks.membership_networks import MembershipConfig, Reader, check_release, threat_of
from attacks.record_distances import Distance, neighbours, of_release
from attacks.update_scores import UpdateRounds
from fedsim.audit.statistics.inputs import TooFew
from fedsim.audit.statistics.pairs import over_pairs
from fedsim.audit.statistics.power import detectable_proportion
from fedsim.audit.statistics.proportions import binomial_p_value, clopper_pearson
from fedsim.audit.types import Finding, Knowledge, Release, Scores, Status, ThreatModel, Truth
from fedsim.audit.view import AdversaryView
from fedsim.config import Section
from fedsim.seeding import Streams, numpy_stream
from fedsim.types import UserError

Statistic = Literal["nearest", "align", "trace", "gain", "inverted"]
OF: dict[str, tuple[str, ...]] = {"client_sets": ("nearest", "align"), "update": ("trace", "gain", "inverted")}
"""Scores of each release."""


class Config(Section):
    """Settings of identification."""

    name: Literal["identification"] = "identification"
    release: Literal["client_sets", "update"] = "client_sets"
    """What is attacked: all sets of one client, or the weights that it was sent and those it sent back."""
    statistics: tuple[Statistic, ...] = Field(default=(), strict=False)
    """Scores, the first of them the registered one; empty: all that the release allows but `inverted`."""
    among: int = Field(default=100, ge=2)
    """Candidates of a question, the true record among them; fewer where a class has fewer."""
    attacked: int = Field(default=1, ge=1)
    """Records asked about in each class and run."""
    distance: Distance = "standardised"
    """d, of `nearest` and `inverted`."""
    random_networks: int = Field(default=64, ge=1)
    """Networks behind `align`."""
    directions: int = Field(default=128, ge=1)
    """Principal directions of an embedding behind `align` that are kept at the most."""
    inversion: InversionConfig = InversionConfig(iterations=1000)
    """How `inverted` descends."""
    per_class: int = Field(default=1, ge=1)
    """Images of each class that `inverted` makes."""

    @model_validator(mode="after")
    def _measurable(self) -> Config:
        valid = OF[self.release]
        if unknown := [name for name in self.statistics if name not in valid]:
            raise ValueError(f"statistics: got {unknown[0]} with release: {self.release}; valid: {', '.join(valid)}")
        if len(set(self.statistics)) < len(self.statistics):
            raise ValueError(f"statistics: got {', '.join(self.statistics)}; valid: each one once")
        return self

    @property
    def scores(self) -> tuple[str, ...]:
        """The scores that are computed."""
        return self.statistics or tuple(name for name in OF[self.release] if name != "inverted")


class Identification:
    """The attack."""

    Config = Config

    def __init__(self, config: Config) -> None:
        self.config = config

    @property
    def threat(self) -> ThreatModel:
        """A server that holds the candidates."""
        knows = (Knowledge.WEIGHTS,) if self.config.release == "update" else (Knowledge.AUXILIARY,)
        return threat_of(MembershipConfig(name=self.config.name, release=self.config.release), *knows)

    def check(self, run: Any) -> None:
        """Refuse a run whose clients do not send what is attacked, or that does not keep what they were sent."""
        check_release(self.config.release, run)
        if self.config.release == "update" and run.transcript != "all":
            raise UserError(
                f"run.transcript={run.transcript}: identification from updates asks for the weights that clients were "
                "sent, too; valid: run.transcript=all"
            )

    def run(self, view: AdversaryView, streams: Streams) -> Scores:
        """`score.<statistic>` (N), −∞ where nothing of the class was released."""
        made = _of_sets if self.config.release == "client_sets" else _of_updates
        return {f"score.{name}": values for name, values in made(view, self.config, streams).items()}

    def evaluate(self, scores: Sequence[Scores], truths: Sequence[Truth]) -> list[Finding]:
        """Share of attacked records that were named, by each statistic; the first is the confirmatory one."""
        members, labels = rows_of(truths)
        return [
            self._finding(name, stacked(scores, f"score.{name}"), members, labels, first=place == 0)
            for place, name in enumerate(self.config.scores)
        ]

    def _finding(
        self,
        statistic: str,
        scores: Float[np.ndarray, "rows n"],
        members: Bool[np.ndarray, "rows n"],
        labels: Int[np.ndarray, "n"],
        *,
        first: bool,
    ) -> Finding:
        others = min(self.config.among - 1, *(least_outside(row, labels) for row in members))
        if others < 1:
            raise UserError("identification: a class has no record that the client did not hold; raise audit.holdout")
        named, everyone = [], []
        for number, (values, row) in enumerate(zip(scores, members, strict=True)):
            rng = numpy_stream(0, "identification", number)
            found = names(values, row, labels, others, self.config.attacked, rng)
            named += found.tolist()
            everyone.append(names(values, row, labels, others, len(labels), rng).mean())
        right, n, chance = int(sum(named)), len(named), 1 / (others + 1)
        release, tried = Release(self.config.release), len(self.config.scores)
        details = {"statistic": statistic, "among": others + 1, "tried": tried, **_all_members(np.array(everyone))}
        return Finding(
            id=f"identification.{statistic}.{release}.identification", attack="identification", threat=self.threat.name,
            release=release, metric="identification", estimate=clopper_pearson(right, n, 1 - 0.05 / tried), null=chance,
            p=binomial_p_value(right, n, chance) if first else None, confirmatory=first, status=Status.MEASURED,
            minimum_detectable=detectable_proportion(n, chance) if first else None,
            note=f"{right} of {n} records among {others + 1} of their class; {tried} scores asked, interval widened",
            details=details,
        )  # fmt: skip


def names(
    scores: Float[np.ndarray, "n"],
    members: Bool[np.ndarray, "n"],
    labels: Int[np.ndarray, "n"],
    others: int,
    attacked: int,
    rng: np.random.Generator,
) -> Bool[np.ndarray, "asked"]:
    """Of up to `attacked` members of every class: does each score above `others` non-members of it, drawn for it?"""
    found = []
    for label in np.unique(labels):
        inside, outside = (np.flatnonzero((labels == label) & side) for side in (members, ~members))
        for record in rng.permutation(inside)[:attacked]:
            found.append(scores[record] > scores[rng.permutation(outside)[:others]].max())
    return np.array(found, dtype=bool)


def least_outside(members: Bool[np.ndarray, "n"], labels: Int[np.ndarray, "n"]) -> int:
    """Non-members of the class that has the fewest."""
    return min(int((~members & (labels == label)).sum()) for label in np.unique(labels))


def _all_members(shares: Float64[np.ndarray, "rows"]) -> dict[str, Any]:
    """The same asked of every member: share, and its interval over pairs of runs, where there are enough."""
    found = over_pairs(shares, 0.95, (0.0, 1.0))
    ends = None if isinstance(found, TooFew) else [found.low, found.high]
    return {"all_members": float(shares.mean()), "all_members_interval": ends}


def _of_sets(view: AdversaryView, config: Config, streams: Streams) -> dict[str, Float64[np.ndarray, "n"]]:
    """Scores from the images of one client."""
    found: dict[str, np.ndarray] = {}
    if "nearest" in config.scores:
        found["nearest"] = -of_release(view, view.released, config.distance).least(len(view.candidates))
    if "align" in config.scores:
        reader = Reader.of(view, MembershipConfig(name=config.name, release="client_sets"), streams)
        aligned = Embeddings(reader, config.random_networks, config.directions).seen(view.released)[0]
        found["align"] = np.nan_to_num(aligned, nan=-np.inf)
    return found


def _of_updates(view: AdversaryView, config: Config, streams: Streams) -> dict[str, Float64[np.ndarray, "n"]]:
    """Scores from the weights that one client was sent and sent back."""
    rounds = UpdateRounds.of(view)
    found: dict[str, np.ndarray] = {}
    if "trace" in config.scores:
        found["trace"] = rounds.trace(view.candidates)
    if "gain" in config.scores:
        found["gain"] = rounds.gain(view.candidates)
    if "inverted" in config.scores:
        images = rounds.inverted(config.inversion, config.per_class, streams.generator("inversion"))
        found["inverted"] = -neighbours(images, view.candidates, config.distance).least(len(view.candidates))
    return found


if __name__ == "__main__":
    alone(__file__)
