"""A central condensation: make the sets, score them and their control under one protocol."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from fedsim.build import Parts
from fedsim.console import Terminal
from fedsim.data.images import Images
from fedsim.data.synthetic import SyntheticSet
from fedsim.distill.base import Task
from fedsim.distill.coresets.random import Config as RandomConfig
from fedsim.distill.drive import condense
from fedsim.models.execution import Execution
from fedsim.models.network import Network
from fedsim.runs import RunDirectory
from fedsim.schema import Distillation
from fedsim.training.diversity import similarity
from fedsim.training.evaluate import EvaluationConfig, Score, score, scored_bits, teacher_of
from fedsim.training.ranking import rank
from fedsim.training.train import epochs_like, fit


def distill(run: RunDirectory, parts: Parts, terminal: Terminal) -> dict[str, Any]:
    """Everything `fedsim distill` does once the folder is there; returns what result.json says."""
    config = parts.config
    assert isinstance(config, Distillation)
    sets = [_set(run, parts, number, terminal) for number in range(config.sets)]
    _warn(config, sets, parts, terminal)
    random = _random_subsets(parts, config)
    subsets = random if config.controls.random_subset else []
    terminal.say(f"scoring {len(sets)} set(s) and {len(subsets)} random subsets of the same size")
    images, teacher = [one.as_images() for one in sets], _teacher(parts, config.evaluation, terminal)
    result = _compared(parts, images, subsets, config.evaluation, teacher, terminal)
    others = []
    for model in config.architectures:
        evaluation = config.evaluation.model_copy(update={"model": model})
        own = _teacher(parts, evaluation, terminal)
        scores = _compared(parts, images, subsets, evaluation, own, terminal)
        others.append({"model": model.model_dump(mode="json")} | scores)
    return result | {
        "architectures": others,
        "curve": _curve(run, parts, teacher, terminal) if config.curve else None,
        "ranking": _ranking(parts, images, random, terminal) if config.ranking is not None else None,
        "diversity": _diversity(parts, images, random, terminal) if config.diversity is not None else None,
        "synthetic_images": len(sets[0]),
        "real_images": len(parts.split.train),
        "rounds": 0,
        "uplink_bytes": 0,
        "downlink_bytes": 0,
        "epsilon": None,
        "delta": None,
        "clients_failed": 0,
        "uploads_rejected": 0,
        "small_classes": [],
        "model_sha256": None,
        "protocol": _protocol(config),
        "storage_bits": scored_bits(sets[0], config.evaluation.labels, config.evaluation.steps),
    }


def _set(run: RunDirectory, parts: Parts, number: int, terminal: Terminal) -> SyntheticSet:
    """One condensed set, from the folder if it is there already."""
    config: Any = parts.config
    folder = run.path / "synthetic"
    path = folder / f"set_{number:03d}.safetensors"
    if path.is_file():
        terminal.say(f"set {number} is there already")
        return SyntheticSet.load(path)
    folder.mkdir(parents=True, exist_ok=True)

    def log(iteration: int, values: dict[str, float]) -> None:
        note = ", ".join(f"{name} {value:.4f}" for name, value in values.items())
        terminal.bar(f"set {number}", iteration, config.method.iterations, note)

    terminal.say(
        f"condensing {len(parts.split.train)} images with {config.method.name}, set {number + 1} of {config.sets}"
    )
    if config.curve:
        (run.path / "snapshots").mkdir(exist_ok=True)
    synthetic, history = condense(
        parts.distiller(config.method),
        parts.task(),
        config.method.iterations,
        parts.streams.at("set", number),
        store=run.path / "checkpoints" / f"set_{number:03d}",
        checkpoint_every=config.checkpoint_every,
        log=log,
        snapshots=_moments(config),
        keep=lambda at, one: one.save(_snapshot(run, number, at)),
    )
    provenance = synthetic.provenance | {"config": run.path.name, "set": number}
    described = replace(synthetic, provenance=provenance, protocol=_protocol(config))
    run.forget_split(f"set_{number:03d}")
    for iteration, values in history:
        for name, value in values.items():
            run.metric(iteration, f"set_{number:03d}", name, value)
    described.save_png(folder / f"set_{number:03d}.png")
    described.save(path)
    (run.path / "checkpoints" / f"set_{number:03d}" / "condensation.safetensors").unlink(missing_ok=True)
    return described


def _moments(config: Any) -> list[int]:
    """The iterations asked for, and the last one."""
    return sorted({*config.curve, config.method.iterations}) if config.curve else []


def _snapshot(run: RunDirectory, number: int, iteration: int) -> Path:
    return run.path / "snapshots" / f"set_{number:03d}_{iteration:06d}.safetensors"


def _curve(run: RunDirectory, parts: Parts, teacher: Network | None, terminal: Terminal) -> dict[str, Any]:
    """Scores of the sets as they were on the way; the same networks score every moment."""
    config: Any = parts.config
    on, images = ("val", parts.images(parts.split.val)) if len(parts.split.val) else ("test", parts.dataset.test)
    points = []
    for at in _moments(config):
        sets = [SyntheticSet.load(_snapshot(run, number, at)).as_images() for number in range(config.sets)]
        found = _score(parts, sets, config.evaluation, "evaluation", teacher, terminal, images)
        terminal.say(f"after {at} iterations: {found.mean:.4f} on {on}")
        points.append({"iteration": at, "accuracy": found.mean, "accuracy_ci": found.ci, "values": found.values})
    return {"on": on, "points": points}


def _ranking(parts: Parts, sets: list[Images], random: list[Images], terminal: Terminal) -> dict[str, Any]:
    """DD-Ranking of the sets: as many random subsets as sets, all training images; every training is repeated."""
    config: Any = parts.config
    terminal.say("ranking: label- and augmentation-robust scores, on hard labels")
    found = rank(
        [one.to(parts.device) for one in sets],
        [one.to(parts.device) for one in random[: len(sets)]],
        parts.images(parts.split.train).to(parts.device),
        parts.dataset.test,
        parts.normalise,
        config.ranking,
        config.evaluation,
        parts.fresh(config.evaluation.model),
        parts.streams.at("ranking"),
        execution=_execution(parts, config.evaluation),
    )
    return found.as_dict()


def _diversity(parts: Parts, sets: list[Images], random: list[Images], terminal: Terminal) -> dict[str, Any]:
    """Mean cosine within classes of every set, and of as many random subsets, in the eyes of one trained network."""
    config: Any = parts.config
    terminal.say("diversity: training the network that embeds")
    streams = parts.streams.at("diversity")
    network = parts.fresh()(streams.generator("init"))
    real = parts.images(parts.split.train).to(parts.device)
    fit(network, real, parts.normalise, config.diversity, streams.generator("train"), execution=parts.execution)

    def seen(images: Images) -> dict[str, Any]:
        k = parts.dataset.num_classes
        return asdict(similarity(network, images, parts.normalise, k, execution=parts.execution))

    return {
        "sets": [seen(one) for one in sets],
        "random_subsets": [seen(one) for one in random[: len(sets)]],
    }


def _random_subsets(parts: Parts, config: Distillation) -> list[Images]:
    """As many random real subsets of the same size as the result has networks, at least two."""
    task: Task = parts.task()
    method: Any = config.method
    chosen = parts.distiller(RandomConfig(ipc=method.ipc))
    numbers = range(max(config.sets * config.evaluation.nets, 2))
    return [condense(chosen, task, 1, parts.streams.at("control", number))[0].as_images() for number in numbers]


def _compared(
    parts: Parts, sets: list[Images], subsets: list[Images], evaluation: EvaluationConfig, teacher: Network | None,
    terminal: Terminal,
) -> dict[str, Any]:  # fmt: skip
    """Score of the sets, and of the control: each random subset trains one network, for as many steps as a set.

    Real images have no soft labels of their own: under `labels: soft` their labels are hard, as the result says. Under
    `labels: teacher` the same teacher labels them. They have no step sizes either: under `steps: learned` they are
    trained on as `train` says, for all its epochs.
    """
    found = _score(parts, sets, evaluation, "evaluation", teacher, terminal)
    controls: dict[str, Any] = {}
    if subsets:
        labels = "hard" if evaluation.labels == "soft" else evaluation.labels
        train = epochs_like(evaluation.train, len(subsets[0]), len(sets[0]))
        alike = evaluation.model_copy(update={"nets": 1, "labels": labels, "train": train, "steps": "train"})
        control = _score(parts, subsets, alike, "control", teacher, terminal)
        facts = {"accuracy": control.mean, "accuracy_ci": control.ci, "values": control.values}
        facts |= {"steps": "train"} if evaluation.steps == "learned" else {}
        controls["random_subset"] = facts | {"labels": labels, "epochs": train.epochs}
    return {
        "accuracy": found.mean,
        "accuracy_ci": list(found.ci) if found.ci else None,
        "accuracy_n": found.n,
        "accuracy_over": f"{found.n} {found.over}",
        "accuracy_values": found.values,
        "controls": controls,
    }


def _teacher(parts: Parts, evaluation: EvaluationConfig, terminal: Terminal) -> Network | None:
    """Of the scored architecture, from a stream of its own; None where labels are not a teacher's."""
    if not evaluation.needs_teacher:
        return None
    real = parts.images(parts.split.train)
    terminal.say(f"training a teacher on {len(real)} images: its labels are part of what is scored")
    fresh, streams = parts.fresh(evaluation.model), parts.streams.at("teacher")
    return teacher_of(evaluation, real, parts.normalise, fresh, streams, execution=parts.execution)


