"""Training batches: targets without bias, patches that stay a pair, every patient alike, one step alike everywhere."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from scripts.errors import BioAttError
from scripts.hu import network_to_hu
from scripts.priors import SliceKey
from scripts.training import PatchBatches, ProbedSquaredError
from scripts.training.pairs import CachedPair

ALPHA_SQUARED = 4.0
PLAIN = {
    "noise_gain": (1.0, 1.0),
    "zoom_probability": 0.0,
    "filter_probability": 0.0,
    "shift_hu": 0.0,
    "uniform_prior": 0.0,
    "other_prior": 0.0,
    "random_prior": 0.0,
    "probe_share": 0.0,
    "dense_probe": 0.0,
}


def smooth_noise(generator, count, shape, sd):
    """Noise with a grain of two pixels, (count, H, W)."""
    white = generator.normal(size=(count, *shape))
    grainy = white + np.roll(white, 1, 1) + np.roll(white, 1, 2) + np.roll(white, (1, 1), (1, 2))
    return grainy * sd / 2.0


def slice_pair(folder, name, patient, *, truth=None, own_sd=20.0, shape=(128, 128), seed=0, dose=0.2, count=3):
    """A slice of tissue whose full dose has noise of its own and whose low doses have more of the same kind."""
    generator = np.random.default_rng(seed)
    truth = np.full(shape, 50.0) if truth is None else truth
    full = truth + smooth_noise(generator, 1, shape, own_sd)[0]
    low = full + smooth_noise(generator, count, shape, own_sd * math.sqrt(1 / dose - 1))
    path = folder / f"{name}.npz"
    np.savez(path, full=full.round().astype(np.int16), low=low.round().astype(np.int16))
    priors = np.eye(11, dtype=np.float32)[[seed % 11] * count]
    doses = (dose,) * count
    return {
        "pair": CachedPair(path=path, priors=priors, patient=patient, key=SliceKey(0, name, ""), dose_fractions=doses)
    }


def batches(data, batch_size=32, patch_shape=(32, 32), **options):
    augmentation = PLAIN | {key: options.pop(key) for key in list(options) if key in PLAIN}
    return PatchBatches(
        data, batch_size=batch_size, patch_shape=patch_shape, steps=4, augmentation=augmentation, **options
    )


def images_hu(batch):
    """Input and target in HU, (B, h, w)."""
    count = len(batch["label"])
    return network_to_hu(batch["image"][:count, 0]), network_to_hu(batch["label"][:, 0])


@pytest.mark.parametrize("augmented", [False, True])
def test_noise_of_the_target_is_uncorrelated_with_that_of_the_input(tmp_path, augmented):
    data = [slice_pair(tmp_path, f"s{i}", f"P{i}", seed=i) for i in range(8)]
    varied = {"noise_gain": (0.5, 2.2), "zoom_probability": 0.5, "filter_probability": 0.5} if augmented else {}
    loader = batches(data, batch_size=128, **varied)
    low, target = (
        torch.cat(parts) - 50.0 for parts in zip(*(images_hu(loader.batch(i)) for i in range(4)), strict=True)
    )
    assert low.std() > 1.5 * 20.0
    assert abs((low * target).mean() / (low.std() * target.std())) < 0.03
    # The plain target, the full dose, would not be: a fifth of the input's noise power is in it.
    own = (low * target).mean() + 20.0**2
    assert own > 0.8 * 20.0**2


def test_the_squared_error_leads_to_the_truth_and_not_to_the_full_dose(tmp_path):
    """Of all outputs a low + (1 - a) truth, the one with least loss has none of the noise, not a fifth of it."""
    data = [slice_pair(tmp_path, f"s{i}", f"P{i}", seed=i) for i in range(8)]
    loader = batches(data, batch_size=128)
    loss = ProbedSquaredError(8.0)
    shares = torch.linspace(-0.2, 0.4, 13)
    errors = torch.zeros(len(shares))
    for step in range(4):
        batch = loader.batch(step)
        truth = torch.full_like(batch["image"], (50.0 + 500.0) / 500.0)
        errors += torch.stack([loss(truth + s * (batch["image"] - truth), batch["label"]) for s in shares])
    assert abs(shares[errors.argmin()].item()) < 0.051


def test_real_pairs_keep_their_full_dose_as_target(tmp_path):
    truth = np.full((128, 128), -1000.0)
    truth[40:88, 40:88] = 50.0  # so patches lie inside the slice
    item = slice_pair(tmp_path, "s", "P", count=1, truth=truth)
    item = {"pair": dataclasses.replace(item["pair"], dose_fractions=())}
    full, lows, _ = item["pair"].load()
    low, target = images_hu(batches([item], noise_gain=(0.5, 2.0)).batch(0))
    places = {tuple(window.ravel().tolist()) for window in windows(full, 32)}
    assert all(tuple(patch.round().ravel().tolist()) in places for patch in straightened(target, full))
    assert (low - target).std() == pytest.approx((lows[0] - full).std(), rel=0.1)


def windows(image, side):
    return np.lib.stride_tricks.sliding_window_view(image, (side, side)).reshape(-1, side, side)


def straightened(patches, image):
    """Each patch turned back: of its eight orientations the one that is found in the image."""
    found = windows(image, patches.shape[-1]).astype(np.float32)
    for patch in patches:
        turned = [torch.rot90(one, turns, (0, 1)) for one in (patch, patch.flip(1)) for turns in range(4)]
        yield min(turned, key=lambda one: float(np.abs(found - one.numpy()).max((1, 2)).min()))


def test_all_eight_orientations_come(tmp_path):
    """Rows rise by 4 HU, columns by 1: the steps of a patch tell how it was turned and flipped."""
    rows, columns = np.mgrid[:128, :128]
    item = slice_pair(tmp_path, "s", "P", truth=rows * 4.0 + columns, own_sd=0.0)
    _, target = images_hu(batches([item], batch_size=128).batch(0))
    down, across = target[:, 17, 16] - target[:, 16, 16], target[:, 16, 17] - target[:, 16, 16]
    kinds = {(round(float(a)), round(float(b))) for a, b in zip(down, across, strict=True)}
    wanted = {(a * s, b * t) for a, b in ((1, 4), (4, 1)) for s in (1, -1) for t in (1, -1)}
    assert kinds - {(0, 1), (0, -1), (1, 0), (-1, 0), (0, 4), (0, -4), (4, 0), (-4, 0), (0, 0)} == wanted  # at borders


def test_zoom_and_filter_do_the_same_to_input_and_target(tmp_path):
    """Without noise, input and target are equal whatever is done; a ramp zoomed by z has z times the slope."""
    rows, _ = np.mgrid[:128, :128]
    item = slice_pair(tmp_path, "s", "P", truth=rows * 4.0, own_sd=0.0)
    loader = batches([item], zoom_probability=1.0, filter_probability=1.0, shift_hu=20.0)
    loader.augmentation = dataclasses.replace(loader.augmentation, zoom=(1.5, 1.5))
    low, target = images_hu(loader.batch(0))
    torch.testing.assert_close(low, target)
    slope = (target[:, 16:17, 16] - target[:, 15:16, 16]).abs() + (target[:, 16, 16:17] - target[:, 16, 15:16]).abs()
    inner = (target.amin((1, 2)) > 60) & (target.amax((1, 2)) < 440)
    assert slope[inner].median().item() == pytest.approx(6.0, rel=0.05)


def test_every_patient_counts_the_same(tmp_path):
    data = [slice_pair(tmp_path, f"a{i}", "A", seed=0) for i in range(9)] + [slice_pair(tmp_path, "b", "B", seed=1)]
    chosen = torch.cat([batches(data, batch_size=256).batch(i)["prior"].argmax(1) for i in range(4)])
    assert (chosen == 1).float().mean().item() == pytest.approx(0.5, abs=0.06)


def test_noisy_patches_weigh_less_so_all_errors_are_shares_of_the_noise(tmp_path):
    data = [slice_pair(tmp_path, "a", "A", own_sd=10.0, seed=0), slice_pair(tmp_path, "b", "B", own_sd=60.0, seed=1)]
    batch = batches(data, batch_size=64).batch(0)
    low, _ = images_hu(batch)
    power = ((low - 50.0) ** 2).mean((1, 2))
    weighted = power * batch["label"][:, 2, 0, 0] / 500.0**2
    noisy = batch["prior"].argmax(1) == 1
    assert weighted[noisy].mean() == pytest.approx(1.0, rel=0.1)
    assert weighted[~noisy].mean() == pytest.approx(1.0, rel=0.15)


def test_structures_are_put_into_the_patches_shown_again(tmp_path):
    data = [slice_pair(tmp_path, f"s{i}", f"P{i}", seed=i) for i in range(4)]
    batch = batches(data, batch_size=16, probe_share=0.5).batch(0)
    assert batch["image"].shape == (24, 1, 32, 32) and batch["prior"].shape == (24, 11)
    added = network_to_hu(batch["image"][16:, 0]) - network_to_hu(batch["image"][:8, 0])
    torch.testing.assert_close(added, batch["label"][:8, 1] * 500.0, atol=2e-3, rtol=1e-3)
    torch.testing.assert_close(batch["prior"][16:], batch["prior"][:8])
    assert 4.0 < added.abs().amax((1, 2)).mean() < 80.0


def test_a_network_that_hides_a_structure_pays_for_it(tmp_path):
    data = [slice_pair(tmp_path, f"s{i}", f"P{i}", seed=i) for i in range(4)]
    batch = batches(data, batch_size=16, probe_share=0.5).batch(0)
    keeps, hides = batch["image"].clone(), batch["image"].clone()
    hides[16:] = hides[:8]
    loss = ProbedSquaredError(8.0)
    assert loss(keeps, batch["label"]) < loss(hides, batch["label"])
    assert loss(keeps, batch["label"]) == pytest.approx(ProbedSquaredError(0.0)(keeps, batch["label"]).item(), rel=1e-4)


def test_dense_structures_are_ten_times_as_high_and_never_darker(tmp_path):
    data = [slice_pair(tmp_path, "s", "P")]
    weak, dense = (batches(data, probe_share=1.0, dense_probe=share).batch(0)["label"][:, 1] for share in (0.0, 1.0))
    alike = weak.amin((1, 2)) > -1e-3 * weak.abs().amax((1, 2))  # those patches whose structures are all bright anyway
    assert 0 < alike.sum() < len(weak)
    torch.testing.assert_close(dense[alike], 10.0 * weak[alike], rtol=1e-3, atol=1e-3)
    assert dense.min() >= 0.0 and dense.max() * 500.0 > 200.0


def test_a_dense_structure_counts_as_one_of_60_hu():
    """The same share of a structure lost costs the same from 60 HU on, and less below."""
    weight, nothing = torch.ones(1, 8, 8), torch.zeros(1, 8, 8)

    def cost(hu):
        structure = torch.full((1, 8, 8), hu / 500.0)
        output = torch.cat([nothing, 0.9 * structure])[:, None]
        return ProbedSquaredError(1.0)(output, torch.stack([nothing, structure, weight], 1)).item()

    assert cost(60.0) == pytest.approx((0.1 * 60.0 / 500.0) ** 2, rel=1e-4)
    assert cost(600.0) == pytest.approx(cost(60.0), rel=1e-4) and cost(30.0) == pytest.approx(cost(60.0) / 4, rel=1e-4)


def test_drawn_priors_lie_between_even_and_sure_of_one_descriptor(tmp_path):
    data = [slice_pair(tmp_path, "s", "P")]
    own = batches(data, batch_size=512).batch(0)["prior"]
    prior = batches(data, batch_size=512, random_prior=0.4).batch(0)["prior"]
    drawn = (prior != own).any(1)
    assert drawn.float().mean().item() == pytest.approx(0.4, abs=0.07)
    torch.testing.assert_close(prior.sum(1), torch.ones(len(prior)))
    highest = prior[drawn].amax(1)
    assert highest.min() < 0.2 and highest.max() > 0.6
    assert len(prior[drawn].argmax(1).unique()) == 11


def test_priors_are_dropped_and_swapped_as_often_as_asked(tmp_path):
    data = [slice_pair(tmp_path, f"s{i}", f"P{i}", seed=i) for i in range(4)]
    prior = batches(data, batch_size=512, uniform_prior=0.5, other_prior=0.1).batch(0)["prior"]
    uniform = (prior - 1 / 11).abs().amax(1) < 1e-6
    assert uniform.float().mean().item() == pytest.approx(0.5, abs=0.07)
    torch.testing.assert_close(prior.sum(1), torch.ones(len(prior)))


def test_dense_priors_are_cut_and_turned_like_the_patch(tmp_path):
    """Where the prior of a descriptor says how far down a pixel lies, so does the slice, whatever is done to both."""
    item = slice_pair(tmp_path, "s", "P", truth=np.mgrid[:128, :128][0] * 1.0, own_sd=0.0)
    down = ((torch.arange(16) + 0.5) / 16)[:, None].expand(16, 16)
    dense = torch.stack([down, 1.0 - down] + [torch.zeros(16, 16)] * 9)[None].expand(3, -1, -1, -1).numpy()
    item = {"pair": dataclasses.replace(item["pair"], priors=dense.copy())}
    batch = batches([item], batch_size=16, zoom_probability=0.5).batch(0)
    _, target = images_hu(batch)
    inner = (target > 10) & (target < 118)
    wanted = ((target + 0.5) / 128)[inner]
    torch.testing.assert_close(batch["prior"][:, 0][inner], wanted, atol=5e-3, rtol=0)


def test_a_step_is_the_same_again_and_the_next_is_another(tmp_path):
    data = [slice_pair(tmp_path, f"s{i}", f"P{i}", seed=i) for i in range(4)]
    one, again = (batches(data, probe_share=0.5).batch(5) for _ in range(2))
    assert all(torch.equal(one[key], again[key]) for key in one)
    assert not torch.equal(one["image"], batches(data, probe_share=0.5).batch(6)["image"])
    assert not torch.equal(one["image"], batches(data, probe_share=0.5, seed=1).batch(5)["image"])


def test_more_slices_than_may_be_held_take_turns(tmp_path):
    data = [slice_pair(tmp_path, f"s{i}", f"P{i % 3}", seed=i) for i in range(9)]
    loader = batches(data, most_slices=3)
    seen = {int(kind) for epoch in range(12) for kind in loader.batch(4 * epoch)["prior"].argmax(1)}
    assert seen == set(range(9))
    assert len(loader._pool.full) == 3


@pytest.mark.parametrize("patch_shape", [(16, 48), (48, 16)])
def test_patches_that_are_not_square_show_pixels_of_the_slice_in_their_order(tmp_path, patch_shape):
    """Every pixel of the slice has its own value, so that pixels repeated beyond a square would be seen."""
    truth = np.arange(512 * 512, dtype=np.float64).reshape(512, 512) % 4001 - 1000.0
    item = slice_pair(tmp_path, "s", "P", truth=truth, own_sd=0.0, shape=(512, 512), count=1)
    _, target = images_hu(batches([item], batch_size=16, patch_shape=patch_shape).batch(0))
    assert target.shape[1:] == patch_shape
    inner = target[:, 2:-2, 2:-2].round()
    assert sum(len(patch.unique()) == patch.numel() for patch in inner) > 8, "the others reach beyond the border"


def test_slices_of_different_shapes_are_never_cut_beyond_their_border(tmp_path):
    data = [slice_pair(tmp_path, "a", "A", shape=(40, 56), own_sd=0.0), slice_pair(tmp_path, "b", "B", own_sd=0.0)]
    low, target = images_hu(batches(data, batch_size=64, patch_shape=(48, 32), zoom_probability=0.5).batch(0))
    assert low.shape == (64, 48, 32)
    assert target.min() > 49.0 and low.max() < 51.0


def test_unusable_settings_are_refused(tmp_path):
    data = [slice_pair(tmp_path, "s", "P")]
    with pytest.raises(BioAttError, match="augmentation noise_gian is not known; it has .*noise_gain"):
        PatchBatches(data, batch_size=1, patch_shape=(8, 8), steps=1, augmentation={"noise_gian": (1, 2)})
    with pytest.raises(BioAttError, match="nothing is left to train on"):
        PatchBatches([], batch_size=1, patch_shape=(8, 8), steps=1, augmentation={})


def test_patches_with_a_structure_are_shared_out_evenly_or_refused(tmp_path, monkeypatch):
    """Each of two processes has its share of what one has, structures included; an odd number cannot be shared."""
    data = [slice_pair(tmp_path, f"s{i}", f"P{i}", seed=i) for i in range(4)]
    whole = batches(data, batch_size=4, probe_share=0.5).batch(3)
    monkeypatch.setattr("ignite.distributed.get_world_size", lambda: 2)
    for rank in range(2):
        monkeypatch.setattr("ignite.distributed.get_rank", lambda rank=rank: rank)
        part = batches(data, batch_size=4, probe_share=0.5).batch(3)
        torch.testing.assert_close(part["image"], whole["image"][[rank, 2 + rank, 4 + rank]])
        torch.testing.assert_close(part["label"], whole["label"][[rank, 2 + rank]])
    with pytest.raises(BioAttError, match="1 patches with a structure, expected a multiple of the 2 processes"):
        batches(data, batch_size=2, probe_share=0.5)
