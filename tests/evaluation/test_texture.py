"""The noise power spectrum against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scripts.dose.image_noise import without_trend
from scripts.evaluation.texture import noise_power_spectrum, noise_power_spectrum_2d

SPACING_MM = 0.7


def white(sd=20.0, shape=(200, 4, 32, 32), seed=0):
    return np.random.default_rng(seed).normal(0.0, sd, shape)


def test_the_mean_frequency_of_white_noise_is_half_the_nyquist_frequency():
    assert noise_power_spectrum(white(), SPACING_MM)["mean_frequency_per_mm"] == pytest.approx(
        0.25 / SPACING_MM, rel=0.07
    )


@pytest.mark.parametrize("detrend", [np.asarray, without_trend])
def test_the_spectrum_of_white_noise_is_flat_at_variance_times_pixel_area(detrend):
    nps = noise_power_spectrum(detrend(white()), SPACING_MM)
    radial = np.array(nps["nps_hu2_mm2"])
    # away from the lowest frequencies, which a surface of second order takes with it
    np.testing.assert_allclose(radial[3:], 400.0 * SPACING_MM**2, rtol=0.05)
    assert nps["frequency_per_mm"][-1] == pytest.approx(0.5 / SPACING_MM)


def test_the_spectrum_integrates_to_the_variance():
    noise = gaussian_filter(white(shape=(50, 3, 32, 32)), (0, 0, 1, 1))
    spectrum = noise_power_spectrum_2d(noise, SPACING_MM)
    integral = spectrum.sum() / (32 * SPACING_MM) ** 2
    assert integral == pytest.approx((noise**2).mean())
    assert noise_power_spectrum(noise, SPACING_MM)["sd_hu"] == pytest.approx(math.sqrt(integral))


def test_filtered_noise_has_the_square_of_the_filters_transfer_function():
    sigma = 1.2
    noise = gaussian_filter(white(shape=(100, 1, 96, 96)), (0, 0, sigma, sigma), mode="wrap")
    nps = noise_power_spectrum(noise, SPACING_MM)
    frequency = np.array(nps["frequency_per_mm"])
    expected = 400.0 * SPACING_MM**2 * np.exp(-2 * (np.pi * sigma * SPACING_MM * frequency) ** 2) ** 2
    # the lowest bins hold too few frequencies to tell from their own scatter
    np.testing.assert_allclose(nps["nps_hu2_mm2"][4:], expected[4:], atol=0.04 * expected[0])


def test_peak_and_mean_frequency_of_band_limited_noise():
    size, peak = 64, 12
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size))) * size
    band = np.exp(-(((frequency - peak) / 3) ** 2))
    noise = np.fft.ifft2(np.fft.fft2(white(shape=(40, 2, size, size))) * band).real
    nps = noise_power_spectrum(noise, SPACING_MM)
    bin_per_mm = 1 / (size * SPACING_MM)
    assert nps["peak_frequency_per_mm"] == pytest.approx(peak * bin_per_mm, abs=1.5 * bin_per_mm)
    assert nps["mean_frequency_per_mm"] == pytest.approx(peak * bin_per_mm, rel=0.03)


def test_structure_is_no_noise():
    y, x = np.mgrid[:32, :32] / 32.0
    cup = 100.0 + 30.0 * x - 20.0 * y + 50.0 * x * x - 15.0 * x * y + 25.0 * y * y
    assert noise_power_spectrum(without_trend(np.broadcast_to(cup, (2, 32, 32))), 1.0)["sd_hu"] < 1e-9


def test_no_noise_has_no_frequency():
    nps = noise_power_spectrum(np.zeros((2, 1, 16, 16)), 1.0)
    assert nps["sd_hu"] == 0.0 and math.isnan(nps["peak_frequency_per_mm"]) and math.isnan(nps["mean_frequency_per_mm"])


@pytest.mark.parametrize("shape", [(16, 16), (4, 16, 18)])
def test_what_is_no_squares_is_refused(shape):
    with pytest.raises(ValueError, match=r"must be \(regions, N, N\), got"):
        noise_power_spectrum(np.zeros(shape), 1.0)
