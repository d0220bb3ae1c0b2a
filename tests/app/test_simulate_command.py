"""`bioatt simulate`: a low-dose series from a routine one, marked so, with the noise that the dose predicts."""

from __future__ import annotations

import hashlib
import json

import nibabel
import numpy as np
import pydicom
import pytest
from made_studies import as_nifti
from phantom import write_ct_series
from scripts.app.command_line import main
from scripts.dicom import select_series
from scripts.dose.image_noise import flat_soft_tissue, noise_sd_hu
from scripts.volumes import load_volume, radiological_slices

CT = {"shape": (96, 96), "spacing": (3.5, 3.5), "slices": 3, "noise_sd": 12.0}
FAST = ("--views", "90", "--quiet")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A routine series."""
    return write_ct_series(tmp_path_factory.mktemp("source") / "routine", **CT)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A routine series with soft tissue enough to measure noise to some percent."""
    folder = tmp_path_factory.mktemp("large") / "routine"
    return write_ct_series(folder, shape=(192, 192), spacing=(1.75, 1.75), slices=3, noise_sd=12.0)


def simulate(source, target, *words):
    """Exit code of the command."""
    return main(["simulate", str(source), str(target), *(words or ("--dose", "0.25")), *FAST])


def slices(path):
    """All slices in HU, (slices, H, W)."""
    found = radiological_slices(path)
    return np.stack([found[i] for i in range(len(found))])


def checksums(folder):
    """Digest of each file."""
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


@pytest.mark.parametrize(("dose", "filter_name"), [(0.25, "hann"), (0.5, "ramp:0.8"), (0.1, "hamming")])
def test_noise_rises_with_the_inverse_root_of_the_dose(large, tmp_path, dose, filter_name):
    words = ("--dose", str(dose), "--filter", filter_name)
    assert simulate(large, tmp_path / "out", *words) == 0
    before, after = slices(large), slices(tmp_path / "out")
    mask = flat_soft_tissue(before)
    assert noise_sd_hu(after, mask) / noise_sd_hu(before, mask) == pytest.approx(1 / np.sqrt(dose), rel=0.12)
    assert abs((after - before)[mask].mean()) < 1.0


def test_result_is_a_derived_series_that_says_it_is_simulated(source, tmp_path, capsys):
    before = checksums(source)
    assert simulate(source, tmp_path / "out") == 0
    assert checksums(source) == before
    original, derived = select_series(source), select_series(tmp_path / "out")
    np.testing.assert_array_equal(derived.affine, original.affine)
    assert derived.series_instance_uid != original.series_instance_uid
    assert not set(derived.sop_instance_uids) & set(original.sop_instance_uids)
    for file, uid in zip(derived.files, original.sop_instance_uids, strict=True):
        header = pydicom.dcmread(file)
        assert header.ImageType[0] == "DERIVED"
        assert header.SeriesDescription == "Body 0 simulated 0.25 dose"
        assert header.DerivationDescription.startswith("Not an acquisition: simulated low dose, fraction 0.25 of the")
        assert "seed 0" in header.DerivationDescription
        assert header.DerivationCodeSequence[0].CodeMeaning == "Pixel by pixel addition"
        assert header.SourceImageSequence[0].ReferencedSOPInstanceUID == uid
        assert "denoising" not in header.ContributingEquipmentSequence[-1].ContributionDescription
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and lines[1] == str(tmp_path / "out")
    assert (
        "dose fraction 0.25" in lines[0] and "(calibrated)" in lines[0] and "of the rays under 10 photons" in lines[0]
    )


def test_seed_decides_the_pixels(source, tmp_path):
    for name, seed in ("one", 5), ("same", 5), ("other", 6):
        assert simulate(source, tmp_path / name, "--dose", "0.5", "--seed", str(seed)) == 0
    one, same, other = (slices(tmp_path / name) for name in ("one", "same", "other"))
    np.testing.assert_array_equal(one, same)
    assert (one != other).mean() > 0.5


def test_slices_have_noise_of_their_own(source, tmp_path):
    assert simulate(source, tmp_path / "out") == 0
    noise = (slices(tmp_path / "out") - slices(source))[:, 40:60, 40:60].reshape(3, -1)
    assert np.abs(np.corrcoef(noise) - np.eye(3)).max() < 0.4


def test_full_dose_gives_back_the_series(source, tmp_path):
    assert simulate(source, tmp_path / "out", "--dose", "1") == 0
    np.testing.assert_array_equal(slices(tmp_path / "out"), slices(source))


