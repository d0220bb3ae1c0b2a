"""A low-dose slice from a full-dose one: add the noise by which the two doses differ.

The counts at the image's own dose are ``N = N0 exp(-p)`` with line integral p and electronic noise of SD s. At the
dose fraction k the variance of a line integral grows by (1/k - 1) / N + s^2 (1/k^2 - 1) / N^2. The slice has the
noise of its own dose in it already, so only this difference is drawn, reconstructed and added.

Source: Yu et al., Development and validation of a practical lower-dose-simulation tool for optimizing CT scan
protocols, J Comput Assist Tomogr 36 (2012) 477.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from .geometry import ParallelBeam
from .image_noise import flat_soft_tissue, noise_sd_hu

#: Slices of a series that are looked at to calibrate on it.
CALIBRATION_SLICES = 9
_MOST_COUNTS = 1e15


def added_noise_sinogram(
    line_integrals: np.ndarray,
    dose_fraction: float,
    photons: float,
    electronic_sd: float,
    generator: np.random.Generator,
) -> np.ndarray:
    """Noise that takes line integrals from full dose to `dose_fraction`, same shape as `line_integrals`.

    Counts are drawn at ``k' = k / (1 - k)``, since 1/k' = 1/k - 1, with electronic noise of variance
    ``s^2 (1 + k) / (1 - k)``, since then s'^2 / k'^2 = s^2 (1/k^2 - 1): both terms of the difference exactly.

    The logarithm of noisy counts is biased upwards by ``var(y) / (2 E[y]^2)`` to second order; that is taken off, as
    scanners calibrate it away. What is left is under a twentieth of the noise for ten photons or more and an
    electronic noise of a photon.

    Args:
        line_integrals: p, dimensionless.
        dose_fraction: k in (0, 1]; 1 adds nothing.
        photons: N0, photons per detector element and view at full dose.
        electronic_sd: s, in photons, at any dose.
    """
    if not 0.0 < dose_fraction <= 1.0:
        raise ValueError(f"dose_fraction must be in (0, 1], got {dose_fraction}")
    if not photons > 0.0 or electronic_sd < 0.0:
        raise ValueError(f"photons must be > 0 and electronic_sd >= 0, got {photons} and {electronic_sd}")
    if dose_fraction == 1.0:
        return np.zeros_like(line_integrals)
    log_expected = math.log(photons * dose_fraction / (1.0 - dose_fraction)) - line_integrals.astype(np.float64)
    expected = np.exp(log_expected)
    electronic_variance = electronic_sd**2 * (1.0 + dose_fraction) / (1.0 - dose_fraction)
    counts = _counts(expected, generator)
    if electronic_variance > 0.0:
        counts += generator.normal(scale=math.sqrt(electronic_variance), size=counts.shape)
    # A detector element that caught nothing has no logarithm: half a photon is the floor. It biases rays with
    # fewer than about ten expected photons; `DoseSimulator.starved_fraction` tells how many there are.
    noise = log_expected - np.log(np.maximum(counts, 0.5))
    well_lit = np.maximum(expected, max(10.0, 3.0 * math.sqrt(electronic_variance)))  # the series holds from here on
    return (noise - (well_lit + electronic_variance) / (2.0 * well_lit**2)).astype(np.float32)


def _counts(expected: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Poisson counts, float64; of more than 1e15 as the normal distribution that they follow to eight digits.

    A dose next to 1 asks for them, and NumPy draws none beyond 9.2e18.
    """
    counts = generator.poisson(expected.clip(max=_MOST_COUNTS)).astype(np.float64)
    many = expected > _MOST_COUNTS
    if many.any():
        counts[many] = generator.normal(expected[many], np.sqrt(expected[many]))
    return counts


def modulated(line_integrals: np.ndarray, tube_current: float | np.ndarray) -> np.ndarray:
    """Line integrals (N, views) that give, at an unmodulated tube current, the photons of a modulated one.

    Since ``m N0 exp(-p) = N0 exp(-(p - ln m))``.

    Args:
        line_integrals: p, dimensionless.
        tube_current: m > 0, relative; one number for a slice, or (views,) for modulation over the angle.
    """
    if not np.all(np.isfinite(tube_current)) or not np.all(np.greater(tube_current, 0.0)):
        raise ValueError(f"tube_current must be positive, got {tube_current}")
    return line_integrals - np.log(tube_current)


