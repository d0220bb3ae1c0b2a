"""Folders as hospitals and CDs have them: nested, without extensions, with reports and scouts beside the series."""

from __future__ import annotations

import logging
import shutil

import numpy as np
import pydicom
import pytest
from dicom_cases import changed, write_enhanced_ct
from phantom import write_ct_series
from pydicom.data import get_testdata_file
from pydicom.fileset import FileSet
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
)
from scripts.app.command_line import main
from scripts.dicom import find_series, read_frames, read_volume, select_series
from scripts.errors import BioAttError

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


@pytest.fixture
def export(tmp_path):
    """A CD: a DICOMDIR, files in nested folders without extensions, a scout, a capture, a report, a text."""
    scout = changed(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    capture = changed(SOPClassUID=SECONDARY_CAPTURE, Modality="OT")
    files = FileSet()
    for name, more in {
        "ct": {"slices": 6, "seed": 1},
        "scout": {"slices": 1, "seed": 2, "modify": scout},
        "capture": {"slices": 1, "seed": 3, "modify": capture},
    }.items():
        for file in sorted(write_ct_series(tmp_path / "made" / name, **more).iterdir()):
            files.add(file)
    files.write(tmp_path / "cd")
    shutil.copy(get_testdata_file("test-SR.dcm"), tmp_path / "cd" / "REPORT")
    (tmp_path / "cd" / "README.TXT").write_text("insert the disc")
    (tmp_path / "cd" / "VIEWER.EXE").write_bytes(b"MZ" + bytes(200))
    return tmp_path / "cd"


@pytest.mark.parametrize("place", ["", "DICOMDIR"])
def test_the_one_ct_series_of_a_cd_is_found(export, tmp_path, caplog, place):
    caplog.set_level(logging.INFO)
    series = select_series(export / place)
    assert series.shape == (6, 48, 64) and all(file.suffix == "" for file in series.files)
    np.testing.assert_array_equal(read_volume(series), read_volume(select_series(tmp_path / "made" / "ct")))
    assert "left out 2 files that are not CT" in caplog.text  # the report and the capture; a DICOMDIR is no image
    assert "left out 1 files that are CT localizers" in caplog.text


@pytest.mark.filterwarnings("ignore:Invalid value for VR CS")  # ".." is none, while the DICOMDIR is made
def test_a_dicomdir_never_leads_out_of_its_folder(export, tmp_path):
    directory = pydicom.dcmread(export / "DICOMDIR")
    for record in directory.DirectoryRecordSequence:
        if "ReferencedFileID" in record:
            record.ReferencedFileID = ["..", "made", "ct", "0001.dcm"]
    directory.save_as(export / "DICOMDIR")
    assert all(export in file.parents for file in select_series(export / "DICOMDIR").files)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize("part", ["no preamble", "data set alone", "no transfer syntax"])
def test_files_without_the_dicm_prefix_are_read(tmp_path, syntax, part):
    folder = write_ct_series(tmp_path / "whole", transfer_syntax=syntax)
    plain = read_volume(select_series(folder))
    (tmp_path / "bare").mkdir()
    for file in folder.iterdir():
        content = file.read_bytes()
        if part == "no preamble":
            content = content[132:]
        elif part == "data set alone":
            content = content[144 + int.from_bytes(content[140:144], "little") :]
        else:
            uid = syntax.encode() + b"\0" * (len(syntax) % 2)
            meta = b"\x02\x00\x10\x00UI" + len(uid).to_bytes(2, "little") + uid
            assert content.count(meta) == 1
            content = content.replace(meta, b"")
        (tmp_path / "bare" / file.stem).write_bytes(content)
    np.testing.assert_array_equal(read_volume(select_series(tmp_path / "bare")), plain)


@pytest.mark.parametrize(
    "content",
    [b"", b"\x08\x00", b"\x08\x00\x05\x00CS" + bytes(200), b"\x08\x00\x08\x00" + bytes(300), b"\x00" * 500, b"MZ" * 99],
    ids=repr,
)
def test_what_only_begins_like_a_data_set_is_passed_over(tmp_path, content):
    folder = write_ct_series(tmp_path)
    (folder / "odd").write_bytes(content)
    assert len(select_series(folder).files) == 4
    with pytest.raises(BioAttError, match="odd is not a DICOM file"):
        select_series(folder / "odd")


def test_compressed_pixels_without_a_transfer_syntax_are_refused(tmp_path):
    folder = write_ct_series(tmp_path, slices=1, transfer_syntax=JPEGLSLossless)
    file = folder / "0001.dcm"
    content = file.read_bytes()
    file.write_bytes(content[144 + int.from_bytes(content[140:144], "little") :])
    with pytest.raises(BioAttError, match="TransferSyntaxUID is missing.*compressed; export"):
        read_volume(select_series(folder))


def test_a_damaged_file_is_noted_and_does_not_hide_the_others(tmp_path):
    write_ct_series(tmp_path / "good")
    bad = write_ct_series(tmp_path / "bad", slices=1, transfer_syntax=DeflatedExplicitVRLittleEndian) / "0001.dcm"
    bad.write_bytes(bad.read_bytes()[:400] + b"\xff" * 200)
    refused: list[BioAttError] = []
    series = find_series(tmp_path, refused)
    assert [len(one.files) for one in series] == [4]
    assert len(refused) == 1 and "bad/0001.dcm: its deflated data set cannot be inflated" in str(refused[0])


def test_the_table_of_series_is_safe_to_show(tmp_path, caplog):
    write_ct_series(tmp_path / "1", seed=1, modify=changed(SeriesDescription="Head\x1b[31m\nred"))
    write_ct_series(tmp_path / "2", seed=2, modify=changed(SeriesDescription=None, SeriesNumber=None))
    with pytest.raises(BioAttError, match=r"holds 2 CT series; it has .*\(no number\)"):
        select_series(tmp_path)
    assert "\x1b" not in caplog.text and "Head" in caplog.text and "SECRET" not in caplog.text
    assert len([record for record in caplog.records if "\n" in record.getMessage()]) == 0


def test_series_are_listed_and_chosen_on_the_command_line(tmp_path, capsys):
    write_ct_series(tmp_path / "in" / "1", seed=1, slices=2)
    write_ct_series(tmp_path / "in" / "2", seed=2, slices=3, modify=changed(SeriesNumber=7))
    table = str(tmp_path / "p.csv")
    assert main(["priors", str(tmp_path / "in"), table, "--prior", "uniform"]) == 2
    assert "thickness mm" in capsys.readouterr().err
    assert main(["priors", str(tmp_path / "in"), table, "--prior", "uniform", "--series", "7"]) == 0
    assert "3 slices" in capsys.readouterr().out


def test_gaps_are_refused_and_allowed_on_the_command_line(tmp_path, capsys):
    folder = write_ct_series(tmp_path / "in", slices=6)
    (folder / "0003.dcm").unlink()
    words = ["priors", str(folder), str(tmp_path / "p.csv"), "--prior", "uniform"]
    assert main(words) == 2
    assert "slices are missing or their spacing changes, 6.00 mm between" in capsys.readouterr().err
    assert main([*words, "--allow-gaps"]) == 0


@pytest.mark.parametrize("per_frame", [False, True])
@pytest.mark.parametrize("order", [None, (3, 1, 0, 2)])
@pytest.mark.parametrize("syntax", [None, JPEGLSLossless])
def test_an_enhanced_image_reads_like_its_single_frames(tmp_path, per_frame, order, syntax):
    file, single = write_enhanced_ct(tmp_path, per_frame_rescale=per_frame, order=order, syntax=syntax)
    enhanced, series = select_series(file), select_series(single)
    np.testing.assert_array_equal(read_volume(enhanced), read_volume(series))
    np.testing.assert_allclose(enhanced.affine, series.affine)
    assert enhanced.is_multiframe and set(enhanced.files) == {file} and len(set(enhanced.slice_names)) == 4
    assert (enhanced.kernel, enhanced.description, enhanced.slice_thickness_mm) == ("B30", "Body 0", 3.0)
    if order:
        assert enhanced.frames == tuple(np.argsort(order))


def test_highdicom_s_legacy_converted_enhanced_ct_reads_like_its_sources(tmp_path):
    from highdicom.legacy import LegacyConvertedEnhancedCTImage
    from pydicom.uid import generate_uid

    folder = write_ct_series(tmp_path / "single", modify=changed(PatientName="A^B", ReferringPhysicianName="C^D"))
    sources = [pydicom.dcmread(file) for file in sorted(folder.iterdir())]
    image = LegacyConvertedEnhancedCTImage(sources, generate_uid(), 5, generate_uid(), 1)
    image.save_as(tmp_path / "legacy.dcm")
    series = select_series(tmp_path / "legacy.dcm")
    np.testing.assert_array_equal(read_volume(series), read_volume(select_series(folder)))


def test_frames_of_an_enhanced_image_that_share_a_position_are_named(tmp_path):
    def twice(image):
        first, second = image.PerFrameFunctionalGroupsSequence[:2]
        second.PlanePositionSequence = first.PlanePositionSequence

    file, _ = write_enhanced_ct(tmp_path, modify=twice)
    with pytest.raises(BioAttError, match=r"at one position, .*IM0, frame 1 and .*IM0, frame 2 .*one phase"):
        select_series(file)


def test_an_enhanced_image_with_too_few_frames_is_refused(tmp_path):
    def more(image):
        image.NumberOfFrames = 400

    file, _ = write_enhanced_ct(tmp_path, modify=more)
    with pytest.raises(BioAttError, match="NumberOfFrames is 400, but PerFrameFunctionalGroupsSequence has 4 items"):
        next(read_frames(file))


@pytest.mark.parametrize("group", ["PlanePositionSequence", "PixelMeasuresSequence"])
def test_unreadable_functional_groups_are_refused_in_one_line(tmp_path, group):
    """Found by fuzzing: a position that is no number, and a group that is no sequence."""
    file, _ = write_enhanced_ct(tmp_path)
    content = file.read_bytes()
    if group == "PlanePositionSequence":
        content = content.replace(b"\x20\x00\x32\x00DS", b"\x20\x00\x32\x00SQ")
    else:
        content = content.replace(b"\x28\x00\x10\x91SQ", b"\x28\x00\x10\x91OB")
    file.write_bytes(content)
    with pytest.raises(BioAttError, match="IM0.*(not valid DICOM|is a sequence|is not a sequence|damaged)"):
        select_series(file)
