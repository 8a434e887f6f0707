"""The condensation pool's forward passes layer by layer; weights come in the order of definition."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

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
