"""The fast network: a U-shape of plain 3x3 convolutions with the paper's attention blocks at every scale."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import make_attention
from .contract import Denoiser, ImageConv2d, fill_prior


class ResidualBlock(nn.Module):
    """``x + conv(relu(conv(x)))``, 3x3 convolutions with zero padding; shape (B, C, H, W) kept."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, same shape as `x`."""
        return self.conv2(self.conv1(x).relu_()).add_(x)


class BioAttUNet(Denoiser):
    """A residual U-shape whose encoder features are weighted by an attention block at every scale.

    ::

        image (B, 1, H, W) --fold pixels f x f into channels--> head 3x3
          scale 0  H/f     block [attention] ------------------- + block -- tail 3x3 -- unfold -- + image
                             | 2x2, stride 2                     | transposed 2x2
          scale 1  H/2f    block [attention] ---------- + block -+
                             |                          |
          scale 2  H/4f    block [attention] -----------+

    Any H and W: the image is padded by replication to a multiple of the coarsest pixel and cropped again. Folding
    keeps the convolutions near the matrix-product rate of a processor (docs/adr/0007).

    Args:
        widths: feature maps of each scale, finest first.
        fold: f, side of the square of pixels that becomes channels.
        attention: what stands in the slots: ``prior``, ``spatial``, ``channel`` or ``none``.
        num_descriptors: K, length of the prior.
        prior_share: of the prior in what weights the maps, 1 in the paper; see `fill_prior`.

    Source: the attention block is that of BioAtt, arXiv 2504.01662; the U-shape is this project's.

    Example::

        network = BioAttUNet()
        denoised = network(image, prior)  # image (B, 1, H, W) in network range, prior (B, 11)
    """

    def __init__(
        self,
        widths: Sequence[int] = (48, 96, 192),
        fold: int = 2,
        attention: str = "prior",
        num_descriptors: int = 11,
        prior_share: float = 1.0,
    ) -> None:
        super().__init__(
            title=f"BioAttUNet(widths={'-'.join(map(str, widths))}, fold={fold}, attention={attention})",
            attention=attention,
            num_descriptors=num_descriptors,
            multiple=fold * 2 ** (len(widths) - 1),
            margin=_margin(len(widths), fold, attention),
            prior_share=prior_share,
        )
        self.fold = fold
        self.head = ImageConv2d(fold**2, widths[0], 3, padding=1)
        self.encoder = nn.ModuleList([ResidualBlock(width) for width in widths])
        self.slots = nn.ModuleList([make_attention(attention, width, num_descriptors) for width in widths])
        pairs = list(zip(widths, widths[1:], strict=False))
        down = [nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in pairs]
        self.down = nn.ModuleList([*down, nn.Identity()])  # the coarsest scale stays as it is
        self.up = nn.ModuleList([nn.ConvTranspose2d(coarse, fine, 2, stride=2) for fine, coarse in reversed(pairs)])
        self.decoder = nn.ModuleList([ResidualBlock(width) for width in reversed(widths[:-1])])
        self.tail = nn.Conv2d(widths[0], fold**2, 3, padding=1)

    def forward(self, image: Tensor, prior: Tensor | None = None) -> Tensor:
        """Denoise `image`, see `Denoiser`; a prior of None means uniform, 1/K each.

        Raises:
            ValueError: a shape that does not fit.
        """
        prior = fill_prior(prior, image, self.num_descriptors, self.prior_share)
        padded = self.pad(image)
        x, skips = self._encode(padded, self._pad_prior(prior, image))
        for index, (up, block) in enumerate(zip(self.up, self.decoder)):  # noqa: B905 (TorchScript knows no strict)
            x = block(up(x).add_(skips[len(skips) - 1 - index]))
        residual = F.pixel_shuffle(self.tail(x), self.fold)
        return (padded + residual)[..., : image.shape[-2], : image.shape[-1]]

    @torch.jit.export
    def attention_maps(self, image: Tensor, prior: Tensor | None = None) -> dict[str, Tensor]:
        """Maps of all blocks, for display: what each descriptor attends to, and their weighted sum.

        Returns:
            For each scale s, ``attention{s}`` (B, K, h, w) with values in (0, 1), and ``attention{s}_weighted``
            (B, 1, h, w), what the features are multiplied by; one pixel covers fold * 2**s pixels of the image
            padded at its right and lower side. Channel attention has (B, C, 1, 1) instead.
        """
        prior = fill_prior(prior, image, self.num_descriptors, self.prior_share)
        prior = self._pad_prior(prior, image)
        x = self.head(F.pixel_unshuffle(self.pad(image), self.fold))
        maps: dict[str, Tensor] = {}
        for index, (block, slot, down) in enumerate(zip(self.encoder, self.slots, self.down)):  # noqa: B905
            x = block(x)
            maps[f"attention{index}"] = slot.maps(x)
            maps[f"attention{index}_weighted"] = slot.weigh(maps[f"attention{index}"], prior)
            x = down(x * maps[f"attention{index}_weighted"])
        return maps

    def attention_grids(self) -> dict[str, tuple[int, int]]:
        """See `Denoiser`."""
        return {f"attention{index}": (self.fold * 2**index, 0) for index in range(len(self.slots))}

    def _encode(self, padded: Tensor, prior: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Features of the coarsest scale, and those of the finer ones from fine to coarse."""
        x = self.head(F.pixel_unshuffle(padded, self.fold))
        skips: list[Tensor] = []
        for block, slot, down in zip(self.encoder, self.slots, self.down):  # noqa: B905
            x = slot(block(x), prior)
            skips.append(x)
            x = down(x)
        return x, skips[: len(skips) - 1]

    def _pad_prior(self, prior: Tensor, image: Tensor) -> Tensor:
        """A dense prior as large as the padded image; a vector as it is."""
        if prior.dim() == 2:
            return prior
        return self.pad(F.interpolate(prior, size=image.shape[-2:], mode="bilinear", align_corners=False))


def _margin(scales: int, fold: int, attention: str) -> int | None:
    """Three quarters of the receptive field's radius, in pixels; what lies further matters less than 0.1 HU (tested).

    At each scale, in its pixels: two convolutions on the way down, two on the way up but for the coarsest, three pixels
    of the attention's 7x7; head and tail add one each to the finest. Channel attention sees the whole slice.
    """
    if attention == "channel":
        return None
    slot = 0 if attention == "none" else 3
    radii = [2 + slot + (2 if scale < scales - 1 else 0) for scale in range(scales)]
    radii[0] += 2
    return sum(radius * fold * 2**scale for scale, radius in enumerate(radii)) * 3 // 4
