"""What every network does with its input: its shape, a prior where none was given, and the first layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ImageConv2d(nn.Conv2d):
    """The first layer, which sees the image: autocast leaves it in float32.

    bfloat16 has 8 significant bits: it would round the HU of soft tissue to steps of 2 to 4 HU before the network saw
    them, which is nearly all by which bf16 differs from fp32 (docs/performance.md).
    """

    def forward(self, image: Tensor) -> Tensor:
        """Return what nn.Conv2d returns, in float32 under autocast."""
        if not torch.jit.is_scripting():
            if torch.is_autocast_enabled(image.device.type):
                with torch.autocast(image.device.type, enabled=False):
                    return self._conv_forward(image.float(), self.weight, self.bias)
        return self._conv_forward(image, self.weight, self.bias)


def check_image(image: Tensor) -> None:
    """Refuse anything but a non-empty (B, 1, H, W).

    Raises:
        ValueError: the shape.
    """
    if image.dim() != 4 or image.shape[1] != 1 or image.numel() == 0:
        raise ValueError(f"image must be (B, 1, H, W), not empty, got {list(image.shape)}")


def fill_prior(prior: Tensor | None, image: Tensor, num_descriptors: int, share: float = 1.0) -> Tensor:
    """Return `prior` in the image's data type, or the uniform one, (B, K), where it is None.

    Args:
        prior, image: see `Denoiser`.
        num_descriptors: K.
        share: of the prior in what is returned; the rest is uniform, so that a wrong prior can do so much and no more.

    Raises:
        ValueError: neither (B, K) nor dense (B, K, h, w).
    """
    if prior is None:
        uniform = 1.0 / num_descriptors
        return torch.full([image.shape[0], num_descriptors], uniform, dtype=image.dtype, device=image.device)
    if (prior.dim() != 2 and prior.dim() != 4) or prior.shape[0] != image.shape[0] or prior.shape[1] != num_descriptors:
        raise ValueError(
            f"prior must be ({image.shape[0]}, {num_descriptors}) or "
            f"({image.shape[0]}, {num_descriptors}, h, w), got {list(prior.shape)}"
        )
    prior = prior.to(image.dtype)
    return prior if share == 1.0 else prior * share + (1.0 - share) / num_descriptors


def checked_share(share: float) -> float:
    """`share` of the prior if it is one.

    Raises:
        ValueError: it is not from 0 to 1.
    """
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"prior_share must be from 0 to 1, got {share}")
    return float(share)