def test_padding_and_what_lies_outside_the_circle_keep_their_values(tmp_path):
    source = write_ct_series(tmp_path / "in", **CT, padding=63536, intercept=0.0, signed=False)
    # Stored 63536 is 63536 HU here: named as padding, above all HU, and to be kept by the writer.
    corner = write_ct_series(tmp_path / "signed", **CT, padding=-2000, signed=True, intercept=0.0)
    for folder in (source, corner):
        options = ("--dose", "0.1", "--photons", "1e4", "--assume-hu")  # unsigned without intercept: nothing below 0 HU
        assert simulate(folder, tmp_path / f"{folder.name}_out", *options) == 0
        for before, after in zip(
            select_series(folder).files, select_series(tmp_path / f"{folder.name}_out").files, strict=True
        ):
            before, after = pydicom.dcmread(before), pydicom.dcmread(after)
            padded = before.pixel_array == before.PixelPaddingValue
            assert padded.any()
            np.testing.assert_array_equal(after.pixel_array[padded], before.pixel_array[padded])
            assert (after.pixel_array[~padded] != before.pixel_array[~padded]).mean() > 0.3


def test_slices_that_are_not_square_are_padded_with_air(tmp_path):
    source = write_ct_series(tmp_path / "in", shape=(80, 110), spacing=(3.5, 3.5), slices=2, noise_sd=12.0)
    assert simulate(source, tmp_path / "out") == 0
    before, after = slices(source), slices(tmp_path / "out")
    mask = flat_soft_tissue(before)
    assert after.shape == before.shape
    assert noise_sd_hu(after, mask) / noise_sd_hu(before, mask) == pytest.approx(2.0, rel=0.15)


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1)])
def test_nifti_comes_back_as_it_was_stored_with_the_noise_of_its_dicom(source, tmp_path, axes):
    (tmp_path / "in").mkdir()
    file = as_nifti(source, tmp_path / "in" / "ct.nii.gz", axes=axes, flip=(2,))
    assert simulate(file, tmp_path / "out") == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["ct.nii.gz", "ct.nii.gz.json"]
    before, after = nibabel.load(file), nibabel.load(tmp_path / "out" / "ct.nii.gz")
    np.testing.assert_array_equal(after.affine, before.affine)
    assert after.get_data_dtype() == before.get_data_dtype() and after.shape == before.shape
    record = json.loads((tmp_path / "out" / "ct.nii.gz.json").read_text())
    assert record["dose_fraction"] == 0.25 and record["seed"] == 0
    full, low = slices(file), slices(tmp_path / "out" / "ct.nii.gz")
    mask = flat_soft_tissue(full)
    assert noise_sd_hu(low, mask) / noise_sd_hu(full, mask) == pytest.approx(2.0, rel=0.12)


def test_several_niftis_are_written_together(source, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a.nii", "b.nii"):
        as_nifti(source, tmp_path / "in" / name)
    assert simulate(tmp_path / "in", tmp_path / "out", "--dose", "0.5") == 0
    assert {path.name for path in (tmp_path / "out").glob("*.nii")} == {"a.nii", "b.nii"}


def test_tube_current_of_the_header_shapes_the_noise_along_the_body(tmp_path, capsys):
    def modify(dataset, i):
        dataset.XRayTubeCurrent = (100, 200, 400)[i]

    source = write_ct_series(tmp_path / "in", **CT, modify=modify)
    words = ("--dose", "0.25", "--photons", "1e6", "--electronic", "0", "--tube-current")
    assert simulate(source, tmp_path / "out", *words, "header") == 0
    assert simulate(source, tmp_path / "even", *words[:-1]) == 0
    added = [(slices(tmp_path / name) - slices(source))[:, 30:66, 30:66] for name in ("out", "even")]
    shaped, even = (noise.reshape(3, -1).var(axis=1) for noise in added)
    np.testing.assert_allclose(shaped / even, np.mean([100, 200, 400]) / np.array([100, 200, 400]), rtol=0.1)
    as_nifti(source, tmp_path / "ct.nii")
    assert simulate(tmp_path / "ct.nii", tmp_path / "none", *words, "header") == 2
    assert "has no tube current per axial slice" in capsys.readouterr().err


def test_starved_rays_and_their_bias_are_reported(source, tmp_path, capsys):
    assert simulate(source, tmp_path / "out", "--dose", "0.1", "--photons", "300") == 0
    line = capsys.readouterr().out.splitlines()[0]
    assert float(line.split("%")[0].rsplit(" ", 1)[1]) > 5.0
    assert abs(float(line.split("shifted by ")[1].split(" HU")[0])) > 0.5
    assert "(given)" in line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--dose", "0"), r"dose is 0, expected a fraction in (0, 1]"),
        (("--dose", "1.5"), "dose is 1.5"),
        (("--dose", "nan"), "dose is nan"),
        (("--dose", "0.5", "--filter", "bone"), "filter_name must be one of"),
        (("--dose", "0.5", "--photons", "inf"), "photons is inf"),
        (("--dose", "0.5", "--electronic", "-1"), "electronic noise is -1"),
        (("--dose", "0.5", "--seed", "-1"), "seed is -1"),
        (("--dose", "0.5", "--tube-current", "header"), "XRayTubeCurrent is missing"),
        (("--dose", "0.5", "--series", "1.2.3"), "holds no CT series 1.2.3"),
    ],
)
def test_bad_choices_are_told_in_one_line_and_leave_nothing(source, tmp_path, capsys, words, message):
    assert simulate(source, tmp_path / "out", *words) == 2
    err = capsys.readouterr().err
    last = err.splitlines()[-1]
    assert last.startswith("error: ") and message in last and err.count("error") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("photons", ["0", "nan", "many"])
