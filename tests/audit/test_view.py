"""An attack gets what its threat model grants; the rest, and the truth, it cannot reach."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

from fedsim.audit.types import Knowledge, NotGranted, Release, ThreatModel
from fedsim.audit.view import AdversaryView, Public, Released, Source
from fedsim.data.images import Images
from fedsim.data.synthetic import SyntheticSet
from fedsim.data.transforms import Normalise
from fedsim.models.mlp import MLP
from fedsim.models.network import build_network
from fedsim.types import UserError

WEIGHTS = {"w": torch.ones(2)}


def threat(sees: set[Release], knows: set[Knowledge]) -> ThreatModel:
    return ThreatModel("curious", "server", "passive", frozenset(sees), frozenset(knows))


def stored(folder: Path, rounds: int = 2, clients: int = 2) -> Source:
    for number in range(1, rounds + 1):
        for client in range(clients):
            path = folder / "synthetic" / f"round_{number:03d}" / f"client_{client:04d}.safetensors"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = torch.full((1, 1, 4, 4), 10 * number + client, dtype=torch.uint8)
            SyntheticSet(pixels, torch.tensor([0]), ("a", "b"), (0.5,), (0.5,)).save(path)
    return Source(folder, 0, lambda: WEIGHTS, lambda: [WEIGHTS])


def levels(sets: list[SyntheticSet]) -> list[int]:
    return [int(one.images.max()) for one in sets]


def test_each_release_is_what_it_says(tmp_path: Path) -> None:
    released = Released(stored(tmp_path), threat(set(Release), {Knowledge.WEIGHTS}), "x")
    assert levels(released.client_sets()) == [10, 20]
    assert levels(released.final_set()) == [20, 21]
    assert released.server_model() is WEIGHTS
    assert released.broadcasts() == [WEIGHTS]


def test_a_source_can_end_early(tmp_path: Path) -> None:
    source = stored(tmp_path)
    early = Released(Source(tmp_path, 1, source.server_model, until=1), threat(set(Release), set()), "x")
    assert levels(early.client_sets()) == [11]
    assert levels(early.final_set()) == [10, 11]


@pytest.mark.parametrize(
    ("name", "release"),
    [("client_sets", Release.FINAL_SET), ("final_set", Release.CLIENT_SETS), ("server_model", Release.FINAL_SET)],
)
def test_what_is_not_seen_is_refused(tmp_path: Path, name: str, release: Release) -> None:
    released = Released(stored(tmp_path), threat({release}, set()), "x")
    with pytest.raises(NotGranted, match="curious does not see"):
        getattr(released, name)()


def test_weights_of_the_rounds_are_knowledge(tmp_path: Path) -> None:
    with pytest.raises(NotGranted, match="does not know the weights"):
        Released(stored(tmp_path), threat(set(Release), set()), "x").broadcasts()


def test_a_run_that_kept_nothing_says_so(tmp_path: Path) -> None:
    released = Released(Source(tmp_path, 0, lambda: WEIGHTS), threat(set(Release), {Knowledge.WEIGHTS}), "x")
    with pytest.raises(UserError, match="keeps no synthetic sets"):
        released.client_sets()
    with pytest.raises(UserError, match="transcript=all"):
        released.broadcasts()


def view(tmp_path: Path, knows: set[Knowledge]) -> AdversaryView:
    images = Images(torch.zeros((3, 1, 4, 4), dtype=torch.uint8), torch.zeros(3, dtype=torch.int64))
    model = threat({Release.CLIENT_SETS}, knows)
    public = Public(
        lambda rng: build_network(MLP, MLP.Config(), (1, 4, 4), 2, rng),
        Normalise((0.5,), (0.5,)), ("a", "b"), (1, 4, 4), torch.device("cpu"),
    )  # fmt: skip
    granted = {Knowledge.CANDIDATES: images, Knowledge.AUXILIARY: images}
    return AdversaryView(model, Released(stored(tmp_path), model, "x"), public, granted)


@pytest.mark.parametrize("name", ["candidates", "auxiliary", "shadows"])
def test_knowledge_that_is_not_granted_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(NotGranted, match="curious"):
        getattr(view(tmp_path, set()), name)


def test_knowledge_that_is_granted_is_there(tmp_path: Path) -> None:
    seen = view(tmp_path, {Knowledge.CANDIDATES, Knowledge.AUXILIARY, Knowledge.SHADOWS})
    assert len(seen.candidates) == len(seen.auxiliary) == 3
    assert list(seen.shadows) == []
    assert np.array_equal(seen.cache("a", lambda: np.ones(1)), np.ones(1))


def test_no_path_of_the_run_can_be_reached_from_a_view() -> None:
    """`split.npz` lies in the run directory; a view offers no path, and a `Released` keeps its source to itself."""
    public = {name for name in dir(Released) if not name.startswith("_")}
    releases = {"client_sets", "final_set", "server_model", "updates", "broadcasts", "gradients", "local_updates"}
    assert public == releases | {"canaries", "of_client"}
    assert not any("Path" in str(one.type) or "Source" in str(one.type) for one in fields(AdversaryView))
