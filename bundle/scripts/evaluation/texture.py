"""The noise power spectrum, as AAPM TG-233 defines it.

Source: Samei et al., Performance evaluation of computed tomography systems: summary of AAPM Task Group 233, Med
Phys 46 (2019) e735, section on noise texture.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..dose.image_noise import ring_means


def noise_power_spectrum_2d(noise_hu: np.ndarray, spacing_mm: float) -> np.ndarray:
    """``NPS(u, v) = spacing^2 / N^2 <|DFT(noise)|^2>``, in HU^2 mm^2; frequency 0 stands first.

    Its sum times the area of a frequency bin, ``1 / (N spacing)^2``, is the variance.

    Args:
        noise_hu: regions (..., N, N) in HU, without what is no noise: of flat regions of a single image their trend
            (`without_trend`, which takes the lowest frequencies with it), of many realisations their mean.

    Returns:
        (N, N).
    """
    noise = np.asarray(noise_hu, dtype=np.float64)
    if noise.ndim < 3 or noise.shape[-1] != noise.shape[-2]:
        raise ValueError(f"noise_hu must be (regions, N, N), got {noise.shape}")
    power = np.abs(np.fft.fft2(noise)) ** 2
    return (spacing_mm / noise.shape[-1]) ** 2 * power.mean(axis=tuple(range(noise.ndim - 2)))


def noise_power_spectrum(noise_hu: np.ndarray, spacing_mm: float) -> dict[str, Any]:
    """Radial mean of `noise_power_spectrum_2d`, up to the Nyquist frequency, in bins of ``1 / (N spacing)``.

    Returns:
        ``frequency_per_mm`` and ``nps_hu2_mm2``, lists; ``sd_hu``, the square root of the integral over all
        frequencies; ``peak_frequency_per_mm``, where the radial mean is highest; ``mean_frequency_per_mm``, the
        mean frequency weighted by the radial mean (f_av of TG-233); NaN for both without any noise.
    """
    spectrum = noise_power_spectrum_2d(noise_hu, spacing_mm)
    size = spectrum.shape[0]
    radial = ring_means(spectrum)[: size // 2 + 1]
    frequency = np.arange(len(radial)) / (size * spacing_mm)
    total = radial.sum()
    return {
        "frequency_per_mm": frequency.tolist(),
        "nps_hu2_mm2": radial.tolist(),
        "sd_hu": math.sqrt(spectrum.sum()) / (size * spacing_mm),
        "peak_frequency_per_mm": float(frequency[radial.argmax()]) if total > 0 else math.nan,
        "mean_frequency_per_mm": float(radial @ frequency / total) if total > 0 else math.nan,
    }
