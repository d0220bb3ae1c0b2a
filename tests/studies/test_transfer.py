"""Transfer function and phantom against closed forms; a network's texture end to end."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scripts.dose import DoseSimulator, ParallelBeam

from studies.measures.phantoms import rod_phantom
from studies.measures.transfer import _noises, measure_texture, task_transfer_function

SPACING_MM = 0.7


def blurred_disc(sigma_mm, radius_mm=12.5, contrast_hu=100.0, fine=8, size=64):
    """A disc drawn eight times as fine, blurred in the plane, and sampled at the pixels' centres; and its centre."""
    y, x = (np.mgrid[: size * fine, : size * fine] - size * fine / 2) * SPACING_MM / fine
    row, column = 1.3 * SPACING_MM, -0.4 * SPACING_MM
    disc = contrast_hu * (np.hypot(y - row, x - column) < radius_mm)
    image = gaussian_filter(disc.astype(float), sigma_mm / SPACING_MM * fine)[::fine, ::fine]
    return image, (size / 2 + 1.3, size / 2 - 0.4)


@pytest.mark.parametrize("sigma_mm", [0.5, 0.8, 1.0])
def test_a_gaussian_blurred_disc_has_the_transfer_function_of_the_gaussian(sigma_mm):
    image, center = blurred_disc(sigma_mm)
    ttf = task_transfer_function(image, [center], 12.5, SPACING_MM)
    frequency = np.array(ttf["frequency_per_mm"])
    np.testing.assert_allclose(ttf["ttf"], np.exp(-2 * (np.pi * sigma_mm * frequency) ** 2), atol=0.03)
    assert ttf["ttf50_per_mm"] == pytest.approx(math.sqrt(math.log(2) / 2) / (math.pi * sigma_mm), rel=0.03)
    assert ttf["ttf10_per_mm"] == pytest.approx(math.sqrt(math.log(10) / 2) / (math.pi * sigma_mm), rel=0.05)
    assert ttf["contrast_hu"] == pytest.approx(100.0, rel=0.01)


def test_the_sign_of_the_contrast_does_not_matter():
    image, center = blurred_disc(0.7)
    bright, dark = (task_transfer_function(x, [center], 12.5, SPACING_MM) for x in (image, 40.0 - image))
    assert dark["ttf"] == pytest.approx(bright["ttf"]) and dark["contrast_hu"] == pytest.approx(-bright["contrast_hu"])


def test_without_an_edge_there_is_no_transfer_function():
    ttf = task_transfer_function(np.full((64, 64), 40.0), [(32, 32)], 12.5, SPACING_MM)
    assert math.isnan(ttf["ttf50_per_mm"]) and ttf["contrast_hu"] == 0.0


# --- phantom and network ---


def test_the_phantom_has_the_rods_it_tells_of_and_water_where_noise_is_measured():
    phantom = rod_phantom()
    assert list(phantom.centers) == [14.0, 60.0, 120.0, 300.0]
    for contrast, centers in phantom.centers.items():
        assert len(centers) == 3
        for row, column in centers:
            assert phantom.image_hu[round(row), round(column)] == pytest.approx(contrast)
        ttf = task_transfer_function(phantom.image_hu, centers, phantom.radius_mm, phantom.spacing_mm)
        expected = np.exp(-2 * (np.pi * phantom.edge_sd_mm * np.array(ttf["frequency_per_mm"])) ** 2)
        np.testing.assert_allclose(ttf["ttf"], expected, atol=0.01)
    assert np.abs(phantom.rois(phantom.image_hu)).max() < 1e-3 and phantom.rois(phantom.image_hu).shape[0] == 4
    assert phantom.image_hu[0, 0] == -1000.0


@pytest.mark.parametrize("settings", [{"diameter_mm": 400.0}, {"rods_per_contrast": 12}, {"rod_radius_mm": 40.0}])
def test_a_phantom_that_does_not_fit_is_refused(settings):
    with pytest.raises(ValueError, match="do not fit into a cylinder"):
        rod_phantom(**settings)


PHANTOM = rod_phantom(192, 1.0, diameter_mm=180.0, rods_per_contrast=2, rod_radius_mm=10.0, edge_sd_mm=0.9)
SIMULATOR = DoseSimulator(geometry=ParallelBeam(views=120, spacing_mm=1.0), photons=1e5, electronic_sd=0.0)


def texture(network, **settings):
    return measure_texture(network, SIMULATOR, phantom=PHANTOM, **({"realisations": 4} | settings))


def test_doing_nothing_changes_no_texture():
    result = texture(lambda image: image)
    assert result["nps"]["low"] == result["nps"]["denoised"]
    assert result["ttf"].keys() == {"14", "60", "120", "300"}
    for one in result["ttf"].values():
        assert one["denoised"]["ttf"] == pytest.approx(one["low"]["ttf"], abs=1e-3)
        assert one["low"]["ttf50_per_mm"] == pytest.approx(math.sqrt(math.log(2) / 2) / (math.pi * 0.9), rel=0.02)


