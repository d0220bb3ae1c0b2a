"""Restoring gives back blurred detail, little noise, and nothing where the network took nothing off or made it up."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy.ndimage import gaussian_filter
from scripts.evaluation.lesions import Lesion, contrast_recovery
from scripts.inference import SlicePriorInferer, anchored, restored
from scripts.strengths import STRENGTHS, choose_strength

SPACING_MM = (0.8, 0.8)
STANDARD = choose_strength()


def edges(seed=0, noise_sd=15.0, shape=(160, 160)):
    """Soft tissue with a bone and vessels, in HU, and the same with noise."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    truth = np.full(shape, 40.0)
    truth[np.hypot(rows - 60, columns - 60) < 20] = 700.0
    for row in range(100, 150, 12):
        truth[row : row + 3] = 200.0
    truth = gaussian_filter(truth, 0.7)
    return truth, truth + gaussian_filter(np.random.default_rng(seed).normal(size=shape), 0.6) * noise_sd * 2.1


def as_slices(*images):
    return [torch.as_tensor(image, dtype=torch.float32)[None] for image in images]


def restore(image, result, strength=STANDARD, spacing=SPACING_MM, inside=None):
    """`restored` on (H, W) in HU."""
    image, result = as_slices(image, result)
    inside = torch.ones_like(image, dtype=torch.bool) if inside is None else torch.as_tensor(inside)[None]
    return restored(image, result, inside, result > -300.0, spacing, strength)[0].numpy()


def test_an_edge_that_was_blurred_comes_nearer_to_the_truth():
    truth, noisy = edges()
    blurred = gaussian_filter(truth, 1.0)
    out = restore(noisy, blurred)
    near = np.abs(np.gradient(truth)[0]) > 20
    before, after = (np.sqrt(np.mean((one - truth)[near] ** 2)) for one in (blurred, out))
    assert after < 0.75 * before


def test_of_noise_that_was_taken_off_little_comes_back():
    """In even tissue the share is a tenth in the median, even if what is left looks like what was taken."""
    noise = np.random.default_rng(1).normal(size=(160, 160)) * 30.0
    half = 40.0 + 0.5 * noise  # all that was taken off looks like what is left
    out = restore(40.0 + noise, half)
    share = (out - half).std() / (half - gaussian_filter(half, 1.4 / 0.8)).std()
    assert 0.05 < share < 0.15


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_chance_brings_little_noise_back(seed):
    """Over the window, what was taken off resembles what is left by chance: the noise of even tissue grows by 6%."""
    noise = np.random.default_rng(seed).normal(size=(160, 160)) * 30.0
    result = 40.0 + gaussian_filter(noise, 1.3)
    out = restore(40.0 + gaussian_filter(noise, 0.7), result)
    assert out.std() < 1.06 * result.std()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_noise_left_beside_strong_edges_does_not_make_bone_brighter(seed):
    """There the network lets more noise through, and what is left of it resembles what was taken off."""
    truth, _ = edges()
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=truth.shape), 0.6) * 30.0
    is_edge = gaussian_filter(np.hypot(*np.gradient(truth)), 1.5) > 10.0
    result = truth + np.where(is_edge, 0.8, 0.3) * noise
    change = restore(truth + noise, result) - result
    assert abs(change[truth > 350.0].mean()) < 0.05  # HU


def test_where_nothing_was_taken_off_the_result_stays():
    _, noisy = edges()
    np.testing.assert_array_equal(restore(noisy, noisy), noisy.astype(np.float32))


def test_what_the_network_made_up_is_not_made_larger():
    """Stripes that are in the result alone: what was taken off is their negative, and the share is never negative."""
    stripes = 20.0 * np.sin(np.arange(160) * 2 * np.pi / 6)[:, None] * np.ones((1, 160))
    flat = np.full((160, 160), 40.0)
    np.testing.assert_array_equal(restore(flat, flat + stripes), (flat + stripes).astype(np.float32))


def test_detail_changes_its_size_and_not_its_sign():
    truth, noisy = edges(seed=2)
    result = gaussian_filter(noisy, 1.2)
    detail = result - gaussian_filter(result, 1.4 / 0.8)
    given = restore(noisy, result) - result
    inner = np.s_[12:-12, 12:-12]
    plain = np.abs(detail[inner]) > 2.0
    share = given[inner][plain] / detail[inner][plain]
    assert share.min() > -0.01 and share.max() < 1.01 and share.max() > 0.3


def test_half_of_it_is_half_and_none_is_the_anchored_result():
    _, noisy = edges()
    result = gaussian_filter(noisy, 1.0)
    whole, half, none = (restore(noisy, result, choose_strength(restore=one)) - result for one in (1.0, 0.5, 0.0))
    np.testing.assert_allclose(half, 0.5 * whole, atol=1e-3)
    assert np.abs(none).max() < 1e-4 and np.abs(whole).max() > 5.0


