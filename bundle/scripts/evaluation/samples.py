"""Some slices of a volume, kept before and after an inferer that works in place, for what is measured on them."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from ..dose.image_noise import flat_soft_tissue, noise_sd_hu
from ..hu import VALID_RANGE_HU

#: Slices of a volume that are kept: measuring all would take longer than it tells.
MEASURED_SLICES = 9


class SliceSamples:
    """Copies of up to nine slices, evenly spaced, of the first volume of a batch.

    Args:
        volumes: (B, 1, H, W, slices) in HU, as the inferer gets it; None for no slices.

    Attributes:
        indices: which slices.
        before_hu, after_hu: (samples, H, W) float32 in HU, NaN and padding set to the ends of the valid range.
    """

    def __init__(self, volumes: Tensor | None = None) -> None:
        count = 0 if volumes is None else volumes.shape[-1]
        spread = np.linspace(0, max(0, count - 1), MEASURED_SLICES + 2).round().astype(int)[1:-1]
        self.indices: list[int] = np.unique(spread).tolist() if count else []
        self.before_hu = self._copy(volumes)
        self.after_hu = np.empty(0, np.float32)

    def take_after(self, volumes: Tensor) -> None:
        """Keep the same slices of the inferer's result."""
        self.after_hu = self._copy(volumes)

    def noise_sd_hu(self) -> list[tuple[float, float]]:
        """Noise before and after, where the slice before is flat, of each slice that has soft tissue."""
        pairs = []
        for before, after in zip(self.before_hu, self.after_hu, strict=True):
            mask = flat_soft_tissue(before)
            if mask.any():
                pairs.append((noise_sd_hu(before, mask), noise_sd_hu(after, mask)))
        return pairs

    def _copy(self, volumes: Tensor | None) -> np.ndarray:
        if volumes is None:
            return np.empty(0, np.float32)
        lower, upper = VALID_RANGE_HU
        slices = [volumes[0, 0, ..., i].detach().float().cpu().numpy() for i in self.indices]
        return np.nan_to_num(np.stack(slices), nan=lower).clip(lower, upper)
