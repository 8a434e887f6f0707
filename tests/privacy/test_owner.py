"""A private owner gives out charged noisy sums and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fedsim.data.images import Images
from fedsim.distill.real import Real
from fedsim.privacy.ledger import Ledger
from fedsim.privacy.mechanism import Mechanism
from fedsim.privacy.noise import SeededNoise, SystemNoise
from fedsim.privacy.owner import PrivateImages
from fedsim.seeding import Streams
from fedsim.types import UserError
from tests.reference import dm as loops

WIDTH = 36
CENTRE = torch.zeros(WIDTH)


def flat(pixels: Tensor, labels: Tensor) -> Tensor:
    return pixels.flatten(1)


def owner(folder: Path, images: Images | None = None, *, noise: Any = None, **settings: float) -> PrivateImages:
    seeded = Streams(0).at("noise")
    return PrivateImages(
        loops.images() if images is None else images,
        4,
        loops.NORMALISE,
        torch.device("cpu"),
        Mechanism(**({"clip": 1.0, "kappa": 0.5, "sigma": 2.0} | settings)),
        noise or (lambda question: SeededNoise(seeded.generator(question))),
        Ledger(folder, 1e-5, "add_remove"),
    )


def released(one: PrivateImages, question: str = "round 1", **how: Any) -> Tensor:
    return one.release(question, flat, CENTRE, loops.convnet(), **how).values


@pytest.mark.parametrize(
    "ask",
    [
        lambda one: one.class_sums(flat, 0, None),
        lambda one: one.subset(torch.ones(4), None),
        lambda one: one.counts.max(),
        lambda one: one.counts[0],
    ],
)
def test_whatever_is_exact_is_refused_in_one_line(tmp_path, ask: Callable[[Any], object]):
    with pytest.raises(UserError, match="a private client gives out noisy sums only") as refused:
        ask(owner(tmp_path))
    assert str(refused.value).endswith("or privacy: gradients with dc, dsa, idc, meta_knowledge or dm")
    assert "\n" not in str(refused.value)


def test_it_stands_where_real_images_are_asked_for(tmp_path):
    assert isinstance(owner(tmp_path), Real)
    assert [name for name in dir(owner(tmp_path)) if not name.startswith("_")] == [
        "class_sums", "counts", "image_shape", "ledger", "mechanism", "release", "release_pooled", "subset",
    ]  # fmt: skip


def test_a_question_is_paid_once_and_answered_the_same(tmp_path):
    one = owner(tmp_path, noise=lambda question: SystemNoise())
    first = released(one)
    assert torch.equal(released(one), first)
    assert torch.equal(released(owner(tmp_path, noise=lambda question: SystemNoise())), first)
    assert len(one.ledger.charges) == 1
    assert not torch.equal(released(one, "round 2"), first)
    assert len(one.ledger.charges) == 2


def test_passes_of_any_size_release_the_same(tmp_path):
    whole, pieces = owner(tmp_path / "a"), owner(tmp_path / "b")
    assert torch.equal(released(whole), released(pieces, rows=3))


def test_little_noise_gives_the_class_means_of_clipped_features(tmp_path):
    images = loops.images()
    found = owner(tmp_path, clip=1e3, kappa=10.0, sigma=1e-4).release("round 1", flat, CENTRE, loops.convnet())
    for label in range(4):
        members = loops.NORMALISE(images.pixels[images.labels == label]).flatten(1).double()
        if len(members):
            assert torch.allclose(found.targets(1.0)[label], members.mean(0), atol=1.0)
    assert torch.allclose(found.counts, images.counts(4).double(), atol=0.1)


def test_batch_norm_is_refused_before_anything_is_charged(tmp_path):
    one = owner(tmp_path)
    with pytest.raises(UserError, match=r"model.norm: got batch; .* valid: instance, group"):  # T6
        one.release("round 1", flat, CENTRE, loops.convnet(norm="batch"))
    assert one.ledger.charges == []


def test_a_client_without_images_releases_like_any_other(tmp_path):
    nothing = Images(torch.empty(0, 1, 6, 6, dtype=torch.uint8), torch.empty(0, dtype=torch.int64))
    one = owner(tmp_path, nothing)
    assert released(one).shape == (4, WIDTH + 1)  # T17
    assert len(one.ledger.charges) == 1


def test_a_sample_is_drawn_record_by_record_at_the_public_rate(tmp_path):
    images = loops.images((900, 0, 300, 1))
    one = owner(tmp_path, images, rate=0.25, sigma=1e-3, kappa=1.0)
    taken = one.release("round 1", flat, CENTRE, loops.convnet()).values[:, -1]
    assert float(taken[0]) == pytest.approx(225, abs=60)
    assert float(taken[2]) == pytest.approx(75, abs=35)
    assert one.ledger.charges[0].rate == 0.25
