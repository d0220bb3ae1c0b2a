"""A zip of DICOM is read as the folder in it, without being unpacked; a hostile one is refused or costs nothing."""

from __future__ import annotations

import json
import os
import stat
import struct
import zipfile
from pathlib import Path

import bioatt
import numpy as np
import pydicom
import pytest
from phantom import write_ct_series
from pydicom.uid import JPEGLSLossless
from scripts.app.command_line import main
from scripts.dicom import FileProcesses, find_series, read_volume, select_series
from scripts.dicom import archive as archive_module
from scripts.errors import BioAttError


def pack(folder, file, below="study/", compression=zipfile.ZIP_DEFLATED):
    """The files below a folder as a zip."""
    with zipfile.ZipFile(file, "w", compression) as archive:
        for one in sorted(folder.rglob("*")):
            if one.is_file():
                archive.write(one, below + one.relative_to(folder).as_posix())
    return file


def _another(dataset, i):
    """Modifies the phantom's series to be another of its study."""
    dataset.SeriesInstanceUID, dataset.SeriesNumber = f"{dataset.SeriesInstanceUID[:60]}.9", 9
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"{dataset.SOPInstanceUID[:50]}.9"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("source") / "series"
    return write_ct_series(place, slices=4, noise_sd=30.0)


@pytest.fixture
def packed(folder, tmp_path):
    return pack(folder, tmp_path / "study.zip")


