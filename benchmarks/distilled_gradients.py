"""Gradients on distilled data: DLG and Inverting Gradients on what a client would send that trains on its set S_k.

    python benchmarks/distilled_gradients.py [--data digits|mnist] [--parts synthetic_first records_last …] [--device auto]

FedDM, two clients, one round; ten gradients of one image each, at the weights that clients are sent first and at those
of the server after the round, which was trained on the sets: `synthetic` on the images of client 0's set, `records` on
its records, for comparison. Attacked is a LeNet with sigmoids, as DLG was published, or the ConvNet that S_k was made
for. `fedsim audit run` does it (gradients: {of: synthetic, at: last}); parts are kept under
benchmarks/results/gradient_oracle/, runs and audits under --scratch.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from equal_utility_runs import data_of, raw_run
from kept_parts import ROOT, arguments, chosen_device, keep, provenance, run_or_exit

from fedsim.audit.schema import AuditRun
from fedsim.auditing import audit
from fedsim.config import validate
from fedsim.runs import RunDirectory
from fedsim.schema import FederatedRun, resolve

FOLDER = ROOT / "gradient_oracle"
MODELS: dict[str, dict[str, Any]] = {"lenet": {"name": "lenet_dlg"}, "convnet": {}}
PARTS = tuple(f"{model}_{of}_{at}" for model in MODELS for of in ("synthetic", "records") for at in ("first", "last"))
ROWS = 4
"""The least that an audit makes; gradients are of the first."""


def part(name: str, given: argparse.Namespace) -> dict[str, Any]:
    """One audit of ten gradients."""
    model, of, at = name.split("_")
    raw = raw_run("feddm", False, given.data, data_of(given.data, given.scratch), given.device)
    raw |= {"rounds": 1, "seed": 0, "name": f"{raw['name']}_{model}", "model": MODELS[model] or raw["model"]}
    steps = {"iterations": given.iterations}
    attacks = [
        {"name": "dlg", "restarts": 2, "softplus": [] if model == "lenet" else [10.0, 100.0], **steps},
        {"name": "inverting_gradients", "total_variation": 0.01, **steps},
    ]
    off = {"publish_subset": False, "overfit": 0, "single": False, "disjoint": False, "permuted": False}
    config = validate(AuditRun, {
        "name": f"distilled_{given.data}_{name}", "run": resolve(FederatedRun, raw), "rows": ROWS, "workers": 1,
        "attacks": attacks, "gradients": {"of": of, "at": at, "cases": given.cases}, "controls": off,
    })  # fmt: skip
    folder, _ = audit(config, given.scratch / "audits")
    card = RunDirectory(folder).read_json("card")
    keys = ("attack", "metric", "estimate", "null", "p", "note", "details")
    findings = [{key: one[key] for key in keys} for one in card["findings"]]
    told = {"model": model, "of": of, "at": at, "data": given.data, "cases": given.cases, "attacks": attacks}
    return {"settings": told, "findings": findings}


def main() -> None:
    """The chosen parts."""
    parser = arguments(__doc__, PARTS)
    parser.add_argument("--cases", type=int, default=10, help="gradients of one image each")
    parser.add_argument("--iterations", type=int, default=400, help="steps of an attempt")
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.device = str(chosen_device(given.device))
    source = provenance(torch.device(given.device))
    for name in given.parts:
        path = FOLDER / f"distilled_{given.data}_{name}.json"
        asked = {"cases": given.cases, "iterations": given.iterations}
        keep(path, source, asked, lambda name=name: part(name, given))


if __name__ == "__main__":
    run_or_exit(main)
