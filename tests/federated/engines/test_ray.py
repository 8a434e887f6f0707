"""The ray engine beside the local one: the same calls, the same replies; what hangs or dies is replaced."""

from __future__ import annotations

import importlib.util
import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from flwr.app import ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from fedsim.config import merge, parse_yaml
from fedsim.experiment import execute
from fedsim.federated.engines import ray
from fedsim.federated.engines.base import Engine, Job
from fedsim.federated.engines.local import Config as LocalConfig
from fedsim.federated.engines.local import Local
from fedsim.federated.engines.ray import Config, Ray
from fedsim.federated.engines.workers import identify
from fedsim.schema import FederatedRun, resolve
from fedsim.types import RunFailed, UserError
from tests.federated.engines.test_keeper import alive
from tests.reference.tiny_run import TINY

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra [ray]"),
]
PRIVATE = {"name": "features", "target_epsilon": 8.0, "public_bound": 2000, "noise": "seeded"}
ENGINES: dict[str, Callable[[], Engine]] = {
    "local": lambda: Local(LocalConfig()),
    "ray": lambda: Ray(Config(cpus=2)),
}


def job(run: Path, timeout: float = 60.0) -> Job:
    return Job(
        {"greeting": "hi"}, run, 3, workers=2, threads=1, timeout=timeout, client_app="tests.federated.engines.apps:app"
    )


def ask(node: int, what: str) -> Message:
    return Message(RecordDict({"ask": ConfigRecord({"do": what})}), node, MessageType.TRAIN, group_id="1")


def exchange(grid: Grid, *asked: tuple[int, str]) -> list[Message]:
    """Replies in the order asked, by the calls that the round loop makes."""
    owner = dict(zip(grid.push_messages([ask(node, what) for node, what in asked]), range(len(asked)), strict=True))
    replies: dict[int, Message] = {}
    while owner:
        for reply in grid.pull_messages(list(owner)):
            replies[owner.pop(reply.metadata.reply_to_message_id)] = reply
    return [replies[number] for number in range(len(asked))]


def seen(reply: Message) -> dict[str, Any]:
    return dict(reply.content.config_records["seen"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["local", "ray"])
def test_contract(name: str, tmp_path: Path) -> None:
    """Everything that rounds.py and nodes.py rely on.

    Of the local engine test_local.py says the same; of Ray's the whole run below, and the test of lost actors.
    """

    def serve(grid: Grid) -> None:
        assert isinstance(grid, Grid)
        nodes = list(grid.get_node_ids())
        assert len(set(nodes)) == 3
        replies = exchange(grid, *((node, "echo") for node in nodes))
        assert sorted(seen(reply)["partition"] for reply in replies) == [0, 1, 2]
        assert [seen(reply)["node"] for reply in replies] == nodes == [reply.metadata.src_node_id for reply in replies]
        assert {(seen(reply)["partitions"], seen(reply)["greeting"]) for reply in replies} == {(3, "hi")}
        good, bad, dead = exchange(grid, (nodes[0], "echo"), (nodes[1], "raise"), (nodes[2], "die"))
        assert good.has_content()
        assert "ValueError: as" in str(bad.error.reason)
        assert "died" in str(dead.error.reason)
        assert all(reply.has_error() and len(str(reply.error.reason)) < 80 for reply in (bad, dead))
        assert list(grid.pull_messages([])) == []
        assert [reply.has_content() for reply in exchange(grid, *((node, "echo") for node in nodes))] == [True] * 3
        done.append(True)

    done: list[bool] = []
    ENGINES[name]().run(job(tmp_path), serve)
    assert done == [True]


@pytest.mark.slow
def test_a_client_that_hangs_loses_its_actor_and_the_next_message_is_answered(tmp_path: Path) -> None:
    pids: list[int] = []

    def serve(grid: Grid) -> None:
        node = next(iter(grid.get_node_ids()))
        (before,) = exchange(grid, (node, "echo"))
        (silent,) = exchange(grid, (node, "silent"))
        assert silent.error.reason == "no reply within 15 s; its actor was killed"
        (after,) = exchange(grid, (node, "echo"))
        pids.extend(seen(reply)["pid"] for reply in (before, after))

    Ray(Config(cpus=1)).run(job(tmp_path, timeout=10.0), serve)  # a slow machine needs seconds to start an actor
    assert len(set(pids)) == 2
    assert not [pid for pid in pids if alive(pid)]


@pytest.mark.parametrize(
    "privacy", [pytest.param(None, marks=pytest.mark.slow), PRIVATE], ids=["feddm", "private feddm"]
)
def test_a_whole_run_has_the_hash_of_the_local_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, privacy: dict[str, Any] | None
) -> None:
    """One client fails, one is malicious, nodes serve two: three nodes on one actor. What was paid is the same too."""
    monkeypatch.chdir(tmp_path)
    faults = [{"name": "raise", "client": 3, "round": 1}]
    changes = {"partition": {"clients": 5}, "participation": {"per_node": 2}, "faults": faults}
    controls = {"without_attackers": False} | ({"noisy_class_means": False} if privacy else {})
    changes |= {"compute": {"workers": 0}, "controls": controls, "attackers": [{"name": "naive", "clients": [1]}]}
    changes |= {"privacy": privacy, "method": {"batch_real": 0}} if privacy else {}
    results = {}
    for name, engine in {"local": {"name": "local"}, "ray": {"name": "ray", "cpus": 1}}.items():
        raw = merge(parse_yaml(TINY, "test"), {**changes, "engine": engine})
        folder = execute(resolve(FederatedRun, raw), tmp_path / name)
        results[name] = json.loads((folder / "result.json").read_text())
    assert results["ray"]["clients_failed"] == 1
    assert results["ray"]["backdoor"] == results["local"]["backdoor"]
    assert results["ray"]["backdoor"]["triggers"]
    for key in ("model_sha256", "uplink_bytes", "downlink_bytes", "clients_failed", "accuracy", "epsilon"):
        assert results["ray"][key] == results["local"][key], key
    assert results["ray"].get("privacy") == results["local"].get("privacy")
    assert not privacy or results["ray"]["privacy"]["ledgers"] == 5


