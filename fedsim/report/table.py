"""Runs as one table for a paper: a row per config, its seeds together, each beside its control.

Accuracies are in percent. A config run with several seeds has a Student-t interval over seeds; a single run keeps the
interval of its own result, and the column `over` says over what: sets, networks or test images. The difference to the
control is paired where seeds pair it, otherwise Welch's over sets and control networks.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fedsim.config import Raw, read
from fedsim.report.rows import FORMATS, Row, markdown
from fedsim.report.view import adversaries
from fedsim.runs import RunDirectory, write_atomic
from fedsim.training.intervals import Interval, difference_ci, over_seeds
from fedsim.types import UserError

OF_SWEEPS = ("sweep.json", "sweep.html")
"""What a sweep writes beside its runs, so that `runs/*/*` names it too."""

LeftOut = dict[str, list[Path]]
"""Why → what is left out for that reason."""


def runs_among(paths: Sequence[Path]) -> tuple[list[Path], LeftOut]:
    """Folders of runs, and what lies beside such: files of sweeps, audits. `UserError` where there is something else,
    or no run."""
    left: LeftOut = {}
    runs = []
    for path in paths:
        if path.name in OF_SWEEPS and path.is_file():
            left.setdefault("no run but what a sweep writes beside its runs", []).append(path)
        elif not (path / "config.yaml").is_file():
            inside = f"; there are runs in it: give {path}/*" if list(path.glob("*/config.yaml")) else ""
            raise UserError(
                f"{path} is no run's folder (it has no config.yaml){inside}; give OUT/<name>/<hash>-s<seed>"
            )
        elif not (path / "result.json").is_file() and "attacks" in read(path / "config.yaml"):
            left.setdefault("no run but an audit, which has a card of its own", []).append(path)
        else:
            runs.append(path)
    if not runs:
        told = "; ".join(f"{found[0]} is {why}" for why, found in left.items())
        raise UserError(f"{told or 'no run was given'}; give OUT/<name>/<hash>-s<seed>")
    return runs, left


def finished(paths: Sequence[Path]) -> tuple[list[Path], LeftOut]:
    """Runs with a result, and what is left out; `UserError` as of `runs_among`, or where none is finished."""
    runs, left = runs_among(paths)
    done = [path for path in runs if RunDirectory(path).finished]
    if not done:
        raise UserError(f"{runs[0]} is not finished and has no result; run its config again")
    without = [path for path in runs if path not in done]
    return done, left | ({"not finished": without} if without else {})


def said(left: LeftOut) -> list[str]:
    """What was left out, a line for each reason."""
    return [
        f"left out, {why}: {', '.join(map(str, paths[:3]))}" + (f" and {len(paths) - 3} more" if paths[3:] else "")
        for why, paths in left.items()
    ]


def rows(paths: Sequence[Path]) -> list[Row]:
    """A row per config of the finished runs in `paths`, in the order of their first."""
    groups: dict[str, list[tuple[Raw, dict[str, Any]]]] = {}
    for path in dict.fromkeys(one.resolve() for one in finished(paths)[0]):
        config, result = _read(path)
        same = {key: value for key, value in config.items() if key not in {"seed", "engine", "checkpoint_every"}}
        groups.setdefault(json.dumps(same, sort_keys=True), []).append((config, result))
    return [row for group in groups.values() for row in (_row(group), *_architectures(group))]


def write_table(paths: Sequence[Path], out: Path | None) -> str:
    """The table as text, in the format of `out`'s suffix (Markdown without `out`); written there too."""
    form = FORMATS.get(out.suffix) if out is not None else markdown
    if form is None:
        raise UserError(f"--out {out}: a table is written as {', '.join(FORMATS)}; give a file with such a suffix")
    text = form(rows(paths))
    if out is not None:
        write_atomic(out, text)
    return text


def _read(path: Path) -> tuple[Raw, dict[str, Any]]:
    run = RunDirectory(path)
    manifest = run.read_json("manifest") if (path / "manifest.json").is_file() else {}
    return read(path / "config.yaml"), run.read_json("result") | {"config_hash": manifest.get("config_hash", "")}


def _row(group: Sequence[tuple[Raw, dict[str, Any]]]) -> Row:
    config, first = group[0]
    results = [result for _, result in group]
    mean, ci, n, over = _accuracy(results)
    control, difference, apart = _control(results)
    chosen = [config.get(section) for section in ("algorithm", "method")]
    return Row(
        run=str(config["name"]),
        hash=first["config_hash"],
        data=data_label(config["data"]),
        model=model_label(config["model"]),
        method=" · ".join([*(str(part["name"]) for part in chosen if part), *adversaries(config).values()]),
        ipc=str((config.get("method") or {}).get("ipc", "")),
        labels=str(first["protocol"].get("labels", "hard")) + _by_learned_steps(first["protocol"]),
        rounds=str(first["rounds"] or ""),
        n=n,
        over=over,
        accuracy=_with_interval(mean, ci),
        control=_percent(control) + _apart(first) if control is not None else "",
        difference=_with_interval(difference, apart, sign=True) if difference is not None else "",
        uplink_mb=_mean(results, "uplink_bytes", 1e6) if first["rounds"] else "",
        downlink_mb=_mean(results, "downlink_bytes", 1e6) if first["rounds"] else "",
        client_flops=_mean(results, "client_flops"),
        seconds=_mean(results, "wall_seconds", form=".0f"),
        set_kb=f"{first['storage_bits'] / 8000:.4g}" if "storage_bits" in first else "",
        label_robust=_measured(results, "ranking", lambda found: found["lrs"]),
        augmentation_robust=_measured(results, "ranking", lambda found: found["ars"]),
        cosine=_measured(results, "diversity", _cosine),
    )


