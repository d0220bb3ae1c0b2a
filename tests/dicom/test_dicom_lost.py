"""Nothing is lost in silence: files that were slices are named and refused, links are followed, formats are named."""

from __future__ import annotations

import gzip
import logging
import os
import shutil

import pytest
from dicom_cases import changed, together
from phantom import write_ct_series
from pydicom.data import get_testdata_file
from pydicom.fileset import FileSet
from scripts.dicom import find_series, select_series
from scripts.dicom.folder import is_named_like
from scripts.errors import BioAttError
from scripts.volumes.volume import find_inputs


def cut_to(size):
    return lambda file: file.write_bytes(file.read_bytes()[:size])


def broken_link(file):
    file.unlink()
    file.symlink_to("nowhere")


def packed(file):
    with gzip.open(f"{file}.gz", "wb") as target:
        target.write(file.read_bytes())
    file.unlink()


#: What becomes of a slice, and how it is told.
DAMAGES = {
    "empty": (lambda file: file.write_bytes(b""), "is empty"),
    "zeros": (lambda file: file.write_bytes(bytes(file.stat().st_size)), "holds zeros"),
    "few zeros": (lambda file: file.write_bytes(bytes(40)), "is cut short"),
    "cut in the preamble": (cut_to(100), "is cut short"),
    "cut behind DICM": (cut_to(132), "is cut short within its header"),
    "cut in the meta group": (cut_to(166), "is cut short within its header"),
    "cut in the header": (cut_to(410), "is cut short within its header"),
    "cut before the grid": (cut_to(1100), "is cut short within its header"),
    "broken link": (broken_link, "is a broken link"),
    "packed": (packed, "is not DICOM"),
    "not fetched whole": (lambda file: file.rename(f"{file}.part").write_bytes(b"half"), "is not DICOM"),
    "a page of an error": (lambda file: file.write_text("<html>401 Unauthorized</html>"), "is not DICOM"),
    "a pointer": (lambda file: file.write_text("version https://git-lfs.github.com/spec/v1\noid 1\n"), "is not DICOM"),
}


@pytest.mark.parametrize("name", ["{:04d}.dcm", "IM{:d}", "1.2.840.{:d}", "a{:x}f.IMA"])
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("lost", [1, 5])  # within, and at the end, where no gap shows
def test_a_lost_slice_is_named_and_refused(tmp_path, caplog, damage, name, lost):
    folder = write_ct_series(tmp_path, slices=6, shape=(8, 8), name=name)
    file = folder / name.format(lost + 1)
    ruin, told = DAMAGES[damage]
    ruin(file)
    with pytest.raises(BioAttError, match=rf"slices are lost, .*{file.name}\S* {told}.*--allow-gaps"):
        select_series(folder)
    assert len(select_series(folder, allow_gaps=True).files) == 5
    assert f"slices are lost, {file}" in caplog.text


def test_a_lost_file_of_another_kind_is_told_and_named_as_the_likely_cause_of_a_gap(tmp_path, caplog):
    folder = write_ct_series(tmp_path, slices=5, shape=(8, 8))
    (folder / "readme").write_bytes(b"")
    (folder / "old").symlink_to("nowhere")
    assert len(select_series(folder).files) == 5
    assert "readme is empty (0 bytes)" in caplog.text and "old is a broken link" in caplog.text
    (folder / "0003.dcm").unlink()
    with pytest.raises(BioAttError, match=r"6.00 mm between .*find the missing slices \(perhaps .*readme is empty"):
        select_series(folder)


def test_a_lost_slice_of_one_series_does_not_stop_another(tmp_path):
    good = write_ct_series(tmp_path / "1", seed=1)
    (write_ct_series(tmp_path / "2", seed=2) / "0004.dcm").write_bytes(b"")
    uid = select_series(good).series_instance_uid
    assert len(select_series(tmp_path, uid).files) == 4
    assert [len(series.files) for series in find_series(tmp_path)] == [4, 3]


