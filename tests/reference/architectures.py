"""The condensation pool's forward passes layer by layer; weights come in the order of definition."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Norm = Callable[[Tensor], Tensor]


def mlp(images: Tensor, weights: Sequence[Tensor]) -> Tensor:
    first, first_bias, second, second_bias, head, head_bias = weights
    hidden = images.reshape(images.shape[0], -1)
    hidden = (hidden @ first.T + first_bias).clamp(min=0)
    hidden = (hidden @ second.T + second_bias).clamp(min=0)
    return hidden @ head.T + head_bias


def lenet(images: Tensor, weights: Sequence[Tensor], first_padding: int) -> Tensor:
    w = iter(weights)
    maps = F.max_pool2d(F.conv2d(images, next(w), next(w), padding=first_padding).relu(), 2)
    maps = F.max_pool2d(F.conv2d(maps, next(w), next(w)).relu(), 2)
    hidden = F.linear(maps.flatten(1), next(w), next(w)).relu()
    hidden = F.linear(hidden, next(w), next(w)).relu()
    return F.linear(hidden, next(w), next(w))


def lenet_dlg(images: Tensor, weights: Sequence[Tensor]) -> Tensor:
    w = iter(weights)
    for stride in (2, 2, 1):
        images = F.conv2d(images, next(w), next(w), stride=stride, padding=2).sigmoid()
    return F.linear(images.flatten(1), next(w), next(w))


def hidden_convnet(images: Tensor, weights: Sequence[Tensor], first_padding: int) -> Tensor:
    w = iter(weights)
    for padding in (first_padding, 1, 1):
        images = F.avg_pool2d(F.conv2d(images, next(w), next(w), padding=padding).relu(), 2)
    hidden = F.linear(images.flatten(1), next(w), next(w)).relu()
    return F.linear(hidden, next(w), next(w))


def alexnet(images: Tensor, weights: Sequence[Tensor], first_padding: int) -> Tensor:
    w = iter(weights)
    maps = F.max_pool2d(F.conv2d(images, next(w), next(w), padding=first_padding).relu(), 2)
    maps = F.max_pool2d(F.conv2d(maps, next(w), next(w), padding=2).relu(), 2)
    maps = F.conv2d(maps, next(w), next(w), padding=1).relu()
    maps = F.conv2d(maps, next(w), next(w), padding=1).relu()
    maps = F.max_pool2d(F.conv2d(maps, next(w), next(w), padding=1).relu(), 2)
    return F.linear(maps.flatten(1), next(w), next(w))


def instance(maps: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    mean = maps.mean((2, 3), keepdim=True)
    variance = ((maps - mean) ** 2).mean((2, 3), keepdim=True)
    return (maps - mean) / (variance + 1e-5).sqrt() * scale[:, None, None] + shift[:, None, None]


def vgg11(images: Tensor, weights: Sequence[Tensor], first_padding: int) -> Tensor:
    w = iter(weights)
    maps, padding = images, first_padding
    for channels in [64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"]:
        if channels == "M":
            maps = F.max_pool2d(maps, 2)
        else:
            maps = instance(F.conv2d(maps, next(w), next(w), padding=padding), next(w), next(w)).relu()
            padding = 1
    return F.linear(maps.flatten(1), next(w), next(w))


def resnet18(images: Tensor, weights: Sequence[Tensor]) -> Tensor:
    w = iter(weights)
    maps = _convolution(images, w, 1).relu()
    for stride in (1, 1, 2, 1, 2, 1, 2, 1):
        residual = _convolution(_convolution(maps, w, stride).relu(), w, 1)
        maps = (residual + (_convolution(maps, w, stride) if stride == 2 else maps)).relu()
    return F.linear(F.avg_pool2d(maps, 4).flatten(1), next(w), next(w))


def _convolution(maps: Tensor, w: Iterator[Tensor], stride: int) -> Tensor:
    kernel = next(w)
    return instance(F.conv2d(maps, kernel, stride=stride, padding=kernel.shape[2] // 2), next(w), next(w))


def vit(images: Tensor, weights: Mapping[str, Tensor], patch: int, heads: int) -> Tensor:
    """Image by image, patch by patch, head by head; weights by name."""
    return torch.stack([_vit_of_one(image, weights, patch, heads) for image in images])


def _vit_of_one(image: Tensor, weights: Mapping[str, Tensor], patch: int, heads: int) -> Tensor:
    _, height, width = image.shape
    corners = [(row, column) for row in range(0, height, patch) for column in range(0, width, patch)]
    kernel, bias = weights["blocks.0.project.weight"], weights["blocks.0.project.bias"]
    tokens = torch.stack(
        [
            (kernel * image[:, row : row + patch, column : column + patch]).sum((1, 2, 3)) + bias
            for row, column in corners
        ]
    )
    tokens = tokens + weights["blocks.0.positions"]
    depth = sum(name.endswith("mix.weight") for name in weights)
    for block in range(1, depth + 1):
        w = {name.removeprefix(f"blocks.{block}."): one for name, one in weights.items()}
        joint = _layer_norm(tokens, w["norm.weight"], w["norm.bias"]) @ w["queries_keys_values.weight"].T
        queries, keys, values = (joint + w["queries_keys_values.bias"]).split(tokens.shape[1], dim=1)
        size, outputs = tokens.shape[1] // heads, []
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            scores = queries[:, part] @ keys[:, part].T / size**0.5
            shares = scores.exp() / scores.exp().sum(1, keepdim=True)
            outputs.append(shares @ values[:, part])
        tokens = tokens + torch.cat(outputs, dim=1) @ w["mix.weight"].T + w["mix.bias"]
        hidden = _layer_norm(tokens, w["layers.0.weight"], w["layers.0.bias"]) @ w["layers.1.weight"].T
        hidden = hidden + w["layers.1.bias"]
        hidden = hidden * (1 + torch.erf(hidden / 2**0.5)) / 2
        tokens = tokens + hidden @ w["layers.3.weight"].T + w["layers.3.bias"]
    last = f"blocks.{depth + 1}.norm"
    embedding = _layer_norm(tokens, weights[f"{last}.weight"], weights[f"{last}.bias"]).mean(0)
    return weights["head.weight"] @ embedding + weights["head.bias"]


def _layer_norm(tokens: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    centred = tokens - tokens.mean(1, keepdim=True)
    return centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt() * scale + shift
