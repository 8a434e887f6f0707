"""The tables of federated algorithms in docs/results.md: their grids, their comparison, FedMK's parts, privacy."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from federated_cells import MORE, Trials, chosen, digits_grids, scores, tied, trial_cell
from private_cells import RATES
from result_tables import ROOT, cells, interval, machine, not_run, percent, source, spread, table

from fedsim.training.intervals import mean_ci

Results = dict[str, dict[str, Any]]


def by_name(found: Results) -> dict[str, dict[int, dict[str, Any]]]:
    """Cells NAME-sSEED as name → seed → result."""
    grouped: dict[str, dict[int, dict[str, Any]]] = {}
    for cell, result in found.items():
        name, _, seed = cell.rpartition("-s")
        grouped.setdefault(name, {})[int(seed)] = result
    return grouped


def paired(ours: dict[int, dict[str, Any]], theirs: dict[int, dict[str, Any]]) -> str:
    """Mean difference of the accuracies of equal seeds with its interval, in points."""
    common = sorted(ours.keys() & theirs.keys())
    if not common:
        return ""
    apart = [ours[seed]["accuracy"] - theirs[seed]["accuracy"] for seed in common]
    return interval(apart, lambda value: f"{100 * value:+.2f}") + (" (one seed)" if len(apart) == 1 else "")


def mean(results: Sequence[dict[str, Any]], name: str, unit: float) -> str:
    """Mean of a number over the seeds."""
    return f"{sum(one[name] for one in results) / len(results) / unit:.3g}"


def seconds(results: Sequence[dict[str, Any]]) -> str:
    """Mean seconds of a run; nothing where its seeds ran on several machines."""
    return mean(results, "wall_seconds", 1) if len({machine(one) for one in results}) == 1 else ""


def control(results: Sequence[dict[str, Any]], name: str) -> str:
    """Mean and interval of a control's accuracy, where it was run."""
    points = [one["controls"][name]["accuracy"] for one in results if name in one["controls"]]
    return interval(points) if points else ""


def comparison(title: str, group: str, note: str) -> str:
    """A row for each algorithm, best first, paired with FedAvg by seed."""
    found = cells(group)
    if not found:
        return not_run(title, group, note)
    grouped = by_name(found)
    rows = []
    for name, seeds in sorted(
        grouped.items(), key=lambda entry: -mean_ci([r["accuracy"] for r in entry[1].values()])[0]
    ):
        results = list(seeds.values())
        rows.append([
            f"`{name}`", interval([one["accuracy"] for one in results]), str(len(results)),
            paired(seeds, grouped["fedavg"]) if name != "fedavg" and "fedavg" in grouped else "",
            control(results, "upload_real_subset"), str(results[0]["rounds"]),
            mean(results, "uplink_bytes", 1e6), mean(results, "downlink_bytes", 1e6),
            mean(results, "client_flops", 1e9), mean(results, "server_flops", 1e9), seconds(results),
        ])  # fmt: skip
    header = [
        "algorithm", "test %", "seeds", "less FedAvg, points", "real subset %", "rounds", "up MB", "down MB",
        "clients GFLOP", "server GFLOP", "s",
    ]  # fmt: skip
    bound = control(list(grouped.get("fedavg", {}).values()), "centralised")
    said = f"The centralised upper bound (the same network on all clients' images): {bound}." if bound else ""
    parts = [f"## {title}", note, table(header, rows), said, source(group, found)]
    return "\n\n".join(part for part in parts if part) + "\n"


def grids(title: str, group: str, note: str, asked: dict[str, Trials] | None = None) -> str:
    """Four trials of every algorithm (default: the digits'), val after the last round of seed 0; the chosen one in bold.

    Of those that are equal the mean of three seeds stands behind it.
    """
    asked = asked or digits_grids()
    found, best = cells(group), chosen(asked, group)
    if not found:
        return not_run(title, group, note)
    rows = []
    for name, trials in asked.items():
        more = scores(name, tied(name, trials, group), group, (0, *MORE))
        shown = []
        for trial in trials:
            if (cell := trial_cell(name, trial, 0)) in found:
                text = f"{trial}: {percent(last(found[cell]))}"
                text += f" (three seeds: {percent(more[trial])})" if trial in more else ""
                shown.append(f"**{text}**" if trial == best.get(name) else text)
        rows.append([f"`{name}`", " · ".join(shown)])
    return "\n\n".join([f"## {title}", note, table(["algorithm", "val %"], rows), source(group, found)]) + "\n"


