"""The loss is the equation, written out; images come back from a linear change of the weights, and not from others."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from attacks.gradient_matching import Gradients, Observed, stack
from attacks.ntk_reconstruction import DUAL, Config, NTKReconstruction, Tangent, rate
from fedsim.audit.image_distances import match, mean_squared_error
from fedsim.audit.tangent import combination
from fedsim.data.transforms import Normalise
from fedsim.models.functional import flatten, state
from fedsim.models.mlp import MLP
from fedsim.models.mlp import Config as MLPConfig
from fedsim.models.network import Network, build_network, draw_normal
from fedsim.seeding import stream
from fedsim.types import UserError
from tests.reference import tangent as literal

SHAPE = (1, 5, 5)
SHORT = Config(iterations=400)


@dataclass(frozen=True)
class Change:
    """What the attacker sees, and what it came from."""

    observed: Observed
    pixels: Tensor
    """(b, s, c, h, w)."""
    duals: Tensor
    """(b, s, k)."""
    networks: list[Network]


def network(seed: int, outputs: int, width: int) -> Network:
    """A perceptron with weights from N(0, 2 / inputs), and biases large enough to fix the scale of an image."""
    made = build_network(MLP, MLPConfig(depth=1, width=width), SHAPE, outputs, stream(seed))
    for parameter in made.parameters():
        draw_normal(parameter, (2 / parameter[0].numel()) ** 0.5, stream(seed, str(tuple(parameter.shape))))
    return made


def linear(
    problems: int, records: int, outputs: int, own: bool = False, width: int = 100, normalise: Normalise | None = None
) -> Change:
    """θ₀ − θ_T of a network that is linear in its weights: minus a combination of gradients."""
    networks = [network(seed, outputs, width) for seed in range(problems if own else 1)]
    pixels = (torch.rand(problems, records, *SHAPE, generator=stream(1)) > 0.6).float() * 0.8 + 0.1
    signs = torch.randint(0, 2, (problems, records, outputs), generator=stream(2)) * 2.0 - 1
    duals = signs * (0.5 + torch.rand(signs.shape, generator=stream(3)))
    plain = normalise or Normalise((0.0,), (1.0,))
    inputs = plain.inputs(pixels.flatten(0, 1)).view_as(pixels)
    targets: list[Gradients] = []
    for problem in range(problems):
        made = networks[problem if own else 0]
        change = combination(made, state(made), inputs[problem], duals[problem])
        targets.append({name: -value for name, value in change.items()})
    params = stack([state(made) for made in networks]) if own else state(networks[0])
    observed = Observed(networks[0], params, stack(targets), SHAPE, outputs, plain, records)
    return Change(observed, pixels, duals, networks)


@pytest.mark.parametrize("own", [False, True])
def test_the_loss_is_the_equation(own: bool):
    made = linear(2, 3, 2, own, width=8, normalise=Normalise((0.4,), (0.3,)))
    tangent = Tangent(made.observed, 4)
    points = torch.stack([tangent.start(stream(7, index)) for index in range(2)])
    rows = torch.tensor([1, 0])
    images, duals = tangent.split(rows, points)
    found = tangent.loss(made.networks[0], rows, points)
    for place, problem in enumerate(rows.tolist()):
        change = -flatten({name: value[problem] for name, value in made.observed.targets.items()})
        inputs = made.observed.normalise.inputs(images[place])
        expected = literal.loss(made.networks[problem if own else 0], inputs, duals[place], change)
        assert float(found[place]) == pytest.approx(expected, rel=1e-4)


def test_the_loss_is_0_at_the_records_and_their_duals():
    made = linear(2, 3, 2, own=True)
    tangent, rows = Tangent(made.observed, 3), torch.arange(2)
    scaled = made.duals / (DUAL * tangent.unit[:, None, None])
    points = torch.cat([made.pixels.logit().flatten(1), scaled.flatten(1)], dim=1)
    assert tangent.loss(made.networks[0], rows, points).max() < 1e-9


def test_reduction_of_one_record_and_one_output_to_its_own_gradient():
    made = linear(1, 1, 1)
    model = made.networks[0]
    change = -flatten({name: value[0] for name, value in made.observed.targets.items()})
    own = literal.jacobian(model, made.pixels[0])[0]
    cosine = torch.nn.functional.cosine_similarity(change, made.duals[0, 0] * own, dim=0)
    assert float(cosine) == pytest.approx(1, abs=1e-5)
    found = NTKReconstruction(Config(iterations=300)).reconstruct(made.observed, stream(5))
    assert float(mean_squared_error(found.images[0], made.pixels[0])) < 1e-3
    assert int(found.labels) == int(made.duals > 0)


def test_records_come_back_from_a_linear_change_with_their_labels():
    made = linear(2, 2, 1, own=True, width=300)
    found = NTKReconstruction(SHORT).reconstruct(made.observed, stream(5))
    for problem in range(2):
        order = match(found.images[problem], made.pixels[problem])
        assert (mean_squared_error(found.images[problem], made.pixels[problem][order]) < 1e-2).all()
        assert torch.equal(found.labels[problem], (made.duals[problem, order, 0] > 0).long())
    assert (found.gradient_loss < 0.01).all()
    assert found.images.amin() >= 0
    assert found.images.amax() <= 1


def test_a_change_that_is_no_combination_is_not_explained():
    made = linear(1, 3, 1)
    noise = {
        name: torch.randn(value.shape, generator=stream(9, name)) * value.norm() / value.numel() ** 0.5
        for name, value in made.observed.targets.items()
    }
    found = NTKReconstruction(Config(iterations=150)).reconstruct(replace(made.observed, targets=noise), stream(5))
    assert float(found.gradient_loss) > 0.5


def test_of_more_candidates_those_of_the_largest_duals_are_kept():
    made = linear(1, 2, 1, width=16)
    attack = NTKReconstruction(Config(iterations=1, candidates=3))
    found = attack.reconstruct(made.observed, stream(5))
    assert found.images.shape == (1, 2, *SHAPE)
    tangent = Tangent(made.observed, 6)
    points = torch.cat([torch.zeros(150), torch.tensor([0.1, -4, 0.2, 3, 0.3, 0.4])])[None]
    kept = attack._kept(tangent, points, torch.zeros(1))
    assert kept.labels.tolist() == [[0, 1]]


def test_of_several_attempts_the_one_of_the_smallest_loss_is_kept():
    made = linear(2, 2, 1, width=16)
    losses = [
        NTKReconstruction(Config(iterations=5, restarts=restarts, width=3)).reconstruct(made.observed, stream(5))
        for restarts in (1, 4)
    ]
    assert (losses[1].gradient_loss <= losses[0].gradient_loss.max()).all()
    assert losses[1].iterations.tolist() == [20, 20]


def test_the_network_that_was_handed_in_is_left_as_it_is():
    made = linear(1, 2, 1, width=16)
    before = state(made.networks[0])
    NTKReconstruction(Config(iterations=2)).reconstruct(made.observed, stream(5))
    assert all(torch.equal(before[name], value) for name, value in state(made.networks[0]).items())
    assert any(isinstance(layer, torch.nn.ReLU) for layer in made.networks[0].modules())


def test_the_learning_rate_falls_at_the_end():
    assert [rate(0.0), rate(0.69), rate(1.0)] == [1, 1, 0.02]
    assert rate(0.85) == pytest.approx(0.5)


def test_weights_that_did_not_move_are_refused():
    made = linear(1, 2, 1, width=16)
    nothing = {name: torch.zeros_like(value) for name, value in made.observed.targets.items()}
    with pytest.raises(UserError, match="weight change of 0"):
        NTKReconstruction(Config()).reconstruct(replace(made.observed, targets=nothing), stream(5))
