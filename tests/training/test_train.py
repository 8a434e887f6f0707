"""The supervised loop: against steps taken by hand, in pieces and whole, with its schedule."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedsim.data.augment import Config as DSAConfig
from fedsim.data.images import Images
from fedsim.data.transforms import Normalise
from fedsim.models.convnet import Config as ConvNetConfig
from fedsim.models.convnet import ConvNet
from fedsim.models.execution import Execution
from fedsim.models.functional import flatten, state
from fedsim.models.network import Network, build_network
from fedsim.models.norms import Norm
from fedsim.seeding import stream
from fedsim.training.train import TrainConfig, accuracy, fit
from fedsim.types import UserError
from tests.reference import dm as reference

PLAIN = TrainConfig(epochs=2, lr=0.1, momentum=0.5, weight_decay=0.01, batch_size=4, schedule="constant")


def network(norm: Norm = "instance") -> Network:
    return build_network(ConvNet, ConvNetConfig(depth=1, width=4, norm=norm), (1, 6, 6), 4, stream(0))


def trained(config: TrainConfig, *, norm: Norm = "instance", seed: int = 1, **options: Any) -> Network:
    result = network(norm)
    fit(result, reference.images(), reference.NORMALISE, config, stream(seed), **options)
    return result


@given(st.integers(1, 40), st.integers(0, 99))
def test_a_batch_normalised_alone_is_its_rows_of_the_whole(size: int, seed: int) -> None:
    """Training normalises batch by batch, so that float copies of all images are never held; no bit depends on it."""
    pixels = torch.randint(0, 256, (40, 3, 5, 4), generator=stream(seed), dtype=torch.uint8)
    normalise = Normalise((0.3, 0.5, 0.1), (0.4, 0.2, 0.9))
    rows = torch.randperm(40, generator=stream(seed, "rows"))[:size]
    assert torch.equal(normalise(pixels[rows]), normalise(pixels)[rows])


def by_hand(config: TrainConfig, rates: list[float], size: int | None = None) -> tuple[Tensor, float]:
    """v ← μ v + (∇ + λ w), w ← w − η v over shuffled batches; the weights, and the last epoch's mean loss."""
    net, images, rng = network(), reference.images(), stream(1)
    size = size or len(images)
    everything = torch.cat([torch.randperm(len(images), generator=rng) for _ in range(len(rates) + 1)])
    velocity = [torch.zeros_like(weight) for weight in net.parameters()]
    loss = 0.0
    for epoch, rate in enumerate(rates):
        order, loss = everything[epoch * size : (epoch + 1) * size], 0.0
        for first in range(0, size, config.batch_size):
            rows = order[first : first + config.batch_size]
            value = F.cross_entropy(net(reference.NORMALISE(images.pixels[rows])), images.labels[rows])
            gradients = torch.autograd.grad(value, list(net.parameters()))
            loss += value.item() * len(rows) / size
            with torch.no_grad():
                for weight, speed, gradient in zip(net.parameters(), velocity, gradients, strict=True):
                    speed.mul_(config.momentum).add_(gradient + config.weight_decay * weight)
                    weight.sub_(rate * speed)
    return flatten(state(net)), loss


def test_training_equals_steps_by_hand() -> None:
    net = network()
    loss = fit(net, reference.images(), reference.NORMALISE, PLAIN, stream(1))
    expected, expected_loss = by_hand(PLAIN, [0.1, 0.1])
    torch.testing.assert_close(flatten(state(net)), expected, rtol=0, atol=1e-6)
    assert loss == pytest.approx(expected_loss, rel=1e-5)


@pytest.mark.parametrize("more", [-3, 0, 3])
def test_an_epoch_can_be_of_another_number_of_images(more: int) -> None:
    """The rows go on through one permutation after another, and the loss is that of the images that were seen."""
    net, size = network(), len(reference.images()) + more
    loss = fit(net, reference.images(), reference.NORMALISE, PLAIN, stream(1), size=size)
    expected, expected_loss = by_hand(PLAIN, [0.1, 0.1], size)
    torch.testing.assert_close(flatten(state(net)), expected, rtol=0, atol=1e-6)
    assert loss == pytest.approx(expected_loss, rel=1e-5)


@pytest.mark.parametrize("options", [{"size": 4}, {}])
def test_no_image_is_refused_before_anything_is_drawn(options: dict[str, int]) -> None:
    net, rng = network(), stream(1)
    before, drawn = flatten(state(net)), rng.get_state()
    nothing = reference.images().take(torch.empty(0, dtype=torch.int64))
    with pytest.raises(UserError, match=r"^training: got a set of no image; valid: at least one.*$"):
        fit(net, nothing, reference.NORMALISE, PLAIN, rng, **options)
    assert torch.equal(flatten(state(net)), before)
    assert torch.equal(rng.get_state(), drawn)


