"""Noise and tissue measured on images whose noise and tissue are known."""

from __future__ import annotations

import numpy as np
import pytest
from scripts.dose.image_noise import (
    NEIGHBOURHOOD,
    TISSUES_HU,
    flat_regions,
    flat_soft_tissue,
    local_mean,
    local_sd,
    noise_sd_hu,
    tissue_mask,
)

N, RADIUS = 128, 50
DISTANCE = np.hypot(*(np.mgrid[:N, :N] - N // 2))


def disc_hu(inside=40.0, outside=-1000.0):
    """A disc in air."""
    return np.where(DISTANCE <= RADIUS, inside, outside)


def noise_hu(sd, seed=0, shape=(N, N)):
    """White noise."""
    return np.random.default_rng(seed).normal(0.0, sd, shape)


def windows(image):
    """All whole 9x9 windows of (H, W), and where their centres are."""
    half = NEIGHBOURHOOD // 2
    return np.lib.stride_tricks.sliding_window_view(image, (9, 9)), (slice(half, -half), slice(half, -half))


def test_local_mean_and_sd_are_those_of_the_windows():
    image = noise_hu(30.0, shape=(24, 31)) + np.linspace(-1000, 1000, 31)
    view, centres = windows(image)
    np.testing.assert_allclose(local_mean(image)[centres], view.mean((2, 3)), atol=1e-3)
    np.testing.assert_allclose(local_sd(image)[centres], view.std((2, 3), ddof=1), rtol=1e-6)


def test_local_sd_of_a_constant_is_zero_not_nan():
    assert np.allclose(local_sd(np.full((20, 20), 1234.5)), 0.0, atol=1e-3)


@pytest.mark.parametrize("tissue", sorted(TISSUES_HU))
def test_tissue_is_judged_by_the_mean_of_its_neighbourhood(tissue):
    lower, upper = TISSUES_HU[tissue]
    image = noise_hu(0.2 * (upper - lower), shape=(40, 40)) + (lower + upper) / 2
    image[:, 20:] += 3 * (upper - lower)
    view, centres = windows(image)
    mean = view.mean((2, 3))
    found = tissue_mask(image, tissue)
    np.testing.assert_array_equal(found[centres], (mean >= lower) & (mean <= upper))
    # Noise takes single pixels out of the range, the mean not.
    assert found[4:36, 4:16].all()
    assert not ((image >= lower) & (image <= upper))[4:36, 4:16].all()


def test_unknown_tissue_is_refused():
    with pytest.raises(KeyError, match="water"):
        tissue_mask(disc_hu(), "water")


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("sd", [5.0, 20.0, 60.0])
def test_white_noise_on_a_soft_tissue_disc_is_measured(sd, seed):
    assert noise_sd_hu(disc_hu() + noise_hu(sd, seed)) == pytest.approx(sd, rel=0.05)


def test_measured_noise_is_the_median_over_the_mask_given():
    image = disc_hu() + noise_hu(np.where(np.arange(N) < N // 2, 10.0, 30.0))
    left = (DISTANCE < 40) & (np.arange(N) < N // 2 - 5)
    assert noise_sd_hu(image, left) == pytest.approx(10.0, rel=0.05)
    assert noise_sd_hu(image, left[:, ::-1]) == pytest.approx(30.0, rel=0.05)
    assert noise_sd_hu(image, left) == np.median(local_sd(image)[left])


def test_flat_soft_tissue_leaves_out_the_edges():
    image = disc_hu() + noise_hu(10.0)
    y, x = np.mgrid[:N, :N]
    image[np.hypot(y - 64, x - 84) < 8] = 700.0  # a bone
    image[np.hypot(y - 64, x - 44) < 8] = -100.0  # and fat
    mask = flat_soft_tissue(image)
    assert mask.sum() > 500
    assert DISTANCE[mask].max() < RADIUS - 4
    for centre in ([64, 84], [64, 44]):
        assert np.hypot(*(np.argwhere(mask) - centre).T).min() > 8 + 2


@pytest.mark.parametrize(("tissue_hu", "speck_hu"), [(0.0, 1000.0), (90.0, -1000.0)], ids=["bone", "air"])
def test_windows_with_specks_of_bone_or_air_are_not_flat_whatever_their_mean(tissue_hu, speck_hu):
    at = np.arange(N) % 8 < 2
    image = np.where(np.outer(at, at), speck_hu, tissue_hu) + noise_hu(2.0)  # no window is without a speck
    assert tissue_mask(image, "soft tissue").mean() > 0.4
    assert not flat_soft_tissue(image).any()


def test_flat_soft_tissue_is_the_flattest_quarter():
    slope = np.where(np.arange(N) < N // 2, 0.0, 1.0) * (np.arange(N) - N // 2)
    image = disc_hu(inside=30.0) + np.where(DISTANCE <= RADIUS, slope, 0.0) + noise_hu(2.0)
    mask = flat_soft_tissue(image)
    assert mask[:, : N // 2].sum() > 20 * mask[:, N // 2 + 8 :].sum()
    candidates = tissue_mask(image, "soft tissue") & (DISTANCE < RADIUS - 8)
    assert mask.sum() == pytest.approx(candidates.sum() / 4, rel=0.1)


def test_image_without_soft_tissue_gives_nothing_and_nan():
    for image in (disc_hu(inside=-850.0), np.full((N, N), -1000.0), np.full((N, N), 700.0)):
        assert not flat_soft_tissue(image).any()
        assert np.isnan(noise_sd_hu(image))


def test_a_speck_of_soft_tissue_counts_as_none():
    image = np.where(DISTANCE <= 14, 40.0, -1000.0)
    assert tissue_mask(image, "soft tissue").any()
    assert np.isnan(noise_sd_hu(image))


def test_stack_equals_its_slices():
    stack = np.stack([disc_hu() + noise_hu(5.0, 1), disc_hu(inside=60.0) + noise_hu(25.0, 2), disc_hu(inside=-850.0)])
    for measure in (local_mean, local_sd, flat_soft_tissue, lambda image: tissue_mask(image, "soft tissue")):
        np.testing.assert_array_equal(measure(stack), np.stack([measure(one) for one in stack]))
    mask = flat_soft_tissue(stack)
    assert mask[0].any() and mask[1].any() and not mask[2].any()
    assert noise_sd_hu(stack) == np.median(local_sd(stack)[mask])


def test_input_is_not_changed():
    image = disc_hu() + noise_hu(5.0)
    before = image.copy()
    noise_sd_hu(image)
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("nothing", [np.nan, -np.inf])
def test_noise_is_measured_beside_pixels_without_a_value(nothing):
    """As outside the field of view of resampled images."""
    image = disc_hu() + noise_hu(20.0)
    holed = np.where(DISTANCE > RADIUS + 10, nothing, image)
    assert noise_sd_hu(holed) == pytest.approx(noise_sd_hu(image), rel=0.02)
    assert len(flat_regions(holed, 16)) == len(flat_regions(image, 16)) > 0
