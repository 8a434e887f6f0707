"""SCAFFOLD against its listing in loops, a two-client example by hand, its bytes, and runs that are cut off."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.config import merge, parse_yaml
from fedsim.experiment import execute
from fedsim.federated.algorithms import scaffold
from fedsim.federated.algorithms.scaffold import Config, Scaffold, corrected, mean_gradient, travelled
from fedsim.federated.base import Algorithm, ServerState, Setting, Upload, network_with
from fedsim.models.functional import trainable_names
from fedsim.schema import FederatedRun, load_run, resolve
from fedsim.seeding import Streams
from fedsim.training.train import TrainConfig
from fedsim.types import UserError
from tests.reductions.training import LOCAL
from tests.reference import fedavg as federation
from tests.reference import scaffold as reference
from tests.reference.tiny_run import TINY, InlineGrid

CONFIG = Path(__file__).parents[3] / "configs/quickstart/scaffold_digits.yaml"
ROUNDS: tuple[tuple[int, ...], ...] = ((0, 1, 2), (0, 2), (1,), (0, 1))
"""Who takes part."""


class Run:
    """Rounds of SCAFFOLD, clients' memories carried along."""

    def __init__(self, option: Literal["I", "II"], server_lr: float = 0.5, here: Setting | None = None) -> None:
        self.here = here or federation.setting()
        self.algorithm = Scaffold(Config(local=LOCAL, option=option, server_lr=server_lr), None, None, None)
        self.state = self.algorithm.init(self.here)
        self.memories: dict[int, Any] = {0: {}, 1: {}, 2: {}}

    def round(self, clients: tuple[int, ...]) -> list[Upload]:
        sent = self.algorithm.broadcast(self.state, clients)
        views = {k: replace(federation.view(k, self.here), memory=self.memories[k]) for k in clients}
        streams = {k: Streams(self.state.round, ("client", k)) for k in clients}
        uploads = [self.algorithm.client(views[k], sent[k], streams[k]) for k in clients]
        self.memories |= {one.client: one.memory for one in uploads}
        self.state, _ = self.algorithm.server(self.here, self.state, uploads, Streams(9))
        return uploads


def distance_to_the_listing(option: Literal["I", "II"]) -> float:
    """Largest difference of x, c or a c_i after four rounds."""
    run = Run(option)
    slow = reference.Federation.begin(network_with(run.here, run.state.weights), 3)
    for number, clients in enumerate(ROUNDS):
        parts = {}
        for k in clients:
            generator = Streams(number, ("client", k)).generator("train")
            parts[k] = reference.local(slow, k, federation.CLIENTS[k], 2, LOCAL.lr, 4, option, generator)
        reference.a_round(slow, parts, 0.5)
        run.round(clients)
    names = [name for name, _ in slow.network.named_parameters()]
    pairs = [(run.state.weights[name], value) for name, value in zip(names, reference.copy(slow.network), strict=True)]
    pairs += [(run.state.memory[name], value) for name, value in zip(names, slow.control, strict=True)]
    for k in range(3):
        pairs += [(run.memories[k][name], value) for name, value in zip(names, slow.controls[k], strict=True)]
    return max(float((left - right).abs().max()) for left, right in pairs)


@pytest.mark.parametrize("option", ["I", "II"])
def test_rounds_with_some_of_the_clients_are_those_of_the_listing(option: Literal["I", "II"]) -> None:
    assert distance_to_the_listing(option) < 1e-5


@pytest.mark.parametrize(
    ("name", "mutant"),
    [
        ("corrected", lambda gradient, own, server: gradient + own - server),
        ("corrected", lambda gradient, own, server: gradient - own),
        ("mean_gradient", lambda own, server, start, end, travelled: own - server + (end - start) / travelled),
        ("mean_gradient", lambda own, server, start, end, travelled: (start - end) / travelled),
        ("travelled", lambda config, images: config.lr * config.epochs),
    ],
    ids=["sign of c", "c left out", "sign of the way", "without c_i − c", "epochs for steps"],
)
def test_a_wrong_listing_would_be_noticed(name: str, mutant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaffold, name, mutant)
    assert distance_to_the_listing("II") > 1e-3


def test_two_clients_and_two_rounds_by_hand() -> None:
    """F_i(w) = ½(w − b_i)², b = (2, −4), two steps of 0.5 (K η_l = 1), η_g = 1, from x = 0. Option II.

    Round 1: y_1 = 0, 1, 1.5   c_1 = −1.5       y_2 = 0, −2, −3            c_2 = 3    x = −0.75,    c = 0.75
    Round 2: y_1 = −0.75, −0.5, −0.375          y_2 = −0.75, −1.25, −1.5              x = −0.9375,  c = 0.1875
             c_1 = −1.5 − 0.75 − 0.375 = −2.625 c_2 = 3 − 0.75 + 0.75 = 3
    """
    here = replace(federation.setting(), clients=2)
    state = ServerState(0, {"w": torch.zeros(1)}, {"w": torch.zeros(1)})
    controls = [torch.zeros(1), torch.zeros(1)]
    expected = [((-1.5, 3.0), -0.75, 0.75), ((-2.625, 3.0), -0.9375, 0.1875)]
    for own, x, c in expected:
        uploads = []
        for k, target in enumerate((2.0, -4.0)):
            y, start, server = state.weights["w"].clone(), state.weights["w"], state.memory["w"]
            for _ in range(2):
                y = y - 0.5 * corrected(y - target, controls[k], server)
            renewed = mean_gradient(controls[k], server, start, y, 1.0)
            uploads.append(Upload(k, 1, 1 + 8 * k, weights={"w": y, "control.w": renewed - controls[k]}))
            controls[k] = renewed
        state, _ = Scaffold(Config(), None, None, None).server(here, state, uploads, Streams(0))
        assert tuple(float(one) for one in controls) == own
        assert (float(state.weights["w"]), float(state.memory["w"])) == (x, c)


