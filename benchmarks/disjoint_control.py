"""How often the negative control of an audit fails where it must not: `python benchmarks/disjoint_control.py [--workers 16]`.

200 small audits of FedDM on scikit-learn's digits, each with a partition, a pool, rows and networks of its own seed. In every
row the algorithm's own client of the *other* owner condenses its records, none of which is in the pool; then the control goes
its way as in an audit: the view of a target with that client's first set, the attack on every row, its findings,
`fedsim.audit.controls.judge_disjoint` (the attack's registered test at 0.1 %).

Counted, with Clopper and Pearson's interval: how often the control passes with LiRA (exact test over drawn rows) and with the
loss threshold (t over pairs); how often the 99.9 % interval over pairs of the loss attack's AUC holds ½, and how often the 95 %
intervals of both attacks do. An audit is kept under --work as soon as it is done; the counts go to
benchmarks/results/disjoint_control.json. On the CPU; five to ten seconds of a core an audit.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from provenance import facts, fingerprint

from attacks.lira import Config as LiRAConfig
from attacks.lira import LiRA
from attacks.loss_threshold import Config as LossConfig
from attacks.loss_threshold import LossThreshold
from fedsim.audit.controls import NEGATIVE_LEVEL, judge_disjoint
from fedsim.audit.schema import AuditRun, load_audit
from fedsim.audit.statistics.inputs import TooFew
from fedsim.audit.statistics.pairs import over_pairs
from fedsim.audit.statistics.proportions import clopper_pearson
from fedsim.audit.targets import Targets, alone
from fedsim.audit.types import Attack, Finding
from fedsim.build import Parts
from fedsim.data.images import Dataset
from fedsim.federated.base import ClientView
from fedsim.runs import write_atomic
from fedsim.seeding import Streams
from fedsim.workload import settled

ROOT = Path(__file__).parent
RESULT = ROOT / "results/disjoint_control.json"
ENOUGH = 197
"""Of 200 that have to pass: fewer would come about once in 18,000 were the true rate 99.9 %."""
TOY = (
    "run.method={name: dm, ipc: 1, iterations: 5, init: noise, batch_real: 0, networks: {name: pool, size: 1}}",
    "run.model={name: mlp, depth: 1, width: 16}",
    "run.partition.clients=4",
    "run.compute={compile: false, channels_last: false, ensemble: loop}",
    "run.server={epochs: 10, lr: 0.05, batch_size: 64}",
    "attacks=[{name: loss_threshold}]",
)
OTHER = 1
"""The client whose sets are shown; the audited one is 0."""


def toy(seed: int, rows: int) -> AuditRun:
    """The quick audit made small, with draws of its own."""
    words = (*TOY, f"rows={rows}", f"seed={seed}", f"run.seed={seed}")
    return load_audit(ROOT.parent / "configs/audit/quick.yaml", words)


def attacks(permutations: int) -> list[Attack]:
    """What the control is made with."""
    lira = LiRAConfig(statistics=("nn_pixels",), networks=1, permutations=permutations)
    return [LiRA(lira), LossThreshold(LossConfig(networks=1))]


def upload(config: AuditRun, row: int, folder: Path, data: Dataset) -> None:
    """The other client's first set in the run of a row, where the run would keep it; `data` is what the run loads."""
    parts = settled(Parts(alone(config.row(row))))
    parts.__dict__["dataset"] = data  # loaded once for all rows
    algorithm, setting = parts.algorithm(), parts.setting
    broadcast = algorithm.broadcast(algorithm.init(setting), [OTHER])[OTHER]
    streams = setting.streams.at("client", OTHER, "round", 1)
    view = ClientView(OTHER, setting, parts.images(parts.split.client[OTHER]))
    made = algorithm.client(view, broadcast, streams).synthetic
    assert made is not None, "FedDM uploads sets"
    path = folder / "synthetic" / "round_001" / f"client_{OTHER:04d}.safetensors"
    path.parent.mkdir(parents=True)
    made.save(path)


