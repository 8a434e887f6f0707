"""What every method of the catalog promises: ragged classes, one set per seed, and the same after a kill."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedsim import catalog
from fedsim.cli import main
from fedsim.data.zca import fit
from fedsim.distill.base import Distiller
from fedsim.distill.cost import Passes
from fedsim.distill.drive import condense
from fedsim.distill.real import RealImages
from fedsim.models.convnet import Config as ConvNetConfig
from fedsim.models.convnet import ConvNet
from fedsim.models.network import Network, build_network
from fedsim.seeding import Streams, stream
from fedsim.training.train import TrainConfig
from fedsim.types import UserError
from tests.reference import dm as reference
from tests.reference.tiny_run import InlineGrid

METHODS = catalog.names("method")
SMALL: dict[str, Any] = {
    "iterations": 3, "ipc": 2, "batch_real": 3, "outer": 2, "inner": 1, "inner_epochs": 1, "network_steps": 3,
    "window": 2, "frequencies": 8, "pretrain": TrainConfig(epochs=1), "train": TrainConfig(epochs=3), "size": 2,
    "train_images": 4, "batch_train": 4, "inner_steps": 2,
}  # fmt: skip
"""Settings that make any method cheap, where it has them."""
SIDE = 8


RAGGED = (5, 0, 1, 3)


class Killed(Exception):  # noqa: N818 - not an error of the loop
    """Stands for `kill -9`."""


def method(name: str, formation: int = 2) -> tuple[Distiller, int]:
    """A cheap form of it, and its number of steps."""
    made = catalog.resolve("method", name)
    known = {key: value for key, value in SMALL.items() if key in made.Config.model_fields}
    known |= {"formation": formation} if "formation" in made.Config.model_fields else {}
    known |= {"ipc": 1} if name == "class_means" else {}
    known |= {"iterations": 1} if made.Config.model_fields["iterations"].default == 1 else {}
    config = made.Config(**known)
    return made(config), config.iterations


def network(classes: int) -> Network:
    return build_network(ConvNet, ConvNetConfig(depth=2, width=4), (1, SIDE, SIDE), classes, stream(0))


def condensed(
    name: str, counts: tuple[int, ...], seed: int = 0, zca: float | None = None, formation: int = 2, **how: Any
) -> Any:
    distiller, steps = method(name, formation)
    real = reference.images(counts, side=SIDE)
    task = reference.task(network(len(counts)), counts, real=real)
    if zca is not None:
        normalise = replace(task.normalise, zca=fit(real.pixels, task.normalise.mean, task.normalise.std, zca))
        owner = RealImages(real, len(counts), normalise, task.device)
        task = replace(task, normalise=normalise, real=owner)
    return condense(distiller, task, steps, Streams(seed, ("set", 0)), log_every=1, checkpoint_every=0.0, **how)[0]


@cache
def undisturbed(name: str) -> Any:
    """The set of ragged classes under seed 0; made once for all tests that compare with it."""
    return condensed(name, RAGGED)


@pytest.mark.parametrize("name", METHODS)
@settings(max_examples=2, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(counts=st.lists(st.sampled_from([0, 1, 3, 5]), min_size=3, max_size=4).filter(lambda n: sum(n) > 0))
def test_a_client_may_hold_none_one_or_three_images_of_a_class(name: str, counts: list[int]) -> None:
    found = condensed(name, tuple(counts))
    most = 1 if name == "class_means" else 2
    assert found.counts().tolist() == [min(count, most) for count in counts]
    assert found.problem(len(counts), (1, SIDE, SIDE)) is None
    assert found.provenance["method"] == name


@pytest.mark.parametrize("name", METHODS)
def test_one_seed_gives_one_set_byte_for_byte(name: str) -> None:
    first, again, other = undisturbed(name), condensed(name, RAGGED), condensed(name, RAGGED, seed=1)
    assert first.encode() == again.encode()
    assert not torch.equal(first.images, other.images) or name in {"herding", "k_center", "k_means", "class_means"}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("at", [2, pytest.param(1, marks=pytest.mark.slow)])
def test_a_condensation_killed_at_any_step_ends_the_same(name: str, at: int, tmp_path: Path) -> None:
    if method(name)[1] == 1:
        pytest.skip("a selection takes one step; there is nothing half-done to keep")

    def kill(iteration: int, values: dict[str, float]) -> None:
        if iteration == at + 1:
            raise Killed

    with pytest.raises(Killed):
        condensed(name, RAGGED, store=tmp_path, log=kill)
    assert (tmp_path / "condensation.safetensors").is_file()
    assert condensed(name, RAGGED, store=tmp_path).encode() == undisturbed(name).encode()


FEDERATED: dict[str, dict[str, Any]] = {
    "cafe": {"iterations": 3, "batch_real": 4, "query": 2, "inner_epochs": 1},
    "model_augmentation": {"iterations": 2, "batch_real": 4, "networks": {"name": "early", "size": 1, "epochs": 1}},
    "k_center": {"pretrain": {"epochs": 1}},
    "dd": {"iterations": 2, "batch_real": 4},
}
"""One that trains its network on the images, one that keeps trained networks, a selection, and one whose sets hold what
does not travel; made cheap."""


@pytest.mark.parametrize("name", FEDERATED)
def test_clients_that_lack_half_of_the_classes_condense_in_a_federation(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole run over the local engine's messages."""
    monkeypatch.setattr("fedsim.federated.engines.local.LocalGrid", InlineGrid)
    config = {
        "name": "tiny", "rounds": 1, "data": {"name": "digits"}, "model": {"name": "convnet", "depth": 2, "width": 4},
        "partition": {"name": "classes_per_client", "clients": 2, "classes": 5}, "algorithm": {"name": "feddm"},
        "method": {"name": name, "ipc": 1} | FEDERATED[name],
        "server": {"epochs": 1}, "controls": {"upload_real_subset": False}, "compute": {"chunk": 0},
    }  # fmt: skip
    (tmp_path / "tiny.yaml").write_text(json.dumps(config))  # JSON is YAML
    assert main(["run", str(tmp_path / "tiny.yaml"), "--out", str(tmp_path / "runs")]) == 0
    (result,) = (tmp_path / "runs").rglob("result.json")
    found = json.loads(result.read_text())
    assert (found["clients_failed"], found["uploads_rejected"], found["synthetic_images"]) == (0, 0, 10)


