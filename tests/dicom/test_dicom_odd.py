"""Odd files as scanners, archives and workstations send them: each is read right, or refused with the reason."""

from __future__ import annotations

import io
import shutil

import numpy as np
import pydicom
import pytest
from dicom_cases import changed, code, derive, in_slice, read_slice, together, units, write_enhanced_ct
from phantom import write_ct_series
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSLossless
from scripts.dicom import find_series, read_volume, select_series
from scripts.errors import BioAttError


def image_type(*words):
    return changed(ImageType=list(words), RescaleType="HU")


#: Maps whose RescaleType says HU, or nothing: what tells them, and the words of the refusal.
MAPS = {
    "iodine, by ImageType": (image_type("DERIVED", "PRIMARY", "AXIAL", "MAT_SPECIFIC"), "ImageType says MAT_SPECIFIC"),
    "virtual unenhanced": (image_type("ORIGINAL", "PRIMARY", "AXIAL", "MAT_REMOVED"), "ImageType says MAT_REMOVED"),
    "modified": (image_type("DERIVED", "PRIMARY", "AXIAL", "MAT_MODIFIED"), "ImageType says MAT_MODIFIED"),
    "fractions": (image_type("DERIVED", "PRIMARY", "AXIAL", "MAT_FRACTIONAL"), "ImageType says MAT_FRACTIONAL"),
    "Z effective": (image_type("DERIVED", "PRIMARY", "AXIAL", "EFF_ATOMIC_NUM"), "ImageType says EFF_ATOMIC_NUM"),
    "difference": (image_type("DERIVED", "SECONDARY", "SUBTRACTION"), "ImageType says SUBTRACTION"),
    "deviation": (image_type("DERIVED", "PRIMARY", "VOLUME", "STD_DEVIATION"), "ImageType says STD_DEVIATION"),
    "perfusion": (image_type("DERIVED", "SECONDARY", "PERFUSION"), "ImageType says PERFUSION"),
    "mg/ml": (changed(RealWorldValueMappingSequence=units("mg/cm3")), "RealWorldValueMappingSequence says mg/cm3"),
    "no units": (changed(RealWorldValueMappingSequence=units("1"), RescaleType=None), "MappingSequence says 1, a map"),
    "perfusion analysis": (
        changed(DerivationCodeSequence=code("129104", "DCM")),
        "DerivationCodeSequence says perfusion image analysis",
    ),
    "division": (changed(DerivationCodeSequence=code("113046", "DCM")), "says pixel by pixel division"),
    "virtual unenhanced, by RescaleType": (changed(RescaleType="HU_MOD"), "RescaleType is HU_MOD, expected HU"),
    "electron density": (changed(RescaleType="EDW"), "RescaleType is EDW, expected HU"),
}


@pytest.mark.parametrize("what", MAPS)
def test_a_map_that_claims_to_be_hu_is_refused(tmp_path, what):
    modify, message = MAPS[what]
    folder = write_ct_series(tmp_path, modify=modify, slices=2)
    for read in (lambda: select_series(folder, assume_hu=True), lambda: read_slice(folder / "0001.dcm")):
        with pytest.raises(BioAttError, match=f"0001.dcm: .*{message}.*; choose a series") as caught:
            read()
        assert "words" not in str(caught.value)


#: Images in HU that only look like maps.
NO_MAPS = {
    "virtual monoenergetic": together(
        image_type("DERIVED", "PRIMARY", "AXIAL", "VMI"), changed(RealWorldValueMappingSequence=units("[hnsf'U]"))
    ),
    "HU and mg/ml": changed(RealWorldValueMappingSequence=units("mg/cm3") + units("[hnsf'U]")),
    "taken for perfusion": image_type("ORIGINAL", "PRIMARY", "PERFUSION", "NONE"),
    "average": image_type("DERIVED", "SECONDARY", "REFORMATTED", "AVERAGE"),
    "smoothed": changed(DerivationCodeSequence=code("113087", "DCM")),
    "a private code": changed(DerivationCodeSequence=code("129104", "99VENDOR")),
}


