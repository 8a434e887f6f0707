"""FedMK: who starts from whose set, what the generator is trained on, and what the server remembers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fedsim.data.images import Images, joined
from fedsim.data.synthetic import union
from fedsim.distill.cost import Passes
from fedsim.distill.gradient.meta_knowledge import Config as MethodConfig
from fedsim.distill.gradient.meta_knowledge import MetaKnowledge
from fedsim.distill.networks import PerturbConfig
from fedsim.federated.algorithms import fedmk
from fedsim.federated.algorithms.feddm import Sets
from fedsim.federated.algorithms.fedmk import Config, FedMK, GeneratorConfig
from fedsim.federated.base import Algorithm, Broadcast, ServerState, Setting, Upload, network_with
from fedsim.federated.blocks import Envelopes, read_broadcasts
from fedsim.models.functional import flatten, state
from fedsim.models.generator import Generator
from fedsim.seeding import Streams, stream
from fedsim.training.train import TrainConfig, fit
from fedsim.types import UserError
from fedsim.workload import flops_per_image
from tests.reference import fedavg as reference

SERVER = TrainConfig(epochs=2, lr=0.05, batch_size=4)
METHOD = MethodConfig(ipc=2, iterations=2, batch_real=0, inner_steps=2)
SMALL = GeneratorConfig(noise=3, width=4, steps=4, batch=8, pseudo=3)
CPU = torch.device("cpu")


def algorithm(**settings: Any) -> FedMK:
    return FedMK(Config(**{"generator": SMALL} | settings), MetaKnowledge(METHOD), METHOD, SERVER)


def clients_part(method: FedMK, here: Setting, before: ServerState) -> list[Upload]:
    sent = method.broadcast(before, range(3))
    return [
        method.client(reference.view(client, here), sent[client], Streams(0, ("client", client, before.round)))
        for client in range(3)
    ]


def a_round(method: FedMK, here: Setting, before: ServerState) -> tuple[ServerState, list[Upload], dict[str, float]]:
    uploads = clients_part(method, here, before)
    after, metrics = method.server(here, before, uploads, Streams(7, ("round", before.round)))
    return after, uploads, metrics


# --- conditional initialisation ---


def shares_another(method: FedMK, rounds: int = 20) -> bool:
    """Whether, over many draws, every client is sent the sets of all others and never its own."""
    here = reference.setting()
    after, uploads, _ = a_round(method, here, method.init(here))
    seen: dict[int, set[int]] = {client: set() for client in range(3)}
    for number in range(1, rounds):
        sent = method.broadcast(ServerState(number, after.weights, after.memory), range(3))
        for client, broadcast in sent.items():
            theirs = [
                one.client
                for one in uploads
                if one.synthetic is not None
                and torch.equal(one.synthetic.images, broadcast.extra["images"])
                and torch.equal(one.synthetic.labels, broadcast.extra["labels"])
            ]
            seen[client] |= set(theirs)
    return seen == {client: {0, 1, 2} - {client} for client in range(3)}


def test_round_one_sends_no_set_and_later_rounds_another_clients() -> None:
    here, method = reference.setting(), algorithm()
    assert all(not sent.extra for sent in method.broadcast(method.init(here), range(3)).values())
    assert shares_another(method)


def test_a_clients_own_set_in_the_place_of_anothers_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    pick = fedmk.drawn
    monkeypatch.setattr(fedmk, "drawn", lambda others, rng: pick([0, 1, 2], rng) if others else None)
    assert not shares_another(algorithm())


def test_a_client_starts_from_the_set_it_was_sent() -> None:
    here, method = reference.setting(), algorithm()
    after, _, _ = a_round(method, here, method.init(here))
    sent = method.broadcast(after, range(3))
    tasks = [method._tasks([reference.view(client, here)], sent[client])[0] for client in range(3)]
    for task, broadcast in zip(tasks, sent.values(), strict=True):
        assert task.given is not None
        assert torch.equal(task.given.images, broadcast.extra["images"])
    off = algorithm(conditional=False)
    assert "sets.images" not in a_round(off, here, off.init(here))[0].memory
    assert off._tasks([reference.view(0, here)], off.broadcast(after, [0])[0])[0].budget.tolist() == [2, 0, 1, 2]


def test_where_nobody_else_has_a_set_a_client_starts_from_noise() -> None:
    here, method = reference.setting(), algorithm()
    before = method.init(here)
    alone, _ = method.server(here, before, clients_part(method, here, before)[1:2], Streams(7))
    sent = method.broadcast(alone, range(3))
    assert [bool(sent[client].extra) for client in range(3)] == [True, False, True]
    assert sent[0] is sent[2]  # one object: it travels once
    assert sent[0].sha256 != sent[1].sha256


def test_a_set_survives_the_message() -> None:
    extra = {"images": torch.arange(72, dtype=torch.uint8).view(2, 1, 6, 6), "labels": torch.tensor([1, 3])}
    sent = {4: Broadcast(2, {"w": torch.ones(3)}, extra), 5: Broadcast(2, {"w": torch.ones(3)})}
    found = read_broadcasts(Envelopes(sent).write([4, 5]))
    assert {client: one.sha256 for client, one in found.items()} == {client: one.sha256 for client, one in sent.items()}
    assert torch.equal(found[4].extra["images"], extra["images"])
    assert found[5].extra == {}


def test_the_server_trains_on_uploads_and_pseudo_samples() -> None:
    here, method = reference.setting(), algorithm()
    before = method.init(here)
    kept = flatten(before.weights).clone()
    after, uploads, metrics = a_round(method, here, before)
    sets = [one.synthetic for one in uploads if one.synthetic is not None]
    generator = Generator.build(SMALL, (1, 6, 6), 4, (0.3,), (0.4,), stream(0), CPU)
    generator.load_state_dict(fedmk._below(after.memory, "generator"))
    images, labels = torch.cat([one.images for one in sets]), torch.cat([one.labels for one in sets])
    streams = Streams(7, ("round", 0))
    pseudo, own, seen = method._pseudo(here, before, Images(images, labels), streams)
    assert torch.equal(own["generator.linear.weight"], after.memory["generator.linear.weight"])
    assert pseudo.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    together = Images(torch.cat([images, pseudo.pixels]), torch.cat([labels, pseudo.labels]))
    network = network_with(here, before.weights)
    loss = fit(network, together, here.normalise, SERVER, streams.generator())
    assert torch.equal(flatten(after.weights), flatten(state(network)))
    assert torch.equal(flatten(before.weights), kept)
    assert metrics["server_loss"] == loss
    assert (metrics["synthetic_images"], metrics["pseudo_images"]) == (len(images), 12)
    assert metrics["pseudo_right"] == seen["pseudo_right"] == right(here, before, pseudo)
    assert metrics["pseudo_right_after"] == right(here, after, pseudo) != metrics["pseudo_right"]


def right(here: Setting, judge: ServerState, pseudo: Images) -> float:
    """Share of pseudo samples that these weights put into their class."""
    logits = network_with(here, judge.weights)(here.normalise(pseudo.pixels))
    return float((logits.argmax(1) == pseudo.labels).double().mean())


def test_the_generator_goes_on_from_round_to_round() -> None:
    here, method = reference.setting(), algorithm()
    first, _, _ = a_round(method, here, method.init(here))
    second, uploads, _ = a_round(method, here, first)
    forgetful = ServerState(0, first.weights, {"seed": first.memory["seed"]})
    other, _ = method.server(here, forgetful, uploads, Streams(7, ("round", 1)))
    assert not torch.equal(second.memory["generator.linear.weight"], other.memory["generator.linear.weight"])


def test_soft_labels_of_uploads_make_those_of_pseudo_samples_one_hot() -> None:
    pixels, labels = torch.zeros((1, 1, 6, 6), dtype=torch.uint8), torch.tensor([2])
    soft = torch.tensor([[0.5, 0.1, 0.1, 0.3]])
    found = joined(Images(pixels, labels, soft), Images(pixels, labels), 4)
    assert found.soft is not None
    assert torch.equal(found.soft, torch.tensor([[0.5, 0.1, 0.1, 0.3], [0.0, 0.0, 1.0, 0.0]]))
    assert joined(Images(pixels, labels), Images(pixels, labels), 4).soft is None


def test_the_generators_own_operations_are_counted() -> None:
    """By the sums of its layers, beside what a counter sees while it learns and is asked for its samples."""
    here, method = reference.setting(), algorithm()
    before = method.init(here)
    uploads = clients_part(method, here, before)
    counts = [one.synthetic.counts() for one in uploads if one.synthetic is not None]
    with FlopCounterMode(display=False) as counter:
        method._pseudo(here, before, union(Sets(uploads)), Streams(7))
    pixels = 4 * min(8, sum(int(one.sum()) for one in counts))
    judged = 2 * pixels + 3 * 4  # forward and by the pixels while the generator learns; once the samples it makes
    each = flops_per_image(here.first_network(), here.image_shape)
    told = method.other_networks(here.image_shape, counts)
    assert told == pytest.approx(counter.get_total_flops() - judged * each, rel=0.1)
    assert algorithm(generator=None).other_networks(here.image_shape, counts) == 0


def test_passes_are_feddms_and_the_judges() -> None:
    counts = [torch.tensor([5, 0, 1, 3]), torch.tensor([0, 4, 0, 2])]  # 9 synthetic images, four classes
    clients, server = algorithm().passes(counts)
    assert clients == algorithm().method.passes(counts[0]) + algorithm().method.passes(counts[1])
    assert server == Passes(pixels=4 * 8, training=2 * 9 + 2 * 3 * 4)
    assert algorithm(generator=None).passes(counts)[1] == Passes(training=2 * 9)


def test_the_paper_prescribes_these_settings() -> None:
    assert isinstance(algorithm(), Algorithm)
    assert MethodConfig.model_validate(dict(FedMK.method_defaults or {})).tau == 5.0
    shared = METHOD.model_copy(update={"networks": PerturbConfig().model_copy(update={"shared": True})})
    with pytest.raises(UserError, match="clients of fedmk start from different sets"):
        FedMK(Config(), MetaKnowledge(METHOD), shared, SERVER)
