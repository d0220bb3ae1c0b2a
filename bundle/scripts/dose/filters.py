"""Reconstruction filters by name: a ramp, a window on it, and where the window ends. They set the noise texture."""

from __future__ import annotations

import math

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


def split_filter_name(filter_name: str) -> tuple[str, float]:
    """Window and cut-off of a name such as ``hann`` (cut-off 1) or ``hann:0.8``.

    Raises:
        ValueError: no such window, or a cut-off outside (0, 1].
    """
    window, colon, number = filter_name.partition(":")
    try:
        cutoff = float(number) if colon else 1.0
    except ValueError:
        cutoff = math.nan
    if window not in WINDOWS or not 0.0 < cutoff <= 1.0:
        raise ValueError(
            f"filter_name must be one of {', '.join(WINDOWS)}, a cut-off in (0, 1] behind it if wanted as in hann:0.8, "
            f"got {filter_name}"
        )
    return window, cutoff


def filter_response(length: int, filter_name: str) -> np.ndarray:
    """Twice the windowed ramp at the frequencies of an rfft of `length` samples, (length // 2 + 1,).

    The ramp is the transform of its samples in space and so not quite 0 at frequency 0: sampled in frequency, it would
    take the mean of the slice away (Kak and Slaney, Principles of Computerized Tomographic Imaging, 1988, eq. 3.61).
    """
    window, cutoff = split_filter_name(filter_name)
    offset = np.arange(length)
    offset = np.minimum(offset, length - offset)
    ramp = np.zeros(length)
    ramp[0] = 0.25
    ramp[offset % 2 == 1] = -1.0 / (np.pi * offset[offset % 2 == 1]) ** 2
    share = fft.rfftfreq(length) / 0.5 / cutoff
    return 2.0 * fft.rfft(ramp).real * WINDOWS[window](share.clip(max=1.0)) * (share <= 1.0)
