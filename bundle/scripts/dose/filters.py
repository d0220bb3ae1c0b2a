"""Reconstruction filters by name: a ramp and a window on it, or one fitted to a scanner. They set the noise texture."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy import fft

#: Windows, of the frequency as a share of the cut-off in [0, 1]; named as in scikit-image, whose Hann and
#: Hamming windows lie half a sample off centre.
WINDOWS = {
    "ramp": np.ones_like,
    "shepp-logan": lambda share: np.sinc(share / 2),
    "cosine": lambda share: np.cos(np.pi / 2 * share),
    "hamming": lambda share: 0.54 + 0.46 * np.cos(np.pi * share),
    "hann": lambda share: 0.5 + 0.5 * np.cos(np.pi * share),
}


#: Name of the filters that `matching.match_noise` fits: ``even:C1:C2``.
FITTED = "even"


def fitted_filter_name(c1: float, c2: float) -> str:
    """Name of the filter whose noise power is the ramp's times ``exp(c1 s^2 + c2 s^4)``, s in shares of Nyquist."""
    return f"{FITTED}:{c1:.4f}:{c2:.4f}"


def filter_window(filter_name: str) -> Callable[[np.ndarray], np.ndarray]:
    """What a filter multiplies the ramp by, as a function of the frequency in shares of the pixels' Nyquist frequency.

    Args:
        filter_name: a window of `WINDOWS`, with its cut-off in (0, 1] behind it if that is not 1, as in ``hann:0.8``;
            or ``even:C1:C2``, a kernel with the window ``exp((C1 s^2 + C2 s^4) / 2)``: smooth where C1 is negative,
            sharper than a ramp where it is positive. Beyond the Nyquist frequency, towards the corners of the
            spectrum of square pixels, it keeps its last value.

    Raises:
        ValueError: no such filter.
    """
    name, *numbers = filter_name.split(":")
    try:
        values = [float(number) for number in numbers]
    except ValueError:
        values = [math.nan]
    if name == FITTED and len(values) == 2 and np.isfinite(values).all():
        return lambda share: _even(share, *values)
    if name in WINDOWS and len(values) <= 1 and 0.0 < (values or [1.0])[0] <= 1.0:
        cutoff = (values or [1.0])[0]
        return lambda share: WINDOWS[name]((share / cutoff).clip(max=1.0)) * (share <= cutoff)
    raise ValueError(
        f"filter_name must be one of {', '.join(WINDOWS)}, a cut-off in (0, 1] behind it if wanted as in hann:0.8, or "
        f"{FITTED}:C1:C2 with two numbers, got {filter_name}"
    )


def _even(share: np.ndarray, c1: float, c2: float) -> np.ndarray:
    square = np.minimum(share, 1.0) ** 2
    return np.exp((c1 * square + c2 * square**2) / 2.0)


def filter_response(length: int, filter_name: str, detectors_per_pixel: int = 1) -> np.ndarray:
    """Twice the windowed ramp at the frequencies of an rfft of `length` samples, (length // 2 + 1,).

    The ramp is the transform of its samples in space and so not quite 0 at frequency 0: sampled in frequency, it would
    take the mean of the slice away (Kak and Slaney, Principles of Computerized Tomographic Imaging, 1988, eq. 3.61).

    Args:
        length: of the padded sinogram, in detector elements.
        detectors_per_pixel: how many detector elements a pixel is wide.
    """
    offset = np.arange(length)
    offset = np.minimum(offset, length - offset)
    ramp = np.zeros(length)
    ramp[0] = 0.25
    ramp[offset % 2 == 1] = -1.0 / (np.pi * offset[offset % 2 == 1]) ** 2
    share = fft.rfftfreq(length) / 0.5 * detectors_per_pixel
    return 2.0 * fft.rfft(ramp).real * filter_window(filter_name)(share)
