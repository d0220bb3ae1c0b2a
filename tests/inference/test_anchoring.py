"""What anchoring alone promises, for any network: the formula, what is kept of a lesion, a region's mean and a band."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from made_studies import lively_network
from monai.data import MetaTensor
from scipy.ndimage import gaussian_filter
from scripts.errors import BioAttError
from scripts.evaluation.lesions import Lesion, contrast_recovery
from scripts.hu import VALID_RANGE_HU, hu_to_network, in_valid_range, network_to_hu
from scripts.inference import AnchoredInferer, AutocastInferer, SlicePriorInferer, anchored
from scripts.strengths import STRENGTHS, Strength, choose_strength

every_strength = pytest.mark.parametrize("name", list(STRENGTHS))
SPACING_MM = 0.7
#: What a Gaussian alone leaves of a disc, by diameter in mm; at 1.0 mm 74, 83 and 91%.
DIAMETERS_MM = (4.0, 6.0, 10.0)


def affine_of(rows_mm, columns_mm):
    """Of a volume whose axes are rows to posterior, columns to the left, slices to superior."""
    return torch.tensor([[0, -columns_mm, 0, 0], [-rows_mm, 0, 0, 0], [0, 0, 3.0, 0], [0, 0, 0, 1]])


def denoise(hu, network, strength, spacing=(SPACING_MM, SPACING_MM)):
    """The inferer's result of one slice (H, W) in HU."""
    volume = torch.as_tensor(hu, dtype=torch.float32)[None, None, ..., None]
    inferer = SlicePriorInferer(strength=strength)
    return inferer(MetaTensor(volume, affine=affine_of(*spacing)), network).as_tensor()[0, 0, ..., 0].numpy()


def eraser(image, prior=None):
    """The worst network: whatever it is shown, it says water."""
    return torch.ones_like(image)


def copies(image, prior=None):
    """A network that changes nothing."""
    return image


def body(seed=0, shape=(128, 128)):
    """Soft tissue with noise, and lung in a corner."""
    generator = np.random.default_rng(seed)
    hu = 60.0 + 30.0 * generator.normal(size=shape)
    hu[:40, :40] -= 850.0
    return hu.astype(np.float32)


def untrained(seed=0):
    """A network of random weights, which distorts by tens of HU and answers a lesion as it likes."""
    torch.manual_seed(seed)
    network = lively_network()
    with torch.no_grad():
        network.deconv_last.weight.mul_(4.0)
        network.deconv_last.bias.sub_(0.1)
    return network


