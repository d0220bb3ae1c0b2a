"""Files made to break a reader, in the shapes of the flaws that were published for DICOM servers and viewers.

Each ends in one line within bounded memory, and nothing is unpacked that nobody asked for.
"""

from __future__ import annotations

import gzip
import io
import zipfile

import nibabel
import numpy as np
import pydicom
import pytest
import torch
from child import READ, in_a_child
from dicom_cases import SYNTAXES, changed, write_enhanced_ct
from phantom import write_ct_series
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from scripts.app.command_line import main
from scripts.dicom import read_volume, select_series
from scripts.errors import BioAttError
from scripts.networks.weights import read_state_dict

#: Reads each NIfTI file that an argument names, and prints `read` or the error: one process, which takes long to start.
NIFTI = """
from scripts.volumes.volume import load_volume
for file in sys.argv[1:]:
    try:
        load_volume(file, assume_hu=True); print("read")
    except BioAttError as error:
        print(error)
"""


def raw(keyword, vr, content):
    """Put an element of these bytes, and of any VR, into a data set."""
    tag = Tag(keyword)

    def modify(dataset, _):
        dataset[tag] = RawDataElement(tag, vr, len(content), content, 0, False, True)

    return modify


@pytest.mark.parametrize(
    ("rows", "columns", "bits"),
    [(65535, 65537 % 65536, 16), (32768, 32768, 32), (65535, 65535, 8), (46341, 46341, 16), (4097, 64, 16)],
)
@pytest.mark.parametrize("syntax", [SYNTAXES[0], SYNTAXES[-1]], ids=lambda syntax: syntax.name)
def test_sizes_whose_product_leaves_32_bits(tmp_path, rows, columns, bits, syntax):
    modify = changed(Rows=rows, Columns=columns, BitsAllocated=bits)
    folder = write_ct_series(tmp_path / "in", slices=1, transfer_syntax=syntax, modify=modify)
    told = in_a_child(READ, folder)
    assert "0001.dcm" in told and told.count("\n") == 0 and "read" != told


@pytest.mark.parametrize("frames", [65536, 2**31 - 1, 2**32 + 1, -1])
def test_frames_whose_product_leaves_32_bits(tmp_path, frames):
    file, _ = write_enhanced_ct(tmp_path, slices=2, modify=lambda image: setattr(image, "NumberOfFrames", frames))
    told = in_a_child(READ, file)
    assert file.name in told and "read" != told


@pytest.mark.parametrize("keyword", ["Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit"])
@pytest.mark.parametrize(("vr", "size"), [("UL", 4), ("UV", 8), ("SL", 4), ("UN", 4), ("OB", 2)])
@pytest.mark.parametrize("number", [0x10000 + 48, 0x7FFFFFFF])
def test_a_wider_number_in_the_place_of_a_short_one(tmp_path, keyword, vr, size, number):
    """UL in Rows: what a reader of 16 bits takes for 48 is 65584 to another."""
    content = number.to_bytes(8, "little")[:size]
    folder = write_ct_series(tmp_path / "in", slices=1, modify=raw(keyword, vr, content))
    try:
        volume = read_volume(select_series(folder))
    except BioAttError as error:
        assert "0001.dcm" in str(error)
    else:  # two bytes of OB may be read as the number that they are
        expected = pydicom.dcmread(folder / "0001.dcm")
        assert volume.shape[1:] == (expected.Rows, expected.Columns)


def test_palettes_are_refused_before_their_tables_are_used(tmp_path):
    def modify(dataset, i):
        dataset.PhotometricInterpretation = "PALETTE COLOR"
        for colour in ("Red", "Green", "Blue"):
            setattr(dataset, f"{colour}PaletteColorLookupTableDescriptor", [65535, 0, 16])
            setattr(dataset, f"{colour}PaletteColorLookupTableData", b"\1\2")
        raw("PixelPaddingValue", "US", b"\xff\xff")(dataset, i)

    folder = write_ct_series(tmp_path / "in", slices=1, modify=modify)
    with pytest.raises(BioAttError, match="PALETTE COLOR"):
        read_volume(select_series(folder))


def test_nifti_whose_header_promises_more_than_there_is(tmp_path):
    image, files = nibabel.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4)), []
    for number, shape in enumerate([(32767, 32767, 32767), (2048, 2048, 500), (65535 // 2, 4, 16384)]):
        content = bytearray(image.to_bytes())
        content[42:48] = np.array(shape, "<i2").tobytes()
        files += [tmp_path / f"{number}.nii", tmp_path / f"{number}.nii.gz"]
        files[-2].write_bytes(bytes(content))
        files[-1].write_bytes(gzip.compress(bytes(content)))
    told = in_a_child(NIFTI, *files, megabytes=5000).splitlines()
    for file, line in zip(files, told, strict=True):
        assert str(file) in line and ("copy it again" in line or "2**31 voxels or more" in line)


def test_a_gzip_bomb_behind_a_nifti_is_not_unpacked(tmp_path):
    """4 GiB of zeros behind a small volume, and before it: as an extension that lies."""
    content = nibabel.Nifti1Image(np.full((4, 4, 4), 7, np.int16), np.eye(4)).to_bytes()
    nothing = gzip.compress(bytes(1 << 26), 9)
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(content) + nothing * 64)
    bomb = bytearray(content[:352])
    bomb[108:112] = np.array([float(1 << 31)], "<f4").tobytes()  # vox_offset
    bomb[348:352] = b"\1\0\0\0"
    bomb += (0x7FFFFFF0).to_bytes(4, "little") + (6).to_bytes(4, "little")
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(bytes(bomb)) + nothing * 64)
    first, second = in_a_child(NIFTI, tmp_path / "a.nii.gz", tmp_path / "b.nii.gz", megabytes=5000).splitlines()
    assert first == "read" and "b.nii.gz" in second


def test_a_zip_whose_paths_lead_out_of_it_is_refused(tmp_path, capsys):
    with zipfile.ZipFile(tmp_path / "study.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(3):
            archive.writestr(f"../{i}.dcm", bytes(1 << 26))
    assert main(["denoise", str(tmp_path / "study.zip"), str(tmp_path / "out")]) == 2
    assert "leads out of it" in capsys.readouterr().err
    assert [one.name for one in tmp_path.iterdir()] == ["study.zip"]


def test_weights_that_grow_when_they_are_unpacked_are_refused(tmp_path):
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(1 << 24)}, buffer)
    torch.save({"a": torch.zeros(1 << 24)}, tmp_path / "plain.pt")
    assert read_state_dict(tmp_path / "plain.pt")["a"].shape == (1 << 24,)
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as target:
        for one in source.infolist():
            target.writestr(one.filename, source.read(one))
    assert (tmp_path / "a.pt").stat().st_size < 1 << 20
    with pytest.raises(BioAttError, match="cannot be read as weights") as refused:
        read_state_dict(tmp_path / "a.pt")
    assert "its parts make 67" in str(refused.value.__cause__)
