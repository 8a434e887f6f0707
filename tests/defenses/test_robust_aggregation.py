"""Robust aggregation reduces to the server's own training and average; a liar that moves these does not move it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from defenses.mean_gradients import mean_gradient
from defenses.robust_aggregation import Config, RobustAggregation
from fedsim.data.images import Images
from fedsim.data.synthetic import union
from fedsim.distill.coresets.random import Config as Random
from fedsim.distill.coresets.random import RandomSubset
from fedsim.federated.algorithms.fedavg import Config as FedAvgConfig
from fedsim.federated.algorithms.fedavg import FedAvg
from fedsim.federated.algorithms.feddm import Config as FedDMConfig
from fedsim.federated.algorithms.feddm import FedDM, Sets
from fedsim.federated.algorithms.fedmk import Config as FedMKConfig
from fedsim.federated.algorithms.fedmk import FedMK, GeneratorConfig
from fedsim.federated.algorithms.fednova import Config as NovaConfig
from fedsim.federated.algorithms.fednova import FedNova
from fedsim.federated.algorithms.fedopt import AdamConfig, FedAdam
from fedsim.federated.algorithms.scaffold import Config as ScaffoldConfig
from fedsim.federated.algorithms.scaffold import Scaffold
from fedsim.federated.base import ServerState, Upload, network_with
from fedsim.federated.upload_rows import rows_of
from fedsim.models.execution import Runner
from fedsim.models.functional import flatten, state, trainable_names
from fedsim.seeding import Streams
from fedsim.training.train import TrainConfig
from fedsim.types import UserError
from tests.reference import defences as reference
from tests.reference import fedavg as federation

TRAIN = TrainConfig(epochs=4, lr=0.05, batch_size=10_000)
"""Whole batches, with momentum, weight decay and a learning rate that drops."""
MEAN = Config(rule="mean")


def feddm(train: TrainConfig = TRAIN, kind: Any = FedDM, config: Any = None) -> Any:
    method = Random(ipc=4)
    return kind(config or FedDMConfig(), RandomSubset(method), method, train)


def skewed() -> list[Upload]:
    """Five clients with sets of other sizes and classes."""
    sizes = [(4, 4, 0, 0), (1, 0, 2, 0), (2, 2, 2, 2), (0, 0, 1, 4), (3, 0, 0, 1)]
    return [reference.upload(at, one) for at, one in enumerate(sizes)]


def aggregated(config: Config, algorithm: Any, uploads: list[Upload]) -> tuple[ServerState, dict[str, float]]:
    here = reference.setting()
    return RobustAggregation(config).aggregate(algorithm, here, algorithm.init(here), uploads, Streams(7))


def test_the_score_for_attackers_is_the_distance_from_the_median_gradient() -> None:
    here, uploads = reference.setting(), skewed()
    weights, defence = state(here.first_network()), RobustAggregation(Config())
    rows = rows_of(here, [*uploads, reference.upload(9, (0, 0, 0, 0))])
    rows = replace(rows, inputs=rows.inputs.requires_grad_())
    network, vectors = network_with(here, weights), []
    for place in range(5):
        own = rows.take(rows.owners == place)
        loss = F.cross_entropy(network(own.inputs), own.targets)
        parts = torch.autograd.grad(loss, list(network.parameters()), create_graph=True)
        vectors.append(torch.cat([part.flatten() for part in parts]))
    away = torch.stack([(one - torch.stack(vectors).median(0).values).norm() for one in vectors])
    expected, scores = away / away.median(), defence.score(here, weights, rows)
    torch.testing.assert_close(scores[:5], expected, rtol=1e-4, atol=1e-6)
    assert scores[5].isnan()  # who sent no image has no gradient
    slope, literal = (torch.autograd.grad(one[3], rows.inputs, retain_graph=True)[0] for one in (scores, expected))
    torch.testing.assert_close(slope, literal, rtol=1e-3, atol=1e-5 * float(literal.abs().max()))


def test_what_filters_left_out_are_liars_that_were_found() -> None:
    """Multi-Krum with f = 1 needs five uploads, and four are enough where a filter found the one that lies."""
    uploads, here = skewed()[:4], reference.setting()
    algorithm = feddm()
    config = Config(rule="multi_krum", malicious=1, keep=5)

    def after(config: Config, left_out: int) -> tuple[ServerState, dict[str, float]]:
        before = algorithm.init(here)
        return RobustAggregation(config).aggregate(algorithm, here, before, uploads, Streams(7), left_out=left_out)

    with pytest.raises(UserError, match="multi_krum with malicious=1 got 4 uploads"):
        after(config, 0)
    found, metrics = after(config, 1)
    plain, _ = after(Config(rule="multi_krum", malicious=0, keep=4), 0)
    assert all(torch.equal(found.weights[name], plain.weights[name]) for name in plain.weights)
    assert sum(value for name, value in metrics.items() if ".share." in name) == pytest.approx(1)


def test_where_filters_leave_too_few_for_the_rule_the_server_keeps_its_model() -> None:
    here, algorithm = reference.setting(), feddm()
    before = algorithm.init(here)
    rule = RobustAggregation(Config(rule="krum", malicious=1))
    found, metrics = rule.aggregate(algorithm, here, before, skewed()[:2], Streams(7), left_out=3)
    assert (found.round, found.weights) == (before.round + 1, before.weights)
    assert metrics == {"defence.robust_aggregation.too_few": 2}


def plainly(algorithm: Any, uploads: list[Upload]) -> tuple[ServerState, dict[str, float]]:
    here = reference.setting()
    return algorithm.server(here, algorithm.init(here), uploads, Streams(7))


def apart(left: ServerState, right: ServerState) -> float:
    return float((flatten(left.weights) - flatten(right.weights)).norm())


def test_the_mean_by_size_is_the_servers_own_training_on_whole_batches() -> None:
    algorithm, uploads = feddm(), skewed()
    (found, metrics), (own, plain) = aggregated(MEAN, algorithm, uploads), plainly(algorithm, uploads)
    moved = apart(own, algorithm.init(reference.setting()))
    assert apart(found, own) < 1e-4 * moved
    assert (found.round, set(found.weights)) == (1, set(own.weights))
    for name in ("server_loss", "step", "synthetic_images"):
        assert metrics[name] == pytest.approx(plain[name], rel=1e-4), name
    equal, _ = aggregated(Config(rule="mean", shares="equal"), algorithm, uploads)
    assert apart(equal, own) > 0.01 * moved


def test_shares_are_told_and_add_up() -> None:
    _, metrics = aggregated(MEAN, feddm(), skewed())
    shares = [metrics[f"defence.robust_aggregation.share.{client}"] for client in range(5)]
    assert shares == pytest.approx([8 / 28, 3 / 28, 8 / 28, 5 / 28, 4 / 28])
    _, metrics = aggregated(Config(rule="median"), feddm(), skewed())
    assert not [name for name in metrics if "share" in name]


def test_steps_and_batches_are_those_of_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """28 images in batches of 10: 3 steps an epoch; of each client a third, or all."""
    counted: list[int] = []

    def looked(runner: Runner, inputs: Tensor, targets: Tensor) -> tuple[Tensor, float]:
        counted.append(len(inputs))
        return mean_gradient(runner, inputs, targets)

    monkeypatch.setattr("defenses.robust_aggregation.mean_gradient", looked)
    train = TrainConfig(epochs=2, lr=0.05, batch_size=10)
    aggregated(Config(rule="median", rows="batch"), feddm(train), skewed())
    assert counted == [3, 1, 3, 2, 2] * 3 * 2
    counted.clear()
    aggregated(Config(rule="median"), feddm(train), skewed())
    assert counted == [8, 3, 8, 5, 4] * 3 * 2


@pytest.mark.parametrize("rule", ["median", "trimmed_mean", "krum", "multi_krum"])
def test_one_step_is_the_rule_on_gradients_written_out(rule: Any) -> None:
    here, uploads = reference.setting(), reference.uploads(5)
    train = TrainConfig(epochs=1, lr=0.1, momentum=0, weight_decay=0, batch_size=10_000, schedule="constant")
    algorithm = feddm(train)
    before = algorithm.init(here)
    network = network_with(here, before.weights)
    ordered = [dict(network.named_parameters())[name] for name in trainable_names(network)]
    vectors = []
    for one in uploads:
        assert one.synthetic is not None
        loss = F.cross_entropy(network(here.normalise(one.synthetic.images)), one.synthetic.labels)
        vectors.append(torch.cat([part.flatten() for part in torch.autograd.grad(loss, ordered)]).double())
    lists = [one.tolist() for one in vectors]
    scores = reference.krum_scores(lists, 1)
    best = sorted(range(5), key=lambda at: scores[at])
    expected = {
        "median": torch.tensor([reference.median(column) for column in zip(*lists, strict=True)]),
        "trimmed_mean": torch.tensor(reference.trimmed_mean(lists, 1)),
        "krum": vectors[best[0]],
        "multi_krum": torch.stack([vectors[at] for at in best[:4]]).mean(0),
    }[rule]
    after, _ = aggregated(Config(rule=rule), algorithm, uploads)
    names = trainable_names(network)
    way = flatten({n: before.weights[n] for n in names}) - flatten({n: after.weights[n] for n in names})
    assert torch.allclose(way / 0.1, expected.float(), atol=1e-4)


def test_a_client_that_calls_one_class_another_counts_for_nothing_under_multi_krum() -> None:
    uploads = reference.uploads(7)
    uploads[2] = reference.poisoned(uploads[2])
    found, metrics = aggregated(Config(rule="multi_krum", keep=4), feddm(), uploads)
    assert metrics["defence.robust_aggregation.share.12"] == 0
    others = [one for one in uploads if one.client != 12]
    without, _ = aggregated(Config(rule="multi_krum", keep=4, malicious=0), feddm(), others)
    assert apart(found, without) < 0.2 * apart(found, feddm().init(reference.setting()))


def test_what_a_server_remembers_beside_its_weights_stays() -> None:
    algorithm = feddm(kind=FedMK, config=FedMKConfig(generator=None))
    found, metrics = aggregated(MEAN, algorithm, skewed())
    own, plain = plainly(algorithm, skewed())
    assert found.memory.keys() == own.memory.keys()
    assert all(torch.equal(found.memory[name], own.memory[name]) for name in own.memory)
    assert metrics["synthetic_images"] == plain["synthetic_images"] == 28
    assert algorithm.train_on.__func__ is FedDM.train_on


def weights(count: int = 5, lie: float | None = None) -> list[Upload]:
    here = federation.setting("batch", width=8)
    found = []
    for client in range(count):
        network = here.first_network()
        rng = Streams(client).generator("way")
        with torch.no_grad():
            for weight in network.parameters():
                size = lie if lie is not None and client == 1 else 0.01
                weight.add_(size * torch.randn(weight.shape, generator=rng))
        found.append(Upload(client, 1, 3 + client, weights=state(network), losses=[(1, 9.0), (2, float(client))]))
    return found


@pytest.mark.parametrize(
    "algorithm", [FedAvg(FedAvgConfig(), None, None, None), FedAdam(AdamConfig(), None, None, None)]
)
def test_the_mean_of_weights_is_the_algorithms_own_server(algorithm: Any) -> None:
    here = federation.setting("batch", width=8)
    before = algorithm.init(here)
    found, metrics = RobustAggregation(MEAN).aggregate(algorithm, here, before, weights(), Streams(0))
    own, plain = algorithm.server(here, before, weights(), Streams(0))
    assert metrics["client_loss"] == plain["client_loss"] == 2
    assert apart(found, own) < 1e-3 * apart(own, before)
    assert found.memory.keys() == own.memory.keys()
    assert metrics["defence.robust_aggregation.share.4"] == pytest.approx(7 / 25)


@pytest.mark.parametrize("rule", ["median", "trimmed_mean", "krum", "multi_krum", "norm_clip"])
def test_a_client_of_fedavg_that_sends_far_weights_moves_the_mean_alone(rule: Any) -> None:
    algorithm, here = FedAvg(FedAvgConfig(), None, None, None), federation.setting("batch", width=8)
    before, uploads = algorithm.init(here), weights(lie=50.0)
    found, _ = RobustAggregation(Config(rule=rule)).aggregate(algorithm, here, before, uploads, Streams(0))
    own, _ = algorithm.server(here, before, uploads, Streams(0))
    assert apart(own, before) > 10
    assert apart(found, before) < 1


def test_integers_among_weights_stay_the_servers() -> None:
    algorithm, here = FedAvg(FedAvgConfig(), None, None, None), federation.setting("batch", width=8)
    before = algorithm.init(here)
    found, _ = RobustAggregation(MEAN).aggregate(algorithm, here, before, weights(), Streams(0))
    counters = [name for name, value in before.weights.items() if not value.is_floating_point()]
    assert counters
    assert all(torch.equal(found.weights[name], before.weights[name]) for name in counters)


@pytest.mark.parametrize(
    ("algorithm", "norm", "rule", "line"),
    [
        (FedNova(NovaConfig(), None, None, None), "instance", "mean", "algorithm fednova: it divides each"),
        (Scaffold(ScaffoldConfig(), None, None, None), "instance", "mean", "algorithm scaffold: it sends control"),
        (feddm(kind=FedMK, config=FedMKConfig(generator=GeneratorConfig())), "instance", "mean", "generator: null"),
        (feddm(), "batch", "mean", "choose another model.norm"),
        (feddm(), "instance", "krum", "krum with malicious=1 got 3 uploads; valid: at least 5"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_before_the_run(algorithm: Any, norm: Any, rule: Any, line: str) -> None:
    with pytest.raises(UserError, match=line):
        RobustAggregation(Config(rule=rule)).check(algorithm, federation.setting(norm).first_network(), 3)


def test_what_fits_is_not() -> None:
    network = federation.setting().first_network()
    for algorithm in (
        feddm(),
        feddm(kind=FedMK, config=FedMKConfig(generator=None)),
        FedAvg(FedAvgConfig(), None, None, None),
    ):
        RobustAggregation(Config(rule="trimmed_mean")).check(algorithm, network, 3)

    class Own(FedDM):
        train_on: Any = property()

    with pytest.raises(UserError, match="has no train_on"):
        RobustAggregation(MEAN).check(feddm(kind=Own), network, 3)


def test_an_empty_set_counts_for_nothing() -> None:
    uploads = [*skewed(), replace(reference.upload(9, (0, 0, 0, 0)), examples=1)]
    found, metrics = aggregated(MEAN, feddm(), uploads)
    own, _ = plainly(feddm(), skewed())
    assert apart(found, own) < 1e-4 * apart(own, feddm().init(reference.setting()))
    assert "defence.robust_aggregation.share.9" not in metrics
    assert isinstance(union(Sets(uploads)), Images)
