"""Which of many candidates: a published record is named, noise names at chance, and updates are read as written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from attacks.identification import Config, Identification, least_outside, names
from attacks.inverting_gradients import Config as InversionConfig
from attacks.membership_networks import MembershipConfig, Reader, threat_of
from attacks.update_scores import UpdateRounds
from fedsim.audit.types import Knowledge, NotGranted, Release
from fedsim.audit.view import AdversaryView, Public, Released, Source
from fedsim.config import validate
from fedsim.data.images import Images
from fedsim.data.transforms import Normalise
from fedsim.models.functional import state
from fedsim.runs import save_tensors
from fedsim.seeding import Streams, numpy_stream, stream
from fedsim.types import UserError
from tests.attacks.small_audit import CLASSES, SHAPE, Audit, mlp, noise_images, publish

QUICK = {"random_networks": 2, "directions": 8}


def test_published_records_are_named(tmp_path: Path) -> None:
    attack = Identification(Config(attacked=20, **QUICK))
    audit = Audit(tmp_path, publish(10), pairs=5)
    nearest, align = attack.evaluate(audit.run(attack), audit.truths())
    assert (nearest.confirmatory, align.confirmatory) == (True, False)
    assert nearest.estimate.value == 1 == nearest.details["all_members"]
    assert nearest.estimate.level == pytest.approx(0.975), "two scores were asked"
    assert nearest.p < 1e-10
    assert align.p is None
    assert nearest.null == 1 / 11, "ten of a class are not the client's"


def test_noise_names_at_chance() -> None:
    rng = numpy_stream(0, "noise")
    labels, hits = np.repeat(np.arange(10), 40), []
    for row in range(100):
        members = np.tile(np.arange(40) < 20, 10)
        hits += names(rng.normal(size=400), members, labels, 19, 1, numpy_stream(row, "draw")).tolist()
    assert len(hits) == 1000
    assert abs(np.mean(hits) - 1 / 20) < 4 * (0.05 * 0.95 / 1000) ** 0.5


def test_equal_scores_name_nobody() -> None:
    members, labels = np.array([True, False, False]), np.zeros(3, dtype=int)
    assert least_outside(members, labels) == 2
    assert not names(np.zeros(3), members, labels, 2, 1, numpy_stream(0)).any()


def test_scores_belong_to_a_release() -> None:
    with pytest.raises(UserError, match="valid: nearest, align"):
        validate(Config, {"statistics": ["trace"]})
    assert Config(release="update").scores == ("trace", "gain")


class Update:
    """One client's updates over two rounds: the second round is a step of its own records."""

    def __init__(self, folder: Path) -> None:
        self.records = noise_images(12, 3)
        self.mine = self.records.take(torch.arange(4))
        self.public = Public(mlp, Normalise((0.5,), (0.25,)), ("a", "b"), SHAPE, torch.device("cpu"))
        network = mlp(stream(0, "first"))
        self.sent, self.back = [], []
        for number in (1, 2):
            self.sent.append(state(network))
            loss = torch.nn.functional.cross_entropy(network(self.public.normalise(self.mine.pixels)), self.mine.labels)
            for parameter, one in zip(
                network.parameters(), torch.autograd.grad(loss, list(network.parameters())), strict=True
            ):
                parameter.data -= 0.1 * one
            self.back.append(state(network))
            path = folder / "transcript" / f"round_{number:03d}" / "client_0000.safetensors"
            save_tensors(path, self.back[-1], {})
        self.folder = folder

    def released(self, attack: Identification, until: int | None = None) -> Released:
        source = Source(self.folder, 0, lambda: self.back[-1], lambda: self.sent, until=until)
        return Released(source, attack.threat, "update")


def test_trace_and_gain_are_those_of_their_equations(tmp_path: Path) -> None:
    update = Update(tmp_path)
    rounds = UpdateRounds(update.public, update.sent, update.back)
    trace, gain = rounds.trace(update.records), rounds.gain(update.records)
    for row in (0, 7):
        image = update.public.normalise(update.records.pixels[row : row + 1])
        label = update.records.labels[row : row + 1]
        cosines, gains = [], []
        for sent, back in zip(update.sent, update.back, strict=True):
            network = update.public.with_weights(sent)
            loss = torch.nn.functional.cross_entropy(network(image), label)
            own = torch.cat([one.flatten() for one in torch.autograd.grad(loss, list(network.parameters()))])
            moved = torch.cat([(sent[name] - back[name]).flatten() for name, _ in network.named_parameters()])
            cosines.append(float(torch.nn.functional.cosine_similarity(own, moved, dim=0)))
            logits = [update.public.with_weights(one)(image)[0].detach() for one in (sent, back)]
            sure = [float(z[label] - torch.cat([z[:label], z[label + 1 :]]).logsumexp(0)) for z in logits]
            gains.append(sure[1] - sure[0])
        assert trace[row] == pytest.approx(np.mean(cosines), abs=1e-5)
        assert gain[row] == pytest.approx(np.mean(gains), abs=1e-5)


def test_a_step_of_one_batch_is_inverted_into_as_many_images_of_every_class(tmp_path: Path) -> None:
    update = Update(tmp_path)
    rounds = UpdateRounds(update.public, update.sent, update.back)
    quick = InversionConfig(iterations=80, total_variation=0.0)
    found = rounds.inverted(quick, 2, stream(0, "inversion"))
    assert found.labels.tolist() == [label for label in range(CLASSES) for _ in range(2)]

    def cosine(images: Images) -> float:
        network = update.public.with_weights(update.sent[0])
        loss = torch.nn.functional.cross_entropy(network(update.public.normalise(images.pixels)), images.labels)
        own = torch.cat([one.flatten() for one in torch.autograd.grad(loss, list(network.parameters()))])
        moved = torch.cat([(update.sent[0][n] - update.back[0][n]).flatten() for n, _ in network.named_parameters()])
        return float(torch.nn.functional.cosine_similarity(own, moved, dim=0))

    noise = noise_images(4, 9)
    noise = Images(noise.pixels, found.labels)
    assert cosine(found) > max(0.9, cosine(noise))


def test_updates_are_for_a_server_and_until_hides_later_rounds(tmp_path: Path) -> None:
    update = Update(tmp_path)
    server, reader = Identification(Config(release="update")), Identification(Config())
    assert Release.UPDATE in server.threat.sees
    assert Knowledge.WEIGHTS in server.threat.knows
    assert len(update.released(server).updates()) == 2
    early = update.released(server, until=1)
    assert (len(early.updates()), len(early.broadcasts())) == (1, 1)
    with pytest.raises(NotGranted):
        update.released(reader).updates()


def test_models_that_were_sent_back_are_read_as_they_are(tmp_path: Path) -> None:
    """LiRA's `model` of an update: the confidence of each round's weights, for which nothing is trained."""
    update = Update(tmp_path)
    threat = threat_of(MembershipConfig(name="x", release="update"))
    source = Source(tmp_path, 0, lambda: update.back[-1])
    view = AdversaryView(threat, Released(source, threat, "x"), update.public, {Knowledge.CANDIDATES: update.records})
    found = Reader.of(view, MembershipConfig(name="x", release="update"), Streams(0)).confidences(
        view.released, update.records
    )
    first, second = (UpdateRounds(update.public, [update.sent[0]], [one]).gain(update.records) for one in update.back)
    assert found.shape == (2, 12)
    np.testing.assert_allclose(found[1] - found[0], second - first, atol=1e-5)
