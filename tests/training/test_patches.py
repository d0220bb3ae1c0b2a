"""Patches of the paper's grid: both doses cut alike, and seed and epoch tell their order and augmentation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from made_studies import random_pairs
from monai.data import DataLoader
from monai.transforms import Compose, RandFlipd, RandRotate90d
from scripts.errors import BioAttError
from scripts.training import EpochSampler, GridPatchd, LoadPaird, SeededDataset, grid_patches

SHAPE = (24, 16)


def grid(folder, slices=1, patch_shape=SHAPE):
    """Items of a grid over slices of 60 x 50 pixels."""
    return grid_patches(random_pairs(folder, slices, shape=(60, 50)), patch_shape)


def cutting(*more):
    """Load a pair and cut a patch of it."""
    return Compose([LoadPaird(), GridPatchd(["image", "label"], SHAPE), *more])


@pytest.mark.parametrize(("patch_shape", "count"), [((24, 16), 2 * 3), ((16, 24), 3 * 2), ((60, 50), 1), ((61, 16), 0)])
def test_a_grid_has_a_patch_of_any_form_wherever_one_fits(tmp_path, patch_shape, count):
    items = grid(tmp_path, slices=2, patch_shape=patch_shape)
    assert len(items) == 2 * count
    assert len({(item["uid"], item["corner"]) for item in items}) == 2 * count


def test_patches_that_are_not_square_cover_both_doses_without_overlap(tmp_path):
    items = grid(tmp_path)
    full, lows, _ = items[0]["pair"].load()
    covered = np.zeros((60, 50), dtype=int)
    for item in items:
        row, column = item["corner"]
        patch = Compose([LoadPaird(realisation=0), GridPatchd(["image", "label"], SHAPE)])(item)
        covered[row : row + 24, column : column + 16] += 1
        for key, whole in (("image", lows[0]), ("label", full)):
            assert patch[key].shape == (1, *SHAPE)
            np.testing.assert_array_equal(patch[key][0], whole[row : row + 24, column : column + 16])
    assert covered[:48, :48].min() == covered.max() == 1 and covered[48:].max() == covered[:, 48:].max() == 0


def test_a_dense_prior_is_refused():
    data = {"image": torch.zeros(1, 60, 60), "corner": (0, 0), "prior": torch.zeros(11, 4, 4)}
    with pytest.raises(BioAttError, match="prior_form=vector"):
        GridPatchd("image", (55, 55))(data)


def loaded(folder, epoch, replicas=1, rank=0, workers=0, batch=2, seed=3):
    """Patches that one process loads in an epoch, batch by batch."""
    turned = [RandRotate90d(["image", "label"], prob=0.5, max_k=2), RandFlipd(["image", "label"], 0.5, spatial_axis=0)]
    dataset = SeededDataset(grid(folder, slices=2, patch_shape=(16, 16)), squares(*turned), seed=seed)
    sampler = EpochSampler(dataset, num_replicas=replicas, rank=rank, seed=seed)
    sampler.set_epoch(epoch)
    loader = DataLoader(dataset, sampler=sampler, batch_size=batch, num_workers=workers)
    return [one["image"] for one in loader]


def squares(*more):
    """The same for squares, which turned lie on one another."""
    return Compose([LoadPaird(), GridPatchd(["image", "label"], (16, 16)), *more])


def test_an_epoch_can_be_done_again_exactly_and_another_differs(tmp_path):
    first, again, other = loaded(tmp_path, 4), loaded(tmp_path, 4), loaded(tmp_path, 5)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert not torch.equal(first[0], loaded(tmp_path, 4, seed=4)[0])


def test_workers_change_nothing(tmp_path):
    assert all(torch.equal(a, b) for a, b in zip(loaded(tmp_path, 2), loaded(tmp_path, 2, workers=1), strict=True))


def test_two_processes_see_what_one_sees_with_twice_the_batch(tmp_path):
    one = loaded(tmp_path, 1, batch=4)
    two = [loaded(tmp_path, 1, replicas=2, rank=rank) for rank in range(2)]
    for step, whole in enumerate(one[:-1]):
        parts = torch.cat([ranks[step] for ranks in two])
        assert sorted(x.sum().item() for x in parts) == pytest.approx(sorted(x.sum().item() for x in whole))


def test_every_patch_comes_once_an_epoch(tmp_path):
    dataset = SeededDataset(grid(tmp_path, slices=2), cutting())
    sampler = EpochSampler(dataset)
    sampler.set_epoch(7)
    found = sorted((dataset[index]["uid"], dataset[index]["corner"]) for index in sampler)
    assert found == sorted((item["uid"], item["corner"]) for item in dataset.data)