def audited(seed: int, rows: int, permutations: int) -> dict[str, Any]:
    """The control of one audit with each attack."""
    config, found = toy(seed, rows), {}
    with tempfile.TemporaryDirectory() as scratch:
        folders = {row: Path(scratch) / f"row_{row:04d}" for row in range(rows)}
        targets, cache = Targets(config, {path.name: path for path in folders.values()}), {}
        for row, folder in folders.items():
            upload(config, row, folder, targets.parts.dataset)

        def cached(name: str, compute: Any) -> np.ndarray:
            if name not in cache:
                cache[name] = compute()
            return cache[name]

        truths = [targets.truth(row) for row in range(rows)]
        for attack in attacks(permutations):
            streams = Streams(seed, ("attack", attack.config.name))
            scores = [attack.run(targets.view(row, attack.threat, cached, OTHER), streams) for row in range(rows)]
            findings = attack.evaluate(scores, truths)
            found[findings[0].attack] = described(findings)
    return {"seed": seed, "attacks": found}


def described(findings: list[Finding]) -> dict[str, Any]:
    """The judgement, and which intervals hold what they should."""
    control = judge_disjoint(findings)
    area = [one for one in findings if one.metric == "auc"][-1]
    assert area.estimate is not None
    assert area.null is not None
    whole = over_pairs(np.array(area.details["targets"]), NEGATIVE_LEVEL, (0.0, 1.0))
    assert not isinstance(whole, TooFew), "there are five pairs"
    return {
        "passed": control.passed, "p": control.p, "auc": area.estimate.value,
        "inside_95": area.estimate.low <= area.null <= area.estimate.high,
        "t_inside_99_9": whole.low <= area.null <= whole.high,
    }  # fmt: skip


def counted(done: list[dict[str, Any]], name: str, what: str) -> dict[str, Any]:
    """So many of so many, with its interval."""
    hits = sum(bool(one["attacks"][name][what]) for one in done)
    share = clopper_pearson(hits, len(done))
    return {"hits": hits, "of": len(done), "interval": [share.low, share.high]}


def work(job: tuple[int, int, int, Path]) -> int:
    """One audit that is not there yet."""
    seed, rows, permutations, folder = job
    torch.set_num_threads(1)
    path = folder / f"{seed:04d}.json"
    if not path.is_file():
        write_atomic(path, json.dumps(audited(seed, rows, permutations)))
    return seed


def main() -> None:
    """All audits, then the counts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workers", type=int, default=min(16, os.cpu_count() or 1))
    parser.add_argument("--work", type=Path, default=Path("runs/disjoint_control"))
    parser.add_argument("--out", type=Path, default=RESULT)
    for name, default in {"audits": 200, "rows": 10, "permutations": 999}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    provenance, started = facts("cpu"), time.monotonic()
    folder = options.work / fingerprint([TOY, options.rows, options.permutations])
    jobs = [(seed, options.rows, options.permutations, folder) for seed in range(options.audits)]
    with multiprocessing.get_context("spawn").Pool(options.workers) as pool:
        for number, _ in enumerate(pool.imap_unordered(work, jobs), 1):
            if number % 20 == 0 or number == len(jobs):
                print(f"{number} of {len(jobs)} audits, {time.monotonic() - started:.0f} s", flush=True)
    done = [json.loads((folder / f"{seed:04d}.json").read_text()) for seed in range(options.audits)]
    counts = {
        name: {what: counted(done, name, what) for what in ("passed", "t_inside_99_9", "inside_95")}
        for name in done[0]["attacks"]
    }
    kept = {
        "audits": options.audits,
        "rows": options.rows,
        "permutations": options.permutations,
        "toy": TOY,
        "counts": counts,
    }
    kept |= {"enough": ENOUGH, "seconds": round(time.monotonic() - started), "workers": options.workers, **provenance}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(options.out, json.dumps(kept | {"each": done}, indent=1, ensure_ascii=False) + "\n")
    print(json.dumps(counts, indent=1))


if __name__ == "__main__":
    main()
