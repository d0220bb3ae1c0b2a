"""Faults that peers get over: read right, told once, and mended in what is derived."""

from __future__ import annotations

from struct import pack

import numpy as np
import pydicom
import pytest
from dicom_cases import changed, derive, in_slice, together
from phantom import write_ct_series
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.tag import Tag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
)
from scripts.dicom import read_volume, select_series
from scripts.errors import BioAttError
from scripts.volumes.volume import load_volume


@pytest.fixture
def plain(tmp_path):
    return read_volume(select_series(write_ct_series(tmp_path / "plain")))


@pytest.mark.parametrize("bits", [12, 13, 14, 16])
@pytest.mark.parametrize("signed", [True, False])
def test_a_jpeg_2000_codestream_of_fewer_bits_than_bits_stored_is_read(tmp_path, bits, signed, plain):
    from openjpeg.utils import encode_array

    kind = {"intercept": 0.0, "signed": True} if signed else {}
    folder = write_ct_series(tmp_path / "in", **kind)
    wanted = read_volume(select_series(folder))
    for file in folder.iterdir():
        image = pydicom.dcmread(file)
        image.PixelData = encapsulate([encode_array(image.pixel_array, bits_stored=bits, use_mct=False)])
        image.file_meta.TransferSyntaxUID = JPEG2000Lossless
        image["PixelData"].is_undefined_length = True
        image.save_as(file)
    assert pydicom.dcmread(file).BitsStored == 16
    np.testing.assert_array_equal(read_volume(select_series(folder)), wanted)
    assert wanted.min() < -1000


def test_a_codestream_that_does_not_say_its_sign_is_refused(tmp_path):
    folder = write_ct_series(
        tmp_path, signed=True, intercept=0.0, bits_stored=12, transfer_syntax=JPEGLSLossless, slices=1
    )
    image = pydicom.dcmread(folder / "0001.dcm")
    image.BitsStored, image.HighBit = 16, 15
    image.save_as(folder / "0001.dcm")
    with pytest.raises(BioAttError, match="the compressed image has 12 bits, but .*BitsStored 16 and PixelRep"):
        read_volume(select_series(folder))


@pytest.mark.parametrize(
    "behind", [bytes(2), bytes(512), b"\xff" * 6000, bytes(range(100)), bytes(2 * 6144), bytes(70000)]
)
def test_bytes_behind_the_pixels_are_ignored_and_told_once(tmp_path, caplog, behind, plain):
    def modify(dataset, _):
        dataset.PixelData += behind

    folder = write_ct_series(tmp_path / "in", modify=modify)
    np.testing.assert_array_equal(read_volume(select_series(folder)), plain)
    told = [one for one in caplog.messages if "after the pixels" in one]
    assert told == [
        f"series {select_series(folder).series_instance_uid}, 4 files: {len(behind)} bytes after the pixels "
        "are ignored (PS3.5 8.1.1)"
    ]
    derived = derive(folder, tmp_path / "out")
    assert len(pydicom.dcmread(derived.files[0]).PixelData) == 48 * 64 * 2


@pytest.mark.parametrize("change", [changed(Rows=40), changed(Columns=60), changed(Rows=24)])
def test_rows_of_the_image_behind_the_pixels_are_refused(tmp_path, change):
    folder = write_ct_series(tmp_path, modify=change)
    with pytest.raises(BioAttError, match="PixelData has 6144 bytes, but Rows x Columns"):
        read_volume(select_series(folder))


@pytest.mark.parametrize(("bits_stored", "high_bit"), [(16, 11), (16, 14), (12, 7)])
def test_a_high_bit_that_cannot_be_is_ignored_told_and_mended(tmp_path, caplog, bits_stored, high_bit, plain):
    folder = write_ct_series(tmp_path / "in", bits_stored=bits_stored, modify=changed(HighBit=high_bit))
    np.testing.assert_array_equal(read_volume(select_series(folder)), plain)
    assert f"4 files: HighBit {high_bit} is not BitsStored {bits_stored} - 1 and is ignored" in caplog.text
    derived = derive(folder, tmp_path / "out")
    assert pydicom.dcmread(derived.files[0]).HighBit == bits_stored - 1
    np.testing.assert_array_equal(read_volume(derived), plain)