def test_a_blur_is_measured_as_that_blur_at_every_contrast():
    sigma = 1.2
    result = texture(lambda stack: gaussian_filter(stack, (0, sigma, sigma)), realisations=8)
    for contrast, one in result["ttf"].items():
        expected = math.sqrt(math.log(2) / 2) / (math.pi * math.hypot(0.9, sigma))
        assert one["denoised"]["ttf50_per_mm"] == pytest.approx(expected, rel=0.03)
        assert one["denoised"]["contrast_hu"] == pytest.approx(float(contrast), rel=0.02)
    before, after = (np.array(result["nps"][name]["nps_hu2_mm2"]) for name in ("low", "denoised"))
    transfer = np.exp(-2 * (np.pi * sigma * np.array(result["nps"]["low"]["frequency_per_mm"])) ** 2)
    # a blur brings noise into a region from around it, so few realisations agree only roughly
    np.testing.assert_allclose(after[1:], (before * transfer**2)[1:], atol=0.08 * before.max())
    assert result["nps"]["denoised"]["mean_frequency_per_mm"] < result["nps"]["low"]["mean_frequency_per_mm"]


def test_a_network_that_spares_only_strong_edges_shows_it():
    """Blurs what differs from its blur by less than 100 HU: noise and low contrast, not the rod of 300 HU."""

    def sparing(stack):
        blurred = gaussian_filter(stack, (0, 1.5, 1.5))
        return np.where(np.abs(gaussian_filter(stack, (0, 0.5, 0.5)) - blurred) < 40.0, blurred, stack)

    ttf = texture(sparing)["ttf"]
    loss = {contrast: one["denoised"]["ttf50_per_mm"] / one["low"]["ttf50_per_mm"] for contrast, one in ttf.items()}
    assert loss["14"] < 0.7 and loss["300"] > loss["14"] + 0.1


def test_the_noise_is_that_of_the_dose_that_is_asked_for():
    full, quarter = (texture(lambda x: x, dose_fraction=k, realisations=6)["nps"]["low"]["sd_hu"] for k in (1.0, 0.25))
    assert quarter / full == pytest.approx(2.0, rel=0.08), "quantum noise goes as one over the root of the dose"


def test_the_full_dose_has_its_own_noise_of_the_same_texture():
    nps = texture(lambda x: x, realisations=8)["nps"]
    assert nps["low"]["sd_hu"] / nps["full"]["sd_hu"] == pytest.approx(2.0, rel=0.08)
    assert nps["full"]["mean_frequency_per_mm"] == pytest.approx(nps["low"]["mean_frequency_per_mm"], rel=0.05)


def test_a_shift_of_hu_is_found_where_it_is():
    """Adds 3 HU everywhere and takes a tenth off the rods, which the mask of the rods finds as 3 HU less that tenth."""
    result = texture(lambda stack: stack + 3.0 - 0.1 * PHANTOM.rods_hu)
    assert result["bias_hu"] == {
        "0": pytest.approx(3.0, abs=1e-3),
        **{f"{c:g}": pytest.approx(3.0 - 0.1 * c, abs=0.02) for c in (14.0, 60.0, 120.0, 300.0)},
    }


def test_the_result_is_json_and_the_seed_decides_it():
    one, same, other = (json.dumps(texture(lambda x: x, realisations=2, seed=seed)) for seed in (1, 1, 2))
    assert one == same != other


def test_another_spacing_is_refused():
    simulator = DoseSimulator(geometry=ParallelBeam(views=10, spacing_mm=0.7))
    with pytest.raises(ValueError, match="must have one spacing, got 1.0 and 0.7 mm"):
        measure_texture(lambda x: x, simulator, phantom=PHANTOM)


def test_intervals_hold_the_figure_and_narrow_with_more_realisations():
    def blur(stack):
        return gaussian_filter(stack, (0, 1.2, 1.2))

    few, many = (texture(blur, realisations=count, bands_per_mm=((0.0, 0.1), (0.1, 0.3))) for count in (4, 16))
    for result in (few, many):
        of = result["intervals_95"]
        for name, one in result["nps"].items():
            for key, (lower, upper) in of["nps"][name].items():
                assert lower - 1e-6 <= one[key] <= upper + 1e-6 and lower < upper or key.startswith("peak")
        for contrast, (lower, upper) in of["ttf50_per_mm"].items():
            assert lower - 1e-3 <= result["ttf"][contrast]["denoised"]["ttf50_per_mm"] <= upper + 1e-3
        assert all(lower <= result["bias_hu"][contrast] <= upper for contrast, (lower, upper) in of["bias_hu"].items())
        assert len(of["bands"]) == 2 and of["bands"][0][0] > of["bands"][1][1], "a blur passes the low band"
    widths = [np.ptp(result["intervals_95"]["nps"]["denoised"]["sd_hu"]) for result in (few, many)]
    assert widths[1] < widths[0]


def test_what_all_realisations_show_is_no_noise():
    noise = np.random.default_rng(0).normal(0.0, 20.0, (60, 2, 32, 32))
    edge = np.where(np.arange(32) > 16, 1000.0, 0.0)
    np.testing.assert_allclose(_noises(noise + edge), _noises(noise), atol=1e-9)
    assert _noises(noise).var() == pytest.approx(noise.var(axis=0, ddof=1).mean())
    with pytest.raises(ValueError, match="at least two realisations"):
        _noises(noise[:1])
