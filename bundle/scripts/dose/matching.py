"""Noise that looks like a scanner's own: a filter fitted to the noise spectrum of a series, photons by the same band.

Targets without bias (docs/adr/0014) need added noise with the spectrum of the noise that the full dose has. In flat
soft tissue both are measured, the series' own and that of noise simulated with a plain ramp at the same places::

    NPS(series) / NPS(ramp) = exp(c0 + c1 s^2 + c2 s^4),    s: frequency in shares of the Nyquist frequency

c1 and c2 are the reconstruction filter (``even:C1:C2`` of `filters`), and exp(c0) the photons: a polynomial in even
powers is smooth at frequency 0, so it goes on below the band, where anatomy hides the noise, as a kernel does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import gaussian_filter

from ..hu import VALID_RANGE_HU
from .filters import fitted_filter_name
from .image_noise import (
    ENOUGH_REGIONS,
    FEWEST_REGIONS,
    FLAT_TISSUES_HU,
    SIDE,
    flat_squares,
    noise_spectrum,
    ring_frequencies,
    tissue_mask,
)
from .simulate import DoseSimulator, calibrate_on_series, calibration_slices

#: Where the frequencies that are compared begin and end, in cycles a pixel. Below the beginning anatomy is stronger
#: than noise: the first one at which no more than `GOOD_MISMATCH` is left is taken, or the best.
BAND_BEGINS, BAND_ENDS, GOOD_MISMATCH = (0.12, 0.16, 0.2, 0.25), 0.5, 0.12
#: Where a series shows no flat tissue: this filter, and photons by the local SD of what soft tissue there is.
DEFAULT_FILTER = "hann"
#: Photons where a series shows no soft tissue at all: 10 HU or so behind 25 cm of water.
DEFAULT_PHOTONS = 4.0e5
#: The trial's filter: the ramp alone, up to the corners of the spectrum; and its dose, which adds the variance that
#: is there already.
TRIAL_FILTER, TRIAL_DOSE = fitted_filter_name(0.0, 0.0), 0.5
#: How far the noise of one slice may lie from what the photons of its series say (tube current modulation).
SLICE_GAIN_LIMITS = (0.6, 1.6)


@dataclass(frozen=True, kw_only=True)
class NoiseMatch:
    """How noise is simulated that looks like that of a series.

    Args:
        simulator: with the photons of the series.
        filter_name: its reconstruction filter.
        mismatch: share of the noise power in the band that lies at other frequencies than the series' own; NaN where
            the filter is the default.
        regions: squares of flat tissue that were compared.
        fine_ratio: noise of the series over the simulated one in the finest grain of soft tissue (`fine_noise_hu`), the
            median over the calibration slices; NaN where it cannot be had.
        note: why the default was taken, or nothing.
    """

    simulator: DoseSimulator
    filter_name: str
    mismatch: float = math.nan
    regions: int
    fine_ratio: float = math.nan
    note: str = ""

    def __str__(self) -> str:
        fit = self.note or f"{self.mismatch:.0%} of the noise power at other frequencies, {self.regions} regions"
        return f"filter {self.filter_name}, {self.simulator.photons:.3g} photons ({fit})"

    def noise(self, full_hu: np.ndarray, dose_fractions: Sequence[float], generator: np.random.Generator) -> np.ndarray:
        """Noise (R, N, N) in HU that takes a slice (N, N) in HU to each of the dose fractions.

        The slice's own finest grain says how far its noise lies from that of the series.
        """
        line_integrals = self.simulator.geometry.project(full_hu)
        draw = [
            self.simulator.low_dose(full_hu, dose, generator, self.filter_name, line_integrals) - full_hu
            for dose in dose_fractions
        ]
        return np.stack(draw) * self._slice_gain(full_hu, draw[0] / math.sqrt(1.0 / dose_fractions[0] - 1.0))

    def _slice_gain(self, full_hu: np.ndarray, own_noise_hu: np.ndarray) -> np.float32:
        ratio = _fine_ratio(full_hu, own_noise_hu) / self.fine_ratio
        return np.float32(np.clip(ratio, *SLICE_GAIN_LIMITS) if math.isfinite(ratio) else 1.0)


def match_noise(simulator: DoseSimulator, slices_hu: Sequence[np.ndarray]) -> NoiseMatch:
    """Fit filter and photons to a series.

    Args:
        simulator: its geometry is kept, its photons are the trial's; give two detectors a pixel, so that sharp kernels
            fill the corners of the spectrum.
        slices_hu: square slices (N, N) in HU; only some are taken (`calibration_slices`), within the valid range.
    """
    quantum = replace(simulator, electronic_sd=0.0)
    chosen = calibration_slices(len(slices_hu))
    slices = [np.asarray(slices_hu[i], dtype=np.float32).clip(*VALID_RANGE_HU) for i in chosen]
    noises = [
        quantum.low_dose(hu, TRIAL_DOSE, np.random.default_rng(number), TRIAL_FILTER) - hu
        for number, hu in enumerate(slices)
    ]
    for tissue_hu in FLAT_TISSUES_HU:
        own, trial = flat_squares(slices, noises, SIDE, tissue_hu)
        if len(own) >= ENOUGH_REGIONS:
            break
    if len(own) < FEWEST_REGIONS:
        return _default(simulator, slices, len(own))
    c0, c1, c2, mismatch = _fit(noise_spectrum(own), noise_spectrum(trial))
    filter_name = fitted_filter_name(c1, c2)
    matched = replace(simulator, photons=simulator.photons / math.exp(c0))
    generator = np.random.default_rng(len(slices))
    ratios = [_fine_ratio(hu, matched.low_dose(hu, TRIAL_DOSE, generator, filter_name) - hu) for hu in slices]
    known = [ratio for ratio in ratios if math.isfinite(ratio)]
    return NoiseMatch(
        simulator=matched,
        filter_name=filter_name,
        mismatch=mismatch,
        regions=len(own),
        fine_ratio=float(np.median(known)) if known else math.nan,
    )


def fine_noise_hu(image_hu: np.ndarray, mask: np.ndarray) -> float:
    """SD of the finest grain of an image within `mask`, in HU: robust, of what a Gaussian of 0.8 pixels takes away."""
    image = np.asarray(image_hu, dtype=np.float32)
    return float(1.4826 * np.median(np.abs(image - gaussian_filter(image, 0.8))[mask])) if mask.any() else math.nan


def _fine_ratio(full_hu: np.ndarray, own_noise_hu: np.ndarray) -> float:
    """Noise of a slice over that simulated for it in the finest grain; NaN with under 2000 pixels of soft tissue."""
    mask = tissue_mask(full_hu, "soft tissue")
    if mask.sum() < 2000:
        return math.nan
    simulated = fine_noise_hu(own_noise_hu, mask)
    return fine_noise_hu(full_hu, mask) / simulated if simulated > 0.0 else math.nan


def _default(simulator: DoseSimulator, slices_hu: Sequence[np.ndarray], regions: int) -> NoiseMatch:
    try:
        calibrated = calibrate_on_series(simulator, slices_hu, DEFAULT_FILTER)
        note = f"only {regions} flat regions, so no spectrum: the default filter, photons by the local SD"
    except ValueError:
        calibrated = replace(simulator, photons=DEFAULT_PHOTONS)
        note = "no flat tissue, so no spectrum and no noise: the default filter and photons"
    return NoiseMatch(simulator=calibrated, filter_name=DEFAULT_FILTER, regions=regions, note=note)


def _fit(own: np.ndarray, trial: np.ndarray) -> tuple[float, float, float, float]:
    """c0, c1, c2 of the module's formula, and the mismatch."""
    fits = []
    for begin in BAND_BEGINS:
        fits.append(_fit_band(own, trial, begin))
        if fits[-1][-1] <= GOOD_MISMATCH:
            return fits[-1]
    return min(fits, key=lambda fit: fit[-1])


def _fit_band(own: np.ndarray, trial: np.ndarray, begin: float) -> tuple[float, float, float, float]:
    """The same from one frequency on, by least squares in the logarithm, rings weighted by their noise."""
    frequency = ring_frequencies()
    band = (frequency >= begin) & (frequency <= BAND_ENDS)
    own, trial, frequency = own[band], trial[band], frequency[band]
    weight = np.sqrt(own * frequency)
    weight = weight / weight.max() + 0.05
    share = frequency / 0.5
    terms = np.stack([np.ones_like(share), share**2, share**4], -1)
    solved = np.linalg.lstsq(terms * weight[:, None], np.log(own / trial) * weight, rcond=None)[0]
    fitted = np.exp(terms @ solved) * trial
    mismatch = np.abs(fitted - own) @ frequency / (own @ frequency)
    return (*map(float, solved), float(mismatch))
