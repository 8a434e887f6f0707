"""What a backdoor did to a federation's model, beside the same run without attackers.

    ASR   = P[ f(x ⊕ τ) = t | y ≠ t ]      over the test images that are not of the target class
    lift  = ASR − ASR of the model of the run without attackers, under the same trigger

Images of class t say nothing: they are taken for t without a trigger. What a clean model does under the trigger, and
what any square of noise does to both, is beside every number, since a bright corner moves some images by itself.

A trigger that is optimised against the server's weights (doorping, dm_trigger) is also an adversarial patch for these
weights, which the other run's model does not have: part of its lift needs no poison. The same attacker with
`poison: false` makes its trigger and sends honest uploads; what its trigger does there is the patch alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Bool
from torch import Tensor

from fedsim.build import Parts
from fedsim.data.images import Images
from fedsim.data.transforms import Normalise
from fedsim.data.trigger import Trigger, scrambled
from fedsim.federated.attackers import TRIGGER
from fedsim.federated.base import ServerState, network_with
from fedsim.federated.record import RoundRecord
from fedsim.models.execution import AS_WRITTEN, Execution
from fedsim.models.network import Network
from fedsim.runs import RunDirectory
from fedsim.training.intervals import paired_difference, wilson
from fedsim.training.train import accuracy, predictions


@dataclass(frozen=True)
class Left:
    """A trigger that a client left in its folder."""

    client: int
    round: int
    trigger: Trigger


def acted(parts: Parts, records: Sequence[RoundRecord]) -> list[list[int]]:
    """Round by round, the clients in whose place an attacker acted and whose upload was accepted."""
    attackers: Any = cast(Any, parts.config).attackers
    due = [{client for one in attackers for client in one.acting(record.round, parts.streams)} for record in records]
    return [sorted(one & set(record.responders)) for one, record in zip(due, records, strict=True)]


def left(run: RunDirectory, until: int, used: Sequence[Sequence[int]] | None = None) -> list[Left]:
    """The last trigger up to that round of every attacker whose folder is on this machine, by client; with `used`, the
    last one of a round in whose list the client is."""
    found: dict[int, Left] = {}
    for path in sorted(run.path.glob(f"clients/client_*/round_*/{TRIGGER}")):
        client = int(path.parent.parent.name.removeprefix("client_"))
        number = int(path.parent.name.removeprefix("round_"))
        counts = number <= until and (used is None or client in used[number - 1])
        if counts and (client not in found or found[client].round < number):
            found[client] = Left(client, number, Trigger.load(path))
    return [found[client] for client in sorted(found)]


def success(
    network: Network, images: Images, trigger: Trigger, normalise: Normalise, *, execution: Execution = AS_WRITTEN
) -> Bool[Tensor, "n"]:
    """Which of the n images that are not of the target class are taken for it when they are stamped."""
    others = images.take(torch.nonzero(images.labels != trigger.target).flatten())
    stamped = Images(trigger.stamp(others.pixels), others.labels)
    return predictions(network, stamped, normalise, execution=execution) == trigger.target


def measured(
    run: RunDirectory, parts: Parts, state: ServerState, records: Sequence[RoundRecord], clean: RunDirectory | None
) -> dict[str, Any]:
    """What result.json says of the attack: every trigger, and their means; the test split is looked at here too."""
    used, test = acted(parts, records), parts.dataset.test
    triggers = left(run, state.round, used)
    if not triggers:
        why = (
            "no trigger is left: the attackers' folders are elsewhere, or were removed"
            if any(used)
            else "no attacker's upload was used"
        )
        return {"triggers": [], "acted": used, "why": why}
    attacked = network_with(parts.setting, state.weights)
    before = network_with(parts.setting, _weights(clean)) if clean is not None else None
    rows = [_row(one, parts, test, attacked, before) for one in triggers]
    means = {name: _mean(rows, name) for name in ("asr", "asr_random_patch")}
    found: dict[str, Any] = {"triggers": rows, "acted": used} | means
    if before is not None:
        found |= {"asr_clean": _mean(rows, "asr_clean"), "lift": _mean(rows, "lift")}
        found["accuracy_clean"] = accuracy(before, test, parts.normalise, execution=parts.execution)
    return found


def _row(one: Left, parts: Parts, test: Images, attacked: Network, before: Network | None) -> dict[str, Any]:
    trigger = one.trigger

    def hits(network: Network, stamp: Trigger) -> Tensor:
        return success(network, test, stamp, parts.normalise, execution=parts.execution)

    hit, patch = hits(attacked, trigger), scrambled(trigger, parts.streams.generator("backdoor", "patch", one.client))
    found: dict[str, Any] = {"client": one.client, "round": one.round, "target": trigger.target, "images": len(hit)}
    found |= _proportion("asr", hit) | _proportion("asr_random_patch", hits(attacked, patch))
    if before is not None:
        free = hits(before, trigger)
        found |= _proportion("asr_clean", free)
        found |= _proportion("asr_clean_random_patch", hits(before, patch))
        both, here, there = int((hit & free).sum()), int((hit & ~free).sum()), int((~hit & free).sum())
        difference, interval = paired_difference(both, here, there, len(hit) - both - here - there)
        found |= {"lift": difference, "lift_ci": list(interval)}
    return found


def _proportion(name: str, hit: Tensor) -> dict[str, Any]:
    return {name: int(hit.sum()) / len(hit), f"{name}_ci": list(wilson(int(hit.sum()), len(hit)))}


def _mean(rows: Sequence[dict[str, Any]], name: str) -> float:
    return sum(row[name] for row in rows) / len(rows)


def _weights(run: RunDirectory) -> dict[str, Tensor]:
    stored = run.last_round()
    assert stored is not None, "the run without attackers is finished"
    return {name.removeprefix("weights."): value for name, value in stored[1].items() if name.startswith("weights.")}
