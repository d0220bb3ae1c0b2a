"""Projection and reconstruction are inverse; the added noise has the variance, mean and texture of the physics."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scripts.dose import DoseSimulator, ParallelBeam, added_noise_sinogram, calibrate_on_series
from scripts.dose.filters import WINDOWS, filter_response, filter_window
from scripts.dose.geometry import inscribed_circle
from scripts.dose.image_noise import flat_soft_tissue, noise_sd_hu

N = 128
Y, X = np.mgrid[:N, :N] - N // 2
RADIUS = np.hypot(X, Y)
CIRCLE = inscribed_circle((N, N))
GEOMETRY = ParallelBeam(views=180, spacing_mm=2.5)  # 128 pixels of 2.5 mm hold a cylinder of 30 cm


def rng(seed=0):
    """A seeded generator."""
    return np.random.default_rng(seed)


def cylinder_hu(diameter_mm=300.0, hu=0.0, spacing_mm=2.5):
    """A cylinder in air."""
    return np.where(RADIUS * spacing_mm <= diameter_mm / 2, hu, -1000.0)


def smooth_hu():
    """A wide bump of +50 HU at most beside a low one of the lung's density, both smooth to their ends, in air."""

    def bump(x, y, radius):
        distance = np.hypot(X - x, Y - y)
        return np.where(distance < radius, 0.5 + 0.5 * np.cos(np.pi * np.minimum(distance / radius, 1)), 0.0)

    return -1000.0 + 1000.0 * bump(-8, 4, 50) + 300.0 * bump(20, -18, 32)


# --- projection and reconstruction ---


@pytest.mark.parametrize("filter_name", ["ramp", "hann"])
def test_reconstruction_inverts_projection(filter_name):
    image = smooth_hu()
    back = GEOMETRY.reconstruct(GEOMETRY.project(image), filter_name) - 1000.0
    assert np.abs(back - image)[CIRCLE].max() < 3.0
    assert image.max() > -50.0


def test_reconstruction_is_hu_whatever_the_units_of_the_scan():
    image = smooth_hu()
    for geometry in (ParallelBeam(views=90, spacing_mm=0.5), ParallelBeam(views=90, spacing_mm=1.5, water_per_mm=0.03)):
        back = geometry.reconstruct(geometry.project(image), "ramp") - 1000.0
        assert np.abs(back - image)[CIRCLE].max() < 5.0


