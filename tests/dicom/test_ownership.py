"""Only a folder that holds results of BioAtt alone is replaced."""

from __future__ import annotations

import json

import pytest
import SimpleITK
from dicom_cases import PROVENANCE, derive
from made_studies import as_nifti
from phantom import write_ct_series
from scripts.app.command_line import main
from scripts.errors import BioAttError
from scripts.ownership import check_replaceable
from scripts.volumes.save import write_file_result
from scripts.volumes.volume import load_volume


@pytest.fixture
def results(tmp_path):
    """A derived series, and NIfTI with its record, each in a folder."""
    source = write_ct_series(tmp_path / "in", slices=2)
    derive(source, tmp_path / "dicom")
    nifti = as_nifti(source, tmp_path / "ct.nii.gz")
    (tmp_path / "nifti").mkdir()
    write_file_result(nifti, load_volume(nifti).hu, tmp_path / "nifti", PROVENANCE)
    return tmp_path


@pytest.mark.parametrize("name", ["a.mha", "a.b.mhd", "A.NRRD", "a.b.nhdr"])
def test_results_in_other_formats_are_replaced_with_the_files_that_hold_their_values(results, name, capsys):
    file = results / name
    SimpleITK.WriteImage(SimpleITK.ReadImage(str(results / "ct.nii.gz")), str(file))
    target = results / "volumes"
    target.mkdir()
    write_file_result(file, load_volume(file).hu, target, PROVENANCE)
    assert len(list(target.iterdir())) == (3 if name.endswith(("mhd", "nhdr")) else 2)
    (target / f"._{name}").write_bytes(b"of macOS, on another disk")
    check_replaceable(target)
    (target / "b.zraw").write_bytes(b"mine")
    with pytest.raises(BioAttError, match="holds b.zraw, which BioAtt did not write"):
        check_replaceable(target)


@pytest.mark.parametrize("form", ["dicom", "nifti"])
def test_results_may_be_replaced_and_so_may_nothing(results, form):
    check_replaceable(results / form)
    (results / form / ".DS_Store").touch()
    check_replaceable(results / form)
    (results / "empty").mkdir()
    check_replaceable(results / "empty")
    check_replaceable(results / "nowhere")


FOREIGN = {
    "a note": lambda folder: (folder / "notes.txt").write_text("mine"),
    "a hidden file": lambda folder: (folder / ".notes").write_text("mine"),
    "a folder": lambda folder: (folder / "sub").mkdir(),
    "a link": lambda folder: (folder / "0009.dcm").symlink_to(folder / "0001.dcm"),
    "a NIfTI without a record": lambda folder: (folder / "x.nii.gz").write_bytes(b"mine"),
    "another's record": lambda folder: (folder / "x.nii.gz.json").write_text(json.dumps({"source": "x.nii.gz"})),
    "a list of ours": lambda folder: (folder / "explain.json").write_text(json.dumps({"files": []})),
    "a list of files": lambda folder: (folder / "explain.json").write_text(json.dumps({"files": ["0001.dcm"]})),
    "of another name": lambda folder: (folder / "a.dcm").write_bytes(b"\0" * 128 + b"DICMBioAtt project"),
    "a DICOM file of our form of name": lambda folder: (folder / "0009.dcm").write_bytes(b"\0" * 128 + b"DICM"),
}


@pytest.mark.parametrize("form", ["dicom", "nifti"])
@pytest.mark.parametrize("what", FOREIGN)
def test_a_folder_with_anything_else_is_not_replaced(results, form, what):
    before = set((results / form).iterdir())
    FOREIGN[what](results / form)
    (added,) = set((results / form).iterdir()) - before
    with pytest.raises(BioAttError, match=f"holds {added.name}, which BioAtt did not write, and is not replaced; name"):
        check_replaceable(results / form)


def test_a_folder_of_sources_is_not_replaced(results):
    with pytest.raises(BioAttError, match="holds 0001.dcm, which BioAtt did not write"):
        check_replaceable(results / "in")


PAGES = {
    "a page of someone else": lambda page: page.write_text("<!DOCTYPE html><title>Budget</title>mine"),
    "an empty file": lambda page: page.touch(),
    "a folder": lambda page: page.mkdir(),
    "a link": lambda page: page.symlink_to(page.with_name("nowhere.html")),
}


@pytest.mark.parametrize("what", PAGES)
def test_a_page_that_is_no_report_of_ours_is_not_replaced(results, weights, capsys, what):
    page = results / "out.html"
    PAGES[what](page)
    before = page.lstat().st_ino, page.lstat().st_mtime_ns
    words = ["--weights", str(weights), "--prior", "uniform", "--quiet", "--report", "--overwrite"]
    assert main(["denoise", str(results / "in"), str(results / "out"), *words]) == 2
    assert "out.html would replace what BioAtt did not write, and is not written" in capsys.readouterr().err
    assert (page.lstat().st_ino, page.lstat().st_mtime_ns) == before and not (results / "out").exists()


def test_our_own_report_is_replaced(results, weights):
    words = ["--weights", str(weights), "--prior", "uniform", "--quiet", "--report"]
    command = ["denoise", str(results / "in"), str(results / "out"), *words]
    assert main(command) == 0
    first = (results / "out.html").stat().st_ino
    assert main([*command, "--overwrite"]) == 0
    assert (results / "out.html").stat().st_ino != first


def test_a_folder_of_explain_is_replaced_and_one_with_a_note_is_not(results, weights, capsys):
    words = ["--slice", "1", "--weights", str(weights), "--prior", "uniform", "--overwrite"]
    command = ["explain", str(results / "in"), str(results / "shown"), *words]
    assert main(command) == 0 and main(command) == 0
    (results / "shown" / "notes.txt").write_text("mine")
    capsys.readouterr()
    assert main(command) == 2
    assert "holds notes.txt, which BioAtt did not write" in capsys.readouterr().err
    assert (results / "shown" / "notes.txt").read_text() == "mine"
    assert main(["explain", str(results / "in"), str(results / "nifti"), *words]) == 0, "results of ours"


def test_files_that_priors_and_convert_would_replace_must_be_theirs(results, tmp_path, capsys):
    table = tmp_path / "table.csv"
    table.write_text("name,age\nA,3\n")
    assert main(["priors", str(results / "in"), str(table), "--prior", "uniform", "--overwrite"]) == 2
    assert "is not a table of priors, and is not replaced" in capsys.readouterr().err
    assert table.read_text() == "name,age\nA,3\n"
    table.unlink()
    for _ in range(2):
        assert main(["priors", str(results / "in"), str(table), "--prior", "uniform", "--overwrite"]) == 0
    (tmp_path / "w.json").write_text('{"mine": 1}')
    assert main(["convert", str(tmp_path / "nothing.pth"), str(tmp_path / "w.pt"), "--overwrite"]) == 2
    assert "w.json is not the recipe of" in capsys.readouterr().err
    assert (tmp_path / "w.json").read_text() == '{"mine": 1}'