@dataclass(frozen=True, kw_only=True)
class DoseSimulator:
    """Makes low-dose slices from full-dose ones.

    Args:
        photons: N0 at full dose; `calibrate_on_series` finds it from the noise of the series.
        electronic_sd: SD of the electronic noise in photons.

    Example::

        simulator = DoseSimulator(geometry=ParallelBeam(spacing_mm=0.7), photons=4e5)
        low_hu = simulator.low_dose(full_hu, 0.25, np.random.default_rng(0))
    """

    geometry: ParallelBeam
    photons: float = 4.0e5
    electronic_sd: float = 1.0

    def low_dose(
        self,
        full_hu: np.ndarray,
        dose_fraction: float,
        generator: np.random.Generator,
        filter_name: str = "hann",
        line_integrals: np.ndarray | None = None,
        tube_current: float | np.ndarray = 1.0,
    ) -> np.ndarray:
        """Return `full_hu` (N, N) as it would look at `dose_fraction`, in HU, float32.

        Args:
            full_hu: square slice in HU.
            dose_fraction: k in (0, 1].
            line_integrals: ``geometry.project(full_hu)`` where it is at hand already.
            tube_current: of this slice, or of each of its views (views,), relative to that of `photons`.
        """
        if line_integrals is None:
            line_integrals = self.geometry.project(full_hu)
        line_integrals = modulated(line_integrals, tube_current)
        noise = added_noise_sinogram(
            line_integrals, dose_fraction, self.photons_of_an_element, self.electronic_sd, generator
        )
        return full_hu.astype(np.float32) + self.geometry.reconstruct(noise, filter_name)

    @property
    def photons_of_an_element(self) -> float:
        """Photons of a detector element, which may be finer than a pixel."""
        return self.photons / self.geometry.detectors_per_pixel

    def starved_fraction(self, line_integrals: np.ndarray, dose_fraction: float, fewest: float = 10.0) -> float:
        """Share of rays with under `fewest` expected photons: there the logarithm biases the slice.

        With a tube current profile, give the line integrals `modulated` by it.
        """
        return float(np.mean(dose_fraction * self.photons_of_an_element * np.exp(-line_integrals) < fewest))


def calibration_slices(count: int) -> list[int]:
    """Indices of the slices that speak for a series of `count`: nine at most, evenly spread."""
    return np.unique(np.linspace(0, count - 1, CALIBRATION_SLICES).astype(int)).tolist()


def calibrate_on_series(
    simulator: DoseSimulator,
    slices_hu: Sequence[np.ndarray],
    filter_name: str = "hann",
    tube_current: Sequence[float] | None = None,
) -> DoseSimulator:
    """Return `simulator` with the photons that explain the noise of a series: the median over `calibration_slices`.

    Half the dose adds just the variance that is there already, and quantum noise goes as one over the square root
    of the photons: one trial reconstruction of each slice tells.

    Args:
        simulator: its `photons` are the trial's.
        slices_hu: square slices (N, N) in HU; only those needed are taken.
        tube_current: of each slice, relative to that of the photons wanted; the same for all if not given.

    Raises:
        ValueError: no slice shows enough flat soft tissue to measure its noise in, or one has no noise.
    """
    quantum, photons = replace(simulator, electronic_sd=0.0), []
    for i in calibration_slices(len(slices_hu)):
        full_hu = slices_hu[i]
        mask = flat_soft_tissue(full_hu)
        if not mask.any():
            continue
        own = noise_sd_hu(full_hu, mask)
        if not own > 0.0:
            raise ValueError(f"a slice must have measurable noise, got an SD of {own} HU")
        added = noise_sd_hu(quantum.low_dose(full_hu, 0.5, np.random.default_rng(0), filter_name) - full_hu, mask)
        current = 1.0 if tube_current is None else tube_current[i]
        photons.append(simulator.photons * (added / own) ** 2 / current)
    if not photons:
        raise ValueError("no slice shows enough flat soft tissue to measure its noise in")
    return replace(simulator, photons=float(np.median(photons)))