@pytest.mark.parametrize("bits_stored", [16, 12])
def test_a_missing_high_bit_is_taken_told_and_mended(tmp_path, caplog, bits_stored, plain):
    folder = write_ct_series(tmp_path / "in", bits_stored=bits_stored, modify=changed(HighBit=None))
    np.testing.assert_array_equal(read_volume(select_series(folder)), plain)
    assert f"4 files: HighBit is missing and taken as BitsStored {bits_stored} - 1" in caplog.text
    derived = derive(folder, tmp_path / "out")
    assert pydicom.dcmread(derived.files[0]).HighBit == bits_stored - 1


def test_no_frames_in_a_single_frame_image_is_one(tmp_path, plain):
    folder = write_ct_series(tmp_path / "in", modify=changed(NumberOfFrames=0))
    np.testing.assert_array_equal(read_volume(select_series(folder)), plain)
    derived = derive(folder, tmp_path / "out")
    np.testing.assert_array_equal(read_volume(derived), plain)


def test_a_slice_of_one_value_is_told(tmp_path, caplog):
    """A file that was made in its full length before it was filled, and was not filled."""

    def modify(dataset, i):
        dataset.PixelData = bytes(len(dataset.PixelData)) if i == 2 else dataset.PixelData

    series = select_series(write_ct_series(tmp_path / "in", modify=modify))
    read_volume(series)
    words = "1 slices hold one value in all pixels, perhaps copied half: 0003.dcm"
    assert caplog.text.count(words) == 1
    caplog.clear()
    read_volume(select_series(write_ct_series(tmp_path / "other")))
    assert "one value" not in caplog.text


@pytest.mark.parametrize("unit", ["HU\\HU", "HU\\", "hu", "Hounsfield units", "H.U.", "Hounsfield Unit (HU)"])
def test_hu_may_be_said_twice_or_spelt_out(tmp_path, unit, plain):
    folder = write_ct_series(tmp_path / "in", modify=changed(RescaleType=unit.split("\\") if "\\" in unit else unit))
    np.testing.assert_array_equal(read_volume(select_series(folder)), plain)


@pytest.mark.parametrize("unit", [["HU", "Z_EFF"], ["HU", "US"], "HU_MOD", "CT number", "HUS"])
def test_other_units_are_refused(tmp_path, unit):
    with pytest.raises(BioAttError, match="RescaleType is"):
        select_series(write_ct_series(tmp_path, modify=changed(RescaleType=unit)))


def test_rescale_that_is_said_twice_counts_once(tmp_path, plain):
    twice = changed(RescaleSlope=[1, 1], RescaleIntercept=[-1024, -1024])
    np.testing.assert_array_equal(read_volume(select_series(write_ct_series(tmp_path / "in", modify=twice))), plain)
    other = changed(RescaleIntercept=[-1024, 0])
    with pytest.raises(BioAttError, match="RescaleIntercept is .*expected a number"):
        select_series(write_ct_series(tmp_path / "other", modify=other))


def without_class(folder, *keywords):
    for file in folder.iterdir():
        image = pydicom.dcmread(file)
        for keyword in keywords:
            del image[keyword]
        image.save_as(file, enforce_file_format=False)


def test_sop_class_and_instance_are_taken_from_the_meta_group(tmp_path, plain):
    folder = write_ct_series(tmp_path / "in")
    uids = {str(pydicom.dcmread(file).SOPInstanceUID) for file in folder.iterdir()}
    without_class(folder, "SOPClassUID", "SOPInstanceUID")
    series = select_series(folder)
    assert set(series.sop_instance_uids) == uids
    derived = derive(folder, tmp_path / "out")
    image = pydicom.dcmread(derived.files[0])
    assert image.SOPClassUID == "1.2.840.10008.5.1.4.1.1.2"
    assert image.SourceImageSequence[0].ReferencedSOPClassUID == image.SOPClassUID
    np.testing.assert_array_equal(read_volume(derived), plain)


