"""The average lands on the attacker's model, by hand; the constraint is the gradient written out; a clip holds it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from attacks.model_replacement import Config, ModelReplacement, distance, scaled
from attacks.naive import Config as NaiveConfig
from attacks.naive import Naive
from defenses.robust_aggregation import Config as RobustConfig
from defenses.robust_aggregation import RobustAggregation
from fedsim.data.trigger import white
from fedsim.federated.algorithms import fedavg
from fedsim.federated.algorithms.fedprox import Config as ProxConfig
from fedsim.federated.algorithms.fedprox import FedProx
from fedsim.federated.algorithms.scaffold import CONTROL, Scaffold
from fedsim.federated.algorithms.scaffold import Config as ScaffoldConfig
from fedsim.federated.attackers import TRIGGER, Attacker
from fedsim.federated.base import Algorithm, Broadcast, ServerState, Upload
from fedsim.models.functional import flatten
from fedsim.seeding import Streams
from fedsim.training.train import TrainConfig
from fedsim.types import Params, UserError
from tests.reference import dm
from tests.reference import fedavg as federation

LOCAL = TrainConfig(epochs=2, lr=0.1, momentum=0.0, weight_decay=0.0, batch_size=100, schedule="constant")
"""Whole batches: two steps."""
LIAR = 2
"""Four images, one of each class: three of them are stamped."""
POISON: dict[str, Any] = {"clients": (LIAR,), "size": 2, "fraction": 1.0}


def averaging(kind: Any = fedavg.FedAvg, config: Any = None) -> Any:
    return kind(config or fedavg.Config(local=LOCAL), None, None, None)


def sent(attacker: Attacker, algorithm: Algorithm | None = None) -> Params:
    """What the liar sends in round 1."""
    return upload_of(attacker, algorithm or averaging()).weights or {}


def upload_of(attacker: Attacker, algorithm: Algorithm) -> Upload:
    here = federation.setting()
    (message,) = algorithm.broadcast(algorithm.init(here), [LIAR]).values()
    return attacker.client(algorithm, federation.view(LIAR, here), message, Streams(5))


def first() -> Params:
    return averaging().init(federation.setting()).weights


def replacing(**more: Any) -> ModelReplacement:
    return ModelReplacement(Config(**POISON, **more))


def test_the_average_of_two_by_hand() -> None:
    """G = 1, an honest client at 3, the attacker's model 5: it sends 1 + 2·(5 − 1) = 9; (3 + 9)/2 = 5 + (3 − 1)/2."""
    start, mine = {"w": torch.tensor([1.0, -2.0])}, {"w": torch.tensor([5.0, 0.5])}
    longer = scaled(mine, start, 2.0)
    assert longer["w"].tolist() == [9.0, 3.0]
    found, _ = fedavg.average(start, [Upload(0, 1, 7, weights={"w": torch.tensor([3.0, -2.0])}),
                                      Upload(1, 1, 7, weights=longer)])  # fmt: skip
    assert found["w"].tolist() == [6.0, 0.5]  # where the honest client stays at G, it is X to the bit
    unequal = [Upload(0, 1, 6, weights=start), Upload(1, 1, 2, weights=scaled(mine, start, 4.0))]  # p = 2/8
    assert fedavg.average(start, unequal)[0]["w"].tolist() == [5.0, 0.5]


def test_counts_are_sent_as_they_are() -> None:
    start, mine = ({"n": torch.tensor(value), "w": torch.tensor([0.0])} for value in (3, 8))
    assert int(scaled(mine, start, 4.0)["n"]) == 8


def test_a_scale_of_one_is_naive_to_the_bit_and_by_default_it_is_the_number_of_clients() -> None:
    plain, start = sent(Naive(NaiveConfig(**POISON))), first()
    same = sent(replacing(scale=1.0))
    assert all(torch.equal(plain[name], same[name]) for name in plain)
    longer = sent(replacing())  # three clients, one attacker
    for name, value in plain.items():
        torch.testing.assert_close(longer[name], start[name] + 3 * (value - start[name]), atol=1e-5, rtol=1e-4)
    half = sent(ModelReplacement(Config(**POISON | {"clients": (LIAR, 0)}, scale=None)))
    assert float(distance(half, start)) == pytest.approx(1.5 * float(distance(plain, start)), rel=1e-4)


def test_without_poison_it_sends_what_the_honest_client_does_to_the_bit(tmp_path: Path) -> None:
    here, algorithm = federation.setting(), averaging()
    (message,) = algorithm.broadcast(algorithm.init(here), [LIAR]).values()
    honest = algorithm.client(federation.view(LIAR, here), message, Streams(5))
    own = LOCAL.model_copy(update={"epochs": 9})
    for more in ({}, {"scale": 7.0, "alpha": 0.5, "train": own}, {"bound": 2.0}):
        attacker = replacing(poison=False, **more)
        found = attacker.client(algorithm, federation.view(LIAR, here, tmp_path), message, Streams(5))
        assert honest.weights is not None
        assert found.weights is not None
        assert set(found.weights) == set(honest.weights)
        assert all(torch.equal(found.weights[name], value) for name, value in honest.weights.items())
        assert (found.client, found.examples, found.losses) == (honest.client, honest.examples, honest.losses)
    assert (tmp_path / TRIGGER).is_file()