def test_one_folder_a_slice_is_one_series(tmp_path):
    for file in sorted(write_ct_series(tmp_path / "made", slices=4).iterdir()):
        (tmp_path / "in" / f"slice{file.stem}").mkdir(parents=True)
        shutil.copy(file, tmp_path / "in" / f"slice{file.stem}" / "image.dcm")
    (tmp_path / "in" / "slice0004" / "image.dcm").write_bytes(b"")
    with pytest.raises(BioAttError, match="slices are lost, .*slice0004/image.dcm is empty"):
        select_series(tmp_path / "in")


@pytest.mark.parametrize(
    ("name", "slices", "is_like"),
    [
        ("IM0007", ["IM0001", "IM0002"], True),
        ("IM7.dcm.gz", ["IM1.dcm", "IM2.dcm"], True),
        ("IM1.dcm.gz", ["IM1.dcm", "IM2.dcm"], False),  # the slice is there as well
        ("notes.txt", ["IM1.dcm"], False),
        ("README", ["IM0001", "IM0002"], False),
        ("1.2.840.7", ["1.2.840.1", "1.2.840.2"], True),
        ("5f1c-77ab", ["0a9e-12bc", "77dd-00aa"], True),
        ("last.DCM", ["a.dcm", "b.dcm"], True),
        ("zzz", ["first", "second", "third", "fourth"], True),
    ],
)
def test_what_is_named_like_a_slice(name, slices, is_like):
    assert is_named_like(name, slices) == is_like


def test_links_to_folders_are_followed_once_each(tmp_path, caplog):
    whole = write_ct_series(tmp_path / "whole", slices=6)
    for number in range(1, 7):
        place = tmp_path / ("in" if number <= 3 else "store")
        place.mkdir(exist_ok=True)
        shutil.copy(whole / f"{number:04d}.dcm", place)
    for name in ("half", "half_again", "aaa"):
        (tmp_path / "in" / name).symlink_to(tmp_path / "store")
    (tmp_path / "in" / "round").symlink_to(tmp_path / "in")
    (tmp_path / "store" / "back").symlink_to(tmp_path / "in")
    with caplog.at_level(logging.INFO):
        assert len(select_series(tmp_path / "in").files) == 6
    assert "copies" not in caplog.text  # each folder was seen once


def test_a_link_in_the_place_of_the_folder_is_followed(tmp_path):
    folder = write_ct_series(tmp_path / "store")
    (tmp_path / "in").symlink_to(folder)
    assert len(select_series(tmp_path / "in").files) == 4
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    with pytest.raises(BioAttError, match="gone is a broken link"):
        select_series(tmp_path / "gone")


@pytest.mark.parametrize("text", ["../store", "../store\n", "XSym\n0008\n0123456789abcdef\n../store\n      "])
def test_a_link_that_was_copied_as_text_is_refused(tmp_path, text):
    write_ct_series(tmp_path / "store", slices=2)
    folder = write_ct_series(tmp_path / "in")
    (folder / "part2").write_text(text)
    with pytest.raises(BioAttError, match="slices are lost, .*part2 is the text of a link; make it a link"):
        select_series(folder)
    (folder / "part2").write_text("../elsewhere")
    assert len(select_series(folder).files) == 4


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_told_and_never_opened(tmp_path, caplog):
    folder = write_ct_series(tmp_path)
    os.mkfifo(folder / "pipe")
    assert len(select_series(folder).files) == 4
    assert "pipe is not a regular file" in caplog.text


#: Folders without DICOM: their files, and the words of the refusal.
FOLDERS = {
    "nothing": ([], "no files; name a folder"),
    "hidden": ([".a", ".b/c"], "no files, but 2 hidden ones"),
    "archive": (["study.zip"], r"no DICOM in 1 files, but 1 archive \(study.zip\); unpack it"),
    "packed slices": (["1.dcm.gz", "2.dcm.gz"], r"2 archives \(1.dcm.gz and so on\); unpack it"),
    "NRRD": (["a/ct.NRRD"], r"1 NRRD file in subfolders \(a/ct.NRRD\); name the file itself"),
    "Analyze": (["ct.hdr", "ct.img"], r"2 Analyze or paired NIfTI files \(ct.hdr and so on\); convert"),
    "NIfTI below": (
        ["s1/ct.nii.gz", "s2/ct.nii.gz", "meta.csv"],
        r"no DICOM in 3 files, but 2 NIfTI files in subfolders",
    ),
    "pictures": (["1.png", "2.jpg"], r"2 pictures \(1.png and so on\); a picture holds no HU"),
    "several": (["s/ct.nii", "all.zip", "ct.npy"], "1 NIfTI file .*1 archive .*1 NumPy file .*name one of them"),
    "FreeSurfer": (["t.mgz"], r"1 FreeSurfer file \(t.mgz\); convert it to NIfTI in HU, e.g. nibabel.save"),
    "VTK": (["t.vti"], r"1 VTK file \(t.vti\); convert it to NIfTI in HU$"),
    "array": (["a/t.npy"], r"1 NumPy file in subfolders \(a/t.npy\); .*or give bioatt.denoise the array"),
    "none of these": (["notes.txt"], "no DICOM in 1 files; name a folder"),
}


