"""Writing a derived series: what changes, what stays bit for bit, and that nothing is half-written."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import signal
import subprocess
import sys
from datetime import datetime

import numpy as np
import pydicom
import pytest
from dicom_cases import PROVENANCE, SYNTAXES, changed, code, derive, read_slice
from phantom import write_ct_series
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGLSNearLossless
from scripts.dicom import DerivedRules, find_series, read_volume, select_series, write_derived_series
from scripts.errors import BioAttError
from scripts.provenance import NOT_FOR_DIAGNOSIS, Provenance, SimulatedDose
from scripts.strengths import choose_strength

#: Elements that differ from the source by intention.
CHANGED = set(
    "ImageType InstanceCreationDate InstanceCreationTime SOPInstanceUID SeriesDate ContentDate SeriesTime ContentTime "
    "SeriesDescription SeriesInstanceUID SeriesNumber DerivationDescription SourceImageSequence "
    "DerivationCodeSequence ContributingEquipmentSequence ContentQualification PixelData".split()
)


def derived_dataset(tmp_path, **kwargs):
    """Source and derived dataset of a series of one slice."""
    source = write_ct_series(tmp_path / "in", slices=1, **kwargs)
    series = derive(source, tmp_path / "out")
    return pydicom.dcmread(source / "0001.dcm"), pydicom.dcmread(series.files[0])


def checksums(folder):
    """Digest of each file, and when it was last changed."""
    return {
        file.name: (hashlib.sha256(file.read_bytes()).hexdigest(), file.stat().st_mtime_ns) for file in folder.iterdir()
    }


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda uid: uid.name)
def test_hu_and_geometry_come_back_exactly_and_the_source_is_untouched(tmp_path, syntax, signed, caplog):
    padding = -2000 if signed else 63536
    source = write_ct_series(
        tmp_path / "in", transfer_syntax=syntax, signed=signed, padding=padding, reversed_order=True
    )
    before = checksums(source)
    series = derive(source, tmp_path / "out")
    original = select_series(source)
    np.testing.assert_array_equal(read_volume(series), read_volume(original))
    np.testing.assert_array_equal(series.affine, original.affine)
    assert checksums(source) == before
    assert "clipped" not in caplog.text and "16-bit" not in caplog.text
    assert [file.name for file in series.files] == ["0001.dcm", "0002.dcm", "0003.dcm", "0004.dcm"]
    assert sorted(tmp_path.iterdir()) == [tmp_path / "in", tmp_path / "out"]
    assert len(list((tmp_path / "out").iterdir())) == 4


def test_all_else_stays_bit_for_bit(tmp_path):
    def modify(dataset, _):
        dataset.add_new("ReconstructionDiameter", "DS", "500.00000")
        dataset.add_new("CTDIvol", "FD", 12.3)
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = "1.2.3", "1.2.3.4"
        dataset.ReferencedImageSequence = [item]

    source, derived = derived_dataset(tmp_path, modify=modify)
    kept = {tag for tag in source.keys() if source[tag].keyword not in CHANGED}
    assert kept == {tag for tag in derived.keys() if derived[tag].keyword not in CHANGED}
    source = pydicom.dcmread(tmp_path / "in" / "0001.dcm")  # again: nothing was decoded yet
    derived = pydicom.dcmread(tmp_path / "out" / "0001.dcm")
    for tag in kept:
        assert derived.get_item(tag)[:4] == source.get_item(tag)[:4], tag


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_words_of_other_encodings_are_put_in_order(tmp_path, syntax):
    overlay = np.arange(48 * 64 // 16, dtype=np.uint16)

    def modify(dataset, _):
        order = "<" if syntax == ImplicitVRLittleEndian else ">"
        item = Dataset()
        item.LUTDescriptor, item.LUTExplanation = [4, 0, 16], "Curve"
        item.add_new("LUTData", "OW", np.array([1, 2, 3, 256]).astype(f"{order}u2").tobytes())
        dataset.VOILUTSequence = [item]
        dataset.add_new((0x6000, 0x0010), "US", 48)
        dataset.add_new((0x6000, 0x0011), "US", 64)
        dataset.add_new((0x6000, 0x0050), "SS", [1, -1])
        dataset.add_new((0x6000, 0x3000), "OW", overlay.astype(f"{order}u2").tobytes())
        dataset.add_new("CTDIvol", "FD", 12.3)
        dataset.add_new("FrameIncrementPointer", "AT", [0x00181063])
        dataset.add_new("PixelPaddingValue", "SS", -2000)

    _, derived = derived_dataset(tmp_path, transfer_syntax=syntax, modify=modify, signed=True)
    item = derived.VOILUTSequence[0]
    assert list(item.LUTDescriptor) == [4, 0, 16] and item.LUTExplanation == "Curve"
    assert np.frombuffer(item.LUTData, "<u2").tolist() == [1, 2, 3, 256]
    assert derived[0x6000, 0x0010].value == 48 and list(derived[0x6000, 0x0050].value) == [1, -1]
    np.testing.assert_array_equal(np.frombuffer(derived[0x6000, 0x3000].value, "<u2"), overlay)
    assert derived.CTDIvol == 12.3 and derived.FrameIncrementPointer == 0x00181063
    assert derived.PixelPaddingValue == -2000 and derived["PixelPaddingValue"].VR == "SS"
    assert derived.PatientName == "Phäntom^Body" and derived["Rows"].VR == "US"


def test_identity_and_derivation_are_those_of_a_derived_image(tmp_path):
    source = write_ct_series(tmp_path / "in")
    series = derive(source, tmp_path / "out")
    originals = {pydicom.dcmread(file).SOPInstanceUID for file in source.iterdir()}
    uids = set()
    for file in series.files:
        derived = pydicom.dcmread(file)
        uids.add(derived.SOPInstanceUID)
        assert derived.file_meta.MediaStorageSOPInstanceUID == derived.SOPInstanceUID
        assert derived.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
        assert derived.SeriesInstanceUID == series.series_instance_uid
        assert list(derived.ImageType) == ["DERIVED", "PRIMARY", "AXIAL"]
        assert derived.DerivationDescription == PROVENANCE.sentence()
        step = derived.DerivationCodeSequence[0]
        assert (step.CodeValue, step.CodingSchemeDesignator, step.CodeMeaning) == ("113087", "DCM", "Smoothing")
        image = derived.SourceImageSequence[0]
        original = next(name for name in originals if name == image.ReferencedSOPInstanceUID)
        at = next(ds for ds in map(pydicom.dcmread, source.iterdir()) if original == ds.SOPInstanceUID)
        assert at.ImagePositionPatient == derived.ImagePositionPatient
        assert image.ReferencedSOPClassUID == derived.SOPClassUID and image.SpatialLocationsPreserved == "YES"
        assert image.PurposeOfReferenceCodeSequence[0].CodeValue == "121322"
        scanner, device = derived.ContributingEquipmentSequence
        assert scanner.PurposeOfReferenceCodeSequence[0].CodeValue == "109101"
        assert scanner.Manufacturer == derived.Manufacturer == "Phantom maker"
        assert device.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"
        assert device.SoftwareVersions == "0.1.0" and PROVENANCE.weights_sha256 in device.ContributionDescription
        assert derived.SeriesNumber == 1003 and derived.SeriesDescription == "Body 0 BioAtt denoised"
        assert (derived.SeriesDate, derived.SeriesTime) == (derived.ContentDate, derived.ContentTime)
        made = datetime.strptime(derived.InstanceCreationDate + derived.InstanceCreationTime, "%Y%m%d%H%M%S.%f")
        assert abs((datetime.now() - made).total_seconds()) < 600
        assert "LossyImageCompression" not in derived
    assert len(uids) == 4 and not uids & originals
    assert series.series_instance_uid != select_series(source).series_instance_uid


def test_codes_mean_what_they_say(tmp_path):
    from pydicom.sr.codedict import codes

    _, derived = derived_dataset(tmp_path)
    for item, concept in (
        (derived.DerivationCodeSequence[0], codes.DCM.Smoothing),
        (
            derived.SourceImageSequence[0].PurposeOfReferenceCodeSequence[0],
            codes.DCM.SourceImageForImageProcessingOperation,
        ),
        (derived.ContributingEquipmentSequence[0].PurposeOfReferenceCodeSequence[0], codes.DCM.AcquisitionEquipment),
        (derived.ContributingEquipmentSequence[1].PurposeOfReferenceCodeSequence[0], codes.DCM.ProcessingEquipment),
    ):
        assert (item.CodeValue, item.CodeMeaning) == (concept.value, concept.meaning)


def test_highdicom_places_the_derived_series_where_the_source_is(tmp_path):
    highdicom = pytest.importorskip("highdicom")
    source = write_ct_series(tmp_path / "in", patient_position="FFP", slices=5)
    series = derive(source, tmp_path / "out")
    ours, theirs = (
        highdicom.get_volume_from_series([pydicom.dcmread(file) for file in files])
        for files in (series.files, sorted(source.iterdir()))
    )
    np.testing.assert_allclose(ours.affine, theirs.affine, atol=1e-6)
    np.testing.assert_array_equal(ours.array, theirs.array)
    assert ours.frame_of_reference_uid == theirs.frame_of_reference_uid


def test_what_is_no_longer_true_is_removed(tmp_path):
    def modify(dataset, _):
        dataset.SmallestImagePixelValue, dataset.LargestPixelValueInSeries = 1, 2
        dataset.IconImageSequence = [Dataset()]
        dataset.InstanceCreatorUID = "1.2.3"
        dataset.DigitalSignaturesSequence = [Dataset()]
        dataset.DataSetTrailingPadding = b"\0\0"
        block = dataset.private_block(0x0009, "SOMEBODY", create=True)
        block.add_new(1, "LO", "private")
        item = Dataset()
        item.ReferencedSOPInstanceUID = "1.2.3.4"
        item.private_block(0x0009, "SOMEBODY", create=True).add_new(1, "LO", "private")
        dataset.ReferencedImageSequence = [item]
        dataset.add_new((0x6000, 0x0010), "US", 48)  # an overlay in the upper bits of the pixels
        dataset.add_new((0x6002, 0x0010), "US", 48)
        dataset.add_new((0x6002, 0x3000), "OW", bytes(384))
        dataset.add_new((0x6002, 0x1302), "DS", "-300.5")  # ROI Mean and ROI Standard Deviation
        dataset.add_new((0x6002, 0x1303), "DS", "25.3")

    source, derived = derived_dataset(tmp_path, modify=modify)
    gone = {source[tag].keyword for tag in source.keys()} - {derived[tag].keyword for tag in derived.keys()}
    assert gone - {""} == {
        "SmallestImagePixelValue",
        "LargestPixelValueInSeries",
        "IconImageSequence",
        "InstanceCreatorUID",
        "DigitalSignaturesSequence",
        "DataSetTrailingPadding",
    }
    assert not any(tag.is_private for tag in derived.keys())
    assert [tag for tag in derived.keys() if 0x6000 <= tag.group < 0x6020] == [(0x6002, 0x0010), (0x6002, 0x3000)]
    item = derived.ReferencedImageSequence[0]
    assert item.ReferencedSOPInstanceUID == "1.2.3.4" and len(item) == 1


def test_private_elements_go_from_a_sequence_that_was_written_as_un(tmp_path):
    def modify(dataset, _):
        content = (
            b"\x09\x00\x10\x00" + (8).to_bytes(4, "little") + b"SOMEBODY"
            b"\x09\x00\x01\x10" + (8).to_bytes(4, "little") + b"DOE^JANE"
            b"\x08\x00\x55\x11" + (8).to_bytes(4, "little") + b"1.2.3.4\0"
        )  # implicit little endian, as the items of UN are (PS3.5 6.2.2)
        item = b"\xfe\xff\x00\xe0" + len(content).to_bytes(4, "little") + content
        tag = Tag(0x0008, 0x1140)
        dataset[tag] = RawDataElement(tag, "UN", len(item), item, 0, False, True)

    source = write_ct_series(tmp_path / "in", slices=1, modify=modify)
    assert b"DOE^JANE" in (source / "0001.dcm").read_bytes()
    series = derive(source, tmp_path / "out")
    assert b"DOE^JANE" not in series.files[0].read_bytes()
    derived = pydicom.dcmread(series.files[0])
    assert derived.ReferencedImageSequence[0].ReferencedSOPInstanceUID == "1.2.3.4"


def test_the_history_of_a_derived_source_is_kept_behind_ours(tmp_path):
    def modify(dataset, _):
        dataset.DerivationCodeSequence = code("113097", "DCM")
        dataset.DerivationDescription = "Segmented by hand"

    _, derived = derived_dataset(tmp_path, modify=modify)
    assert [one.CodeValue for one in derived.DerivationCodeSequence] == ["113097", "113087"]
    assert derived.DerivationDescription == f"{PROVENANCE.sentence()} Before that: Segmented by hand"


def test_a_text_where_the_equipment_should_be_says_nothing(tmp_path, caplog):
    def modify(dataset, _):
        tag = Tag("ContributingEquipmentSequence")
        dataset[tag] = RawDataElement(tag, "LO", 14, b"BioAtt project", 0, False, True)

    assert select_series(write_ct_series(tmp_path / "in", slices=2, modify=modify)).shape[0] == 2
    assert "denoised it before" not in caplog.text


def test_a_second_denoising_is_told(tmp_path, caplog):
    source = write_ct_series(tmp_path / "in", slices=2)
    derive(source, tmp_path / "once")
    select_series(tmp_path / "once")
    assert caplog.text == ""  # to read a result again is no fault
    series = derive(tmp_path / "once", tmp_path / "twice")
    derived = pydicom.dcmread(series.files[0])
    assert derived.DerivationDescription.count("Denoised by") == 2
    purposes = [one.PurposeOfReferenceCodeSequence[0].CodeValue for one in derived.ContributingEquipmentSequence]
    assert purposes == ["109101", "109102", "109102"]
    steps = [pydicom.dcmread(folder / "0001.dcm").SOPInstanceUID for folder in (source, tmp_path / "once")]
    assert [one.ReferencedSOPInstanceUID for one in derived.SourceImageSequence] == steps


def test_each_of_many_derivations_says_what_it_is_not_for_within_the_room_of_its_element(tmp_path):
    assert "not a medical device" in NOT_FOR_DIAGNOSIS and "not for diagnosis" in NOT_FOR_DIAGNOSIS
    folder = write_ct_series(tmp_path / "0", slices=1)
    for i in range(1, 5):
        derive(folder, tmp_path / str(i))
        folder = tmp_path / str(i)
    said = pydicom.dcmread(folder / "0001.dcm").DerivationDescription
    assert said.startswith(PROVENANCE.sentence()) and PROVENANCE.sentence().endswith(NOT_FOR_DIAGNOSIS)
    assert 1000 < len(said) <= 1024, "of four sentences the earliest are cut short"


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("uniform prior (no model)", ", uniform prior, strength"),
        ("uniform prior (no model), temperature 2", ", uniform prior, temperature 2, strength"),
        ("compact prior model (not BiomedCLIP)", ", compact prior model (not BiomedCLIP), strength"),
        ("open_clip model hub/name, in words", ", prior open_clip model hub/name, in words, strength"),
    ],
)
def test_the_prior_is_named_once(model, words):
    assert words in dataclasses.replace(PROVENANCE, prior_model=model).sentence()


def test_the_source_is_named_where_the_image_lists_what_it_refers_to(tmp_path):
    def modify(dataset, _):
        series = Dataset()
        series.SeriesInstanceUID = "1.2.3"
        series.ReferencedInstanceSequence = [Dataset()]
        dataset.ReferencedSeriesSequence = [series]

    source, derived = derived_dataset(tmp_path, modify=modify)
    old, new = derived.ReferencedSeriesSequence
    assert old.SeriesInstanceUID == "1.2.3" and new.SeriesInstanceUID == source.SeriesInstanceUID
    assert new.ReferencedInstanceSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID


def test_ranges_of_pixel_values_and_sources_of_a_conversion_go_at_any_depth(tmp_path):
    def modify(dataset, _):
        item = Dataset()
        item.SmallestImagePixelValue, item.ReferencedSOPInstanceUID = 3, "1.2.3.4"
        item.ConversionSourceAttributesSequence = [Dataset()]
        dataset.ReferencedImageSequence = [item]

    _, derived = derived_dataset(tmp_path, modify=modify)
    (item,) = derived.ReferencedImageSequence
    assert [one.keyword for one in item] == ["ReferencedSOPInstanceUID"]


def test_the_source_is_named_once_where_its_series_is_listed_already(tmp_path):
    def modify(dataset, _):
        instance, series = Dataset(), Dataset()
        instance.ReferencedSOPClassUID, instance.ReferencedSOPInstanceUID = dataset.SOPClassUID, "1.2.3"
        series.SeriesInstanceUID, series.ReferencedInstanceSequence = dataset.SeriesInstanceUID, [instance]
        dataset.ReferencedSeriesSequence = [series]

    source, derived = derived_dataset(tmp_path, modify=modify)
    (series,) = derived.ReferencedSeriesSequence
    named = [one.ReferencedSOPInstanceUID for one in series.ReferencedInstanceSequence]
    assert named == ["1.2.3", source.SOPInstanceUID]


def test_earlier_equipment_and_earlier_sources_stay(tmp_path):
    def modify(dataset, _):
        device, image, itself = Dataset(), Dataset(), Dataset()
        device.Manufacturer = "Earlier"
        image.ReferencedSOPInstanceUID, itself.ReferencedSOPInstanceUID = "1.2.3", dataset.SOPInstanceUID
        dataset.ContributingEquipmentSequence, dataset.SourceImageSequence = [device], [itself, image]
        dataset.ImageType = ["DERIVED", "SECONDARY", "AXIAL", "PROCESSED"]

    source, derived = derived_dataset(tmp_path, modify=modify)
    makers = [device.Manufacturer for device in derived.ContributingEquipmentSequence]
    assert makers == [source.Manufacturer, "Earlier", "BioAtt project"]
    before, ours = derived.SourceImageSequence
    assert before.ReferencedSOPInstanceUID == "1.2.3" and ours.ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert ours.SpatialLocationsPreserved == "YES"
    assert list(derived.ImageType) == ["DERIVED", "SECONDARY", "AXIAL", "PROCESSED"]


#: What another instance, another step and another series said of themselves.
SAID_OF_THE_SOURCE = {
    "SOPInstanceStatus": "AO",
    "SOPAuthorizationDateTime": "20200102101114",
    "SOPAuthorizationComment": "Checked",
    "AuthorizationEquipmentCertificationNumber": "7",
    "InstanceCoercionDateTime": "20200102101114",
    "InstanceOriginStatus": "IMPORTED",
    "QueryRetrieveView": "CLASSIC",
    "OriginalSpecializedSOPClassUID": "1.2.3",
    "EncryptedAttributesSequence": [Dataset()],
    "PrivateDataElementCharacteristicsSequence": [Dataset()],
    "RetrieveAETitle": "ARCHIVE",
    "StorageMediaFileSetUID": "1.2.3",
    "ReferencedPerformedProcedureStepSequence": [Dataset()],
    "PerformedProcedureStepID": "STEP",
    "PerformedProcedureStepStartDate": "20200102",
    "PerformedProcedureStepStartTime": "101114",
    "PerformedProcedureStepEndDate": "20200102",
    "PerformedProcedureStepEndTime": "101120",
    "PerformedProcedureStepDescription": "Abdomen",
    "CommentsOnThePerformedProcedureStep": "None",
    "PerformedProtocolCodeSequence": [Dataset()],
    "SeriesDescriptionCodeSequence": [Dataset()],
    "ClinicalTrialSeriesID": "S1",
    "ClinicalTrialSeriesDescription": "Baseline",
    "SyntheticData": "NO",
}


def test_what_was_said_of_the_source_alone_goes(tmp_path):
    def modify(dataset, _):
        for keyword, content in SAID_OF_THE_SOURCE.items():
            setattr(dataset, keyword, content)
        request = Dataset()
        request.ScheduledProcedureStepID = "ORDERED"
        dataset.RequestAttributesSequence = [request]
        dataset.ClinicalTrialCoordinatingCenterName = "Centre"

    source, derived = derived_dataset(tmp_path, modify=modify)
    assert all(keyword in source for keyword in SAID_OF_THE_SOURCE)
    assert [keyword for keyword in SAID_OF_THE_SOURCE if keyword in derived] == []
    assert derived.RequestAttributesSequence[0].ScheduledProcedureStepID == "ORDERED"
    assert derived.ClinicalTrialCoordinatingCenterName == "Centre"


def test_the_list_of_private_elements_stays_with_them(tmp_path):
    def modify(dataset, _):
        dataset.PrivateDataElementCharacteristicsSequence = [Dataset()]

    source = write_ct_series(tmp_path / "in", slices=1, modify=modify)
    (file,) = derive(source, tmp_path / "out", rules=DerivedRules(keep_private=True)).files
    assert "PrivateDataElementCharacteristicsSequence" in pydicom.dcmread(file)


@pytest.mark.parametrize("said", [None, "PRODUCT", "SERVICE"])
def test_content_is_qualified_as_research(tmp_path, said):
    _, derived = derived_dataset(tmp_path, modify=changed(ContentQualification=said) if said else None)
    assert derived.ContentQualification == "RESEARCH"


@pytest.mark.parametrize(("said", "simulated", "expected"), [("YES", False, "YES"), ("NO", True, "YES")])
def test_what_is_made_of_synthetic_data_or_by_simulation_is_synthetic(tmp_path, said, simulated, expected):
    noise = {"filter_name": "ramp", "tube_current": "", "seed": 0, "photons": 1e5, "electronic_sd": 0.0, "views": 9}
    made = SimulatedDose(version="0.1.0", dose_fraction=0.25, **noise) if simulated else PROVENANCE
    source = write_ct_series(tmp_path / "in", slices=1, modify=changed(SyntheticData=said))
    (file,) = derive(source, tmp_path / "out", provenance=made).files
    assert pydicom.dcmread(file).SyntheticData == expected


@pytest.mark.parametrize(
    "values, expected",
    [
        ({"SeriesDescription": "x" * 64}, {"SeriesDescription": "x" * 48 + " BioAtt denoised"}),
        ({"SeriesDescription": None}, {"SeriesDescription": "BioAtt denoised"}),
        ({"SeriesNumber": 2**31 - 5}, {"SeriesNumber": 2**31 - 1}),
        ({"SeriesNumber": None}, {"SeriesNumber": 1000}),
        ({"ImageType": ["ORIGINAL", "PRIMARY"]}, {"ImageType": ["DERIVED", "PRIMARY", "AXIAL"]}),
        ({"ImageType": None}, {"ImageType": ["DERIVED", "PRIMARY", "AXIAL"]}),
    ],
)
def test_values_fit_their_representation(tmp_path, values, expected):
    def modify(dataset, _):
        for keyword, content in values.items():
            setattr(dataset, keyword, content)

    _, derived = derived_dataset(tmp_path, modify=modify)
    for keyword, content in expected.items():
        assert derived[keyword].value == content


def test_long_and_foreign_provenance_fits(tmp_path):
    source = write_ct_series(tmp_path / "in", slices=1)
    odd = Provenance(
        version="1\\2", network="Größe\n" * 300, weights_sha256="0" * 64, prior="table:é", prior_model="my\ttable"
    )
    series = select_series(source)
    write_derived_series(series, read_volume(series), tmp_path / "out", odd)
    derived = pydicom.dcmread(tmp_path / "out" / "0001.dcm")
    assert len(derived.DerivationDescription) <= 1024 and "Gr??e Gr??e" in derived.DerivationDescription
    assert derived.ContributingEquipmentSequence[-1].SoftwareVersions == "1 2"


@pytest.mark.parametrize(
    "character_set, name, description",
    [
        ("ISO_IR 192", "Łukasz^Ż", "Głowa"),
        ("ISO_IR 144", "Люкceмбypг", "Голова"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎", "頭部"),
        ("GB18030", "Wang^XiaoDong=王^小东", "头部"),
    ],
)
def test_character_sets_survive(tmp_path, character_set, name, description):
    def modify(dataset, _):
        dataset.SpecificCharacterSet = character_set
        dataset.ReferringPhysicianName = dataset.StudyDescription = ""
        dataset.PatientName, dataset.SeriesDescription = name, description

    source, derived = derived_dataset(tmp_path, modify=modify)
    assert source.PatientName == derived.PatientName == name
    assert derived.SeriesDescription == f"{description} BioAtt denoised"


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize("character_set", ["ISO_IR 999", "ISO_IR 192", ""])
def test_text_in_the_wrong_character_set_is_copied_not_repaired(tmp_path, syntax, character_set, caplog):
    def modify(dataset, _):
        dataset.SpecificCharacterSet = "ISO_IR 100"
        dataset.PatientName = "MARK1^Ä"
        dataset.SeriesDescription = "Schädel"

    source = write_ct_series(tmp_path / "in", slices=1, modify=modify, transfer_syntax=syntax)
    file = source / "0001.dcm"
    file.write_bytes(file.read_bytes().replace(b"ISO_IR 100", character_set.encode().ljust(10)))
    derive(source, tmp_path / "out")
    content = (tmp_path / "out" / "0001.dcm").read_bytes()
    assert "MARK1^Ä".encode("latin-1") in content and b"BioAtt denoised" in content
    assert "MARK1" not in caplog.text


def test_values_that_break_their_representation_are_copied(tmp_path):
    source = write_ct_series(tmp_path / "in", slices=1, transfer_syntax=ImplicitVRLittleEndian)
    file = source / "0001.dcm"
    content = file.read_bytes()
    assert content.count(b"19700101") == 1 and content.count(b"120 ") >= 1
    file.write_bytes(content.replace(b"19700101", b"1970-1-1").replace(b"120 ", b"12O "))  # birth date and KVP
    derive(source, tmp_path / "out")
    content = (tmp_path / "out" / "0001.dcm").read_bytes()
    assert b"1970-1-1" in content and b"12O " in content


@pytest.mark.parametrize("slope, intercept, bits", [(0.25, -1024.0, 16), (1.0, -8192.0, 16), (1.0, -1024.0, 12)])
def test_a_fine_rescale_is_kept_and_values_are_rounded(tmp_path, slope, intercept, bits, caplog):
    source = write_ct_series(tmp_path / "in", slope=slope, intercept=intercept, bits_stored=bits)
    series = derive(source, tmp_path / "out", lambda volume: volume + 0.4 * slope)
    np.testing.assert_array_equal(read_volume(series), read_volume(select_series(source)))
    derived = pydicom.dcmread(series.files[0])
    assert (derived.RescaleSlope, derived.RescaleIntercept, derived.BitsStored) == (slope, intercept, bits)
    assert derived.HighBit == bits - 1 and "stored as signed 16-bit HU" not in caplog.text
    up = derive(source, tmp_path / "up", lambda volume: volume + 0.6 * slope)
    np.testing.assert_array_equal(read_volume(up), read_volume(series) + np.float32(slope))


def test_a_coarse_rescale_becomes_hu_in_16_bits(tmp_path, caplog):
    source = write_ct_series(tmp_path / "in", slope=4.0, bits_stored=12, padding=4095, noise_sd=40)
    change = np.random.default_rng(0).uniform(-3, 3, (4, 48, 64))
    series = derive(source, tmp_path / "out", lambda volume: volume + change)
    before, after = read_volume(select_series(source)), read_volume(series)
    padded = before == 4095 * 4.0 - 1024
    assert padded.any()
    np.testing.assert_array_equal(after[padded], before[padded])
    np.testing.assert_array_equal(after[~padded], np.rint(before + change)[~padded])
    stored, derived = read_slice(series.files[0])
    assert (derived.BitsAllocated, derived.BitsStored, derived.HighBit, derived.PixelRepresentation) == (16, 16, 15, 1)
    assert (derived.RescaleSlope, derived.RescaleIntercept) == (1, 0)
    assert derived.PixelPaddingValue == stored[0, 0] == 4095 * 4 - 1024
    assert "4 slices stored as signed 16-bit HU" in caplog.text


@pytest.mark.parametrize("signed, low, high", [(False, 0, 4095), (True, -2048, 2047)])
def test_values_beyond_the_bits_are_clipped_and_counted(tmp_path, signed, low, high, caplog):
    source = write_ct_series(tmp_path / "in", bits_stored=12, signed=signed, noise_sd=0)

    def change(volume):
        volume = volume.copy()
        volume[0, 0, 0], volume[1, 2, 3], volume[3, 4, 5] = -9000, 9000, 8000
        return volume

    series = derive(source, tmp_path / "out", change)
    volume = read_volume(series)
    assert volume[0, 0, 0] == low - 1024 and volume[1, 2, 3] == volume[3, 4, 5] == high - 1024
    assert "3 pixels were clipped" in caplog.text


def test_padding_is_restored_whatever_the_volume_says(tmp_path, caplog):
    source = write_ct_series(tmp_path / "in", signed=True, padding=-2000)
    series = derive(source, tmp_path / "out", np.zeros_like)
    for file, original in zip(series.files, select_series(source).files, strict=True):
        before, after = read_slice(original)[0], read_slice(file)[0]
        np.testing.assert_array_equal(after, np.where(before == -2000, -2000, 1024))
    assert "clipped" not in caplog.text


def test_once_lossy_stays_lossy(tmp_path):
    def modify(dataset, _):
        dataset.LossyImageCompression, dataset.LossyImageCompressionRatio = "01", "8.5"

    _, derived = derived_dataset(tmp_path, modify=modify)
    assert derived.LossyImageCompression == "01" and derived.LossyImageCompressionRatio == 8.5


def test_a_lossy_transfer_syntax_makes_the_result_lossy(tmp_path):
    source, derived = derived_dataset(tmp_path, transfer_syntax=JPEGLSNearLossless)
    assert "LossyImageCompression" not in source
    assert derived.LossyImageCompression == "01" and derived.LossyImageCompressionMethod == "ISO_14495_1"
    encoded = len(source.PixelData) - 16 - 8  # offset table item and delimiter, about
    assert derived.LossyImageCompressionRatio == pytest.approx(48 * 64 * 2 / encoded, rel=0.05)


def test_dates_follow_the_time_zone_of_the_source(tmp_path):
    def modify(dataset, _):
        dataset.TimezoneOffsetFromUTC = "+1130"

    _, derived = derived_dataset(tmp_path, modify=modify)
    written = datetime.strptime(derived.SeriesDate + derived.SeriesTime + "+1130", "%Y%m%d%H%M%S.%f%z")
    contributed = derived.ContributingEquipmentSequence[-1].ContributionDateTime
    assert abs((datetime.strptime(contributed, "%Y%m%d%H%M%S.%f%z") - written).total_seconds()) < 1


def test_an_existing_folder_is_kept_or_replaced_whole(tmp_path):
    source = write_ct_series(tmp_path / "in", slices=2)
    target = tmp_path / "out"
    derive(write_ct_series(tmp_path / "other", slices=3), target)
    with pytest.raises(BioAttError, match="exists"):
        derive(source, target)
    assert len(list(target.iterdir())) == 3
    derive(source, target, overwrite=True)
    assert sorted(file.name for file in target.iterdir()) == ["0001.dcm", "0002.dcm"]
    (target / "0003.dcm").write_bytes((source / "0001.dcm").read_bytes())  # a source, named as we name results
    with pytest.raises(BioAttError, match="out holds 0003.dcm, which BioAtt did not write, and is not replaced"):
        derive(source, target, overwrite=True)


def test_the_source_is_never_overwritten(tmp_path):
    source = write_ct_series(tmp_path / "in")
    before = checksums(source)
    for target in (source, tmp_path, tmp_path / "x" / ".." / "in"):
        with pytest.raises(BioAttError, match="holds the source"):
            derive(source, target, overwrite=True)
    assert checksums(source) == before


def test_nothing_is_left_of_a_run_that_fails(tmp_path):
    source = write_ct_series(tmp_path / "in")
    series = select_series(source)
    volume = read_volume(series)
    with pytest.raises(BioAttError, match="not finite"):
        write_derived_series(
            series, np.where(np.arange(4)[:, None, None] == 2, np.nan, volume), tmp_path / "out", PROVENANCE
        )
    with pytest.raises(BioAttError, match=r"\(4, 48, 64\), the volume to write \(48, 64, 4\)"):
        write_derived_series(series, np.moveaxis(volume, 0, -1), tmp_path / "out", PROVENANCE)
    series.files[3].write_text("gone")
    with pytest.raises(BioAttError, match="no longer a DICOM file"):
        write_derived_series(series, volume, tmp_path / "out", PROVENANCE)
    assert list(tmp_path.iterdir()) == [source]


def test_nothing_of_the_patient_is_logged(tmp_path, caplog):
    caplog.set_level("DEBUG")
    derive(write_ct_series(tmp_path / "in", slope=2.0), tmp_path / "out", lambda volume: volume * 50)
    assert len(find_series(tmp_path)) == 2
    assert "clipped" in caplog.text
    for secret in ("Phäntom", "SECRET", "19700101", "Study of a phantom", "Reférent"):
        assert secret not in caplog.text


def test_progress_counts_slices(tmp_path):
    calls = []
    derive(write_ct_series(tmp_path / "in"), tmp_path / "out", progress=calls.append)
    assert calls == [1, 1, 1, 1]


def uids(folder):
    """SeriesInstanceUIDs and SOPInstanceUIDs of the files in a folder, in order."""
    images = [pydicom.dcmread(file, stop_before_pixels=True) for file in sorted(folder.iterdir())]
    return [(image.SeriesInstanceUID, image.SOPInstanceUID) for image in images]


def test_uids_are_new_each_time_unless_they_shall_be_stable(tmp_path):
    source = write_ct_series(tmp_path / "in", slices=2)
    stable = DerivedRules(stable_uids=True)
    for name, rules in {"new": None, "newer": None, "stable": stable, "again": stable}.items():
        derive(source, tmp_path / name, rules=rules)
    made = {name: uids(tmp_path / name) for name in ("new", "newer", "stable", "again")}
    assert made["stable"] == made["again"]
    assert len({uid for name in ("new", "newer", "stable") for pair in made[name] for uid in pair}) == 3 * 3
    assert all(uid.startswith("2.25.") and len(uid) <= 64 for pair in made["stable"] for uid in pair)


def test_stable_uids_are_those_of_what_is_stored(tmp_path):
    source = write_ct_series(tmp_path / "in", slices=2)
    rules = DerivedRules(stable_uids=True)
    derive(source, tmp_path / "one", rules=rules)
    derive(source, tmp_path / "rounding", lambda volume: volume + 1e-3, rules=rules)
    assert uids(tmp_path / "one") == uids(tmp_path / "rounding"), "another order of sums, the same pixels"
    other = DerivedRules(stable_uids=True, series_description="other {source}")
    derive(source, tmp_path / "other", rules=other)
    assert not set(sum(uids(tmp_path / "one"), ())) & set(sum(uids(tmp_path / "other"), ()))


@pytest.mark.parametrize(
    "other",
    [
        {"version": "0.1.1"},
        {"weights_sha256": "cd" * 32},
        {"prior": "uniform"},
        {"prior_model": "another window"},
        {"prior_digest": "ef" * 32},
        {"strength": choose_strength("high")},
        {"network": "BioAtt(channels=96, attention=prior)"},
        None,  # other pixels, whatever made them
    ],
)
def test_stable_uids_differ_with_all_that_makes_the_pixels(tmp_path, other):
    source = write_ct_series(tmp_path / "in", slices=2)
    rules = DerivedRules(stable_uids=True)
    derive(source, tmp_path / "one", rules=rules)
    if other is None:
        derive(source, tmp_path / "other", lambda volume: volume + 1, rules=rules)
    else:
        derive(source, tmp_path / "other", provenance=dataclasses.replace(PROVENANCE, **other), rules=rules)
    one, two = (set(sum(uids(tmp_path / name), ())) for name in ("one", "other"))
    assert not one & two


@pytest.mark.parametrize(
    ("rules", "description", "number"),
    [
        ({}, "Body 0 BioAtt denoised", 1003),
        ({"series_description": "AI {source}", "series_number_step": 0}, "AI Body 0", 3),
        ({"series_description": "{derivation}: {source}"}, "BioAtt denoised: Body 0", 1003),
        ({"series_description": "LOW DOSE", "series_number_step": 50}, "LOW DOSE", 53),
        ({"series_description": "x" * 40 + "{source}{source}{derivation}"}, None, 1003),
    ],
)
def test_description_and_number_follow_the_rule(tmp_path, rules, description, number):
    source = write_ct_series(tmp_path / "in", slices=1)
    derive(source, tmp_path / "out", rules=DerivedRules(**rules))
    derived = pydicom.dcmread(tmp_path / "out" / "0001.dcm")
    assert derived.SeriesNumber == number and len(derived.SeriesDescription) <= 64
    assert description is None or derived.SeriesDescription == description


@pytest.mark.parametrize(
    "rules",
    [
        {"series_description": "{PatientName}"},
        {"series_description": "{source.__class__}"},
        {"series_description": "a\\b"},
        {"series_description": "Größe"},
        {"series_description": " "},
        {"series_description": "x" * 60},
        {"series_number_step": -1},
        {"series_number_step": 1.5},
    ],
)
def test_rules_that_dicom_cannot_follow_are_refused(rules):
    with pytest.raises(BioAttError, match=next(iter(rules))):
        DerivedRules(**rules)


@pytest.mark.parametrize(
    ("asked", "told", "named"),
    [
        ({}, "standard, anchored at", ""),
        ({"strength": "high"}, "high, anchored at", " high"),
        ({"anchor_mm": 1.25}, "custom, anchored at 1.25 mm", " 1.25 mm"),
        ({"anchor_mm": 1.25, "grain": 0.3}, "custom, anchored at 1.25 mm, 0.3 of the grain, detail", " 1.25 mm 0.3"),
        ({"restore": 0.5}, "custom, anchored at 1.3 mm, 0.5 of the detail restored", " 1.3 mm restore 0.5"),
        ({"restore": 0}, "custom, anchored at 1.3 mm", " 1.3 mm restore 0"),
    ],
)
def test_strength_stands_in_the_file(tmp_path, asked, told, named):
    source = write_ct_series(tmp_path / "in", slices=1)
    chosen = choose_strength(**asked)
    derive(source, tmp_path / "out", provenance=dataclasses.replace(PROVENANCE, strength=chosen))
    derived = pydicom.dcmread(tmp_path / "out" / "0001.dcm")
    assert f"strength {told}" in derived.DerivationDescription
    assert f"strength {told}" in derived.ContributingEquipmentSequence[-1].ContributionDescription
    assert derived.SeriesDescription == f"Body 0 BioAtt denoised{named}"


def test_padding_of_a_value_that_tissue_has_is_not_restored(tmp_path, caplog):
    def water(dataset, _):
        dataset.PixelPaddingValue = 1024  # 0 HU

    source = write_ct_series(tmp_path / "in", noise_sd=30.0, modify=water)
    series = select_series(source)
    assert "PixelPaddingValue is a value that tissue has" in caplog.text and (read_volume(series) == 0).any()
    write_derived_series(series, np.full(series.shape, 7.0), tmp_path / "out", PROVENANCE)
    assert (read_volume(select_series(tmp_path / "out")) == 7).all()


def test_a_lossy_source_is_warned_about(tmp_path, caplog):
    derive(write_ct_series(tmp_path / "in", slices=1, transfer_syntax=JPEGLSNearLossless), tmp_path / "out")
    caplog.clear()
    select_series(tmp_path / "in")
    assert "lossy compressed" in caplog.text
    caplog.clear()
    select_series(tmp_path / "out")
    assert "lossy compressed" in caplog.text


def test_a_stop_while_writing_leaves_the_old_series(tmp_path):
    source = write_ct_series(tmp_path / "in")
    derive(source, tmp_path / "out")
    before = checksums(tmp_path / "out")

    left = [1, 1, 1]

    def stop(count):
        left.pop()
        if not left:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        derive(source, tmp_path / "out", overwrite=True, progress=stop)
    assert checksums(tmp_path / "out") == before and sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


#: Derives sys.argv[1] to sys.argv[2] with other values, and is killed by the system at the moment sys.argv[3].
KILLED = """
import os, shutil, signal, sys
from dicom_cases import derive