def test_the_attackers_own_training() -> None:
    longer = LOCAL.model_copy(update={"epochs": 9})
    apart = [float(distance(sent(replacing(scale=1.0, train=train)), first())) for train in (None, LOCAL, longer)]
    assert apart[0] == apart[1] < apart[2]


def literal(alpha: float) -> Tensor:
    """Two steps down α ℓ + (1 − α) ‖w − w_r‖ on the stamped records, with the norm's gradient written out."""
    here = federation.setting()
    network = here.first_network()
    start = [one.detach().clone() for one in network.parameters()]
    trigger, images = white((1, 6, 6), 2, 0), federation.CLIENTS[LIAR]
    stamped = trigger.poison(images, torch.nonzero(images.labels != 0).flatten())
    for _ in range(LOCAL.epochs):
        loss = F.cross_entropy(network(dm.NORMALISE(stamped.pixels)), stamped.labels)
        gradients = torch.autograd.grad(loss, list(network.parameters()))
        length = (
            sum(float((w.detach() - s).square().sum()) for w, s in zip(network.parameters(), start, strict=True)) ** 0.5
        )
        with torch.no_grad():
            for weight, gradient, there in zip(network.parameters(), gradients, start, strict=True):
                pull = (weight - there) / length if length else 0.0
                weight.sub_(LOCAL.lr * (alpha * gradient + (1 - alpha) * pull))
    return flatten(dict(network.named_parameters())).detach()


@pytest.mark.parametrize("alpha", [1.0, 0.7])
def test_constrain_and_scale_descends_the_class_loss_and_the_distance(alpha: float) -> None:
    found = flatten(sent(replacing(scale=1.0, alpha=alpha)))
    torch.testing.assert_close(found, literal(alpha), atol=1e-6, rtol=1e-5)


def test_the_constraint_comes_beside_what_the_algorithm_adds() -> None:
    none, some = (averaging(FedProx, ProxConfig(local=LOCAL, mu=mu)) for mu in (0.0, 1.0))
    near = [sent(replacing(scale=1.0, alpha=0.7), one) for one in (none, some)]
    torch.testing.assert_close(flatten(near[0]), flatten(sent(replacing(scale=1.0, alpha=0.7))))
    assert float(distance(near[1], first())) < float(distance(near[0], first()))


def test_a_bound_is_in_lengths_of_the_honest_way() -> None:
    here = federation.setting()
    honest = averaging().client(federation.view(LIAR, here), Broadcast(1, first()), Streams(5).at("honest")).weights
    length = float(distance(honest, first()))
    assert float(distance(sent(replacing(bound=1.2)), first())) == pytest.approx(1.2 * length, rel=1e-4)
    far = sent(replacing(bound=1000.0))
    assert all(torch.equal(far[name], value) for name, value in sent(replacing()).items())


def test_control_variates_are_not_scaled() -> None:
    algorithm = averaging(Scaffold, ScaffoldConfig(local=LOCAL))
    plain, longer = (sent(replacing(scale=scale), algorithm) for scale in (1.0, 3.0))
    same = {name: torch.equal(plain[name], longer[name]) for name in plain}
    assert {value for name, value in same.items() if name.startswith(CONTROL)} == {True}
    assert not same["head.weight"]


def uploads() -> list[Upload]:
    """Two honest clients, and the liar with a way of three times its model's."""
    here, algorithm = federation.setting(), averaging()
    message = Broadcast(1, first())
    honest = [algorithm.client(federation.view(one, here), message, Streams(5)) for one in (0, 1)]
    return [*honest, upload_of(replacing(), algorithm)]


def test_a_norm_clip_takes_the_length_away() -> None:
    """The liar counts for as much as its length allows: the median's, and not three times its model's."""
    start, every = first(), [replace(one, examples=1) for one in uploads()]
    here, state = federation.setting(), ServerState(0, start)
    lengths = [float(distance(one.weights or {}, start)) for one in every]
    assert lengths[2] > 2 * max(lengths[:2])
    ends, told = {}, {}
    for rule in ("mean", "norm_clip"):
        defence: Any = RobustAggregation(RobustConfig(rule=rule, shares="equal"))
        after, told = defence.aggregate(averaging(), here, state, every, Streams(0))
        ends[rule] = float(distance(after.weights, start))
    middle = sorted(lengths)[1]
    assert told[f"defence.robust_aggregation.share.{LIAR}"] == pytest.approx(middle / lengths[2] / 3, rel=1e-4)
    assert ends["norm_clip"] <= middle * (1 + 1e-5) < ends["mean"]


def test_an_algorithm_that_is_no_kind_of_fedavg_is_refused() -> None:
    with pytest.raises(
        UserError, match="model_replacement: got algorithm object, which is no kind of FedAvg; valid: fed"
    ):
        upload_of_other()


def upload_of_other() -> None:
    other: Any = object()
    here = federation.setting()
    replacing().client(other, federation.view(LIAR, here), Broadcast(1, first()), Streams(5))
