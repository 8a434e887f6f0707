"""What an ε rests on: the premises of its proof, each with who sees to it, and what no ledger covers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fedsim.privacy.ledger import SIMULATED, Ledger, Status, totals

NOT_COVERED = (
    "several records of one person, or copies of a record: the unit is one record, not one person (group privacy)",
    "that a client takes part, and which client it is: this is no client-level privacy",
    "settings chosen by looking at private data: each run that was looked at is a release that this ledger lacks",
    "the server's own validation and test images, and weights that were pre-trained on private records",
    "time, memory and traffic of a client, which may depend on how many records it holds",
    "the machine itself: who reads the client's disk or memory sees its records",
    "the run directory of a simulation, its page and its terminal: they hold exact counts, and are no release",
)
"""What the (ε, δ) of a ledger does not say."""


@dataclass(frozen=True)
class Assumption:
    """A premise of the proof."""

    name: str
    status: Status
    evidence: str


def assumptions(ledger: Ledger, public_bound: int, records: int) -> list[Assumption]:
    """The premises of the proof, for one client; `records` is compared with the bound and not told."""
    sampled = any(one.rate < 1 for one in ledger.charges)
    counted = all(one.kappa > 0 for one in ledger.charges)
    return [
        Assumption("noise that nobody can repeat", *_noise(ledger.simulated)),
        Assumption("vectors depend on one record each", *_network(ledger.known.model)),
        Assumption("bounded contributions", "enforced", "each record's whole vector is clipped; sums are of integers"),
        Assumption("every class is released", "enforced", "all classes, held or not, with equal noise; no exact count")
        if counted else
        Assumption("nothing but the noisy sums", "enforced", "a public divisor and number of steps; no count, no loss"),
        Assumption(
            "participation of records", "enforced",
            "independent coins with one public rate" if sampled else "every record is in every release",
        ),
        Assumption("one charge per release", "enforced", f"{len(ledger.charges)} charges, each before its noise"),
        Assumption("releases within the plan", *_plan(ledger)),
        Assumption("δ below 1 over the records", *_bound(public_bound, records)),
        Assumption("normalisation and class list are public", *_data(ledger.known.data)),
        Assumption("networks chosen by released things only", "assumed", "initial weights and settings are public"),
        Assumption("one record of each person", "assumed", "records are not compared with one another"),
    ]  # fmt: skip


def _noise(simulated: bool) -> tuple[Status, str]:
    seeded = "from a seeded stream: whoever has the config can subtract it"
    return ("violated", f"{SIMULATED}: {seeded}") if simulated else ("enforced", "from the operating system")


def _plan(ledger: Ledger) -> tuple[Status, str]:
    made, planned = ledger.made, ledger.known.planned
    if planned is None:
        return "assumed", f"{made} releases, and no number was agreed on"
    if made <= planned:
        return "enforced", f"{made} releases of {planned} that were agreed on"
    return "violated", f"{made} releases, and {planned} were agreed on: a kill pays for a release twice"


def _network(model: Status) -> tuple[Status, str]:
    if model == "enforced":
        return model, "batch norm is refused; up to rounding"
    return model, "batch norm of torch is refused; that nothing else in the user's own network sees other records"


def _data(data: Status) -> tuple[Status, str]:
    if data == "enforced":
        return data, "constants of the catalog or of the config; none is computed from the images"
    return data, "names of the user's folders, or what the user's own code says"


def _bound(public_bound: int, records: int) -> tuple[Status, str]:
    if records <= public_bound:
        return "enforced", f"δ < 1/{public_bound}, and the client holds no more than that bound"
    return "violated", f"the client holds more records than the public bound of {public_bound}"


def statement(ledger: Ledger, public_bound: int, records: int) -> dict[str, Any]:
    """What a result says of one client: (ε, δ), how it was computed, premises, and what is not covered."""
    spent = ledger.spent()
    return {
        "label": SIMULATED if ledger.simulated else "dp",
        "unit": "one record of one client",
        **asdict(spent),
        "releases": ledger.made,
        "charges": [
            {key: value for key, value in asdict(one).items() if key != "key"} for one in totals(ledger.charges)
        ],
        "assumptions": [asdict(one) for one in assumptions(ledger, public_bound, records)],
        "not_covered": list(NOT_COVERED),
    }


def worst(statements: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """That of the federation: clients hold different records, so the largest ε of any of them holds for each record."""
    return max(statements, key=lambda one: one["epsilon"])
