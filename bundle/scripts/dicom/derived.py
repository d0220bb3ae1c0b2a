"""What the header of a derived CT image says: the elements that differ from the source, and why."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydicom.dataset import Dataset

from ..errors import BioAttError
from ..provenance import Provenance
from .codestream import join_fragments
from .headers import label, open_dicom, whole_number
from .transcode import set_element

MANUFACTURER = "BioAtt project"
DESCRIPTION_SUFFIX = " BioAtt denoised"
SERIES_NUMBER_STEP = 1000

#: Elements of the source that are not true of the derived image, or no longer true once its pixels are others.
#: Overlays with data of their own (60xx,3000) stay: they lie on the same grid.
_UNTRUE = (
    "InstanceCreatorUID SmallestImagePixelValue LargestImagePixelValue SmallestPixelValueInSeries "
    "LargestPixelValueInSeries SmallestImagePixelValueInPlane LargestImagePixelValueInPlane SmallestValidPixelValue "
    "LargestValidPixelValue IconImageSequence PixelDataProviderURL DigitalSignaturesSequence MACParametersSequence "
    "DataSetTrailingPadding"
).split()

#: Transfer syntaxes that lose detail, or may, with their LossyImageCompressionMethod (PS3.3 C.7.6.1.1.5.1).
#: JPEG-LS near-lossless and the general JPEG 2000 ones can be without loss; what they are cannot be told from
#: outside, and calling a lossless image lossy does less harm than the reverse.
_LOSSY_METHODS = {
    **{f"1.2.840.10008.1.2.4.{n}": "ISO_10918_1" for n in (50, 51, 53, 55)},
    "1.2.840.10008.1.2.4.81": "ISO_14495_1",
    **{f"1.2.840.10008.1.2.4.{n}": "ISO_15444_1" for n in (91, 93)},
    "1.2.840.10008.1.2.4.203": "ISO_15444_15",
}


@dataclass(frozen=True)
class Run:
    """What all images of one derived series share."""

    provenance: Provenance
    series_instance_uid: str
    now: datetime  # aware

    @classmethod
    def start(cls, provenance: Provenance) -> Run:
        """A new series, made now."""
        return cls(provenance, new_uid(), datetime.now().astimezone())


def new_uid() -> str:
    """A new UID, from a UUID below 2.25 (PS3.5 B.2)."""
    from pydicom.uid import generate_uid

    return str(generate_uid(prefix=None))


def describe(derived: Dataset, source: Dataset, file: Path, run: Run) -> None:
    """Change the header copied from `source` into that of the derived image, in place.

    Study, patient, frame of reference, equipment, acquisition and geometry stay as they are.

    Args:
        derived: copy of the source's header in Explicit VR Little Endian, see `transcode`.
        source: the source's header, to be read.
        file: the source's file.
        run: the derived series.
    """
    for keyword in _UNTRUE:
        if keyword in derived:
            del derived[keyword]
    _remove_embedded_overlays(derived)
    _set_identity(derived, source, file, run)
    _set_times(derived, source, file, run)
    _set_derivation(derived, source, file, run)
    _set_lossy(derived, source, file)


def _remove_embedded_overlays(derived: Dataset) -> None:
    """Drop overlays that had their bits in the unused bits of the pixels (retired): those bits are gone."""
    for group in range(0x6000, 0x6020, 2):
        if (group, 0x0010) in derived and (group, 0x3000) not in derived:
            for tag in [tag for tag in derived.keys() if tag.group == group]:
                del derived[tag]


def _set_identity(derived: Dataset, source: Dataset, file: Path, run: Run) -> None:
    set_element(derived, "SOPInstanceUID", "UI", new_uid())
    set_element(derived, "SeriesInstanceUID", "UI", run.series_instance_uid)
    set_element(derived, "ImageType", "CS", _image_type(label(source, "ImageType", file)))
    description = label(source, "SeriesDescription", file)
    if "\ufffd" in description or not description.isprintable():  # could not be read: its bytes are not repeated
        description = ""
    description = description[: 64 - len(DESCRIPTION_SUFFIX)].rstrip()
    set_element(derived, "SeriesDescription", "LO", (description + DESCRIPTION_SUFFIX).strip())
    try:
        number = whole_number(source, "SeriesNumber", file, -(2**31)) + SERIES_NUMBER_STEP
    except BioAttError:  # type 2: may be empty
        number = SERIES_NUMBER_STEP
    set_element(derived, "SeriesNumber", "IS", str(min(number, 2**31 - 1)))


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
    try:
        now = now.astimezone(datetime.strptime(label(source, "TimezoneOffsetFromUTC", file), "%z").tzinfo)
    except ValueError:
        pass
    for what in ("Series", "Content", "InstanceCreation"):
        set_element(derived, f"{what}Date", "DA", now.strftime("%Y%m%d"))
        set_element(derived, f"{what}Time", "TM", now.strftime("%H%M%S.%f"))


def _set_derivation(derived: Dataset, source: Dataset, file: Path, run: Run) -> None:
    """Say what was done, to which image, by what (PS3.3 C.7.6.1.1.3, C.12.4, C.12.1)."""
    provenance = run.provenance
    set_element(derived, "DerivationDescription", "ST", plain(provenance.sentence(), 1024))
    set_element(derived, "DerivationCodeSequence", "SQ", [_code("113087", "Smoothing")])
    image = Dataset()
    image.ReferencedSOPClassUID = label(source, "SOPClassUID", file)
    image.ReferencedSOPInstanceUID = label(source, "SOPInstanceUID", file)
    image.SpatialLocationsPreserved = "YES"
    image.PurposeOfReferenceCodeSequence = [_code("121322", "Source image for image processing operation")]
    set_element(derived, "SourceImageSequence", "SQ", [image])
    device = Dataset()
    device.Manufacturer = MANUFACTURER
    device.ManufacturerModelName = plain(provenance.bundle, 64)
    device.SoftwareVersions = plain(provenance.version, 64)
    device.ContributionDateTime = run.now.strftime("%Y%m%d%H%M%S.%f%z")
    device.ContributionDescription = plain(
        f"CT denoising with {provenance.network}, weights sha256 {provenance.weights_sha256}, "
        f"prior {provenance.prior}: {provenance.prior_model}",
        1024,
    )
    device.PurposeOfReferenceCodeSequence = [_code("109102", "Processing Equipment")]
    if "ContributingEquipmentSequence" in derived:  # those that worked on the source stay
        derived["ContributingEquipmentSequence"].value.append(device)
    else:
        set_element(derived, "ContributingEquipmentSequence", "SQ", [device])


def _set_lossy(derived: Dataset, source: Dataset, file: Path) -> None:
    """Once lossy, always lossy (PS3.3 C.7.6.1.1.5): "01" stays, and is set for a lossy transfer syntax."""
    method = _LOSSY_METHODS.get(str(source.file_meta.get("TransferSyntaxUID")))
    if method is None:
        return
    if label(source, "LossyImageCompression", file) != "01":
        set_element(derived, "LossyImageCompression", "CS", "01")
    if not label(source, "LossyImageCompressionRatio", file):
        bits = whole_number(source, "BitsStored", file)
        plain_bytes = whole_number(source, "Rows", file) * whole_number(source, "Columns", file) * bits / 8
        ratio = plain_bytes / len(join_fragments(open_dicom(file, specific_tags=["PixelData"]).PixelData))
        set_element(derived, "LossyImageCompressionRatio", "DS", f"{ratio:.2f}")
        set_element(derived, "LossyImageCompressionMethod", "CS", method)


def _code(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue = value
    item.CodingSchemeDesignator = "DCM"
    item.CodeMeaning = meaning
    return item


def plain(words: str, limit: int) -> str:
    """`words` in at most `limit` printable ASCII characters without backslash: valid in every character set."""
    ascii_words = words.encode("ascii", "replace").decode("ascii")
    return re.sub(r"[^ -\[\]-~]+", " ", ascii_words).strip()[:limit]
