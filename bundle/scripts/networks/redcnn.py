"""RED-CNN with a slot for attention; with prior attention in the slot it is the paper's BioAtt."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import make_attention
from .contract import Denoiser, ImageConv2d, fill_prior

#: Five unpadded 5x5 convolutions take 20 pixels off each axis, so 21 is the least an image may have.
SMALLEST_SIDE = 21


class BioAtt(Denoiser):
    """RED-CNN whose features after conv3 and conv5 are weighted by an attention block.

    ::

        image (B, 1, H, W)
          conv1 - conv2 - conv3 [attention3] conv4 - conv5 [attention5]    5x5, no padding, ReLU
                    |                          |                 |
                    |                          +--> deconv1 <----+        added before the ReLU
                    |                               deconv2
                    +-----------------------------> deconv3                added before the ReLU
                                                    deconv4
          image ------------------------------> + deconv_last              no ReLU

    Any H and W: an image with a side under 21 pixels is padded by replication and cropped again.

    Args:
        channels: feature maps per layer; 96 in the paper.
        attention: what stands in the slot: ``prior`` (BioAtt), ``spatial``, ``channel`` or ``none`` (RED-CNN).
        num_descriptors: K, length of the prior; 11 in the paper.
        prior_share: of the prior in what weights the maps, 1 in the paper; see `fill_prior`.

    Source: BioAtt, arXiv 2504.01662; RED-CNN, Chen et al., IEEE TMI 36 (2017) 2524. Differs from the paper in one
    place only: a missing prior is the uniform one.

    Example::

        network = BioAtt(channels=32)
        denoised = network(image, prior)  # image (B, 1, H, W) in network range, prior (B, 11)
    """

    def __init__(
        self, channels: int = 96, attention: str = "prior", num_descriptors: int = 11, prior_share: float = 1.0
    ) -> None:
        super().__init__(
            title=f"BioAtt(channels={channels}, attention={attention})",
            attention=attention,
            num_descriptors=num_descriptors,
            smallest_side=SMALLEST_SIDE,
            prior_share=prior_share,
            margin={"channel": None, "none": 20}.get(attention, 26),  # ten 5x5 convolutions, two 7x7 of attention
        )
        self.conv1 = ImageConv2d(1, channels, 5)
        self.conv2 = nn.Conv2d(channels, channels, 5)
        self.conv3 = nn.Conv2d(channels, channels, 5)
        self.attention3 = make_attention(attention, channels, num_descriptors)
        self.conv4 = nn.Conv2d(channels, channels, 5)
        self.conv5 = nn.Conv2d(channels, channels, 5)
        self.attention5 = make_attention(attention, channels, num_descriptors)
        self.deconv1 = nn.ConvTranspose2d(channels, channels, 5)
        self.deconv2 = nn.ConvTranspose2d(channels, channels, 5)
        self.deconv3 = nn.ConvTranspose2d(channels, channels, 5)
        self.deconv4 = nn.ConvTranspose2d(channels, channels, 5)
        self.deconv_last = nn.ConvTranspose2d(channels, 1, 5)

    def forward(self, image: Tensor, prior: Tensor | None = None) -> Tensor:
        """Denoise `image`, see `Denoiser`; a prior of None means uniform, 1/K each.

        Raises:
            ValueError: a shape that does not fit.
        """
        prior = fill_prior(prior, image, self.num_descriptors, self.prior_share)
        height, width = image.shape[-2:]
        x0 = self.pad(image)
        x2 = self._encode2(x0)
        x3 = self.attention3(self.conv3(x2).relu_(), self._inner(prior, x0, 6))
        x4 = self.conv4(x3).relu_()
        x5 = self.attention5(self.conv5(x4).relu_(), self._inner(prior, x0, 10))
        y = self.deconv1(x5).add_(x4).relu_()
        y = self.deconv2(y).relu_()
        y = self.deconv3(y).add_(x2).relu_()
        y = self.deconv4(y).relu_()
        return (self.deconv_last(y) + x0)[..., :height, :width]

    @torch.jit.export
    def attention_maps(self, image: Tensor, prior: Tensor | None = None) -> dict[str, Tensor]:
        """Maps of both blocks, for display: what each descriptor attends to, and their weighted sum.

        Returns:
            ``attention3``, ``attention5``: (B, K, H - 12, W - 12) and (B, K, H - 20, W - 20), values in (0, 1);
            ``attention3_weighted``, ``attention5_weighted``: (B, 1, ...), what the features are multiplied by.
            The maps are centred on the image. Channel attention has (B, C, 1, 1) instead.
        """
        prior = fill_prior(prior, image, self.num_descriptors, self.prior_share)
        x0 = self.pad(image)
        x3 = self.conv3(self._encode2(x0)).relu_()
        maps3 = self.attention3.maps(x3)
        weighted3 = self.attention3.weigh(maps3, self._inner(prior, x0, 6))
        x5 = self.conv5(self.conv4(x3 * weighted3).relu_()).relu_()
        maps5 = self.attention5.maps(x5)
        return {
            "attention3": maps3,
            "attention3_weighted": weighted3,
            "attention5": maps5,
            "attention5_weighted": self.attention5.weigh(maps5, self._inner(prior, x0, 10)),
        }

    def attention_grids(self) -> dict[str, tuple[int, int]]:
        """See `Denoiser`."""
        return {"attention3": (1, 6), "attention5": (1, 10)}

    def _encode2(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x).relu_()).relu_()

    def _inner(self, prior: Tensor, image: Tensor, margin: int) -> Tensor:
        """A dense prior brought to the image's size and cropped as the convolutions crop; a vector as it is."""
        if prior.dim() == 2:
            return prior
        prior = F.interpolate(prior, size=image.shape[-2:], mode="bilinear", align_corners=False)
        return prior[..., margin : prior.shape[-2] - margin, margin : prior.shape[-1] - margin]
