"""One hash on three engines, and a SuperLink treated badly: `python benchmarks/engines.py [hash] [algorithms] [faults]`.

`hash`    the digits quickstart with 2 and 10 clients on local, ray and superlink (2 SuperNodes), each in two folders:
          model hash, bytes, seconds, and the peak memory of all processes of the run together (PSS, sampled).
`algorithms`  FedMK, SCAFFOLD (whose clients remember) and private FedDM (whose clients keep a ledger; seeded noise) with
          four clients and small budgets, once on each engine; every client's ledger is read again after the run.
`faults`  FedAvg with a network of 200 MB on a SuperLink: a client raises in round 1, a SuperNode is killed in the
          middle of round 2; then TLS with a wrong certificate. Prints what the run says of it, and judges it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from fedsim.federated.engines import certificates, keeper
from fedsim.federated.engines.deployment import Deployment
from fedsim.federated.engines.processes import Processes
from fedsim.federated.engines.submission import Flwr, prepare
from fedsim.privacy import ledger
from fedsim.types import RunFailed

COMMAND = [sys.executable, "-m", "fedsim", "run"]
QUICKSTART = [*COMMAND, "configs/quickstart/feddm_digits.yaml", "controls.upload_real_subset=false"]
SMALL = {
    "fedmk": ["rounds=2", "algorithm.generator.steps=20", "method.iterations=3", "method.inner_steps=5",
              "server.epochs=20", "controls.upload_real_subset=false"],
    "scaffold": ["rounds=3", "algorithm.local.epochs=1"],
    "feddm_private": ["rounds=2", "method.iterations=40", "method.networks.size=4", "server.epochs=20"],
}  # fmt: skip
ENGINES = ("local", "ray", "superlink")
BIG = [
    *COMMAND, "configs/quickstart/fedavg_digits.yaml", "model={name: mlp, depth: 2, width: 7000}", "partition.clients=2",
    "participation.min_replies=1", "algorithm.local.epochs=1", "rounds=3", "engine=superlink",
    "faults=[{name: raise, client: 1, round: 1}]",
]  # fmt: skip


def tree(root: int) -> set[int]:
    """A process and what comes from it."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents.setdefault(int(stat.read_text().rsplit(")", 1)[1].split()[1]), []).append(int(stat.parent.name))
    found, waiting = set(), [root]
    while waiting:
        found.add(waiting[0])
        waiting += parents.get(waiting.pop(0), [])
    return found


def pss(processes: set[int]) -> dict[str, float]:
    """Proportional memory in MB, summed by the name of the process."""
    sizes: dict[str, float] = {}
    for process in processes:
        with suppress(OSError):
            rolled = Path(f"/proc/{process}/smaps_rollup").read_text()
            name = Path(f"/proc/{process}/comm").read_text().strip()
            sizes[name] = sizes.get(name, 0) + int(rolled.partition("Pss:")[2].split()[0]) / 1000
    return sizes


def watched(command: list[str], out: Path, act=lambda run: None) -> tuple[Path, str, float, dict[str, float]]:
    """Run it; its run directory, what it said, seconds, and memory by process at the moment of most."""
    started, most = time.monotonic(), {}
    with (out / "said.txt").open("w+") as said:
        process = subprocess.Popen([*command, "--out", str(out)], stdout=subprocess.PIPE, stderr=said, text=True)
        while process.poll() is None:
            runs = [path.parent for path in out.glob("*/*/config.yaml")]
            marks = {one for run in runs for one in keeper.marked(str(run.resolve()))}
            now = pss(tree(process.pid) | marks)
            most = max(most, now, key=lambda sizes: sum(sizes.values()))
            if runs:
                act(runs[0])
            time.sleep(0.5)
        assert process.stdout is not None
        last = process.stdout.read().strip().splitlines()[-1:]
        text = (out / "said.txt").read_text()
    if process.returncode:
        raise SystemExit(f"exit code {process.returncode}: {text}")
    return Path(last[0]), text, time.monotonic() - started, most


def once(command: list[str], engine: str, clients: int) -> tuple[dict, list[float], float, float]:
    """result.json, ε of each client's ledger, seconds and memory of a run with all clients, on two SuperNodes if any."""
    words = [f"engine={engine}", f"partition.clients={clients}", f"participation.min_replies={clients}"]
    words += [f"participation.per_node={clients // 2}"] if engine == "superlink" else []
    with tempfile.TemporaryDirectory(prefix="fedsim-engines-") as folder:
        run, _, seconds, memory = watched([*command, *words], Path(folder))
        result = json.loads((run / "result.json").read_text())
        kept = sorted(run.glob(f"clients/*/{ledger.FILE}"))
        spent = [ledger.Ledger(path.parent, result["delta"], "add_remove").spent().epsilon for path in kept]
    return result, spent, seconds, sum(memory.values())


def identity(result: dict) -> tuple:
    """What must be the same on every engine."""
    return (result["model_sha256"], result["uplink_bytes"], result["downlink_bytes"], result["accuracy"])


def hashes() -> bool:
    """The table; whether there is one hash per number of clients."""
    print("| clients | engine | seconds | peak memory MB | uplink bytes | downlink bytes | model_sha256 |")
    print("| --: | --- | --: | --: | --: | --: | --- |")
    same = True
    for clients in (2, 10):
        found = set()
        for engine in (engine for engine in ENGINES for _ in range(2)):
            result, _, seconds, memory = once(QUICKSTART, engine, clients)
            found.add(identity(result))
            sizes = (seconds, memory, result["uplink_bytes"], result["downlink_bytes"])
            numbers = " | ".join(f"{number:,.0f}" for number in sizes)
            print(f"| {clients} | {engine} | {numbers} | {result['model_sha256'][:16]} |", flush=True)
        same = same and len(found) == 1
    print("one hash per number of clients, and the same bytes" if same else "DIFFERENT")
    return same