@pytest.mark.parametrize("name", METHODS)
def test_whitened_images_are_condensed(name: str) -> None:
    found = condensed(name, RAGGED, zca=0.1, formation=1)
    assert found.problem(len(RAGGED), (1, SIDE, SIDE)) is None
    assert found.zca is not None
    if found.provenance["init"] == "real":  # chosen images come out as they went in, byte for byte
        known = {image.numpy().tobytes() for image in reference.images(RAGGED, side=SIDE).pixels}
        assert name == "k_means" or {image.numpy().tobytes() for image in found.images} <= known
    else:  # a mean of plain pixels is the same
        plain = undisturbed(name)
        if plain.formation > 1:
            plain = condensed(name, RAGGED, formation=1)
        assert torch.equal(found.images, plain.images) == (name == "class_means")


@pytest.mark.parametrize("name", ["dm", "dc"])
def test_a_whitened_condensation_killed_at_a_step_ends_the_same(name: str, tmp_path: Path) -> None:
    words = {"zca": 0.1, "formation": 1}

    def kill(iteration: int, values: dict[str, float]) -> None:
        if iteration == 2:
            raise Killed

    with pytest.raises(Killed):
        condensed(name, RAGGED, store=tmp_path, log=kill, **words)
    assert condensed(name, RAGGED, store=tmp_path, **words).encode() == condensed(name, RAGGED, **words).encode()


def test_parts_of_a_stored_image_are_not_whitened() -> None:
    with pytest.raises(UserError, match=r"^method.formation=2: .* give formation=1, or no data.zca$"):
        condensed("idc", (5, 0, 1, 3), zca=0.1)


@pytest.mark.parametrize("name", METHODS)
def test_its_cost_grows_with_the_images(name: str) -> None:
    distiller, steps = method(name)
    some, more = distiller.passes(torch.tensor([1, 0, 2])), distiller.passes(torch.tensor([2, 1, 4]))
    assert isinstance(some, Passes)
    if steps == 1:  # a selection may cost nothing
        assert 0 <= some.flops(1.0) <= more.flops(1.0)
    else:
        assert 0 < some.flops(1.0) < more.flops(1.0)
