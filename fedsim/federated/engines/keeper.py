"""A process that outlives its parent by a moment, to end what the parent started: `python keeper.py MARK`.

Every process that fedsim starts for a run carries MARK in its environment, and so do all that come from it, whatever
session or parent they end up with. The keeper reads its standard input, which only the parent can write to: when that
ends, the parent is gone, however it went, and everything that carries the mark is ended. A line on it is the number of
a process group, for systems that do not show the environment of a process (/proc).

It stands alone and imports nothing of this project, so that it starts in a moment.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

VARIABLE = "FEDSIM_RUN"
"""Name of the environment variable that holds the mark."""

LOOKS = 3
"""Looks in a row that must find nothing: a process that is just being started shows no environment for a moment."""


def marked(mark: str) -> list[int]:
    """Processes that carry `mark`, but for this one."""
    wanted = f"{VARIABLE}={mark}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended, or is another user's
            if wanted in (folder / "environ").read_bytes().split(b"\0") and int(folder.name) != os.getpid():
                found.append(int(folder.name))
    return found


def end(mark: str, groups: list[int] | None = None) -> list[int]:
    """Kill every process that carries `mark`, and those they start meanwhile; returns which they were."""
    for group in groups or []:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
    ended: dict[int, None] = {}
    quiet = 0
    while quiet < LOOKS:
        alive = [process for process in marked(mark) if process not in ended]
        for process in alive:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
            ended[process] = None
        quiet = 0 if alive else quiet + 1
        time.sleep(0.02)
    return list(ended)


def main() -> None:
    """Wait for the end of the parent, then end the rest."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups = [int(line) for line in sys.stdin]
    end(sys.argv[1], groups)


if __name__ == "__main__":
    main()
