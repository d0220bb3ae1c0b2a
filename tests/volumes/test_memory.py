"""A long series is in memory once: turned, batched, denoised and turned back without copies."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import permutations, product

import nibabel
import numpy as np
import pytest
import torch
from monai.data import MetaTensor, decollate_batch, list_data_collate
from monai.transforms import Compose, EnsureChannelFirstd, Invertd, Orientationd
from phantom import write_ct_series
from scripts.device import keep_freed_memory
from scripts.volumes import OrientSlicesd, collate_one

CODES = [
    "".join(letters)
    for axes in permutations(("RL", "AP", "SI"))
    for letters in product(*axes)
    if letters[0] != "I"  # 40 of the 48: enough of each kind
]
PEAK = """
import resource, sys, torch
from scripts.workflow import open_workflow

class Weaker(torch.nn.Module):
    num_descriptors = 11
    def forward(self, image, prior=None):
        return image * 0.9

overrides = {"dataset_dir": sys.argv[1], "output_dir": sys.argv[2], "network": Weaker(), "prior": "uniform"}
overrides["report"] = bool(sys.argv[3])
open_workflow("inference", ["inference.json"], overrides | {"progress": False, "device": torch.device("cpu")}).run()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def volume_in(codes, order="C", shape=(4, 5, 6)):
    """A volume of distinct numbers whose axes run to `codes`, obliquely."""
    letters = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
    affine = np.eye(4)
    affine[:3, :3] = 0.05
    for column, letter in enumerate(codes):
        row, sign = letters[letter]
        affine[row, column] = sign * (0.7 + row)
    affine[:3, 3] = (10, -20, 30)
    values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    return MetaTensor(torch.from_numpy(np.asarray(values, order=order)), affine=torch.from_numpy(affine))


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("codes", CODES)
def test_volumes_are_turned_and_turned_back_as_monai_does_it_in_their_own_memory(codes, order):
    theirs = Compose([EnsureChannelFirstd("image", channel_dim="no_channel"), Orientationd("image", axcodes="PLS")])
    expected = theirs({"image": volume_in(codes, order)})["image"]
    ours, image = Compose([OrientSlicesd("image")]), volume_in(codes, order)
    memory = image.data_ptr()
    turned = ours({"image": image})
    got = turned["image"]
    assert got.data_ptr() == memory
    assert torch.equal(got.as_tensor(), expected.as_tensor())
    torch.testing.assert_close(got.affine, expected.affine)
    assert nibabel.aff2axcodes(got.affine.numpy()) == ("P", "L", "S")
    turned["pred"] = got
    back = Invertd("pred", ours, orig_keys="image")(turned)["pred"]
    assert back.data_ptr() == memory
    assert torch.equal(back.as_tensor()[0], volume_in(codes, order).as_tensor())
    torch.testing.assert_close(back.affine, volume_in(codes, order).affine)
    assert back.applied_operations == []


def test_a_volume_that_has_a_channel_already_is_turned_as_well():
    image = volume_in("RAS")
    with_channel = MetaTensor(image.as_tensor().clone()[None], affine=image.affine)
    expected = OrientSlicesd()({"image": image})["image"]
    assert torch.equal(OrientSlicesd()({"image": with_channel})["image"].as_tensor(), expected.as_tensor())


def test_a_batch_of_one_is_what_monai_makes_of_it_without_a_copy():
    item = OrientSlicesd()({"image": volume_in("LPS")}) | {"name": "a", "number": 3}
    expected, got = list_data_collate([item]), collate_one([item])
    assert got.keys() == expected.keys() and got["name"] == ["a"] and torch.equal(got["number"], expected["number"])
    image = got["image"]
    assert image.data_ptr() == item["image"].data_ptr() and image.is_batch
    assert torch.equal(image.as_tensor(), expected["image"].as_tensor())
    torch.testing.assert_close(image.affine, expected["image"].affine)
    assert image.applied_operations == expected["image"].applied_operations
    (one,), (other,) = decollate_batch(got), decollate_batch(expected)
    assert one["image"].applied_operations == other["image"].applied_operations == item["image"].applied_operations
    assert one["image"].meta.keys() == other["image"].meta.keys()
    with pytest.raises(ValueError, match="a batch of one volume, got 2"):
        collate_one([item, item])


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is Linux's")
def test_glibc_keeps_freed_memory():
    assert keep_freed_memory() == (os.confstr("CS_GNU_LIBC_VERSION") is not None)


def nifti(folder, slices):
    """A NIfTI file of int16, and what inference.json calls its place."""
    values = np.random.default_rng(0).integers(-1000, 1000, (512, 512, slices), dtype=np.int16)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([0.7, 0.7, 1.0, 1.0])), folder / f"{slices}.nii")
    return folder / f"{slices}.nii"


def dicom(folder, slices):
    """A DICOM series."""
    return write_ct_series(folder / f"series{slices}", shape=(512, 512), spacing=(0.7, 0.7), slices=slices)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is KiB on Linux only")
@pytest.mark.parametrize("report", ["", "report"])
@pytest.mark.parametrize("make", [nifti, dicom])
def test_peak_memory_grows_by_the_volume_and_no_more(tmp_path, bundle_root, make, report):
    """The whole workflow; with a stand-in for the network, which takes the same memory for each slice."""
    peaks, few, many = [], 60, 260
    for slices in (few, many):
        words = [str(make(tmp_path, slices)), str(tmp_path / f"out{slices}"), report]
        done = subprocess.run(
            [sys.executable, "-c", PEAK, *words], cwd=bundle_root, capture_output=True, text=True, check=True
        )
        peaks.append(float(done.stdout.splitlines()[-1]))
    volume_mib = (many - few) * 512 * 512 * 4 / 2**20
    print(f"{make.__name__}: {peaks[0]:.0f} MiB with {few} slices, {peaks[1]:.0f} with {many}, volume {volume_mib:.0f}")
    assert peaks[1] - peaks[0] < 1.05 * volume_mib, "float32 once, and what allocators and pages waste"
