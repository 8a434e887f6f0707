from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fedsim import workload
from fedsim.build import Parts
from fedsim.compute import Compute, settle
from fedsim.distill.cost import Passes
from fedsim.schema import load_distillation, load_run
from fedsim.types import UserError
from fedsim.workload import central, federated, flops_per_image, round_flops, scoring, settle_compile, settled

CONFIGS = Path(__file__).parent.parent / "configs"
RUN = CONFIGS / "quickstart/feddm_digits.yaml"


def parts(*assignments: str) -> Parts:
    return Parts(load_run(RUN, assignments))


def test_operations_are_those_of_the_layers() -> None:
    here = parts()
    network = here.fresh()(here.streams.generator("template"))
    by_hand = 2 * (64 * 9 * 32 + 16 * 9 * 32 * 32 + 128 * 10)  # two convolutions on 8×8 and 4×4 pixels, and the head
    assert flops_per_image(network, here.dataset.image_shape) == by_hand


def test_a_scoring_counts_with_the_condensation() -> None:
    config = load_distillation(CONFIGS / "quickstart/distill_dm_digits.yaml", ["method.ipc=3", "evaluation.nets=2"])
    epochs = config.evaluation.train.epochs
    assert scoring(Parts(config)) == Passes(training=2 * epochs * 30)


def test_how_many_workers_there_are_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    here = parts()
    clients, _ = federated(here)
    network = here.fresh()(here.streams.generator("template"))
    work = clients.times(here.config.rounds / 2).flops(flops_per_image(network, here.dataset.image_shape))
    monkeypatch.setattr(workload, "has_compiler", lambda device: True)
    monkeypatch.setitem(workload.WORTH, "cpu", work)
    found = {settled(parts(f"compute.workers={count}")).config.compute.compile for count in (1, 2, 8)}
    assert found == {True}


def test_a_batch_norm_is_not_stacked() -> None:
    here = parts("model.norm=batch")
    network, shape = here.fresh()(here.streams.generator("template")), here.dataset.image_shape
    assert settle_compile(settle(Compute(device="cpu")), Passes(), network, shape).ensemble == "loop"
    with pytest.raises(UserError, match=r"compute\.ensemble: vmap cannot stack a batch norm; give loop"):
        settle_compile(settle(Compute(device="cpu", ensemble="vmap")), Passes(), network, shape)


def test_a_federated_round_counts_every_client_and_the_server() -> None:
    here = parts("method.networks.size=7", "method.iterations=50", "server.epochs=3", "method.ipc=2")
    counts = [here.images(one).counts(10) for one in here.split.client]
    synthetic = sum(int(count.clamp(max=2).sum()) for count in counts)
    clients, server = federated(here)
    assert clients == Passes(7 * sum(int(count.sum()) for count in counts), 50 * synthetic)
    assert server == Passes(training=3 * synthetic)


@pytest.mark.parametrize("answered", [[], [3], [0, 4, 9]])
def test_operations_of_a_round_are_of_those_who_answered(answered: list[int]) -> None:
    here = parts("method.networks.size=7", "method.iterations=50", "server.epochs=3", "method.ipc=2")
    counts = [here.images(here.split.client[client]).counts(10) for client in answered]
    real, synthetic = sum(int(one.sum()) for one in counts), sum(int(one.clamp(max=2).sum()) for one in counts)
    each = 2 * (64 * 9 * 32 + 16 * 9 * 32 * 32 + 128 * 10)
    assert round_flops(here)(answered) == (each * (7 * real + 2 * 50 * synthetic), each * 3 * 3 * synthetic)


def test_fresh_networks_see_the_real_images_every_step() -> None:
    config = load_distillation(
        CONFIGS / "quickstart/distill_dm_digits.yaml",
        ["method.networks=fresh", "method.iterations=9", "method.ipc=3", "method.batch_real=5"],
    )
    assert central(Parts(config)) == Passes(9 * 50, 9 * 30)


def test_compilation_pays_from_a_stated_amount_of_work(monkeypatch: pytest.MonkeyPatch) -> None:
    here = parts()
    network = here.fresh()(here.streams.generator("template"))
    each = flops_per_image(network, here.dataset.image_shape)
    much = Passes(forward=workload.WORTH["cpu"] / each + 1)
    asked = settle(Compute(device="cpu"))
    monkeypatch.setattr(workload, "has_compiler", lambda device: True)
    compiled = settle_compile(asked, much, network, here.dataset.image_shape)
    assert (compiled.compile, compiled.channels_last) == (True, True)
    eager = settle_compile(asked, much.times(0.5), network, here.dataset.image_shape)
    assert (eager.compile, eager.channels_last) == (False, False)
    monkeypatch.setattr(workload, "has_compiler", lambda device: False)
    assert settle_compile(asked, much, network, here.dataset.image_shape).compile is False
    with pytest.raises(UserError, match=r"compute.compile: true needs a C\+\+ compiler"):
        settle_compile(asked.model_copy(update={"compile": True}), much, network, here.dataset.image_shape)


def test_a_short_run_stays_as_written_and_keeps_its_data() -> None:
    here = parts("compute.channels_last=true")
    there = settled(here)
    assert (there.config.compute.compile, there.config.compute.channels_last) == (False, True)
    assert there.dataset is here.dataset
    assert there.execution.channels_last
    with pytest.raises(ValueError, match="unresolved auto"):
        Compute().execution()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_bfloat16_needs_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedsim.compute.has_bfloat16", lambda device: False)
    with pytest.raises(UserError, match="bfloat16 is not computed by this machine's cpu; valid here: float32"):
        settle(Compute(device="cpu", precision="bfloat16"))
