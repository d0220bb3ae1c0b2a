"""Pairs from full-dose series: simulated once, kept whole, with the prior of their own slice."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scripts.data import LoadPaird, radiological_slices, simulated_pairs
from scripts.data.reader import slice_keys_from_meta
from scripts.errors import BioAttError
from scripts.phantom import write_ct_series
from scripts.priors import make_prior

ARGUMENTS = {"dose_fractions": (0.5, 0.1), "filter_names": ("hann",), "views": 60}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Three patients; soft tissue enough to calibrate on."""
    root = tmp_path_factory.mktemp("dataset")
    for seed, name in enumerate(("A", "B", "C")):
        write_ct_series(root / name, shape=(96, 96), spacing=(3.5, 3.5), slices=3, noise_sd=12.0, seed=seed)
    return root


class SliceNumberPrior:
    """A prior that names the slice it is asked about."""

    name = model = "number"
    digest = "number" * 4

    def __call__(self, slices_hu, keys):
        assert len(slices_hu) == len(keys)
        return torch.nn.functional.one_hot(torch.tensor([key.index for key in keys]), 11).float()


def pairs_of(dataset, cache, prior=None, **arguments):
    return simulated_pairs(dataset, cache, prior or make_prior("uniform"), **{**ARGUMENTS, **arguments})


def test_a_pair_is_the_slice_and_its_noisier_selves(dataset, tmp_path):
    pairs = pairs_of(dataset, tmp_path, patients=["B"])
    assert [pair["patient"] for pair in pairs] == ["B"] * 3
    full, low, priors = pairs[1]["pair"].load()
    np.testing.assert_array_equal(full, np.rint(radiological_slices(dataset / "B")[1]))
    assert low.shape == (2, 96, 96) and priors.shape == (2, 11)
    soft = np.abs(full - 40) < 60
    added = [(one.astype(float) - full)[soft] for one in low]
    assert added[1].std() > 2 * added[0].std() > 4
    assert all(abs(noise.mean()) < 3 for noise in added)


def test_the_prior_is_that_of_the_slice_itself(dataset, tmp_path):
    pairs = pairs_of(dataset, tmp_path, SliceNumberPrior(), patients=["A", "C"])
    assert [int(pair["pair"].priors[0].argmax()) for pair in pairs] == [0, 1, 2, 0, 1, 2]
    keys = slice_keys_from_meta(radiological_slices(dataset / "A").meta, 3)
    assert [pair["pair"].key for pair in pairs[:3]] == keys


def test_the_cache_is_used_and_an_interrupted_run_goes_on(dataset, tmp_path, monkeypatch):
    first = pairs_of(dataset, tmp_path, patients=["A"])
    kept = {pair["pair"].path: pair["pair"].path.read_bytes() for pair in first}
    missing = first[2]["pair"].path
    missing.unlink()
    made = []
    from scripts.data import simulated

    real = simulated._simulate
    monkeypatch.setattr(simulated, "_simulate", lambda *a: made.append(a[-1]) or real(*a))
    pairs_of(dataset, tmp_path, patients=["A"])
    assert made == [missing.stem]
    assert {path: path.read_bytes() for path in kept} == kept
    assert not [path for path in tmp_path.rglob("*") if "partial" in path.name]


def test_another_recipe_is_another_cache_entry(dataset, tmp_path):
    one = pairs_of(dataset, tmp_path, patients=["A"], slices_per_patient=1)[0]["pair"]
    other = pairs_of(dataset, tmp_path, patients=["A"], slices_per_patient=1, seed=1)[0]["pair"]
    assert one.path != other.path
    assert not np.array_equal(one.load()[1], other.load()[1])
    np.testing.assert_array_equal(one.load()[0], other.load()[0])


def test_patients_are_chosen_left_out_and_thinned(dataset, tmp_path):
    assert {pair["patient"] for pair in pairs_of(dataset, tmp_path, without=["B"])} == {"A", "C"}
    thin = pairs_of(dataset, tmp_path, patients=["A"], slices_per_patient=2)
    assert [pair["pair"].key.index for pair in thin] == [1]
    with pytest.raises(BioAttError, match="patients Z are not in .*; it has A, B, C"):
        pairs_of(dataset, tmp_path, patients=["Z"])


def test_a_series_without_soft_tissue_cannot_be_calibrated(tmp_path):
    write_ct_series(tmp_path / "data" / "air", slices=2, degrade=lambda hu, i: hu * 0 - 1000)
    with pytest.raises(BioAttError, match="no soft tissue to measure its noise in"):
        pairs_of(tmp_path / "data", tmp_path / "cache")


def test_load_pair_gives_one_realisation_with_its_own_prior(dataset, tmp_path):
    item = pairs_of(dataset, tmp_path, patients=["A"])[0]
    full, low, _ = item["pair"].load()
    drawn = set()
    load = LoadPaird()
    load.set_random_state(0)
    for _ in range(20):
        loaded = load(item)
        which = [i for i in range(2) if np.array_equal(loaded["image"][0].numpy(), low[i])]
        drawn.update(which)
        assert len(which) == 1 and np.array_equal(loaded["label"][0].numpy(), full)
        assert loaded["prior"].shape == (11,) and loaded["patient"] == "A"
    assert drawn == {0, 1}
    fixed = LoadPaird(realisation=1)(item)
    np.testing.assert_array_equal(fixed["image"][0].numpy(), low[1])