def test_line_integral_through_the_middle_of_water_is_its_thickness():
    sinogram = GEOMETRY.project(cylinder_hu(200.0))
    assert sinogram.shape == (N, 180)
    np.testing.assert_allclose(sinogram[N // 2], 200.0 * 0.0192, rtol=0.02)


def test_line_integrals_sum_to_the_attenuation_of_the_slice():
    image = smooth_hu()
    mass = 0.0192 * 2.5 * (image / 1000.0 + 1.0).sum()
    np.testing.assert_allclose(GEOMETRY.project(image).sum(axis=0), mass, rtol=1e-3)


def test_projection_is_linear_in_attenuation():
    a, b = cylinder_hu(150.0, -500.0), smooth_hu()
    both = (a + 1000.0) + (b + 1000.0) - 1000.0
    expected = GEOMETRY.project(a) + GEOMETRY.project(b)
    np.testing.assert_allclose(GEOMETRY.project(both), expected, atol=1e-4 * expected.max())


def test_air_padding_and_what_lies_outside_the_circle_attenuate_nothing():
    assert not GEOMETRY.project(np.full((N, N), -1000.0)).any()
    assert not GEOMETRY.project(np.full((N, N), -3024.0)).any()
    assert not GEOMETRY.project(np.where(CIRCLE, -1000.0, 2000.0)).any()


def test_projection_leaves_the_slice_as_it_was():
    image = np.full((N, N), 40.0, dtype=np.float32)
    GEOMETRY.project(image)
    assert (image == 40.0).all()


def test_reconstruction_fills_the_circle_only():
    image = GEOMETRY.reconstruct(rng().normal(size=(N, 180)))
    np.testing.assert_array_equal(image != 0, CIRCLE)


@pytest.mark.parametrize(
    "values", [{"views": 0}, {"spacing_mm": 0.0}, {"spacing_mm": float("nan")}, {"water_per_mm": -1}]
)
def test_geometry_that_measures_nothing_is_refused(values):
    with pytest.raises(ValueError, match="must be positive"):
        ParallelBeam(**values)


@pytest.mark.parametrize("pixels", [96, 101])
def test_projection_and_reconstruction_are_those_of_scikit_image(pixels):
    from skimage.transform import iradon, radon

    y, x = np.mgrid[:pixels, :pixels] - pixels // 2
    image = -1000.0 + 1200.0 * np.exp(-((x - 7) ** 2 + 2 * (y + 11) ** 2) / (2 * 13.0**2))
    ours, angles = ParallelBeam(views=60, spacing_mm=2.0), np.arange(60) * 3.0
    attenuation = (image / 1000.0 + 1.0) * 0.0192 * 2.0 * inscribed_circle(image.shape)
    theirs = radon(attenuation, theta=angles, circle=True)
    np.testing.assert_allclose(ours.project(image), theirs, atol=3e-3 * theirs.max())
    back = iradon(theirs, theta=angles, filter_name="cosine", circle=True) * 1000.0 / (0.0192 * 2.0)
    away = ours.reconstruct(theirs.astype(np.float32), "cosine") - back
    assert np.abs(away)[np.hypot(x, y) < 0.45 * pixels].max() < 3.0


def test_reconstructed_noise_has_the_energy_that_the_filter_lets_through():
    # White noise through FBP: variance = pi^2 / views * (integral of |f w|^2 over the band of the samples).
    views, noise = 180, rng().normal(size=(N, 180))
    for filter_name in ("ramp", "hann", "hann:0.5"):
        image = GEOMETRY.reconstruct(noise, filter_name) * (2.5 * 0.0192 / 1000.0)
        response = filter_response(4096, filter_name) / 2.0
        expected = np.pi**2 / views * 2 * np.sum(response**2) / 4096
        assert image[RADIUS < 0.4 * N].var() == pytest.approx(expected, rel=0.1)


# --- filters ---


@pytest.mark.parametrize("filter_name", WINDOWS)
def test_filters_are_those_of_scikit_image(filter_name):
    from skimage.transform.radon_transform import _get_fourier_filter

    theirs = _get_fourier_filter(4096, filter_name)[:2049, 0]
    # Their Hann and Hamming are half a sample off centre; their cosine is -0 at its end.
    np.testing.assert_allclose(filter_response(4096, filter_name), np.abs(theirs), atol=1e-3)


def test_cut_off_ends_the_band_of_the_noise():
    noise = rng().normal(size=(N, 180))
    whole, half = (GEOMETRY.reconstruct(noise, name)[32:96, 32:96] for name in ("hann", "hann:0.5"))
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(64), np.fft.fftfreq(64)))
    taper = np.outer(np.hanning(64), np.hanning(64))
    whole, half = (np.abs(np.fft.fft2(one * taper)) ** 2 for one in (whole, half))
    assert half[frequency > 0.3].sum() < 1e-3 * half.sum() < whole[frequency > 0.3].sum()
    assert half.sum() < 0.3 * whole.sum()


@pytest.mark.parametrize(
    "filter_name", ["box", "hann:0", "hann:1.1", "hann:wide", "hann:", "hann:nan", "even:1", "even:1:x"]
)
def test_unknown_filter_or_cut_off_is_refused(filter_name):
    with pytest.raises(ValueError, match=r"filter_name must be one of ramp, .* a cut-off in \(0, 1\]"):
        filter_window(filter_name)
    with pytest.raises(ValueError, match="filter_name must be one of"):
        GEOMETRY.reconstruct(np.zeros((16, 180)), filter_name)


@pytest.mark.parametrize("shape", [(64, 48), (48, 64)])
def test_slice_that_is_not_square_is_refused(shape):
    with pytest.raises(ValueError, match=f"must be square, got {shape[0]}x{shape[1]}"):
        GEOMETRY.project(np.zeros(shape))
    with pytest.raises(ValueError, match="must be square"):
        DoseSimulator(geometry=GEOMETRY).low_dose(np.zeros(shape), 0.5, rng())


# --- noise of the line integrals ---

COUNT = 200_000
SPREAD = np.sqrt(2 / COUNT)  # relative SD of a variance estimated from COUNT normal samples


