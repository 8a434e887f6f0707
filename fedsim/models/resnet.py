"""ResNet18 in its 32×32 form: 3×3 stem without pooling, four stages of two basic blocks, mean, linear head.

Source  He, Zhang, Ren, Sun, "Deep residual learning for image recognition", CVPR 2016, figure 2 and table 1;
        Zhao, Mopuri, Bilen, "Dataset Condensation with Gradient Matching", ICLR 2021, section 4
        (cross-architecture pool).
Code    VICO-UoE/DatasetCondensation `networks.py` (MIT): instance norm (or batch norm as ResNet18BN),
        convolutions without bias, 1×1 convolution and norm on the shortcut where the shape changes.
Differs the last map is averaged whole: the reference's 4×4 pooling for sides of 25 to 32, and 512 features
        for any other size; with norm `none` the convolutions have a bias, which the norm's affine gives
        otherwise.
"""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from fedsim.config import Section
from fedsim.models.network import Network, require_side
from fedsim.models.norms import norm_layer

ResidualNorm = Literal["none", "instance", "group", "batch"]


class Config(Section):
    """Settings of ResNet18."""

    name: Literal["resnet18"] = "resnet18"
    norm: ResidualNorm = "instance"
    """Normalisation after each convolution; `group` has 4 groups."""


class ResNet18(Network):
    """Stem, four stages and the pooled end (six blocks, d = 512) for images of shape (c, h, w) of any size.

    With instance norm h and w are at least 9: a last map of one pixel would be normalised to a constant.
    """

    Config = Config

    def __init__(self, config: Config, image_shape: tuple[int, int, int], num_classes: int) -> None:
        channels = image_shape[0]
        if config.norm == "instance":
            require_side("resnet18 with model.norm=instance", image_shape, 9)
        stem = nn.Sequential(*_convolution(channels, 64, 3, 1, config.norm), nn.ReLU())
        stages = [
            nn.Sequential(
                BasicBlock(planes // 2 if stride == 2 else 64, planes, stride, config.norm),
                BasicBlock(planes, planes, 1, config.norm),
            )
            for planes, stride in ((64, 1), (128, 2), (256, 2), (512, 2))
        ]
        super().__init__([stem, *stages, nn.AdaptiveAvgPool2d(1)], 512, num_classes)


class BasicBlock(nn.Module):
    """relu(norm(conv(relu(norm(conv(x))))) + shortcut(x)) with 3×3 convolutions, the first of `stride`."""

    def __init__(self, channels: int, planes: int, stride: int, norm: ResidualNorm) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            *_convolution(channels, planes, 3, stride, norm),
            nn.ReLU(),
            *_convolution(planes, planes, 3, 1, norm),
        )
        same = stride == 1 and channels == planes
        self.shortcut = nn.Identity() if same else nn.Sequential(*_convolution(channels, planes, 1, stride, norm))

    def forward(self, maps: Float[Tensor, "n c h w"]) -> Float[Tensor, "n planes rows columns"]:
        """Maps of `planes` channels, the sides divided by `stride` and rounded up."""
        return (self.residual(maps) + self.shortcut(maps)).relu()


def _convolution(channels: int, planes: int, kernel: int, stride: int, norm: ResidualNorm) -> list[nn.Module]:
    """A convolution that keeps the side at stride 1, and its norm (whose size matters to `layer` only)."""
    convolution = nn.Conv2d(channels, planes, kernel, stride, padding=kernel // 2, bias=norm == "none")
    return [convolution, norm_layer(norm, planes, (1, 1))]