@pytest.mark.parametrize("what", NO_MAPS)
def test_hu_images_that_resemble_maps_are_read(tmp_path, what):
    plain = read_volume(select_series(write_ct_series(tmp_path / "plain")))
    volume = read_volume(select_series(write_ct_series(tmp_path / "other", modify=NO_MAPS[what])))
    np.testing.assert_array_equal(volume, plain)


@pytest.mark.parametrize("place", ["shared", "per frame"])
def test_maps_are_recognised_in_functional_groups(tmp_path, place):
    def modify(image):
        groups = image.SharedFunctionalGroupsSequence if place == "shared" else image.PerFrameFunctionalGroupsSequence
        groups[0].RealWorldValueMappingSequence = units("mg/cm3")

    file, _ = write_enhanced_ct(tmp_path, modify=modify)
    with pytest.raises(BioAttError, match="RealWorldValueMappingSequence says mg/cm3"):
        select_series(file)


@pytest.mark.parametrize("difference", ["pixels", "rescale"])
@pytest.mark.parametrize("syntax", [None, JPEGLSLossless])
def test_one_instance_uid_with_two_contents_is_refused(tmp_path, difference, syntax):
    more = {} if syntax is None else {"transfer_syntax": syntax}
    folder = write_ct_series(tmp_path, slices=3, **more)
    image = pydicom.dcmread(folder / "0002.dcm")
    if difference == "rescale":
        image.RescaleIntercept = -1000
    else:
        pixels = image.pixel_array.copy()
        pixels[5, 5] += 1
        if syntax is not None:
            image.decompress(generate_instance_uid=False)
        image.PixelData = pixels.tobytes()
    image.save_as(folder / "0002_again.dcm")
    with pytest.raises(BioAttError, match="two images with different HU, .*0002.dcm and .*0002_again.dcm; keep"):
        select_series(folder)


def test_a_copy_in_another_encoding_is_taken_once(tmp_path, caplog):
    folder = write_ct_series(tmp_path / "a", slices=3)
    shutil.copy(write_ct_series(tmp_path / "b", slices=3, transfer_syntax=JPEG2000Lossless) / "0002.dcm", folder / "2")
    assert len(select_series(folder).files) == 3
    assert "1 files that are second copies" in caplog.text


def test_two_enhanced_images_of_one_uid_and_other_frames_are_refused(tmp_path):
    file, _ = write_enhanced_ct(tmp_path / "a", slices=4)
    other, _ = write_enhanced_ct(tmp_path / "b", slices=3)
    shutil.copy(other, file.parent / "IM1")
    with pytest.raises(BioAttError, match="stands for slices at different positions"):
        select_series(file.parent)


@pytest.mark.parametrize(
    ("elements", "named"),
    [
        ({"AcquisitionNumber": 2}, "AcquisitionNumber"),
        ({"TemporalPositionIdentifier": 2, "ContentTime": "101120"}, "TemporalPositionIdentifier, ContentTime"),
        ({"ConvolutionKernel": "Br69"}, "ConvolutionKernel"),
        ({"SliceThickness": 5.0}, "SliceThickness"),
    ],
)
def test_phases_in_one_series_are_named_by_what_tells_them_apart(tmp_path, elements, named):
    series = changed(SeriesInstanceUID="1.2.3", SeriesDescription="Body")
    write_ct_series(tmp_path / "1", seed=1, modify=series)
    write_ct_series(tmp_path / "2", seed=2, modify=together(series, changed(**elements)))
    with pytest.raises(
        BioAttError, match=f"two different slices at one position.*, which differ in {named}; (keep|choose) one"
    ):
        select_series(tmp_path)


@pytest.mark.parametrize("modality", ["PT", "MR", "OT", "RTDOSE"])
def test_another_modality_in_a_ct_s_class_is_left_out(tmp_path, modality):
    write_ct_series(tmp_path / "ct", seed=1)
    other = write_ct_series(tmp_path / "other", seed=2, modify=changed(Modality=modality))
    assert [series.description for series in find_series(tmp_path)] == ["Body 1"]
    with pytest.raises(BioAttError, match=rf"no CT image: 4 x {modality} \(CT Image Storage\)"):
        find_series(other)