@pytest.mark.parametrize("keyword", ["SOPClassUID", "SOPInstanceUID"])
def test_a_uid_of_another_vr_is_taken_from_the_meta_group(tmp_path, keyword, plain):
    folder = write_ct_series(tmp_path / "in")
    for file in folder.iterdir():
        head, tag, rest = file.read_bytes().rpartition(pack("<HH", *divmod(Tag(keyword), 1 << 16)) + b"UI")
        file.write_bytes(head + tag.replace(b"UI", b"FD") + rest)
    assert file.read_bytes().count(b"FD") == 1
    series = select_series(folder)
    np.testing.assert_array_equal(read_volume(series), plain)
    derived = derive(folder, tmp_path / "out")
    assert pydicom.dcmread(derived.files[0]).SOPClassUID == "1.2.840.10008.5.1.4.1.1.2"
    np.testing.assert_array_equal(read_volume(derived), plain)


@pytest.mark.parametrize("uid", ["", None])
def test_an_instance_uid_that_is_missing_everywhere_is_refused(tmp_path, uid):
    folder = write_ct_series(tmp_path, slices=1, modify=changed(SOPInstanceUID=uid))
    assert select_series(folder).sop_instance_uids[0]  # of the meta group
    image = pydicom.dcmread(folder / "0001.dcm")
    del image.file_meta.MediaStorageSOPInstanceUID
    image.save_as(folder / "0001.dcm", enforce_file_format=False)
    with pytest.raises(BioAttError, match="SOPInstanceUID is missing, e.g. from .*0001.dcm.*--one-scan"):
        select_series(folder)


@pytest.mark.parametrize("missing", [("RescaleSlope", "RescaleIntercept"), ("RescaleSlope",)])
def test_missing_rescale_goes_on_when_values_are_hu(tmp_path, missing, caplog):
    kind = {"signed": True, "intercept": 0.0}
    plain = read_volume(select_series(write_ct_series(tmp_path / "plain", **kind)))
    folder = write_ct_series(tmp_path / "in", **kind, modify=changed(RescaleType=None, **dict.fromkeys(missing)))
    with pytest.raises(BioAttError, match="RescaleSlope is missing, .*go on with --assume-hu"):
        select_series(folder)
    series = select_series(folder, assume_hu=True)
    assert "rescale is missing; its values are taken as HU" in caplog.text
    np.testing.assert_array_equal(read_volume(series), plain)
    from dicom_cases import PROVENANCE
    from scripts.dicom import write_derived_series

    write_derived_series(series, plain, tmp_path / "out", PROVENANCE)
    image = pydicom.dcmread(tmp_path / "out" / "0001.dcm")
    assert (image.RescaleSlope, image.RescaleIntercept, image.RescaleType) == (1, 0, "HU")
    np.testing.assert_array_equal(read_volume(select_series(tmp_path / "out")), plain)


@pytest.mark.parametrize("rescale", [{}, {"RescaleSlope": None, "RescaleIntercept": None}])
@pytest.mark.parametrize("assume_hu", [False, True])
def test_a_modality_lut_is_named_as_what_it_is(tmp_path, rescale, assume_hu):
    table = Dataset()
    table.LUTDescriptor, table.ModalityLUTType = [4096, 0, 16], "HU"
    folder = write_ct_series(tmp_path, modify=changed(ModalityLUTSequence=[table], **rescale))
    with pytest.raises(BioAttError, match="0001.dcm: .* by a Modality LUT .*; export the series") as caught:
        select_series(folder, assume_hu=assume_hu)
    assert "is missing" not in str(caught.value)


