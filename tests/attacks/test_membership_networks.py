"""Networks that an adversary trains: the same for every target, confidence as by hand, one training per run."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from attacks.loss_threshold import Config, LossThreshold
from attacks.membership_networks import Reader, confidence, losses
from fedsim.models.execution import Execution
from fedsim.seeding import Streams, stream
from fedsim.training.train import fit
from fedsim.types import UserError
from tests.attacks.small_audit import QUICK, Audit, plain, publish

CONFIG = Config(networks=2)


def reader(audit: Audit, config: Config = CONFIG, target: int = 0) -> Reader:
    return Reader.of(audit.view(target, LossThreshold(config).threat), config, Streams(3, ("target", target)))


def test_confidence_is_the_logit_of_the_probability():
    logits = 5 * torch.randn((20, 4), generator=stream(0), dtype=torch.float64)
    labels = torch.arange(20) % 4
    phi = confidence(logits, labels)
    probability = logits.softmax(1)[torch.arange(20), labels]
    assert torch.allclose(phi, probability.logit(), rtol=0, atol=1e-9)
    assert np.allclose(losses(phi.numpy()), F.cross_entropy(logits, labels, reduction="none"), rtol=0, atol=1e-9)
    sure = torch.tensor([[800.0, 0.0]], dtype=torch.float64)
    assert float(confidence(sure, torch.tensor([0]))) == 800
    assert math.isclose(float(losses(confidence(sure, torch.tensor([1])).numpy())[0]), 800)


def test_networks_are_those_of_the_servers_training_with_own_draws(tmp_path):
    audit = Audit(tmp_path, publish(4))
    found = reader(audit)
    released = audit.released(2, found.view.threat)
    phi, trained = found.confidences(released, audit.candidates), found.training_losses(released)
    images = found.images(released)
    for index in range(2):
        here = Streams(3, ("membership", "network", index))
        network = plain(here.generator("init"))
        fit(network, images, found.view.public.normalise, QUICK, here.generator("train"))
        logits = network(found.view.public.normalise(audit.candidates.pixels)).detach().double()
        assert np.allclose(phi[index], confidence(logits, audit.candidates.labels).numpy(), rtol=0, atol=1e-9)
        own = network(found.view.public.normalise(images.pixels)).detach().double()
        assert trained[index] == pytest.approx(float(F.cross_entropy(own, images.labels)), abs=1e-9)


def test_networks_trained_together_are_those_trained_one_by_one(tmp_path):
    audit = Audit(tmp_path, publish(4))
    one = reader(audit)
    released = audit.released(2, one.view.threat)
    expected = one.confidences(released, audit.candidates)
    audit.cache.clear()
    public = replace(one.view.public, execution=Execution(ensemble="vmap"))
    together = replace(one, view=replace(one.view, public=public))
    assert np.allclose(together.confidences(released, audit.candidates), expected, rtol=0, atol=1e-4)


def test_every_run_is_trained_on_once_and_names_say_what_they_depend_on(tmp_path):
    audit = Audit(tmp_path, publish(4))
    for target in (0, 3):
        for config in (CONFIG, Config(networks=1), Config(networks=2, train=QUICK.model_copy(update={"epochs": 3}))):
            found = reader(audit, config, target)
            for row in range(3):
                released = audit.released(row, found.view.threat)
                found.confidences(released, audit.candidates)
                found.confidences(released, audit.auxiliary)
                found.training_losses(released)
    kinds = [name.rsplit("-", 1)[0] for name in audit.computed]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "membership-networks": 9, "membership-confidence": 18, "membership-loss": 9,
    }  # fmt: skip


def test_a_released_model_is_used_as_it_is(tmp_path):
    audit, config = Audit(tmp_path, publish(4)), Config(release="server_model")
    found = reader(audit, config)
    phi = found.confidences(audit.released(5, found.view.threat), audit.candidates)
    network = plain(stream(5, "server"))
    logits = network(found.view.public.normalise(audit.candidates.pixels)).detach().double()
    assert np.allclose(phi, confidence(logits, audit.candidates.labels)[None].numpy(), rtol=0, atol=1e-9)
    assert audit.computed == [name for name in audit.computed if "networks" not in name]


def test_a_server_that_does_not_train_asks_for_a_training(tmp_path):
    audit = Audit(tmp_path, publish(4), train=None)
    found = reader(audit)
    with pytest.raises(UserError, match=r"attack\.loss_threshold\.train=null, but the server of this run trains on no"):
        found.confidences(audit.released(0, found.view.threat), audit.candidates)
    given = reader(audit, Config(networks=1, train=QUICK))
    assert given.confidences(audit.released(0, given.view.threat), audit.candidates).shape == (1, 40)