def test_a_capture_that_says_ct_is_left_out(tmp_path):
    capture = changed(SOPClassUID="1.2.840.10008.5.1.4.1.1.7", SeriesInstanceUID="1.2.3")
    write_ct_series(tmp_path / "ct", seed=1, modify=changed(SeriesInstanceUID="1.2.3"))
    write_ct_series(tmp_path / "capture", seed=2, slices=1, modify=capture)
    assert select_series(tmp_path).shape[0] == 4


def test_a_scout_in_the_same_series_is_left_out(tmp_path):
    def scout(dataset, _):
        dataset.ImageType, dataset.SeriesInstanceUID = ["ORIGINAL", "PRIMARY", "LOCALIZER"], "1.2.3"
        dataset.Rows, dataset.Columns = 64, 48
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
        del dataset.RescaleSlope

    folder = write_ct_series(tmp_path, seed=1, modify=changed(SeriesInstanceUID="1.2.3"))
    write_ct_series(tmp_path, seed=2, slices=1, modify=scout, name="scout{:d}")
    assert select_series(folder).shape[0] == 4


@pytest.mark.parametrize(
    "cosines",
    [
        ("0.9998", "0", "0", "0", "0.9998", "0"),
        ("0.87", "0.5", "0", "-0.5", "0.87", "0"),  # of 30 degrees, two digits
        (".999999\\ 1e-17\\-0\\0 \\+1.0\\-0.0",),
    ],
)
def test_rounded_directions_are_taken_as_unit_vectors(tmp_path, cosines):
    folder = write_ct_series(tmp_path, modify=changed(ImageOrientationPatient="\\".join(cosines).split("\\")))
    series = select_series(folder)
    np.testing.assert_allclose(series.spacing[:2], (5.0, 6.0), atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(series.affine[:3, :2], axis=0), (5.0, 6.0), atol=1e-9)
    derived = derive(folder, tmp_path / "out")
    assert (
        pydicom.dcmread(derived.files[0]).ImageOrientationPatient
        == pydicom.dcmread(folder / "0001.dcm").ImageOrientationPatient
    )


def test_a_slice_that_lies_to_the_side_is_named(tmp_path, caplog):
    def modify(dataset, i):
        dataset.ImagePositionPatient = [-100.0 + (4.0 if i == 3 else 0.0), -90.0 + 0.1 * round(7.5 * i) / 2, 3.0 * i]

    folder = write_ct_series(tmp_path, slices=6, modify=modify)
    with pytest.raises(BioAttError, match="4.0. mm sideways between 6.00 and 9.00 mm; 4.0. mm sideways between 9.00"):
        select_series(folder)
    series = select_series(folder, allow_gaps=True)
    assert len(series.gaps) == 2 and series.spacing[2] == pytest.approx(3.0, abs=0.5)


def test_positions_of_a_tilted_gantry_rounded_to_a_tenth_are_even(tmp_path):
    tilt = np.deg2rad(22.5)
    way = np.array([0.0, -np.sin(tilt), np.cos(tilt)]) * 1.25

    def modify(dataset, i):
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        dataset.ImagePositionPatient = [round(float(mm), 1) for mm in np.array([-100.0, -90.0, 5.0]) + i * way]

    assert select_series(write_ct_series(tmp_path, slices=60, shape=(8, 8), modify=modify)).gaps == ()


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits_stored", [20, 32])
def test_words_of_32_bits_are_read_and_stored_as_hu(tmp_path, signed, bits_stored, caplog):
    plain = read_volume(select_series(write_ct_series(tmp_path / "plain")))

    def modify(dataset, _):
        stored = np.frombuffer(dataset.PixelData, "<u2").astype("<i4") - (3000 if signed else 0)
        dataset.PixelData = stored.tobytes()
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 32, bits_stored, bits_stored - 1
        dataset.PixelRepresentation, dataset.RescaleIntercept = int(signed), 1976 if signed else -1024

    series = derive(write_ct_series(tmp_path / "in", modify=modify), tmp_path / "out")
    np.testing.assert_array_equal(read_volume(select_series(tmp_path / "in")), plain)
    np.testing.assert_array_equal(read_volume(series), plain)
    assert "4 slices stored as signed 16-bit HU" in caplog.text


