"""Volumes that an application such as MONAI Label hands over: paired, trained on again and again, published."""

from __future__ import annotations

import os
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from made_studies import SMALL_TRAINING, as_nifti
from monai.bundle import ConfigWorkflow
from monai.transforms import Compose
from phantom import write_ct_series
from scripts.errors import BioAttError, find_bioatt_error
from scripts.networks import BioAttUNet, load_weights, read_recipe
from scripts.priors import make_prior
from scripts.training import LoadPaird, PairDataset
from scripts.volumes import radiological_slices

SMALL = SMALL_TRAINING | {"batch_size": 4, "steps_per_epoch": 10, "tensorboard": False}


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    """Three patients as a datalist: the low dose as image, the full dose as label, as MONAI Label has them."""
    root = tmp_path_factory.mktemp("studies")
    items = []
    for seed, name in enumerate("abc"):
        places = {"image": root / f"{name}.nii.gz", "label": root / f"{name}_full.nii.gz"}
        for dose, noise_sd in (("image", 40.0), ("label", 8.0)):
            series = write_ct_series(root / "dicom" / f"{name}{dose}", slices=3, noise_sd=noise_sd, seed=seed)
            as_nifti(series, places[dose])
        items.append({key: str(path) for key, path in places.items()})
    return items


def dataset(items, cache, part="train"):
    return PairDataset(items, part, Compose([LoadPaird()]), cache_dir=cache, prior_source=make_prior("uniform"))


def test_each_slice_is_paired_with_the_label_at_its_place(volumes, tmp_path):
    pairs = dataset(volumes[:2], tmp_path)
    assert len(pairs) == 6
    for item, key in ((pairs[4], "image"), (pairs[4], "label")):
        stored = np.rint(radiological_slices(volumes[1][key])[1])
        np.testing.assert_array_equal(item[key][0].numpy(), stored)
    assert pairs[4]["prior"].shape == (11,) and pairs[4]["patient"].startswith("P-")


def test_pairs_are_taken_as_they_are(volumes, tmp_path):
    pairs = dataset(volumes[:1], tmp_path)
    again = dataset(pairs.data, tmp_path / "none")
    assert again.data == pairs.data and not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([], "nothing is left to validate on; add volumes"),
        ([{"image": "low.nii.gz", "label": 3}], "has no single path as label"),
        ([{"image": "low.nii.gz", "label": "full.nii.gz"}], "nothing in the datalist can be used: P-.*does not exist"),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path, items, message):
    with pytest.raises(BioAttError, match=message):
        dataset(items, tmp_path, "validate")


def train(bundle_root, root, volumes, **overrides):
    """The training workflow, started as MONAI Label starts it: the bundle's root and two lists, no dataset_dir."""
    workflow = ConfigWorkflow(
        config_file=str(bundle_root / "configs" / "train.json"),
        meta_file=str(bundle_root / "configs" / "metadata.json"),
        run_id="run",
        workflow_type=None,
        bundle_root=str(root),
        device="cpu",
        **{"train#trainer#max_epochs": 1, "train#dataset#data": volumes[:2], "validate#dataset#data": volumes[2:]},
        **SMALL,
        **overrides,
    )
    workflow.initialize()
    workflow.run()


def test_without_a_data_set_the_bundles_weights_are_left_alone(bundle_root, volumes, tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "model.pt").write_bytes(b"shipped")
    train(bundle_root, tmp_path, volumes)
    assert (tmp_path / "models" / "model.pt").read_bytes() == b"shipped"
    assert (tmp_path / "training" / "model.pt").is_file()


def test_label_training_again_and_again_replaces_the_published_weights(bundle_root, volumes, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "monailabel", ModuleType("monailabel"))
    (tmp_path / "models").mkdir()
    published = tmp_path / "models" / "model.pt"
    states = []
    for seed, share in ((0, {"network_def#prior_share": 0.3}), (1, {})):
        train(bundle_root, tmp_path, volumes, seed=seed, val_interval=1 + seed, **share)
        assert read_recipe(published).network_def["prior_share"] == 0.3, "the server keeps the network of its start"
        states.append(load_weights(BioAttUNet(widths=[4, 6]), published).state_dict())
    assert any(not torch.equal(one, states[1][key]) for key, one in states[0].items())
    written = set(os.listdir(tmp_path / "training"))
    assert {"checkpoint.pt", "curve.csv", "cache"} <= written
    assert not {"model.pt", "best.pt", "split.json"} & written, "no best weights of a run before, nor a second place"


def test_without_any_data_the_data_is_asked_for(bundle_root, tmp_path):
    workflow = ConfigWorkflow(
        config_file=str(bundle_root / "configs" / "train.json"), workflow_type=None, bundle_root=str(tmp_path)
    )
    workflow.initialize()
    with pytest.raises(RuntimeError) as raised:
        workflow.run()
    assert "dataset_dir is not a folder" in str(find_bioatt_error(raised.value))
    assert not list(tmp_path.iterdir())