@pytest.mark.parametrize(("epochs", "before"), [(1, 1), (2, 1), (3, 2), (5, 3), (6, 3)])
def test_the_rate_drops_once_after_half_the_epochs(epochs: int, before: int) -> None:
    config = PLAIN.model_copy(update={"epochs": epochs, "schedule": "step"})
    expected, _ = by_hand(config, [0.1] * before + [0.01] * (epochs - before))
    torch.testing.assert_close(flatten(state(trained(config))), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("first", [0, 1, 2])
def test_epochs_that_count_as_done_are_so_for_the_schedule(first: int) -> None:
    config = PLAIN.model_copy(update={"epochs": 3, "schedule": "step"})
    expected, _ = by_hand(config, [0.1, 0.1, 0.01][first:])
    torch.testing.assert_close(flatten(state(trained(config, first=first))), expected, rtol=0, atol=1e-6)


def test_progress_ends_the_training_by_true_alone() -> None:
    longer = PLAIN.model_copy(update={"epochs": 5})
    ended = trained(longer, progress=lambda epoch, loss: epoch == 2)
    assert torch.equal(flatten(state(ended)), flatten(state(trained(PLAIN))))
    heard: list[int] = []
    trained(longer, progress=lambda epoch, loss: heard.append(epoch))
    assert heard == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("chunk", [1, 2, 3, 4, 100])
def test_pieces_add_up_to_the_whole_batch(chunk: int) -> None:
    whole, pieces = (flatten(state(trained(PLAIN, execution=Execution(size)))) for size in (0, chunk))
    torch.testing.assert_close(pieces, whole, rtol=0, atol=1e-6)


def test_batch_norm_sees_whole_batches() -> None:
    sizes: list[int] = []
    net = network("batch")
    net.blocks[0].register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    fit(net, reference.images(), reference.NORMALISE, PLAIN, stream(1), execution=Execution(2))
    assert sizes == [4, 4, 1] * 2
    whole = flatten(state(trained(PLAIN, norm="batch")))
    assert torch.equal(flatten(state(net)), whole)


@pytest.mark.parametrize("augment", [None, DSAConfig()])
def test_same_generator_same_weights(augment: DSAConfig | None) -> None:
    config = PLAIN.model_copy(update={"augment": augment})
    before = torch.get_rng_state()
    first, again, other = (flatten(state(trained(config, seed=seed))) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state())


def test_augmentation_changes_the_images_but_not_those_given() -> None:
    images = reference.images()
    net = network()
    config = PLAIN.model_copy(update={"augment": DSAConfig()})
    fit(net, images, reference.NORMALISE, config, stream(1))
    assert torch.equal(images.pixels, reference.images().pixels)
    assert not torch.equal(flatten(state(net)), flatten(state(trained(PLAIN))))


def test_progress_hears_every_epoch_and_the_loss_returned_is_the_last() -> None:
    heard: list[tuple[int, float]] = []
    net = network()
    loss = fit(
        net, reference.images(), reference.NORMALISE, PLAIN, stream(1),
        progress=lambda epoch, value: heard.append((epoch, value)),
    )  # fmt: skip
    assert [epoch for epoch, _ in heard] == [1, 2]
    assert heard[-1][1] == loss
    assert not net.training


@pytest.mark.parametrize("batch", [1, 3, 256])
def test_accuracy_is_the_share_of_largest_logits(batch: int) -> None:
    net, images = network("batch"), reference.images((20, 3, 7, 11))
    net.train()
    right = accuracy(net, images, reference.NORMALISE, batch=batch)
    net.eval()
    hits = [
        int(net(reference.NORMALISE(images.pixels[row : row + 1])).argmax()) == int(images.labels[row])
        for row in range(len(images))
    ]
    assert right == sum(hits) / len(hits)


def test_the_loop_learns() -> None:
    bright = torch.arange(40) % 2
    pixels = (bright.view(-1, 1, 1, 1) * 200).expand(-1, 1, 6, 6).to(torch.uint8).contiguous()
    images = Images(pixels, bright)
    net = network("none")
    fit(net, images, reference.NORMALISE, TrainConfig(epochs=20, lr=0.1, batch_size=8), stream(0))
    assert accuracy(net, images, reference.NORMALISE) == 1.0