def die(*arguments, **options):
    os.kill(os.getpid(), signal.SIGKILL)

source, target, moment = sys.argv[1:]
options = {}
if moment == "writing":
    left = [1, 1, 1]
    options["progress"] = lambda count: left.pop() and not left and die()
elif moment == "before the move":
    options["complete"] = die
elif moment == "after the move":
    shutil.rmtree = die
derive(source, target, lambda volume: volume + 7, overwrite=True, **options)
"""


@pytest.mark.parametrize("overwrites", [False, True])
@pytest.mark.parametrize("moment", ["writing", "before the move", "after the move"])
def test_a_process_that_is_killed_leaves_the_old_or_the_new_series(tmp_path, moment, overwrites):
    source, target = write_ct_series(tmp_path / "in"), tmp_path / "out"
    hu = read_volume(select_series(source))
    if overwrites:
        derive(source, target)
        before = checksums(target)
    path = os.pathsep.join(sys.path)
    command = [sys.executable, "-c", KILLED, source, target, moment]
    killed = subprocess.run(command, env=os.environ | {"PYTHONPATH": path})
    assert killed.returncode == -signal.SIGKILL
    if moment == "after the move":
        np.testing.assert_array_equal(read_volume(select_series(target)), hu + 7)
    elif overwrites:
        assert checksums(target) == before
    else:
        assert not target.exists()
    left = [path for path in tmp_path.iterdir() if path not in (source, target)]
    assert len(left) == (overwrites or moment != "after the move")
    assert all(path.name.startswith(".out.partial-") for path in left)
    assert len(find_series(tmp_path)) == 1 + target.exists()  # what was left is not seen by the next run
    series = derive(source, target, lambda volume: volume + 9, overwrite=True)
    np.testing.assert_array_equal(read_volume(series), hu + 9)


def test_a_full_disk_leaves_the_old_series(tmp_path, monkeypatch):
    source = write_ct_series(tmp_path / "in")
    derive(source, tmp_path / "out")
    before, save = checksums(tmp_path / "out"), pydicom.dcmwrite

    def full(target, *arguments, **kwargs):
        if target.name == "0003.dcm":
            raise OSError(28, "No space left on device")
        save(target, *arguments, **kwargs)

    monkeypatch.setattr(pydicom, "dcmwrite", full)
    with pytest.raises(BioAttError, match="No space left on device"):
        derive(source, tmp_path / "out", overwrite=True)
    assert checksums(tmp_path / "out") == before and sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]
