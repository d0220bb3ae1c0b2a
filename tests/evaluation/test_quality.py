"""PSNR, SSIM, RMSE, bias and edge widths against scikit-image and analytic cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.special import ndtr
from scripts.dose.image_noise import TISSUES_HU
from scripts.errors import BioAttError
from scripts.evaluation import image_quality, tissue_bias
from scripts.evaluation.figures import picture_rows
from scripts.evaluation.quality import METRICS, UNWINDOWED, slice_measures
from scripts.hu import WINDOWS_HU
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from studies.measures.edges import POSITIONS, edge_width, find_edge_lines


def anatomy(seed=0, shape=(72, 96)):
    """A slice with values on both sides of every window's ends, and a noisy copy of it."""
    generator = np.random.default_rng(seed)
    full = gaussian_filter(generator.normal(size=shape), 4)
    full = 40.0 + 600.0 * full / full.std()
    return full + generator.normal(0.0, 25.0, shape), full


def test_a_constant_error_has_its_known_rmse_and_psnr():
    full = np.full((32, 32), 40.0)
    quality = image_quality(full + 8.0, full)
    assert quality["rmse_hu"] == pytest.approx(8.0)
    assert quality["psnr_db"] == pytest.approx(20 * math.log10(400 / 8))


@pytest.mark.parametrize("window", sorted(WINDOWS_HU))
def test_every_window_agrees_with_scikit_image(window):
    image, full = anatomy()
    lower, upper = WINDOWS_HU[window]
    width = upper - lower
    # scikit-image takes values as they are: those of the window, from 0
    shown, wanted = (x.clip(lower, upper) - lower for x in (image, full))
    quality = image_quality(image, full, window)
    assert quality["rmse_hu"] == pytest.approx(np.sqrt(np.mean((shown - wanted) ** 2)), rel=1e-6)
    assert quality["psnr_db"] == pytest.approx(peak_signal_noise_ratio(wanted, shown, data_range=width), rel=1e-6)
    ssim = structural_similarity(
        wanted, shown, data_range=width, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert quality["ssim"] == pytest.approx(ssim, abs=2e-5) and ssim < 0.999


def test_ssim_of_two_constants_is_its_luminance_term():
    # grey values 0.6 and 0.5 of the window, without structure: (2 xy + c1) / (x^2 + y^2 + c1); MONAI counts in float32
    got = image_quality(np.full((32, 32), 80.0), np.full((32, 32), 40.0))["ssim"]
    assert got == pytest.approx((2 * 0.6 * 0.5 + 1e-4) / (0.6**2 + 0.5**2 + 1e-4), abs=2e-4)


def test_what_lies_outside_the_window_does_not_count():
    full = np.full((32, 32), -900.0)
    assert image_quality(full + 300.0, full)["rmse_hu"] == 0.0
    assert image_quality(full + 300.0, full)["psnr_db"] == math.inf
    assert image_quality(full + 300.0, full, "lung")["rmse_hu"] == pytest.approx(300.0)
    assert image_quality(np.full((32, 32), 4000.0), full, "full_range")["rmse_hu"] == pytest.approx(3071 + 900)


def test_unknown_metrics_and_windows_are_errors_that_name_those_known():
    image, full = anatomy()
    with pytest.raises(BioAttError, match="windows: 'skin' is unknown; name some of abdomen, lung, brain, full_range"):
        image_quality(image, full, "skin")
    with pytest.raises(BioAttError, match="metrics: 'psrn' is unknown; name some of psnr, ssim, rmse"):
        image_quality(image, full, metrics=["psrn", "ssim"])


def test_ssim_falls_with_noise_and_is_one_for_the_same_image():
    generator = np.random.default_rng(0)
    full = gaussian_filter(generator.normal(size=(64, 64)), 3) * 300
    values = [image_quality(full + sd * generator.normal(size=full.shape), full)["ssim"] for sd in (0, 10, 40)]
    assert values[0] == pytest.approx(1.0) and values[0] > values[1] > values[2]


def quarters(*values):
    """A slice of 96x96 whose quarters have these HU."""
    return np.block(
        [[np.full((48, 48), values[0]), np.full((48, 48), values[1])]]
        + [[np.full((48, 48), values[2]), np.full((48, 48), values[3])]]
    )


FOUR_TISSUES = quarters(-850.0, -100.0, 40.0, 700.0)


def test_a_known_shift_of_each_tissue_is_its_bias():
    noise = np.random.default_rng(0).normal(0.0, 15.0, (4, 48, 48))
    full = np.array([-850.0, -100.0, 40.0, 700.0])[:, None, None] + noise
    bias = tissue_bias(full + np.array([3.0, -2.0, 1.5, -20.0])[:, None, None], full)
    assert {tissue: one.mean_hu for tissue, one in bias.items()} == pytest.approx(
        {"lung": 3.0, "fat": -2.0, "soft tissue": 1.5, "bone": -20.0}
    )
    assert all(one.pixels == 48 * 48 for one in bias.values())


def test_noise_that_is_taken_away_is_no_bias():
    noise = np.random.default_rng(0).normal(0.0, 15.0, FOUR_TISSUES.shape)
    bias = tissue_bias(FOUR_TISSUES, FOUR_TISSUES + noise)
    # a mask on noisy pixels instead of their means would move fat by HU: its range is three of these SDs wide
    assert all(abs(one.mean_hu) < 4 * 15.0 / math.sqrt(one.pixels) for one in bias.values())


def test_bias_of_a_stack_is_that_of_its_pixels_and_nan_without_any():
    stack = np.stack([np.full((32, 32), 40.0), np.full((32, 32), -100.0)])
    bias = tissue_bias(stack + np.array([1.0, 5.0])[:, None, None], stack)
    assert bias["soft tissue"] == (pytest.approx(1.0), 1024) and bias["fat"] == (pytest.approx(5.0), 1024)
    assert bias["bone"].pixels == 0 and math.isnan(bias["bone"].mean_hu)


def test_slice_measures_have_all_metrics_of_each_image_and_window():
    full = FOUR_TISSUES
    low, out = full + 4.0, full + 1.0
    measured = slice_measures({"low": low, "out": out}, full, METRICS, ("abdomen", "lung"))
    windowed = {name + window for window in ("", "_lung") for name in ("psnr_db", "ssim", "rmse_hu")}
    assert measured["low"].keys() == windowed | {"noise_sd_hu", *UNWINDOWED["bias"]}
    assert measured["out"]["bias_soft_tissue_hu"] == pytest.approx(1.0)
    assert measured["low"]["rmse_hu_lung"] == image_quality(low, full, "lung")["rmse_hu"]
    assert measured["low"]["noise_sd_hu"] == pytest.approx(0.0, abs=1e-3)


def test_a_few_pixels_of_a_tissue_measure_no_bias():
    full = np.full((64, 64), 40.0)
    full[20:36, 20:36] = -100.0
    assert 0 < tissue_bias(full, full)["fat"].pixels < 200
    measured = slice_measures({"low": full}, full, ("bias",))["low"]
    assert measured["bias_soft_tissue_hu"] == 0.0
    assert all(math.isnan(measured[f"bias_{t}_hu"]) for t in ("fat", "lung", "bone"))


def test_the_bias_measures_are_named_after_the_tissues():
    assert UNWINDOWED["bias"] == ("bias_lung_hu", "bias_fat_hu", "bias_soft_tissue_hu", "bias_bone_hu")
    assert len(TISSUES_HU) == 4


@pytest.mark.parametrize("sigma", [0.8, 1.5])
def test_the_edge_width_of_a_blurred_step_is_that_of_the_gaussian(sigma):
    profile = -1000 + 1040 * ndtr(POSITIONS / sigma)
    assert edge_width(profile) == pytest.approx(2 * 1.2816 * sigma, rel=0.02)


def test_a_profile_that_does_not_rise_has_no_width():
    assert math.isnan(edge_width(np.full(len(POSITIONS), 3.0)))
    assert math.isnan(edge_width(-POSITIONS))


def disc(radius, inside, outside, sigma):
    rows, columns = np.ogrid[:128, :128]
    image = np.where((rows - 64) ** 2 + (columns - 64) ** 2 < radius**2, inside, outside).astype(float)
    return gaussian_filter(image, sigma)


@pytest.mark.parametrize(("edge", "inside", "outside"), [("body", 0.0, -1000.0), ("bone", 900.0, 30.0)])
def test_edges_are_found_and_measured_on_an_image(edge, inside, outside):
    widths = []
    for sigma in (1.0, 2.0):
        image = disc(40, inside, outside, sigma)
        lines = find_edge_lines(image, edge)
        assert len(lines.rows) > 100
        widths.append(edge_width(lines.profiles(image).mean(axis=0)))
    # pixels and interpolation widen the step a little
    assert widths[0] == pytest.approx(2.563 * 1.0, rel=0.15) and widths[1] == pytest.approx(2.563 * 2.0, rel=0.1)


def test_no_edge_gives_no_lines():
    assert find_edge_lines(np.full((64, 64), 40.0), "body").rows.shape == (0, len(POSITIONS))


def test_the_comparison_figure_is_a_picture(tmp_path):
    image = disc(40, 40.0, -1000.0, 1.0)
    picture_rows(tmp_path / "x.png", {"": {"a": image, "b": image + 5}}, ("a", "b"))
    assert (tmp_path / "x.png").read_bytes()[:4] == b"\x89PNG"
