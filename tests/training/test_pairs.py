"""Pairs for training, real and simulated: made once, kept whole, with the prior of their own slice."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import torch
from made_studies import as_nifti
from phantom import write_ct_series
from scripts.dose.matching import DEFAULT_FILTER, DEFAULT_PHOTONS
from scripts.errors import BioAttError
from scripts.priors import DESCRIPTORS, make_prior, write_prior_table
from scripts.training import LoadPaird, find_studies, make_split, training_pairs
from scripts.training.studies import pseudonym_of
from scripts.volumes import radiological_slices
from scripts.volumes.reader import slice_keys_from_meta

ARGUMENTS = {"dose_fractions": (0.5, 0.1), "views": 60}


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
    descriptors = DESCRIPTORS

    def __call__(self, slices_hu, keys):
        assert len(slices_hu) == len(keys)
        return torch.nn.functional.one_hot(torch.tensor([key.index for key in keys]), 11).float()


def pairs_of(dataset, cache, prior=None, part="train", patients=(), split="patient", **arguments):
    """Pairs of the patients named, or of all."""
    studies = find_studies(dataset, progress=False)
    named = {} if split != "patient" else {f"{part}_patients": patients or studies.patients}
    parts = make_split(studies, file=cache / "split.json", split=split, **named)
    prior = prior or make_prior("uniform")
    return training_pairs(studies, parts, part, cache, prior, **{**ARGUMENTS, **arguments})


def test_a_pair_is_the_slice_and_its_noisier_selves(dataset, tmp_path):
    pairs = pairs_of(dataset, tmp_path, patients=["B"])
    assert [pair["patient"] for pair in pairs] == [pseudonym_of("B")] * 3
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
    from scripts.training import pairs

    real = pairs.simulate
    monkeypatch.setattr(pairs, "simulate", lambda *a: made.append(a[-1]) or real(*a))
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


def test_patients_are_chosen_repeated_and_thinned(dataset, tmp_path):
    chosen = pairs_of(dataset, tmp_path, patients=["C", "A", "A"], slices_per_patient=1)
    assert [pair["patient"] for pair in chosen] == [pseudonym_of(name) for name in "CAA"]
    thin = pairs_of(dataset, tmp_path, patients=["A"], slices_per_patient=2)
    assert [pair["pair"].key.index for pair in thin] == [1]


def test_a_series_without_soft_tissue_takes_stated_defaults(tmp_path, caplog):
    def bone_in_air(hu, i):
        return np.where(hu > 300, 600, -1000)

    write_ct_series(tmp_path / "data" / "air", shape=(96, 96), slices=2, degrade=bone_in_air)
    with caplog.at_level(logging.INFO):
        pairs = pairs_of(tmp_path / "data", tmp_path / "cache")
    assert f"{pseudonym_of('air')}: noise filter {DEFAULT_FILTER}, {DEFAULT_PHOTONS:.3g} photons" in caplog.text
    assert "no flat tissue, so no spectrum and no noise: the default filter and photons" in caplog.text
    assert len(pairs) == 2 and pairs[0]["pair"].load()[1].shape == (2, 96, 96)


def test_the_match_of_the_noise_is_kept_told_and_found_again(dataset, tmp_path, monkeypatch, caplog):
    def low_anew():
        """Low doses of the first slice, made again where they were made before."""
        for file in tmp_path.rglob("*.npz"):
            file.unlink()
        return pairs_of(dataset, tmp_path, patients=["A"])[0]["pair"].load()[1]

    with caplog.at_level(logging.INFO):
        first = low_anew()
    (kept,) = tmp_path.rglob("*.noise.json")
    match = json.loads(kept.read_text())
    assert match["photons"] > 0 and match["filter_name"] in match["words"]
    assert {file.parent for file in tmp_path.rglob("*.npz")} == {kept.parent}
    assert f"{pseudonym_of('A')}: noise {match['words']}" in caplog.text
    from scripts.training import pairs

    monkeypatch.setattr(pairs, "find_match", lambda *a: pytest.fail("found again"))
    np.testing.assert_array_equal(low_anew(), first)
    monkeypatch.undo()
    kept.write_text("{")  # damaged: it is found anew, the same
    np.testing.assert_array_equal(low_anew(), first)
    assert json.loads(kept.read_text()) == match


def test_several_processes_simulate_the_same(dataset, tmp_path):
    one = pairs_of(dataset, tmp_path / "one", patients=["A", "B"])
    two = pairs_of(dataset, tmp_path / "two", patients=["A", "B"], processes=2)
    for first, second in zip(one, two, strict=True):
        assert all(map(np.array_equal, first["pair"].load(), second["pair"].load()))


def test_load_pair_gives_one_realisation_with_its_own_prior(dataset, tmp_path):
    item = pairs_of(dataset, tmp_path, patients=["A"])[0]
    full, low, _ = item["pair"].load()
    for realisation in range(2):
        loaded = LoadPaird(realisation=realisation)(item)
        np.testing.assert_array_equal(loaded["image"][0].numpy(), low[realisation])
        np.testing.assert_array_equal(loaded["label"][0].numpy(), full)
        assert loaded["prior"].shape == (11,) and loaded["patient"] == pseudonym_of("A")
        assert (loaded["region"], loaded["uid"]) == ("chest", item["pair"].key.sop_instance_uid)


@pytest.mark.parametrize("is_real", [False, True])
def test_a_pair_tells_where_padding_was(tmp_path, is_real):
    grid = {"shape": (96, 96), "spacing": (3.5, 3.5), "slices": 1, "signed": True, "intercept": 0.0, "padding": -2000}
    folders = ("data/A/full_1mm", "data/A/quarter_1mm") if is_real else ("data/A",)
    for seed, folder in enumerate(folders):
        write_ct_series(tmp_path / folder, noise_sd=12.0, seed=seed, **grid)
    (item,) = pairs_of(tmp_path / "data", tmp_path / "cache")
    pair = item["pair"]
    expected = radiological_slices(tmp_path / folders[-1])[0] >= -1024
    assert 0.1 < expected.mean() < 0.9
    np.testing.assert_array_equal(pair.inside(), expected)
    loaded = LoadPaird()(item)
    np.testing.assert_array_equal(loaded["inside"][0].numpy(), expected)
    assert (loaded["image"][0].numpy()[~expected] == -1024).all(), "without the noise that is simulated there"
    full, low, _ = pair.load()
    np.savez(pair.path, full=full, low=low)
    assert pair.inside().all(), "a file of 0.7.0 does not tell"


@pytest.fixture(scope="module")
def real_doses(tmp_path_factory):
    """A patient whose low dose is real: files in reverse order, and one slice missing."""
    root = tmp_path_factory.mktemp("mayo")
    write_ct_series(root / "L067" / "full_1mm", slices=5, noise_sd=5.0, seed=1)
    write_ct_series(root / "L067" / "quarter_1mm", slices=5, noise_sd=30.0, seed=2, reversed_order=True)
    (root / "L067" / "quarter_1mm" / "0004.dcm").unlink()
    return root


def test_a_real_low_dose_is_the_one_realisation_of_the_slice_at_its_place(real_doses, tmp_path):
    pairs = pairs_of(real_doses, tmp_path, SliceNumberPrior())
    full = radiological_slices(real_doses / "L067" / "full_1mm")
    low = radiological_slices(real_doses / "L067" / "quarter_1mm", allow_gaps=True)
    low_keys = slice_keys_from_meta(low.meta, 4)
    assert len(pairs) == 4
    for pair, i, j in zip(pairs, (0, 2, 3, 4), range(4), strict=True):
        stored_full, stored_low, priors = pair["pair"].load()
        np.testing.assert_array_equal(stored_full, np.rint(full[i]))
        np.testing.assert_array_equal(stored_low, np.rint(low[j])[None])
        assert priors.shape == (1, 11) and priors[0].argmax() == j  # that of the low dose's own slice
        assert pair["pair"].key == low_keys[j] and pair["uid"] == low_keys[j].sop_instance_uid


def test_a_real_pair_is_found_again_without_reading_its_volumes(real_doses, tmp_path, monkeypatch):
    first = pairs_of(real_doses, tmp_path)
    from scripts.training import pairs

    monkeypatch.setattr(pairs, "radiological_slices", lambda *a, **k: pytest.fail("read again"))
    again = pairs_of(real_doses, tmp_path, dose_fractions=(0.3,), seed=5)  # these are of the simulation alone
    assert [one["pair"].path for one in again] == [one["pair"].path for one in first]


def test_nifti_pairs_have_names_by_content(real_doses, tmp_path):
    place = tmp_path / "data" / "Smith"
    place.mkdir(parents=True)
    for dose, name in (("full", "full_1mm"), ("low", "full_1mm")):
        as_nifti(real_doses / "L067" / name, place / f"{dose}.nii", axes=(1, 0, 2) if dose == "low" else (0, 1, 2))
    pairs = pairs_of(tmp_path / "data", tmp_path / "cache")
    assert len({pair["uid"] for pair in pairs}) == 5 and "Smith" not in str(pairs[0]["pair"].path)
    for pair in pairs:
        full, low, _ = pair["pair"].load()
        np.testing.assert_array_equal(full, low[0])
        assert pair["region"] == "unknown"


@pytest.mark.parametrize("damage", [b"", b"PK nonsense", "cut"])
def test_a_damaged_file_is_made_again_the_same(dataset, tmp_path, damage):
    prior = SliceNumberPrior()
    first = pairs_of(dataset, tmp_path, prior, patients=["A"])[1]["pair"]
    whole = first.path.read_bytes()
    kept = first.path.with_suffix(f".{prior.digest[:16]}.prior.npy")
    for file in (first.path, kept):
        file.write_bytes(file.read_bytes()[:-200] if damage == "cut" else damage)
    with pytest.raises(BioAttError, match="damaged or gone; run again"):
        first.load()
    again = pairs_of(dataset, tmp_path, prior, patients=["A"])[1]["pair"]
    assert again.path.read_bytes() == whole
    np.testing.assert_array_equal(again.priors, first.priors)


def test_the_cache_keeps_its_names(dataset, tmp_path):
    """Caches made before are found again: folder and file names are pinned."""
    recipe = {"dose_fractions": [0.2, 0.2, 0.2], "views": 600}
    (item,) = pairs_of(dataset, tmp_path, patients=["A"], slices_per_patient=1, **recipe)
    pinned = item["pair"]
    assert pinned.path.relative_to(tmp_path).as_posix() == f"013c969f4223754d/{pinned.key.sop_instance_uid}.npz"


def test_the_region_is_the_headers_else_the_priors(tmp_path):
    def without_body_part(dataset, i):
        del dataset.BodyPartExamined

    write_ct_series(
        tmp_path / "data" / "A", shape=(96, 96), spacing=(3.5, 3.5), slices=3, noise_sd=12.0, modify=without_body_part
    )
    pairs = pairs_of(tmp_path / "data", tmp_path / "cache", SliceNumberPrior())
    assert [pair["region"] for pair in pairs] == ["head", "head", "chest"]
    control = pairs_of(tmp_path / "data", tmp_path / "cache", make_prior("random:3"))
    assert {pair["region"] for pair in control} == {"unknown"}


def test_nan_is_one_line_with_the_place_and_nothing_is_lost(dataset, tmp_path):
    import nibabel

    for name in ("A", "B"):
        (tmp_path / "data" / name).mkdir(parents=True)
        as_nifti(dataset / name, tmp_path / "data" / name / "full.nii")
    image = nibabel.load(tmp_path / "data" / "B" / "full.nii")
    values = image.get_fdata(dtype=np.float32)
    values[10, 10, 1] = np.nan
    broken = nibabel.Nifti1Image(values, image.affine)
    nibabel.save(broken, tmp_path / "data" / "B" / "full.nii")
    with pytest.raises(BioAttError, match=r"^P-\w+: no pairs can be made: the full dose holds NaN .* at 0.00 mm"):
        pairs_of(tmp_path / "data", tmp_path / "cache")
    assert len(list((tmp_path / "cache").rglob("*.npz"))) == 3  # those of patient A


def test_a_table_without_the_slice_is_one_line_without_names(dataset, tmp_path):
    uniform = make_prior("uniform")
    keys = slice_keys_from_meta(radiological_slices(dataset / "A").meta, 3)
    rows = [(key, uniform(torch.zeros(1, 2, 2), [key])[0]) for key in keys]
    table = write_prior_table(tmp_path / "table.csv", rows, uniform)
    prior = make_prior(f"table:{table}")
    assert len(pairs_of(dataset, tmp_path, prior, patients=["A"])) == 3
    with pytest.raises(BioAttError, match=f"^{pseudonym_of('B')}: .*not in the prior table") as raised:
        pairs_of(dataset, tmp_path, prior, patients=["B"])
    assert str(dataset) not in str(raised.value)


def test_the_papers_split_takes_other_slices_of_the_same_patients(tmp_path):
    for seed, name in enumerate("AB"):
        full = tmp_path / "data" / name / "full_1mm"
        write_ct_series(full, slices=7, seed=seed)
        write_ct_series(full.with_name("quarter_1mm"), slices=7, noise_sd=20.0, seed=seed + 10)
    cache = tmp_path / "cache"
    heights = {}
    for part in ("train", "validate", "test"):
        pairs = pairs_of(tmp_path / "data", cache, part=part, split="within_patient")
        assert {pair["patient"] for pair in pairs} == {pseudonym_of("A"), pseudonym_of("B")}
        heights[part] = [pair["pair"].key.index for pair in pairs if pair["patient"] == pseudonym_of("A")]
    assert heights == {"train": [0, 1, 2, 3], "validate": [4, 5], "test": [6]}
