"""Noise and tissue of a CT slice, measured on the image itself."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter, gaussian_gradient_magnitude, maximum_filter, minimum_filter, uniform_filter

#: Tissue classes by the HU of the 9x9 in-plane mean.
TISSUES_HU = {"lung": (-950.0, -700.0), "fat": (-130.0, -60.0), "soft tissue": (0.0, 100.0), "bone": (200.0, 1500.0)}
NEIGHBOURHOOD = 9


def local_mean(image_hu: np.ndarray) -> np.ndarray:
    """Mean over 9x9 pixels in the plane, of (H, W) or (slices, H, W)."""
    return uniform_filter(np.asarray(image_hu, dtype=np.float32), size=_window(image_hu))


def tissue_mask(image_hu: np.ndarray, tissue: str) -> np.ndarray:
    """Where the 9x9 mean lies in the range of `tissue`; a mask on noisy pixels would bias the mean."""
    lower, upper = TISSUES_HU[tissue]
    mean = local_mean(image_hu)
    return (mean >= lower) & (mean <= upper)


def local_sd(image_hu: np.ndarray) -> np.ndarray:
    """SD over 9x9 pixels in the plane (with Bessel's correction), of (H, W) or (slices, H, W)."""
    image = np.asarray(image_hu, dtype=np.float64)
    size = _window(image)
    variance = uniform_filter(image * image, size=size) - uniform_filter(image, size=size) ** 2
    count = NEIGHBOURHOOD**2
    return np.sqrt(variance.clip(min=0.0) * count / (count - 1))


def flat_soft_tissue(image_hu: np.ndarray) -> np.ndarray:
    """The flattest quarter of the soft tissue: where anatomy hides the noise least, of (H, W) or (slices, H, W).

    Windows of 9x9 pixels that touch air, fat or bone are left out, and of the rest those with a small gradient are
    kept; both are judged on an image smoothed by a Gaussian, so that noise itself hardly decides. In a stack each
    slice gives its own quarter. Under 200 pixels count as none.
    """
    image = np.asarray(image_hu, dtype=np.float32)
    if image.ndim == 3:
        return np.stack([flat_soft_tissue(one) for one in image])
    smooth = gaussian_filter(image, 1.5)
    lowest, highest = minimum_filter(smooth, NEIGHBOURHOOD), maximum_filter(smooth, NEIGHBOURHOOD)
    mask = tissue_mask(image, "soft tissue") & (lowest > -100.0) & (highest < 200.0)
    if mask.any():
        gradient = gaussian_gradient_magnitude(image, 3.0)
        mask &= gradient <= np.quantile(gradient[mask], 0.25)
    return mask if mask.sum() >= 200 else np.zeros_like(mask)


def noise_sd_hu(image_hu: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Noise in flat soft tissue: the median of the SDs over 9x9 pixels, in HU; NaN without soft tissue.

    Args:
        image_hu: (H, W) or (slices, H, W) in HU.
        mask: where to look; `flat_soft_tissue` of the image if not given. Give the input's to compare images.
    """
    if mask is None:
        mask = flat_soft_tissue(image_hu)
    return float(np.median(local_sd(image_hu)[mask])) if mask.any() else float("nan")


def _window(image: np.ndarray) -> tuple[int, ...]:
    return (1,) * (np.ndim(image) - 2) + (NEIGHBOURHOOD, NEIGHBOURHOOD)
