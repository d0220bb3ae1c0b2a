"""The inference workflow, run for real through MONAI and through `bioatt`, on small synthetic studies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import highdicom
import nibabel
import numpy as np
import pydicom
import pytest
import torch
from dicom_cases import derive
from made_studies import as_nifti, lively_network
from monai.bundle import ConfigWorkflow
from phantom import write_ct_series
from scripts.app.command_line import main
from scripts.volumes import load_volume

#: The phantom's pixels are 5 and 6 mm.
ANCHOR = ("--anchor-mm", "10")


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    return write_ct_series(tmp_path_factory.mktemp("study") / "series", slices=5, noise_sd=30.0)


def denoise(source, target, weights, *words):
    return main(["denoise", str(source), str(target), "--weights", str(weights), "--quiet", *ANCHOR, *words])


@pytest.fixture(scope="module")
def denoised(series, weights, tmp_path_factory):
    """The series through `bioatt denoise`."""
    target = tmp_path_factory.mktemp("result") / "out"
    assert denoise(series, target, weights) == 0
    return target


def test_a_dicom_series_becomes_a_derived_series_of_the_same_geometry(series, denoised):
    files = sorted(denoised.iterdir())
    assert len(files) == 5
    before, after = load_volume(series), load_volume(denoised)
    np.testing.assert_allclose(after.affine, before.affine)
    assert after.hu.shape == before.hu.shape
    assert after.series.series_instance_uid != before.series.series_instance_uid
    assert not set(after.series.sop_instance_uids) & set(before.series.sop_instance_uids)
    assert np.abs(after.hu - before.hu).max() > 5


def test_the_derived_series_is_read_by_highdicom(series, denoised):
    def volume(folder):
        return highdicom.get_volume_from_series([pydicom.dcmread(file) for file in sorted(folder.iterdir())])

    assert np.allclose(volume(denoised).affine, volume(series).affine)


def test_the_result_names_version_weights_and_prior(denoised):
    text = pydicom.dcmread(next(denoised.iterdir())).DerivationDescription
    for part in (
        "ct_low_dose_denoising_bioatt",
        "BioAttUNet(widths=48-96-192",
        "sha256",
        "not BiomedCLIP",
        "not a medical",
    ):
        assert part in text


def test_monai_bundle_run_gives_the_same_pixels(series, denoised, weights, bundle_root, tmp_path):
    workflow = ConfigWorkflow(
        config_file=str(bundle_root / "configs" / "inference.json"),
        run_id="run",
        workflow_type=None,
        bundle_root=str(bundle_root),
        dataset_dir=str(series),
        output_dir=str(tmp_path / "out"),
        weights=str(weights),
        anchor_mm=10.0,
        progress=False,
    )
    workflow.initialize()
    workflow.run()
    np.testing.assert_array_equal(load_volume(tmp_path / "out").hu, load_volume(denoised).hu)


@pytest.mark.parametrize(
    ("axes", "flip"), [((0, 1, 2), ()), ((2, 0, 1), (0, 2)), ((1, 2, 0), (1,))], ids=["as is", "permuted", "flipped"]
)
def test_nifti_in_any_storage_order_gives_the_same_hu(series, denoised, weights, tmp_path, axes, flip):
    source = as_nifti(series, tmp_path / "case.nii.gz", axes=axes, flip=flip)
    assert denoise(source, tmp_path / "out", weights) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["case.nii.gz", "case.nii.gz.json"]
    before, after = nibabel.load(source), nibabel.load(tmp_path / "out" / "case.nii.gz")
    np.testing.assert_array_equal(after.affine, before.affine)
    assert after.get_data_dtype() == before.get_data_dtype() == np.int16
    reference = load_volume(denoised)
    same_axes = nibabel.as_closest_canonical(after)
    canonical = nibabel.as_closest_canonical(nibabel.Nifti1Image(reference.hu, reference.affine))
    np.testing.assert_allclose(same_axes.get_fdata(), canonical.get_fdata(), atol=1.0)
    assert json.loads((tmp_path / "out" / "case.nii.gz.json").read_text())["prior"] == "compact"


def test_the_three_storage_forms_have_the_same_priors(series, tmp_path):
    tables = []
    for name, source in {
        "dicom": series,
        "nifti": as_nifti(series, tmp_path / "plain.nii.gz"),
        "permuted": as_nifti(series, tmp_path / "permuted.nii.gz", axes=(2, 1, 0), flip=(0, 1)),
    }.items():
        assert main(["priors", str(source), str(tmp_path / f"{name}.csv")]) == 0
        lines = (tmp_path / f"{name}.csv").read_text().splitlines()[2:]
        tables.append(np.array([[float(x) for x in line.split(",")[-11:]] for line in lines]))
    assert tables[0].shape == (5, 11)
    np.testing.assert_allclose(tables[1], tables[0], atol=1e-4)
    np.testing.assert_allclose(tables[2], tables[0], atol=1e-4)


@pytest.mark.parametrize("position", ["HFP", "FFS", "FFP"])
def test_prone_and_feet_first_are_shown_to_the_prior_model_as_supine(series, tmp_path, position):
    """The same body, lying otherwise in the scanner's frame of files, has the same priors slice by slice."""
    turned = write_ct_series(tmp_path / "turned", slices=5, noise_sd=0.0, patient_position=position)
    plain = write_ct_series(tmp_path / "plain", slices=5, noise_sd=0.0)
    tables = []
    for name, source in {"turned": turned, "plain": plain}.items():
        assert main(["priors", str(source), str(tmp_path / f"{name}.csv")]) == 0
        lines = (tmp_path / f"{name}.csv").read_text().splitlines()[2:]
        tables.append(np.array([[float(x) for x in line.split(",")[-11:]] for line in lines]))
    np.testing.assert_allclose(tables[0], tables[1], atol=1e-4)


