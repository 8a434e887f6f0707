"""The evaluation protocol of condensation: train fresh networks on the set, score each once on real images.

Last iterate (never the best epoch), the set in its byte form, labels as the regime says: what is reached under one
regime is no match for what is reached under another, since soft labels carry knowledge of the real images beside the
pixels. They are part of the release then, in storage and in privacy, be they learned or a teacher's (teacher.py). So
are learned step sizes (data/rates.py) under `steps: learned`.

With several sets the spread is over sets: the networks of one set share its luck, so degrees of freedom are sets − 1;
with one set it is over networks, and says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, ValidationInfo, field_validator

from fedsim.config import Choice, Section
from fedsim.data.images import Images
from fedsim.data.synthetic import SyntheticSet
from fedsim.data.transforms import Normalise
from fedsim.models.execution import AS_WRITTEN, Execution
from fedsim.models.network import Network
from fedsim.seeding import Streams
from fedsim.training.ensemble import fit_together
from fedsim.training.intervals import mean_ci
from fedsim.training.teacher import labelled, trained
from fedsim.training.train import TrainConfig, accuracy, fit, follow
from fedsim.types import UserError

Regime = Literal["hard", "soft", "teacher"]
"""Where the labels that networks are trained on come from."""


class EvaluationConfig(Section):
    """How a synthetic set is scored."""

    later: ClassVar[tuple[str, ...]] = ("steps",)
    nets: int = Field(default=3, ge=1)
    """Freshly initialised networks trained on each set."""
    labels: Regime = "hard"
    """Label regime; results under different regimes are not comparable. `hard`: classes, soft labels are ignored;
    `soft`: the soft labels stored in the set, hard ones for random real images; `teacher`: for sets and random real
    images alike one soft label per image, of a network of the scored architecture trained on the real images."""
    teacher: TrainConfig | None = None
    """Training of the teacher on the real training images, under `teacher` only; null: as `train`."""
    temperature: float = Field(default=1.0, gt=0)
    """τ, by which the teacher's logits are divided before they are its labels."""
    train: TrainConfig = TrainConfig()
    """How each of these networks is trained."""
    model: Choice("model") | None = None  # pyright: ignore[reportInvalidTypeForm]
    """Architecture to score with; null: the one the set was condensed with."""
    steps: Literal["train", "learned"] = "train"
    """How networks are trained on a set: as `train` says, or by the steps that were learned with its images, which are
    stored in it (`dd`); random real images have none and are trained as `train` says."""

    @field_validator("steps")
    @classmethod
    def _learned_on_classes(cls, steps: str, info: ValidationInfo) -> str:
        labels = info.data.get("labels", "hard")
        if steps == "learned" and labels != "hard":
            raise ValueError(f"these steps were learned for classes, and labels is {labels}; valid: labels=hard")
        return steps

    @property
    def needs_teacher(self) -> bool:
        """Whether a teacher labels the images."""
        return self.labels == "teacher"

    def images_seen(self, images: int, real: int) -> int:
        """Images through a network in training, to score a set of so many beside so many real ones."""
        taught = (self.teacher or self.train).epochs * real if self.needs_teacher else 0
        return self.nets * self.train.epochs * images + taught


@dataclass(frozen=True)
class Score:
    """Accuracy of a set under the protocol."""

    mean: float
    """Mean accuracy over all sets and networks, 0..1."""
    ci: tuple[float, float] | None
    """95% Student-t interval of the mean; null where there is only one value."""
    n: int
    """Values the interval rests on: sets, or networks of a single set."""
    over: Literal["sets", "networks"]
    """What the interval is taken over."""
    values: list[list[float]]
    """Accuracy of every network (inner) of every set (outer)."""

    def as_dict(self) -> dict[str, Any]:
        """For result.json."""
        return asdict(self)


def score(
    sets: Sequence[Images],
    test: Images,
    normalise: Normalise,
    config: EvaluationConfig,
    fresh: Callable[[torch.Generator], Network],
    streams: Streams,
    *,
    execution: Execution = AS_WRITTEN,
    teacher: Network | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Score:
    """Train `config.nets` networks from `fresh` on each of `sets`, test each once on `test`.

    `teacher` is what `teacher_of` made; give the same for a set and its control.
    The networks of a set are trained one after another, or together where `execution.ensemble` is vmap.
    """
    values: list[list[float]] = []
    size = config.nets if execution.ensemble == "vmap" and config.steps == "train" else 1
    sets = [_under(config, images, teacher, normalise, execution) for images in sets]
    for number, images in enumerate(sets):
        row: list[float] = []
        for first in range(0, config.nets, size):
            heres = [streams.at("set", number, "net", first + offset) for offset in range(size)]
            networks = [fresh(here.generator("init")) for here in heres]
            rngs = [here.generator("train") for here in heres]
            if config.steps == "learned":
                follow(networks[0], images, normalise, execution=execution)
            elif size == 1:
                fit(networks[0], images, normalise, config.train, rngs[0], execution=execution)
            else:
                fit_together(networks, images, normalise, config.train, rngs, execution=execution)
            row += [accuracy(network, test, normalise, execution=execution) for network in networks]
            if progress is not None:
                progress(number * config.nets + len(row), len(sets) * config.nets)
        values.append(row)
    return summarise(values)


def teacher_of(
    config: EvaluationConfig,
    real: Images,
    normalise: Normalise,
    fresh: Callable[[torch.Generator], Network],
    streams: Streams,
    *,
    execution: Execution = AS_WRITTEN,
) -> Network | None:
    """The teacher that the regime asks for; None if it asks for none."""
    if not config.needs_teacher:
        return None
    return trained(real, normalise, config.teacher or config.train, fresh, streams, execution=execution)


def scored_bits(synthetic: SyntheticSet, labels: Regime, steps: Literal["train", "learned"] = "train") -> int:
    """Storage of what is scored: without stored soft labels under `hard`, with one per image seen under `teacher`.

    Step sizes count where they are used.
    """
    synthetic = synthetic if steps == "learned" else replace(synthetic, rates=None)
    if labels == "soft":
        return synthetic.bits()
    hard = replace(synthetic, soft=None)
    if labels == "hard":
        return hard.bits()
    return hard.images.numel() * 8 + 16 * hard.num_classes * len(hard) * hard.formation**2


def _under(
    config: EvaluationConfig, images: Images, teacher: Network | None, normalise: Normalise, execution: Execution
) -> Images:
    """The images with the labels of the regime."""
    if config.steps == "learned" and images.rates is None:
        raise UserError("steps=learned: the set has no step sizes of its own; give steps=train")
    if config.labels == "hard":
        return images.hard()
    if config.labels == "soft":
        if images.soft is None:
            raise UserError("labels=soft: the set has hard labels only; give labels=hard, or labels=teacher")
        return images
    if teacher is None:
        raise UserError("labels=teacher: no teacher was given; train one with teacher_of, or give labels=hard")
    return labelled(teacher, images, normalise, config.temperature, execution=execution)


def summarise(values: list[list[float]]) -> Score:
    """Mean and 95% interval of accuracies[set][net]."""
    over: Literal["sets", "networks"] = "sets" if len(values) > 1 else "networks"
    points = [sum(row) / len(row) for row in values] if over == "sets" else values[0]
    mean, ci = mean_ci(points)
    return Score(mean, ci, len(points), over, values)
