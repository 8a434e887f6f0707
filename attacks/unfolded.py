"""Convolutions as patches times a matrix: the same function, whose second derivative takes few large products.

    conv(x)_o = W_o · patches(x) + b_o        patches(x)  (c k k, places)

Under vmap a convolution with weights of its own for each problem becomes one with a group for each problem, and torch's
double backward pass of that goes through the groups one by one. Patches cost k² times the memory of the activations.

Source  none: the usual im2col.
Code    none read.
Reduces the network itself, up to rounding.
"""

from __future__ import annotations

import copy

import torch.nn.functional as F
from torch import Tensor, nn

from fedsim.models.network import Network


class Unfolded(nn.Conv2d):
    """A convolution by `F.unfold` and one product."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """(n, c, h, w) to (n, o, h′, w′)."""
        size, padding, stride = self.kernel_size, self.padding, self.stride
        assert not isinstance(padding, str)
        patches = F.unfold(input, size, self.dilation, padding, stride)
        found = self.weight.flatten(1) @ patches
        if self.bias is not None:
            found = found + self.bias[:, None]
        sides = [
            (side + 2 * pad - spread * (kernel - 1) - 1) // step + 1
            for side, pad, spread, kernel, step in zip(
                input.shape[-2:], padding, self.dilation, size, stride, strict=True
            )
        ]
        return found.unflatten(-1, sides)


def unfolded(network: Network) -> Network:
    """A copy with every plain convolution as `Unfolded`; the names of its weights are the same.

    Those with groups, another padding than zeros, or padding by name stay as they are.
    """
    made = copy.deepcopy(network)
    for module in made.modules():
        plain = type(module) is nn.Conv2d and module.groups == 1 and module.padding_mode == "zeros"
        if plain and not isinstance(module.padding, str):
            module.__class__ = Unfolded
    return made
