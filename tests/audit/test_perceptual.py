"""LPIPS as a distance of vectors, against its formula written out, with weights drawn at random."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fedsim.audit import perceptual
from fedsim.audit.perceptual import AFTER, FILES, lacking, load, vectors
from fedsim.seeding import stream
from fedsim.types import UserError

WIDTHS = (4, 5, 3, 3, 2)


def small() -> tuple[nn.Sequential, list[torch.Tensor]]:
    """A narrow network with AlexNet's places of activations."""
    rng, layers, before = stream(0), [], 3
    for place in range(max(AFTER) + 1):
        if place in AFTER:
            layers.append(nn.ReLU())
        elif place + 1 in AFTER:
            after = WIDTHS[AFTER.index(place + 1)]
            convolution = nn.Conv2d(before, after, 3, padding=1)
            with torch.no_grad():
                convolution.weight.normal_(generator=rng)
            layers.append(convolution)
            before = after
        else:
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers), [torch.rand(width, generator=rng) for width in WIDTHS]


def literal(a: torch.Tensor, b: torch.Tensor, layers: nn.Sequential, weights: list[torch.Tensor]) -> float:
    """Layer by layer, place by place, of two images (3, 64, 64) in 0..1."""
    total = 0.0
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    seen = [((one * 2 - 1) - shift[:, None, None]) / scale[:, None, None] for one in (a, b)]
    for place, layer in enumerate(layers):
        seen = [layer(one[None])[0] for one in seen]
        if place in AFTER:
            units = [one / (one.norm(dim=0) + 1e-10) for one in seen]
            each = weights[AFTER.index(place)][:, None, None] * (units[0] - units[1]) ** 2
            total += float(each.sum(0).mean())
    return total


@torch.no_grad()
def test_the_squared_distance_of_vectors_is_the_formula():
    layers, weights = small()
    images = torch.rand(3, 3, 64, 64, generator=stream(1))
    found = vectors(images, layers, weights)
    for a, b in ((0, 1), (1, 2)):
        ours = float((found[a] - found[b]).square().sum())
        assert ours == pytest.approx(literal(images[a], images[b], layers, weights), rel=1e-4)


def test_small_grey_images_are_enlarged_and_coloured():
    layers, weights = small()
    grey = torch.rand(2, 1, 64, 48, generator=stream(2))
    assert (
        vectors(grey, layers, weights).shape == vectors(torch.zeros(1, 3, 64, 64), layers, weights).expand(2, -1).shape
    )


def test_weights_are_read_or_missed_by_name(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDSIM_LPIPS", str(tmp_path))
    assert all(name in lacking() for name in FILES)
    with pytest.raises(UserError, match="not on disk"):
        load()
    shapes = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}
    kept = {f"features.{at}.weight": torch.zeros(*shape, shape[-1]) for at, shape in shapes.items()}
    kept |= {f"features.{at}.bias": torch.ones(shape[0]) for at, shape in shapes.items()}
    kept["classifier.1.weight"] = torch.zeros(2, 2)
    heads = {f"lin{at}.model.1.weight": torch.ones(1, width, 1, 1) for at, width in enumerate((64, 192, 384, 256, 256))}
    save_file(kept, tmp_path / FILES[0])
    save_file(heads, tmp_path / FILES[1])
    assert lacking() == ""
    layers, weights = load()
    assert len(vectors(torch.rand(1, 1, 8, 8, generator=stream(3)), layers, weights)[0]) == 31872
    heads["lin0.model.1.weight"][0, 0] = -1
    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.setenv("FEDSIM_LPIPS", str(other))
    save_file(kept, other / FILES[0])
    save_file(heads, other / FILES[1])
    with pytest.raises(UserError, match="below 0"):
        perceptual.load()
