"""DICOM series, good and odd, that several test files share."""

from __future__ import annotations

import re
import subprocess

import numpy as np
import pydicom
from phantom import write_ct_series
from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)
from scripts.dicom import read_frames, read_volume, select_series, write_derived_series
from scripts.provenance import Provenance

SYNTAXES = [
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
    JPEGLSLossless,
    JPEG2000Lossless,
]
ENHANCED_CT = UID("1.2.840.10008.5.1.4.1.1.2.1")
PROVENANCE = Provenance(
    version="0.1.0",
    network="BioAtt(channels=32, attention=prior)",
    weights_sha256="ab" * 32,
    prior="compact",
    prior_model="compact prior model (not BiomedCLIP)",
)


def changed(**values):
    """A `modify` that sets elements in all slices; None removes one."""

    def modify(dataset, _):
        for keyword, value in values.items():
            if value is None:
                del dataset[keyword]
            else:
                setattr(dataset, keyword, value)

    return modify


def in_slice(index, **values):
    """A `modify` that sets elements in one slice."""
    return lambda dataset, i: changed(**values)(dataset, i) if i == index else None


def together(*modifies):
    """A `modify` that does one after the other."""

    def modify(dataset, i):
        for one in modifies:
            one(dataset, i)

    return modify


def code(value, scheme, meaning="words"):
    """A sequence with one code."""
    return [_item(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)]


def units(value):
    """RealWorldValueMappingSequence to the units of this code."""
    mapping = _item(
        RealWorldValueFirstValueMapped=0,
        RealWorldValueLastValueMapped=4095,
        RealWorldValueSlope=0.1,
        RealWorldValueIntercept=0.0,
        LUTExplanation="words",
        LUTLabel="words",
        MeasurementUnitsCodeSequence=code(value, "UCUM"),
    )
    return [mapping]


def shear(dataset, i):
    """A gantry tilted by 15 degrees: slices are shifted along their rows' direction."""
    tilt = np.deg2rad(15)
    dataset.ImageOrientationPatient = [1, 0, 0, 0, float(np.cos(tilt)), float(-np.sin(tilt))]
    dataset.ImagePositionPatient = [-100.0, -90.0, 3.0 * i]
    dataset.GantryDetectorTilt = 15


def _rescale_of_its_own(dataset, i):
    dataset.RescaleIntercept = -1024 - i


def _private(dataset, _):
    block = dataset.private_block(0x0009, "SOMEBODY", create=True)
    block.add_new(1, "LO", "private")
    block.add_new(2, "SQ", [Dataset()])


def _padding_range(dataset, _):
    dataset.add_new("PixelPaddingRangeLimit", "SS", -1990)