@pytest.mark.parametrize("line_integral", [0.0, 2.0])
@pytest.mark.parametrize("dose_fraction", [0.1, 0.25, 0.5, 0.9])
def test_quantum_noise_adds_the_difference_of_the_doses(dose_fraction, line_integral):
    noise = added_noise_sinogram(np.full(COUNT, line_integral), dose_fraction, 1e5, 0.0, rng())
    photons = 1e5 * np.exp(-line_integral)
    variance = (1 / dose_fraction - 1) / photons
    assert noise.var() == pytest.approx(variance, rel=5 * SPREAD + 2 * variance)
    assert noise.mean() == pytest.approx(0.0, abs=5 * np.sqrt(variance / COUNT) + variance**2)


@pytest.mark.parametrize("dose_fraction", [0.1, 0.25, 0.5, 0.9])
def test_electronic_noise_adds_its_own_term(dose_fraction):
    photons, electronic_sd = 1e5 * np.exp(-2.0), 60.0
    noise = added_noise_sinogram(np.full(COUNT, 2.0), dose_fraction, 1e5, electronic_sd, rng())
    quantum = (1 / dose_fraction - 1) / photons
    electronic = electronic_sd**2 * (1 / dose_fraction**2 - 1) / photons**2
    assert electronic > 0.4 * quantum, "the term must be large enough to be seen"
    assert noise.var() == pytest.approx(quantum + electronic, rel=5 * SPREAD + 3 * (quantum + electronic))


def test_noise_of_two_steps_adds_up_to_that_of_one():
    line_integrals = np.full(COUNT, 1.0)
    to_half = added_noise_sinogram(line_integrals, 0.5, 1e5, 20.0, rng(1))
    half_to_quarter = added_noise_sinogram(line_integrals, 0.5, 0.5e5, 20.0, rng(2))
    to_quarter = added_noise_sinogram(line_integrals, 0.25, 1e5, 20.0, rng(3))
    assert to_half.var() + half_to_quarter.var() == pytest.approx(to_quarter.var(), rel=10 * SPREAD)


def test_thicker_rays_are_noisier():
    line_integrals = np.repeat([0.0, 2.0, 4.0], 20_000).reshape(3, -1)
    sd = added_noise_sinogram(line_integrals, 0.25, 1e5, 0.0, rng()).std(axis=1)
    np.testing.assert_allclose(sd[1:] / sd[:-1], np.e, rtol=0.03)


@pytest.mark.parametrize("gap", [1e-6, 1e-13, 2.0**-53])
def test_a_dose_next_to_full_adds_next_to_nothing(gap):
    """Beyond 9.2e18 expected counts NumPy draws none."""
    noise = added_noise_sinogram(np.full(COUNT, 2.0), 1 - gap, 1e6, 0.0, rng())
    assert np.isfinite(noise).all()
    assert np.std(noise) == pytest.approx(math.sqrt(gap / (1e6 * math.exp(-2.0))), rel=0.05, abs=1e-12)
    dim = added_noise_sinogram(np.full(COUNT, 60.0), 1 - gap, 1e15, 0.0, rng())
    assert np.isfinite(dim).all(), "bright and dim rays stand side by side"


def test_full_dose_adds_exactly_nothing():
    noise = added_noise_sinogram(np.full((7, 5), 3.0, dtype=np.float32), 1.0, 1e5, 10.0, rng())
    assert noise.shape == (7, 5) and noise.dtype == np.float32 and not noise.any()
    image = cylinder_hu().astype(np.float32)
    assert np.array_equal(DoseSimulator(geometry=GEOMETRY).low_dose(image, 1.0, rng()), image)


@pytest.mark.parametrize("dose_fraction", [0.1, 0.25, 0.5])
@pytest.mark.parametrize("expected", [10.0, 30.0, 100.0, 1000.0])
def test_logarithm_biases_lit_rays_by_under_a_twentieth_of_the_noise(dose_fraction, expected):
    # `expected` are the photons of the added noise: k / (1 - k) of the full dose.
    line_integral = np.log(1e5 * dose_fraction / (1 - dose_fraction) / expected)
    noise = added_noise_sinogram(np.full(COUNT, line_integral), dose_fraction, 1e5, 1.0, rng())
    assert abs(noise.mean()) < noise.std() * (0.05 + 3 / np.sqrt(COUNT))