def last_metric(group: str, cell: str, name: str) -> float:
    """A number of a kept cell's last round."""
    lines = [json.loads(line) for line in (ROOT / "results" / group / cell / "metrics.jsonl").read_text().splitlines()]
    return [line["value"] for line in lines if line["name"] == name][-1]


def ablations(title: str, group: str, note: str) -> str:
    """FedMK whole and with one mechanism left out, paired by seed; what an interval with zero in it says."""
    found = cells(group)
    if not found:
        return not_run(title, group, note)
    grouped = by_name(found)
    whole = grouped.pop("whole", {})
    results = list(whole.values())
    shares = [last_metric(group, f"whole-s{seed}", "pseudo_right") for seed in sorted(whole)]
    rows = [["whole", interval([one["accuracy"] for one in results]), str(len(results)), "", ""]]
    for name, seeds in grouped.items():
        common = sorted(seeds.keys() & whole.keys())
        ci = spread([whole[seed]["accuracy"] - seeds[seed]["accuracy"] for seed in common])
        verdict = "" if ci is None else "helps" if ci[0] > 0 else "harms" if ci[1] < 0 else "nothing shown"
        points = [seeds[seed]["accuracy"] for seed in sorted(seeds)]
        rows.append([name.replace("_", " "), interval(points), str(len(points)), paired(whole, seeds), verdict])
    header = ["FedMK", "test %", "seeds", "what the mechanism adds, points", "it"]
    right = control(results, "upload_real_subset")
    said = f"Control, random real images uploaded instead: {right}. " if right else ""
    said += f"Pseudo samples of the last round that the server's model sees as their class: {interval(shares)} %."
    return "\n\n".join([f"## {title}", note, table(header, rows), said, source(group, found)]) + "\n"


DP_FEDAVG = "dp_fedavg_"
"""What the names of its trials begin with: dp_fedavg_epsE_rROUNDS_lrRATE-s0."""


def last(result: dict[str, Any]) -> float:
    """Accuracy on val after the last round."""
    return result["accuracy_by_round"][-1]


def best_on_val(trials: Results) -> set[str]:
    """Of every ε and number of rounds the trial that is best on val; none while one of them is missing."""
    groups: dict[str, list[str]] = {}
    for name in trials:
        groups.setdefault(name.partition("_lr")[0], []).append(name)
    whole = [names for names in groups.values() if len(names) == len(RATES)]
    return {max(names, key=lambda name: last(trials[name])) for names in whole}


def private(title: str, group: str, note: str) -> str:
    """A row for each mechanism and ε: accuracy, the control at equal ε, and the paired difference.

    Of DP-FedAvg's trials one for each number of rounds, chosen on val; all their accuracies on val are listed below.
    """
    found = cells(group)
    if not found:
        return not_run(title, group, note)
    trials = {name: result for name, result in found.items() if name.startswith(DP_FEDAVG)}
    best = best_on_val(trials)
    rows = []
    for name, seeds in by_name(
        {name: one for name, one in found.items() if name not in trials or name in best}
    ).items():
        results = list(seeds.values())
        means = {
            seed: one["controls"]["noisy_class_means"]
            for seed, one in seeds.items()
            if "noisy_class_means" in one["controls"]
        }
        epsilons = [one["epsilon"] for one in results]
        rows.append([
            name, f"{max(epsilons):.3g}" if None not in epsilons else "∞",
            interval([one["accuracy"] for one in results]), str(len(results)),
            control(results, "noisy_class_means"), paired(seeds, means), control(results, "upload_real_subset"),
            str(results[0]["rounds"]), mean(results, "uplink_bytes", 1e6), seconds(results),
        ])  # fmt: skip
    header = [
        "run", "ε", "test %", "seeds", "noisy class means %", "less these, points", "real subset %", "rounds", "up MB", "s",
    ]  # fmt: skip
    on_val = [
        f"{name.removeprefix(DP_FEDAVG).removesuffix('-s0')}: {percent(last(one))}" for name, one in trials.items()
    ]
    said = f"DP-FedAvg's trials on val, seed 0: {' · '.join(on_val)}." if trials else ""
    return (
        "\n\n".join(part for part in [f"## {title}", note, table(header, rows), said, source(group, found)] if part)
        + "\n"
    )
