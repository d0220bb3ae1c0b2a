"""Hounsfield units and the network's range: inverse pairs, and the only constants about them.

There and back, float32 rounds by at most (|HU| + 1000) / 2^23 HU, 5e-4 HU over the valid range: a whole HU comes back
when it is rounded. In float64 nothing is lost that matters.
"""

from __future__ import annotations

from typing import TypeVar

Array = TypeVar("Array")  # numpy.ndarray or torch.Tensor

#: The paper's code normalises with (HU + 500) / 500, so 1.0 in network range is a width of 500 HU.
NETWORK_OFFSET_HU = 500.0
NETWORK_WIDTH_HU = 500.0

#: What the network is asked about. Below lies padding outside the field of view, above lies metal beyond
#: the 12-bit scale; such pixels keep the source's value.
VALID_RANGE_HU = (-1024.0, 3071.0)

#: HU windows (lower, upper) by their usual names, and the full range.
WINDOWS_HU = {"abdomen": (-160.0, 240.0), "lung": (-1350.0, 150.0), "brain": (0.0, 80.0), "full_range": VALID_RANGE_HU}


def hu_to_network(hu: Array) -> Array:
    """HU to network range, (HU + 500) / 500; the inverse of `network_to_hu`."""
    return (hu + NETWORK_OFFSET_HU) / NETWORK_WIDTH_HU


def network_to_hu(value: Array) -> Array:
    """Network range to HU, value * 500 - 500; the inverse of `hu_to_network`."""
    return value * NETWORK_WIDTH_HU - NETWORK_OFFSET_HU


def in_valid_range(hu: Array) -> Array:
    """Where HU are what the network is asked about, bool: not at padding, metal or NaN."""
    lower, upper = VALID_RANGE_HU
    return (hu >= lower) & (hu <= upper)


def to_window(hu: Array, window_hu: tuple[float, float]) -> Array:
    """HU to [0, 1] inside `window_hu` (lower, upper), clipped at both ends."""
    lower, upper = window_hu
    if not upper > lower:
        raise ValueError(f"window_hu must be (lower, upper) with lower < upper, got {window_hu}")
    return ((hu - lower) / (upper - lower)).clip(0.0, 1.0)
