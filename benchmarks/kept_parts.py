"""Parts of a benchmark, each a small JSON that is written once, whole, with the machine and the commit it came from."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from provenance import facts

from fedsim.compute import Compute, settle
from fedsim.config import Section, dump
from fedsim.runs import write_atomic
from fedsim.types import UserError

ROOT = Path(__file__).parent / "results"


def chosen_device(name: str) -> torch.device:
    """`auto`, `cpu`, `cuda` or `cuda:1` as a device of this machine; `UserError` where it is not there."""
    return torch.device(settle(Compute(device=name)).device)


def arguments(doc: str | None, parts: Sequence[str]) -> argparse.ArgumentParser:
    """What every benchmark of parts on digits or MNIST asks for: data, parts, device, scratch folder."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--data", choices=("digits", "mnist"), default="digits")
    parser.add_argument("--parts", nargs="+", choices=parts, default=list(parts))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--scratch", type=Path, default=Path("runs/equal_utility"))
    return parser


def settings(config: Section) -> dict[str, Any]:
    """Every setting of a config, defaults too, for what a part remembers; not those that came later and are unused."""
    fields, found = type(config).model_fields, dump(config)
    return {
        name: settings(inner) if isinstance(inner := getattr(config, name), Section) else found[name]
        for name in found
        if name not in config.later or getattr(config, name) != fields[name].get_default()
    }


def run_or_exit(main: Callable[[], None]) -> None:
    """Run it; wrong input is one line and exit 2."""
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error


def provenance(device: torch.device) -> dict[str, Any]:
    """Device, versions and commit; asked for before a result makes the checkout another."""
    found = facts(str(device))
    return {**found["machine"], "torch": torch.__version__, **found["git"]}


def keep(
    path: Path, source: dict[str, Any], asked: dict[str, Any], work: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """The part at `path`, made by `work` unless it is there; a killed run leaves no half of one."""
    if there(path, asked):
        print(f"{path.stem}: kept", flush=True)
        return json.loads(path.read_text())
    started = time.monotonic()
    found = work()
    found = {"source": source, "asked": asked, "seconds": round(time.monotonic() - started, 1), **found}
    write_atomic(path, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    print(f"{path.stem}: {found['seconds']} s", flush=True)
    return found


def there(path: Path, asked: dict[str, Any]) -> bool:
    """Whether the part is kept; `UserError` where it was made under other settings than `asked`."""
    if not path.is_file():
        return False
    given = json.loads(path.read_text()).get("asked", {})
    plain = json.loads(json.dumps(asked))
    if odd := sorted(key for key in plain | given if plain.get(key) != given.get(key)):
        raise UserError(f"{path}: kept under other settings ({', '.join(odd)}); remove it to make it again")
    return True


def parts_of_seeds(
    doc: str | None,
    folder: Path,
    data: Sequence[str],
    parts: Mapping[str, Callable[[argparse.Namespace, int], dict[str, Any]]],
    asked: Callable[[str, str], dict[str, Any]],
) -> None:
    """The command of a benchmark whose parts are each of one seed: kept as `folder`/DATA_PART_sSEED.json."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--data", choices=tuple(data), default="digits")
    parser.add_argument("--parts", nargs="+", help=f"of {', '.join(parts)}")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--scratch", type=Path, default=Path("runs") / folder.name)
    given = parser.parse_args()
    torch.set_num_threads(1)
    device = chosen_device(given.device)
    given.device = str(device)
    source = provenance(device)
    for one in (folder, given.scratch):
        one.mkdir(parents=True, exist_ok=True)
    for part in chosen(tuple(parts), given.parts):
        for seed in range(given.seeds):
            path = folder / f"{given.data}_{part}_s{seed}.json"
            keep(path, source, asked(part, given.data), lambda part=part, seed=seed: parts[part](given, seed))


def alike(name: str, settings: Sequence[dict[str, Any]], free: Sequence[str] = ()) -> dict[str, Any]:
    """What these parts, of one table, were all made under: the first of their settings; `UserError` where others differ.

    Not compared: `free`.
    """
    first = settings[0]
    for one in settings[1:]:
        if odd := sorted(key for key in first | one if key not in free and first.get(key) != one.get(key)):
            raise UserError(f"{name}: kept parts of different settings ({', '.join(odd)}); remove those that are stale")
    return first


def chosen(parts: Sequence[str], words: Sequence[str] | None) -> list[str]:
    """The parts whose names begin with one of the words, all without words; `UserError` for a word that fits none."""
    begins = {word: [part for part in parts if f"{part}_".startswith(f"{word}_")] for word in words or parts}
    if odd := [word for word, found in begins.items() if not found]:
        raise UserError(f"--parts {odd[0]}: no such part; valid: beginnings of {', '.join(parts)}")
    asked = {part for found in begins.values() for part in found}
    return [part for part in parts if part in asked]


def kept(folder: str, prefix: str = "") -> list[dict[str, Any]]:
    """Every part of a folder of results whose name begins so, by name."""
    return [json.loads(path.read_text()) for path in sorted((ROOT / folder).glob(f"{prefix}*.json"))]
