"""The ranges that training saw: written beside the weights, compared with input, told in log, result and summary."""

from __future__ import annotations

import json
import logging
import math
import re
from dataclasses import asdict, replace

import numpy as np
import pydicom
import pytest
from dicom_cases import derive
from made_studies import as_nifti, lively_network, save_default_network, write_patients
from phantom import write_ct_series
from scipy.ndimage import gaussian_filter
from scripts.dicom import read_volume, select_series
from scripts.dose.image_noise import noise_frequency
from scripts.errors import BioAttError
from scripts.networks import read_recipe
from scripts.priors import SliceKey, UniformPrior
from scripts.training import training_recipe, training_scope
from scripts.training.pairs import CachedPair
from scripts.volumes.orientation import OrientSlicesd
from scripts.volumes.reader import SeriesReader
from scripts.volumes.scope import KERNELS, CheckScoped, Facts, Scope, facts_of_volume, header_facts, scope_of
from scripts.volumes.transforms import LoadSeriesd
from scripts.workflow import run_workflow

SCOPE = Scope(
    slice_thickness_mm=(2.5, 5.0),
    pixel_spacing_mm=(0.6, 0.9),
    kvp=(120.0, 120.0),
    noise_sd_hu=(8.0, 60.0),
    regions=("abdomen", "chest"),
    patients=3,
)
BY_KERNEL = replace(SCOPE, noise_sd_hu_by_kernel={"soft": (8.0, 30.0), "medium": (10.0, 60.0)})


def facts(**changed):
    known = {"slice_thickness_mm": 3.0, "pixel_spacing_mm": 0.7, "kvp": 120.0, "noise_sd_hu": 20.0}
    return Facts(**({**known, "region": "abdomen"} | changed))


def test_what_lies_inside_or_is_not_known_raises_nothing():
    assert SCOPE.outside(facts()) == []
    assert SCOPE.outside(facts(kvp=None, noise_sd_hu=None, region="unknown")) == []
    assert SCOPE.outside(facts(slice_thickness_mm=5.0001, pixel_spacing_mm=0.595)) == [], "rounding in headers"
    nothing = Scope(slice_thickness_mm=None, pixel_spacing_mm=None, kvp=None, noise_sd_hu=None, regions=(), patients=0)
    assert nothing.outside(facts(region="head")) == []


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"slice_thickness_mm": 0.6}, "slice thickness 0.6 mm, trained on 2.5 to 5"),
        ({"pixel_spacing_mm": 1.4}, "pixel spacing 1.4 mm, trained on 0.6 to 0.9"),
        ({"kvp": 80.0}, "tube voltage 80 kV, trained on 120 kV only"),
        ({"noise_sd_hu": 3.0}, "noise in soft tissue 3 HU, trained on 8 to 60"),
        ({"region": "head"}, "region head, trained on abdomen, chest"),
    ],
)
def test_what_lies_outside_is_told_in_words(changed, told):
    assert SCOPE.outside(facts(**changed)) == [told]


@pytest.mark.parametrize(
    ("noise_hu", "frequency", "told"),
    [
        (40.0, 0.28, []),
        (40.0, 0.20, ["noise in soft tissue 40 HU, trained on 8 to 30 with soft kernels"]),
        (40.0, 0.24, []),  # either kernel
        (
            70.0,
            0.24,
            ["noise in soft tissue 70 HU, trained on 8 to 30 with soft kernels; 10 to 60 with medium kernels"],
        ),
        (40.0, 0.38, ["noise of a sharp reconstruction kernel, trained on soft and medium ones"]),
        (40.0, None, []),
        (70.0, None, ["noise in soft tissue 70 HU, trained on 8 to 60"]),
        (None, 0.28, []),
    ],
)
def test_noise_is_compared_with_that_of_its_kernel(noise_hu, frequency, told):
    assert BY_KERNEL.outside(facts(noise_sd_hu=noise_hu, noise_frequency=frequency)) == told


def test_a_scope_comes_back_from_json_with_and_without_kernels():
    for scope in (SCOPE, BY_KERNEL):
        assert scope_of(json.loads(json.dumps(asdict(scope)))) == scope
    older = asdict(SCOPE)
    del older["noise_sd_hu_by_kernel"]
    assert scope_of(older) == SCOPE


