"""Which pixels are padding: outside the field of view, not measured, kept as they are."""

from __future__ import annotations

import numpy as np
from pydicom.dataset import Dataset

from ..errors import BioAttError
from .headers import rescale, whole_number

#: HU that tissue can have. A padding value among them is a mistake (0 is common): restoring it would put noise back.
TISSUE_HU = (-1000.0, 3071.0)
_MOST_BITS = 32  # of a stored value


def padding_mask(dataset: Dataset, stored: np.ndarray) -> np.ndarray | None:
    """Where `stored` is padding by PixelPaddingValue and PixelPaddingRangeLimit (PS3.3 C.7.5.1.1.2).

    Args:
        dataset: header of the image, or of the frame.
        stored: stored values.

    Returns:
        bool, of the shape of `stored`, or None where there is no usable padding value, see `padding_limits`.
    """
    limits = padding_limits(dataset)
    return None if limits is None else (stored >= limits[0]) & (stored <= limits[1])


def bright_padding(dataset: Dataset, stored: np.ndarray) -> np.ndarray | None:
    """`padding_mask` where padding lies above all tissue, e.g. 63536 where -2000 lost its sign; else None."""
    limits, (slope, intercept) = padding_limits(dataset), rescale(dataset, "padding")
    is_bright = limits is not None and min(one * slope + intercept for one in limits) >= TISSUE_HU[1]
    return padding_mask(dataset, stored) if is_bright else None


def padding_limits(dataset: Dataset) -> tuple[int, int] | None:
    """Lowest and highest stored value that is padding, None where the header names no usable one.

    The value is read with the signedness of the pixels, whatever VR it was written with. A value that the stored
    bits cannot hold, or that is between -1000 and 3071 HU, is no padding value and is ignored, as is a limit.
    """
    first = _padding_value(dataset, "PixelPaddingValue")
    if first is None or _is_tissue(dataset, first, first):
        return None
    second = _padding_value(dataset, "PixelPaddingRangeLimit")
    low, high = (first, first) if second is None else (min(first, second), max(first, second))
    return (first, first) if _is_tissue(dataset, low, high) else (low, high)


def is_wrong_padding(dataset: Dataset) -> bool:
    """Whether the header names a padding value that tissue has."""
    try:
        first = _padding_value(dataset, "PixelPaddingValue")
        return first is not None and _is_tissue(dataset, first, first)
    except BioAttError:  # bits are checked when pixels are read
        return False


def stored_range(bits_stored: int, signed: bool) -> tuple[int, int]:
    """Lowest and highest value of `bits_stored` bits."""
    return (-(1 << bits_stored - 1), (1 << bits_stored - 1) - 1) if signed else (0, (1 << bits_stored) - 1)


def is_signed(dataset: Dataset, where: object) -> bool:
    """Whether PixelRepresentation says two's complement."""
    return whole_number(dataset, "PixelRepresentation", where) == 1


def _is_tissue(dataset: Dataset, low: int, high: int) -> bool:
    """Whether stored values from `low` to `high` reach into the HU of tissue."""
    slope, intercept = rescale(dataset, "padding")
    ends = sorted((low * slope + intercept, high * slope + intercept))
    return ends[1] > TISSUE_HU[0] and ends[0] < TISSUE_HU[1]


def _padding_value(dataset: Dataset, keyword: str) -> int | None:
    where = "padding"
    try:
        number = whole_number(dataset, keyword, where, smallest=-(1 << 31))
    except BioAttError:  # missing, empty, or not one number
        return None
    signed = is_signed(dataset, where)
    if -(1 << 15) <= number < 1 << 16:  # the element has 16 bits: written as US for signed pixels, or the reverse
        number = number % (1 << 16)
        number -= 1 << 16 if signed and number >= 1 << 15 else 0
    bits = whole_number(dataset, "BitsStored", where, smallest=1)
    if bits > _MOST_BITS:  # refused when pixels are read
        return None
    low, high = stored_range(bits, signed)
    return number if low <= number <= high else None
