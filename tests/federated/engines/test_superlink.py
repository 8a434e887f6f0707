"""A real SuperLink and real SuperNodes on the loopback interface."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fedsim.cli import main
from fedsim.federated.engines import certificates, keeper
from fedsim.federated.engines.base import Launch
from fedsim.federated.engines.deployment import Deployment
from fedsim.federated.engines.processes import Processes
from fedsim.federated.engines.submission import Flwr, prepare
from fedsim.federated.engines.superlink import Config, SuperLink
from fedsim.types import RunFailed, UserError
from tests.federated.engines.test_keeper import alive
from tests.reference.tiny_run import TINY

SCAFFOLD = ["algorithm=scaffold", "method=null", "server=null"]
PRIVATE = [
    "privacy={name: features, target_epsilon: 8.0, public_bound: 2000, noise: seeded}", "method.batch_real=0",
]  # fmt: skip
SECONDS = 300.0
"""When a test stops waiting for a state; many times what it takes."""


def result(run: Path) -> dict:
    return json.loads((run / "result.json").read_text())


# --- a run ---


@pytest.mark.superlink
def test_one_hash_and_one_ledger_over_tls_with_two_nodes_that_serve_four_clients(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(TINY)
    words = ["run", "tiny.yaml", "partition.clients=4", "faults=[{name: raise, client: 3, round: 1}]"]
    words += ["compute.workers=0", "rounds=1", "controls.without_attackers=false"]
    words += ["attackers=[{name: doorping, clients: [1], size: 2, iterations: 3, every: 1}]"]
    assert main([*words, "--out", "here"]) == 0
    (local,) = Path("here").glob("*/*")
    words += ["engine.name=superlink", "engine.security=tls_auth", "participation.per_node=2"]
    capsys.readouterr()
    assert main([*words, "--out", "there"]) == 0
    said = capsys.readouterr()
    (run,) = Path("there").glob("*/*")
    assert said.out.splitlines()[-1] == str(run)
    for key in ("model_sha256", "uplink_bytes", "downlink_bytes", "clients_failed", "uploads_rejected", "accuracy"):
        assert result(run)[key] == result(local)[key], key
    (first,) = map(json.loads, (run / "rounds.jsonl").read_text().splitlines())
    assert first["failed"] == {"3": "RuntimeError: planned fault: client 3 raises in round 1"}
    assert "round 1/1: accuracy on val" in said.err
    facts = json.loads((run / "manifest.json").read_text())
    assert facts["status"] == "finished"
    assert facts["argv"] == sys.argv[1:]
    assert keeper.marked(str(run.resolve())) == []
    assert main([*words, "--out", "there"]) == 0  # finished: nothing is started
    assert "is finished already" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.superlink
@pytest.mark.parametrize(
    ("number", "code", "status", "algorithm"),
    [
        (signal.SIGINT, 130, "interrupted", []),
        (signal.SIGKILL, -9, "running", []),
        (signal.SIGKILL, -9, "running", SCAFFOLD),
        (signal.SIGKILL, -9, "running", PRIVATE),
    ],
    ids=["interrupted", "killed", "killed, with control variates", "killed, with ledgers"],
)
def test_a_run_that_is_cut_off_leaves_no_process_and_goes_on(
    tmp_path: Path, number: signal.Signals, code: int, status: str, algorithm: list[str]
) -> None:
    """The SuperNodes that go on are new processes; they find what those before them remembered, and paid."""
    (tmp_path / "tiny.yaml").write_text(TINY)
    words = ["run", "tiny.yaml", "engine=superlink", "rounds=4", *algorithm, "--out", "runs"]
    command = [sys.executable, "-m", "fedsim", *words]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=environment) as process:
        wait_until(lambda: list(tmp_path.glob("runs/*/*/checkpoints/round_0001.safetensors")), "round 1 was not stored")
        (run,) = tmp_path.glob("runs/*/*")
        started = keeper.marked(str(run.resolve()))
        assert len(started) >= 6  # a SuperLink, two SuperNodes, what they start
        process.send_signal(number)
        process.communicate()
    assert process.returncode == code
    wait_until(lambda: not any(alive(pid) for pid in started), "processes outlive the run")
    assert json.loads((run / "manifest.json").read_text())["status"] == status
    subprocess.run([*command, "--resume"], cwd=tmp_path, check=True, env=environment)
    local = [word for word in words if word != "engine=superlink"]
    subprocess.run([sys.executable, "-m", "fedsim", *local], cwd=tmp_path, check=True, env=environment)
    found = [result(path) for path in tmp_path.glob("runs/*/*")]
    assert len(found) == 2
    for key in ("model_sha256", "uplink_bytes", "downlink_bytes"):
        assert found[0][key] == found[1][key], key
    for one in found if algorithm is PRIVATE else []:  # killed between charge and store, a release is paid again
        assert one["privacy"]["ledgers"] == 2
        assert one["epsilon"] >= one["privacy"]["planned_epsilon"] * (1 - 1e-9)


def wait_until(done: Callable[[], object], otherwise: str) -> None:
    until = time.monotonic() + SECONDS
    while not done():
        assert time.monotonic() < until, otherwise
        time.sleep(0.1)


# --- who may come in ---


@pytest.fixture
def link(tmp_path: Path) -> Iterator[Deployment]:
    """A SuperLink that asks for keys, and the keys and certificates of another one in `wrong`."""
    certificates.make(tmp_path / "right", 1)
    certificates.make(tmp_path / "wrong", 1)
    with Processes(tmp_path, 1) as processes:
        made = Deployment(processes, 1, tmp_path, tmp_path / "right", authenticated=True, port=None, timeout=SECONDS)
        made.start_link()
        yield made


@pytest.mark.superlink
def test_wrong_certificates_and_unknown_keys_are_refused(link: Deployment, tmp_path: Path) -> None:
    prepare(link.processes.logs, link.address, tmp_path / "wrong" / certificates.CA, {})
    with pytest.raises(RunFailed, match="flwr list fedsim failed: Connection to the SuperLink is unavailable"):
        Flwr(link.processes).run(["list", "fedsim"])
    reasons = {certificates.CA: "CERTIFICATE_VERIFY_FAILED", "node_0.key": "Failed to activate SuperNode"}
    for file, reason in reasons.items():
        right, wrong = (str(tmp_path / folder / file) for folder in ("right", "wrong"))
        command = [word.replace(right, wrong) for word in link._node_command(0)]
        assert wrong in command
        node = link.processes.start(file, command)
        assert node.wait(timeout=SECONDS) != 0
        assert reason in (link.processes.logs / f"{file}.log").read_text()


# --- what is refused before anything is started ---


def launch(tmp_path: Path) -> Launch:
    return Launch(tmp_path, {}, nodes=1, threads=1, say=lambda _: None)


@pytest.mark.parametrize(
    ("config", "line"),
    [
        (Config(address="host:1", port=2), "engine.port is of a SuperLink started here"),
        (Config(address="host:1", security="tls"), "needed to trust the SuperLink at engine.address"),
        (Config(address="host:1", security="tls", certificates="nowhere"), "nowhere/ca.crt does not exist"),
        (Config(security="tls", certificates="nowhere"), "has no ca.crt; make such a folder with"),
    ],
)
def test_settings_that_do_not_fit(config: Config, line: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=line):
        SuperLink(config).launch(launch(tmp_path))


def test_nobody_at_the_address_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"the SuperLink did not take the run: .*unavailable"):
        SuperLink(Config(address="127.0.0.1:1")).launch(launch(tmp_path))