@pytest.mark.parametrize(("kernel_sd", "kernel"), [(0.9, "soft"), (0.6, "medium"), (0.0, "sharp")])
def test_noise_tells_the_kernel_of_a_volume_whatever_the_dose(kernel_sd, kernel):
    """White noise, smoothed: its mean frequency needs no names of kernels."""
    white = np.random.default_rng(0).standard_normal((3, 160, 160))
    noise = gaussian_filter(white, (0, kernel_sd, kernel_sd)) if kernel_sd else white
    found = {noise_frequency(list(40.0 + sd * noise / noise.std())) for sd in (5.0, 20.0)}
    assert max(found) - min(found) < 0.02
    assert all(kernel in Facts(noise_frequency=one).kernels for one in found)


def test_without_flat_tissue_no_kernel_is_told():
    assert math.isnan(noise_frequency([np.full((64, 64), -1000.0)]))
    assert Facts().kernels == []


def test_the_shipped_scope_has_all_kernels_and_is_read(bundle_root):
    scope = scope_of(read_recipe(bundle_root / "models" / "model.pt").scope)
    assert list(scope.noise_sd_hu_by_kernel) == list(KERNELS)
    lowest, highest = zip(*scope.noise_sd_hu_by_kernel.values(), strict=True)
    assert (min(lowest), max(highest)) == scope.noise_sd_hu, "the kernels' noise is that of all slices"


@pytest.mark.parametrize("damaged", [{"kvp": 3}, asdict(SCOPE) | {"noise_sd_hu_by_kernel": {"soft": [1.0]}}])
def test_a_damaged_scope_is_refused(damaged):
    with pytest.raises(BioAttError, match="scope in the recipe of the weights is damaged"):
        scope_of(damaged)


@pytest.mark.parametrize("gains", [(1.0, 2.0), (0.5, 2.0)])
def test_training_data_gives_the_ranges_it_shows(tmp_path, gains):
    data = write_patients(tmp_path / "data", "AB", 3)
    write_ct_series(data / "C", shape=(96, 96), spacing=(3.0, 3.0), slices=3, noise_sd=30.0, seed=5)
    overrides = {
        "dataset_dir": str(data),
        "output_dir": str(tmp_path / "out"),
        "validation_patients": ["B"],
        "prior": "uniform",
        "views": 40,
        "dose_fractions": [0.5],
        "augmentation#noise_gain": list(gains),
    }
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model.pt").write_bytes(b"trained before")
    run_workflow("recipe_only", ["train.json"], overrides)
    recipe = read_recipe(tmp_path / "out" / "model.pt")
    assert recipe.network_def["_target_"] == "BioAttUNet" and recipe.prior == "uniform"
    scope = scope_of(recipe.scope)
    assert scope.patients == 2 and scope.pixel_spacing_mm == (3.0, 3.5)
    lowest, highest = scope.noise_sd_hu
    assert lowest == pytest.approx(12.0 * np.sqrt(1 + gains[0] ** 2), rel=0.25), "of the quieter patient"
    assert highest == pytest.approx(30.0 * np.sqrt(1 + gains[1] ** 2), rel=0.3), "twice the added noise of the other"


@pytest.mark.parametrize(
    ("asked", "named", "digest"),
    [
        ("", "uniform", UniformPrior().digest),
        ("uniform", "uniform", UniformPrior().digest),
        ("random:1", "random:1", ""),
    ],
)
def test_a_recipe_names_the_prior_of_inference(asked, named, digest):
    recipe = training_recipe(lively_network(channels=4), UniformPrior(), inference_prior=asked)
    assert (recipe.prior, recipe.prior_digest) == (named, digest)


def test_an_unknown_prior_of_inference_is_refused_before_the_training():
    with pytest.raises(BioAttError, match="unknown prior 'unifrom'"):
        training_recipe(lively_network(channels=4), UniformPrior(), inference_prior="unifrom")


def test_training_data_gives_the_noise_of_each_kernel(tmp_path):
    generator = np.random.default_rng(0)
    pairs = []
    for patient, kernel_sd, noise_hu in (("A", 1.0, 10.0), ("B", 0.0, 20.0)):
        noise = gaussian_filter(generator.standard_normal((2, 160, 160)), (0, kernel_sd, kernel_sd))
        full, added = 40.0 + noise_hu * noise / noise.std()
        arrays = {"full": full.astype(np.int16), "low": (full + added)[None].astype(np.int16)}
        np.savez(tmp_path / f"{patient}.npz", **arrays)
        pair = CachedPair(
            path=tmp_path / f"{patient}.npz",
            priors=np.full((1, 11), 1 / 11, np.float32),
            patient=patient,
            key=SliceKey(0),
            uid=patient,
            dose_fractions=(0.5,),
        )
        pairs.append({"pair": pair, "patient": patient, "region": "unknown"})
    scope = training_scope(pairs)
    assert set(scope.noise_sd_hu_by_kernel) == {"soft", "sharp"}
    for kernel, (lowest, highest) in scope.noise_sd_hu_by_kernel.items():
        assert lowest == highest and scope.noise_sd_hu[0] <= lowest <= scope.noise_sd_hu[1], kernel
    assert scope.noise_sd_hu_by_kernel["sharp"][0] > 1.5 * scope.noise_sd_hu_by_kernel["soft"][0]


