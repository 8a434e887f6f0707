"""What a GPU computes is what the CPU computes: every draw comes from the CPU, so that only roundings may differ."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fedsim import api, catalog
from fedsim.data.synthetic import SyntheticSet
from tests.distill.test_every_method import SMALL

pytestmark = pytest.mark.gpu
METHODS = catalog.names("method")
MODEL: dict[str, Any] = {"name": "convnet", "depth": 2, "width": 8}
RUN = (
    "rounds=1", "model.width=8", "compute.workers=0", "compute.compile=false", "controls.upload_real_subset=false",
    "partition.clients=2", "participation.min_replies=2",
)  # fmt: skip
NO_SET = {"fedavg_private", "scaffold"}


def made(name: str, device: str, **compute: Any) -> SyntheticSet:
    """Three steps of a method on the digits."""
    fields = catalog.resolve("method", name).Config.model_fields
    given = {key: value for key, value in (SMALL | {"iterations": 3}).items() if key in fields}
    settings = {key: getattr(value, "model_dump", lambda value=value: value)() for key, value in given.items()}
    settings |= {"iterations": 1} if fields["iterations"].default == 1 else {}
    settings |= {"ipc": 1} if name == "class_means" else {}
    how = {"device": device, "compile": False, "chunk": 0} | compute
    return api.distill(api.load("digits"), name, model=MODEL, compute=how, **settings)


@pytest.mark.parametrize("name", METHODS)
def test_a_set_is_the_same_but_for_roundings(name: str) -> None:
    here, there = made(name, "cpu"), made(name, "cuda")
    assert torch.equal(here.labels, there.labels)
    apart = (here.images.int() - there.images.int()).abs()
    assert (apart <= 2).float().mean() >= 0.98, f"{name}: {(apart > 2).float().mean():.3f} of the pixels differ"


@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores:UserWarning")  # float32 is meant here
@pytest.mark.parametrize("name", ["dm", "dc"])
def test_a_compiled_graph_on_a_gpu_is_the_same_but_for_roundings(name: str) -> None:
    here, there = made(name, "cpu"), made(name, "cuda", compile=True)
    assert ((here.images.int() - there.images.int()).abs() <= 2).float().mean() >= 0.98


@pytest.mark.parametrize("name", ["fedmk", "scaffold", "feddm_private", "fedavg_private"])
def test_a_federation_learns_there_what_it_learns_here(name: str, tmp_path: Path) -> None:
    config = f"configs/quickstart/{name}_digits.yaml"
    shorter = ("method.iterations=20",) if name not in NO_SET else ()
    results = {}
    for device in ("cpu", "cuda"):
        folder = api.simulate(config, *RUN, *shorter, f"compute.device={device}", out=tmp_path / device)
        results[device] = json.loads((folder / "result.json").read_text())
    assert results["cuda"]["accuracy"] == pytest.approx(results["cpu"]["accuracy"], abs=0.06)
    # a seeded stream of noise is named by its question, and a question by its tensors: other roundings, other noise,
    # and the noise decides which classes a private client sends
    same = ("epsilon",) if name == "feddm_private" else ("uplink_bytes", "epsilon", "client_flops")
    for exact in same:
        assert results["cuda"][exact] == results["cpu"][exact], exact


def test_one_seed_gives_one_set_on_one_gpu() -> None:
    """Nothing in a step of distribution matching depends on the order in which a GPU adds."""
    first, again = made("dm", "cuda"), made("dm", "cuda")
    assert first.encode() == again.encode()