@pytest.mark.parametrize("grain", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("spacing", [(0.7, 0.7), (0.5, 0.9)])
def test_the_result_is_the_formula(grain, spacing):
    generator = torch.Generator().manual_seed(1)
    image, output = (torch.rand(1, 60, 70, generator=generator, dtype=torch.float64) for _ in range(2))
    inside = torch.ones_like(image, dtype=torch.bool)
    result = anchored(image, output, inside, spacing, Strength(name="custom", anchor_mm=1.3, grain=grain))[0].numpy()

    def gaussian(values):
        sigma = [1.3 / one for one in spacing]
        return gaussian_filter(values, sigma, mode="constant") / gaussian_filter(
            np.ones(values.shape), sigma, mode="constant"
        )

    before, mixed = image[0].numpy(), (output + grain * (image - output))[0].numpy()
    np.testing.assert_allclose(result, gaussian(before) + mixed - gaussian(mixed), atol=2e-6)
    plain = (
        gaussian_filter(before, [1.3 / one for one in spacing])
        + mixed
        - gaussian_filter(mixed, [1.3 / one for one in spacing])
    )
    np.testing.assert_allclose(result[15:-15, 15:-15], plain[15:-15, 15:-15], atol=2e-6)


def test_rows_and_columns_have_their_own_spacing():
    hu = np.zeros((61, 61), np.float32)
    hu[30, 30] = 1000.0
    kept = denoise(hu, eraser, choose_strength(anchor_mm=2.0, restore=0), spacing=(0.5, 1.0)).astype(np.float64)
    offsets = np.arange(61) - 30
    rows_mm, columns_mm = (
        np.sqrt((kept.sum(axis) * offsets**2).sum() / kept.sum()) * step for axis, step in ((1, 0.5), (0, 1.0))
    )
    assert rows_mm == pytest.approx(2.0, rel=0.01) and columns_mm == pytest.approx(2.0, rel=0.01)


def test_orientation_does_not_swap_the_spacings():
    """A volume stored as DICOM is, columns first, is turned before the inferer: the affine goes with it."""
    from scripts.volumes import OrientSlicesd

    hu = torch.zeros(41, 61, 1)  # columns, rows, slices
    hu[20, 30] = 1000.0
    stored = MetaTensor(hu, affine=torch.diag(torch.tensor([-1.0, -0.5, 3.0, 1.0])))
    turned = OrientSlicesd("image")({"image": stored})["image"]
    out = SlicePriorInferer(strength=choose_strength(anchor_mm=1.5, restore=0))(turned[None], eraser)
    kept = out.as_tensor()[0, 0, ..., 0].double().numpy()
    assert kept.shape == (61, 41)
    rows_mm = np.sqrt((kept.sum(1) * (np.arange(61) - 30) ** 2).sum() / kept.sum()) * 0.5
    assert rows_mm == pytest.approx(1.5, rel=0.01)


def gaussians_share(diameter, anchor_mm):
    """What a Gaussian alone leaves of a disc's contrast, by the lesion measure."""
    profile = Lesion(diameter, (64, 64)).profile((128, 128), SPACING_MM)
    return contrast_recovery(20.0 * gaussian_filter(profile, anchor_mm / SPACING_MM), profile, 20.0)


def test_what_a_gaussian_of_1_mm_leaves_of_a_disc():
    assert [gaussians_share(one, 1.0) for one in DIAMETERS_MM] == pytest.approx([0.74, 0.83, 0.91], abs=0.01)


@every_strength
@pytest.mark.parametrize("diameter", DIAMETERS_MM)
@pytest.mark.parametrize("contrast_hu", [-20.0, 20.0, 40.0])
def test_a_network_that_erases_everything_leaves_the_gaussians_share_of_a_lesion(name, diameter, contrast_hu):
    profile = Lesion(diameter, (64, 64)).profile((128, 128), SPACING_MM).astype(np.float32)
    hu, strength = body(), choose_strength(name, restore=0)
    difference = denoise(hu + contrast_hu * profile, eraser, strength) - denoise(hu, eraser, strength)
    share = contrast_recovery(difference, profile, contrast_hu)
    assert share == pytest.approx(gaussians_share(diameter, strength.anchor_mm), abs=1e-3)


@every_strength
@pytest.mark.parametrize("diameter", DIAMETERS_MM)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_any_other_network_moves_that_share_by_what_it_does_beside_the_anchor(name, diameter, seed):
    """share = G's + the network's answer to the lesion, seen through 1 - G in the lesion's core; never less than G's
    by more than the bound."""
    profile = Lesion(diameter, (64, 64)).profile((128, 128), SPACING_MM).astype(np.float32)
    hu, strength, network = body(seed), choose_strength(name, restore=0), untrained(seed)
    with_lesion, without = (denoise(one, network, strength) for one in (hu + 20.0 * profile, hu))
    answer = denoise(hu + 20.0 * profile, network, None) - denoise(hu, network, None)
    share = contrast_recovery(with_lesion - without, profile, 20.0)
    core = profile >= 0.5
    seen = core.astype(np.float64) - gaussian_filter(core.astype(np.float64), strength.anchor_mm / SPACING_MM)
    put_in = 20.0 * profile[core].sum()
    floor = gaussians_share(diameter, strength.anchor_mm)
    assert np.abs(answer).max() > 0.1, "the network answers"
    assert share == pytest.approx(floor + (answer * seen).sum() / put_in, abs=2e-3)
    assert share >= floor - np.abs(answer).max() * np.abs(seen).sum() / put_in


@every_strength
@pytest.mark.parametrize("network", [eraser, untrained(3)], ids=["eraser", "random weights"])
def test_the_mean_of_a_large_region_moves_by_no_more_than_the_bound(name, network):
    strength, hu = choose_strength(name, restore=0), body(4, (256, 256))
    rows, columns = np.ogrid[:256, :256]
    region = np.hypot(rows - 140, columns - 140) * SPACING_MM < 25.0  # 50 mm across, far from the lung
    change = denoise(hu, network, None) - hu
    moved = (denoise(hu, network, strength) - hu)[region].mean()
    ring = np.abs(np.hypot(rows - 140, columns - 140) * SPACING_MM - 25.0) < 4.5 * strength.anchor_mm
    bound = math.sqrt(2 / math.pi) * strength.anchor_mm * 4 / 50.0 * np.abs(change[ring]).max()
    assert np.abs(change[region].mean()) > 5.0, "the network alone moves it"
    assert np.abs(moved) < bound and np.abs(moved) < 0.05 * np.abs(change[region].mean())


@pytest.mark.parametrize("cycles_per_mm", [0.02, 0.05, 0.1, 0.2, 0.3])
def test_the_network_adds_at_a_frequency_what_1_minus_g_lets_through(cycles_per_mm):
    strength = choose_strength("standard")
    position_mm = np.arange(400) * 0.5
    wave = np.cos(2 * np.pi * cycles_per_mm * position_mm)[:, None] * np.ones((1, 40))
    flat = np.zeros_like(wave, dtype=np.float32)

    def adds_waves(image, prior=None):
        return image + torch.as_tensor(50.0 / 500.0 * wave, dtype=image.dtype)

    middle = slice(100, 300)
    added = denoise(flat, adds_waves, strength, spacing=(0.5, 0.5))[middle, 20]
    expected = 50.0 * (1 - math.exp(-2 * (math.pi * cycles_per_mm * strength.anchor_mm) ** 2))
    np.testing.assert_allclose(added, expected * wave[middle, 20], atol=0.05)


@every_strength
def test_a_network_that_changes_nothing_gives_the_input(name):
    hu = body()
    np.testing.assert_allclose(denoise(hu, copies, choose_strength(name)), hu, atol=1e-3)


def test_beside_padding_metal_and_nan_the_gaussian_sees_the_body_alone():
    """A network that is 30 HU too high everywhere changes nothing, up to the last pixel before padding and border."""
    hu = np.full((60, 60), 50.0, np.float32)
    hu[:20], hu[40, 30:35], hu[45, 50], hu[47:50, 10] = -3024.0, 20000.0, np.nan, -1500.0
    out = denoise(hu, lambda image, prior=None: image + 30.0 / 500.0, Strength(name="custom", anchor_mm=3.0))
    kept = ~(hu == 50.0)
    np.testing.assert_array_equal(out[kept], hu[kept])
    np.testing.assert_allclose(out[~kept], 50.0, atol=1e-3)


def test_the_result_stays_in_the_valid_range():
    hu = np.where(np.arange(64)[:, None] < 32, -1020.0, 3060.0) * np.ones((1, 64))
    out = denoise(hu, lambda image, prior=None: 20 - 20 * image, choose_strength("high"))
    assert out.min() >= VALID_RANGE_HU[0] - 1e-3 and out.max() <= VALID_RANGE_HU[1] + 1e-3
    assert np.abs(out - hu).max() > 50


def test_all_grain_given_back_is_the_input():
    hu = body()
    out = denoise(hu, eraser, Strength(name="custom", anchor_mm=1.0, grain=1.0))
    np.testing.assert_allclose(out, hu, atol=1e-3)


def test_slices_in_a_batch_and_volumes_with_their_own_spacing_do_not_mix():
    volumes = torch.stack([torch.from_numpy(body(i))[None, :, :, None].expand(1, 128, 128, 3) for i in (0, 1)])
    affines = torch.stack([affine_of(0.7, 0.7), affine_of(0.4, 0.4)])
    both = MetaTensor(volumes.clone())
    both.meta["affine"] = affines
    out = SlicePriorInferer(strength=choose_strength(), batch_size=2)(both, eraser).as_tensor()
    for i, spacing in enumerate((0.7, 0.4)):
        alone = denoise(body(i), eraser, choose_strength(), spacing=(spacing, spacing))
        for k in range(3):
            np.testing.assert_allclose(out[i, 0, ..., k].numpy(), alone, atol=1e-3)


@pytest.mark.parametrize(
    "volume", [torch.zeros(1, 1, 8, 8, 2), MetaTensor(torch.zeros(1, 1, 8, 8, 2), affine=torch.zeros(4, 4))]
)
def test_an_unknown_spacing_is_refused(volume):
    with pytest.raises(BioAttError, match="pixel spacing is .* give a MetaTensor with an affine"):
        SlicePriorInferer(strength=choose_strength())(volume, eraser)


def test_a_volume_that_monai_label_makes_a_batch_of_keeps_its_spacing():
    """MONAI Label takes the first axis on by indexing with None, and moves the volume to a device."""
    one = MetaTensor(torch.from_numpy(body())[None, :, :, None], affine=affine_of(0.5, 0.9))
    out = SlicePriorInferer(strength=choose_strength())(one[None].to("cpu"), eraser).as_tensor()
    expected = denoise(body(), eraser, choose_strength(), spacing=(0.5, 0.9))
    np.testing.assert_allclose(out[0, 0, ..., 0].numpy(), expected, atol=1e-3)


def test_pixels_too_coarse_for_the_anchor_are_warned_of(caplog):
    hu = body()
    out = denoise(hu, eraser, choose_strength("standard"), spacing=(5.2, 5.2))
    assert "pixels of 5.2 x 5.2 mm are coarser" in caplog.text and np.abs(out - hu).max() < 1.0
    caplog.clear()
    denoise(hu, eraser, choose_strength("standard"))
    assert not caplog.text


def test_evaluation_judges_the_same_result():
    hu = hu_to_network(torch.from_numpy(np.stack([body(0), body(1)]).clip(-1024, 3071)))[:, None]
    # As in a cached pair: in the valid range.
    network, prior = untrained(), torch.full((2, 11), 1 / 11)
    spacings = torch.tensor([[0.7, 0.7], [0.5, 0.9]])
    out = AnchoredInferer(strength=choose_strength("high"))(hu, network, prior, spacings)
    bare = AutocastInferer()(hu, network, prior)
    for i, spacing in enumerate(((0.7, 0.7), (0.5, 0.9))):
        expected = denoise(body(i).clip(-1024, 3071), network, choose_strength("high"), spacing=spacing)
        np.testing.assert_allclose(network_to_hu(out[i, 0]).detach().numpy(), expected, atol=0.05)
    assert (out - bare).abs().max() > 0.01


@pytest.mark.parametrize("outside_hu", [-2000.0, 9000.0])
def test_evaluation_leaves_padding_and_metal_out_as_denoising_does(outside_hu):
    hu = body()
    hu[:, 90:] = outside_hu
    image = hu_to_network(torch.from_numpy(hu.clip(-1024, 3071)))[None, None]  # as in a cached pair
    network, spacings, strength = untrained(), torch.full((1, 2), SPACING_MM), choose_strength("standard")
    inside = in_valid_range(torch.from_numpy(hu))[None, None]
    with torch.inference_mode():
        told, untold = (
            network_to_hu(AnchoredInferer(strength=strength)(image, network, None, spacings, *known))[0, 0, :, :90]
            for known in ([inside], [])
        )
    expected = denoise(hu, network, strength)[:, :90]
    np.testing.assert_allclose(told.numpy(), expected, atol=0.05)
    assert np.abs(untold.numpy() - expected).max() > 3.0


def test_evaluation_without_a_spacing_is_refused():
    with pytest.raises(BioAttError, match="pixel spacing"):
        AnchoredInferer(strength=choose_strength())(torch.zeros(1, 1, 8, 8), copies, None, torch.full((1, 2), math.nan))
