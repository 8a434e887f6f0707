"""What a killed run started is ended, by the mark in its environment; nothing else is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedsim.federated.engines import keeper

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="the environment of a process is secret"
)
SLEEPER = [sys.executable, "-S", "-c", "import sys; print(flush=True); sys.stdin.read()"]


def sleeper(mark: str | None, *, session: bool = False) -> subprocess.Popen[bytes]:
    """A process that waits for the end of its input, started when this returns."""
    environment = {key: value for key, value in os.environ.items() if key != keeper.VARIABLE}
    environment |= {} if mark is None else {keeper.VARIABLE: mark}
    process = subprocess.Popen(
        SLEEPER, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=session
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_only_what_carries_the_mark_is_ended_whatever_its_session(tmp_path: Path) -> None:
    mark = str(tmp_path)
    ours, detached = sleeper(mark), sleeper(mark, session=True)
    others = [sleeper(None), sleeper(mark + "/other"), sleeper("x")]
    try:
        assert set(keeper.marked(mark)) == {ours.pid, detached.pid}
        assert set(keeper.end(mark)) == {ours.pid, detached.pid}
        assert ours.wait() == detached.wait() == -signal.SIGKILL
        assert all(other.poll() is None for other in others)
        assert keeper.end(mark) == []
    finally:
        for process in (ours, detached, *others):
            process.kill()
            process.communicate()


def test_a_group_is_ended_by_its_number(tmp_path: Path) -> None:
    process = sleeper(None, session=True)
    keeper.end(str(tmp_path), [process.pid])
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    keeper.end(str(tmp_path), [process.pid])  # it is gone, and that is no error


PARENT = """
import subprocess, sys
from pathlib import Path
from fedsim.federated.engines.processes import Processes
with Processes(Path(sys.argv[1]), 1) as processes:
    process = processes.start("sleeper", ["python", "-c", "import time; time.sleep(600)"])
    print(process.pid, processes._keeper.pid, flush=True)
    sys.stdin.read()
"""


def test_a_parent_that_is_killed_takes_what_it_started_along(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PARENT, str(tmp_path)]
    root = str(Path(__file__).parents[3])
    parent = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": root}, text=True
    )
    assert parent.stdout is not None
    started, its_keeper = map(int, parent.stdout.readline().split())
    assert started in keeper.marked(str(tmp_path))
    parent.kill()
    parent.communicate()
    until = time.monotonic() + 60
    while alive(started) or alive(its_keeper):
        assert time.monotonic() < until, "what the parent started outlives it"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    """Whether it runs; one that ended and that nobody has asked about yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
