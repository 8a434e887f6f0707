"""Named random streams: reproducible, independent of each other, and blind to the global generators."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.seeding import Streams, derive, numpy_stream, stream

PURPOSE = st.lists(st.integers(-3, 300) | st.text(max_size=5), max_size=4).map(tuple)


def test_derive_is_sha256_over_the_typed_path():
    digest = hashlib.sha256(b"int:7/str:client/int:3").digest()
    assert derive(7, "client", 3) == int.from_bytes(digest[:8], "little") // 2


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**70), purpose=PURPOSE)
def test_a_seed_fits_in_63_bits_and_is_always_the_same(seed, purpose):
    assert 0 <= derive(seed, *purpose) < 2**63
    assert derive(seed, *purpose) == derive(seed, *purpose)


def test_neighbours_and_look_alikes_share_nothing():
    paths = [(), ("1",), (1,), ("a", "b"), ("ab",), ("a", "b", ""), ("b", "a"), ("client", 1, "round", 2)]
    paths += [("client", 2, "round", 1), ("client", 12), ("client", 1, 2), (0,), (-1,)]
    seeds = [derive(seed, *path) for seed in (0, 1, 10) for path in paths]
    assert len(set(seeds)) == len(seeds)


def test_streams_look_independent():
    draws = torch.stack([torch.randn(4000, generator=stream(0, "step", step)) for step in range(8)])
    correlation = torch.corrcoef(draws) - torch.eye(8)
    assert float(correlation.abs().max()) < 5 / 4000**0.5


def test_a_path_below_a_path_is_the_whole_path():
    narrow = Streams(3).at("client", 2).at("round", 1)
    assert narrow == Streams(3, ("client", 2, "round", 1))
    left = torch.rand(5, generator=narrow.generator("step", 0))
    right = torch.rand(5, generator=stream(3, "client", 2, "round", 1, "step", 0))
    assert torch.equal(left, right)


def test_the_first_draws_are_these_on_every_machine():
    draws = torch.randint(1000, (4,), generator=stream(0, "example"))
    assert draws.tolist() == [721, 200, 202, 257]
    assert numpy_stream(0, "example").integers(1000, size=4).tolist() == [168, 833, 896, 940]


def test_global_generators_are_neither_read_nor_moved():
    states = torch.random.get_rng_state(), repr(np.random.get_state()), random.getstate()  # noqa: NPY002
    first = torch.rand(3, generator=stream(1, "a")), numpy_stream(1, "a").random(3)
    assert torch.equal(torch.random.get_rng_state(), states[0])
    assert repr(np.random.get_state()) == states[1]  # noqa: NPY002
    assert random.getstate() == states[2]
    torch.rand(1)
    again = torch.rand(3, generator=stream(1, "a")), numpy_stream(1, "a").random(3)
    assert torch.equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])
