"""The noise power spectrum, as AAPM TG-233 defines it.

Source: Samei et al., Performance evaluation of computed tomography systems: summary of AAPM Task Group 233, Med
Phys 46 (2019) e735, section on noise texture.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np

from ..dose.image_noise import second_order_surface


def noise_power_spectrum_2d(
    rois_hu: np.ndarray, spacing_mm: float, detrend: Literal["ensemble", "polynomial"] = "ensemble"
) -> np.ndarray:
    """``NPS(u, v) = spacing^2 / N^2 <|DFT(roi - trend)|^2>``, in HU^2 mm^2; frequency 0 stands first.

    Its sum times the area of a frequency bin, ``1 / (N spacing)^2``, is the variance.

    Args:
        rois_hu: (realisations, regions, N, N) in HU.
        detrend: what is taken off each region. ``ensemble``: the mean over the realisations, at least two (the
            variance this takes with it is given back by ``n / (n - 1)``). ``polynomial``: a fitted surface of second
            order, for flat regions of a single image; takes the lowest frequencies with it.

    Returns:
        (N, N).
    """
    rois = np.asarray(rois_hu, dtype=np.float64)
    if rois.ndim != 4 or rois.shape[2] != rois.shape[3]:
        raise ValueError(f"rois_hu must be (realisations, regions, N, N), got {rois.shape}")
    count, size = rois.shape[0], rois.shape[-1]
    if detrend == "ensemble":
        if count < 2:
            raise ValueError("an ensemble needs at least two realisations; take detrend='polynomial' for one")
        noise = (rois - rois.mean(axis=0)) * math.sqrt(count / (count - 1))
    elif detrend == "polynomial":
        noise = rois - second_order_surface(rois)
    else:
        raise ValueError(f"detrend must be 'ensemble' or 'polynomial', got {detrend!r}")
    return (spacing_mm / size) ** 2 * (np.abs(np.fft.fft2(noise)) ** 2).mean(axis=(0, 1))


def noise_power_spectrum(
    rois_hu: np.ndarray, spacing_mm: float, detrend: Literal["ensemble", "polynomial"] = "ensemble"
) -> dict[str, Any]:
    """Radial mean of `noise_power_spectrum_2d`, up to the Nyquist frequency, in bins of ``1 / (N spacing)``.

    Returns:
        ``frequency_per_mm`` and ``nps_hu2_mm2``, lists; ``sd_hu``, the square root of the integral over all
        frequencies; ``peak_frequency_per_mm``, where the radial mean is highest; ``mean_frequency_per_mm``, the
        mean frequency weighted by the radial mean (f_av of TG-233); NaN for both without any noise.
    """
    spectrum = noise_power_spectrum_2d(rois_hu, spacing_mm, detrend)
    size = spectrum.shape[0]
    frequencies = np.fft.fftfreq(size)
    bins = np.rint(np.hypot(*np.meshgrid(frequencies, frequencies)) * size).astype(int)
    radial = (np.bincount(bins.ravel(), spectrum.ravel()) / np.bincount(bins.ravel()))[: size // 2 + 1]
    frequency = np.arange(len(radial)) / (size * spacing_mm)
    total = radial.sum()
    return {
        "frequency_per_mm": frequency.tolist(),
        "nps_hu2_mm2": radial.tolist(),
        "sd_hu": math.sqrt(spectrum.sum()) / (size * spacing_mm),
        "peak_frequency_per_mm": float(frequency[radial.argmax()]) if total > 0 else math.nan,
        "mean_frequency_per_mm": float(radial @ frequency / total) if total > 0 else math.nan,
    }