@pytest.fixture
def weights(tmp_path):
    narrow = {"slice_thickness_mm": [0.5, 0.6], "pixel_spacing_mm": [3.5, 3.5], "kvp": None, "noise_sd_hu": None}
    return save_default_network(tmp_path / "w.pt", scope=narrow | {"regions": [], "patients": 1})


def denoise(source, target, weights):
    overrides = {"dataset_dir": str(source), "output_dir": str(target), "weights": str(weights), "prior": "uniform"}
    run_workflow("inference", ["inference.json"], overrides | {"progress": False})


def test_input_outside_is_told_in_log_summary_and_dicom(tmp_path, weights, caplog, capsys):
    source = write_ct_series(tmp_path / "in", shape=(96, 96), spacing=(3.5, 3.5), slices=2, noise_sd=12.0)
    with caplog.at_level(logging.WARNING):
        denoise(source, tmp_path / "out", weights)
    assert "outside what the weights were trained on: slice thickness" in caplog.text
    assert "outside scope   slice thickness" in capsys.readouterr().out
    derived = pydicom.dcmread(next((tmp_path / "out").glob("*.dcm")))
    assert "Outside what the weights were trained on: slice thickness" in derived.DerivationDescription
    assert derived.DerivationDescription.endswith("not a medical device: not for diagnosis.")


def test_nifti_outside_is_told_beside_it_and_inside_nothing_is(tmp_path, weights, caplog):
    series = write_ct_series(tmp_path / "in", shape=(96, 96), spacing=(3.5, 3.5), slices=2, noise_sd=12.0)
    source = as_nifti(series, tmp_path / "x.nii.gz")
    denoise(source, tmp_path / "out", weights)
    record = json.loads((tmp_path / "out" / "x.nii.gz.json").read_text())
    assert record["outside_scope"].startswith("slice thickness")
    save_default_network(weights)  # whose recipe has no scope
    caplog.clear()
    denoise(source, tmp_path / "out2", weights)
    record = json.loads((tmp_path / "out2" / "x.nii.gz.json").read_text())
    assert record["outside_scope"] == "" and "trained on" not in caplog.text


#: Directions of rows and columns in all the ways a series can lie in the patient.
DIRECTIONS = {
    "axial": (1, 0, 0, 0, 1, 0),
    "coronal": (1, 0, 0, 0, 0, -1),
    "sagittal": (0, 1, 0, 0, 0, -1),
    "sagittal, the other way": (0, -1, 0, 0, 0, -1),
    "steeply oblique": (1, 0, 0, 0, 0.6, -0.8),
    "oblique about two axes": (0.6, 0.8, 0, 0.48, -0.36, -0.8),
    "at 45 degrees": (1, 0, 0, 0, 0.70710678, 0.70710678),
}


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_every_orientation_is_denoised_with_the_shipped_weights_and_their_scope(tmp_path, direction, caplog):
    grid = {"shape": (48, 40), "spacing": (1.0, 1.0), "slices": 6}
    source = write_ct_series(tmp_path / "in", orientation=DIRECTIONS[direction], **grid)
    overrides = {"dataset_dir": str(source), "output_dir": str(tmp_path / "out"), "report": True}
    with caplog.at_level(logging.WARNING):
        run_workflow("inference", ["inference.json"], overrides | {"progress": False})
    before, after = select_series(source), select_series(tmp_path / "out")
    np.testing.assert_allclose(after.affine, before.affine)
    assert after.shape == before.shape
    assert (read_volume(after) != read_volume(before)).mean() > 0.5
    assert "training data" not in caplog.text and (tmp_path / "out.html").is_file()


