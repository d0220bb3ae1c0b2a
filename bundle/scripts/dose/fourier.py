"""Projection and filtered backprojection by the Fourier slice theorem: what `geometry` computes with.

The 1-D spectrum of a view is the 2-D spectrum of the slice along the line of that view. The spectrum is known on a
square grid (FFT) and wanted on a polar one; a sparse matrix interpolates with a Kaiser-Bessel kernel, whose own
transform is divided out of the slice. The same matrix, transposed, spreads a filtered sinogram for backprojection.

Source: Kak and Slaney, Principles of Computerized Tomographic Imaging (1988), chapter 3, for the slice theorem and
filtered backprojection; Beatty et al., Rapid gridding reconstruction with a minimal oversampling ratio, IEEE Trans Med
Imaging 24 (2005) 799, for the kernel, its transform and its shape parameter.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import fft
from scipy.sparse import csr_array

from .filters import filter_response

KERNEL_CELLS = 5  # width of the kernel; at twofold oversampling it errs by about 1e-4 of the largest value
OVERSAMPLING = 2


class FourierSlices:
    """Parallel beams over half a turn, as scikit-image's radon and iradon place them, for slices of one shape.

    Building one takes a second and ``8 * KERNEL_CELLS**2 * pixels * views`` bytes (103 MB at 512 pixels and 1000
    views), to be used for many slices.

    Args:
        pixels: N of the slices (N, N).
        angles_rad: of the views, (views,).
        detectors_per_pixel: D, how many detector elements a pixel is wide: N * D elements measure a view. With one,
            noise ends at the pixels' Nyquist frequency in every direction; with two it fills the corners of the
            spectrum too, as that of scanners with fine detectors and large pixels does.
    """

    def __init__(self, pixels: int, angles_rad: np.ndarray, detectors_per_pixel: int = 1) -> None:
        self.pixels = pixels
        self.detectors_per_pixel = detectors_per_pixel
        self.views = len(angles_rad)
        self.padded = fft.next_fast_len(OVERSAMPLING * pixels, real=True)
        self.padded += self.padded % 2
        # Beams run down the columns at angle 0, and turn about pixel N // 2.
        self.place = (np.arange(pixels) - pixels // 2) % self.padded
        self.elements = self.padded * detectors_per_pixel
        middle = pixels // 2 * detectors_per_pixel
        self.element_place = (np.arange(pixels * detectors_per_pixel) - middle) % self.elements
        self.beta = np.pi * math.sqrt((KERNEL_CELLS * (1 - 0.5 / OVERSAMPLING)) ** 2 - 0.8)
        share = (np.arange(pixels) - pixels // 2) / self.padded
        root = np.sqrt(self.beta**2 - (np.pi * KERNEL_CELLS * share) ** 2)
        apodisation = KERNEL_CELLS * np.sinh(root) / root  # the transform of the kernel
        self.apodisation = np.outer(apodisation, apodisation).astype(np.float32)
        self.interpolation = self._interpolation(angles_rad)

    def project(self, image: np.ndarray) -> np.ndarray:
        """Sums along the beams, in pixels, of a slice (N, N) that is zero outside the circle: (N D, views)."""
        padded = np.zeros((self.padded, self.padded), dtype=np.float32)
        padded[np.ix_(self.place, self.place)] = image / self.apodisation
        grid = fft.fft2(padded).reshape(-1)
        polar = (self.interpolation @ grid.view(np.float32).reshape(-1, 2)).reshape(-1).view(np.complex64)
        polar = polar.reshape(-1, self.views)[: self.padded // 2 + 1]  # the slice has nothing beyond
        return fft.irfft(polar, self.elements, axis=0)[self.element_place] * np.float32(self.detectors_per_pixel)

    def backproject(self, sinogram: np.ndarray, filter_name: str) -> np.ndarray:
        """Filtered backprojection of a sinogram (N D, views), the inverse of `project`: (N, N)."""
        padded = np.zeros((self.elements, self.views), dtype=np.float32)
        padded[self.element_place] = sinogram
        radii = self.interpolation.shape[0] // self.views
        polar = fft.rfft(padded, axis=0)[:radii]
        weights = filter_response(self.elements, filter_name, self.detectors_per_pixel)
        weights[1:-1] *= 2.0  # the negative frequencies, whose values are the conjugates
        weights = weights[:radii]
        polar *= (weights * np.pi / (2 * self.views * self.padded))[:, None].astype(np.float32)
        grid = self.interpolation.T @ polar.reshape(-1).view(np.float32).reshape(-1, 2)
        grid = grid.reshape(-1).view(np.complex64).reshape(self.padded, self.padded)
        image = fft.ifft2(grid, norm="forward").real
        return image[np.ix_(self.place, self.place)] / self.apodisation

    def _interpolation(self, angles_rad: np.ndarray) -> csr_array:
        """From the square grid (padded, padded) to the polar one (radii, views), both flattened.

        The radii end at the Nyquist frequency of the pixels, or, where the detector elements are finer, at the corners
        of the square; what lies outside the square has no weight.
        """
        reach = self.padded / 2 * (1.0 if self.detectors_per_pixel == 1 else math.sqrt(2.0))
        radius = np.arange(math.floor(reach) + 1)
        u, v = np.outer(radius, np.cos(angles_rad)), np.outer(radius, -np.sin(angles_rad))
        columns, column_weights = self._neighbours(u)
        rows, row_weights = self._neighbours(v)
        column_weights *= (np.maximum(np.abs(u), np.abs(v)) <= self.padded / 2 + 1e-6).reshape(-1, 1)
        cells = (rows[:, :, None] * self.padded + columns[:, None, :]).reshape(len(rows), -1)
        weights = (row_weights[:, :, None] * column_weights[:, None, :]).reshape(len(rows), -1)
        starts = np.arange(len(rows) + 1, dtype=np.int32) * cells.shape[1]
        return csr_array((weights.reshape(-1), cells.reshape(-1), starts), shape=(len(rows), self.padded**2))

    def _neighbours(self, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Grid lines within reach of the kernel and their weights, each (points, KERNEL_CELLS)."""
        position = position.reshape(-1, 1)
        lines = np.ceil(position - KERNEL_CELLS / 2) + np.arange(KERNEL_CELLS)
        inside = (1 - (2 / KERNEL_CELLS * (position - lines)) ** 2).clip(min=0.0)
        weights = np.i0(self.beta * np.sqrt(inside))
        return (lines.astype(np.int32) % self.padded), weights.astype(np.float32)
