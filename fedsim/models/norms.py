"""The normalisation layers of the condensation pool, by name.

Source  Wu, He, "Group Normalization", ECCV 2018; Ioffe, Szegedy, ICML 2015 (batch); Ba, Kiros, Hinton, 2016
        (layer).
Code    VICO-UoE/DatasetCondensation `networks.py` (MIT): instance norm is GroupNorm with one channel per
        group and an affine; group norm has 4 groups; layer norm spans channels, rows and columns.
"""

from __future__ import annotations

from typing import Literal

from torch import nn

from fedsim.types import UserError

Norm = Literal["none", "instance", "group", "batch", "layer"]

GROUPS = 4
"""Groups of `group`."""


def norm_layer(norm: Norm, channels: int, size: tuple[int, int]) -> nn.Module:
    """The layer for feature maps of shape (n, channels, *size); `none` is the identity.

    Raises `UserError` where `group` cannot split the channels evenly.
    """
    if norm == "none":
        return nn.Identity()
    if norm == "instance":
        return nn.GroupNorm(channels, channels)
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    if norm == "layer":
        return nn.LayerNorm([channels, *size])
    if channels % GROUPS:
        raise UserError(
            f"model.norm=group cannot split {channels} channels into {GROUPS} groups; "
            f"valid: a width that is a multiple of {GROUPS}, or another norm"
        )
    return nn.GroupNorm(GROUPS, channels)