#: Series as hospitals send them: arguments of `write_ct_series`. Each is read, derived and read back.
CASES = {
    "plain": {},
    "signed": {"signed": True},
    "12 of 16 bits": {"bits_stored": 12},
    "12 of 16 bits, signed": {"bits_stored": 12, "signed": True},
    "padding named, -3024 HU": {"signed": True, "padding": -2000},
    "padding not named, -3024 HU": {"signed": True, "padding": -2000, "modify": changed(PixelPaddingValue=None)},
    "padding range": {"signed": True, "padding": -2000, "modify": _padding_range},
    "padding value of water": {"modify": changed(PixelPaddingValue=1024)},
    "padding that does not fit": {"bits_stored": 12, "modify": changed(PixelPaddingValue=63536)},
    "intercept 0, -2048 outside": {
        "signed": True,
        "intercept": 0.0,
        "padding": -2048,
        "modify": changed(PixelPaddingValue=None),
    },
    "slope 0.5": {"slope": 0.5},
    "slope 1.5": {"slope": 1.5},
    "slope 4, padding": {"slope": 4.0, "bits_stored": 12, "padding": 4095},
    "rescale of each slice": {"modify": _rescale_of_its_own},
    "non-square pixels": {"spacing": (1.5, 0.75)},
    "256 x 256": {"shape": (256, 256), "slices": 2},
    "1024 x 1024": {"shape": (1024, 1024), "slices": 1, "noise_sd": 0.0},
    "one slice": {"slices": 1},
    "reversed file order": {"reversed_order": True},
    "prone": {"patient_position": "HFP"},
    "feet first": {"patient_position": "FFS"},
    "coronal": {"orientation": (1, 0, 0, 0, 0, -1)},
    "oblique": {"orientation": (0.8, 0.6, 0.0, -0.6, 0.8, 0.0)},
    "tilted gantry": {"modify": shear},
    "no frame of reference": {"modify": changed(FrameOfReferenceUID="")},
    "UTF-8 names": {"modify": changed(SpecificCharacterSet="ISO_IR 192", PatientName="Łukasz^Ż")},
    "unknown character set": {"modify": changed(SpecificCharacterSet="ISO_IR 999", PatientName="Latin")},
    "private elements": {"modify": _private},
    "lossy before": {"modify": changed(LossyImageCompression="01", LossyImageCompressionRatio=8)},
    "no RescaleType": {"modify": changed(RescaleType=None)},
    "already derived": {"modify": changed(ImageType=["DERIVED", "SECONDARY", "AXIAL", "PROCESSED"])},
    **{syntax.name: {"transfer_syntax": syntax} for syntax in SYNTAXES},
}


def derive(source, target, change=lambda volume: volume, provenance=PROVENANCE, **kwargs):
    """Read, change and write a series; return the one written."""
    series = select_series(source, tell=False, allow_gaps=True)
    write_derived_series(series, change(read_volume(series)), target, provenance, **kwargs)
    return select_series(target, tell=False, allow_gaps=True)


def complaints(file):
    """What dciodvfy says about a file, UIDs left out; empty where it cannot read it."""
    found = subprocess.run(["dciodvfy", str(file)], capture_output=True, text=True, errors="replace")
    lines = (found.stdout + found.stderr).splitlines()
    return {re.sub(r"\d+(\.\d+){4,}", "UID", line) for line in lines if line.startswith(("Error", "Warning"))}