@pytest.mark.parametrize("dose_fraction", [0.1, 0.25, 0.5])
@pytest.mark.parametrize("electronic_sd", [0.0, 1.0, 10.0, 30.0])
@pytest.mark.parametrize("expected", [3.0, 10.0, 30.0, 100.0])
def test_bias_of_starved_rays_stays_well_below_their_noise(dose_fraction, electronic_sd, expected):
    line_integral = np.log(1e5 * dose_fraction / (1 - dose_fraction) / expected)
    noise = added_noise_sinogram(np.full(20_000, line_integral), dose_fraction, 1e5, electronic_sd, rng())
    assert abs(noise.mean()) < 0.5 * noise.std()


@pytest.mark.parametrize("electronic_sd", [0.0, 10.0])
def test_rays_without_photons_stay_finite(electronic_sd):
    line_integrals = np.array([[0.0, 10.0, 30.0, 100.0, 300.0]], dtype=np.float32).repeat(50, 0)
    noise = added_noise_sinogram(line_integrals, 0.1, 1e3, electronic_sd, rng())
    assert np.isfinite(noise).all()
    metal = np.where(RADIUS < 20, 30_000.0, cylinder_hu())
    simulator = DoseSimulator(geometry=GEOMETRY, photons=100.0, electronic_sd=electronic_sd)
    assert np.isfinite(simulator.low_dose(metal, 0.1, rng())).all()