def test_the_unit_and_the_offset_of_the_values_do_not_matter():
    _, noisy = edges()
    result = gaussian_filter(noisy, 1.0)
    image, output = as_slices(noisy / 500.0 + 3.0, result / 500.0 + 3.0)
    everywhere = torch.ones_like(image, dtype=torch.bool)
    scaled = restored(image, output, everywhere, everywhere, SPACING_MM, STANDARD)[0].numpy()
    np.testing.assert_allclose((scaled - 3.0) * 500.0, restore(noisy, result), atol=0.02)


def test_what_lies_outside_has_no_say_and_stays():
    truth, noisy = edges()
    result = gaussian_filter(noisy, 1.0)
    inside = np.ones(noisy.shape, bool)
    inside[:, 120:] = False
    padded = [np.where(inside, one, -3024.0) for one in (noisy, result)]
    out = restore(*padded, inside=inside)
    assert (out[:, 120:] == -3024.0).all()
    np.testing.assert_allclose(out[:, :60], restore(noisy, result)[:, :60], atol=5.0)  # its own median
    assert np.abs(out[:, 110:120] - result[:, 110:120]).max() < 30.0, "no step beside the padding"


def test_without_tissue_nothing_is_restored():
    air = np.random.default_rng(0).normal(size=(64, 64)) * 20.0 - 900.0
    smooth = gaussian_filter(air, 1.0)
    np.testing.assert_array_equal(restore(air, smooth), smooth.astype(np.float32))


def test_slices_do_not_mix():
    stacks = [as_slices(noisy, gaussian_filter(noisy, 1.0)) for _, noisy in (edges(0), edges(1, 40.0))]
    image, result = (torch.cat(one) for one in zip(*stacks, strict=True))
    inside = torch.ones_like(image, dtype=torch.bool)
    both = restored(image, result, inside, inside, SPACING_MM, STANDARD)
    for i, one in enumerate(stacks):
        alone = restored(*one, inside[:1], inside[:1], SPACING_MM, STANDARD)
        torch.testing.assert_close(both[i : i + 1], alone)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (97, 131)])
def test_any_size_is_taken(shape):
    generator = np.random.default_rng(0)
    image = generator.normal(size=shape) * 30.0
    assert restore(image, gaussian_filter(image, 0.5)).shape == shape


@pytest.mark.parametrize("name", list(STRENGTHS))
@pytest.mark.parametrize("diameter", [4.0, 6.0, 10.0])
@pytest.mark.parametrize("contrast_hu", [-20.0, 20.0, 40.0])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_network_that_erases_everything_leaves_at_least_the_gaussians_share_of_a_lesion(
    name, diameter, contrast_hu, seed
):
    """The floor of anchoring holds with restoring too, lesion and all in one image."""
    strength, spacing = choose_strength(name), 0.7
    profile = Lesion(diameter, (64, 64)).profile((128, 128), spacing).astype(np.float32)
    noisy = 60.0 + 30.0 * np.random.default_rng(seed).normal(size=(128, 128)).astype(np.float32)

    def shown(hu):
        volume = MetaTensor(
            torch.as_tensor(hu)[None, None, ..., None], affine=torch.diag(torch.tensor([0.7, 0.7, 3, 1]))
        )
        eraser = lambda image, prior=None: torch.ones_like(image)  # noqa: E731
        return SlicePriorInferer(strength=strength)(volume, eraser).as_tensor()[0, 0, ..., 0].numpy()

    share = contrast_recovery(shown(noisy + contrast_hu * profile) - shown(noisy), profile, contrast_hu)
    floor = contrast_recovery(20.0 * gaussian_filter(profile, strength.anchor_mm / spacing), profile, 20.0)
    assert floor - 0.005 < share <= 1.0


def test_anchoring_comes_first():
    """`restored` is given what the anchor leaves: the inferer's result is the two, one after the other."""
    _, noisy = edges()
    volume = MetaTensor(torch.as_tensor(noisy, dtype=torch.float32)[None, None, ..., None], affine=torch.diag(
        torch.tensor([0.8, 0.8, 3.0, 1.0])))  # fmt: skip
    blur = torch.nn.AvgPool2d(3, 1, 1, count_include_pad=False)
    out = SlicePriorInferer(strength=STANDARD)(volume, lambda image, prior=None: blur(image)).as_tensor()[0, 0, ..., 0]
    image = torch.as_tensor(noisy, dtype=torch.float32)[None]
    everywhere = torch.ones_like(image, dtype=torch.bool)
    plain = anchored(image, blur(image[None])[0], everywhere, SPACING_MM, STANDARD)
    expected = restored(image, plain, everywhere, plain > -300.0, SPACING_MM, STANDARD)
    np.testing.assert_allclose(out.numpy(), expected[0].numpy(), atol=0.02)
