"""Attention blocks for the slot of a denoiser: prior, spatial, channel. One signature, ``(x, prior)``."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: The values of a network's ``attention`` argument.
ATTENTION_KINDS = ("prior", "spatial", "channel", "none")


class Attention(nn.Module):
    """A block for a slot: the features times its maps; a subclass says how these are made and weighed."""

    def forward(self, x: Tensor, prior: Tensor) -> Tensor:
        """Weight `x` (B, C, H, W) by its maps; same shape. Only `PriorAttention` uses `prior`."""
        return x * self.weigh(self.maps(x), prior)

    def maps(self, x: Tensor) -> Tensor:
        """A map of ones, (B, 1, H, W)."""
        return torch.ones_like(x[:, :1])

    def weigh(self, maps: Tensor, prior: Tensor) -> Tensor:
        """What the features are multiplied by: the maps themselves."""
        return maps


class PriorAttention(Attention):
    """One learned attention map per anatomical descriptor, weighted by how likely the descriptor is.

    ::

        x (B, C, H, W) --mean, max over C--> (B, 2, H, W) --conv 7x7, sigmoid--> A (B, K, H, W)
        prior p (B, K) --------------------------------------> a = sum_k p_k A_k (B, 1, H, W)
        x * a (B, C, H, W)

    Args:
        num_descriptors: K, how many descriptors the prior has.

    Source: BioAtt, arXiv 2504.01662, prior attention block (bias-free 7x7 convolution, zero padding).
    """

    def __init__(self, num_descriptors: int = 11) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, num_descriptors, 7, padding=3, bias=False)

    def maps(self, x: Tensor) -> Tensor:
        """Attention maps A in (0, 1), (B, K, H, W), before the prior weights them."""
        pooled = torch.cat([x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)], dim=1)
        return torch.sigmoid(self.conv(pooled))

    def weigh(self, maps: Tensor, prior: Tensor) -> Tensor:
        """Sum over descriptors of prior, (B, K) or dense (B, K, h, w), times map: (B, 1, H, W)."""
        if prior.dim() == 2:
            prior = prior[:, :, None, None]
        elif prior.shape[-2:] != maps.shape[-2:]:
            prior = F.interpolate(prior, size=maps.shape[-2:], mode="bilinear", align_corners=False)
        return (maps * prior).sum(dim=1, keepdim=True)


class SpatialAttention(PriorAttention):
    """The prior attention block with a single map and no prior (CBAM's spatial half): ``x * A``.

    A baseline in the paper's tables.
    """

    def __init__(self) -> None:
        super().__init__(1)

    def weigh(self, maps: Tensor, prior: Tensor) -> Tensor:
        """The map itself: there is nothing to weigh."""
        return maps


class ChannelAttention(Attention):
    """Squeeze-and-excitation: one weight per channel from its mean over the image.

    ::

        x (B, C, H, W) --mean over H, W--> (B, C) --linear C/16, ReLU, linear C, sigmoid--> w;  x * w

    Args:
        channels: C; of fewer than 16, one hidden unit is kept.

    Source: Hu et al., Squeeze-and-Excitation Networks, CVPR 2018, equations 2 to 4; bias-free linear layers, as
    in the BioAtt authors' code.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(1, channels // 16)
        self.fc = nn.Sequential(
            nn.Linear(channels, hidden, bias=False), nn.ReLU(), nn.Linear(hidden, channels, bias=False), nn.Sigmoid()
        )

    def maps(self, x: Tensor) -> Tensor:
        """Channel weights in (0, 1), (B, C, 1, 1)."""
        return self.fc(x.mean(dim=(2, 3)))[:, :, None, None]


class NoAttention(Attention):
    """The empty slot: plain RED-CNN."""

    def forward(self, x: Tensor, prior: Tensor) -> Tensor:
        """Return `x` unchanged."""
        return x


def make_attention(kind: str, channels: int, num_descriptors: int) -> nn.Module:
    """Return the block for a slot with `channels` feature maps.

    Raises:
        ValueError: `kind` is none of `ATTENTION_KINDS`.
    """
    if kind == "prior":
        return PriorAttention(num_descriptors)
    if kind == "spatial":
        return SpatialAttention()
    if kind == "channel":
        return ChannelAttention(channels)
    if kind == "none":
        return NoAttention()
    raise ValueError(f"attention must be one of {', '.join(ATTENTION_KINDS)}, got {kind!r}")
