"""What a network has to beat: a Gaussian, non-local means, BM3D; and the gain in PSNR that a noisy full dose allows."""

from __future__ import annotations

import math
from unittest import mock

import numpy as np
from scipy.ndimage import gaussian_filter
from scripts.dose.image_noise import flat_soft_tissue, noise_sd_hu
from scripts.errors import BioAttError

#: Side of the patches that are compared and reach of the search, in pixels.
PATCH, DISTANCE = 5, 6
#: Strength h and noise in the patches, as shares of the noise of the image; share of the filtered image in the result.
STRENGTH, PATCH_NOISE, BLEND = 0.9, 0.7, 0.6


def gaussian(image_hu: np.ndarray, sigma_mm: float, spacing_mm: float) -> np.ndarray:
    """A Gaussian of `sigma_mm` in the plane, (H, W) in HU: the plainest filter, and so the baseline."""
    return gaussian_filter(np.asarray(image_hu, np.float32), sigma_mm / spacing_mm)


def chambolle(image_hu: np.ndarray, weight_hu: float) -> np.ndarray:
    """Total variation, (H, W) in HU: the image of least variation for its distance from the input.

    Args:
        image_hu: (H, W) in HU.
        weight_hu: how much is smoothed; steps lower than about twice this over the width of a region go.

    Source: Chambolle, An algorithm for total variation minimization, J Math Imaging Vis 20 (2004) 89; scikit-image.
    """
    from skimage.restoration import denoise_tv_chambolle

    return denoise_tv_chambolle(np.asarray(image_hu, np.float32), weight_hu)


def non_local_means(
    image_hu: np.ndarray,
    noise_hu: float | None = None,
    strength: float = STRENGTH,
    blend: float = BLEND,
    patch_noise: float = PATCH_NOISE,
) -> np.ndarray:
    """Non-local means of scikit-image, tuned for PSNR against a noisy full dose.

    The blend with the input is part of the tuning: the full dose shares the low dose's own noise, so a part of that
    noise belongs to the best estimate of it (see `gain_cap_db`).

    Args:
        image_hu: (H, W) in HU.
        noise_hu: SD of its noise; `noise_sd_hu` in flat soft tissue if not given.
        strength: h, as a share of the noise.
        blend: share of the filtered image; the rest is the input.
        patch_noise: SD that is taken off the distance of patches, as a share of the noise.

    Raises:
        BioAttError: there is no noise to go by.

    Source: Buades, Coll, Morel, A non-local algorithm for image denoising, CVPR 2005; scikit-image's fast mode.
    """
    from skimage.restoration import denoise_nl_means

    image = np.asarray(image_hu, dtype=np.float32)
    noise = noise_sd_hu(image, flat_soft_tissue(image)) if noise_hu is None else noise_hu
    if not noise > 0.0:
        raise BioAttError("non-local means needs the noise of the slice, which shows no soft tissue; give noise_hu")
    smooth = denoise_nl_means(
        image, patch_size=PATCH, patch_distance=DISTANCE, h=strength * noise, sigma=patch_noise * noise, fast_mode=True
    )
    return (blend * smooth + (1.0 - blend) * image).astype(np.float32)


def bm3d(image_hu: np.ndarray, noise_hu: float | np.ndarray) -> np.ndarray:
    """BM3D (H, W) in HU; 20 s for 512 x 512 pixels.

    Args:
        image_hu: (H, W) in HU.
        noise_hu: SD of white noise in HU; or for noise with a texture its power spectrum over the unshifted
            frequencies of the image, ``<|DFT(noise)|^2>``, (H, W).

    Raises:
        BioAttError: the package is not installed.

    Source: Makinen, Azzari, Foi, Collaborative filtering of correlated noise, IEEE Trans Image Process 29 (2020) 8339;
    its authors' package, whose licence allows no commercial use.
    """
    try:
        from bm3d import bm3d as filtered
    except ImportError:
        raise BioAttError("BM3D needs its package: pip install bm3d (not for commercial use)") from None
    with mock.patch.object(np, "trapz", np.trapezoid, create=True):  # its old name, which bm4d 4.2.5 still calls
        return np.asarray(filtered(np.asarray(image_hu, np.float32), noise_hu), np.float32)


def gain_cap_db(dose_fraction: float) -> float:
    """Highest gain in PSNR over a low dose, against a noisy full dose, in dB: ``-10 lg k``.

    Let the full dose be y = s + n with anatomy s and noise n of variance v. The low dose at k is y + m, with added
    noise m of variance v (1/k - 1), independent of n: so its squared error is v (1/k - 1). Even if s were known, n
    would have to be told from n + m. With equal textures the best estimate is k (n + m), which leaves v (1 - k); the
    ratio of the two errors is 1/k. At a quarter that is 6.02 dB; the clean anatomy s itself, which leaves v, gains
    only ``10 lg (1/k - 1)``, 4.77 dB. Where anatomy has to be told from noise, or the full dose's noise has another
    texture than the added one, less is possible, respectively the estimate differs by frequency.

    Args:
        dose_fraction: k in (0, 1].
    """
    if not 0.0 < dose_fraction <= 1.0:
        raise ValueError(f"dose_fraction must be in (0, 1], got {dose_fraction}")
    return -10.0 * math.log10(dose_fraction)
