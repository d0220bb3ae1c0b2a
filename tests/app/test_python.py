"""`bioatt.denoise`: paths, images and arrays give the pixels of the command; what is wrong raises BioAttError."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import bioatt
import nibabel
import numpy as np
import pydicom
import pytest
import torch
from made_studies import as_nifti
from phantom import write_ct_series
from scripts.app.command_line import main
from scripts.app.entry import bundle_module
from scripts.app.python import Options
from scripts.dicom import read_volume, select_series
from scripts.errors import BioAttError
from scripts.volumes import radiological_slices

PAGE = Path(__file__).parents[2] / "docs" / "python.md"
SPACING_MM = (3.0, 1.0, 0.9)  # of the phantom: slices, rows, columns


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source") / "series"
    write_ct_series(folder, slices=3, spacing=SPACING_MM[1:], noise_sd=30.0)
    return folder


def axial(path):
    """(slices, rows, columns) in HU."""
    volume = radiological_slices(path)
    return np.stack([volume[i] for i in range(len(volume))])


@pytest.fixture(scope="module")
def by_command(series, weights):
    """What the command makes of the series, as HU (slices, rows, columns)."""
    target = series.parent / "by_command"
    assert main(["denoise", str(series), str(target), "--weights", str(weights), "--quiet"]) == 0
    return read_volume(select_series(target))


def test_a_path_and_an_output_give_what_the_command_gives(series, weights, by_command, tmp_path):
    made = bioatt.denoise(series, tmp_path / "made", weights=weights)
    assert made == tmp_path / "made"
    np.testing.assert_array_equal(read_volume(select_series(made)), by_command)


def test_nothing_is_printed_but_warnings(series, weights, tmp_path):
    """In a process of its own, whose logging is as Python begins it and which nothing else prints in."""
    code = "import sys, bioatt; bioatt.denoise(*sys.argv[1:3], weights=sys.argv[3])"
    command = [sys.executable, "-c", code, series, tmp_path / "made", weights]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "" and "monai" not in done.stderr.lower()  # whose logs go to stdout
    assert "outside what the weights were trained on" in done.stderr and "%" not in done.stderr  # of progress bars


def test_a_series_comes_back_as_datasets(series, weights, by_command):
    datasets = bioatt.denoise(str(series), weights=weights)
    hu = np.stack([one.pixel_array * one.RescaleSlope + one.RescaleIntercept for one in datasets])
    assert np.array_equal(hu, by_command)
    assert {one.SeriesDescription.split()[-1] for one in datasets} == {"denoised"}


def test_an_array_comes_back_as_an_array(series, weights, by_command):
    hu = axial(series)
    kept = np.array(hu)
    made = bioatt.denoise(kept, spacing_mm=SPACING_MM, weights=weights)
    assert made.dtype == np.float32 and made.shape == hu.shape and np.array_equal(kept, hu)
    assert np.array_equal(np.rint(made), by_command) and np.abs(made - hu).max() > 5  # DICOM stores whole HU


def test_one_slice_is_one_slice_of_the_volume(series, weights):
    hu = axial(series)
    whole = bioatt.denoise(hu, spacing_mm=SPACING_MM, weights=weights)
    assert np.array_equal(bioatt.denoise(hu[1], spacing_mm=SPACING_MM[1:], weights=weights), whole[1])


@pytest.mark.parametrize(("axes", "flip"), [((0, 1, 2), ()), ((1, 0, 2), (0, 2))])
def test_an_image_comes_back_as_it_is_stored(series, weights, by_command, tmp_path, axes, flip):
    file = as_nifti(series, tmp_path / "a.nii.gz", axes=axes, flip=flip)
    image = nibabel.load(file)
    made = bioatt.denoise(image, weights=weights)
    assert isinstance(made, nibabel.Nifti1Image) and made.get_data_dtype() == np.int16
    assert np.array_equal(made.affine, image.affine)
    from_file = bioatt.denoise(file, weights=weights)
    assert np.array_equal(made.get_fdata(), from_file.get_fdata())
    nibabel.save(made, tmp_path / "made.nii")
    assert np.array_equal(axial(tmp_path / "made.nii"), by_command)


def test_a_metaimage_file_comes_back_as_an_image(series, weights, by_command, tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    sitk.WriteImage(sitk.ReadImage(as_nifti(series, tmp_path / "a.nii")), tmp_path / "a.mha")
    made = bioatt.denoise(tmp_path / "a.mha", weights=weights)
    nibabel.save(made, tmp_path / "made.nii")
    assert np.array_equal(axial(tmp_path / "made.nii"), by_command)


def test_strength_and_prior_reach_the_workflow(series, weights):
    hu = axial(series)
    results = [
        bioatt.denoise(hu, spacing_mm=SPACING_MM, weights=weights, **options)
        for options in ({}, {"grain": 0.5}, {"prior": "random:1"})
    ]
    assert not np.array_equal(results[0], results[1]) and not np.array_equal(results[0], results[2])


@pytest.mark.parametrize(
    ("source", "options", "told"),
    [
        ("nowhere", {}, "nowhere does not exist"),
        (np.zeros((2, 8, 8)), {}, r"spacing_mm is None, expected spacing_mm=\(slices, rows, columns\)"),
        (np.zeros((2, 8, 8)), {"spacing_mm": (1.0, 1.0)}, "3 numbers over 0"),
        (np.zeros((8, 8)), {"spacing_mm": (1.0, -1.0)}, "2 numbers over 0"),
        (np.zeros((2, 8, 8)), {"spacing_mm": "1, 1, 1"}, "spacing_mm is '1, 1, 1'"),
        (torch.zeros(2, 8, 8, requires_grad=True), {"spacing_mm": (1, 1, 1)}, "the Tensor cannot be read.*detach"),
        (np.zeros(8), {"spacing_mm": (1.0,)}, r"shape \(8,\)"),
        (np.zeros((2, 8, 8), complex), {"spacing_mm": (1, 1, 1)}, "type complex128"),
        (np.random.default_rng(0).random((2, 8, 8)), {"spacing_mm": (1, 1, 1)}, "^the array does not look like HU"),
        (np.zeros((2, 8, 8)), {"spacing_mm": (1, 1, 1), "strength": "strong"}, "strength is 'strong'"),
        (np.zeros((2, 8, 8)), {"spacing_mm": (1, 1, 1), "device": "abacus"}, "device 'abacus'"),
        (np.zeros((2, 8, 8)), {"spacing_mm": (1, 1, 1), "weights": ""}, "weights '' is not a file"),
        (np.zeros((2, 8, 8)), {"spacing_mm": (1, 1, 1), "output": ""}, "no output folder given"),
        ([1, 2], {}, "source is a list"),
        ("", {}, "no input given"),
        ("nowhere", {"output": 3}, "output is a int, expected the path of a folder"),
        ("nowhere", {"spacing_mm": (1, 1, 1)}, "leave it out"),
        ("nowhere", {"report": True}, "name an output folder"),
    ],
)
def test_what_is_wrong_is_told(source, options, told):
    with pytest.raises(bioatt.BioAttError, match=told):
        bioatt.denoise(source, **options)


def test_a_folder_of_volumes_needs_an_output(series, tmp_path):
    for name in "ab":
        as_nifti(series, tmp_path / f"{name}.nii")
    with pytest.raises(BioAttError, match="several volumes; name an output folder"):
        bioatt.denoise(tmp_path)


def test_nothing_is_left_of_the_way_through_files(series, weights, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    places = [bioatt.denoise(series, weights=weights) and list(sys.path) for _ in range(3)]
    assert places[2] == places[1]  # MONAI adds the bundle's folder each time
    with pytest.raises(BioAttError):
        bioatt.denoise(np.zeros((2, 8, 8)), spacing_mm=(1, 1, 1))
    assert list(tmp_path.iterdir()) == []


def test_the_error_class_is_that_of_the_workflow():
    assert bioatt.BioAttError is BioAttError
    with pytest.raises(AttributeError, match="no attribute 'denoize'"):
        bioatt.denoize  # noqa: B018


def test_import_loads_nothing_heavy_and_everything_is_typed():
    code = "import sys, bioatt; print(sorted({'torch', 'monai', 'numpy', 'nibabel', 'scripts'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    signature = inspect.signature(bioatt.denoise)
    assert all(one.annotation is not one.empty for one in signature.parameters.values())
    assert list(Options.__annotations__) == list(signature.parameters)[3:]
    assert all(re.search(rf"\b{name}\b", bioatt.denoise.__doc__) for name in signature.parameters)


def test_another_package_of_the_name_is_refused(monkeypatch):
    other = type(sys)("scripts")
    other.__path__ = ["/somewhere/scripts"]
    monkeypatch.setitem(sys.modules, "scripts", other)
    with pytest.raises(ImportError, match="another of that name"):
        bundle_module("errors")


def test_the_cells_of_the_page_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_ct_series("demo/low_dose", shape=(128, 128), spacing=(1.0, 1.0), slices=3, noise_sd=30.0)
    text = PAGE.read_text(encoding="utf-8")
    assert "    bioatt demo demo\n" in text  # makes such a folder, as the tutorial's test sees
    cells = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert len(cells) >= 5
    names = {}
    for cell in cells:
        exec(compile(cell, str(PAGE), "exec"), names)
    printed = capsys.readouterr().out
    assert "3 phantom" in printed.lower() or "BioAtt denoised low" in printed
    assert "int16" in printed and "spacing_mm is None" in printed
    noisy, quiet = (float(one) for one in re.search(r"^([\d.]+) ([\d.]+)$", printed, re.MULTILINE).groups())
    assert quiet < noisy
    assert len(list((tmp_path / "denoised").glob("*.dcm"))) == 3 and pydicom.dcmread("denoised/0001.dcm")
