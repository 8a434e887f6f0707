"""A federated run: its rounds on the chosen engine, its control, and the one look at the test split."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from fedsim import backdoors
from fedsim.build import Parts
from fedsim.config import to_yaml
from fedsim.console import Terminal
from fedsim.controls import beside
from fedsim.data.partition import cells
from fedsim.distill.soft_labels import learns_labels
from fedsim.federated.base import ServerState, Setting, network_with
from fedsim.federated.blocks import node_count
from fedsim.federated.defences import verdicts_in
from fedsim.federated.engines.base import Engine, Job
from fedsim.federated.messages import Contract
from fedsim.federated.record import RoundRecord, spent
from fedsim.federated.rounds import Server, run_rounds
from fedsim.federated.transcript import Transcript
from fedsim.models.functional import model_sha256
from fedsim.privacy.ledger import FILE
from fedsim.runs import RunDirectory
from fedsim.schema import FederatedRun
from fedsim.training.intervals import wilson
from fedsim.training.train import accuracy
from fedsim.types import Params
from fedsim.workload import round_flops

Val = Callable[[ServerState], float]


def simulate(
    run: RunDirectory, parts: Parts, terminal: Terminal, engine: Engine, clean: RunDirectory | None = None
) -> dict[str, Any]:
    """Everything `fedsim run` does once the folder is there; returns what result.json says.

    `clean` is the same run without attackers, finished, where this one has some.
    """
    setting = parts.setting
    val = parts.images(parts.split.val)

    def on_val(state: ServerState) -> float:
        return accuracy(network_with(setting, state.weights), val, setting.normalise, execution=setting.execution)

    def on_round(state: ServerState) -> float:
        for one in backdoors.left(run, state.round):  # what is left of an attack after its last round
            network = network_with(setting, state.weights)
            hit = backdoors.success(network, val, one.trigger, setting.normalise, execution=setting.execution)
            run.metric(state.round, "val", f"attack_success.{one.client}", float(hit.float().mean()))
        return on_val(state)

    _warn_real(terminal, parts)
    _warn_small(terminal, parts)
    if (stored := run.last_round()) is not None:
        terminal.say(f"resuming after round {stored[0]}")
    following = stored[0] + 1 if stored is not None else 1
    if kept := len(list(run.path.glob(f"clients/*/round_{following:03d}/upload.safetensors"))):
        terminal.say(f"{kept} uploads of round {following} are kept")
    state, records = _rounds(run, parts, engine, on_round, terminal)
    before = sum(record.seconds for record in records[: stored[0]]) if stored is not None else 0.0
    controls = beside(run, parts, records, on_val, terminal)
    found = _result(run, parts, state, records, controls) | {"transcript": _transcript(run, _config(parts)).size()}
    if _config(parts).attackers:
        found["backdoor"] = backdoors.measured(run, parts, state, records, clean)
    if parts.defences:
        found["defenses"] = [_verdicts(record) for record in records]
    return found | {"seconds_before": before}


def small_cells(parts: Parts) -> list[list[int]]:
    """[client, class, images] of the cells whose n real images are at most ten times the synthetic ones."""
    per_class = parts.algorithm().budget(parts.setting)
    table = cells(parts.split.client, parts.dataset.train.labels.numpy(), parts.dataset.num_classes)
    return [
        [client, label, int(count)]
        for client, row in enumerate(table)
        for label, count in enumerate(row)
        if 0 < count <= 10 * per_class
    ]


def _rounds(
    run: RunDirectory, parts: Parts, engine: Engine, on_val: Val, terminal: Terminal
) -> tuple[ServerState, list[RoundRecord]]:
    """Run Flower's ServerApp on the engine."""
    config, algorithm = _config(parts), parts.algorithm()
    setting = replace(parts.setting, progress=terminal.bar)
    per_class = algorithm.budget(setting)
    nodes = node_count(len(parts.split.client), config.participation.per_node)
    server = Server(
        algorithm=algorithm,
        setting=setting,
        run=run,
        rounds=config.rounds,
        participation=config.participation,
        contract=_contract(config, setting, per_class, algorithm.uploaded(setting)),
        transcript=_transcript(run, config),
        roll=parts.roll,
        score=on_val,
        flops=round_flops(parts),
        console=terminal,
        nodes=nodes,
        defences=parts.defences,
        connect_timeout=engine.connect_timeout,
    )
    outcome: list[tuple[ServerState, list[RoundRecord]]] = []
    job = Job(
        run_config={"config": to_yaml(config)},
        run=run.path.resolve(),
        nodes=nodes,
        workers=config.compute.workers,
        threads=config.compute.threads,
        timeout=config.participation.timeout,
        progress=terminal.client_progress,
    )
    engine.run(job, lambda grid: outcome.append(run_rounds(grid, server)))
    if config.transcript == "none":
        shutil.rmtree(run.path / "clients", ignore_errors=True)
    return outcome[0]