def write_frames(folder, modify=lambda image: None, **kwargs):
    """The body as one CT Image Storage file of several frames, and its slices."""
    single = write_ct_series(folder / "single", **kwargs)
    slices = [pydicom.dcmread(file) for file in sorted(single.iterdir())]
    image = slices[0]
    image.NumberOfFrames, image.SpacingBetweenSlices = len(slices), 3.0
    image.PixelData = b"".join(one.PixelData for one in slices)
    modify(image)
    (folder / "in").mkdir()
    image.save_as(folder / "in" / "dental.dcm")
    return folder / "in", single


def by_offsets(image):
    del image.SpacingBetweenSlices
    image.GridFrameOffsetVector = [0.0, 3.0, 6.0, 9.0]
    image.FrameIncrementPointer = 0x3004000C


@pytest.mark.parametrize("modify", [lambda image: None, by_offsets])
def test_frames_in_ct_image_storage_are_read_and_written_where_geometry_is_clear(tmp_path, modify):
    folder, single = write_frames(tmp_path, modify)
    series, plain = select_series(folder), select_series(single)
    np.testing.assert_array_equal(read_volume(series), read_volume(plain))
    np.testing.assert_allclose(series.affine, plain.affine, atol=1e-5)
    assert len(set(series.slice_names)) == 4 and series.slice_names[0].endswith("/frames/1")
    derived = derive(folder, tmp_path / "out", lambda volume: volume + 7)
    assert len(derived.files) == 4 and len(set(derived.files)) == 1
    np.testing.assert_array_equal(read_volume(derived), read_volume(plain) + 7)
    np.testing.assert_allclose(derived.affine, plain.affine, atol=1e-5)


@pytest.mark.parametrize(
    "modify",
    [lambda image: image.__delattr__("SpacingBetweenSlices"), lambda image: setattr(image, "SpacingBetweenSlices", 0)],
)
def test_frames_that_nothing_places_are_refused(tmp_path, modify):
    folder, _ = write_frames(tmp_path, modify)
    with pytest.raises(
        BioAttError, match="NumberOfFrames is 4 in CT Image Storage, and nothing says where its frames lie"
    ):
        select_series(folder)


def test_frames_that_follow_in_time_are_refused(tmp_path):
    folder, _ = write_frames(tmp_path, lambda image: setattr(image, "FrameIncrementPointer", 0x00181063))  # FrameTime
    with pytest.raises(BioAttError, match=r"frames follow each other by \(0018,1063\) .*, not in space"):
        select_series(folder)


@pytest.mark.parametrize("spacing_mm", [0.009, 0.05, 0.1, 0.3])
def test_tolerances_shrink_with_the_voxels(tmp_path, spacing_mm):
    small = {"spacing": (spacing_mm, spacing_mm), "slice_spacing": spacing_mm, "slices": 8, "shape": (16, 16)}
    folder = write_ct_series(tmp_path, **small)
    series = select_series(folder)
    assert len(series.files) == 8 and series.spacing[2] == pytest.approx(spacing_mm, rel=1e-3)
    (folder / "0004.dcm").unlink()
    with pytest.raises(BioAttError, match="slices are missing"):
        select_series(folder)


def test_phases_of_small_voxels_share_a_position(tmp_path):
    for number in (1, 2):
        names = together(changed(SeriesInstanceUID="1.2.3"), changed(AcquisitionNumber=number))
        write_ct_series(tmp_path / str(number), spacing=(0.009, 0.009), slice_spacing=0.009, seed=number, modify=names)
    with pytest.raises(BioAttError, match="two different slices at one position"):
        select_series(tmp_path)


def shifted(hu, _):
    return hu + 1024.0


def windowed(hu, _):
    return ((hu + 160.0) / 400.0 * 255.0).clip(0.0, 255.0)


def lowered(hu, i):
    hu[20:24, 20:24] = 2500.0
    return hu - 1024.0 + np.random.default_rng(i).normal(0, 20, hu.shape)


def swap_bytes(dataset):
    dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").byteswap().tobytes()