def algorithms() -> bool:
    """The table; whether each algorithm has one hash, the same bytes and the same ε, on result and in all ledgers."""
    print("| algorithm | engine | seconds | uplink bytes | downlink bytes | accuracy | ε (ledgers) | model_sha256 |")
    print("| --- | --- | --: | --: | --: | --: | --: | --- |")
    same = True
    for name, words in SMALL.items():
        command, found = [*COMMAND, f"configs/quickstart/{name}_digits.yaml", *words], set()
        for engine in ENGINES:
            result, spent, seconds, _ = once(command, engine, 4)
            found.add((*identity(result), result["epsilon"], *spent))
            paid = "none" if result["epsilon"] is None else f"{result['epsilon']:.3f} ({len(spent)})"
            same = same and (not spent or (len(spent) == 4 and max(spent) == result["epsilon"]))
            numbers = f"{seconds:,.0f} | {result['uplink_bytes']:,} | {result['downlink_bytes']:,}"
            tail = f"{result['accuracy']:.4f} | {paid} | {result['model_sha256'][:16]}"
            print(f"| {name} | {engine} | {numbers} | {tail} |", flush=True)
        same = same and len(found) == 1
    print("one hash per algorithm, the same bytes and the same ε" if same else "DIFFERENT")
    return same


def faults() -> bool:
    """200 MB uploads, a client that raises, a SuperNode killed in the middle of a round; whether all are accounted for."""
    killed: list[int] = []
    with tempfile.TemporaryDirectory(prefix="fedsim-engines-") as folder:
        run, said, seconds, memory = watched(BIG, Path(folder), lambda run: kill_node(run, killed))
        print(said)
        records = [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]
    for record in records:
        print({key: record[key] for key in ("round", "responders", "failed", "uplink_bytes")})
    print(f"{seconds:.0f} s; memory in MB at the peak: { {name: round(size) for name, size in memory.items()} }")
    raised, lost, whole = records
    return all(
        [
            check("client 1 raises in round 1: counted with its reason", raised["failed"].keys() == {"1"}),
            check("its round goes on with client 0", raised["responders"] == [0]),
            check("SuperNode 0 was killed at work", bool(killed)),
            check("its client is counted as failed in round 2", lost["failed"].keys() == {"0"}),
            check("the restarted SuperNode answers in round 3", whole["responders"] == [0, 1] and not whole["failed"]),
            check("each upload is of 198 MB", all(size > 198e6 for size in whole["uplink_bytes"].values())),
        ]
    )


def check(what: str, holds: bool) -> bool:
    """Say it; returns whether it holds."""
    print(f"{'yes' if holds else 'NO '}  {what}", flush=True)
    return holds


def kill_node(run: Path, killed: list[int]) -> None:
    """Kill SuperNode 0 once, in round 2, while a process of its client is at work; `killed` remembers it."""
    home = f"FLWR_HOME={run.resolve()}/flwr/supernode_0".encode()
    if killed or not (run / "checkpoints/round_0001.safetensors").exists():
        return
    marked, nodes, working = keeper.marked(str(run.resolve())), [], False
    for process in marked:
        with suppress(OSError):
            mine = home in Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
            name = Path(f"/proc/{process}/cmdline").read_bytes()
            working = working or (mine and b"flwr-clientapp" in name)
            nodes += [process] if b"partition-id=0" in name else []
    for process in nodes if working else []:
        os.kill(process, signal.SIGKILL)
        killed.append(process)


def wrong_certificate() -> bool:
    """Flower's command and a SuperNode that trust another authority, and a SuperNode whose key nobody registered."""
    with tempfile.TemporaryDirectory(prefix="fedsim-engines-") as folder:
        here = Path(folder)
        certificates.make(here / "right", 1)
        certificates.make(here / "wrong", 1)
        with Processes(here, 1) as processes:
            link = Deployment(processes, 1, here, here / "right", authenticated=True, port=None, timeout=60.0)
            link.start_link()
            prepare(processes.logs, link.address, here / "wrong" / certificates.CA, {})
            try:
                Flwr(processes).run(["list", "fedsim"])
                refused = False
            except RunFailed as error:
                print(f"flwr with a wrong certificate: {error}")
                refused = True
            found = [check("flwr with a wrong certificate is refused", refused)]
            for what, file in (("certificate", certificates.CA), ("key", "node_0.key")):
                pair = (str(here / "right" / file), str(here / "wrong" / file))
                command = [word.replace(*pair) for word in link._node_command(0)]
                node = processes.start(f"wrong_{what}", command)
                code = node.wait(timeout=120)
                said = (processes.logs / f"wrong_{what}.log").read_text().splitlines()
                print([line for line in said if line.startswith("[") and "INFO" not in line])
                found.append(check(f"a SuperNode with a wrong {what} is refused (exit code {code})", code != 0))
    return all(found)


if __name__ == "__main__":
    chosen = sys.argv[1:] or ["hash", "algorithms", "faults"]
    verdicts = [faults(), wrong_certificate()] if "faults" in chosen else []
    verdicts += [hashes()] if "hash" in chosen else []
    verdicts += [algorithms()] if "algorithms" in chosen else []
    sys.exit(not all(verdicts))
