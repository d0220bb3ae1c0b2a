"""Some slices of a volume before and after an inferer, and what is measured on them: noise, its spectrum, HU."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from ..dose.image_noise import TISSUES_HU, flat_soft_tissue, flat_squares, noise_sd_hu, tissue_mask, without_trend
from ..hu import VALID_RANGE_HU
from .texture import noise_power_spectrum

#: Slices of a volume that are kept: measuring all would take longer than it tells.
MEASURED_SLICES = 9
#: Side of a region whose noise power spectrum is taken, in mm, and the fewest pixels it may have.
REGION_MM = 24.0
FEWEST_REGION_PIXELS = 16
HISTOGRAM_STEP_HU = 10.0


class SliceSamples:
    """Copies of up to nine slices, evenly spaced, of the first volume of a batch.

    Args:
        volumes: (B, 1, H, W, slices) in HU, as the inferer gets it.

    Attributes:
        indices: which slices.
        before_hu, after_hu: (samples, H, W) float32 in HU, NaN and padding set to the ends of the valid range.
    """

    def __init__(self, volumes: Tensor) -> None:
        spread = np.linspace(0, volumes.shape[-1] - 1, MEASURED_SLICES + 2).round().astype(int)[1:-1]
        self.indices: list[int] = np.unique(spread).tolist()
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

    def _copy(self, volumes: Tensor) -> np.ndarray:
        lower, upper = VALID_RANGE_HU
        slices = [volumes[0, 0, ..., i].detach().float().cpu().numpy() for i in self.indices]
        return np.nan_to_num(np.stack(slices), nan=lower).clip(lower, upper)


def measure_samples(samples: SliceSamples, spacing_mm: tuple[float, float]) -> dict[str, Any]:
    """Measure slices before and after denoising, always at the same places, which the slice before decides.

    Args:
        spacing_mm: between rows, between columns.

    Returns:
        ``measured_slices``, their numbers; ``noise_pairs``, (before, after) of each that has flat soft tissue, in HU;
        ``nps``, see `spectra`; ``histogram``, see `histograms`; ``tissues``, see `tissue_means`.
    """
    return {
        "measured_slices": samples.indices,
        "noise_pairs": samples.noise_sd_hu(),
        "nps": spectra(samples, spacing_mm),
        "histogram": histograms(samples),
        "tissues": tissue_means(samples),
    }


def spectra(samples: SliceSamples, spacing_mm: tuple[float, float]) -> dict[str, Any]:
    """Noise power spectra before and after in flat regions of soft tissue, each freed of its second-order trend.

    Returns:
        ``before`` and ``after`` (see `noise_power_spectrum`), ``regions``, ``side_pixels``; or ``reason`` alone, why
        there are none.
    """
    rows, columns = spacing_mm
    if abs(rows - columns) > 0.01 * max(rows, columns):
        return {"reason": f"pixels of {rows:g} x {columns:g} mm are not square"}
    side = max(FEWEST_REGION_PIXELS, 2 * round(REGION_MM / rows / 2))
    before, after = flat_squares(samples.before_hu, samples.after_hu, side, TISSUES_HU["soft tissue"])
    if not before:
        return {"reason": f"no flat region of {side} x {side} pixels in the soft tissue of these slices"}
    return {
        "before": noise_power_spectrum(without_trend(np.stack(before)), rows),
        "after": noise_power_spectrum(without_trend(np.stack(after)), rows),
        "regions": len(before),
        "side_pixels": side,
    }


def histograms(samples: SliceSamples) -> dict[str, list[float]]:
    """``hu``, the middles of bins of 10 HU from -1024 to 1506; share of pixels ``before`` and ``after``."""
    edges = np.arange(-1024.0, 1507.0, HISTOGRAM_STEP_HU)
    shares = {
        name: np.histogram(stack, edges)[0] / max(1, stack.size)
        for name, stack in (("before", samples.before_hu), ("after", samples.after_hu))
    }
    return {"hu": ((edges[1:] + edges[:-1]) / 2).tolist(), **{name: share.tolist() for name, share in shares.items()}}


def tissue_means(samples: SliceSamples) -> dict[str, dict[str, float]]:
    """Of each tissue that the slices show: ``pixels``, ``before_hu``, ``after_hu`` and ``bias_hu``, after minus before.

    The mask is that of `tissue_bias`: where the 9x9 mean before lies in the tissue's range.
    """
    means = {}
    for tissue in TISSUES_HU:
        mask = tissue_mask(samples.before_hu, tissue)
        if mask.any():
            before, after = (float(one[mask].mean(dtype=np.float64)) for one in (samples.before_hu, samples.after_hu))
            figures = {"before_hu": before, "after_hu": after, "bias_hu": after - before}
            means[tissue] = {"pixels": int(mask.sum()), **figures}
    return means
