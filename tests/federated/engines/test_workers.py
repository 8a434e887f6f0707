"""Worker processes: whatever a client app does, its message is answered; and no worker outlives its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing.connection import wait
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from flwr.common.constant import ErrorCode

from fedsim.federated.engines.workers import RUN_ID, Worker, identify

APP = "tests.federated.engines.apps:app"
ROOT = Path(__file__).parents[3]
NODE, RUN = {"partition-id": 3, "num-partitions": 8}, {"greeting": "grüß"}


def ask(what: str, content: RecordDict | None = None) -> Message:
    identify(0)
    content = content or RecordDict()
    content["ask"] = ConfigRecord({"do": what})
    return Message(content, 4, MessageType.TRAIN, group_id="1")


def answered(worker: Worker, message: Message) -> tuple[Message, list[tuple[int, int, int, float | None]]]:
    worker.send(message, NODE, RUN)
    heard = []
    until = time.monotonic() + 60
    while time.monotonic() < until:
        wait([worker.connection], 1)
        reply, progress = worker.poll()
        heard += progress
        if reply is not None:
            assert reply.metadata.reply_to_message_id == message.metadata.message_id
            return reply, heard
    raise AssertionError("no answer in a minute")


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    handle = Worker(APP, threads=1)
    yield handle
    handle.kill()


def test_a_message_is_answered_by_a_process_that_knows_its_node(worker: Worker) -> None:
    reply, _ = answered(worker, ask("echo"))
    seen = reply.content.config_records["seen"]
    assert seen["pid"] not in {os.getpid(), 0}
    assert (seen["partition"], seen["partitions"], seen["greeting"], seen["node"]) == (3, 8, "grüß", 4)
    assert reply.metadata.run_id == RUN_ID
    assert worker.message is None
    assert worker.expired(0.0) is None


def test_arrays_come_back_as_they_went(worker: Worker) -> None:
    values = {
        "float": np.random.default_rng(0).normal(size=(300, 400)),
        "byte": np.arange(6, dtype=np.uint8).reshape(2, 3),
    }
    content = RecordDict({"arrays": ArrayRecord({name: Array(value) for name, value in values.items()})})
    reply, _ = answered(worker, ask("echo", content))
    for name, value in values.items():
        back = reply.content.array_records["arrays"][name].numpy()
        assert back.dtype == value.dtype
        assert np.array_equal(back, value)


def test_an_exception_becomes_the_error_reply_and_the_worker_lives(worker: Worker) -> None:
    before, _ = answered(worker, ask("echo"))
    reply, _ = answered(worker, ask("raise"))
    assert reply.has_error()
    assert reply.error.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION
    assert "ValueError: as\nasked" in str(reply.error.reason)
    after, _ = answered(worker, ask("echo"))
    assert after.content.config_records["seen"]["pid"] == before.content.config_records["seen"]["pid"]


def test_progress_is_heard_while_it_works(worker: Worker) -> None:
    reply, heard = answered(worker, ask("progress"))
    assert not reply.has_error()
    assert heard == [(3, 1, 2, 0.5), (3, 2, 2, None)]


def test_a_message_grows_old(worker: Worker) -> None:
    message = ask("echo")
    worker.send(message, NODE, RUN)
    assert worker.expired(60.0) is None
    time.sleep(0.05)
    late = worker.expired(0.01)
    assert late is not None
    assert late.error.code == ErrorCode.REPLY_MESSAGE_UNAVAILABLE
    assert "no reply within 0.01 s" in str(late.error.reason)
    assert late.metadata.reply_to_message_id == message.metadata.message_id
    wait([worker.connection], 30)
    assert worker.poll()[0] is not None


def test_death_becomes_the_error_reply(worker: Worker) -> None:
    """Last of the module: it ends the shared worker."""
    reply, _ = answered(worker, ask("die"))
    assert reply.error.code == ErrorCode.CLIENT_APP_CRASHED
    assert "exit code 7" in str(reply.error.reason)
    late, _ = answered(worker, ask("echo"))
    assert late.error.code == ErrorCode.CLIENT_APP_CRASHED


PARENT = """
import sys, time
from fedsim.federated.engines.local import LocalGrid
if __name__ == "__main__":
    grid = LocalGrid("tests.federated.engines.apps:app", {}, {}, nodes=1, workers=1, threads=1, timeout=60.0)
    print(grid._workers[0]._process.pid, flush=True)
    time.sleep(120)
"""


def lives(pid: int) -> bool:
    """Whether a process still runs; an orphan that nobody has collected yet does not."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks /proc whether a process lives")
def test_workers_die_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert lives(pid)
        time.sleep(1.0)  # in the middle of its imports, or waiting for a message
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.communicate()
    until = time.monotonic() + 15
    while lives(pid) and time.monotonic() < until:
        time.sleep(0.1)
    assert not lives(pid)