#: DICOM whose values are plainly not HU, as arguments of `write_ct_series`, and what is said.
NOT_HU = {
    "1024 added, unsigned": ({"intercept": 0.0, "degrade": shifted}, "no air, perhaps stored with 1024 added"),
    "1024 added, signed": ({"intercept": 0.0, "signed": True, "degrade": shifted}, "perhaps stored with 1024 added"),
    "1024 added, padded": (
        {"intercept": 0.0, "signed": True, "degrade": shifted, "padding": -2000},
        "a minimum of 24, above -200 HU: no air, perhaps stored with 1024 added",
    ),
    "1024 added, padded with -1024, not named": (
        {
            "intercept": 0.0,
            "signed": True,
            "degrade": shifted,
            "padding": -1024,
            "modify": changed(PixelPaddingValue=None),
        },
        "perhaps stored with 1024 added",
    ),
    "1024 added twice": ({"degrade": shifted}, "perhaps stored with 1024 added"),
    "windowed": ({"intercept": 0.0, "degrade": windowed}, r"values in \[0, 255\], as a picture"),
    "windowed, with an intercept": ({"degrade": lambda hu, i: windowed(hu, i) - 1024}, "a maximum of -769, below 100"),
    "normalised": ({"intercept": 0.0, "degrade": lambda hu, i: (hu > 0) * 1.0}, r"values in \[0, 1\]"),
    "1024 added in one slice": (
        {"modify": in_slice(2, RescaleIntercept=0)},
        r"no value below 0 in 1 of 4 slices \(the first is 2, from 0\), perhaps stored with 1024 added",
    ),
    "stretched, with an intercept": (
        {"degrade": lambda hu, i: ((hu + 1000 + np.random.default_rng(i).normal(0, 9, hu.shape)) * 2).clip(0) - 1024},
        "of the values are above 800 HU, more than any body has",
    ),
    "upside down": ({"intercept": 0.0, "signed": True, "degrade": lambda hu, i: -hu}, "of the values are above 800 HU"),
    "1024 taken off twice, metal": ({"signed": True, "intercept": 0.0, "degrade": lowered}, "shifted twice"),
    "windowed to -160 to 240 HU": (
        {"degrade": lambda hu, i: hu.clip(-160, 240)},
        "its lowest value, -160, stands in more than 10% of it, as after windowing",
    ),
    "bytes swapped in one slice": (
        {"modify": lambda ds, i: swap_bytes(ds) if i == 2 else None},
        r"most of slice 2 \(from 0\) is above 800 HU, as where bytes are swapped",
    ),
    "HU times 0.1": ({"degrade": lambda hu, _: hu / 10.0 + 60}, "a minimum of -40|below 100|above -200"),
}


@pytest.mark.parametrize("what", NOT_HU)
def test_dicom_that_is_plainly_not_hu_is_refused_and_assumed_when_asked(tmp_path, what):
    kwargs, message = NOT_HU[what]
    if what == "HU times 0.1":
        kwargs = kwargs | {"intercept": 0.0, "signed": True}
    folder = write_ct_series(tmp_path, **kwargs)
    with pytest.raises(BioAttError, match=f"does not look like HU: .*({message}).*--assume-hu"):
        load_volume(folder)
    assert load_volume(folder, assume_hu=True).hu.shape[2] == 4


def test_a_small_field_of_view_without_air_is_believed_where_the_header_shifts_its_values(tmp_path):
    soft = {"degrade": lambda hu, i: np.where(hu > 0, hu, 40.0) + np.random.default_rng(i).normal(0, 30, hu.shape)}
    assert load_volume(write_ct_series(tmp_path / "shifted", **soft)).hu.min() > -200
    with pytest.raises(BioAttError, match="above -200 HU: no air"):
        load_volume(write_ct_series(tmp_path / "as_it_is", intercept=0.0, signed=True, **soft))


