"""Part of docs/results.md: the sweeps of attackers and defences that are kept under benchmarks/results/sweeps/.

A kept sweep is the `sweep.json` of `fedsim sweep configs/…`, copied: numbers, where each run came from, no path.
"""

from __future__ import annotations

import json
from typing import Any

from kept_parts import ROOT
from result_tables import revisions, table

from fedsim.report.sweep_matrix import Matrix, matrix_of
from fedsim.report.sweep_numbers import UNATTACKED, as_now, calibrations, heading, shown, used

SWEEPS = {
    "backdoor_digits": (
        "Backdoors in FedDM on the digits (the quickstart)",
        "One of five clients, a 2×2 square, two rounds. Intervals over seeds are Student's t, which does not know that a share is no less than 0.",
    ),
    "mnist_attacks": (
        "Backdoors in FedDM on MNIST",
        "One malicious client of ten, a 4×4 square, half of its records stamped, ConvNet-3-16, two rounds.",
    ),
    "mnist_matrix": (
        "Attackers against defences in FedDM on MNIST",
        "One malicious client of ten, as above; read as the table on the digits below. Empty places were not run yet.",
    ),
    "digits_matrix": (
        "Attackers against defences in FedDM on the digits",
        "One of eight clients, a 2×2 square, two rounds. Filters leave out what they flag at their default thresholds "
        "(`flagged`); beside it what thresholds from the row without attackers would have flagged of the same uploads: "
        "counts, without an interval, since uploads of a round depend on one another. "
        "Aggregations take the place of the server's training. `detection AUROC`: scores of the client that lies against "
        f"those of the others, over both rounds. `{UNATTACKED}`: less that of the same run without the defence; above 0 the "
        "defended run is the better one. `accuracy change`: less that of the same run without the attacker. Changes of "
        "accuracy of one seed have no interval: which images both models read rightly is not kept. The last rows are attackers that know a filter.",
    ),
    "digits_matrix_fedavg": (
        "Attackers against aggregation rules in FedAvg on the digits",
        "One of eight clients, a 2×2 square, four rounds; clients send weights, so that filters on images and `direct` have no "
        "place. `model_replacement` acts in the last round alone; where it knows norm_clip it stays below the length of its honest "
        "way, from round 2 on.",
    ),
    "digits_matrix_fedmk": (
        "Attackers against defences in FedMK on the digits",
        "One of five clients, a 2×2 square, two rounds; sets of round 2 start from another client's. No generator at the "
        "server. Thresholds are the defaults.",
    ),
}


def backdoors() -> list[str]:
    """A section for each sweep."""
    return [section(name, *words) for name, words in SWEEPS.items()]


def section(name: str, title: str, note: str) -> str:
    """Rows and columns of one sweep."""
    path = ROOT / "sweeps" / f"{name}.json"
    folder = "quickstart" if name == "backdoor_digits" else "defense"
    command = f"`fedsim sweep configs/{folder}/{name}.yaml`"
    if not path.is_file():
        return f"## {title}\n\n{note}\n\nNot run yet: {command}.\n"
    kept: dict[str, Any] = json.loads(path.read_text())
    lines = [as_now(line) for line in kept["table"]]
    columns = any(line["column"] for line in lines)
    names = used(lines)
    header = ["attackers", *(["defence"] if columns else []), "seeds"]
    header += [heading(one, lines) for one in names]
    rows = [
        [
            line["row"],
            *([line["column"]] if columns else []),
            str(line["seeds"]),
            *(shown(line.get(one), one) for one in names),
        ]
        for line in lines
    ]
    commits = revisions(cell["git"] for cell in kept["cells"])
    machines = sorted(
        {f"{cell['cores']} cores, {cell['device']}, torch {cell['versions']['torch']}" for cell in kept["cells"]}
    )
    seeds = sorted({cell["seed"] for cell in kept["cells"]})
    words = f", seeds {', '.join(map(str, seeds))}" if len(seeds) > 1 else ""
    origin = f"{command}{words} · commit {commits} · {'; '.join(machines)}"
    failed = [f"Failed: {one}." for one in kept["failed"]]
    seen = [] if (found := matrix_of(lines)) is None else [_matrix(found), "All numbers:"]
    told = [f"Calibrated thresholds: {'; '.join(found)}."] if (found := calibrations(lines)) else []
    return "\n\n".join([f"## {title}", note, *seen, table(header, rows), *told, *failed, origin]) + "\n"


def _matrix(found: Matrix) -> str:
    """Lift of each attacker under each defence; by how much that changes the accuracy where nobody attacks."""
    rows = [[row, *(place.text for place in places)] for row, places in found.rows]
    return f"Lift in points; where nobody attacks, `{UNATTACKED}`:\n\n" + table(["attackers", *found.columns], rows)