def test_two_priors_give_two_results(series, denoised, weights, tmp_path):
    assert denoise(series, tmp_path / "out", weights, "--prior", "random:3") == 0
    difference = load_volume(tmp_path / "out").hu - load_volume(denoised).hu
    assert np.abs(difference).max() >= 1


def test_the_written_table_gives_the_result_of_its_model(series, denoised, weights, tmp_path):
    assert main(["priors", str(series), str(tmp_path / "p.csv")]) == 0
    assert denoise(series, tmp_path / "out", weights, "--prior", f"table:{tmp_path / 'p.csv'}") == 0
    np.testing.assert_array_equal(load_volume(tmp_path / "out").hu, load_volume(denoised).hu)


def test_a_table_that_lacks_a_slice_is_an_error_that_names_it(series, weights, tmp_path, capsys):
    assert main(["priors", str(series), str(tmp_path / "p.csv")]) == 0
    lines = (tmp_path / "p.csv").read_text().splitlines()
    (tmp_path / "p.csv").write_text("\n".join(lines[:3] + lines[4:]) + "\n")
    missing = load_volume(series).series.slice_names[1]
    assert denoise(series, tmp_path / "out", weights, "--prior", f"table:{tmp_path / 'p.csv'}") == 2
    assert missing in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_of_niftis_becomes_a_folder_of_niftis(series, weights, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a.nii", "b.nii.gz"):
        as_nifti(series, tmp_path / "in" / name)
    assert denoise(tmp_path / "in", tmp_path / "out", weights, "--prior", "uniform") == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "a.nii",
        "a.nii.json",
        "b.nii.gz",
        "b.nii.gz.json",
    ]


