"""What the header of a derived CT image says: the elements that differ from the source, and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.tag import Tag

from ..errors import BioAttError
from ..provenance import DENOISING, MANUFACTURER
from .codestream import split_frames
from .enhanced import keep_frames
from .headers import LOSSY_METHODS, has_frames, is_enhanced, items, label, open_dicom, whole_number
from .rules import Run, plain
from .scan import series_number
from .transcode import new_item, set_element

#: Elements of the source that are not true of the derived image, or no longer true once its pixels are others
#: (docs/adr/0006). Overlays with data of their own (60xx,3000) stay: they lie on the same grid.
_UNTRUE = (
    # what made it, its bytes, and where it lies
    "InstanceCreatorUID IconImageSequence PixelDataProviderURL DataSetTrailingPadding RetrieveAETitle RetrieveURL "
    "InstanceAvailability StorageMediaFileSetID StorageMediaFileSetUID "
    # what was said of it, and done with it, since it was made
    "SOPInstanceStatus SOPAuthorizationDateTime SOPAuthorizationComment AuthorizationEquipmentCertificationNumber "
    "InstanceCoercionDateTime InstanceOriginStatus QueryRetrieveView OriginalSpecializedSOPClassUID "
    "FrameExtractionSequence EncryptedAttributesSequence ReferencedPresentationStateSequence "
    # the procedure step that made its series, and what its series alone is called
    "ReferencedPerformedProcedureStepSequence PerformedProcedureStepID PerformedProcedureStepStartDate "
    "PerformedProcedureStepStartTime PerformedProcedureStepEndDate PerformedProcedureStepEndTime "
    "PerformedProcedureStepDescription CommentsOnThePerformedProcedureStep PerformedProtocolCodeSequence "
    "SeriesDescriptionCodeSequence ClinicalTrialSeriesID IssuerOfClinicalTrialSeriesID ClinicalTrialSeriesDescription"
).split()
#: Groups of an image that was converted from single frames, for what has no other place in it (PS3.3 C.7.6.16.2.25).
_UNASSIGNED = ("UnassignedSharedConvertedAttributesSequence", "UnassignedPerFrameConvertedAttributesSequence")
#: The same at any depth: ranges of pixel values, what the source was converted from, and signatures over its bytes.
_UNTRUE_ANYWHERE = frozenset(
    Tag(keyword)
    for keyword in (
        "SmallestImagePixelValue LargestImagePixelValue SmallestPixelValueInSeries LargestPixelValueInSeries "
        "SmallestImagePixelValueInPlane LargestImagePixelValueInPlane SmallestValidPixelValue LargestValidPixelValue "
        "ConversionSourceAttributesSequence DigitalSignaturesSequence MACParametersSequence"
    ).split()
)
#: Of the equipment that acquired the source, for its item among those that contributed (PS3.3 C.7.5.1, C.12.1.1.5):
#: characters of each, of an LO, or of an SH.
_EQUIPMENT = dict.fromkeys(
    "Manufacturer ManufacturerModelName DeviceSerialNumber SoftwareVersions InstitutionName".split(), 64
) | {"StationName": 16}
_ACQUISITION = ("109101", "Acquisition Equipment")
_CONCATENATION = ("ConcatenationUID", "SOPInstanceUIDOfConcatenationSource")


def describe(derived: Dataset, source: Dataset, file: Path, run: Run, frames: Sequence[int]) -> None:
    """Change the header copied from `source` into that of the derived image, in place.

    Study, patient, frame of reference, equipment, acquisition and geometry stay as they are (docs/adr/0006).

    Args:
        derived: copy of the source's header in Explicit VR Little Endian, see `transcode`.
        frames: those of an image of several that are derived.
    """
    if "PerFrameFunctionalGroupsSequence" in derived:
        keep_frames(derived, frames)
    for place in (derived, *_unassigned(derived, file)):
        for keyword in _UNTRUE:
            place.pop(keyword, None)
    _remove_untrue(derived)
    _remove_from_overlays(derived)
    if not run.rules.keep_private:
        derived.pop("PrivateDataElementCharacteristicsSequence", None)  # of elements that are gone
        _remove_private_dimensions(derived)
    _set_identity(derived, source, file, run)
    _set_qualification(derived, file, run)
    _set_times(derived, source, file, run)
    _set_derivation(derived, source, file, run, frames)
    _set_equipment(derived, source, file, run)
    _add_reference(derived, source, file)
    _set_lossy(derived, source, file)


def _unassigned(derived: Dataset, file: Path) -> Iterator[Dataset]:
    """Items with elements of single frames within the functional groups of an enhanced image."""
    if is_enhanced(derived):
        for keyword in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
            for groups in items(derived, keyword, file):
                for group in _UNASSIGNED:
                    yield from items(groups, group, file)


def _remove_untrue(derived: Dataset) -> None:
    for tag in _UNTRUE_ANYWHERE.intersection(derived.keys()):
        del derived[tag]
    for tag in derived.keys():
        if derived.get_item(tag).VR == "SQ":
            for item in derived[tag].value:
                _remove_untrue(item)


def _remove_from_overlays(derived: Dataset) -> None:
    """Drop overlays that had their bits in the unused bits of the pixels (retired): those bits are gone.

    ROI Mean and ROI Standard Deviation of the others (PS3.3 C.9.2) are those of the source's pixels.
    """
    for group in {tag.group for tag in derived.keys()} & set(range(0x6000, 0x6020, 2)):
        embedded = (group, 0x0010) in derived and (group, 0x3000) not in derived
        for tag in [tag for tag in derived.keys() if tag.group == group]:
            if embedded or tag.element in (0x1302, 0x1303):
                del derived[tag]


def _remove_private_dimensions(derived: Dataset) -> None:
    """Drop indices to private elements, which are gone, and their values in the frames (PS3.3 C.7.6.17)."""
    if "DimensionIndexSequence" not in derived:
        return
    items = derived["DimensionIndexSequence"].value
    pointers = ("DimensionIndexPointer", "FunctionalGroupPointer")
    kept = [i for i, item in enumerate(items) if not any(Tag(item.get(name) or 0).is_private for name in pointers)]
    if len(kept) == len(items):
        return
    set_element(derived, "DimensionIndexSequence", "SQ", [items[i] for i in kept])
    for groups in derived.get("PerFrameFunctionalGroupsSequence", []):
        for content in groups.get("FrameContentSequence", []):
            values = content.get("DimensionIndexValues")
            values = [values] if isinstance(values, int) else list(values or [])
            if len(values) == len(items):
                set_element(content, "DimensionIndexValues", "UL", [values[i] for i in kept])


def _set_identity(derived: Dataset, source: Dataset, file: Path, run: Run) -> None:
    set_element(derived, "SOPInstanceUID", "UI", run.instance_uid(label(source, "SOPInstanceUID", file)))
    set_element(derived, "SeriesInstanceUID", "UI", run.series_instance_uid)
    for keyword in _CONCATENATION:  # of the source's images: nobody shall join these with them
        if keyword in derived:
            set_element(derived, keyword, "UI", run.concatenation_uid(label(source, keyword, file)))
    set_element(derived, "ImageType", "CS", _image_type(label(source, "ImageType", file)))
    set_element(derived, "Modality", "CS", "CT")  # which may be missing, or bytes that are no text
    description = label(source, "SeriesDescription", file)
    description = run.rules.description(description, run.provenance.series_suffix())
    set_element(derived, "SeriesDescription", "LO", description)
    set_element(derived, "SeriesNumber", "IS", str(run.rules.number(series_number(source))))


def _set_qualification(derived: Dataset, file: Path, run: Run) -> None:
    """Say that no approved software made the content, and whether it is acquired (PS3.3 C.8.13.2.1.1, C.12.1).

    What was made of synthetic data stays synthetic; that the result is not, nobody vouches for.
    """
    set_element(derived, "ContentQualification", "CS", "RESEARCH")
    if run.provenance.synthetic:
        set_element(derived, "SyntheticData", "CS", "YES")
    elif label(derived, "SyntheticData", file) != "YES":
        derived.pop("SyntheticData", None)


def _image_type(source: str) -> list[str]:
    """DERIVED, then the source's other values (PS3.3 C.7.6.1.1.2, C.8.2.1.1.1).

    Value 2 is kept: the image still shows the examination that the source is, or is not, a direct result of.
    """
    values = [one.strip() for one in source.split("\\")][1:]
    examination = values[0] if values and values[0] in ("PRIMARY", "SECONDARY") else "PRIMARY"
    return ["DERIVED", examination, (values[1:2] or [""])[0] or "AXIAL", *values[2:]]


def _set_times(derived: Dataset, source: Dataset, file: Path, run: Run) -> None:
    """Dates and times of series, content and instance, in the time zone that the source names, else the local one."""
    now = run.now
    with suppress(ValueError):
        now = now.astimezone(datetime.strptime(label(source, "TimezoneOffsetFromUTC", file), "%z").tzinfo)
    for what in ("Series", "Content", "InstanceCreation"):
        set_element(derived, f"{what}Date", "DA", now.strftime("%Y%m%d"))
        set_element(derived, f"{what}Time", "TM", now.strftime("%H%M%S.%f"))


def _set_derivation(derived: Dataset, source: Dataset, file: Path, run: Run, frames: Sequence[int]) -> None:
    """Say what was done, and to which image or frame (PS3.3 C.7.6.1.1.3, C.12.4; for frames C.7.6.16.2.6)."""
    if not is_enhanced(source):
        _set_source(derived, source, file, run)
        return
    shared = derived["SharedFunctionalGroupsSequence"].value if "SharedFunctionalGroupsSequence" in derived else []
    own = derived["PerFrameFunctionalGroupsSequence"].value
    earlier = [one.get("DerivationImageSequence", []) for one in shared]
    for groups in shared:
        groups.pop("DerivationImageSequence", None)  # shared or of each frame, never both (PS3.3 C.7.6.16.1.1)
    for groups in [*shared, *own]:
        for item in groups.get("CTImageFrameTypeSequence", []):
            set_element(item, "FrameType", "CS", _image_type(label(item, "FrameType", file)))
    for i, groups in zip(frames, own, strict=True):
        item = Dataset()
        _set_source(item, source, file, run, frame=i + 1)
        before = [*(one for items in earlier for one in items), *groups.get("DerivationImageSequence", [])]
        set_element(groups, "DerivationImageSequence", "SQ", [*before, item])
    _add_evidence(derived, source, file)


def _add_evidence(derived: Dataset, source: Dataset, file: Path) -> None:
    """Add study, series and instance of the source to those of all source images of frames (PS3.3 C.8.13.2.1.2)."""
    if not label(source, "SOPInstanceUID", file):
        return
    studies = items(derived, "SourceImageEvidenceSequence", file)
    study = _found(studies, "StudyInstanceUID", label(source, "StudyInstanceUID", file))
    _add_to_series(study, "ReferencedSOPSequence", source, file)
    set_element(derived, "SourceImageEvidenceSequence", "SQ", studies)


def _add_to_series(place: Dataset, keyword: str, source: Dataset, file: Path) -> None:
    """Add the source to the list `keyword` of its series in ReferencedSeriesSequence, where it is not there yet."""
    every = items(place, "ReferencedSeriesSequence", file)
    series = _found(every, "SeriesInstanceUID", label(source, "SeriesInstanceUID", file))
    instances = items(series, keyword, file)
    reference = _reference(source, file)
    uid = "ReferencedSOPInstanceUID"
    if label(reference, uid, file) not in [label(one, uid, file) for one in instances]:
        set_element(series, keyword, "SQ", [*instances, reference])
    set_element(place, "ReferencedSeriesSequence", "SQ", every)


def _found(every: list[Dataset], keyword: str, uid: str) -> Dataset:
    """The item of `every` with this UID, put behind the others where there is none."""
    for one in every:
        if label(one, keyword, "") == uid:
            return one
    every.append(new_item(**{keyword: uid}))
    return every[-1]


def _set_source(place: Dataset, source: Dataset, file: Path, run: Run, frame: int | None = None) -> None:
    """Put description, code and source image of the derivation into `place`, the latter two behind earlier ones.

    Each source image is a step of successive derivations, or one of several of a step (PS3.3 C.12.4.1.2).
    """
    image = _reference(source, file)
    if frame is not None:
        image.ReferencedFrameNumber = frame
    image.SpatialLocationsPreserved = "YES"
    image.PurposeOfReferenceCodeSequence = [_code("121322", "Source image for image processing operation")]
    sentence, earlier = run.provenance.sentence(), label(place, "DerivationDescription", file)
    sentence += f" Before that: {earlier}" if earlier else ""
    set_element(place, "DerivationDescription", "ST", plain(sentence, 1024))
    codes = [*items(place, "DerivationCodeSequence", file), _code(*run.provenance.derivation_code)]
    set_element(place, "DerivationCodeSequence", "SQ", codes)
    if image.ReferencedSOPInstanceUID:
        named = ("ReferencedSOPInstanceUID", "ReferencedFrameNumber")
        ours = [label(image, keyword, file) for keyword in named]
        earlier_images = items(place, "SourceImageSequence", file)
        others = [one for one in earlier_images if [label(one, keyword, file) for keyword in named] != ours]
        set_element(place, "SourceImageSequence", "SQ", [*others, image])


def _set_equipment(derived: Dataset, source: Dataset, file: Path, run: Run) -> None:
    """Add the scanner, where it is not there yet, and the bundle to what contributed to the image (PS3.3 C.12.1)."""
    provenance = run.provenance
    device = new_item(
        Manufacturer=MANUFACTURER,
        ManufacturerModelName=plain(provenance.bundle, 64),
        SoftwareVersions=plain(provenance.version, 64),
        ContributionDateTime=run.now.strftime("%Y%m%d%H%M%S.%f%z"),
        ContributionDescription=plain(provenance.contribution(), 1024),
        PurposeOfReferenceCodeSequence=[_code("109102", "Processing Equipment")],
    )
    earlier = items(derived, "ContributingEquipmentSequence", file)  # those that worked on the source stay
    purposes = [code.get("CodeValue") for one in earlier for code in one.get("PurposeOfReferenceCodeSequence", [])]
    if _ACQUISITION[0] not in purposes:
        said = {one: plain(label(source, one, file), limit) for one, limit in _EQUIPMENT.items()}
        said = {keyword: words for keyword, words in said.items() if words}
        if "Manufacturer" in said:  # type 1
            earlier = [new_item(**said, PurposeOfReferenceCodeSequence=[_code(*_ACQUISITION)]), *earlier]
    set_element(derived, "ContributingEquipmentSequence", "SQ", [*earlier, device])


def was_denoised(header: Dataset) -> bool:
    """Whether an image says that the bundle denoised it; a simulated dose is none of that."""
    try:
        equipment = items(header, "ContributingEquipmentSequence", "")
    except BioAttError:  # no sequence: it says nothing
        return False
    return any(
        label(one, "Manufacturer", "") == MANUFACTURER
        and label(one, "ContributionDescription", "").startswith(DENOISING)
        for one in equipment
    )


def _add_reference(derived: Dataset, source: Dataset, file: Path) -> None:
    """Name the source among the instances that the image refers to, where the source has such a list (PS3.3 C.12.2)."""
    if "ReferencedSeriesSequence" not in derived or not label(source, "SOPInstanceUID", file):
        return
    _add_to_series(derived, "ReferencedInstanceSequence", source, file)


def _set_lossy(derived: Dataset, source: Dataset, file: Path) -> None:
    """Once lossy, always lossy (PS3.3 C.7.6.1.1.5): "01" stays, and is set for a lossy transfer syntax."""
    method = LOSSY_METHODS.get(str(source.file_meta.get("TransferSyntaxUID")))
    if method is None:
        return
    if label(source, "LossyImageCompression", file) != "01":
        set_element(derived, "LossyImageCompression", "CS", "01")
    if not label(source, "LossyImageCompressionRatio", file):
        frames = whole_number(source, "NumberOfFrames", file) if has_frames(source) else 1
        bits = frames * whole_number(source, "BitsStored", file)
        plain_bytes = whole_number(source, "Rows", file) * whole_number(source, "Columns", file) * bits / 8
        pixel_data = open_dicom(file, specific_tags=["SOPClassUID", "PixelData"]).PixelData
        ratio = plain_bytes / sum(map(len, split_frames(pixel_data, frames)))
        set_element(derived, "LossyImageCompressionRatio", "DS", f"{ratio:.2f}")
        set_element(derived, "LossyImageCompressionMethod", "CS", method)


def _reference(source: Dataset, file: Path) -> Dataset:
    """An item that names the source instance (PS3.3 10.8)."""
    keywords = ("SOPClassUID", "SOPInstanceUID")
    return new_item(**{f"Referenced{keyword}": label(source, keyword, file) for keyword in keywords})


def _code(value: str, meaning: str) -> Dataset:
    return new_item(CodeValue=value, CodingSchemeDesignator="DCM", CodeMeaning=meaning)
