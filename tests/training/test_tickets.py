"""Lottery tickets: masks against torch.nn.utils.prune, zeros that stay zero, rounds that go back to the start."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch.nn.utils import prune

from fedsim.data.augment import Config as DSAConfig
from fedsim.models.convnet import Config as ConvNetConfig
from fedsim.models.convnet import ConvNet
from fedsim.models.functional import flatten, state
from fedsim.models.network import Network, build_network
from fedsim.models.norms import Norm
from fedsim.seeding import Streams, stream
from fedsim.training import tickets
from fedsim.training.tickets import Config, Round, Scope
from fedsim.training.train import TrainConfig, fit
from fedsim.types import UserError
from tests.reference import dm as reference

TRAIN = TrainConfig(epochs=3, lr=0.1, momentum=0.9, weight_decay=0.1, batch_size=4)


def network(norm: Norm = "instance", seed: int = 0) -> Network:
    return build_network(ConvNet, ConvNetConfig(depth=1, width=4, norm=norm), (1, 6, 6), 4, stream(seed))


def all_rounds(net: Network, **options: Any) -> list[Round]:
    config = Config(train=TRAIN, **options)
    return list(tickets.rounds(net, reference.images(), reference.NORMALISE, config, Streams(1)))


def of_torch(net: Network, shares: list[float], scope: Scope) -> dict[str, torch.Tensor]:
    layers = [net.blocks[0][0], net.head]  # pyright: ignore[reportIndexIssue]
    for share in shares:
        if scope == "global":
            prune.global_unstructured([(layer, "weight") for layer in layers], prune.L1Unstructured, amount=share)
        else:
            for layer in layers:
                prune.l1_unstructured(layer, "weight", amount=share)
    return {"blocks.0.0.weight": layers[0].weight_mask.bool(), "head.weight": layers[1].weight_mask.bool()}


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_masks_are_torchs(scope: Scope):
    for seed in range(5):
        net, masks, shares = network(seed=seed), tickets.whole(network()), [0.2, 0.3, 0.5]
        for share in shares:
            masks = tickets.pruned(masks, state(net), share, scope)
        expected = of_torch(net, shares, scope)
        assert expected.keys() == masks.keys()
        assert all(torch.equal(masks[name], mask) for name, mask in expected.items())


@given(st.integers(0, 999), st.floats(0, 1), st.sampled_from(["global", "layer"]))
def test_what_goes_is_smaller_than_what_stays(seed: int, share: float, scope: Scope):
    weights = {"a": torch.randn(7, generator=stream(seed)), "b": 3 * torch.randn(2, 4, generator=stream(seed, 1))}
    before = {name: torch.ones_like(value, dtype=torch.bool) for name, value in weights.items()}
    first = tickets.pruned(before, weights, 0.3, scope)
    after = tickets.pruned(first, weights, share, scope)
    assert all(bool((first[name] | ~after[name]).all()) for name in weights)
    assert all(bool(mask.flatten()[weights[name].abs().argmax()]) for name, mask in after.items())
    for names in [["a", "b"]] if scope == "global" else [["a"], ["b"]]:
        kept = sum(int(first[name].sum()) for name in names)
        left = sum(int(after[name].sum()) for name in names)
        assert left == max(len(names), kept - round(share * kept))
        gone = torch.cat([weights[name][first[name] & ~after[name]].abs() for name in names])
        # the largest of a layer stays whatever its size
        stay = torch.cat([weights[name][after[name]].abs().sort().values[:-1] for name in names])
        assert len(gone) == 0 or len(stay) == 0 or gone.max() <= stay.min()


def test_ties_go_in_order_and_nothing_is_cut_through():
    weights = {"b": torch.ones(3), "a": torch.ones(3)}
    masks = tickets.magnitude_mask(weights, ["b", "a"], 0.5)
    assert masks["a"].tolist() == [True, False, False]
    assert masks["b"].tolist() == [True, False, True]
    least = tickets.magnitude_mask({"a": torch.tensor([0.1, 0.2]), "b": torch.tensor([5.0, 6.0])}, ["a", "b"], 0.0)
    assert {name: mask.tolist() for name, mask in least.items()} == {"a": [False, True], "b": [False, True]}


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_masks_that_keep_everything_change_no_bit(norm: Norm):
    plain, masked = network(norm), network(norm)
    config = TRAIN.model_copy(update={"augment": DSAConfig()})
    expected = fit(plain, reference.images(), reference.NORMALISE, config, stream(3))
    loss = tickets.fit_masked(masked, tickets.whole(masked), reference.images(), reference.NORMALISE, config, stream(3))
    assert loss == expected
    assert torch.equal(flatten(state(plain)), flatten(state(masked)))


def test_pruned_weights_stay_at_zero_and_the_others_move():
    net = network()
    masks = tickets.magnitude_mask(state(net), tickets.prunable(net), 0.3)
    before = state(net)
    tickets.fit_masked(net, masks, reference.images(), reference.NORMALISE, TRAIN, stream(1))
    for name, mask in masks.items():
        after = state(net)[name]
        assert bool((after[~mask] == 0).all())
        assert bool((after[mask] != before[name][mask]).any())
    assert not torch.equal(state(net)["head.bias"], before["head.bias"])


@pytest.mark.parametrize("rewind", [0, 1, 2])
def test_rounds_by_hand(rewind: int):
    """Early weights once; then every round trains the ticket from there and prunes by what came out."""
    found = all_rounds(network(), rounds=2, share=0.4, rewind=rewind)
    net, streams, images = network(), Streams(1), reference.images()
    if rewind:
        half = TrainConfig(**{**TRAIN.model_dump(), "epochs": rewind, "schedule": "constant"})
        halves = [TRAIN.lr, TRAIN.lr, 0.1 * TRAIN.lr]
        assert halves[:rewind] == [half.lr] * rewind  # the schedule of three epochs drops in the third
        fit(net, images, reference.NORMALISE, half, streams.at("start").generator("train"))
    early, masks = state(net), dict(tickets.whole(net))
    for number in range(3):
        net.load_state_dict(early)
        rng = streams.at("round", number).generator("train")
        tickets.fit_masked(net, masks, images, reference.NORMALISE, TRAIN, rng, first=rewind)
        assert torch.equal(flatten(found[number].trained), flatten(state(net)))
        assert all(torch.equal(found[number].masks[name], mask) for name, mask in masks.items())
        masks = tickets.pruned(masks, state(net), 0.4)
    assert [tickets.keep_ratio(one.masks) for one in found] == pytest.approx([1, 0.6, 0.36], abs=0.02)


def test_rounds_are_their_seed():
    first, again = (all_rounds(network(), rounds=1)[-1] for _ in range(2))
    assert torch.equal(flatten(first.trained), flatten(again.trained))


def test_no_round_is_a_training():
    only = all_rounds(network(), rounds=0)
    plain = network()
    fit(plain, reference.images(), reference.NORMALISE, TRAIN, Streams(1).at("round", 0).generator("train"))
    assert len(only) == 1
    assert torch.equal(flatten(only[0].trained), flatten(state(plain)))


def test_random_masks_keep_as_much_of_every_layer():
    masks = tickets.magnitude_mask(state(network()), tickets.prunable(network()), 0.3)
    first, other = tickets.random_masks(masks, stream(0)), tickets.random_masks(masks, stream(1))
    assert all(first[name].sum() == mask.sum() for name, mask in masks.items())
    assert any(not torch.equal(first[name], other[name]) for name in masks)
    assert any(not torch.equal(first[name], masks[name]) for name in masks)


def test_wrong_input():
    net = network()
    with pytest.raises(ValidationError, match=r"got 3 of 3 epochs"):
        Config(train=TRAIN, rewind=3)
    with pytest.raises(UserError, match="do not fit the network"):
        tickets.hold(net, {"head.weight": torch.ones(2, 2, dtype=torch.bool)})
    with pytest.raises(UserError, match="do not fit the network"):
        tickets.hold(net, {"tail.weight": torch.ones(2, 2, dtype=torch.bool)})
    with pytest.raises(UserError, match="not finite"):
        tickets.magnitude_mask({"a": torch.tensor([1.0, torch.nan])}, ["a"], 0.5)