def test_one_slice_of_another_class_does_not_change_the_rest(tmp_path):
    folder = write_ct_series(tmp_path, modify=in_slice(1, RescaleType=["HU", "HU"]))
    assert len(select_series(folder).files) == 4


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless, "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.5"])
def test_pixels_that_are_not_compressed_are_read_whatever_the_transfer_syntax_says(tmp_path, caplog, syntax, plain):
    folder = write_ct_series(tmp_path / "in")
    for file in folder.iterdir():
        dataset = pydicom.dcmread(file)
        with pydicom.dcmread(file) as told:
            dataset.file_meta.TransferSyntaxUID = syntax
            dataset["PixelData"].is_undefined_length = False
            _write_as_it_is(file, dataset, told)
    np.testing.assert_array_equal(read_volume(select_series(folder)), plain)
    assert caplog.text.count("4 files: TransferSyntaxUID says") == 1
    derive(folder, tmp_path / "out")
    assert pydicom.dcmread(tmp_path / "out" / "0001.dcm").file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"


def test_compressed_pixels_under_a_plain_transfer_syntax_are_named(tmp_path):
    folder = write_ct_series(tmp_path, slices=1, transfer_syntax=JPEG2000Lossless)
    file = folder / "0001.dcm"
    dataset = pydicom.dcmread(file)
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    _write_as_it_is(file, dataset, pydicom.dcmread(file))
    with pytest.raises(BioAttError, match="says Explicit VR Little Endian, but PixelData is compressed; export"):
        read_volume(select_series(folder))


@pytest.mark.parametrize("syntax", [None, JPEGLSLossless])
def test_pixel_data_of_no_value_representation_is_named(tmp_path, syntax):
    folder = write_ct_series(tmp_path, slices=1, **({"transfer_syntax": syntax} if syntax else {}))
    file = folder / "0001.dcm"
    content = file.read_bytes()
    at = content.rindex(b"\xe0\x7f\x10\x00O") + 4
    file.write_bytes(content[:at] + b"O\xff" + content[at + 2 :])
    with pytest.raises(BioAttError, match="0001.dcm"):
        read_volume(select_series(folder))


def _write_as_it_is(file, named, dataset):
    """Write a file whose meta group is that of `named` and whose data set is in Explicit VR Little Endian."""
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, dataset)
    meta = DicomBytesIO()
    write_file_meta_info(meta, named.file_meta)
    file.write_bytes(bytes(128) + b"DICM" + meta.getvalue() + buffer.getvalue())


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, JPEGLSLossless])
@pytest.mark.parametrize(
    ("keyword", "value", "told"),
    [
        ("SamplesPerPixel", None, "SamplesPerPixel is missing and taken as 1"),
        ("PhotometricInterpretation", None, "PhotometricInterpretation is missing and taken as MONOCHROME2"),
        ("PhotometricInterpretation", "monochrome2", ""),
    ],
)
def test_what_is_the_same_in_all_ct_may_be_missing(tmp_path, caplog, plain, syntax, keyword, value, told):
    folder = write_ct_series(tmp_path / "in", transfer_syntax=syntax)
    file = folder / "0003.dcm"
    image = pydicom.dcmread(file)
    setattr(image, keyword, value) if value else delattr(image, keyword)
    image.save_as(file)
    np.testing.assert_array_equal(read_volume(select_series(folder)), plain)
    assert caplog.text.count("1 files: ") == caplog.text.count(told or "1 files: ") == bool(told)
    derived = derive(folder, tmp_path / "out")
    assert pydicom.dcmread(derived.files[2]).get(keyword) in (value, 1, "MONOCHROME2")
    np.testing.assert_array_equal(read_volume(derived), plain)


def test_colour_without_samples_per_pixel_is_not_taken_for_grey(tmp_path):
    def modify(dataset, _):
        dataset.PixelData *= 3
        del dataset.SamplesPerPixel, dataset.PhotometricInterpretation

    with pytest.raises(BioAttError, match="PixelData has 18432 bytes, but Rows x Columns"):
        read_volume(select_series(write_ct_series(tmp_path, modify=modify)))


