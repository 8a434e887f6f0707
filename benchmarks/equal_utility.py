"""Gradients against synthetic uploads at equal utility: who tells more of a client's records, at what price in bytes?

    python benchmarks/equal_utility.py [--data digits|mnist] [--parts fedavg feddm_dp …] [--device auto] [--rows 10]

FedAvg, FedDM and FedMK, each plain and with record-level differential privacy (ε = 10, δ = 1e-5, noise seeded: a
simulation), two clients. Rounds are chosen on val: the number of rounds whose accuracy, mean over two pilot seeds, comes
nearest to a target (0.88 on digits, 0.90 on MNIST); a protocol that stays further than 0.02 from it is shown and not
compared. What the server has seen up to that round is attacked: weights sent and sent back, or all sets of one client.

    identification   a record among 99 of its class that the client did not hold, named by the strongest of the scores
                     of attacks/identification.py; upper end of Clopper-Pearson's interval, as wide as so many scores ask
    TPR              of LiRA at 1 % FPR over complementary runs (attacks/lira.py)
    bytes            up and down, all clients, all rounds
    null             identification from the first round of ANOTHER client: what a prior alone names

A trial is one record of a class and run; ten runs in complementary pairs. Parts, one per protocol, are kept under
benchmarks/results/equal_utility/; runs and audits lie under --scratch and are gone on with. FEDSIM_DATA holds MNIST.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from equal_utility_runs import DELTA, EPSILON, PROTOCOLS, TARGET, audit_of, data_of, pilot, raw_run
from kept_parts import ROOT, arguments, chosen_device, keep, provenance, run_or_exit

from attacks.identification import Identification
from fedsim.audit.plans import Plans
from fedsim.audit.schema import AuditRun
from fedsim.audit.store import Store
from fedsim.audit.targets import Targets
from fedsim.auditing import audit
from fedsim.runs import RunDirectory
from fedsim.seeding import Streams
from fedsim.training.intervals import mean_ci

FOLDER = ROOT / "equal_utility"
PARTS = tuple(f"{name}{end}" for name in PROTOCOLS for end in ("", "_dp"))


def part(name: str, given: argparse.Namespace) -> dict[str, Any]:
    """One protocol: rounds, audit, null."""
    protocol, _, private = name.partition("_")
    raw = raw_run(protocol, bool(private), given.data, data_of(given.data, given.scratch), given.device)
    chosen = pilot(raw, name, TARGET[given.data], given.scratch)
    print(f"{name}: {chosen}", flush=True)
    config = audit_of(raw, chosen["rounds"], given.rows, given.workers, given.inversion)
    folder, _ = audit(config, given.scratch / "audits")
    card = RunDirectory(folder).read_json("card")
    results = [RunDirectory(one).read_json("result") for one in rows_of(folder, config).values()]
    tested = [one["accuracy"] for one in results]
    return {
        "settings": {"protocol": protocol, "data": given.data, "rows": given.rows, "epsilon": EPSILON if private else None,
                     "delta": DELTA if private else None, "run": {key: raw[key] for key in raw if key != "data"}},
        "rounds": chosen, "accuracy": float(np.mean(tested)), "accuracy_interval": mean_ci(tested)[1], "accuracies": tested,
        "epsilon_spent": results[0]["epsilon"],
        "uplink_bytes": float(np.mean([one["uplink_bytes"] for one in results])),
        "downlink_bytes": float(np.mean([one["downlink_bytes"] for one in results])),
        "findings": [shown(one) for one in card["findings"] if wanted(one)],
        "null": null(folder, config), "controls": {one["name"]: one["passed"] for one in card["controls"]},
    }  # fmt: skip


def rows_of(folder: Path, config: AuditRun) -> dict[str, Path]:
    """Run directory of every row."""
    plans = Plans(folder)
    return {name: plans.run(name) for name in (f"row_{row:04d}" for row in range(config.rows))}


def wanted(finding: dict[str, Any]) -> bool:
    """Identification, AUC and TPR at 1 % FPR."""
    return finding["metric"] in {"identification", "auc", "tpr_at_fpr_0.01"}


def shown(finding: dict[str, Any]) -> dict[str, Any]:
    """What a table needs of a finding of a card."""
    details = {key: value for key, value in finding["details"].items() if key in {"among", "all_members", "tried"}}
    kept = {key: finding[key] for key in ("id", "metric", "estimate", "null", "p", "status", "note")}
    return kept | {"statistic": finding["details"].get("statistic"), **details}


def null(folder: Path, config: AuditRun) -> list[dict[str, Any]]:
    """Identification of this client's records from the first round of the other one."""
    targets, store = Targets(config, rows_of(folder, config)), Store(folder)
    attack, found = Identification(config.attacks[1]), []
    other = next(one for one in range(len(targets.parts.split.client)) if one != config.client)
    for row in targets.folders:
        view = targets.view(row, attack.threat, store.cached, other)
        streams = Streams(config.seed, ("attack", "null"))
        found.append(store.scores(
            "null.identification", f"row_{row:04d}", lambda view=view, streams=streams: attack.run(view, streams)
        ))  # fmt: skip
    findings = attack.evaluate(found, [targets.truth(row) for row in targets.folders])
    return [
        {"id": one.id, "statistic": one.details["statistic"], "all_members": one.details["all_members"],
         "estimate": one.estimate.__dict__ if one.estimate else None}
        for one in (replace(each, p=None) for each in findings)
    ]  # fmt: skip


def main() -> None:
    """The chosen protocols."""
    parser = arguments(__doc__, PARTS)
    parser.add_argument("--rows", type=int, default=10, help="runs of each protocol, in complementary pairs")
    parser.add_argument("--workers", type=int, default=1, help="runs at a time")
    parser.add_argument("--inversion", type=int, default=300, help="steps of the inversion of an update")
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.device = str(chosen_device(given.device))
    source = provenance(torch.device(given.device))
    for name in given.parts:
        asked = {"rows": given.rows, "inversion": given.inversion, "target": TARGET[given.data]}
        keep(FOLDER / f"{given.data}_{name}.json", source, asked, lambda name=name: part(name, given))


if __name__ == "__main__":
    run_or_exit(main)