@pytest.fixture
def no_writing(monkeypatch, tmp_path):
    """Fails where anything is written to a temporary folder."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    yield
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("name", ["study.zip", "STUDY.ZIP"])
def test_a_zip_gives_the_series_of_its_folder(folder, tmp_path, no_writing, compression, name):
    packed = pack(folder, tmp_path / name, compression=compression)
    ours, plain = select_series(packed), select_series(folder)
    assert [file.name for file in ours.files] == [file.name for file in plain.files]
    assert ours.files[0].parent == packed / "study"
    assert np.array_equal(ours.affine, plain.affine)
    assert np.array_equal(read_volume(ours), read_volume(plain))
    assert np.array_equal(read_volume(ours, processes=FileProcesses(isolated=True)), read_volume(plain))
    assert [one.series_instance_uid for one in find_series(packed)] == [plain.series_instance_uid]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "temporary"])


def test_command_and_function_give_the_same_of_a_zip(folder, packed, weights, tmp_path, no_writing):
    assert main(["denoise", str(folder), str(tmp_path / "plain"), "--weights", str(weights), "--quiet"]) == 0
    assert (
        main(["denoise", str(packed), str(tmp_path / "zipped"), "--weights", str(weights), "--quiet", "--report"]) == 0
    )
    wanted = read_volume(select_series(tmp_path / "plain"))
    assert np.array_equal(read_volume(select_series(tmp_path / "zipped")), wanted)
    assert "study.zip" not in (tmp_path / "zipped.html").read_text()  # names of files can be names of patients
    datasets = bioatt.denoise(packed, weights=weights)
    hu = np.stack([one.pixel_array * one.RescaleSlope + one.RescaleIntercept for one in datasets])
    assert np.array_equal(hu, wanted)


def test_one_of_several_series_is_chosen(tmp_path, folder):
    write_ct_series(tmp_path / "all" / "one", slices=3, noise_sd=10.0)
    write_ct_series(tmp_path / "all" / "two", slices=4, noise_sd=20.0, modify=_another)
    packed = pack(tmp_path / "all", tmp_path / "all.zip")
    two = select_series(tmp_path / "all" / "two")
    with pytest.raises(BioAttError, match="all.zip holds 2 CT series.*--series UID"):
        select_series(packed)
    assert np.array_equal(read_volume(select_series(packed, two.series_instance_uid)), read_volume(two))


def test_a_lost_slice_is_told_in_a_zip_as_in_a_folder(folder, tmp_path):
    first, *_ = sorted(folder.iterdir())
    for name, data in (("empty", b""), ("zeros", bytes(4096)), ("cut", first.read_bytes()[:100])):
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
            for file in sorted(folder.iterdir()):
                archive.writestr(file.name, data if file == first else file.read_bytes())
        with pytest.raises(BioAttError, match=rf"{name}.zip/{first.name}"):
            select_series(tmp_path / f"{name}.zip")
        assert len(select_series(tmp_path / f"{name}.zip", allow_gaps=True).files) == 3


def test_hidden_files_as_macs_pack_them_are_passed_over(folder, tmp_path):
    packed = pack(folder, tmp_path / "study.zip")
    with zipfile.ZipFile(packed, "a") as archive:
        for file in folder.iterdir():
            archive.writestr(f"__MACOSX/study/._{file.name}", b"\0\5\x16\7\0\2\0\0Mac OS X")
    assert len(select_series(packed).files) == 4


def test_paths_as_windows_writes_them_are_read(folder, tmp_path):
    packed = pack(folder, tmp_path / "study.zip", below="study\\")
    assert np.array_equal(read_volume(select_series(packed)), read_volume(select_series(folder)))


def test_a_compressed_transfer_syntax_is_decoded_out_of_a_zip(tmp_path):
    source = write_ct_series(tmp_path / "source", slices=3, noise_sd=30.0)
    for file in source.iterdir():
        dataset = pydicom.dcmread(file)
        dataset.compress(JPEGLSLossless)
        dataset.save_as(file)
    packed = pack(source, tmp_path / "study.zip")
    assert np.array_equal(
        read_volume(select_series(packed), processes=FileProcesses(isolated=True)), read_volume(select_series(source))
    )


# What is refused


@pytest.mark.parametrize("name", ["../out.dcm", "/etc/out.dcm", "a/../../out.dcm", "..\\out.dcm", "C:\\out.dcm"])
def test_a_path_that_leads_out_is_refused(packed, no_writing, name):
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr(zipfile.ZipInfo(name), b"out")
    with pytest.raises(BioAttError, match="study.zip holds a path that leads out of it"):
        select_series(packed)


def test_a_link_is_never_followed(folder, packed, tmp_path):
    entry = zipfile.ZipInfo("study/IM9999.dcm")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr(entry, str(sorted(folder.iterdir())[0]))
    with pytest.raises(BioAttError, match=r"IM9999.dcm is a link, which leads nowhere"):
        select_series(packed)


def test_the_same_path_twice_is_refused(packed):
    with zipfile.ZipFile(packed, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr(archive.infolist()[0].filename, b"another")
    with pytest.raises(BioAttError, match="twice"):
        select_series(packed)


def test_a_bomb_is_not_inflated(folder, packed, monkeypatch):
    with zipfile.ZipFile(packed, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("study/readme.bin", bytes(1 << 26))
    read = []
    inflate = archive_module._Inflated.readinto
    monkeypatch.setattr(
        archive_module._Inflated, "readinto", lambda self, buffer: read.append(inflate(self, buffer)) or read[-1]
    )
    select_series(packed)
    assert 0 < sum(read) < 1 << 22


def test_a_file_that_would_grow_beyond_the_limit_is_not_opened(packed, monkeypatch):
    monkeypatch.setattr(archive_module, "MAX_INFLATED_BYTES", 1000)
    with pytest.raises(BioAttError, match="grows beyond 0 MiB when it is inflated; unpack the archive if you trust"):
        select_series(packed)


def test_too_many_files_are_refused(packed, monkeypatch):
    monkeypatch.setattr(archive_module, "MAX_FILES", 3)
    with pytest.raises(BioAttError, match="study.zip holds 4 files, expected at most 3"):
        select_series(packed)


def test_a_locked_archive_is_refused(packed):
    data = bytearray(packed.read_bytes())
    for signature, place in ((b"PK\1\2", 8), (b"PK\3\4", 6)):  # flags of the table, and of each file
        at = data.find(signature)
        while at >= 0:
            struct.pack_into("<H", data, at + place, 1)
            at = data.find(signature, at + 4)
    packed.write_bytes(data)
    with pytest.raises(BioAttError, match="locked by a password; unpack it"):
        select_series(packed)


@pytest.mark.parametrize("data", [b"", b"PK", b"no zip at all" * 100])
def test_what_is_no_zip_is_told(tmp_path, data):
    (tmp_path / "study.zip").write_bytes(data)
    with pytest.raises(BioAttError, match=r"study.zip is not a zip file, or is damaged; copy it again"):
        select_series(tmp_path / "study.zip")


def test_a_zip_without_dicom_says_what_it_holds(tmp_path):
    with zipfile.ZipFile(tmp_path / "study.zip", "w") as archive:
        archive.writestr("a/ct.nii.gz", b"volume")
    with pytest.raises(BioAttError, match=r"study.zip: no DICOM in 1 files, but 1 NIfTI file .*; unpack it, and name"):
        select_series(tmp_path / "study.zip")


def test_a_zip_in_a_folder_stays_an_archive(tmp_path, packed):
    with pytest.raises(BioAttError, match="1 archive .study.zip.; unpack it"):
        select_series(tmp_path)


def test_damaged_bytes_give_the_pixels_or_one_error(folder, packed):
    whole, wanted = packed.read_bytes(), read_volume(select_series(folder))
    generator = np.random.default_rng(5)
    refused = 0
    for _ in range(150):
        data = bytearray(whole)
        for place in generator.integers(0, len(data), 4):
            data[place] = generator.integers(0, 256)
        if generator.random() < 0.2:
            del data[int(generator.integers(100, len(data))) :]
        packed.write_bytes(data)
        os.utime(packed, ns=(int(generator.integers(1, 1 << 40)),) * 2)  # never the same file as before
        try:
            found = read_volume(select_series(packed))
        except BioAttError:
            refused += 1
            continue
        assert np.array_equal(found, wanted)  # each file has a checksum
    assert refused > 100


def test_a_zip_that_changed_is_read_anew(folder, tmp_path):
    packed = pack(folder, tmp_path / "study.zip")
    before = select_series(packed)
    dataset = pydicom.dcmread(sorted(folder.iterdir())[0])
    dataset.SeriesInstanceUID = "1.2.3"
    dataset.save_as(tmp_path / "one.dcm")
    packed.unlink()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.write(tmp_path / "one.dcm", "one.dcm")
    assert select_series(packed).series_instance_uid == "1.2.3"
    with pytest.raises(BioAttError, match="cannot be read: the archive holds no such file"):
        read_volume(before)


def test_the_derived_series_names_no_archive(folder, packed, weights, tmp_path):
    made = bioatt.denoise(packed, tmp_path / "made", weights=weights)
    for file in made.iterdir():
        dataset = pydicom.dcmread(file)
        assert "study.zip" not in json.dumps(dataset.to_json_dict())
    assert Path(made).is_dir()


@pytest.mark.parametrize("same", [True, False])
def test_second_copies_of_a_slice_in_a_zip_are_left_out(folder, tmp_path, same):
    content = (folder / "0002.dcm").read_bytes()
    image = pydicom.dcmread(folder / "0002.dcm")
    image.compress(JPEGLSLossless, generate_instance_uid=False)
    image.save_as(tmp_path / "other.dcm")
    file = pack(folder, tmp_path / "study.zip")
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("study/copy.dcm", content if same else (tmp_path / "other.dcm").read_bytes())
    np.testing.assert_array_equal(read_volume(select_series(file)), read_volume(select_series(folder)))


def test_what_a_zip_holds_instead_is_known_by_its_first_bytes(tmp_path):
    with zipfile.ZipFile(tmp_path / "study.zip", "w") as archive:
        archive.writestr("study/scan", b"<!DOCTYPE html>" + bytes(range(1, 200)))
    with pytest.raises(BioAttError, match="1 web page"):
        select_series(tmp_path / "study.zip")


def test_a_colon_in_the_name_of_a_folder_leads_nowhere(folder, tmp_path):
    packed = pack(folder, tmp_path / "study.zip", below="Series 3: axial/")
    assert len(select_series(packed).files) == 4


def test_a_zip_whose_begin_is_missing_is_told(packed, tmp_path):
    (tmp_path / "cut.zip").write_bytes(packed.read_bytes()[500:])
    with pytest.raises(BioAttError, match="it is damaged in its archive, copy that again"):
        select_series(tmp_path / "cut.zip")