def write_enhanced_ct(folder, *, per_frame_rescale=False, order=None, modify=None, syntax=None, **kwargs):
    """Write the body as one Enhanced CT image (PS3.3 A.38) and return the file, and the same as single frames.

    Args:
        folder: for both.
        per_frame_rescale: put rescale into each frame's functional groups, not the shared ones.
        order: of the frames in the file, by slice; None for upwards.
        modify: called with the enhanced dataset before it is written.
        syntax: transfer syntax to compress to.
        kwargs: of `write_ct_series`.
    """
    single = write_ct_series(folder / "single", **kwargs)
    slices = [pydicom.dcmread(file) for file in sorted(single.iterdir())]
    slices = [slices[i] for i in order or range(len(slices))]
    first = slices[0]
    image = Dataset()
    for keyword in _COMMON:
        if keyword in first:
            image[keyword] = first[keyword]
    image.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    image.SOPClassUID, image.SOPInstanceUID = ENHANCED_CT, generate_uid(entropy_srcs=["enhanced"])
    image.DeviceSerialNumber, image.InstanceNumber, image.NumberOfFrames = "1", 1, len(slices)
    image.PixelPresentation, image.VolumetricProperties = "MONOCHROME", "VOLUME"
    image.VolumeBasedCalculationTechnique, image.ContentQualification = "NONE", "RESEARCH"
    image.AcquisitionDateTime, image.AcquisitionDuration = "20200102101114", 5.0
    image.BurnedInAnnotation, image.LossyImageCompression, image.PresentationLUTShape = "NO", "00", "IDENTITY"
    image.AcquisitionContextSequence = []
    organization = generate_uid(entropy_srcs=["dimensions"])
    image.DimensionOrganizationSequence = [_item(DimensionOrganizationUID=organization)]
    image.DimensionIndexSequence = [
        _item(DimensionOrganizationUID=organization, DimensionIndexPointer=pointer, FunctionalGroupPointer=0x00209111)
        for pointer in (0x00209056, 0x00209057)
    ]
    rescales = [
        _item(RescaleIntercept=one.RescaleIntercept, RescaleSlope=one.RescaleSlope, RescaleType="HU") for one in slices
    ]
    shared = _item(
        PixelMeasuresSequence=[_item(PixelSpacing=first.PixelSpacing, SliceThickness=first.SliceThickness)],
        PlaneOrientationSequence=[_item(ImageOrientationPatient=first.ImageOrientationPatient)],
        FrameVOILUTSequence=[_item(WindowCenter="40", WindowWidth="400")],
        CTImageFrameTypeSequence=[
            _item(
                FrameType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"],
                PixelPresentation="MONOCHROME",
                VolumetricProperties="VOLUME",
                VolumeBasedCalculationTechnique="NONE",
            )
        ],
        CTReconstructionSequence=[_item(ConvolutionKernel="B30")],
    )
    if not per_frame_rescale:
        shared.PixelValueTransformationSequence = rescales[:1]
    image.SharedFunctionalGroupsSequence = [shared]
    image.PerFrameFunctionalGroupsSequence = [
        _item(
            FrameContentSequence=[
                _item(
                    StackID="1",
                    InStackPositionNumber=place + 1,
                    DimensionIndexValues=[1, place + 1],
                    FrameAcquisitionDateTime="20200102101114",
                    FrameReferenceDateTime="20200102101114",
                    FrameAcquisitionDuration=5.0,
                    FrameAcquisitionNumber=1,
                )
            ],
            PlanePositionSequence=[_item(ImagePositionPatient=one.ImagePositionPatient)],
            **({"PixelValueTransformationSequence": [rescale]} if per_frame_rescale else {}),
        )
        for place, one, rescale in zip(order or range(len(slices)), slices, rescales, strict=True)
    ]
    pixels = np.stack([one.pixel_array for one in slices])
    image.file_meta = pydicom.dataset.FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.add_new("PixelData", "OW", pixels.tobytes())
    if syntax is not None:
        image.compress(syntax, pixels, generate_instance_uid=False)
    if modify is not None:
        modify(image)
    file = folder / "enhanced" / "IM0"
    file.parent.mkdir()
    pydicom.dcmwrite(file, image, enforce_file_format=True)
    return file, single


_COMMON = (
    "SpecificCharacterSet StudyDate SeriesDate ContentDate StudyTime SeriesTime ContentTime AccessionNumber "
    "Modality Manufacturer ReferringPhysicianName StudyDescription SeriesDescription ManufacturerModelName PatientName "
    "PatientID PatientBirthDate PatientSex SoftwareVersions PatientPosition StudyInstanceUID SeriesInstanceUID StudyID "
    "SeriesNumber FrameOfReferenceUID PositionReferenceIndicator SamplesPerPixel PhotometricInterpretation Rows "
    "Columns BitsAllocated BitsStored HighBit PixelRepresentation PixelPaddingValue"
).split()


def _item(**elements):
    item = Dataset()
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return item


def read_slice(file):
    """Stored values and header of a file's first frame."""
    return next(read_frames(file))


#: What no page, log or file without headers may show.
MARK = "XMARKX"


def marked(dataset, _):
    """Put a mark into every element of the Patient, Study and related modules that can hold it."""
    for keyword in (
        "PatientName PatientID IssuerOfPatientID OtherPatientNames PatientAddress PatientComments EthnicGroup "
        "PatientMotherBirthName AdditionalPatientHistory Occupation StudyDescription StudyID AccessionNumber "
        "ReferringPhysicianName PhysiciansOfRecord NameOfPhysiciansReadingStudy AdmittingDiagnosesDescription "
        "InstitutionName InstitutionAddress StationName OperatorsName PerformingPhysicianName ImageComments"
    ).split():
        setattr(dataset, keyword, MARK)
    dataset.PatientBirthDate, dataset.PatientAge = "19010203", "099Y"