def _mean(results: Sequence[dict[str, Any]], name: str, unit: float = 1.0, form: str = ".3g") -> str:
    """Mean over seeds of a number that all of them have; else empty."""
    found = [one[name] for one in results if name in one]
    return f"{sum(found) / len(found) / unit:{form}}" if found and len(found) == len(results) else ""


def _measured(results: Sequence[dict[str, Any]], what: str, value: Callable[[Any], float | None]) -> str:
    """Mean over seeds of what every one of them measured; else empty."""
    found = [value(result[what]) if result.get(what) else None for result in results]
    known = [one for one in found if one is not None]
    return f"{sum(known) / len(known):.4f}" if found and len(known) == len(found) else ""


def _cosine(diversity: dict[str, Any]) -> float | None:
    means = [one["mean"] for one in diversity["sets"]]
    return None if None in means else sum(means) / len(means)


def _architectures(group: Sequence[tuple[Raw, dict[str, Any]]]) -> list[Row]:
    """A row for each further architecture that the sets of a config were scored with."""
    found = []
    for place, model in enumerate(group[0][0].get("architectures", ())):
        only = {"ranking": None, "diversity": None}  # measured with the first architecture
        other = [
            (config | {"model": model}, result | result["architectures"][place] | only) for config, result in group
        ]
        found.append(_row(other))
    return found


def _accuracy(results: Sequence[dict[str, Any]]) -> tuple[float, Interval | None, int, str]:
    """Mean, interval, values, and what they are."""
    if len(results) == 1:
        (one,) = results
        ci = one["accuracy_ci"]
        number, _, what = str(one["accuracy_over"]).partition(" ")
        return one["accuracy"], (ci[0], ci[1]) if ci else None, int(number), what
    mean, ci = over_seeds([result["accuracy"] for result in results])
    return mean, ci, len(results), "seeds"


def _control(results: Sequence[dict[str, Any]]) -> tuple[float | None, float | None, Interval | None]:
    """The first control's accuracy, and the difference to it with its interval."""
    bound = "centralised"  # no control: it has all images
    named = [next((one for name, one in result["controls"].items() if name != bound), None) for result in results]
    controls = [one for one in named if one is not None]
    if len(controls) < len(results):
        return None, None, None
    values = [one["accuracy"] for one in controls]
    mean = sum(values) / len(values)
    if len(results) > 1:
        return mean, *over_seeds([result["accuracy"] - value for result, value in zip(results, values, strict=True)])
    ours, theirs = results[0].get("accuracy_values"), controls[0].get("values")
    if not ours or not theirs:
        return mean, results[0]["accuracy"] - mean, None
    sets = [sum(row) / len(row) for row in ours] if len(ours) > 1 else ours[0]
    return mean, *difference_ci(sets, [value for row in theirs for value in row])


def _apart(result: dict[str, Any]) -> str:
    """The first control's label regime where it is another than the result's."""
    control = next(iter(result["controls"].values()), {})
    ours, theirs = result["protocol"].get("labels", "hard"), control.get("labels", "hard")
    usual = " (usual steps)" if "steps" in control else ""
    return f" ({theirs} labels)" if "labels" in control and ours != theirs else usual


def _by_learned_steps(protocol: Raw) -> str:
    """What is added to the label regime where a set is trained on by steps that were learned with it."""
    return ", learned steps" if protocol.get("steps") == "learned" else ""


def data_label(data: Raw) -> str:
    """`cifar10`, or `cifar10, ZCA 0.1` where networks see whitened images."""
    return f"{data['name']}, ZCA {data['zca']:g}" if data.get("zca") else str(data["name"])


def model_label(model: Raw) -> str:
    """`convnet-3-128 instance`: name, depth and width where it has them, norm."""
    size = [str(model[key]) for key in ("name", "depth", "width") if key in model]
    return " ".join(["-".join(size), *([str(model["norm"])] if "norm" in model else [])])


def _percent(value: float, *, sign: bool = False) -> str:
    return f"{100 * value:+.2f}" if sign else f"{100 * value:.2f}"


def _with_interval(value: float, ci: Interval | None, *, sign: bool = False) -> str:
    middle = _percent(value, sign=sign)
    return middle if ci is None else f"{middle} [{_percent(ci[0], sign=sign)}, {_percent(ci[1], sign=sign)}]"
