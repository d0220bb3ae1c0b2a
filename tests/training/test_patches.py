"""Training patches: low and full stay a pair, noise is what was simulated, and seed and epoch tell everything."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import DataLoader
from monai.transforms import Compose
from scripts.training import EpochSampler, RandPairPatchesd, SeededDataset


def pair(size=(120, 100), seed=0, noise_sd=20.0):
    """A full dose that tells each pixel's place, within a disc of tissue, and a low dose with white noise."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    body = (rows - size[0] / 2) ** 2 + (columns - size[1] / 2) ** 2 < (min(size) / 3) ** 2
    full = torch.where(body, rows + 0.001 * columns, -1000.0).float()[None]
    low = full + noise_sd * torch.randn(full.shape, generator=generator)
    return {"image": low, "label": full, "prior": torch.full((11,), 1 / 11), "patient": "A"}


def patches(data, seed=0, **options):
    """What the transform draws with a seed."""
    options = {"patch_shape": (24, 24), "num_patches": 40} | options
    transform = RandPairPatchesd(["image", "label"], **options)
    transform.set_random_state(seed=seed)
    return transform(data)


def turned(image):
    """The eight ways to turn and flip an image (1, h, w)."""
    return [torch.rot90(one, turns, (1, 2)) for one in (image, image.flip(2)) for turns in range(4)]


def test_every_patch_is_a_turned_part_of_both_doses():
    data = pair()
    found = patches(data, num_patches=8)
    assert len(found) == 8
    windows = [x.unfold(1, 24, 1).unfold(2, 24, 1).reshape(-1, 24, 24) for x in (data["label"], data["image"])]
    for item in found:
        assert item["patient"] == "A" and item["prior"] is data["prior"]
        hits = [
            ((windows[0] - full).abs().amax((1, 2)) < 1e-3) & ((windows[1] - low).abs().amax((1, 2)) < 1e-3)
            for full, low in zip(turned(item["label"]), turned(item["image"]), strict=True)
        ]
        assert any(bool(one.any()) for one in hits)


def test_all_eight_orientations_come():
    def orientation(x):
        """Direction and size of the steps along both axes: 1 or 0.001 HU, up or down."""
        along, across = (x[0, 8, 8] - x[0, 7, 8]).item(), (x[0, 8, 8] - x[0, 8, 7]).item()
        return along > 0, across > 0, abs(along) > abs(across)

    labels = [item["label"] for item in patches(pair(), num_patches=200, patch_shape=(16, 16))]
    assert len({orientation(x) for x in labels if x.min() > -900}) == 8


def test_patches_lie_on_the_body():
    assert all(item["label"].max() > -500 for item in patches(pair()))


def test_air_alone_is_still_a_patch():
    data = pair()
    data["label"] = torch.full_like(data["label"], -1000.0)
    assert len(patches(data)) == 40


def test_noise_is_scaled_by_the_gain():
    data = pair(noise_sd=10.0)
    ratios = [(one["image"] - one["label"]).std().item() / 10.0 for one in patches(data, noise_gain=(2.0, 3.0))]
    assert 1.8 < min(ratios) < 2.3 and 2.7 < max(ratios) < 3.3


def test_shift_moves_both_alike():
    data = pair(noise_sd=0.0)
    data["label"] = data["image"] = torch.zeros_like(data["label"])
    shifts = [item["label"].mean().item() for item in patches(data, shift_hu=10.0)]
    assert -10.0 <= min(shifts) < -5.0 and 5.0 < max(shifts) <= 10.0
    assert all(torch.equal(item["label"], item["image"]) for item in patches(data, shift_hu=10.0))


