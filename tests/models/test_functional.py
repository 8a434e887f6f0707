from __future__ import annotations

import hashlib
import struct

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.models import functional
from fedsim.models.convnet import Config, ConvNet
from fedsim.models.network import Features, build_network
from fedsim.models.norms import Norm
from fedsim.seeding import stream
from fedsim.types import UserError

LIGHT = settings(max_examples=25, deadline=None)
SHAPES = st.lists(st.integers(0, 4), max_size=3).map(tuple)
KINDS = st.sampled_from([torch.float32, torch.float64, torch.int64, torch.bool])


def build(seed: int = 0, norm: Norm = "instance"):
    return build_network(ConvNet, Config(depth=2, width=4, norm=norm), (1, 8, 8), 3, stream(seed))


@st.composite
def parameters(draw):
    entries = draw(st.dictionaries(st.text("abz.10", min_size=1), st.tuples(SHAPES, KINDS), max_size=5))
    entries["weight"] = (draw(SHAPES), torch.float32)
    rng = stream(draw(st.integers(0, 99)))
    return {name: (torch.randn(shape, generator=rng) * 3).to(kind) for name, (shape, kind) in entries.items()}


@LIGHT
@given(parameters())
def test_unflatten_inverts_flatten(params):
    back = functional.unflatten(functional.flatten(params), params)
    assert list(back) == list(params)
    for name, tensor in params.items():
        assert back[name].dtype == tensor.dtype
        assert torch.equal(back[name], tensor)


@LIGHT
@given(parameters())
def test_flatten_inverts_unflatten_and_ignores_insertion_order(params):
    vector = torch.arange(functional.flatten(params).numel(), dtype=torch.float64)
    back = functional.unflatten(vector, params)
    assert torch.equal(functional.flatten(back).double(), vector)
    assert torch.equal(functional.flatten(dict(reversed(params.items()))), functional.flatten(params))


def test_flatten_follows_sorted_names_and_carries_integers():
    count = torch.tensor(7)
    params = {"b": torch.tensor([[3.0, 4.0]]), "count": count, "a": torch.tensor([1.0, 2.0])}
    assert functional.flatten(params).tolist() == [1, 2, 3, 4]
    changed = functional.unflatten(torch.tensor([5.0, 6.0, 7.0, 8.0]), params)
    assert changed["b"].tolist() == [[7, 8]]
    assert changed["count"] is count


def test_gradients_pass_through_both_directions():
    like = functional.state(build())
    vector = functional.flatten(like).requires_grad_()
    total = functional.flatten(functional.unflatten(vector, like)).mul(3).sum()
    (gradient,) = torch.autograd.grad(total, vector)
    assert torch.equal(gradient, torch.full_like(vector, 3))


def test_wrong_vectors_are_user_errors():
    like = {"a": torch.zeros(2, 2)}
    with pytest.raises(UserError, match="vector of 3 entries; valid: 4"):
        functional.unflatten(torch.zeros(3), like)
    with pytest.raises(UserError, match="1 entries without floating point"):
        functional.flatten({"count": torch.tensor(1)})


def test_state_is_a_copy():
    network = build()
    copy = functional.state(network)
    before = network.head.weight.detach().clone()
    with torch.no_grad():
        network.head.weight.add_(1)
    assert torch.equal(copy["head.weight"], before)
    assert not copy["head.weight"].requires_grad


def test_model_sha256_equals_the_bytes_written_by_hand():
    params = {"w": torch.tensor([[1.5, -2.0]]), "n": torch.tensor(258)}
    expected = b"n \n" + struct.pack("<q", 258) + b"w 1x2\n" + struct.pack("<ff", 1.5, -2.0)
    assert functional.model_sha256(params) == hashlib.sha256(expected).hexdigest()


def test_model_sha256_sees_values_names_and_shapes_but_not_layout():
    base = {"w": torch.arange(6.0).reshape(2, 3), "v": torch.zeros(1)}
    digest = functional.model_sha256(base)
    assert functional.model_sha256({"v": base["v"], "w": base["w"].T.contiguous().T}) == digest
    assert functional.model_sha256({**base, "w": base["w"].double()}) == digest
    others = [
        {**base, "w": base["w"].reshape(3, 2)},
        {**base, "w": base["w"] + 1e-6},
        {"x": base["w"], "v": base["v"]},
    ]
    assert len({digest, *(functional.model_sha256(other) for other in others)}) == 4