def test_thickness_is_that_of_the_slices_the_network_sees(tmp_path):
    scope = Scope(
        slice_thickness_mm=(3.0, 3.0), pixel_spacing_mm=None, kvp=(1.0, 1.0), noise_sd_hu=None, regions=(), patients=1
    )
    loaded = {}
    for name in ("axial", "coronal"):
        folder = write_ct_series(tmp_path / name, orientation=DIRECTIONS[name], spacing=(6.0, 5.0))
        volume = OrientSlicesd("image")(LoadSeriesd("image", SeriesReader())({"image": folder}))["image"]
        loaded[name] = scope.outside(facts_of_volume(volume, header_facts(volume.meta["header_file"])))
    assert [line.split(",")[0] for line in loaded["axial"]] == ["tube voltage 120 kV"]
    assert [line.split(",")[0] for line in loaded["coronal"]] == ["slice thickness 6 mm", "tube voltage 120 kV"]


def test_a_scope_that_cannot_be_judged_is_told_and_refuses_nothing(tmp_path, caplog):
    folder = write_ct_series(tmp_path / "in", spacing=(5.0, 5.0))
    volume = OrientSlicesd("image")(LoadSeriesd("image", SeriesReader())({"image": folder}))["image"]
    volume.meta["header_file"] = str(tmp_path)  # a folder
    unknown = dict.fromkeys(("slice_thickness_mm", "pixel_spacing_mm", "kvp", "noise_sd_hu"))
    looked = CheckScoped("image", unknown | {"regions": [], "patients": 1})({"image": volume})["image"]
    assert looked.meta["outside_scope"] == "" and "cannot compare the input with the training data" in caplog.text


def check(folder, caplog):
    caplog.clear()
    load = LoadSeriesd("image", SeriesReader(assume_hu=True))
    return CheckScoped("image")(OrientSlicesd("image")(load({"image": folder})))["image"].meta["outside_scope"]


@pytest.mark.parametrize("form", ["dicom", "nifti"])
def test_pixels_that_are_not_square_are_warned_of(tmp_path, caplog, form):
    wide = write_ct_series(tmp_path / "wide", spacing=(6.0, 5.0))
    square = write_ct_series(tmp_path / "square", spacing=(5.0, 5.05))
    if form == "nifti":
        wide, square = as_nifti(wide, tmp_path / "wide.nii.gz"), as_nifti(square, tmp_path / "square.nii.gz")
    told = "pixels of 6 x 5 mm (rows x columns) in axial slices, trained on square ones"
    assert check(wide, caplog) == told and told in caplog.text
    assert check(square, caplog) == "" and "outside what the weights were trained on" not in caplog.text


def test_a_series_that_was_denoised_before_is_warned_of(tmp_path, caplog):
    source = write_ct_series(tmp_path / "in", spacing=(5.0, 5.0))
    derive(source, tmp_path / "once")
    check(source, caplog)
    assert "denoised this series before" not in caplog.text
    check(tmp_path / "once", caplog)
    assert "BioAtt denoised this series before; denoise the original" in caplog.text


def test_equipment_that_is_no_sequence_says_nothing_and_is_named_when_it_is_copied(tmp_path, caplog):
    def modify(dataset, _):
        dataset.add_new("ContributingEquipmentSequence", "LO", "BioAtt")

    source = write_ct_series(tmp_path / "in", spacing=(5.0, 5.0), modify=modify)
    check(source, caplog)
    assert "denoised this series before" not in caplog.text
    with pytest.raises(BioAttError, match="0001.dcm: ContributingEquipmentSequence is not a sequence; repair the file"):
        derive(source, tmp_path / "once")


@pytest.mark.parametrize("noise_hu", [0.0, 0.01])
def test_no_nan_and_no_infinite_change_is_shown_without_noise(tmp_path, capsys, noise_hu):
    source = write_ct_series(tmp_path / "in", shape=(96, 96), spacing=(3.5, 3.5), slices=2, noise_sd=noise_hu)
    overrides = {"dataset_dir": str(source), "output_dir": str(tmp_path / "a" / "b" / "out"), "report": True}
    run_workflow("inference", ["inference.json"], overrides | {"progress": False, "prior": "uniform"})
    page = (tmp_path / "a" / "b" / "out.html").read_text(encoding="utf-8")  # its folder is made, as the result's is
    told = capsys.readouterr().out
    assert "noise (SD)      0.0 HU before" in told and "%" not in told.split("noise (SD)")[1].splitlines()[0]
    for shown in (told, re.sub(r"<(svg|img|style|script).*?(</\1>|>)", "", page, flags=re.DOTALL)):
        assert not re.search(r"\bnan\b|\binf\b", shown)
