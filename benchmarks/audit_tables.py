"""The audit's part of docs/results.md: the survey's membership table, leakage by class size, the negative control."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from result_tables import revisions, table

from fedsim.report.numbers import axis_percent, short
from fedsim.report.plots import HEIGHT, WIDTH, Axis, Series, line_chart
from fedsim.runs import write_atomic

ROOT = Path(__file__).parent
FIGURES = ROOT.parent / "docs"
STYLE = (
    "svg{{background:#fff;font-family:system-ui,sans-serif}}text{{font-size:12.5px;fill:#444}}.end{{text-anchor:end}}"
    ".middle{{text-anchor:middle}}.axis{{fill:#111}}.label{{font-weight:600}}.grid{{stroke:#ddd}}.base{{stroke:#666}}"
    ".line{{fill:none;stroke-width:2.2}}.dashed{{stroke-dasharray:5 5}}.thin{{stroke-width:1.4}}.hollow{{fill:#fff}}{}"
)
COLOURS = ("#0067a3", "#c24a00", "#007a5a", "#444a50")


def parts(group: str) -> list[dict[str, Any]]:
    """Every kept part of a group, in the order of names."""
    return [json.loads(path.read_text()) for path in sorted((ROOT / "results" / group).glob("*.json"))]


def membership() -> str:
    """A line for each release."""
    found = sorted(parts("audit_table"), key=_order)
    note = (
        "Pools of 500 members and 500 others of each class, drawn in complementary rows; ratios 0.002, 0.01, 0.02 are 1, 5 and 10 "
        "images of each class. `random` publishes that many members as they are: it is the control that has to be caught, and the loss "
        "attack's column shows what it reads there. `model` is a network trained on the 5,000 members, as “Privacy for Free” "
        "(Dong et al., ICML 2022) compares. Advantages near zero on condensed sets are that paper's evidence; Carlini, Feldman and Nasr "
        "(“No Free Lunch in ‘Privacy for Free’”, arXiv 2209.14987) answer that they are no significant evidence of privacy over a naive baseline. The "
        "loss threshold never comes from the target. `nearest`: members among the records nearest to the release, exact test over "
        "rows drawn apart. Status: Holm at 5% over the tests of a line (loss, LiRA, nearest); in brackets 95% intervals over pairs "
        "of rows, about the records of this pool. Images of CIFAR-10 are a JPEG copy."
    )
    if not found:
        return f"## The survey's membership table\n\n{note}\n\nNot run yet: `python benchmarks/membership_table.py`.\n"
    header = [
        "release",
        "test %",
        "loss: advantage %",
        "p",
        "LiRA: AUC",
        "p",
        "least AUC found",
        "TPR at 1% FPR, %",
        "nearest",
        "p",
        "status",
    ]
    rows = [_line(one) for one in found]
    bad = [f"{_name(one)}: {control['name']}" for one in found for control in one["controls"] if not control["passed"]]
    told = "Controls (membership drawn anew; published records found): " + (
        f"FAILED in {', '.join(bad)}." if bad else "all passed."
    )
    return "\n\n".join(["## The survey's membership table", note, table(header, rows), told, _settings(found)]) + "\n"


def _order(one: dict[str, Any]) -> tuple[Any, ...]:
    line = one["line"]
    return line["data"] != "mnist", ("model", "random", "dm", "dsa").index(line["method"]), line["init"], line["ipc"]


def _name(one: dict[str, Any]) -> str:
    line = one["line"]
    words = {"model": "network on the members", "random": f"random, {line['ipc']}"}
    return f"{line['data']}: " + words.get(line["method"], f"{line['method']}, {line['init']} start, {line['ipc']}")


def _line(one: dict[str, Any]) -> list[str]:
    metrics = {(*finding["id"].split(".")[:2], finding["metric"]): finding for finding in one["findings"]}
    loss, lira = metrics["loss_threshold", "loss", "advantage"], metrics["lira", "combo", "auc"]
    tpr = metrics["lira", "combo", "tpr_at_fpr_0.01"]
    near = metrics.get(("extraction", "standardised", "members_among_nearest"))
    least = lira["minimum_detectable"]
    leaks = [
        name for name, one in (("loss", loss), ("LiRA", lira), ("nearest", near)) if one and one["status"] == "LEAK"
    ]
    others = {finding["status"] for finding in (loss, lira, near) if finding} - {"LEAK"}
    status = f"LEAK ({', '.join(leaks)})" if leaks else ", ".join(sorted(others)).replace("_", " ")
    accuracy = 100 * sum(one["accuracy"]) / len(one["accuracy"])
    return [
        _name(one), f"{accuracy:.1f}", _estimate(loss, 100, 2), _p(loss), _estimate(lira, 1, 4), _p(lira),
        f"{least:.4f}" if least else "", _estimate(tpr, 100, 2), _estimate(near, 1, 2) if near else "", _p(near) if near else "", status,
    ]  # fmt: skip


def _estimate(finding: dict[str, Any], scale: float, digits: int) -> str:
    found = finding["estimate"]
    if found is None:
        return finding["note"]
    value, low, high = (f"{scale * found[key]:.{digits}f}" for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def _p(finding: dict[str, Any]) -> str:
    return "" if finding["p"] is None else f"{finding['p']:.2g}"


def _settings(found: Sequence[dict[str, Any]]) -> str:
    """Of the lines, once for each set of them, and what they were measured with."""
    about = []
    for one in found:
        chosen = one["method"]
        skipped = ("ipc", "init", "name", "augment")
        chosen = chosen | chosen.get("train", {}) | {f"networks: {k}": v for k, v in chosen.get("networks", {}).items()}
        flat = {key: value for key, value in chosen.items() if key not in skipped and not isinstance(value, dict)}
        words = ", ".join(f"{key} {value}".replace("_", " ") for key, value in flat.items())
        about.append(f"`{chosen['name']}`: {words}" if words else "")
    settings = found[0]["settings"]
    model, rest = settings["model"], {key: value for key, value in settings.items() if key != "model"}
    shared = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in rest.items())
    lines = [f"{one}." for one in dict.fromkeys(about) if one]
    attack = f"ConvNet-{model['depth']}-{model['width']}, {model['norm']} norm; {shared}."
    return " ".join([*lines, attack, _machine("python benchmarks/membership_table.py", found)])


def _machine(command: str, found: Sequence[dict[str, Any]]) -> str:
    commits = revisions(one["git"] for one in found if "git" in one)
    devices = sorted({one["machine"]["device"] for one in found if "machine" in one})
    versions = sorted({one["versions"]["torch"] for one in found if "versions" in one})
    return f"`{command}` · commit {commits} · {', '.join(devices)} · torch {', '.join(versions)}"


def leakage() -> str:
    """Identification against the number of records of a class, and the figures."""
    found = [one for one in parts("leakage") if "row" in one]
    title = "## Leakage by class size"
    note = (
        "All records of the classes condensed into one image each, from noise: how often the image names one of the n records of its class "
        "among (up to) 99 others, and the AUC of the trace in whitened random networks (`align`). Intervals are Clopper-Pearson's "
        "over classes and seeds. Theory is of the exact mean of the n records: ∫ φ(t − d′) Φ(t)^(A−1) dt, d′ = √(d_eff/n), and "
        "Φ(√(d_eff/2n))."
    )
    if not found:
        return f"{title}\n\n{note}\n\nNot run yet: `python benchmarks/leakage_by_size.py`.\n"
    header = ["data, method", "n", "trials", "nearest in pixels", "`align` names it", "exact mean names it", "theory",
              "AUC of `align`", "of the exact mean", "theory"]  # fmt: skip
    rows = []
    for one in found:
        row = one["row"]
        shares = [
            f"{row[key][0]:.2f} [{row[key][1]:.2f}, {row[key][2]:.2f}]" for key in ("pixels", "align", "exact_mean")
        ]
        areas = [f"{row[key]:.3f}" for key in ("align_auc", "exact_mean_auc", "theory_auc")]
        rows.append([f"{one['data']}, {one['method']['name']}", str(row["records_per_class"]), str(row["trials"]), *shares,
                     f"{row['theory_identified']:.2f}", *areas])  # fmt: skip
    pictures = [
        f"![Identification by class size, {data}]({figure(data, found)})"
        for data in dict.fromkeys(one["data"] for one in found)
    ]
    words = "; ".join(
        dict.fromkeys(
            f"{one['data']} {one['method']['name']}: {one['method']['iterations']} steps, {one['networks']} networks look"
            for one in found
        )
    )
    said = f"{words}. " + _machine("python benchmarks/leakage_by_size.py", found)
    return "\n\n".join([title, note, *pictures, table(header, rows), said]) + "\n"


def figure(data: str, found: Sequence[dict[str, Any]]) -> str:
    """The curves of a data set as an SVG beside the page; returns its name."""
    series: list[Series] = []
    own = {
        method: [one["row"] for one in found if (one["data"], one["method"]["name"]) == (data, method)]
        for method in ("dm", "dc")
    }
    for number, (method, rows) in enumerate(own.items()):
        moved = 1.04**number  # two whiskers of one n beside each other
        series.append(
            Series(method.upper(), [(moved * row["records_per_class"], row["align"][0]) for row in rows], number)
        )
        whiskers = [[(moved * row["records_per_class"], end) for end in row["align"][1:]] for row in rows]
        series += [Series("", ends, number, thin=True, title=f"{method.upper()}, 95% interval") for ends in whiskers]
    rows = max(own.values(), key=len)
    theory = [(row["records_per_class"], row["theory_identified"]) for row in rows]
    series.append(Series("theory", theory, 3, dashed=True, title="the exact mean, by theory"))
    x, y = Axis("records of the class, n", short, log=True), Axis("record named among 100", axis_percent, share=True)
    drawn = str(line_chart(f"Identification by class size, {data}", series, x, y))
    colours = "".join(
        f".c{place}.line{{stroke:{colour}}}.c{place}.mark{{stroke:{colour}}}.c{place}.mark:not(.hollow){{fill:{colour}}}"
        f".c{place}.label{{fill:{colour}}}"
        for place, colour in enumerate(COLOURS)
    )
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}"'
    head, _, body = drawn.partition(">")
    whole = head.replace("<svg", opening, 1) + f"><style>{STYLE.format(colours)}</style>" + body
    name = f"leakage_by_size_{data}.svg"
    write_atomic(FIGURES / name, whole + "\n")
    return name


def disjoint() -> str:
    """How often the negative control fails where it must not."""
    path, title = ROOT / "results/disjoint_control.json", "## The negative control over repeated audits"
    note = (
        "Small audits of FedDM on scikit-learn's digits, each with its own partition, rows and networks; attacked is another client's first "
        "set, which was made without the records asked about. The control passes where the attack's registered test does not reach p ≤ 0.001."
    )
    if not path.is_file():
        return f"{title}\n\n{note}\n\nNot run yet: `python benchmarks/disjoint_control.py`.\n"
    found = json.loads(path.read_text())
    names = {
        "passed": "control passes",
        "t_inside_99_9": "99.9% t interval over pairs holds ½",
        "inside_95": "the attack's 95% interval holds ½",
    }
    rows = []
    for attack, counts in found["counts"].items():
        cells = [
            f"{one['hits']} of {one['of']} [{one['interval'][0]:.3f}, {one['interval'][1]:.3f}]"
            for one in (counts[key] for key in names)
        ]
        rows.append([f"`{attack}`", *cells])
    told = (
        f"Asked for: {found['enough']} of 200. LiRA's scores use the members of other rows, so pairs are not independent and Student's t "
        "is not its interval (attacks/lira.py): its column says what t would do. "
    )
    told += f"{found['rows']} rows, {found['permutations']} drawn memberships. " + _machine(
        "python benchmarks/disjoint_control.py", [found]
    )
    return "\n\n".join([title, note, table(["attack", *names.values()], rows), told]) + "\n"


def audits() -> list[str]:
    """All sections."""
    return [membership(), leakage(), disjoint()]
