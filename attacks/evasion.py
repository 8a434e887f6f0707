"""An attacker that knows the defence: while it condenses, its images also descend the filter's score of it.

    S_k ← Π( S_k − η_c ∇ L(S_k) )                      a step of the method, on poisoned records
    S_k ← Π( S_k − p/2ʲ · ∇ a(S_k) / max |∇ a(S_k)| )  a  the filter's score of this client among stand-ins
                                                       Π  the box of pixels      p  in units of the network input
                                                       j  the first of 0 … 4 that lowers a; no step where none does

It holds no other upload. It stands in for them with honest sets of its own clean records, condensed from other random
streams; they are more alike than honest clients are, so that its own score is a guess of the server's. Only a defence
whose score has a gradient in the pixels can be evaded so; robust_aggregation.py gives one for its rules.

Source  fedsim's own; the demand is that of Tramèr, Carlini, Brendel, Mądry, "On Adaptive Attacks to Adversarial Example
        Defenses", NeurIPS 2020: a defence is judged by attackers that know it.
Code    none.
Differs nothing to differ from.
Reduces p = 0 is the attack as it is.
Cost    `stand_ins` honest condensations a round, and one gradient of the score a step.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from attacks.poisoning import PoisoningConfig, check_square, condenser, known_network, stamped_rows
from fedsim import catalog
from fedsim.config import Section
from fedsim.data.synthetic import SyntheticSet
from fedsim.data.trigger import Trigger
from fedsim.distill.base import Distiller, Task
from fedsim.distill.cost import Passes
from fedsim.federated.attackers import Scene, leave
from fedsim.federated.base import Algorithm, Broadcast, ClientView, Setting, Upload
from fedsim.federated.upload_rows import Rows, Scoring, rows_of, with_gradient
from fedsim.models.functional import state
from fedsim.seeding import Streams
from fedsim.types import Params, UserError

HALVINGS = 5
"""Lengths that are tried of a step: the scores are maxima over classes, and a long step raises another one."""
Suspicion = Callable[[Tensor, Tensor], Tensor]
"""(pixels in network-input units, labels) → the filter's score of the attacker."""


class Evading:
    """A `Distiller` around another one, with a step against the filter after each of its steps."""

    def __init__(self, method: Distiller, suspicion: Suspicion, penalty: float) -> None:
        self._method, self._suspicion, self._penalty = method, suspicion, penalty

    @property
    def Config(self) -> type[Section]:  # noqa: N802 - the class attribute that the catalog reads
        """The method's."""
        return self._method.Config

    def prepare(self, task: Task, rng: torch.Generator) -> Any:
        """The method's."""
        return self._method.prepare(task, rng)

    def init(self, task: Task, artifacts: Any, rng: torch.Generator) -> Any:
        """The method's."""
        return self._method.init(task, artifacts, rng)

    def step(self, task: Task, artifacts: Any, state: Any, rng: torch.Generator) -> dict[str, Tensor]:
        """The method's step, then one down the score."""
        metrics = self._method.step(task, artifacts, state, rng)
        pixels = state.pixels.detach().requires_grad_()
        score = self._suspicion(pixels, task.labels())
        (gradient,) = torch.autograd.grad(score, pixels)
        with torch.no_grad():
            for halving in range(HALVINGS if bool(gradient.any()) else 0):
                length = self._penalty / 2**halving / gradient.abs().max()
                moved = task.normalise.project(pixels - length * gradient)
                if bool(self._suspicion(moved, task.labels()) < score):
                    state.pixels.copy_(moved)
                    break
        return metrics

    def result(self, task: Task, state: Any) -> SyntheticSet:
        """The method's."""
        return self._method.result(task, state)

    def passes(self, counts: Tensor) -> Passes:
        """The method's; the score's are not counted."""
        return self._method.passes(counts)


def check_poisoning(config: PoisoningConfig, scene: Scene) -> None:
    """Refuse what could not be done: a square that does not fit, nothing to stamp, a filter that cannot be evaded."""
    check_square(config, scene)
    check_evasion(config, scene)


def poisoned_upload(
    algorithm: Algorithm,
    view: ClientView,
    broadcast: Broadcast,
    streams: Streams,
    config: PoisoningConfig,
    trigger: Trigger,
) -> Upload:
    """The client's own part on records stamped with a trigger that stays, which is left in its folder."""
    rows = stamped_rows(view.images, config, streams.generator("poisoned"))
    leave(view, trigger)
    algorithm = evasive(algorithm, view, broadcast, streams, config)
    return algorithm.client(replace(view, images=trigger.poison(view.images, rows)), broadcast, streams)


def check_evasion(config: PoisoningConfig, scene: Scene) -> None:
    """Refuse a defence whose score has no gradient in images, or that would be asked about weights."""
    if config.adaptive_to is None:
        return
    chosen = catalog.resolve("defense", config.adaptive_to)
    built = chosen(chosen.Config())
    if not isinstance(built, Scoring) or not built.differentiable:
        raise UserError(f"attackers.adaptive_to: {config.adaptive_to} gives no score with a gradient in images; valid: "
                        f"{', '.join(with_gradient())}")  # fmt: skip
    if scene.method is None:
        raise UserError(f"attackers.adaptive_to: {config.adaptive_to} scores images, and clients of this algorithm "
                        "send weights; leave it out")  # fmt: skip
    if getattr(scene.method, "formation", 1) > 1:
        raise UserError("attackers.adaptive_to: a filter scores images as they are trained on, and here several are "
                        "kept in one; valid with method.formation: 1")  # fmt: skip


def evasive(
    algorithm: Algorithm, view: ClientView, broadcast: Broadcast, streams: Streams, config: PoisoningConfig
) -> Algorithm:
    """The algorithm as the attacker runs it: itself, or with the steps against the filter that the config names."""
    method = condenser(algorithm)
    if config.adaptive_to is None or method is None:  # the second was refused before any work
        return algorithm
    chosen = catalog.resolve("defense", config.adaptive_to)
    apart = replace(view, store=None, log=None)
    others = [
        replace(algorithm.client(apart, broadcast, streams.at("stand_in", number)), client=-1 - number)
        for number in range(config.stand_ins)
    ]
    weights = state(known_network(view.setting, broadcast, streams))
    other: Any = copy.copy(algorithm)
    suspicion = suspicion_of(chosen(chosen.Config()), view.setting, weights, others)
    other.method = Evading(method, suspicion, config.penalty)
    return other


def suspicion_of(defence: Scoring, setting: Setting, weights: Params, others: list[Upload]) -> Suspicion:
    """The filter's score of the one whose pixels are given, among `others`; 0 where it has nothing to compare with."""
    theirs = rows_of(setting, others)

    def suspicion(pixels: Tensor, labels: Tensor) -> Tensor:
        owners = torch.full_like(labels, len(others))
        both = torch.cat([theirs.labels, labels])
        inputs, whose = torch.cat([theirs.inputs, pixels]), torch.cat([theirs.owners, owners])
        rows = Rows(inputs, both, both, whose, (*theirs.clients, 0))
        score = defence.score(setting, weights, rows)[-1]
        return torch.where(score.isnan(), pixels.sum() * 0, score)

    return suspicion
