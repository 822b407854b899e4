"""The feature pyramid P2..P7, of which a view takes only the levels it needs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops.misc import Conv2dNormActivation

from sedet.detectors.backbones import group_norm


class Pyramid(nn.Module):
    """FPN (Lin et al., 2017) with P6 and P7 on top of P5 (as FCOS and RetinaNet have them), computed on demand.

    Module names are those of torchvision's ``FeaturePyramidNetwork``, so that its weights can be taken over.

    Args:
        in_channels: channels of C2..C5.
        channels: channels of every level.
        norm: GroupNorm after each lateral and output convolution.
    """

    def __init__(self, in_channels: Sequence[int], channels: int, norm: bool = True) -> None:
        super().__init__()
        conv = partial(
            Conv2dNormActivation,
            norm_layer=group_norm if norm else None,
            activation_layer=None,
            bias=not norm,
        )
        self.inner_blocks = nn.ModuleList(conv(c, channels, kernel_size=1, padding=0) for c in in_channels)
        self.layer_blocks = nn.ModuleList(conv(channels, channels, kernel_size=3) for _ in in_channels)
        self.extra_blocks = nn.ModuleDict(
            {name: nn.Conv2d(channels, channels, 3, stride=2, padding=1) for name in ("p6", "p7")}
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, features: Sequence[Tensor], levels: Sequence[int]) -> list[Tensor]:
        """The maps of ``levels`` (each in 2..7, ascending), each [batch, channels, height, width].

        Args:
            features: C2..C5 of the backbone.
            levels: which of P2..P7.
        """
        lowest = min(levels)
        maps: dict[int, Tensor] = {}
        inner = self.inner_blocks[3](features[3])
        maps[5] = self.layer_blocks[3](inner)
        for level in range(4, lowest - 1, -1):
            index = level - 2
            lateral = self.inner_blocks[index](features[index])
            inner = lateral + F.interpolate(inner, size=lateral.shape[-2:], mode="nearest")
            if level in levels:
                maps[level] = self.layer_blocks[index](inner)
        if max(levels) >= 6:
            maps[6] = self.extra_blocks["p6"](maps[5])
        if max(levels) >= 7:
            maps[7] = self.extra_blocks["p7"](F.relu(maps[6]))
        return [maps[level] for level in levels]
