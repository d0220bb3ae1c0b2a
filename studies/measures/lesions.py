"""Low-contrast lesions put into real slices, and how much of their contrast is left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter
from scipy.special import ndtr
from scripts.errors import BioAttError

#: SD of a lesion's edge in mm: the blur of a scanner.
EDGE_SD_MM = 0.6
#: HU of the parenchyma that lesions are put into, by the smoothed full dose.
SOFT_HU = (40.0, 160.0)


@dataclass(frozen=True)
class Lesion:
    """A disc: its diameter in mm and its middle (row, column) in pixels."""

    diameter_mm: float
    center: tuple[int, int]

    def profile(self, shape: tuple[int, int], spacing_mm: float) -> np.ndarray:
        """Its share of contrast in each pixel, (H, W): 1 inside, 0 outside, between them a Gaussian's integral."""
        rows, columns = np.ogrid[: shape[0], : shape[1]]
        distance = np.hypot(rows - self.center[0], columns - self.center[1]) * spacing_mm
        return ndtr((self.diameter_mm / 2 - distance) / EDGE_SD_MM)


def place_lesions(
    full_hu: np.ndarray,
    diameters_mm: Sequence[float],
    spacing_mm: float,
    generator: np.random.Generator,
    *,
    spare: bool = False,
) -> list[Lesion]:
    """One lesion for each of `diameters_mm`, each inside even soft tissue and apart from the others.

    Even: the slice smoothed by 2 mm lies in `SOFT_HU` everywhere within the lesion's radius and 3 mm around it, and
    varies there by no more than organs do (30 HU from the local mean). The largest is placed first.

    Args:
        full_hu: (H, W) in HU.
        diameters_mm: may hold a diameter several times.
        spacing_mm: of the pixels.
        generator: where the places come from.
        spare: pass over a lesion without room.

    Raises:
        BioAttError: there is no room, and none is to be passed over.
    """
    smooth = gaussian_filter(np.asarray(full_hu, np.float32), 2.0 / spacing_mm)
    even = (smooth > SOFT_HU[0]) & (smooth < SOFT_HU[1])
    even &= np.abs(smooth - gaussian_filter(smooth, 8.0 / spacing_mm)) < 30.0
    placed = []
    for diameter in sorted(diameters_mm, reverse=True):
        room = distance_transform_edt(even) * spacing_mm
        fits = np.argwhere(room > diameter / 2 + 3.0)
        if not len(fits):
            if spare:
                continue
            raise BioAttError(f"no room for a lesion of {diameter:g} mm in this slice; choose another slice")
        row, column = map(int, fits[generator.integers(len(fits))])
        placed.append(Lesion(diameter, (row, column)))
        rows, columns = np.ogrid[: even.shape[0], : even.shape[1]]
        even &= np.hypot(rows - row, columns - column) * spacing_mm > diameter / 2 + 6.0
    return placed


def contrast_recovery(difference_hu: np.ndarray, profile: np.ndarray, contrast_hu: float) -> float:
    """Share of a lesion's contrast that is left: the mean where half of it or more was put in, over what was put in.

    Args:
        difference_hu: (H, W), the result with the lesion less the result without it, in HU.
        profile: (H, W), see `Lesion.profile`.
        contrast_hu: what was put in is ``contrast_hu * profile``.
    """
    core = profile >= 0.5
    return float(difference_hu[core].mean() / (contrast_hu * profile[core].mean()))
