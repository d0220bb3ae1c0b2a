"""Whether numbers can be those of a CT in Hounsfield units: a look at their range."""

from __future__ import annotations

import os

import numpy as np

from ..errors import BioAttError
from ..hu import VALID_RANGE_HU

_DENSE_HU, _MOST_DENSE = 800.0, 0.2  # dense bone and metal; no field of view is so full of them
_MOST_DENSE_OF_SLICE = 0.6
_BELOW_AIR_HU, _MOST_BELOW_AIR = -1100.0, 0.1  # what varies there is no air, and no filling, which is one value
_LEAST_TISSUE_HU, _LEAST_TISSUE = -300.0, 0.1  # fat and what is denser: there is some, unless all of it was shifted
_AIR_HU, _WATER_HU, _LEAST_WATER = -900.0, 100.0, 0.05  # of a phantom that holds nothing else
_MOST_CLIPPED = 0.1  # of all values at the lowest


def check_hu(hu: np.ndarray, path: str | os.PathLike[str], *, is_offset: bool = False, is_dicom: bool = False) -> None:
    """Refuse what cannot be a CT in HU: windowed, normalised, stored with 1024 added, or some other quantity.

    What is filled in outside the field of view (-1024 and below) says nothing about the rest, and is looked past.

    Args:
        hu: (X, Y, slices).
        is_offset: a header says how stored values were shifted (RescaleIntercept other than 0), so that a small field
            of view without air or fat is believed, and a phantom of air and water.
        is_dicom: also refuse a volume of which more is dense than of any body, e.g. an inverted one.

    Raises:
        BioAttError: says what was found; ``--assume-hu`` goes on.
    """
    lowest, highest, lowest_within, dense, below, tissue, count = np.inf, -np.inf, np.inf, 0, 0, 0, 0
    shifted, crowded = [], []
    for i, image in enumerate(np.moveaxis(hu, -1, 0)):
        least, most = image.min(initial=np.inf), image.max(initial=-np.inf)  # NaN where there is one
        if not (np.isfinite(least) and np.isfinite(most)):
            image = image[np.isfinite(image)]
            least, most = image.min(initial=np.inf), image.max(initial=-np.inf)
        lowest, highest = min(lowest, least), max(highest, most)
        if least > VALID_RANGE_HU[0]:
            lowest_within = min(lowest_within, least)
            has_lower = least < 0.0
        else:
            has_lower = bool(np.any((image > VALID_RANGE_HU[0]) & (image < 0.0)))
        if most > 1000.0 and not has_lower:
            shifted.append(i)
        count += image.size
        if least < _BELOW_AIR_HU:
            below += _varied(image[image < _BELOW_AIR_HU])  # lossy compression makes padding vary, too
            tissue += int(np.count_nonzero(image > _LEAST_TISSUE_HU))
        if is_dicom and most > _DENSE_HU:
            now = int(np.count_nonzero(image > _DENSE_HU))
            dense += now
            crowded += [i] if now > _MOST_DENSE_OF_SLICE * image.size else []
        if least <= VALID_RANGE_HU[0] and lowest_within >= 0.0:  # a lower one is no news: that one already lies between
            lowest_within = min(lowest_within, image[image > VALID_RANGE_HU[0]].min(initial=np.inf))
    if lowest > highest:
        raise BioAttError(f"{path} holds no finite value; export it again in HU")
    is_water = is_offset and not below and lowest_within < _AIR_HU and highest > -_WATER_HU  # a phantom has no bone
    found = _oddity(float(lowest), float(highest), float(lowest_within), is_offset)
    if found and is_water and np.count_nonzero(np.abs(hu) < _WATER_HU) >= _LEAST_WATER * hu.size:
        found = ""
    if not found and shifted:
        some = f"{len(shifted)} of {hu.shape[-1]} slices (the first is {shifted[0]}, from 0)"
        found = f"no value below 0 in {some}, perhaps stored with 1024 added"
    if not found and below > _MOST_BELOW_AIR * count and tissue < _LEAST_TISSUE * count:
        found = f"{below / count:.0%} of the values vary below {_BELOW_AIR_HU:g} HU, as if shifted twice"
    if not found and -200.0 < lowest and np.count_nonzero(hu == lowest) > _MOST_CLIPPED * count:
        found = f"its lowest value, {lowest:g}, stands in more than {_MOST_CLIPPED:.0%} of it, as after windowing"
    if not found and 0 < len(crowded) < hu.shape[-1]:
        found = f"most of slice {crowded[0]} (from 0) is above {_DENSE_HU:g} HU, as where bytes are swapped"
    if not found and dense > _MOST_DENSE * count:
        found = f"{dense / count:.0%} of the values are above {_DENSE_HU:g} HU, more than any body has"
    if found:
        raise BioAttError(
            f"{path} does not look like HU: {found}; export it in HU, leave it out if it is none, or, if you know that "
            "its values are HU, go on with --assume-hu"
        )


def _varied(values: np.ndarray) -> int:
    """How many of these are above the two lowest ones, which may be filled in."""
    for _ in range(2):
        values = values[values != values.min(initial=np.inf)]
    return values.size


def _oddity(lowest: float, highest: float, lowest_within: float, is_offset: bool) -> str:
    """What is not like HU, in words; "" where nothing is."""
    within = lowest if lowest >= 0.0 else lowest_within
    within = within if np.isfinite(within) else lowest  # nothing but what is filled in
    if within >= 0.0 and highest <= 255.0:
        in_one = "values in [0, 1], as a mask or after normalisation"
        return in_one if highest <= 1.0 else "values in [0, 255], as a picture or labels"
    if within >= 0.0 or (lowest > -200.0 and not is_offset):
        shifted = ", perhaps stored with 1024 added" if within >= 0.0 and highest > 1024.0 else ""
        return f"a minimum of {within if within >= 0.0 else lowest:g}, above -200 HU: no air{shifted}"
    return f"a maximum of {highest:g}, below 100 HU: no bone or contrast" if highest < 100.0 else ""