@pytest.mark.parametrize(("keyword", "vr"), [("FloatPixelData", "OF"), ("DoubleFloatPixelData", "OD")])
def test_pixels_that_are_no_whole_numbers_are_refused(tmp_path, keyword, vr):
    def modify(dataset, _):
        pixels = np.frombuffer(dataset.PixelData, "<u2").astype("<f4" if vr == "OF" else "<f8")
        del dataset.PixelData
        dataset.add_new(keyword, vr, pixels.tobytes())

    folder = write_ct_series(tmp_path, slices=1, modify=modify)
    with pytest.raises(BioAttError, match=f"its pixels are {keyword}, expected PixelData of whole numbers"):
        read_volume(select_series(folder))


def as_jpeg(dataset, _):
    """The image as 8-bit JPEG, with a rescale of 8 HU a step."""
    stored = np.frombuffer(dataset.PixelData, "<u2").reshape(dataset.Rows, dataset.Columns)
    buffer = io.BytesIO()
    Image.fromarray((stored / 8).clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=95)
    dataset.PixelData = encapsulate([buffer.getvalue()])
    dataset["PixelData"].is_undefined_length = True
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.RescaleSlope = 8, 8, 7, 8


@pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, JPEGExtended12Bit])
def test_jpeg_of_8_bits_is_read_and_stays_lossy(tmp_path, syntax, caplog):
    plain = read_volume(select_series(write_ct_series(tmp_path / "plain", shape=(96, 128))))
    folder = write_ct_series(tmp_path / "in", shape=(96, 128), modify=as_jpeg)
    for file in folder.iterdir():
        image = pydicom.dcmread(file)
        image.file_meta.TransferSyntaxUID = syntax
        image.save_as(file)
    series = derive(folder, tmp_path / "out")
    assert np.median(np.abs(read_volume(select_series(folder)) - plain)) < 16
    np.testing.assert_array_equal(read_volume(series), read_volume(select_series(folder)))
    derived = pydicom.dcmread(series.files[0])
    assert (derived.LossyImageCompression, derived.LossyImageCompressionMethod) == ("01", "ISO_10918_1")
    assert derived.BitsAllocated == 16 and "lossy compressed" in caplog.text


def test_jpeg_of_12_bits_is_named_with_the_package_that_helps(tmp_path):
    """pydicom's file ends in an end marker and a fill byte: it is whole, but nobody decodes it."""
    image = pydicom.dcmread(get_testdata_file("JPGExtended.dcm", download=False))
    changed(
        SOPClassUID="1.2.840.10008.5.1.4.1.1.2", Modality="CT", RescaleSlope=1, RescaleIntercept=0, RescaleType="HU"
    )(image, 0)
    image.save_as(tmp_path / "IM0")
    with pytest.raises(
        BioAttError, match=r"JPEG Extended.* cannot be decoded .*pip install pylibjpeg pylibjpeg-libjpeg"
    ):
        read_slice(tmp_path / "IM0")


