"""Two parts of docs/results.md: reconstruction from weight changes, and lower bounds on ε from planted records."""

from __future__ import annotations

from typing import Any

from kept_parts import ROOT, kept
from result_tables import revisions, table

from fedsim.audit.statistics.proportions import clopper_pearson


def evidence() -> list[str]:
    """Both sections."""
    return [reconstructions(), bounds()]


def reconstructions() -> str:
    """A row for each kept run of benchmarks/ntk_reconstruction.py."""
    found = kept("ntk")
    title, command = "## Reconstruction from a weight change", "`python benchmarks/ntk_reconstruction.py`"
    note = (
        "`attacks/ntk_reconstruction.py` on networks trained on few records of MNIST, each record held against 99 others of its "
        "class; the null is the mean count where others take the records' places. The residual is the largest share of a "
        "change that lies outside the gradients of its own records: above 0.2 training was not lazy and the finding is "
        "INCONCLUSIVE, whatever was named. RKIP: accuracy of networks trained on the reconstructions in the records' place, "
        "beside that of as many other records."
    )
    if not found:
        return f"{title}\n\n{note}\n\nNot run yet: {command}.\n"
    rows = [
        [
            _network(one["part"]), f"{one['part']['seeds']} × {one['part']['records']}", f"{one['residual_worst']:.3g}", one["status"],
            _share(one, "identified"), f"{100 * one['null_mean'] / one['records']:.1f}",
            _share(one, "mse_below_0.01"), _share(one, "labels_right"),
            *(f"{100 * one['accuracy'][name]:.1f}" for name in ("records", "reconstructions", "others")),
        ]
        for one in found
    ]  # fmt: skip
    header = [
        "network", "runs × records", "residual", "status", "identified %", "null %", "MSE < 0.01 %", "labels right %",
        "trained on records %", "on reconstructions %", "on others %",
    ]  # fmt: skip
    pictures = [
        f"![{_network(one['part'])}: records, reconstructions, others and what these are given]"
        f"(../benchmarks/results/ntk/{path.stem}.png)"
        for path, one in zip(sorted((ROOT / "ntk").glob("*.json")), found, strict=True)
    ]
    said = "Pictures, a run each: records, what was made of them, others in their place, and what is nearest to those."
    commits = revisions(found)  # which say nothing of changes
    return "\n\n".join([title, note, table(header, rows), said, *pictures, f"{command} · commit {commits}"]) + "\n"


def _network(part: dict[str, Any]) -> str:
    how = "linearised" if part["linear"] else "trained"
    return (
        f"{part['task']}, {part['network']} {part['width'] if part['network'] == 'wide' else ''}".rstrip() + f", {how}"
    )


def _share(one: dict[str, Any], name: str) -> str:
    found = clopper_pearson(one[name], one["records"])
    return f"{100 * found.value:.0f} [{100 * found.low:.0f}, {100 * found.high:.0f}]"


def bounds() -> str:
    """A row for each kept audit of benchmarks/one_run_audit.py."""
    title, command = "## Lower bounds on ε from one run", "`python benchmarks/one_run_audit.py`"
    found = sorted(kept("one_run"), key=lambda one: (one["setting"]["kind"] != "crafted", one["setting"]["epsilon"]))
    note = (
        "Private FedDM on MNIST (`privacy: features`, ten clients, δ = 1e-5), records planted and decoded from every noisy sum; one "
        "test at 0.1 % decides whether the claim is contradicted, at 95 % ε is at least the bound. What could be shown at the "
        "most with so many guesses stands beside it."
    )
    if not found:
        return f"{title}\n\n{note}\n\nNot run yet: {command}.\n"
    rows = [
        [
            one["setting"]["kind"], one["setting"]["partition"], f"{one['setting']['epsilon']:g}",
            str(one["found"]["canaries"]), f"{one['found']['right']} of {one['found']['guesses']}",
            f"{one['found']['epsilon_lower']:.2f}", f"{one['found']['epsilon_max']:.2f}",
            "yes" if one["found"]["contradicted"] else "no",
        ]
        for one in found
    ]  # fmt: skip
    header = [
        "planted",
        "partition",
        "ε claimed",
        "records",
        "right",
        "ε at least",
        "at the most shown",
        "contradicted",
    ]
    commits = revisions(one["git"] for one in found)
    return "\n\n".join([title, note, table(header, rows), f"{command} · commit {commits}"]) + "\n"
