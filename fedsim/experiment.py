"""The composition root: a config becomes a run directory, is resumed if it was cut off, skipped if it is finished."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from fedsim.admission import check
from fedsim.build import Parts
from fedsim.config import to_yaml
from fedsim.console import Terminal
from fedsim.distillation import distill
from fedsim.federated.blocks import node_count
from fedsim.federated.engines.base import Engine, Launch, Launcher
from fedsim.own_code import own_code
from fedsim.report.html import write_report
from fedsim.runs import RunDirectory, manifest
from fedsim.schema import Experiment, FederatedRun
from fedsim.sibling_uploads import Answer, answers, changed, copy
from fedsim.simulation import simulate
from fedsim.summary import summary
from fedsim.types import RunFailed, UserError
from fedsim.workload import settled


def execute(
    config: Experiment,
    out: Path,
    *,
    resume: bool = False,
    argv: Sequence[str] = (),
    engine: Engine | None = None,
    siblings: Sequence[Path] = (),
) -> Path:
    """Do what `config` says under `out` and return the run directory.

    The same config and seed is skipped if finished and resumed if not; `resume` insists that there is something to
    resume. What clients of `siblings`, finished runs, answered to the same question is not worked out again.
    Everything that is wrong with the input is a `UserError` before anything is written.
    """
    torch.set_num_threads(config.compute.threads)
    parts = Parts(config)
    check(parts)
    parts = settled(parts)
    config = parts.config
    chosen = parts.engine() if engine is None and isinstance(config, FederatedRun) else engine
    run = RunDirectory.open(out, config, config.name, config.seed, must_exist=resume)
    clean = None if run.finished else _without_attackers(config, out, engine)
    if isinstance(chosen, Launcher) and not run.finished:
        return _launch(run, out, parts, chosen, argv)
    with run.lock(), Terminal() as terminal:
        inputs = _same_inputs(run, {"data": parts.dataset.fingerprint(), "own_code": own_code(config)})
        if run.finished:
            terminal.say(f"{run.path} is finished already")
            _finish(run, parts, terminal)
            return run.path
        facts = manifest(config, config.compute.device, list(argv)) | inputs
        taken = answers(run, config, facts, siblings)
        facts = _begin(run, facts | _taken_over(taken, siblings, facts, terminal), terminal)
        copy(taken)
        parts.split.save(run.path / "split.npz")
        run.write_json("result", _work(run, parts, terminal, facts, chosen, clean))
        _finish(run, parts, terminal)
    return run.path


def _taken_over(
    found: Sequence[Answer], siblings: Sequence[Path], facts: Mapping[str, Any], terminal: Terminal
) -> dict[str, Any]:
    """What the manifest says of answers that other runs' clients gave: how many each."""
    if siblings and changed(facts):
        terminal.say("nothing is taken over from other runs: the checkout has changes of its own (see git status)")
    if not found:
        return {}
    counts = Counter(one.run for one in found)
    terminal.say(f"{len(found)} answers of clients are taken over from {', '.join(counts)}")
    return {"answers_of": dict(counts)}


def _without_attackers(config: Experiment, out: Path, engine: Engine | None) -> RunDirectory | None:
    """The same run without attackers: made first, or found finished; None where there are none or nobody asks.

    Under a ServerApp's grid the nodes are told of the attackers, so that it has to be there already.
    """
    if not isinstance(config, FederatedRun) or not config.attackers or not config.controls.without_attackers:
        return None
    alone = config.model_copy(update={"attackers": ()})
    if engine is None:
        with Terminal() as terminal:
            terminal.say("first the same run without attackers, which the attacked one is held against")
        return RunDirectory(execute(alone, out))
    found = RunDirectory.open(out, alone, alone.name, alone.seed)
    if not found.finished:
        raise UserError("controls.without_attackers: the run without attackers is not there; make it first, "
                        "with attackers=[], or give controls.without_attackers=false")  # fmt: skip
    return found


