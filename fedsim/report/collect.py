"""What a run's folder says about it, in one object per run; finished, interrupted and failed runs alike.

What cannot be read becomes a note on the page.
"""

from __future__ import annotations

import json
import string
from collections.abc import Mapping, Sequence
from pathlib import Path

from fedsim.build import Parts
from fedsim.config import read, validate
from fedsim.data.images import Dataset
from fedsim.data.split import Split
from fedsim.data.synthetic import SyntheticSet
from fedsim.federated.record import read_records
from fedsim.report.view import LISTED, RunView
from fedsim.runs import RunDirectory
from fedsim.schema import Distillation, FederatedRun
from fedsim.types import UserError


def collect(paths: Sequence[Path], known: Mapping[str, Dataset] | None = None) -> list[RunView]:
    """Read the runs in `paths`, in that order; `UserError` for none, or for a folder that is no run.

    `known` are data sets in memory, by fingerprint; others are loaded.
    """
    loaded = dict(known or {})
    if not paths:
        raise UserError("no run was given; give the folder of at least one run (it holds config.yaml)")
    letters = [string.ascii_uppercase[n % 26] + str(n // 26 or "") for n in range(len(paths))]
    keys = letters if len(paths) > 1 else [""]
    return [_read_run(path, key, loaded) for path, key in zip(paths, keys, strict=True)]


def incomparable(runs: Sequence[RunView]) -> list[str]:
    """Reasons why the accuracies of these runs cannot be set against each other."""
    facts = {
        "images": [run.manifest.get("data") for run in runs],
        "scored model": [run.config["model"] for run in runs],
        "share of val": [run.config["data"].get("val") for run in runs],
        "kind of run (federated or central)": [run.federated for run in runs],
        "label regime": [run.labels for run in runs],
        "kind of training (learned steps or usual ones)": [run.learned_steps for run in runs],
    }
    return [what for what, found in facts.items() if any(one != found[0] for one in found)]


def _read_run(path: Path, key: str, loaded: dict[str, Dataset]) -> RunView:
    file = path / "config.yaml"
    if not file.is_file():
        raise UserError(f"{path} is no run's folder (it has no config.yaml); give OUT/<name>/<hash>-s<seed>")
    config = read(file)
    sections = [config.get(key) for key in ("data", "model")]
    if not {"name", "seed"} <= config.keys() or not all(isinstance(one, dict) for one in sections):
        raise UserError(f"{path} is no run's folder (its config.yaml is not a run's); give another")
    run = RunDirectory(path)
    view = RunView(path, key, config, file.read_text(encoding="utf-8"))
    if (path / "manifest.json").is_file():
        view.manifest = run.read_json("manifest")
    else:
        view.notes.append("There is no manifest.json: versions, commit and status are unknown.")
    view.result = run.read_json("result") if run.finished else None
    _read_log(run, view)
    _read_sets(view)
    _read_data(view, loaded)
    return view


def _read_log(run: RunDirectory, view: RunView) -> None:
    try:
        view.metrics = run.metrics()
    except json.JSONDecodeError as error:
        view.notes.append(f"metrics.jsonl cannot be read ({error}): its curves are missing.")
    try:
        view.records = read_records(run.path)
    except UserError as error:
        view.notes.append(f"The rounds cannot be read, so their curves and ledger are missing: {error}")


def _read_sets(view: RunView) -> None:
    """Uploads of the last finished round (of the last one begun, if none finished), or the central sets."""
    folder = view.path / "synthetic"
    if not view.federated:
        found = [_load(view, file) for file in sorted(folder.glob("set_*.safetensors"))]
        view.sets = [one for one in found if one is not None]
        return
    begun = [int(found.name.removeprefix("round_")) for found in folder.glob("round_*")]
    finished = [number for number in begun if view.records and number <= view.records[-1].round]
    view.upload_round = max(finished or begun, default=0)
    files = (folder / f"round_{view.upload_round:03d}").glob("client_*.safetensors")
    numbered = sorted((int(file.stem.removeprefix("client_")), file) for file in files)
    for client, file in numbered[:LISTED]:
        if (one := _load(view, file)) is not None:
            view.uploads[client] = one


def _load(view: RunView, file: Path) -> SyntheticSet | None:
    try:
        return SyntheticSet.load(file)
    except UserError as error:
        view.notes.append(f"A synthetic set is left out: {error}")
        return None


def _read_data(view: RunView, loaded: dict[str, Dataset]) -> None:
    """The private images and who holds them; the page says so where they are gone or have changed."""
    try:
        view.split = Split.load(view.path / "split.npz")
        expected = view.manifest.get("data")
        if expected is None:
            raise UserError("the manifest has no fingerprint to recognise them by")
        if expected not in loaded:
            schema = FederatedRun if view.federated else Distillation
            dataset = Parts(validate(schema, view.config)).dataset
            if dataset.fingerprint() != expected:
                raise UserError(f"they changed since the run (then {expected}, now {dataset.fingerprint()})")
            loaded[expected] = dataset
        view.dataset = loaded[expected]
    except (UserError, OSError) as error:
        view.notes.append(f"The private images cannot be shown for comparison: {error}")
