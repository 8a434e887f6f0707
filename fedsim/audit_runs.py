"""The runs of an audit, several at a time, each in a process with one thread that ends when the audit does.

`python -m fedsim.audit_runs FOLDER NUMBER OF` is such a process: it does every OF-th of what `FOLDER/plan/` lists.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from fedsim.audit.plans import Plans
from fedsim.console import Terminal
from fedsim.experiment import execute
from fedsim.federated.engines.processes import Processes
from fedsim.schema import load_run
from fedsim.types import RunFailed, UserError
from fedsim.verdict import WRONG_INPUT, verdict

LOOK = 0.2
"""Seconds between two looks at what is done."""


def make(folder: Path, workers: int, terminal: Terminal) -> None:
    """Make every run of the plan that is not there; what a cut-off audit left is gone on with."""
    plans = Plans(folder)
    todo, total = plans.missing(), len(plans.names())
    if not todo:
        return
    terminal.say(f"{len(todo)} of {total} runs to make, {min(workers, len(todo))} at a time")
    with Processes(folder, threads=1) as processes:
        python, count = Path(sys.executable).name, min(workers, len(todo))
        started = [
            processes.start(
                f"runs-{number}", [python, "-m", "fedsim.audit_runs", str(folder.resolve()), str(number), str(count)]
            )
            for number in range(count)
        ]
        while any(process.poll() is None for process in started):
            terminal.bar("runs", total - len(plans.missing()), total)
            if any(process.poll() for process in started):  # one failed: the others would only be waited for
                break
            time.sleep(LOOK)
        codes = [process.poll() for process in started]
        logs = [processes.logs / f"runs-{number}.log" for number in range(count)]
    _raise(codes, logs)
    terminal.bar("runs", total, total)


def _raise(codes: list[int | None], logs: list[Path]) -> None:
    """The error of the first process that failed, with what it said last."""
    for code, log in zip(codes, logs, strict=True):
        if code:
            said = log.read_text(errors="replace").strip().rpartition("\n")[2]
            raise (UserError if code == WRONG_INPUT else RunFailed)(f"{said} (its progress: {log})")


def work(folder: Path, number: int, of: int) -> None:
    """Every `of`-th run of what is missing when this begins."""
    plans = Plans(folder)
    for name in plans.names()[number::of]:
        if name in plans.missing():
            print(f"{name}:", file=sys.stderr, flush=True)  # noqa: T201 - the log of this process
            plans.finish(name, execute(load_run(plans.config(name)), folder / "runs"))


def main() -> int:
    """Entry point of a process that makes runs."""
    try:
        work(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
    except Exception as error:  # noqa: BLE001 - its last line is what the audit says
        text, code = verdict(error)
        print(text, file=sys.stderr)  # noqa: T201
        return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
