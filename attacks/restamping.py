"""A condensation whose poisoned records are stamped anew while it runs: the loop that an optimised trigger needs.

It is the method it wraps, step for step, on records that change every N steps. The trigger is part of the state, so
that a condensation that was killed goes on with the trigger it had; what the method prepared from the records (pools
with their class means) is made again, from the same random stream, whenever they change.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, make_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fedsim.config import Section
from fedsim.data.images import Images
from fedsim.data.synthetic import SyntheticSet
from fedsim.data.trigger import Trigger
from fedsim.distill.base import Distiller, Task
from fedsim.distill.cost import Passes
from fedsim.distill.real import RealImages

Update = Callable[[Trigger, Task, int], Trigger]
"""(trigger, task, steps taken) → the next trigger."""


@dataclass
class Prepared:
    """What the wrapped method prepared, and from which records."""

    generator: Tensor
    """State of the generator that it drew from."""
    values: Tensor
    """Trigger that the records carry."""
    task: Task
    """The task on these records."""
    artifacts: Any
    """What the method made of them."""


class Restamping:
    """A `Distiller` around another one."""

    def __init__(
        self, method: Distiller, images: Images, rows: Tensor, trigger: Trigger, every: int, update: Update
    ) -> None:
        """`images` are the clean records, `rows` those that are stamped with `trigger`, which `update` improves."""
        self._method, self._images, self._rows = method, images, rows
        self._every, self._update = every, update
        self.trigger = trigger
        """As it is now."""

    @property
    def Config(self) -> type[Section]:  # noqa: N802 - the class attribute that the catalog reads
        """The method's."""
        return self._method.Config

    def prepare(self, task: Task, rng: torch.Generator) -> Prepared:
        """What the method prepares from the records as they are stamped now."""
        state = rng.get_state()
        stamped = self._stamped(task)
        return Prepared(state, self.trigger.values.clone(), stamped, self._method.prepare(stamped, rng))

    def init(self, task: Task, artifacts: Prepared, rng: torch.Generator) -> Any:
        """The method's first state, with the trigger and the number of steps."""
        inner = self._method.init(artifacts.task, artifacts.artifacts, rng)
        names = [one.name for one in fields(inner)]
        form = make_dataclass("Restamped", [*names, "trigger", "turns"])
        values = [getattr(inner, name) for name in names]
        return form(*values, self.trigger.values.clone(), torch.zeros((), dtype=torch.int64))

    def step(self, task: Task, artifacts: Prepared, state: Any, rng: torch.Generator) -> dict[str, Tensor]:
        """One step of the method; before every N-th a better trigger."""
        turn = int(state.turns)
        self.trigger = replace(self.trigger, values=state.trigger.clone())
        if turn and turn % self._every == 0:
            self.trigger = self._update(self.trigger, task, turn)
            state.trigger.copy_(self.trigger.values)
        if not torch.equal(artifacts.values, state.trigger):
            self._prepare_again(task, artifacts)
        metrics = self._method.step(artifacts.task, artifacts.artifacts, state, rng)
        state.turns += 1
        return metrics

    def result(self, task: Task, state: Any) -> SyntheticSet:
        """The method's set."""
        self.trigger = replace(self.trigger, values=state.trigger.clone())
        return self._method.result(task, state)

    def passes(self, counts: Tensor) -> Passes:
        """The method's; the trigger's passes of one image are not counted."""
        return self._method.passes(counts)

    def _prepare_again(self, task: Task, artifacts: Prepared) -> None:
        rng = torch.Generator()
        rng.set_state(artifacts.generator)
        artifacts.task, artifacts.values = self._stamped(task), self.trigger.values.clone()
        artifacts.artifacts = self._method.prepare(artifacts.task, rng)

    def _stamped(self, task: Task) -> Task:
        poisoned = self.trigger.poison(self._images, self._rows)
        return replace(task, real=RealImages(poisoned, task.num_classes, task.normalise, task.device))