def test_seed_decides_the_noise():
    simulator, image = DoseSimulator(geometry=GEOMETRY), cylinder_hu()
    one, same, other = (simulator.low_dose(image, 0.25, rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert (one != other)[CIRCLE].mean() > 0.99


def test_global_state_of_numpy_is_left_alone():
    before = np.random.get_state()[1].copy()
    added_noise_sinogram(np.ones(100), 0.5, 1e4, 1.0, rng())
    assert np.array_equal(np.random.get_state()[1], before)


@pytest.mark.parametrize("dose_fraction", [0.0, -0.1, 1.01, float("nan")])
def test_impossible_dose_is_refused(dose_fraction):
    with pytest.raises(ValueError, match=r"dose_fraction must be in \(0, 1\], got"):
        added_noise_sinogram(np.zeros(3), dose_fraction, 1e5, 0.0, rng())


@pytest.mark.parametrize(("photons", "electronic_sd"), [(0.0, 1.0), (-1.0, 1.0), (float("nan"), 1.0), (1e5, -1.0)])
def test_impossible_scanner_is_refused(photons, electronic_sd):
    with pytest.raises(ValueError, match="photons must be > 0 and electronic_sd >= 0, got"):
        added_noise_sinogram(np.zeros(3), 0.5, photons, electronic_sd, rng())


# --- noise of the slice ---


@pytest.mark.parametrize("dose_fraction", [0.1, 0.25, 0.5])
def test_low_dose_keeps_the_mean_of_a_water_cylinder(dose_fraction):
    simulator, water = DoseSimulator(geometry=GEOMETRY), cylinder_hu()
    line_integrals = GEOMETRY.project(water)
    difference = np.mean(
        [simulator.low_dose(water, dose_fraction, rng(seed), "hann", line_integrals) - water for seed in range(8)],
        axis=0,
    )
    assert abs(difference[RADIUS * 2.5 < 145.0].mean()) < 1.0
    assert abs(difference[RADIUS * 2.5 < 40.0].mean()) < 1.0 + 3 * difference[RADIUS * 2.5 < 40.0].std() / 10


def test_noise_in_the_slice_grows_as_the_dose_falls():
    simulator, image = DoseSimulator(geometry=GEOMETRY, photons=4e6, electronic_sd=0.0), cylinder_hu(200.0)
    sd = [(simulator.low_dose(image, k, rng()) - image)[RADIUS < 35].std() for k in (0.5, 0.25, 0.1)]
    np.testing.assert_allclose(np.divide(sd, sd[0]) ** 2, [1.0, 3.0, 9.0], rtol=0.1)


def test_electronic_noise_in_the_slice_grows_with_the_inverse_square_of_the_dose():
    image = cylinder_hu(150.0)
    line_integrals = GEOMETRY.project(image)

    def variance(dose_fraction, electronic_sd):
        simulator = DoseSimulator(geometry=GEOMETRY, photons=1e6, electronic_sd=electronic_sd)
        lows = [simulator.low_dose(image, dose_fraction, rng(i), line_integrals=line_integrals) for i in range(4)]
        return np.var([low - image for low in lows], axis=0)[RADIUS < 25].mean()

    added = [variance(k, 800.0) - variance(k, 0.0) for k in (0.5, 0.25)]
    assert added[1] / added[0] == pytest.approx((1 / 0.25**2 - 1) / (1 / 0.5**2 - 1), rel=0.1)


def test_half_the_tube_current_is_half_the_photons():
    image = cylinder_hu(200.0)
    half = DoseSimulator(geometry=GEOMETRY, photons=4e5).low_dose(image, 0.25, rng(), tube_current=0.5)
    assert np.array_equal(half, DoseSimulator(geometry=GEOMETRY, photons=2e5).low_dose(image, 0.25, rng()))


def test_tube_current_over_the_angle_gives_each_view_its_photons():
    simulator = DoseSimulator(geometry=GEOMETRY, photons=1e5, electronic_sd=0.0)
    current = np.where(np.arange(180) < 90, 2.0, 0.5)
    # Beams run down the columns at angle 0: few photons across them give noise that lies in rows.
    noise = simulator.low_dose(cylinder_hu(), 0.25, rng(), tube_current=np.roll(current, 45)) - cylinder_hu()
    middle = noise[48:80, 48:80]
    along_rows, along_columns = (np.diff(middle, axis=axis).var() for axis in (1, 0))
    assert max(along_rows, along_columns) > 1.5 * min(along_rows, along_columns)


@pytest.mark.parametrize("current", [0.0, -1.0, float("nan"), np.array([1.0, 0.0] * 90)])
def test_tube_current_that_is_not_positive_is_refused(current):
    with pytest.raises(ValueError, match="tube_current must be positive"):
        DoseSimulator(geometry=GEOMETRY).low_dose(cylinder_hu(), 0.5, rng(), tube_current=current)


def test_line_integrals_at_hand_give_the_same_slice():
    simulator, image = DoseSimulator(geometry=GEOMETRY), cylinder_hu(200.0, 40.0)
    given = simulator.low_dose(image, 0.25, rng(), line_integrals=GEOMETRY.project(image))
    assert np.array_equal(given, simulator.low_dose(image, 0.25, rng()))
    assert given.dtype == np.float32


def test_noise_is_band_limited_and_has_no_zero_frequency():
    simulator, image = DoseSimulator(geometry=GEOMETRY), cylinder_hu(280.0, 40.0)
    line_integrals = GEOMETRY.project(image)
    power, taper = np.zeros((64, 64)), np.outer(np.hanning(64), np.hanning(64))
    for seed in range(12):
        noise = (simulator.low_dose(image, 0.25, rng(seed), "hann", line_integrals) - image)[32:96, 32:96]
        power += np.abs(np.fft.fft2(noise * taper)) ** 2
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(64), np.fft.fftfreq(64)))
    rings = [power[(frequency >= low) & (frequency < low + 0.05)].mean() for low in np.arange(0.0, 0.5, 0.05)]
    peak = int(np.argmax(rings))
    assert power[frequency < 1.5 / 64].mean() < 0.35 * rings[peak]  # what the taper lets in from the neighbours
    assert rings[0] < 0.7 * rings[1] < 0.7 * rings[2]
    assert rings[-1] < 0.05 * rings[peak]
    assert 0.05 <= 0.05 * peak <= 0.3


def test_sharper_filter_gives_more_noise():
    simulator, image = DoseSimulator(geometry=GEOMETRY), cylinder_hu()
    noise = [simulator.low_dose(image, 0.25, rng(), name) - image for name in ("hann", "ramp")]
    hann, ramp = (one[RADIUS < 50].std() for one in noise)
    assert ramp > 1.5 * hann


