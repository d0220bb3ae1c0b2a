"""Low-contrast lesions put into real slices, and how much of their contrast is left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter
from scipy.special import ndtr

#: SD of a lesion's edge in mm: the blur of a scanner.
EDGE_SD_MM = 0.6
#: HU of the parenchyma that lesions are put into, by the smoothed full dose, and how far it may be from its local mean.
SOFT_HU, EVEN_HU = (40.0, 160.0), 30.0


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
    tissue_hu: tuple[float, float] = SOFT_HU,
    even_hu: float = EVEN_HU,
) -> list[Lesion]:
    """One lesion for each of `diameters_mm` that there is room for, inside even tissue and apart from the others.

    Even: the slice smoothed by 2 mm lies in `tissue_hu` everywhere within the lesion's radius and 3 mm around it, and
    varies there by no more than `even_hu` from the local mean, as organs do. The largest is placed first.

    Args:
        full_hu: (H, W) in HU.
        diameters_mm: may hold a diameter several times.
        tissue_hu, even_hu: see above; soft tissue by default.
    """
    smooth = gaussian_filter(np.asarray(full_hu, np.float32), 2.0 / spacing_mm)
    even = (smooth > tissue_hu[0]) & (smooth < tissue_hu[1])
    even &= np.abs(smooth - gaussian_filter(smooth, 8.0 / spacing_mm)) < even_hu
    placed = []
    part, corner = _around(even)
    for diameter in sorted(diameters_mm, reverse=True):
        room = distance_transform_edt(even[part]) * spacing_mm
        fits = np.argwhere(room > diameter / 2 + 3.0) + corner
        if not len(fits):
            continue
        row, column = map(int, fits[generator.integers(len(fits))])
        placed.append(Lesion(diameter, (row, column)))
        rows, columns = np.ogrid[: even.shape[0], : even.shape[1]]
        even &= np.hypot(rows - row, columns - column) * spacing_mm > diameter / 2 + 6.0
    return placed


def _around(mask: np.ndarray) -> tuple[tuple[slice, slice], np.ndarray]:
    """The part of a mask (H, W) that holds all of it and, where there is one, a line around it; and its corner."""
    ends = [(one.min(), one.max()) if len(one) else (0, 0) for one in np.nonzero(mask)]
    part = tuple(slice(max(0, first - 1), last + 2) for first, last in ends)
    return part, np.array([one.start for one in part])


def contrast_recovery(difference_hu: np.ndarray, profile: np.ndarray, contrast_hu: float) -> float:
    """Share of a lesion's contrast that is left: the mean where half of it or more was put in, over what was put in.

    Args:
        difference_hu: (H, W), the result with the lesion less the result without it, in HU.
        profile: (H, W), see `Lesion.profile`.
        contrast_hu: what was put in is ``contrast_hu * profile``.
    """
    core = profile >= 0.5
    return float(difference_hu[core].mean() / (contrast_hu * profile[core].mean()))
