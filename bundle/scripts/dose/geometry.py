"""Line integrals of a CT slice and filtered backprojection, in parallel-beam geometry."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .fourier import FourierSlices

#: Linear attenuation of water near 70 keV, the mean energy of a 120 kVp beam, in 1/mm (NIST XCOM).
WATER_ATTENUATION_PER_MM = 0.0192


@dataclass(frozen=True, kw_only=True)
class ParallelBeam:
    """Parallel beams over half a turn; one detector element per pixel, the pixel's width.

    Scanners measure fan or cone beams; for the noise of a reconstructed slice the parallel beam is a usual
    stand-in, since rebinned fan data is parallel data.

    Args:
        views: number of projection angles over 180 degrees.
        spacing_mm: width of a pixel and of a detector element in mm.
        water_per_mm: linear attenuation of water in 1/mm.
        detectors_per_pixel: D, a whole number: how many detector elements a pixel is wide (`FourierSlices`). Photons
            are always those of a pixel's width.
    """

    views: int = 600
    spacing_mm: float = 0.7
    water_per_mm: float = WATER_ATTENUATION_PER_MM
    detectors_per_pixel: int = 1

    def __post_init__(self) -> None:
        """Refuse a geometry that measures nothing."""
        if self.views < 1 or not self.spacing_mm > 0 or not self.water_per_mm > 0:
            raise ValueError(f"views, spacing_mm and water_per_mm must be positive, got {self}")
        if self.detectors_per_pixel < 1:
            raise ValueError(f"detectors_per_pixel must be 1 or more, got {self}")

    def project(self, image_hu: np.ndarray) -> np.ndarray:
        """Line integrals of attenuation, dimensionless, of a square slice (N, N) in HU: (N D, views).

        Outside the inscribed circle the slice counts as air; what is below -1000 HU is air too.
        """
        attenuation = self.water_per_mm * (np.asarray(image_hu, dtype=np.float32) / 1000.0 + 1.0).clip(min=0.0)
        attenuation *= inscribed_circle(attenuation.shape)
        fourier = _fourier_slices(len(attenuation), self.views, self.detectors_per_pixel)
        return fourier.project(attenuation * self.spacing_mm)

    def reconstruct(self, sinogram: np.ndarray, filter_name: str = "hann") -> np.ndarray:
        """Filtered backprojection of line integrals (N D, views) to *differences from air* in HU, (N, N).

        The inverse of `project` up to discretisation: ``reconstruct(project(x)) - 1000`` is x. For a sinogram of
        noise the result is the noise of the slice in HU.

        Args:
            sinogram: line integrals, (N D, views).
        """
        pixels = len(sinogram) // self.detectors_per_pixel
        image = _fourier_slices(pixels, self.views, self.detectors_per_pixel).backproject(sinogram, filter_name)
        image *= inscribed_circle(image.shape)
        return (image / (self.spacing_mm * self.water_per_mm) * 1000.0).astype(np.float32)


@lru_cache(maxsize=2)
def _fourier_slices(pixels: int, views: int, detectors_per_pixel: int) -> FourierSlices:
    """Kept for all geometries that differ in millimetres alone: building takes longer than using."""
    return FourierSlices(pixels, np.deg2rad(np.linspace(0.0, 180.0, views, endpoint=False)), detectors_per_pixel)


def inscribed_circle(shape: tuple[int, ...]) -> np.ndarray:
    """Boolean (N, N), true inside the circle that scikit-image's ``circle=True`` reconstructs."""
    rows, columns = shape
    if rows != columns:
        raise ValueError(f"the slice must be square, got {rows}x{columns}")
    y, x = np.ogrid[:rows, :columns]
    return (x - rows // 2) ** 2 + (y - rows // 2) ** 2 <= (rows // 2) ** 2