def _score(
    parts: Parts, sets: list[Images], evaluation: EvaluationConfig, purpose: str, teacher: Network | None,
    terminal: Terminal, test: Images | None = None,
) -> Score:  # fmt: skip
    on_device = [one.to(parts.device) for one in sets]
    images = parts.dataset.test if test is None else test
    return score(
        on_device, images, parts.normalise, evaluation, parts.fresh(evaluation.model),
        parts.streams.at(purpose), execution=_execution(parts, evaluation), teacher=teacher,
        progress=lambda done, total: terminal.bar(purpose, done, total),
    )  # fmt: skip


def _execution(parts: Parts, evaluation: EvaluationConfig) -> Execution:
    """Another architecture than `ensemble` was settled for may hold a batch norm, which cannot be stacked."""
    how = parts.execution
    return how if evaluation.model is None else replace(how, ensemble="loop")


def _warn(config: Distillation, sets: list[SyntheticSet], parts: Parts, terminal: Terminal) -> None:
    if sets[0].soft is not None and config.evaluation.labels == "hard":
        terminal.say("the learned labels are not scored (evaluation.labels: hard): give soft to train on them")
    if config.curve and not len(parts.split.val):
        terminal.say("curve: data.val is 0, so the way is scored on the test split: to look at, not to choose by")


def _protocol(config: Distillation) -> dict[str, Any]:
    model = config.evaluation.model or config.model
    return config.evaluation.model_dump(mode="json") | {"model": model.model_dump(mode="json")}
