"""A central condensation: make the sets, score them and their control under one protocol."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fedsim.build import Parts
from fedsim.console import Terminal
from fedsim.data.images import Images
from fedsim.data.synthetic import SyntheticSet
from fedsim.distill.base import Task, condense
from fedsim.distill.coresets.random import Config as RandomConfig
from fedsim.runs import RunDirectory
from fedsim.schema import Distillation
from fedsim.training.evaluate import EvaluationConfig, Score, score


def distill(run: RunDirectory, parts: Parts, terminal: Terminal) -> dict[str, Any]:
    """Everything `fedsim distill` does once the folder is there; returns what result.json says."""
    config = parts.config
    assert isinstance(config, Distillation)
    sets = [_set(run, parts, number, terminal) for number in range(config.sets)]
    terminal.say(f"scoring {len(sets)} set(s) with {config.evaluation.nets} networks each")
    result = _score(parts, [one.as_images() for one in sets], config.evaluation, "evaluation", terminal)
    control = _random_subset(parts, config, terminal)
    return {
        "accuracy": result.mean,
        "accuracy_ci": list(result.ci) if result.ci else None,
        "accuracy_n": result.n,
        "accuracy_over": f"{result.n} {result.over}",
        "accuracy_values": result.values,
        "controls": {"random_subset": {"accuracy": control.mean, "accuracy_ci": control.ci, "values": control.values}},
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
        "storage_bits": sets[0].bits(),
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
    synthetic, history = condense(
        parts.distiller(config.method),
        parts.task(),
        config.method.iterations,
        parts.streams.at("set", number),
        store=run.path / "checkpoints" / f"set_{number:03d}",
        checkpoint_every=config.checkpoint_every,
        log=log,
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


def _random_subset(parts: Parts, config: Distillation, terminal: Terminal) -> Score:
    """As many networks as the result has, each trained on its own random real subset of the same size."""
    terminal.say("control: random real subsets of the same size")
    task: Task = parts.task()
    method: Any = config.method
    chosen = parts.distiller(RandomConfig(ipc=method.ipc))
    subsets = []
    for number in range(max(config.sets * config.evaluation.nets, 2)):
        subset, _ = condense(chosen, task, 1, parts.streams.at("control", number))
        subsets.append(subset.as_images())
    single = config.evaluation.model_copy(update={"nets": 1})
    return _score(parts, subsets, single, "control", terminal)


def _score(parts: Parts, sets: list[Images], evaluation: EvaluationConfig, purpose: str, terminal: Terminal) -> Score:
    on_device = [one.to(parts.device) for one in sets]
    return score(
        on_device, parts.dataset.test, parts.normalise, evaluation, parts.fresh(evaluation.model),
        parts.streams.at(purpose), execution=parts.execution,
        progress=lambda done, total: terminal.bar(purpose, done, total),
    )  # fmt: skip


def _protocol(config: Distillation) -> dict[str, Any]:
    model = config.evaluation.model or config.model
    return config.evaluation.model_dump(mode="json") | {"model": model.model_dump(mode="json")}
