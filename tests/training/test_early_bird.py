"""Early-bird tickets: the mask of scales, the epoch at which it stands still, networks that have none."""

from __future__ import annotations

import pytest
import torch

from fedsim.models.convnet import Config as ConvNetConfig
from fedsim.models.convnet import ConvNet
from fedsim.models.functional import flatten, state
from fedsim.models.network import Network, build_network
from fedsim.models.norms import Norm
from fedsim.seeding import stream
from fedsim.training import early_bird, tickets
from fedsim.training.early_bird import Config, EarlyBird
from fedsim.training.train import TrainConfig, fit
from fedsim.types import UserError
from tests.reference import dm as reference

TRAIN = TrainConfig(epochs=30, lr=0.05, momentum=0.9, weight_decay=0.0, batch_size=4)
NORMS: tuple[Norm, ...] = ("instance", "group", "batch")


def network(norm: Norm = "instance") -> Network:
    return build_network(ConvNet, ConvNetConfig(depth=2, width=8, norm=norm), (1, 6, 6), 4, stream(0))


def drawn(net: Network, config: Config) -> EarlyBird:
    images = reference.images()
    return early_bird.draw_ticket(net, images, reference.NORMALISE, config, stream(1))


@pytest.mark.parametrize("norm", NORMS)
def test_the_ticket_is_drawn_at_the_first_epoch_whose_mask_stands_still(norm: Norm):
    """All masks again, epoch by epoch from trainings that were ended there."""
    config = Config(share=0.5, window=3, distance=0.15, train=TRAIN)
    found = drawn(network(norm), config)
    assert found.epoch is not None
    masks = []
    for epoch in range(1, found.epoch + 1):
        net = network(norm)
        names = early_bird.scales(net)

        def penalise(inner: Network, names: list[str] = names) -> None:
            for name, weight in inner.named_parameters():
                if name in names:
                    assert weight.grad is not None
                    weight.grad += config.penalty * weight.detach().sign()

        fit(net, reference.images(), reference.NORMALISE, TRAIN, stream(1), adjust=penalise,
            progress=lambda done, loss, epoch=epoch: done == epoch)  # fmt: skip
        sizes = torch.cat([state(net)[name].abs() for name in names])
        masks.append(sizes > sizes.sort().values[len(sizes) // 2 - 1])
    far = [
        max(float((masks[later] != masks[earlier]).float().mean()) for earlier in range(max(0, later - 3), later))
        for later in range(1, len(masks))
    ]
    assert found.distances == pytest.approx(far)
    assert torch.equal(torch.cat([found.masks[name] for name in sorted(found.masks)]), masks[-1])
    still = [t + 2 for t, value in enumerate(far) if value < 0.15 and t + 1 >= 3]
    assert still == [found.epoch]


def test_a_mask_that_never_stands_still_is_no_ticket():
    found = drawn(network(), Config(window=40, train=TRAIN))
    assert found.epoch is None
    assert len(found.distances) == TRAIN.epochs - 1


def test_the_penalty_makes_scales_small():
    sizes = []
    for penalty in (0.0, 0.05):
        net = network()
        drawn(net, Config(penalty=penalty, window=40, train=TRAIN))
        sizes.append(float(torch.cat([state(net)[name].abs() for name in early_bird.scales(net)]).mean()))
    assert sizes[1] < 0.8 * sizes[0]


def test_channels_are_ranked_over_all_layers_and_each_keeps_one():
    weights = {"a.weight": torch.tensor([0.1, -0.2, 0.3]), "b.weight": torch.tensor([1.0, -2.0, 3.0])}
    half = early_bird.gamma_mask(weights, sorted(weights), 0.5)
    assert half["a.weight"].tolist() == [False, False, True]
    assert half["b.weight"].tolist() == [False, True, True]
    third = early_bird.gamma_mask(weights, sorted(weights), 1 / 3)
    assert third["a.weight"].tolist() == [False, False, True]
    assert third["b.weight"].tolist() == [True, True, True]
    assert early_bird.distance(half, third) == 1 / 6


def test_a_channel_that_is_off_puts_out_nothing():
    net = network("group")
    masks = {name: torch.arange(8) % 2 == 0 for name in early_bird.scales(net)}
    fully = early_bird.of_channels(masks)
    tickets.fit_masked(net, fully, reference.images(), reference.NORMALISE, TRAIN, stream(1))
    out = net.features(reference.NORMALISE(reference.images().pixels)).layers[0]
    assert bool((out[:, 1::2] == 0).all())
    assert bool((out[:, ::2] != 0).any())


@pytest.mark.parametrize("norm", ["none", "layer"])
def test_a_network_without_scales_is_refused(norm: Norm):
    net = network(norm)
    before = flatten(state(net))
    with pytest.raises(UserError, match=r"ConvNet has no scale for each channel; valid: model\.norm of batch"):
        drawn(net, Config(train=TRAIN))
    assert torch.equal(before, flatten(state(net)))


def test_scales_of_a_new_network_rank_nothing():
    net = network()
    with pytest.raises(UserError, match="as in a new network"):
        early_bird.gamma_mask(state(net), early_bird.scales(net), 0.5)