@pytest.mark.parametrize(
    "elements",
    [
        {"NumberOfFrames": "1"},
        {"SliceThickness": None},
        {"SpacingBetweenSlices": -3.0},
        {"RescaleType": None},
        {"PixelPaddingValue": None},
        {"WindowCenter": ["40", "-600"], "WindowWidth": ["400", "1500"], "WindowCenterWidthExplanation": ["A", "B"]},
        {"SmallestImagePixelValue": 0, "LargestImagePixelValue": 4095},
        {"PatientID": "", "StudyID": "", "AccessionNumber": "", "SeriesNumber": None, "InstanceNumber": None},
        {"StudyInstanceUID": "", "FrameOfReferenceUID": ""},
        {"PixelSpacing": ["  6.00000000000", "5.0e+00 "]},
        {"ImageType": ["ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM5 SPI", "HELIX"]},
        {"ImageType": None},
        {"GantryDetectorTilt": "15"},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:.*Invalid value for VR")
def test_missing_and_unusual_elements_change_nothing(tmp_path, elements):
    def modify(dataset, i):
        changed(**{keyword: value for keyword, value in elements.items() if value is not None or keyword in dataset})(
            dataset, i
        )

    plain = select_series(write_ct_series(tmp_path / "plain"))
    folder = write_ct_series(tmp_path / "in", modify=modify)
    series = derive(folder, tmp_path / "out")
    for other in (select_series(folder), series):
        np.testing.assert_array_equal(read_volume(other), read_volume(plain))
        np.testing.assert_array_equal(other.affine, plain.affine)
    for file, source in zip(series.files, select_series(folder).files, strict=True):
        before, after = pydicom.dcmread(source), pydicom.dcmread(file)
        for keyword in elements.keys() - {"SmallestImagePixelValue", "LargestImagePixelValue", "ImageType"}:
            assert keyword == "SeriesNumber" or before.get(keyword) == after.get(keyword)


@pytest.mark.parametrize("keyword", ["SeriesInstanceUID", "RescaleSlope", "RescaleIntercept"])
def test_empty_elements_are_refused_as_missing_ones_are(tmp_path, keyword):
    empty = {keyword: ""}
    modify = changed(**empty) if keyword == "SeriesInstanceUID" else in_slice(2, **empty)
    with pytest.raises(BioAttError, match=f"000[13].dcm: {keyword} is missing"):
        select_series(write_ct_series(tmp_path, modify=modify))


def test_monochrome1_is_not_turned_round(tmp_path):
    modify = changed(PhotometricInterpretation="MONOCHROME1")
    series = derive(write_ct_series(tmp_path / "in", modify=modify), tmp_path / "out")
    assert pydicom.dcmread(series.files[0]).PhotometricInterpretation == "MONOCHROME1"
    plain = read_volume(select_series(write_ct_series(tmp_path / "plain")))
    np.testing.assert_array_equal(read_volume(series), plain)


@pytest.mark.parametrize(("signed", "vr"), [(True, "US"), (False, "SS")])
def test_padding_with_limits_of_the_other_sign_is_restored(tmp_path, signed, vr):
    def modify(dataset, _):
        del dataset.PixelPaddingValue
        values = (63536, 63546) if vr == "US" else (-2000, -1990)
        dataset.add_new("PixelPaddingValue", vr, values[0])
        dataset.add_new("PixelPaddingRangeLimit", vr, values[1])

    padding = -2000 if signed else 63536
    folder = write_ct_series(tmp_path / "in", signed=signed, padding=padding, modify=modify)
    series = derive(folder, tmp_path / "out", np.zeros_like)
    before, after = (read_slice(one.files[0])[0] for one in (select_series(folder), series))
    assert (before == padding).any()
    np.testing.assert_array_equal(after == padding, before == padding)
    assert pydicom.dcmread(series.files[0])["PixelPaddingValue"].VR == vr  # as the source has it


def test_pydicom_s_ct_files_are_read_as_pydicom_reads_them(tmp_path):
    for name in ("CT_small.dcm", "693_J2KI.dcm"):
        file = get_testdata_file(name, download=False)
        image = pydicom.dcmread(file)
        volume = read_volume(find_series(file)[0])
        np.testing.assert_array_equal(volume[0], image.pixel_array * image.RescaleSlope + image.RescaleIntercept)
        derived = derive(file, tmp_path / name)
        np.testing.assert_array_equal(read_volume(derived), volume)
    folder = tmp_path / "disc"
    shutil.copytree(get_testdata_file("DICOMDIR", download=False).rsplit("/", 1)[0], folder)
    assert [len(series.files) for series in find_series(folder / "DICOMDIR", [])] == [4, 5]