@pytest.mark.parametrize("norm", ["instance", "batch"])
@pytest.mark.parametrize("training", [True, False])
def test_call_equals_loading_the_weights(norm, training):
    network, other = build(0, norm).train(training), build(1, norm).train(training)
    untouched = functional.state(network)
    images = torch.rand(4, 1, 8, 8, generator=stream(2))
    forward = functional.call(network, functional.state(other), "forward", images)
    embedding = functional.call(network, functional.state(other), "embed", images)
    features = functional.call(network, functional.state(other), "features", images)
    kept = functional.state(network)
    assert all(torch.equal(untouched[name], kept[name]) for name in untouched)
    network.load_state_dict(other.state_dict())
    assert torch.equal(forward, network(images))
    assert torch.equal(embedding, network.embed(images))
    assert isinstance(features, Features)
    for left, right in zip(features.layers, network.features(images).layers, strict=True):
        assert torch.equal(left, right)


def test_call_is_differentiable_in_the_weights():
    network = build()
    params = {name: tensor.requires_grad_() for name, tensor in functional.state(network).items()}
    images = torch.rand(2, 1, 8, 8, generator=stream(2))
    functional.call(network, params, "features", images).logits.sum().backward()
    network(images).sum().backward()
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(params[name].grad, parameter.grad)


def test_call_in_training_mode_writes_statistics_to_the_given_entries():
    network = build(norm="batch").train()
    params = functional.state(network)
    functional.call(network, params, "forward", torch.rand(4, 1, 8, 8, generator=stream(2)))
    assert params["blocks.0.1.num_batches_tracked"] == 1
    assert params["blocks.0.1.running_mean"].any()
    assert not network.state_dict()["blocks.0.1.running_mean"].any()


def test_call_refuses_other_methods_and_other_names():
    network = build()
    params = functional.state(network)
    images = torch.zeros(1, 1, 8, 8)
    with pytest.raises(UserError, match=r"method 'reset'; valid: forward, embed, features"):
        functional.call(network, params, "reset", images)
    del params["head.bias"]
    with pytest.raises(UserError, match=r"do not fit ConvNet \(missing or unknown: head.bias\)"):
        functional.call(network, params, "forward", images)


@LIGHT
@given(st.integers(1, 9), st.integers(0, 10))
def test_chunked_equals_whole_for_instance_norm(rows, chunk):
    network = build()
    images = torch.rand(rows, 1, 8, 8, generator=stream(3))
    with torch.no_grad():
        torch.testing.assert_close(functional.chunked(network.embed, images, chunk), network.embed(images))
        seen, whole = functional.chunked(network.features, images, chunk), network.features(images)
    assert isinstance(seen, Features)
    torch.testing.assert_close(seen.logits, whole.logits)
    torch.testing.assert_close(seen.layers, whole.layers)


def test_chunked_never_shows_more_rows_than_asked():
    sizes = []

    def both(rows):
        sizes.append(rows.shape[0])
        return rows.sum(1), rows + 1

    images = torch.arange(14.0).reshape(7, 2)
    total, shifted = functional.chunked(both, images, 3)
    assert sizes == [3, 3, 1]
    assert torch.equal(total, images.sum(1))
    assert torch.equal(shifted, images + 1)
    assert functional.chunked(both, images[:0], 3)[0].shape == (0,)
    with pytest.raises(UserError, match=r"compute.chunk=-1"):
        functional.chunked(both, images, -1)


def test_has_batch_norm():
    assert functional.has_batch_norm(build(norm="batch"))
    assert not functional.has_batch_norm(build(norm="instance"))


def test_trainable_names_are_sorted_and_leave_out_buffers_but_not_frozen_ones():
    network = build(norm="batch")
    network.head.requires_grad_(False)
    layers = ("blocks.0.0", "blocks.0.1", "blocks.1.0", "blocks.1.1")
    names = [f"{layer}.{kind}" for layer in (*layers, "head") for kind in ("bias", "weight")]
    assert functional.trainable_names(network) == names