def test_filter_is_hann_unless_another_is_named():
    simulator, image, sinogram = DoseSimulator(geometry=GEOMETRY), cylinder_hu(200.0), rng().normal(size=(N, 180))
    assert np.array_equal(GEOMETRY.reconstruct(sinogram), GEOMETRY.reconstruct(sinogram, "hann"))
    assert np.array_equal(simulator.low_dose(image, 0.5, rng()), simulator.low_dose(image, 0.5, rng(), "hann"))


def test_starved_rays_are_counted():
    simulator = DoseSimulator(geometry=GEOMETRY, photons=1000.0)
    line_integrals = np.log([[10.0, 50.0], [150.0, 1000.0]])  # 100, 20, 6.7 and 1 photons at full dose
    shares = [simulator.starved_fraction(line_integrals, k) for k in (1.0, 0.25, 0.05)]
    assert shares == [0.5, 0.75, 1.0]
    assert simulator.starved_fraction(line_integrals, 1.0, fewest=0.5) == 0.0


def test_starved_fraction_grows_as_the_dose_falls():
    simulator = DoseSimulator(geometry=GEOMETRY, photons=4e3)
    line_integrals = GEOMETRY.project(cylinder_hu())
    shares = [simulator.starved_fraction(line_integrals, k) for k in (1.0, 0.5, 0.25, 0.1)]
    assert shares == sorted(set(shares)) and 0.0 <= shares[0] and 0.1 < shares[-1] < 1.0


@pytest.mark.parametrize("trial_photons", [3e4, 4e5])
@pytest.mark.parametrize("seed", [0, 1])
def test_calibrated_photons_explain_the_noise_of_the_slice(seed, trial_photons):
    clean = cylinder_hu(280.0, 40.0)
    noisy = DoseSimulator(geometry=GEOMETRY, photons=1e5, electronic_sd=0.0).low_dose(clean, 0.5, rng(seed))
    mask = flat_soft_tissue(noisy)
    trial = DoseSimulator(geometry=GEOMETRY, photons=trial_photons, electronic_sd=0.0)
    found = calibrate_on_series(trial, [noisy])
    added = found.low_dose(noisy, 0.5, rng(seed + 20)) - noisy
    assert noise_sd_hu(added, mask) == pytest.approx(noise_sd_hu(noisy, mask), rel=0.15)
    assert noise_sd_hu(added, mask) == pytest.approx(noise_sd_hu(noisy - clean, mask), rel=0.15)
    assert (found.geometry, found.electronic_sd) == (trial.geometry, trial.electronic_sd)


def test_calibration_keeps_the_electronic_noise_out_of_the_trial():
    quiet, loud = (DoseSimulator(geometry=GEOMETRY, photons=1e5, electronic_sd=sd) for sd in (0.0, 500.0))
    noisy = quiet.low_dose(cylinder_hu(280.0, 40.0), 0.5, rng())
    found = [calibrate_on_series(simulator, [noisy]) for simulator in (quiet, loud)]
    assert found[0].photons == found[1].photons
    assert found[1].electronic_sd == 500.0


def test_slice_without_noise_cannot_be_calibrated_on():
    with pytest.raises(ValueError, match="must have measurable noise, got an SD of"):
        calibrate_on_series(DoseSimulator(geometry=GEOMETRY), [np.full((N, N), 40.0)])


def test_photons_of_a_series_are_the_median_over_its_slices():
    clean = cylinder_hu(280.0, 40.0)
    current = [0.5, 1.0, 2.0]
    scanner = DoseSimulator(geometry=GEOMETRY, photons=1e5, electronic_sd=0.0)
    series = [scanner.low_dose(clean, 0.5, rng(i), tube_current=one) for i, one in enumerate(current)]
    trial = DoseSimulator(geometry=GEOMETRY, photons=4e5, electronic_sd=3.0)
    found = calibrate_on_series(trial, series, tube_current=current)
    assert found.photons == pytest.approx(1e5, rel=0.2)
    assert (found.geometry, found.electronic_sd) == (GEOMETRY, 3.0)
    noisiest = calibrate_on_series(trial, series[:1])
    assert noisiest.photons == pytest.approx(0.5e5, rel=0.25)


def test_series_without_soft_tissue_cannot_be_calibrated_on():
    with pytest.raises(ValueError, match="no slice shows enough flat soft tissue"):
        calibrate_on_series(DoseSimulator(geometry=GEOMETRY), [np.full((N, N), -1000.0)] * 3)
