"""Nobody's name gets out, nothing is written elsewhere, and hostile files end in an error within bounded memory."""

from __future__ import annotations

import logging
import zlib

import numpy as np
import pydicom
import pytest
from child import READ, in_a_child
from dicom_cases import MARK, changed, derive, in_slice, marked, together
from phantom import write_ct_series
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, JPEG2000Lossless, RLELossless
from scripts.app.command_line import main
from scripts.dicom import find_series, read_frames, read_volume, select_series
from scripts.errors import BioAttError

pytestmark = pytest.mark.filterwarnings("ignore:.*Invalid value for VR")  # pydicom's, while series are made


def cut(file):
    file.write_bytes(file.read_bytes()[:-900])


def _words_as_sequence(dataset, _):
    item = Dataset()
    item.PatientName = MARK
    dataset.add_new("PhotometricInterpretation", "SQ", [item])
    dataset.add_new("PixelSpacing", "SQ", [item])


#: What goes wrong: how the series is made, and how a file of it is damaged.
WRONG = {
    "nothing": (marked, None),
    "two patients": (together(marked, in_slice(1, PatientID=MARK + "2", PatientName=MARK + "^2")), None),
    "no geometry": (together(marked, changed(ImagePositionPatient=None)), None),
    "no HU": (together(marked, changed(RescaleType="PCT")), None),
    "gap": (together(marked, lambda dataset, i: setattr(dataset, "ImagePositionPatient", [0, 0, i * i])), None),
    "same place": (together(marked, changed(ImagePositionPatient=[0, 0, 0])), None),
    "no CT": (together(marked, changed(SOPClassUID="1.2.840.10008.5.1.4.1.1.4")), None),
    "cut short": (marked, cut),
    "name as a number": (
        marked,
        lambda file: file.write_bytes(file.read_bytes().replace(b"\x28\x00\x30\x00DS", b"\x28\x00\x30\x00PN")),
    ),
    "shifted": (marked, lambda file: file.write_bytes(file.read_bytes().replace(b"\x10\x00\x20\x00LO", b"\x10\x00"))),
    "unknown VR": (
        marked,
        lambda file: file.write_bytes(file.read_bytes().replace(b"\x10\x00\x10\x00PN", b"\x10\0\x10\0XM")),
    ),
    "a sequence in place of a word": (
        together(marked, changed(PhotometricInterpretation=None), _words_as_sequence),
        None,
    ),
    "unknown characters": (
        marked,
        lambda file: file.write_bytes(file.read_bytes().replace(b"ISO_IR 100", b"ISO_IR 999")),
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_nothing_of_patient_or_study_is_shown(tmp_path, capfd, caplog, recwarn, what):
    modify, damage = WRONG[what]
    source = write_ct_series(tmp_path / "in", modify=modify)
    for file in source.iterdir() if damage else ():
        damage(file)
    capfd.readouterr(), recwarn.clear(), caplog.clear()
    caplog.set_level(logging.DEBUG)
    told = ""
    try:
        derive(source, tmp_path / "out", lambda volume: volume * 40)
    except BioAttError as error:
        told = str(error)
    assert (told == "") == (what in ("nothing", "unknown VR", "unknown characters", "gap")), told
    shown = capfd.readouterr()
    everything = [told, shown.out, shown.err, caplog.text, *(str(one.message) for one in recwarn)]
    everything += [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")]
    for text in everything:
        assert MARK not in text and "19010203" not in text and "099Y" not in text


def test_nothing_of_patient_or_study_is_shown_by_the_commands(tmp_path, capfd):
    write_ct_series(tmp_path / "in" / "1", seed=1, modify=marked)
    write_ct_series(tmp_path / "in" / "2", seed=2, modify=together(marked, changed(SeriesNumber=9)))
    table = tmp_path / "p.csv"
    for words, code in ((), 2), (("--series", "9"), 0):
        assert main(["priors", str(tmp_path / "in"), str(table), "--prior", "uniform", *words]) == code
    shown = capfd.readouterr()
    assert "4 slices" in shown.out and MARK not in shown.out + shown.err + table.read_text()


@pytest.mark.parametrize("name", ["../../evil", "/etc/evil", "..\\..\\evil", "a\0b", "~/evil", "CON"])
def test_uids_and_descriptions_cannot_leave_the_output_folder(tmp_path, name):
    def modify(dataset, i):
        dataset.SeriesInstanceUID = dataset.StudyInstanceUID = name
        dataset.SOPInstanceUID = f"{name}{i}"
        dataset.SeriesDescription = name

    source = write_ct_series(tmp_path / "a" / "b" / "in", modify=modify, slices=2)
    before = set(tmp_path.rglob("*"))
    derive(source, tmp_path / "a" / "b" / "out")
    made = {path.relative_to(tmp_path / "a" / "b").as_posix() for path in set(tmp_path.rglob("*")) - before}
    assert made == {"out", "out/0001.dcm", "out/0002.dcm"}


def test_terminal_codes_in_values_are_not_printed(tmp_path):
    folder = write_ct_series(tmp_path, modify=changed(RescaleType="\x1b[31mRED"))
    with pytest.raises(BioAttError, match="RescaleType is .*RED, expected HU") as caught:
        select_series(folder)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, JPEG2000Lossless])
@pytest.mark.parametrize("rows, columns", [(65535, 65535), (65535, 257)])
def test_rows_and_columns_are_checked_before_pixels_are_allocated(tmp_path, syntax, rows, columns):
    folder = write_ct_series(tmp_path, slices=1, transfer_syntax=syntax, modify=changed(Rows=rows, Columns=columns))
    with pytest.raises(BioAttError, match="65535 x (65535|257)"):
        next(read_frames(folder / "0001.dcm"))
    with pytest.raises(BioAttError, match="65535 x 65535, more than"):
        select_series(write_ct_series(tmp_path / "b", modify=changed(Rows=65535, Columns=65535)))


def test_a_codestream_larger_than_its_header_says_is_not_decoded(tmp_path):
    folder = write_ct_series(tmp_path, slices=1, transfer_syntax=JPEG2000Lossless)
    file = folder / "0001.dcm"
    content = file.read_bytes()
    size = content.index(b"\xff\x4f\xff\x51") + 8
    file.write_bytes(content[:size] + b"\x00\x0f\x42\x40" * 2 + content[size + 8 :])
    with pytest.raises(BioAttError, match="compressed image has 1000000 x 1000000 pixels"):
        next(read_frames(file))


def test_many_frames_are_not_allocated_before_they_are_there(tmp_path):
    from dicom_cases import write_enhanced_ct

    def modify(image):
        groups = image.PerFrameFunctionalGroupsSequence
        image.NumberOfFrames = 500
        image.PerFrameFunctionalGroupsSequence = [groups[0]] * 500

    file, _ = write_enhanced_ct(tmp_path, modify=modify, slices=1)
    with pytest.raises(BioAttError, match="PixelData is cut short"):
        next(read_frames(file))


def test_a_deflated_bomb_ends_within_bounded_memory(tmp_path):
    folder = write_ct_series(tmp_path, slices=1, transfer_syntax=DeflatedExplicitVRLittleEndian)
    file = folder / "0001.dcm"
    content = file.read_bytes()
    start = 144 + int.from_bytes(content[140:144], "little")
    deflate = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    head = deflate.compress(zlib.decompress(content[start:], -zlib.MAX_WBITS)) + deflate.flush(zlib.Z_FULL_FLUSH)
    nothing = deflate.compress(bytes(1 << 24)) + deflate.flush(zlib.Z_FULL_FLUSH)  # can be repeated as it is
    bomb = content[:start] + head + nothing * 256 + deflate.flush()  # 4 GiB
    file.write_bytes(bomb)
    assert len(bomb) < 5 << 20
    assert "grows beyond 512 MiB when it is inflated" in in_a_child(READ, folder)


@pytest.mark.parametrize(("depth", "undefined"), [(200, True), (100_000, True), (200, False), (5000, False)])
def test_nested_sequences_end_in_an_error_or_are_copied(tmp_path, depth, undefined):
    folder = write_ct_series(tmp_path / "in", slices=1)
    dataset = pydicom.dcmread(folder / "0001.dcm")
    place = b"\x08\x00\x40\x11SQ\0\0"  # ReferencedImageSequence
    if undefined:
        nest = (place + b"\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff") * depth
        nest += (b"\xfe\xff\x0d\xe0\0\0\0\0" + b"\xfe\xff\xdd\xe0\0\0\0\0") * depth
    else:
        nest = b""
        for _ in range(depth):
            item = b"\xfe\xff\x00\xe0" + len(nest).to_bytes(4, "little") + nest
            nest = place + len(item).to_bytes(4, "little") + item
    dataset.ReferencedImageSequence = []
    dataset.save_as(folder / "0001.dcm")
    content = (folder / "0001.dcm").read_bytes()
    assert content.count(place + bytes(4)) == 1
    (folder / "0001.dcm").write_bytes(content.replace(place + bytes(4), nest))
    try:
        derive(folder, tmp_path / "out")
    except BioAttError as error:
        assert "0001.dcm" in str(error)
        assert not (tmp_path / "out").exists()
    else:
        assert depth == 200


def test_private_data_can_be_kept_but_not_signatures(tmp_path):
    from scripts.dicom import DerivedRules

    def modify(dataset, _):
        block = dataset.private_block(0x0009, "SOMEBODY", create=True)
        block.add_new(1, "LO", "private")
        item = Dataset()
        item.DigitalSignaturesSequence = [Dataset()]
        item.private_block(0x0009, "SOMEBODY", create=True).add_new(1, "LO", "inner")
        dataset.ReferencedImageSequence = [item]
        dataset.MACParametersSequence = [Dataset()]

    source = write_ct_series(tmp_path / "in", slices=1, modify=modify)
    for name, kept in ("without", False), ("with", True):
        derive(source, tmp_path / name, rules=DerivedRules(keep_private=kept))
        image = pydicom.dcmread(tmp_path / name / "0001.dcm")
        item = image.ReferencedImageSequence[0]
        assert "DigitalSignaturesSequence" not in item and "MACParametersSequence" not in image
        assert ((0x0009, 0x1001) in image, (0x0009, 0x1001) in item) == (kept, kept)
    assert image[0x0009, 0x1001].value == "private"


def test_sources_are_opened_for_reading_only(tmp_path):
    source = write_ct_series(tmp_path / "in")
    for file in source.iterdir():
        file.chmod(0o400)
    source.chmod(0o500)
    derive(source, tmp_path / "out")
    source.chmod(0o700)
    assert len(find_series(tmp_path / "out")) == 1
    np.testing.assert_array_equal(
        read_volume(select_series(tmp_path / "out")), read_volume(select_series(tmp_path / "in"))
    )