@pytest.mark.parametrize("what", FOLDERS)
def test_a_folder_without_dicom_says_what_it_holds_and_what_to_do(tmp_path, what):
    names, message = FOLDERS[what]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text("words")
    with pytest.raises(BioAttError, match=message):
        select_series(tmp_path)


#: First bytes of files whose names do not tell what they are, and the words of the refusal.
BEGINNINGS = {
    b"PK\x03\x04": r"no DICOM in 1 files, but 1 archive \(scan\); unpack it",
    b"\r\n--boundary\r\nContent-Type: application/dicom\r\n\r\n": r"1 multipart answer \(scan\); a DICOMweb",
    b"version https://git-lfs.github.com/spec/v1\n": r"1 file pointer \(scan\); fetch the file itself",
    b"-- no answer": "no DICOM in 1 files; name a folder",
    b"<!DOCTYPE html>": r"1 web page \(scan\); that is what a server said in place of the file; fetch it again",
    b"%PDF-1.7": r"1 PDF document \(scan\); it holds no HU",
}


@pytest.mark.parametrize("beginning", BEGINNINGS)
def test_files_are_known_by_their_first_bytes_too(tmp_path, beginning):
    (tmp_path / "scan").write_bytes(beginning + bytes(range(1, 200)))
    with pytest.raises(BioAttError, match=BEGINNINGS[beginning]):
        select_series(tmp_path)


def test_a_dicomdir_alone_is_named(tmp_path):
    shutil.copy(get_testdata_file("DICOMDIR", download=False), tmp_path / "DICOMDIR")
    with pytest.raises(BioAttError, match="a DICOMDIR and no image; .*copy the whole medium"):
        select_series(tmp_path)


def test_a_folder_of_empty_files_and_broken_links_names_them(tmp_path):
    (tmp_path / "0001.dcm").touch()
    (tmp_path / "0002.dcm").symlink_to("nowhere")
    with pytest.raises(BioAttError, match="no DICOM in 1 files; .*0001.dcm is empty .*; .*0002.dcm is a broken link"):
        select_series(tmp_path)
    (tmp_path / "0001.dcm").unlink()
    with pytest.raises(BioAttError, match="no files; .*0002.dcm is a broken link"):
        select_series(tmp_path)


def test_a_folder_of_cut_files_names_them(tmp_path):
    for file in write_ct_series(tmp_path, slices=2).iterdir():
        cut_to(410)(file)
    with pytest.raises(BioAttError, match="no CT image that can be read: .*0001.dcm is cut short within its header"):
        select_series(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("study.tar", b"words", "study.tar is an archive; unpack it"),
        ("slice", b"", r"slice is not a DICOM file, it is empty \(0 bytes\)"),
        ("slice.png", b"\x89PNG", "slice.png is a picture; a picture holds no HU"),
    ],
)
def test_a_file_that_is_no_dicom_says_what_it_is(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BioAttError, match=message):
        select_series(tmp_path / name)


def test_a_broken_link_to_a_nifti_is_refused_beside_others(tmp_path):
    (tmp_path / "a.nii.gz").touch()
    (tmp_path / "b.nii.gz").symlink_to("nowhere")
    with pytest.raises(BioAttError, match="b.nii.gz is a broken link; "):
        find_inputs(tmp_path)