def test_one_bad_nifti_of_a_folder_leaves_nothing(series, weights, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    as_nifti(series, tmp_path / "in" / "a.nii")
    nibabel.save(nibabel.Nifti1Image(np.linspace(0, 1, 64).reshape(4, 4, 4), np.eye(4)), tmp_path / "in" / "b.nii")
    assert denoise(tmp_path / "in", tmp_path / "out", weights, "--prior", "uniform") == 2
    assert "b.nii does not look like HU" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_failure_in_the_second_nifti_leaves_nothing(series, weights, tmp_path, capsys, monkeypatch):
    (tmp_path / "in").mkdir()
    for name in ("a.nii", "b.nii"):
        as_nifti(series, tmp_path / "in" / name)
    from scripts.volumes.formats import nifti

    real = nifti.write

    def full_disk(source, *arguments):
        if source.name == "b.nii":
            raise OSError(28, "No space left on device")
        return real(source, *arguments)

    monkeypatch.setattr(nifti, "write", full_disk)
    assert denoise(tmp_path / "in", tmp_path / "out", weights, "--prior", "uniform") == 2
    assert "No space left on device; nothing was written" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_nan_outside_the_field_of_view_stays_and_does_no_harm(series, weights, tmp_path):
    image = nibabel.load(as_nifti(series, tmp_path / "whole.nii"))
    array = image.get_fdata(dtype=np.float32)
    array[:3] = np.nan
    nibabel.save(nibabel.Nifti1Image(array, image.affine), tmp_path / "nan.nii")
    assert denoise(tmp_path / "nan.nii", tmp_path / "out", weights) == 0
    result = nibabel.load(tmp_path / "out" / "nan.nii").get_fdata()
    np.testing.assert_array_equal(np.isnan(result), np.isnan(array))


def test_no_path_of_this_machine_is_written_into_the_result(series, weights, tmp_path):
    assert main(["priors", str(series), str(tmp_path / "p.csv")]) == 0
    assert denoise(series, tmp_path / "out", weights, "--prior", f"table:{tmp_path / 'p.csv'}") == 0
    written = (tmp_path / "out" / "0001.dcm").read_bytes()
    assert b"table p.csv" in written and str(tmp_path).encode() not in written


def test_a_single_dicom_file(series, weights, tmp_path):
    assert denoise(series / "0003.dcm", tmp_path / "out", weights) == 0
    assert load_volume(tmp_path / "out").hu.shape[2] == 1


def test_a_coronal_series_is_processed_in_axial_slices(weights, tmp_path):
    coronal = write_ct_series(tmp_path / "coronal", slices=4, orientation=(1, 0, 0, 0, 0, -1), shape=(30, 40))
    assert denoise(coronal, tmp_path / "out", weights) == 0
    np.testing.assert_allclose(load_volume(tmp_path / "out").affine, load_volume(coronal).affine)


def test_overwrite_replaces_whole(series, weights, tmp_path):
    derive(series, tmp_path / "out", lambda volume: volume + 7)
    before = (tmp_path / "out" / "0001.dcm").read_bytes()
    assert denoise(series, tmp_path / "out", weights) == 2
    assert denoise(series, tmp_path / "out", weights, "--overwrite") == 0
    assert len(list((tmp_path / "out").iterdir())) == 5 and (tmp_path / "out" / "0001.dcm").read_bytes() != before


def test_overwrite_deletes_nothing_that_is_not_ours(series, weights, tmp_path, capsys):
    derive(series, tmp_path / "out")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    assert denoise(series, tmp_path / "out", weights, "--overwrite") == 2
    assert "out holds notes.txt, which BioAtt did not write, and is not replaced" in capsys.readouterr().err
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine" and len(list((tmp_path / "out").iterdir())) == 6


def test_the_summary_tells_slices_prior_noise_and_seconds(series, weights, tmp_path, capsys):
    assert denoise(series, tmp_path / "out", weights) == 0
    out = capsys.readouterr().out
    for part in ("slices          5", "prior           compact prior model", "seconds", "output"):
        assert part in out


def bad_inputs(folder, weights):
    """Name -> (arguments, what the line says)."""
    (folder / "empty").mkdir()
    (folder / "text").mkdir()
    (folder / "text" / "notes.txt").write_text("no image")
    good = write_ct_series(folder / "good", slices=2)
    other = folder / "other.pt"  # of another architecture, and without a recipe
    torch.save(lively_network(channels=4).state_dict(), other)
    write_ct_series(folder / "two" / "a", slices=2)
    write_ct_series(folder / "two" / "b", slices=2, seed=1)

    def no_position(dataset, i):
        del dataset.ImagePositionPatient

    write_ct_series(folder / "nowhere", slices=2, modify=no_position)
    write_ct_series(folder / "broken", slices=2)
    cut = folder / "broken" / "0002.dcm"
    cut.write_bytes(cut.read_bytes()[:-500])
    nibabel.save(nibabel.Nifti1Image(np.linspace(0, 1, 64).reshape(4, 4, 4), np.eye(4)), folder / "unit.nii")
    (folder / "exists").mkdir()
    (folder / "exists" / "mine.txt").write_text("mine")
    return {
        "missing": (["x"], "x does not exist"),
        "empty": (["empty"], "no files"),
        "no DICOM": (["text"], "no DICOM in 1 files"),
        "several": (["two"], "holds 2 CT series; .*choose one with --series UID.* --all-series"),
        "unknown series": (["two", "--series", "1.2.3"], "holds no CT series 1.2.3"),
        "no geometry": (["nowhere"], "ImagePositionPatient"),
        "pixels cut": (["broken"], "0002.dcm: PixelData is cut short"),
        "not HU": (["unit.nii"], "does not look like HU"),
        "exists": (["good", "--out", "exists"], "exists exists; name another one, or .*--overwrite"),
        "inside": (["good", "--out", "good/out"], "lie inside one another"),
        "onto itself": (["good", "--out", "good", "--overwrite"], "lie inside one another"),
        "weights": (["good", "--weights", "none.pt"], "weights file none.pt does not exist"),
        "prior": (["good", "--prior", "magic"], "magic"),
        "other architecture": (["good", "--weights", str(other)], "does not fit BioAttUNet; choose the network_def"),
        "device": (["good", "--device", "abacus"], "device 'abacus' is not one; expected cpu or cuda or mps"),
        "batch": (["good", "--batch-size", "0"], "batch_size must be at least 1"),
    }, good


def test_bad_input_is_one_line_with_exit_code_2_and_nothing_written(tmp_path, weights, capsys, monkeypatch):
    cases, _ = bad_inputs(tmp_path, weights)
    monkeypatch.chdir(tmp_path)
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    import re

    for name, (words, message) in cases.items():
        words = list(words)
        out = words.pop(words.index("--out") + 1) if "--out" in words else "result"
        words = [word for word in words if word != "--out"]
        given = [] if "--weights" in words else ["--weights", str(weights)]
        capsys.readouterr()
        assert main(["denoise", words[0], out, "--quiet", *words[1:], *given]) == 2, name
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
        assert len(lines) == 1 and re.search(message, lines[0]), (name, lines)
        assert sorted(str(path) for path in tmp_path.rglob("*")) == before, name


#: Does what `python -m monai.bundle` does with each list of words, in a copy of itself: importing takes long.
BUNDLES = """
import json, os, runpy, sys
import monai.bundle, monai.engines, monai.handlers, monai.inferers, monai.metrics, monai.transforms
import nibabel, pydicom, scipy.ndimage, scipy.signal
for line in sys.stdin:
    folder, words = json.loads(line)
    if os.fork() == 0:
        os.chdir(folder)
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(f"../{name}", os.O_CREAT | os.O_WRONLY | os.O_TRUNC), number)
        sys.argv[1:] = words
        runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
        raise SystemExit
    print(os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
"""


@pytest.fixture(scope="module")
def run_bundle(bundle_root):
    """Runs the inference workflow in a folder by words of the command line; gives exit code and standard error."""
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    environment.pop("PYTHONPATH", None)
    start = ["run", "inference", "--bundle_root", str(bundle_root)]
    start += ["--config_file", str(bundle_root / "configs" / "inference.json")]
    with subprocess.Popen(
        [sys.executable, "-c", BUNDLES], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:

        def run(folder, *words):
            process.stdin.write(json.dumps([str(folder), [*start, *words]]) + "\n")
            process.stdin.flush()
            return int(process.stdout.readline()), (folder.parent / "stderr").read_text()

        yield run
        process.stdin.close()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dataset_dir", "nothing", "--output_dir", "out"], "input nothing does not exist"),
        (["--dataset_dir", "x", "--output_dir", "out", "--priors", "uniform"], "unknown config override --priors"),
        (["--dataset_dir", "x", "--output_dir", "y", "--overwrite", "false"], "--overwrite false: expected True"),
    ],
    ids=["missing input", "unknown override", "switch as a word"],
)
def test_monai_bundle_run_ends_like_bioatt_from_any_directory(run_bundle, tmp_path, capsys, words, message):
    (tmp_path / "here").mkdir()
    code, told = run_bundle(tmp_path / "here", *words)
    lines = [line for line in told.splitlines() if line.startswith("error:")]
    assert code == 2, told
    assert len(lines) == 1 and message in lines[0]
    assert "Traceback" not in told
    assert not list((tmp_path / "here").iterdir())
    if "--dataset_dir nothing" in " ".join(words):
        assert main(["denoise", str(tmp_path / "nothing"), str(tmp_path / "out")]) == 2
        ours = capsys.readouterr().err.splitlines()[-1]
        assert ours.replace(f"{tmp_path}/", "") == lines[0]


def test_monai_bundle_run_works_from_any_directory(run_bundle, series, weights, tmp_path):
    (tmp_path / "here").mkdir()
    words = ("--dataset_dir", str(series), "--output_dir", "out", "--weights", str(weights), "--prior", "uniform")
    code, told = run_bundle(tmp_path / "here", *words)
    assert code == 0, told
    assert len(list((tmp_path / "here" / "out").iterdir())) == 5


def test_no_patient_data_in_log_or_summary(tmp_path, weights, capfd):
    source = write_ct_series(tmp_path / "series", slices=2)
    assert denoise(source, tmp_path / "out", weights) == 0
    said = "".join(capfd.readouterr())
    header = pydicom.dcmread(source / "0001.dcm")
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "StudyDescription", "AccessionNumber"):
        value = str(header[keyword].value)
        assert value and (len(value) < 3 or value not in said)


def test_paths_in_the_summary_are_as_typed(series, weights, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert denoise(os.path.relpath(series), Path("out"), weights, "--prior", "uniform") == 0
    assert "output          out" in capsys.readouterr().out
