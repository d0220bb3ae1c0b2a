"""What every network asks of its input: the image's shape, and a prior where none was given."""

from __future__ import annotations

import torch
from torch import Tensor


def check_image(image: Tensor) -> None:
    """Refuse anything but a non-empty (B, 1, H, W).

    Raises:
        ValueError: the shape.
    """
    if image.dim() != 4 or image.shape[1] != 1 or image.numel() == 0:
        raise ValueError(f"image must be (B, 1, H, W), not empty, got {list(image.shape)}")


def fill_prior(prior: Tensor | None, image: Tensor, num_descriptors: int) -> Tensor:
    """Return `prior` in the image's data type, or the uniform one, (B, K), where it is None.

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
    return prior.to(image.dtype)