@settings(max_examples=10)
@given(st.lists(st.sets(st.integers(0, 2), min_size=1), min_size=1, max_size=3), st.sampled_from(["I", "II"]))
def test_c_stays_the_mean_of_all_c_i_whoever_takes_part(rounds: list[set[int]], option: Literal["I", "II"]) -> None:
    run = Run(option)
    for clients in rounds:
        run.round(tuple(sorted(clients)))
    for name, value in run.state.memory.items():
        mean = sum((memory[name] for memory in run.memories.values() if memory), torch.zeros_like(value)) / 3
        torch.testing.assert_close(value, mean, rtol=0, atol=1e-6)


def test_a_batch_norms_buffers_are_averaged_and_have_no_control_variate() -> None:
    run = Run("I", here=federation.setting("batch"))
    names = trainable_names(run.here.fresh(Streams(0).generator()))
    uploads = run.round((0, 1, 2))
    assert sorted(run.state.memory) == sorted(uploads[0].memory) == names
    (buffer,) = [name for name in run.state.weights if name.endswith("running_mean")]
    mean = torch.stack([(one.weights or {})[buffer] for one in uploads]).mean(0)
    torch.testing.assert_close(run.state.weights[buffer], mean)
    assert set(uploads[0].weights or {}) == set(run.algorithm.uploaded(run.here) or {})


def test_the_way_of_a_client_is_the_sum_of_its_steps() -> None:
    assert travelled(LOCAL, 9) == pytest.approx(2 * 3 * 0.05)
    dropping = TrainConfig(epochs=3, lr=1.0, batch_size=4, schedule="step", momentum=0)
    assert travelled(dropping, 5) == pytest.approx(2 * (1.0 + 1.0 + 0.1))


def test_momentum_is_one_line() -> None:
    assert isinstance(Run("II").algorithm, Algorithm)
    with pytest.raises(UserError, match=r"local\.momentum=0\.9: control variates are gradients only .*momentum=0$"):
        load_run(CONFIG, ["algorithm.local.momentum=0.9"])


# --- whole runs ---


def run_of(out: Path, algorithm: str, **changes: Any) -> tuple[Path, dict[str, Any]]:
    words = {"rounds": 2, "algorithm": algorithm, "method": None, "server": None, "partition": {"clients": 3}}
    raw = merge(parse_yaml(TINY, "test"), words | changes)
    folder = execute(resolve(FederatedRun, {key: value for key, value in raw.items() if value is not None}), out)
    return folder, json.loads((folder / "result.json").read_text())


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedsim.federated.engines.local.LocalGrid", InlineGrid)


@pytest.mark.usefixtures("inline")
def test_it_costs_twice_the_bytes_of_fedavg_both_ways(tmp_path: Path) -> None:
    (_, plain), (_, double) = run_of(tmp_path, "fedavg"), run_of(tmp_path, "scaffold")
    for key in ("uplink_bytes", "downlink_bytes"):
        assert double[key] / plain[key] == pytest.approx(2, rel=0.1), key


@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize(
    "changes", [pytest.param({}, marks=pytest.mark.slow), {"participation": {"per_node": 2, "fraction": 0.6}}]
)
def test_a_run_cut_off_in_its_last_round_ends_the_same(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Cut off after a client had renewed its memory and before its upload was kept."""
    folder, whole = run_of(tmp_path, "scaffold", **changes)
    memories = sorted(folder.glob("clients/*/round_002/memory.safetensors"))
    assert memories
    for path in (folder / "result.json", folder / "checkpoints/round_0002.safetensors"):
        path.unlink()
    (memories[0].parent / "upload.safetensors").unlink()
    again, found = run_of(tmp_path, "scaffold", **changes)
    assert again == folder
    assert found["model_sha256"] == whole["model_sha256"]


@pytest.mark.usefixtures("inline")
def test_what_is_kept_and_how_clients_share_nodes_has_no_influence(tmp_path: Path) -> None:
    (_, one), (_, other) = (
        run_of(tmp_path, "scaffold", transcript=mode, participation={"per_node": g})
        for mode, g in (("uploads", 1), ("none", 2))
    )
    for key in ("model_sha256", "uplink_bytes", "downlink_bytes"):
        assert one[key] == other[key], key
