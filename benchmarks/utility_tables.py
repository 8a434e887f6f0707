"""Tables of docs/results.md: protocols at equal utility, the upload as a gradient oracle, gradients on distilled data."""

from __future__ import annotations

from typing import Any

from kept_parts import ROOT, kept
from result_tables import percent, revisions, table

from fedsim.report.numbers import count_bytes

Part = dict[str, Any]
NAMES = {"fedavg": "FedAvg", "feddm": "FedDM", "fedmk": "FedMK"}


def label(part: Part) -> str:
    """Protocol, and ε where it is private."""
    epsilon = part["settings"]["epsilon"]
    return NAMES[part["settings"]["protocol"]] + (f", ε = {epsilon:g}" if epsilon else "")


def named(findings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Findings of identification, the strongest score first."""
    found = [one for one in findings if one["id"].startswith("identification.")]
    return sorted(found, key=lambda one: (-one["estimate"]["value"], -one["estimate"]["high"]))


def rate(part: Part) -> dict[str, Any] | None:
    """TPR at 1 % FPR of all of LiRA's statistics together; None where too few scores were there."""
    return next((one["estimate"] for one in part["findings"]
                 if one["metric"] == "tpr_at_fpr_0.01" and one["statistic"] == "combo"), None)  # fmt: skip


def area(part: Part) -> dict[str, Any]:
    """LiRA's AUC."""
    return next(one["estimate"] for one in part["findings"] if one["metric"] == "auc" and one["statistic"] == "combo")


def ends(estimate: dict[str, Any] | None, digits: int = 3) -> str:
    """A number and its interval."""
    if estimate is None:
        return "too few"
    return f"{estimate['value']:.{digits}f} [{estimate['low']:.{digits}f}, {estimate['high']:.{digits}f}]"


def equal_utility(data: str, note: str) -> str:
    """A row for each protocol."""
    parts, title = kept("equal_utility", f"{data}_"), f"Gradients against synthetic uploads at equal utility, {data}"
    if not parts:
        return f"## {title}\n\n{note}\n\nNot run yet: `python benchmarks/equal_utility.py --data {data}`.\n"
    rows = []
    for part in parts:
        best, prior = named(part["findings"])[0], named(part["null"])[0]
        chosen, spread = part["rounds"], part["accuracy_interval"]
        rows.append([
            label(part), str(chosen["rounds"]) + ("" if chosen["near"] else " (not near the target)"),
            f"{percent(part['accuracy'])} [{percent(spread[0])}, {percent(spread[1])}]",
            f"{ends(best['estimate'])} `{best['statistic']}`", f"{best['all_members']:.3f}",
            f"{ends(prior['estimate'])} `{prior['statistic']}`", f"{1 / best['among']:.3f}", ends(rate(part)), ends(area(part)),
            count_bytes(part["uplink_bytes"]), count_bytes(part["downlink_bytes"]),
        ])  # fmt: skip
    header = [
        "protocol", "rounds", "test %", "identified", "of all members", "null: another client", "chance", "TPR at 1% FPR",
        "AUC of LiRA", "up", "down",
    ]  # fmt: skip
    picture = f"equal_utility/{data}.png"
    shown = f"![{title}](../benchmarks/results/{picture})" if (ROOT / picture).is_file() else ""
    said = [f"## {title}", note, shown, table(header, rows), origin(parts, f"equal_utility.py --data {data}")]
    return "\n\n".join(part for part in said if part) + "\n"


KINDS = {
    "fedsgd": "FedSGD, inverted", "dm": "oracle of DM, inverted", "dc": "oracle of DC, inverted",
    "other": "another client's, inverted", "trace.fedsgd": "FedSGD, trace", "trace.dm": "oracle of DM, trace",
    "trace.dc": "oracle of DC, trace", "set.dm": "set of DM itself", "set.dc": "set of DC itself",
}  # fmt: skip


def oracle(data: str, note: str) -> str:
    """A row for each size, a column for each way to name the record."""
    parts, title = kept("gradient_oracle", f"{data}_n"), f"The upload as a gradient oracle, {data}"
    if not parts:
        return f"## {title}\n\n{note}\n\nNot run yet: `python benchmarks/gradient_oracle.py --data {data}`.\n"
    rows = []
    for part in parts:
        shares = [f"{one[0]:.2f} [{one[1]:.2f}, {one[2]:.2f}]" for one in (part["identified"][kind] for kind in KINDS)]
        cosines = [f"{part['cosine'][name][0]:.2f}" for name in ("dm", "dc")]
        rows.append([str(part["records_per_class"]), *shares, *cosines, f"{part['chance']:.3f}", str(part["trials"])])
    header = ["n", *KINDS.values(), "cosine DM", "cosine DC", "chance", "trials"]
    picture = f"gradient_oracle/{data}.png"
    shown = f"![{title}](../benchmarks/results/{picture})" if (ROOT / picture).is_file() else ""
    said = [f"## {title}", note, shown, table(header, rows), origin(parts, f"gradient_oracle.py --data {data}")]
    return "\n\n".join(part for part in said if part) + "\n"


def distilled(data: str, note: str) -> str:
    """A row for each network, kind of image and moment."""
    parts, title = kept("gradient_oracle", f"distilled_{data}_"), f"Gradients on distilled data, {data}"
    if not parts:
        return f"## {title}\n\n{note}\n\nNot run yet: `python benchmarks/distilled_gradients.py --data {data}`.\n"
    rows = []
    for part in parts:
        told = part["settings"]
        for attack in ("dlg", "inverting_gradients"):
            found = {one["metric"]: one for one in part["findings"] if one["attack"] == attack}
            nearer = found.get("nearer_to_member")
            itself = nearer["details"]["distilled_images"] if nearer else None
            rows.append([
                told["model"], told["of"], told["at"], attack, ends(found["identification"]["estimate"], 2),
                f"{found['identification']['details']['median_mse']:.2g}",
                ends(nearer["estimate"], 2) if nearer else "", f"{nearer['p']:.3f}" if nearer else "",
                f"{itself['nearer_to_member'] / told['cases']:.2f}, p {itself['p']:.3f}" if itself else "",
            ])  # fmt: skip
    header = [
        "network", "gradient of", "weights", "attack", "identified", "median MSE", "nearer to D_k", "p", "the set itself",
    ]  # fmt: skip
    said = [f"## {title}", note, table(header, rows), origin(parts, f"distilled_gradients.py --data {data}")]
    return "\n\n".join(said) + "\n"


def origin(parts: list[Part], command: str) -> str:
    """Command, commits and machines behind a table."""
    commits = revisions(part["source"] for part in parts)
    machines = sorted({f"{part['source']['device']}, torch {part['source']['torch']}" for part in parts})
    seconds = sum(part["seconds"] for part in parts)
    return f"`python benchmarks/{command}` · commit {commits} · {'; '.join(machines)} · {seconds:.0f} s in all"


def sections() -> list[str]:
    """All of them."""
    equal = (
        "Two clients, records of one attacked; rounds by val (mean of two pilot seeds nearest to the target). One "
        "round brings much: compare protocols only where `test %` agrees. LiRA reads other scores of weights than of sets, so that "
        "column ranks no protocols; identification takes the strongest of two scores of each. Ten runs in complementary pairs; a record of each class and "
        "run is asked about (`identified`: the strongest score, Clopper-Pearson at 95 % over all scores asked), and all members for "
        "the mean beside it. `null` asks the same of another client's first round. Where the interval of `null` holds what was "
        "identified, nothing is shown to leak by this attack. Private runs: δ = 1e-5, seeded noise, a simulation."
    )
    inverse = (
        "What the server makes of ∇L on n records of a class (FedSGD's own) and of ∇L on the one image that stands for them, at the same "
        "weights (LeNet with sigmoids, U(−0.5, 0.5): inversion's best case). FedSGD is taken class by class, which favours it: it sends "
        "one gradient over all classes. Share of records named among up to 99 others of the class. "
        "Cosine: median of the oracle's gradient with the true one. `trace` asks which candidate's gradient lies in the direction."
    )
    told = (
        "DLG and Inverting Gradients on ten gradients of one image each: of the client's distilled set, and of its records for comparison. "
        "`nearer to D_k`: share of reconstructions whose nearest record of the class is the client's and not one of as many held-out ones "
        "(½ without a leak; p by permutation of membership within classes). `the set itself`: the same of the distilled images."
    )
    return [
        *(equal_utility(data, equal) for data in ("digits", "mnist")),
        *(oracle(data, inverse) for data in ("digits", "mnist", "cifar10_small")),
        *(distilled(data, told) for data in ("digits", "mnist")),
    ]