def test_shrinking_averages_the_full_dose_and_adds_the_simulated_noise():
    data = pair(size=(200, 200), noise_sd=10.0)
    own_noise = 8.0 * torch.randn(data["label"].shape, generator=torch.Generator().manual_seed(5))
    body = data["label"] > -900
    data["image"] = torch.where(body, 40.0, -1000.0) + own_noise + (data["image"] - data["label"])
    data["label"] = torch.where(body, 40.0, -1000.0) + own_noise
    found = patches(data, shrink_probability=1.0, shrink_factors=(2,))
    inside = [item for item in found if item["label"].min() > 0 and item["label"].max() < 90]
    assert len(inside) > 3
    assert np.mean([item["label"].std().item() for item in inside]) == pytest.approx(4.0, rel=0.1)
    assert np.mean([(item["image"] - item["label"]).std().item() for item in inside]) == pytest.approx(10.0, rel=0.1)


def grain(noise):
    """Correlation of neighbouring pixels: 0 for white noise, towards 1 for coarse grain."""
    return float((noise[..., 1:] * noise[..., :-1]).mean() / noise.square().mean())


def test_noise_is_made_coarser_and_finer_with_its_sd_kept():
    data = pair(size=(200, 200), noise_sd=10.0)
    smooth = torch.nn.functional.avg_pool2d(data["image"] - data["label"], 3, stride=1, padding=1)
    data["image"] = data["label"] + smooth * (10.0 / smooth.std())
    found = {}
    for zoom in (0.7, 1.0, 2.0):
        drawn = patches(data, shrink_probability=1.0, shrink_factors=(2,), noise_zoom=(zoom, zoom))
        noise = torch.cat([item["image"] - item["label"] for item in drawn])
        found[zoom] = grain(noise)
        assert noise.std().item() == pytest.approx(10.0, rel=0.15)
    assert found[0.7] < found[1.0] - 0.02 < found[2.0] - 0.12


def test_what_does_not_fit_is_not_shrunk():
    found = patches(pair(size=(40, 40)), shrink_probability=1.0, shrink_factors=(2,))
    assert {tuple(item["label"].shape) for item in found} == {(1, 24, 24)}


def test_a_slice_smaller_than_a_patch_is_padded():
    found = patches(pair(size=(20, 30)))
    assert {tuple(item["image"].shape) for item in found} == {(1, 24, 24)}


def loaded(epoch, replicas=1, rank=0, workers=0, batch=2, seed=3):
    """Patches that one process loads in an epoch, batch by batch."""
    data = [pair(seed=i) | {"patient": str(i)} for i in range(6)]
    transform = Compose([RandPairPatchesd(["image", "label"], (16, 16), 2, noise_gain=(0.5, 1.5))])
    dataset = SeededDataset(data, transform, seed=seed)
    sampler = EpochSampler(dataset, num_replicas=replicas, rank=rank, seed=seed)
    sampler.set_epoch(epoch)
    loader = DataLoader(dataset, sampler=sampler, batch_size=batch, num_workers=workers)
    return [one["image"] for one in loader]


def test_an_epoch_can_be_done_again_exactly_and_another_differs():
    first, again, other = loaded(4), loaded(4), loaded(5)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert not torch.equal(first[0], loaded(4, seed=4)[0])


def test_workers_change_nothing():
    assert all(torch.equal(a, b) for a, b in zip(loaded(2), loaded(2, workers=1), strict=True))


def test_two_processes_see_what_one_sees_with_twice_the_batch():
    one = loaded(1, batch=4)
    two = [loaded(1, replicas=2, rank=rank) for rank in range(2)]
    for step, whole in enumerate(one):
        parts = torch.cat([ranks[step] for ranks in two])
        assert sorted(x.sum().item() for x in parts) == pytest.approx(sorted(x.sum().item() for x in whole))


def test_every_slice_comes_once_an_epoch():
    data = [pair(seed=i) | {"patient": i} for i in range(6)]
    dataset = SeededDataset(data, Compose([RandPairPatchesd(["image", "label"], (16, 16), 1)]))
    sampler = EpochSampler(dataset)
    sampler.set_epoch(7)
    assert sorted(item["patient"] for index in sampler for item in dataset[index]) == [0, 1, 2, 3, 4, 5]