def _launch(run: RunDirectory, out: Path, parts: Parts, engine: Launcher, argv: Sequence[str]) -> Path:
    """Let the engine start the ServerApp elsewhere; that comes by here too, with the grid as its engine."""
    assert isinstance(parts.config, FederatedRun)
    with run.lock("launch"), Terminal() as terminal:
        launch = Launch(
            run=run.path.resolve(),
            run_config={"config": to_yaml(parts.config), "out": str(out.resolve()), "argv": json.dumps(list(argv))},
            nodes=node_count(len(parts.split.client), parts.config.participation.per_node),
            threads=parts.config.compute.threads,
            say=terminal.say,
        )
        try:
            outcome = engine.launch(launch)
        except (KeyboardInterrupt, RunFailed) as error:
            _cut_off(run, "interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
            raise
    if outcome.error is not None:
        raise (UserError if outcome.wrong_input else RunFailed)(outcome.error.removeprefix("the run failed: "))
    return Path(outcome.run) if Path(outcome.run) != run.path.resolve() else run.path


def _cut_off(run: RunDirectory, status: str) -> None:
    """The ServerApp had no time to say so itself."""
    if (run.path / "manifest.json").is_file() and (facts := run.read_json("manifest"))["status"] == "running":
        run.write_json("manifest", facts | {"status": status})


def _begin(run: RunDirectory, facts: dict[str, Any], terminal: Terminal) -> dict[str, Any]:
    """Write the manifest; one that is there keeps what it says of the start, and this session is added to it."""
    session = {key: facts[key] for key in ("started", "argv", "git", "versions")}
    before = run.read_json("manifest") if (run.path / "manifest.json").is_file() else facts
    sessions = [*before.get("sessions", []), session]
    if sessions[0]["versions"] != session["versions"]:
        terminal.say(
            "warning: the run was begun under other versions (manifest.json): its hash may not be reproducible"
        )
    before.pop("error", None)
    facts = before | {"status": "running", "sessions": sessions}
    run.write_json("manifest", facts)
    return facts


def _finish(run: RunDirectory, parts: Parts, terminal: Terminal) -> None:
    """What follows from result.json; done again, where it is missing, if the run was killed in between."""
    result, facts = run.read_json("result"), run.read_json("manifest")
    if facts["status"] != "finished":
        run.write_json("manifest", facts | {"status": "finished", "protocol": result["protocol"]})
    page = run.path / "report.html"
    if not page.is_file():
        write_report([run.path], page, {facts["data"]: parts.dataset})
    for line in summary(result):
        terminal.say(line)
    terminal.say(f"report: {page}")


def _work(
    run: RunDirectory,
    parts: Parts,
    terminal: Terminal,
    facts: dict[str, Any],
    engine: Engine | Launcher | None,
    clean: RunDirectory | None,
) -> dict[str, Any]:
    started = time.monotonic()
    try:
        if isinstance(parts.config, FederatedRun):
            assert isinstance(engine, Engine), "a launcher's run comes here with the grid of its ServerApp"
            result = simulate(run, parts, terminal, engine, clean)
        else:
            result = distill(run, parts, terminal)
    except KeyboardInterrupt:
        run.write_json("manifest", facts | {"status": "interrupted"})
        raise
    except Exception as error:
        run.write_json("manifest", facts | {"status": "failed", "error": f"{type(error).__name__}: {error}"})
        raise
    elsewhere = result.pop("seconds_before", 0.0)
    return result | {"wall_seconds": round(elsewhere + time.monotonic() - started, 1)}


def _same_inputs(run: RunDirectory, inputs: dict[str, Any]) -> dict[str, Any]:
    """Refuse to continue a run on images, or on code of the user's own, that changed since it began."""
    before = run.read_json("manifest") if (run.path / "manifest.json").is_file() else inputs
    if before.get("data") != inputs["data"]:
        raise UserError(
            f"{run.path} was begun on other images (fingerprint {before.get('data')}, now {inputs['data']}); "
            "restore the data, or give another --out"
        )
    changed = [name for name, code in inputs["own_code"].items() if before.get("own_code", {}).get(name) != code]
    if changed:
        raise UserError(f"the file of {changed[0]} changed since {run.path} began; give another --out or name=…")
    return inputs