def _verdicts(record: RoundRecord) -> dict[str, dict[str, Any]]:
    """What each filter said of each client in a round: [score, flagged, whether it could judge]."""
    found = verdicts_in(record.metrics)
    return {
        name: {str(one.client): [one.score, one.flagged, one.judged] for one in said} for name, said in found.items()
    }


def _contract(config: FederatedRun, setting: Setting, per_class: int, weights: Params | None) -> Contract:
    """What every upload of the run must be."""
    formation, soft = getattr(config.method, "formation", 1), learns_labels(config.method)
    return Contract.agree(setting, per_class, weights, config.upload_limits, formation, soft, config.wire)


def _transcript(run: RunDirectory, config: FederatedRun) -> Transcript:
    return Transcript(run.path, config.transcript, run.path.name)


def _privacy(run: RunDirectory, parts: Parts, records: Sequence[RoundRecord]) -> dict[str, Any]:
    """ε, δ, and where there is an ε the statement behind it, from the ledgers of clients that work on this machine."""
    if parts.privacy is None:
        return {"epsilon": None, "delta": None}
    folders = ((run.path / f"clients/client_{client:04d}", len(held)) for client, held in enumerate(parts.split.client))
    here = [(folder, held) for folder, held in folders if (folder / FILE).is_file()]
    asked = {client for record in records for client in record.asked}
    found = parts.privacy.result(here, elsewhere=max(0, len(asked) - len(here)))
    return {"epsilon": found["epsilon"], "delta": parts.privacy.config.delta, "privacy": found}


def _result(
    run: RunDirectory, parts: Parts, state: ServerState, records: list[RoundRecord], controls: dict[str, Any]
) -> dict[str, Any]:
    """result.json; the test split is touched here and in the control, nowhere else."""
    config, test = _config(parts), parts.dataset.test
    tested = accuracy(network_with(parts.setting, state.weights), test, parts.normalise, execution=parts.execution)
    last = records[-1]
    images = int(last.metrics.get("synthetic_images", 0))
    pixels = parts.dataset.train.pixels[0].numel()
    classes, soft = parts.dataset.num_classes, learns_labels(config.method)
    label_bits = 16 * classes if soft else max(1, (classes - 1).bit_length())
    return {
        "accuracy": tested,
        "accuracy_ci": list(wilson(round(tested * len(test)), len(test))),
        "accuracy_n": 1,
        "accuracy_over": f"{len(test)} test images",
        "controls": controls,
        "rounds": state.round,
        "accuracy_by_round": [record.metrics["accuracy"] for record in records],
        **spent(records, round_flops(parts)),
        "synthetic_images": images,
        "synthetic_images_released": int(sum(record.metrics.get("synthetic_images", 0) for record in records)),
        "real_images": len(parts.split.train),
        **_privacy(run, parts, records),
        "clients_failed": sum(len(record.failed) for record in records),
        "uploads_rejected": sum(len(record.rejected) for record in records),
        "clients_empty": None if unsaid(parts) else [n for n, held in enumerate(parts.split.client) if not len(held)],
        "budgets": list(parts.scales),
        "small_classes": None if unsaid(parts) else small_cells(parts),
        "protocol": {
            "scored": "the server's model after the last round",
            "labels": "soft" if soft else "hard",
            "model": config.model.model_dump(mode="json"),
            "val": len(parts.split.val),
        },
        "model_sha256": model_sha256(state.weights),
        "storage_bits": images * (pixels * 8 + label_bits),
    }


def _warn_real(terminal: Terminal, parts: Parts) -> None:
    method: Any = _config(parts).method
    if method is None or parts.privacy is not None:  # noisy sums alone
        return
    init = getattr(method, "init", None)
    if init is None and ":" in method.name:
        terminal.say(
            f"warning: method {method.name} has no setting init that says noise; if its images are or start as real "
            "training images, uploads show them"
        )
    elif init is None:
        terminal.say(f"warning: method {method.name} selects: what clients upload are real training images")
    elif init not in {"noise", "mean"}:
        terminal.say(f"warning: method.init={init}: uploads start as real training images and can still show them")


def unsaid(parts: Parts) -> bool:
    """Whether the noise is real: then no result or warning says which clients hold few records, or none."""
    return parts.privacy is not None and parts.privacy.config.noise == "system"


def _warn_small(terminal: Terminal, parts: Parts) -> None:
    small = [] if unsaid(parts) else small_cells(parts)
    if small:
        client, label, count = min(small, key=lambda cell: cell[2])
        terminal.say(
            f"warning: {len(small)} client-class cells hold at most 10 real images per synthetic one (smallest: client "
            f"{client}, class {parts.dataset.classes[label]}, {count}); there the upload can show its images whatever "
            "the start" + (". partition.min_class withholds such cells" if parts.privacy is None else "")
        )


def _config(parts: Parts) -> FederatedRun:
    assert isinstance(parts.config, FederatedRun)
    return parts.config
