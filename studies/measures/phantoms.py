"""A water cylinder with rods of low to high contrast, for texture: its resolution is known exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

#: Contrast of the rods to water in HU, from low to high.
CONTRASTS_HU = (14.0, 60.0, 120.0, 300.0)


@dataclass(frozen=True, kw_only=True)
class RodPhantom:
    """What is imaged and where everything lies.

    ::

           .-''''-.
         .' a  b  c '.     rods of contrast a, b, c, a, b, c, ... on a ring,
        |  c +--+  a  |    so that each contrast meets the same noise;
        |    |  |     |    water alone in the middle, where the noise
        |  b +--+  b  |    power spectrum is measured
         '. a  c   . '
           '-....-'

    Args:
        image_hu: (N, N) in HU, water 0, air -1000.
        rods_hu: (N, N), the rods alone: what they add to the water.
        spacing_mm: of the pixels.
        radius_mm: of the rods.
        centers: contrast in HU to the (row, column) of each of its rods, in pixels.
        regions: slices (rows, columns) of the square regions of water.
        edge_sd_mm: SD of the Gaussian edge that cylinder and rods have.
    """

    image_hu: np.ndarray
    rods_hu: np.ndarray
    spacing_mm: float
    radius_mm: float
    centers: dict[float, tuple[tuple[float, float], ...]]
    regions: tuple[tuple[slice, slice], ...]
    edge_sd_mm: float

    def rois(self, image_hu: np.ndarray) -> np.ndarray:
        """The regions of water of an image (N, N), as (regions, n, n)."""
        return np.stack([image_hu[place] for place in self.regions])

    def inside(self, contrast_hu: float, margin_mm: float = 3.0) -> np.ndarray:
        """Mask (N, N) of the rods of one contrast, without `margin_mm` at their edge."""
        rows, columns = np.ogrid[: self.image_hu.shape[0], : self.image_hu.shape[1]]
        mask = np.zeros(self.image_hu.shape, dtype=bool)
        for row, column in self.centers[contrast_hu]:
            mask |= np.hypot(rows - row, columns - column) * self.spacing_mm < self.radius_mm - margin_mm
        return mask


def rod_phantom(
    size: int = 512,
    spacing_mm: float = 0.7,
    *,
    diameter_mm: float = 300.0,
    contrasts_hu: Sequence[float] = CONTRASTS_HU,
    rods_per_contrast: int = 3,
    rod_radius_mm: float = 12.5,
    edge_sd_mm: float = 0.6,
) -> RodPhantom:
    """Make the phantom, without noise.

    Every edge is a Gaussian's integral along the radius, ``ndtr((R - r) / edge_sd_mm)``, so the task transfer
    function of a rod is ``exp(-2 (pi edge_sd_mm f)^2)`` exactly.

    Args:
        size: N, pixels on a side.
        spacing_mm: of the pixels.
        diameter_mm: of the water cylinder.
        contrasts_hu: of the rods to water.
        rods_per_contrast: more of them lower the noise of the transfer function.
        rod_radius_mm: of the rods.
        edge_sd_mm: SD of the edges; stands for the resolution of the scanner.

    Raises:
        ValueError: rods, water regions and cylinder do not fit into the image and beside each other.
    """
    count = len(contrasts_hu) * rods_per_contrast
    middle = (size - 1) / 2
    ring_mm = diameter_mm / 2 - 2 * rod_radius_mm
    roi = int(np.sqrt(2) * (ring_mm - 2 * rod_radius_mm) / spacing_mm / 2)  # two by two of them in the ring
    if diameter_mm >= size * spacing_mm or roi < 16 or np.sin(np.pi / count) * ring_mm < 1.9 * rod_radius_mm:
        raise ValueError(
            f"{count} rods of radius {rod_radius_mm} mm do not fit into a cylinder of {diameter_mm} mm in an image of "
            f"{size} pixels of {spacing_mm} mm; take smaller or fewer rods"
        )
    y, x = (np.mgrid[:size, :size] - middle) * spacing_mm

    def disc(row_mm: float, column_mm: float, radius_mm: float) -> np.ndarray:
        return ndtr((radius_mm - np.hypot(y - row_mm, x - column_mm)) / edge_sd_mm)

    water = -1000.0 + 1000.0 * disc(0.0, 0.0, diameter_mm / 2)
    rods = np.zeros_like(water)
    centers: dict[float, list[tuple[float, float]]] = {float(contrast): [] for contrast in contrasts_hu}
    for i in range(count):
        angle_rad = 2 * np.pi * (i + 0.5) / count
        row_mm, column_mm = ring_mm * np.sin(angle_rad), ring_mm * np.cos(angle_rad)
        contrast = float(contrasts_hu[i % len(contrasts_hu)])
        rods += contrast * disc(row_mm, column_mm, rod_radius_mm)
        centers[contrast].append((middle + row_mm / spacing_mm, middle + column_mm / spacing_mm))
    start = round(middle)
    halves = (slice(start - roi, start), slice(start, start + roi))
    return RodPhantom(
        image_hu=(water + rods).astype(np.float32),
        rods_hu=rods.astype(np.float32),
        spacing_mm=spacing_mm,
        radius_mm=rod_radius_mm,
        centers={contrast: tuple(places) for contrast, places in centers.items()},
        regions=tuple((rows, columns) for rows in halves for columns in halves),
        edge_sd_mm=edge_sd_mm,
    )