def test_photons_that_are_no_number_of_photons_are_told(source, tmp_path, capsys, photons):
    with pytest.raises(SystemExit) as ended:
        simulate(source, tmp_path / "out", "--dose", "0.5", "--photons", photons)
    assert ended.value.code == 2
    assert "argument --photons: expected a number above 0, or auto\n" in capsys.readouterr().err


def test_existing_output_is_kept_unless_it_may_be_replaced(source, tmp_path, capsys):
    assert simulate(source, tmp_path / "out", "--dose", "0.5") == 0
    assert simulate(source, tmp_path / "out") == 2
    assert "--overwrite" in capsys.readouterr().err and len(list((tmp_path / "out").iterdir())) == 3
    assert simulate(source, tmp_path / "out", "--dose", "0.5", "--overwrite") == 0
    assert len(list((tmp_path / "out").iterdir())) == 3
    (tmp_path / "out" / "notes.txt").write_text("mine")
    assert simulate(source, tmp_path / "out", "--dose", "0.5", "--overwrite") == 2
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"
    assert simulate(source, source, "--dose", "0.5", "--overwrite") == 2


def test_a_series_with_a_gap_is_simulated_when_it_is_allowed(tmp_path, capsys):
    series = write_ct_series(tmp_path / "gap", **CT | {"slices": 5})
    sorted(series.iterdir())[1].unlink()
    assert simulate(tmp_path / "gap", tmp_path / "out", "--dose", "0.5") == 2
    assert "--allow-gaps" in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert simulate(tmp_path / "gap", tmp_path / "out", "--dose", "0.5", "--allow-gaps") == 0
    assert len(list((tmp_path / "out").iterdir())) == 4


def test_pixels_that_are_not_square_and_series_without_soft_tissue_are_refused(tmp_path, capsys):
    wide = write_ct_series(tmp_path / "wide", shape=(48, 64), spacing=(6.0, 5.0), slices=2)
    assert simulate(wide, tmp_path / "out") == 2
    assert "expected square ones" in capsys.readouterr().err
    air = write_ct_series(
        tmp_path / "air", shape=(48, 48), spacing=(5.0, 5.0), slices=2, degrade=lambda hu, i: 2.0 * hu
    )
    assert simulate(air, tmp_path / "out") == 2
    assert "give the photons per ray with --photons" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.data
def test_real_series_at_a_quarter_of_the_dose_has_twice_the_noise(data_dir, tmp_path):
    source = next(path for path in sorted((data_dir / "ct").iterdir()) if path.is_dir())
    volume = load_volume(source)
    assert main(["simulate", str(source), str(tmp_path / "out"), "--dose", "0.25", "--quiet"]) == 0
    before, after = slices(source), slices(tmp_path / "out")
    chosen = [i for i in range(0, len(before), max(1, len(before) // 8)) if flat_soft_tissue(before[i]).any()]
    ratio = [
        noise_sd_hu(after[i], m) / noise_sd_hu(before[i], m) for i in chosen for m in [flat_soft_tissue(before[i])]
    ]
    assert np.median(ratio) == pytest.approx(2.0, rel=0.15)
    np.testing.assert_array_equal(load_volume(tmp_path / "out").affine, volume.affine)