TOO_MUCH = [
    (Config(cpus=1, cpus_per_client=2), "a client takes 2 CPUs and 0 GPUs, and no machine of Ray's has that many"),
    (Config(cpus=1, gpus=0, gpus_per_client=0.5), "a client takes 1 CPUs and 0.5 GPUs"),
]


@pytest.mark.parametrize(("config", "line"), TOO_MUCH)
def test_what_no_machine_has_is_one_line(config: Config, line: str) -> None:
    gone = {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}
    with pytest.raises(UserError, match=line):
        ray._refuse_what_does_not_fit(config, [gone, {"Alive": True, "Resources": {"CPU": 1.0}}])
    ray._refuse_what_does_not_fit(config, [gone | {"Alive": True}])


@pytest.mark.slow
@pytest.mark.parametrize(("config", "line"), TOO_MUCH)
def test_what_a_ray_started_here_has_not_is_one_line(config: Config, line: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=line):
        Ray(config).run(job(tmp_path), lambda _: pytest.fail("served"))


def test_cpus_of_a_ray_that_runs_elsewhere_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"leave them out, or engine\.address"):
        Ray(Config(cpus=1, address="127.0.0.1:1")).run(job(tmp_path), lambda _: pytest.fail("served"))


def test_as_many_messages_are_in_work_as_there_are_actors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower's own pool of threads would serve 32 of the 40 at most, and these wait for each other."""
    from fedsim.federated.engines import ray_simulation
    from fedsim.federated.engines.ray_simulation import Simulation

    together = threading.Barrier(40)

    class Actors(ray_simulation.Backend):
        def __init__(self, *_: object) -> None: ...
        def build(self, app_fn: object) -> None: ...
        def kill(self) -> None: ...

        @property
        def num_workers(self) -> int:
            return 40

        def process_message(self, message: Message, context: Context) -> tuple[Message, Context]:
            together.wait(timeout=30)
            return Message(RecordDict(), reply_to=message), context

    monkeypatch.setattr(ray_simulation, "Backend", Actors)
    with Simulation(replace(job(tmp_path), nodes=40), {}) as simulation:
        replies = exchange(simulation.grid, *((node, "echo") for node in simulation.grid.get_node_ids()))
    assert [reply.has_content() for reply in replies] == [True] * 40


@pytest.mark.parametrize(
    ("name", "reason", "kept"),
    [
        ("RayTaskError", "ValueError: as asked", True),
        ("OutOfMemoryError", "its actor was lost (OutOfMemoryError: too much)", False),
        ("NodeDiedError", "its actor was lost (NodeDiedError: too much)", False),
        ("ActorUnschedulableError", "its actor was lost (", False),
        ("RayActorError", "its actor died", False),
        ("GetTimeoutError", "no reply within 315 s; its actor was killed", False),
    ],
)
def test_only_an_actor_whose_app_failed_is_kept(
    name: str, reason: str, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fedsim.federated.engines import ray_simulation

    class Actor:
        def __init__(self) -> None:
            self.run = SimpleNamespace(remote=lambda *_: None)

    def fail(asked: object, timeout: float) -> None:
        waited.append(timeout)
        raise error

    kind = getattr(ray_simulation.exceptions, name)
    error = kind("run", "stack", ValueError("as\nasked")) if name == "RayTaskError" else kind("too much")
    error = ray_simulation.exceptions.RayActorError() if name == "RayActorError" else error
    waited: list[float] = []
    killed: list[Any] = []
    monkeypatch.setattr(ray_simulation.ray, "get", fail)
    monkeypatch.setattr(ray_simulation.ray, "kill", killed.append)
    monkeypatch.setattr(ray_simulation.RayBackend, "init_ray", lambda *_: None)
    backend, first = ray_simulation.Backend({}, 10.0), Actor()
    backend.app_fn = cast(Any, print)
    backend.pool = cast(Any, SimpleNamespace(pool=[first], create_actor_fn=Actor))
    identify(0)
    reply, _ = backend.process_message(ask(1, "echo"), Context(1, 1, {}, RecordDict(), {}))
    (now,) = cast(Any, backend.pool).pool
    assert str(reply.error.reason).startswith(reason)
    assert (now is first, killed) == ((True, []) if kept else (False, [first]))
    backend._started.add(now)  # as if it had replied
    backend.process_message(ask(1, "echo"), Context(1, 1, {}, RecordDict(), {}))
    assert waited == [315.0, 15.0]


def test_a_simulation_that_ends_fails_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fedsim.federated.engines import ray_simulation

    def broken(*_: object) -> None:
        raise RuntimeError("Simulation Runtime crashed.") from KeyError("x")

    monkeypatch.setattr(ray_simulation, "run_api", broken)

    def serve(grid: Grid) -> None:
        exchange(grid, (next(iter(grid.get_node_ids())), "echo"))

    with pytest.raises(RunFailed, match="simulation runtime ended: KeyError: 'x'"):
        Ray(Config(cpus=1)).run(job(tmp_path), serve)