def test_a_cut_image_of_another_kind_is_no_lost_slice(tmp_path):
    mr = together(changed(SOPClassUID="1.2.840.10008.5.1.4.1.1.4", Modality="MR"))
    cut_to(600)(write_ct_series(tmp_path / "mr", slices=1, modify=mr) / "0001.dcm")
    assert len(select_series(write_ct_series(tmp_path / "ct").parent).files) == 4


@pytest.mark.parametrize("left", [".0006.dcm.icloud", ".0006.dcm.a1B2c3", "._0006.dcm", "0006.dcm.icloud"])
def test_a_slice_that_only_a_hidden_file_tells_of_is_lost(tmp_path, left):
    folder = write_ct_series(tmp_path, slices=6, shape=(8, 8))
    (folder / left).write_bytes(b"bplist00")
    assert len(select_series(folder).files) == 6  # beside the slice it says nothing
    (folder / "0006.dcm").unlink()
    with pytest.raises(BioAttError, match=f"slices are lost, .*{left}.*--allow-gaps"):
        select_series(folder)
    assert len(select_series(folder, allow_gaps=True).files) == 5


@pytest.mark.parametrize("name", [".DS_Store", "._.DS_Store", "._folder", ".git", ".notes.txt.ab12cd"])
def test_other_hidden_files_tell_of_no_slice(tmp_path, name):
    folder = write_ct_series(tmp_path, slices=3, shape=(8, 8), name="slice_{:d}_x")
    for i, one in enumerate(sorted(folder.iterdir())):
        one.rename(folder / "abc"[i])  # names without a pattern
    (folder / name).write_bytes(b"x")
    assert len(select_series(folder).files) == 3


def on_a_medium(folder, source):
    """The series with a DICOMDIR, as on a CD."""
    medium = FileSet()
    for file in sorted(source.iterdir()):
        medium.add(file)
    medium.write(folder)
    return sorted(file for file in folder.rglob("IM*"))


def test_an_image_that_the_dicomdir_lists_and_is_not_there_is_lost(tmp_path):
    images = on_a_medium(tmp_path / "cd", write_ct_series(tmp_path / "in", slices=4, shape=(8, 8)))
    assert len(select_series(tmp_path / "cd").files) == 4
    images[-1].unlink()
    for place in (tmp_path / "cd", tmp_path / "cd" / "DICOMDIR"):
        with pytest.raises(BioAttError, match=f"{images[-1].name} is listed by the DICOMDIR and is not here"):
            select_series(place)
        assert len(select_series(place, allow_gaps=True).files) == 3


def test_a_dicomdir_of_images_that_were_renamed_or_of_another_series_loses_nothing(tmp_path):
    images = on_a_medium(tmp_path / "cd", write_ct_series(tmp_path / "in", slices=4, shape=(8, 8)))
    for i, image in enumerate(images):
        image.rename(tmp_path / "cd" / f"{i}.dcm")
    assert len(select_series(tmp_path / "cd").files) == 4
    other = write_ct_series(tmp_path / "other", slices=3, shape=(8, 8), seed=5)
    shutil.copy(tmp_path / "cd" / "DICOMDIR", other)
    assert len(select_series(other).files) == 3


def test_names_of_files_are_shown_without_what_a_terminal_obeys(tmp_path, caplog):
    folder = write_ct_series(tmp_path, slices=3, shape=(8, 8), name="a\x1b[2J\n{:04d}.dcm")
    (folder / "a\x1b[2J\n0003.dcm").write_bytes(b"")
    with pytest.raises(BioAttError, match="is empty") as info:
        select_series(folder)
    messages = [record.getMessage() for record in caplog.records if "is empty" in record.getMessage()]
    assert messages and all(one.isprintable() for one in [*messages, str(info.value)])


@pytest.mark.parametrize("length", [140, 146])
def test_a_slice_that_ends_within_an_element_is_lost(tmp_path, length):
    folder = write_ct_series(tmp_path, slices=4)
    (folder / "0004.dcm").write_bytes((folder / "0004.dcm").read_bytes()[:length])
    with pytest.raises(BioAttError, match="slices are lost, .*0004.dcm is cut short within its header"):
        select_series(folder)
    assert len(select_series(folder, allow_gaps=True).files) == 3