def rewritten(file, *, said, is_little):
    """Write an image again in a byte order, under a transfer syntax that may say another."""
    image = pydicom.dcmread(file)
    image.file_meta.TransferSyntaxUID = said
    head, body = DicomBytesIO(), DicomBytesIO()
    write_file_meta_info(head, image.file_meta)
    body.is_implicit_VR, body.is_little_endian = False, is_little
    write_dataset(body, image)
    file.write_bytes(bytes(128) + b"DICM" + head.getvalue() + body.getvalue())


@pytest.mark.parametrize(
    ("said", "is_little", "told"),
    [
        (ExplicitVRBigEndian, True, "TransferSyntaxUID says big endian, but the data set is little endian; export"),
        (ExplicitVRLittleEndian, False, "TransferSyntaxUID says little endian, but the data set is big endian; export"),
        (
            DeflatedExplicitVRLittleEndian,
            True,
            "its deflated data set cannot be inflated: it is damaged, or TransferSyntaxUID is not",
        ),
    ],
)
def test_a_transfer_syntax_that_is_not_true_of_the_data_set_is_named(tmp_path, said, is_little, told):
    folder = write_ct_series(tmp_path)
    rewritten(folder / "0002.dcm", said=said, is_little=is_little)
    with pytest.raises(BioAttError, match=f"0002.dcm: {told}"):
        select_series(folder)


def test_values_of_odd_length_become_even(tmp_path):
    folder = write_ct_series(tmp_path / "in", slices=1)
    file = folder / "0001.dcm"
    file.write_bytes(file.read_bytes().replace(b"\x08\0\x50\0SH\x02\0A1", b"\x08\0\x50\0SH\x03\0A12"))
    derived = derive(folder, tmp_path / "out")
    assert b"\x08\0\x50\0SH\x04\0A12 " in derived.files[0].read_bytes()


@pytest.mark.parametrize(
    ("keyword", "values", "is_told"),
    [
        ("ConvolutionKernel", "B30 B60 B30 B60", True),
        ("KVP", "80 80 140 140", True),
        ("SliceThickness", "1 1 5 5", True),
        ("SliceThickness", "3 3.0 3.00 3", False),
        ("AcquisitionNumber", "1 2 1 2", True),
        ("AcquisitionNumber", "1 2 3 3", False),  # a scan in steps
        ("InstanceNumber", "4 1 3 2", False),
    ],
)
def test_slices_of_several_reconstructions_or_acquisitions_in_one_stack_are_told(
    tmp_path, caplog, keyword, values, is_told
):
    folder = write_ct_series(tmp_path, modify=lambda dataset, i: setattr(dataset, keyword, values.split()[i]))
    select_series(folder)
    told = f"its slices differ in {keyword}, though they form one regularly spaced stack"
    assert (told in caplog.text) == is_told == bool(caplog.records)


@pytest.mark.parametrize("word", ["MIP", "MAX_IP", "PROJECTION IMAGE"])
def test_projections_are_told(tmp_path, caplog, word):
    select_series(write_ct_series(tmp_path, modify=changed(ImageType=["DERIVED", "SECONDARY", word])))
    assert "ImageType says that it is a projection; its noise is not that of CT images" in caplog.text


@pytest.mark.parametrize(("said", "is_told"), [("6", True), ("4", False), ("1", False), ("many", False)])
def test_fewer_images_than_the_acquisition_has_are_told(tmp_path, caplog, said, is_told):
    """The only word on slices that are lost at an end, where no gap shows."""

    def modify(dataset, _):
        dataset.add_new("ImagesInAcquisition", "LO", said)

    select_series(write_ct_series(tmp_path, modify=modify))
    assert ("ImagesInAcquisition is 6, and 4 images are here: some may be missing at an end" in caplog.text) == is_told


def test_a_body_stored_1024_too_low_is_no_phantom_of_water(tmp_path):
    """Its bones alone are near 0 HU."""
    folder = write_ct_series(tmp_path, degrade=lambda hu, i: np.where(hu > 700, 1000.0, hu).clip(0) - 1024)
    with pytest.raises(BioAttError, match="no bone or contrast"):
        load_volume(folder)


