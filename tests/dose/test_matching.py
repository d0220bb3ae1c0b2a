"""Noise matched to a series: the filter and the photons that made a series' noise are found again."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scripts.dose import DoseSimulator, ParallelBeam, match_noise
from scripts.dose.filters import filter_window, fitted_filter_name
from scripts.dose.matching import DEFAULT_FILTER, DEFAULT_PHOTONS

N = 160
GEOMETRY = ParallelBeam(views=240, spacing_mm=1.5, detectors_per_pixel=2)


def water(radius_mm: float = 105.0) -> np.ndarray:
    rows, columns = np.ogrid[:N, :N]
    return np.where(np.hypot(rows - N // 2, columns - N // 2) * 1.5 < radius_mm, 40.0, -1000.0).astype(np.float32)


def noisy_series(filter_name: str, photons: float, slices: int = 6) -> list[np.ndarray]:
    scanner = DoseSimulator(geometry=GEOMETRY, photons=photons, electronic_sd=0.0)
    clean = water()  # half the dose adds the noise of the whole dose
    return [scanner.low_dose(clean, 0.5, np.random.default_rng(seed), filter_name) for seed in range(slices)]


@pytest.mark.parametrize("kernel", [(-8.0, 3.0), (-3.0, 0.0), (1.5, -1.5)])
def test_filter_and_photons_of_a_series_are_found_again(kernel):
    name = fitted_filter_name(*kernel)
    match = match_noise(DoseSimulator(geometry=GEOMETRY), noisy_series(name, 3e5))
    share = np.linspace(0.24, 0.95, 20)
    # The level lies in the photons and the shape in the filter: together they are the noise spectrum.
    found = filter_window(match.filter_name)(share) ** 2 / match.simulator.photons
    wanted = filter_window(name)(share) ** 2 / 3e5
    assert np.abs(found / wanted - 1.0).mean() < 0.15
    assert match.mismatch < 0.1 and not match.note


def test_noise_has_the_variance_that_the_dose_fraction_says():
    series = noisy_series(fitted_filter_name(-5.0, 1.0), 3e5)
    match = match_noise(DoseSimulator(geometry=GEOMETRY, electronic_sd=0.0), series)
    middle = (slice(55, 105), slice(55, 105))
    own = np.mean([one[middle].var() for one in series])
    added = match.noise(series[0], [0.2, 0.2, 0.5], np.random.default_rng(9))
    assert added[:2, *middle].var() / own == pytest.approx(4.0, rel=0.2)
    assert added[2][middle].var() / own == pytest.approx(1.0, rel=0.25)
    assert abs(np.corrcoef(added[0].ravel(), added[1].ravel())[0, 1]) < 0.1


def test_slice_with_more_noise_than_its_series_gets_more():
    quiet, loud = (noisy_series("even:-5:1", photons) for photons in (4e5, 2e5))
    match = match_noise(DoseSimulator(geometry=GEOMETRY), quiet)
    middle = (slice(55, 105), slice(55, 105))
    sd = [match.noise(one[0], [0.5], np.random.default_rng(3))[0][middle].std() for one in (quiet, loud)]
    assert sd[1] / sd[0] == pytest.approx(math.sqrt(2.0), rel=0.1)


def test_fine_detectors_fill_the_corners_of_the_spectrum():
    noise = [
        DoseSimulator(geometry=ParallelBeam(views=240, spacing_mm=1.5, detectors_per_pixel=d)).low_dose(
            water(), 0.5, np.random.default_rng(0), "even:0:0"
        )[48:112, 48:112]
        for d in (1, 2)
    ]
    axis = np.fft.fftfreq(64)
    corner = np.hypot(*np.meshgrid(axis, axis)) > 0.55
    one, two = (np.abs(np.fft.fft2((x - x.mean()) * np.outer(np.hanning(64), np.hanning(64)))) ** 2 for x in noise)
    assert one[corner].sum() < 0.02 * one.sum()
    assert two[corner].sum() > 0.1 * two.sum()


def test_series_without_tissue_says_so_and_takes_the_defaults():
    match = match_noise(DoseSimulator(geometry=GEOMETRY), [np.full((N, N), -1000.0, np.float32)] * 3)
    assert match.filter_name == DEFAULT_FILTER and match.simulator.photons == DEFAULT_PHOTONS
    assert "no spectrum" in str(match) and math.isnan(match.mismatch)
