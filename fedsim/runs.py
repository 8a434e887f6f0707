"""The run directory: what a run writes, atomically, so that it can be killed at any moment and go on.

OUT/<name>/<confighash>-s<seed>/   config.yaml · manifest.json · metrics.jsonl · split.npz · checkpoints/ ·
                                   synthetic/ · clients/ · result.json · report.html
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as encode
from torch import Tensor

from fedsim.config import Section, digest, read, to_yaml, validate
from fedsim.types import UserError


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a whole file or nothing: a temporary file beside it, synced, renamed over it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        error.filename = str(path)  # none for a full disk, the temporary file for the rest
        raise
    finally:
        temporary.unlink(missing_ok=True)


def save_tensors(path: Path, tensors: dict[str, Tensor], meta: Any) -> None:
    """Tensors and a JSON value as one safetensors file, atomically."""
    plain = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    write_atomic(path, encode(plain, {"meta": json.dumps(meta)}))


def load_tensors(
    path: Path, what: str = "checkpoint", remedy: str = "delete it to go on from the one before"
) -> tuple[dict[str, Tensor], Any]:
    """What `save_tensors` wrote; a damaged or missing file is a `UserError`, with what it is and what to do."""
    try:
        with safe_open(str(path), framework="pt") as file:
            meta = json.loads((file.metadata() or {})["meta"])
            return {name: file.get_tensor(name) for name in file.keys()}, meta  # noqa: SIM118 - not a dict
    except (SafetensorError, KeyError, json.JSONDecodeError, OSError) as error:
        raise UserError(f"{what} {path} is damaged ({' '.join(str(error).split())}); {remedy}") from error


class RunDirectory:
    """One run's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def open(cls, out: Path, config: Section, name: str, seed: int, *, must_exist: bool = False) -> RunDirectory:
        """The folder of this config and seed under `out`, made if need be; config.yaml must still match its hash."""
        for folder in (out, *out.parents):
            if folder.exists() and not folder.is_dir():
                raise UserError(f"--out {out}: {folder} is a file, not a folder; give a folder or a new name")
        run = cls(out / name / f"{digest(config)}-s{seed}")
        if run.path.exists() and not run.path.is_dir():
            raise UserError(f"{run.path} is a file; move it away, the run's folder belongs there")
        kept = run.path / "config.yaml"
        if kept.exists():
            try:
                found: Any = validate(type(config), read(kept))
            except UserError as error:
                raise UserError(f"{kept} cannot be used ({error}); restore it, or give another --out") from error
            told, is_now = _identity(name, seed, config), _identity(found.name, found.seed, found)
            if is_now != told:
                raise UserError(
                    f"{kept} was changed after the run began (it is now {is_now}, the folder is {told}); "
                    "restore it, or run the changed file itself: it gets a folder of its own"
                )
        elif must_exist:
            raise UserError(f"--resume: there is no run at {run.path}; leave --resume out to start it")
        else:
            write_atomic(kept, to_yaml(config))
        return run

    @property
    def finished(self) -> bool:
        """Whether result.json is there; a damaged one is a `UserError`."""
        return (self.path / "result.json").is_file() and bool(self.read_json("result"))

    @contextmanager
    def lock(self, name: str = "") -> Iterator[None]:
        """Refuse a second process on the same folder, and one whose checkpoints are damaged, before any work.

        `name` tells the lock of who starts a run from that of who does it.
        The system releases the lock when the process dies.
        """
        with (self.path / f".{name}lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(
                    f"another process is working on {self.path}; wait for it or give another --out"
                ) from error
            if not self.finished:
                self._refuse_damaged()
            yield

    # --- metrics ---

    def metric(self, round_number: int, split: str, name: str, value: float) -> None:
        """Append one line to metrics.jsonl."""
        line = json.dumps({"round": round_number, "split": split, "name": name, "value": value})
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(line + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """All lines of metrics.jsonl; a line cut by a kill is left out."""
        path = self.path / "metrics.jsonl"
        lines = path.read_text().split("\n")[:-1] if path.is_file() else []
        return [json.loads(line) for line in lines if line]

    def forget_after(self, round_number: int) -> None:
        """Drop metrics of rounds that will be run again."""
        kept = "".join(json.dumps(line) + "\n" for line in self._metrics_until(round_number))
        write_atomic(self.path / "metrics.jsonl", kept)

    def forget_split(self, split: str) -> None:
        """Drop metrics of a set that will be made again."""
        kept = "".join(json.dumps(line) + "\n" for line in self.metrics() if line["split"] != split)
        write_atomic(self.path / "metrics.jsonl", kept)

    def _metrics_until(self, round_number: int) -> list[dict[str, Any]]:
        try:
            return [line for line in self.metrics() if line["round"] <= round_number]
        except (ValueError, KeyError, TypeError) as error:
            path = self.path / "metrics.jsonl"
            raise UserError(f"{path} is damaged ({error}); delete it to go on without its curves") from error

    # --- checkpoints ---

    def save_round(self, round_number: int, tensors: dict[str, Tensor], meta: Any) -> None:
        """Store the server's state after a round; older ones but the last are removed."""
        save_tensors(self._checkpoint(round_number), tensors, meta)
        for _, old in self._rounds()[:-2]:
            old.unlink()

    def last_round(self) -> tuple[int, dict[str, Tensor], Any] | None:
        """Number, tensors and meta of the last stored round, or None."""
        stored = self._rounds()
        return (stored[-1][0], *load_tensors(stored[-1][1])) if stored else None

    def _rounds(self) -> list[tuple[int, Path]]:
        """Stored rounds by number: in the order of names, 10000 would come before 9999."""
        found = (self.path / "checkpoints").glob("round_*.safetensors")
        numbered = [(path.stem.removeprefix("round_"), path) for path in found]
        return sorted((int(number), path) for number, path in numbered if number.isdecimal())

    def _refuse_damaged(self) -> None:
        """Read what going on would read: metrics, checkpoints of the server and of sets, the clients' next round."""
        self._metrics_until(0)
        stored = self._rounds()
        following = f"*/round_{stored[-1][0] + 1 if stored else 1:03d}/*.safetensors"
        half_done = (self.path / "checkpoints").glob("set_*/*.safetensors")
        for path in [*(path for _, path in stored[-1:]), *half_done, *(self.path / "clients").glob(following)]:
            load_tensors(path)

    def _checkpoint(self, round_number: int) -> Path:
        return self.path / "checkpoints" / f"round_{round_number:04d}.safetensors"

    # --- JSON ---

    def write_json(self, name: str, value: Any) -> None:
        """Write NAME.json atomically."""
        write_atomic(self.path / f"{name}.json", json.dumps(value, indent=2, ensure_ascii=False) + "\n")

    def read_json(self, name: str) -> Any:
        """Read NAME.json; a damaged one is a `UserError`."""
        path = self.path / f"{name}.json"
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise UserError(f"{path} does not exist; give the folder of a run") from error
        except ValueError as error:
            raise UserError(f"{path} is damaged ({error}); delete it and run again, it is written anew") from error
        if not isinstance(value, dict) or not value:
            raise UserError(f"{path} is damaged (no mapping); delete it and run again, it is written anew")
        return value


def _identity(name: str, seed: int, config: Section) -> str:
    return f"{name}/{digest(config)}-s{seed}"


def manifest(config: Section, device: str, argv: list[str]) -> dict[str, Any]:
    """Versions, commit, arguments and machine: what a reader needs to run the same again."""
    packages = ("fedsim-distill", "torch", "torchvision", "flwr", "opacus", "numpy", "scikit-learn")
    return {
        "config_hash": digest(config),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in packages},
        "git": _git(),
        "argv": argv,
        "device": device,
        "gpu": torch.cuda.get_device_name(device) if device.startswith("cuda") else None,
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "status": "running",
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git() -> dict[str, Any] | None:
    """Commit and dirty flag of the checkout this package lies in; None outside one."""
    here = Path(__file__).parent

    def ask(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        return done.stdout.strip()

    commit = ask("rev-parse", "HEAD")
    return None if commit is None else {"commit": commit, "dirty": bool(ask("status", "--porcelain"))}