@pytest.mark.parametrize(
    ("kind", "shift", "is_believed"),
    [
        ({}, 0.0, True),
        ({"signed": True, "padding": -2000}, 0.0, True),
        ({}, -1024.0, False),  # taken off twice
        ({}, -150.0, False),
        ({"signed": True, "intercept": 0.0}, 0.0, False),  # nothing says that its values were shifted
    ],
)
def test_a_phantom_of_water_in_air_is_believed_where_a_header_says_how_it_was_shifted(
    tmp_path, kind, shift, is_believed
):
    def water(hu, i):
        return np.where(hu > -900, 0.0, -980.0) + shift + np.random.default_rng(i).normal(0.0, 10.0, hu.shape)

    folder = write_ct_series(tmp_path, degrade=water, **kind)
    if is_believed:
        load_volume(folder)
        return
    with pytest.raises(BioAttError, match="does not look like HU"):
        load_volume(folder)


def test_an_empty_sequence_in_the_place_of_a_number_counts_as_missing(tmp_path):
    """Found by the fuzz run."""

    def modify(dataset, i):
        del dataset.SamplesPerPixel
        dataset.add_new("SamplesPerPixel", "SQ", [])

    folder = write_ct_series(tmp_path / "in", modify=modify)
    expected = read_volume(select_series(write_ct_series(tmp_path / "plain")))
    np.testing.assert_array_equal(read_volume(select_series(folder)), expected)


@pytest.mark.parametrize("vr", ["US", "SS"])
def test_padding_above_all_tissue_is_air_to_the_network_and_kept_in_what_is_derived(tmp_path, vr):
    """-2000 that lost its sign: 63536, which is 62512 HU."""
    number = 63536 if vr == "US" else -2000
    named = lambda dataset, _: dataset.add_new("PixelPaddingValue", vr, number)  # noqa: E731
    folder = write_ct_series(tmp_path / "in", padding=63536, modify=named)
    hu = load_volume(folder).hu
    stored = pydicom.dcmread(folder / "0001.dcm").pixel_array
    outside = (stored == 63536).T
    assert outside.any() and (hu[..., 0][outside] == -1024).all() and (hu[..., 0][~outside] < 3071).all()
    derive(folder, tmp_path / "out", lambda volume: volume + 1)
    np.testing.assert_array_equal(pydicom.dcmread(tmp_path / "out/0001.dcm").pixel_array == 63536, outside.T)


def test_bright_values_that_no_header_names_are_refused(tmp_path):
    folder = write_ct_series(tmp_path, padding=63536, modify=changed(PixelPaddingValue=None))
    with pytest.raises(BioAttError, match="above 800 HU"):
        load_volume(folder)


def test_a_number_of_bits_beyond_all_reason_takes_no_memory(tmp_path):
    """Found by fuzzing: 2 to the power of it was computed for the limits of padding."""
    wide = lambda dataset, _: dataset.add_new("BitsStored", "IS", "99999999999")  # noqa: E731
    folder = write_ct_series(tmp_path, slices=1, padding=0, modify=wide)
    with pytest.raises(BioAttError, match="BitsStored 99999999999"):
        read_volume(select_series(folder))


@pytest.mark.parametrize("modality", [b"", b"CT\\CT\\CT "])
def test_what_is_derived_says_ct_whatever_the_bytes_of_modality_are(tmp_path, modality):
    """Found by fuzzing: text of odd length under the VR US became even, and was numbers from then on."""
    file = write_ct_series(tmp_path / "in", slices=1) / "0001.dcm"
    content, plain = file.read_bytes(), b"\x08\0\x60\0CS\2\0CT"
    assert content.count(plain) == 1
    file.write_bytes(content.replace(plain, b"\x08\0\x60\0US" + pack("<H", len(modality)) + modality))
    derived = derive(tmp_path / "in", tmp_path / "out")
    assert pydicom.dcmread(derived.files[0]).Modality == "CT"
