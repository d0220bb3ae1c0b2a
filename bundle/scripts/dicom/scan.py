"""Look through a folder for CT images, and say which series they make."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

from pydicom.dataset import Dataset
from pydicom.uid import UID

from ..errors import BioAttError, first_few, printable
from .archive import is_archive
from .dicomdir import listed_images
from .folder import Loss, loss_of, lost_slices, tell_losses, walk
from .headers import (
    CT_IMAGE_STORAGE,
    CUT,
    ENHANCED_CT,
    CutError,
    is_enhanced,
    label,
    open_dicom,
    quiet_pydicom,
    text,
    value,
)
from .instead import instead_of_dicom, instead_of_file

logger = logging.getLogger(__name__)

_KEYWORDS = (
    "ImageType SOPClassUID SOPInstanceUID Modality SeriesDescription PatientID SliceThickness KVP "
    "SpacingBetweenSlices ConvolutionKernel StudyInstanceUID SeriesInstanceUID SeriesNumber ImagePositionPatient "
    "ImageOrientationPatient FrameOfReferenceUID SamplesPerPixel PhotometricInterpretation NumberOfFrames Rows "
    "Columns PixelSpacing BitsStored PixelRepresentation PixelPaddingValue RescaleIntercept RescaleSlope RescaleType "
    "LossyImageCompression SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence "
    "DerivationCodeSequence RealWorldValueMappingSequence AcquisitionNumber AcquisitionTime ContentTime "
    "TemporalPositionIdentifier NominalPercentageOfCardiacPhase ContributingEquipmentSequence TriggerTime FilterType "
    "ScanOptions ContrastBolusAgent ModalityLUTSequence GridFrameOffsetVector FrameIncrementPointer "
    "IrradiationEventUID AcquisitionDateTime ProtocolName ReconstructionDiameter ImagesInAcquisition "
    "ConcatenationUID InConcatenationNumber InConcatenationTotalNumber"
).split()
_CT = ENHANCED_CT | {CT_IMAGE_STORAGE}
_LOCALIZERS = ("LOCALIZER", "SCOUT", "TOPOGRAM", "SCANOGRAM", "SURVIEW")
_MOST_NUMBER = 1e12  # of 12 characters (IS, PS3.5 6.2)
_DICOMDIR = "1.2.840.10008.1.3.10"

Found = tuple[Path, Dataset]  # a file and its header, without the pixels


class OtherSeries(NamedTuple):
    """A series without CT slices.

    Args:
        number: SeriesNumber, None where there is none.
        kind: what they are, in words.
    """

    number: int | None
    images: int
    kind: str


class Scan(NamedTuple):
    """CT images by SeriesInstanceUID, files that may have been some and cannot be read, and the other series."""

    series: dict[str, list[Found]]
    losses: list[Loss]
    others: dict[str, OtherSeries]

    def lost_from(self, uid: str, chosen: set[Path] | None = None) -> list[Loss]:
        """Losses that look like slices of a series, or of those of its files that are `chosen`."""
        owners: dict[Path, set[str]] = {}
        for name, files in self.series.items():
            for file, _ in files:
                owners.setdefault(file.parent, set()).add(name)
        files = [file for file, _ in self.series[uid] if chosen is None or file in chosen]
        return lost_slices(files, self.losses, owners, uid)


def scan(path: Path, tell: bool = True, refused: list[BioAttError] | None = None) -> Scan:
    """Headers of the CT images in `path` by SeriesInstanceUID, ordered by SeriesNumber; localizers left out.

    A DICOMDIR stands for its folder: its records may be out of date, or point elsewhere, and are not followed. Those
    of a series that is here tell which of its images are lost.

    Args:
        path: folder or zip, DICOM file or DICOMDIR.
        tell: log what was left out.
        refused: where files that cannot be read are noted; without it the first one raises.

    Raises:
        BioAttError: nothing there, no CT images, or a damaged file.
    """
    headers, losses, listed = _headers(path, refused)
    cut = [(file, header) for file, header in headers if _is_cut(header)]
    losses += [Loss(file, CUT) for file, _ in cut]
    headers = [one for one in headers if one not in cut]
    images = [(file, header) for file, header in headers if _is_ct(header)]
    if not images and losses and not headers:
        raise BioAttError(f"{path} holds no CT image that can be read: {tell_losses(losses)}; copy it again")
    if not images:
        kinds = Counter(_kind(header) for _, header in headers)
        listing = ", ".join(f"{count} x {kind}" for kind, count in kinds.most_common())
        raise BioAttError(f"{path} holds DICOM but no CT image: {listing}; name a folder with a CT series")
    slices = [(file, header) for file, header in images if not says_localizer(_plain(header, "ImageType"))]
    if not slices:
        raise BioAttError(f"{path} holds only CT localizers (scouts), expected slices; name a folder with a CT series")
    for count, what in (len(headers) - len(images), "not CT"), (len(images) - len(slices), "CT localizers"):
        if count and tell:
            logger.info("%s: left out %d files that are %s", path, count, what)
    if tell and any(loss.certain for loss in losses):
        logger.warning("passed over: %s", tell_losses(loss for loss in losses if loss.certain))
    series: dict[str, list[Found]] = {}
    for file, header in slices:
        series.setdefault(text(header, "SeriesInstanceUID", file), []).append((file, header))
    pages = {uid for uid, files in series.items() if all(is_page(header, file) for file, header in files)}
    if len(pages) < len(series):  # reports and dose sheets in a series of their own
        for uid in pages:
            if tell:
                names = first_few([printable(file) for file, _ in series[uid]])
                logger.warning(
                    "series %s: left out, %d pages in colour or without geometry: %s", uid, len(series[uid]), names
                )
            del series[uid]
    present = {label(header, "SOPInstanceUID", file) for file, header in images}
    losses += [
        Loss(file, "is listed by the DICOMDIR and is not here", series=uid)
        for uid, instance, file in listed
        if uid in series and instance not in present
    ]
    ordered = dict(sorted(series.items(), key=lambda item: (series_number(item[1][0][1]) or 0, item[0])))
    return Scan(ordered, losses, _others(headers, ordered))


def _others(headers: list[Found], series: dict[str, list[Found]]) -> dict[str, OtherSeries]:
    """Series that none of `series` is, ordered as they are."""
    found: dict[str, list[Dataset]] = {}
    for _, header in headers:
        uid = _plain(header, "SeriesInstanceUID")
        if uid not in series:
            found.setdefault(uid, []).append(header)
    return {
        uid: OtherSeries(
            series_number(images[0]), len(images), _kind(images[0]) if not _is_ct(images[0]) else "localizer"
        )
        for uid, images in sorted(found.items(), key=lambda item: (series_number(item[1][0]) or 0, item[0]))
    }


def says_localizer(image_type: str) -> bool:
    """Whether ImageType says that an image is a projection to plan a scan by, in DICOM's word or a vendor's."""
    return any(word in image_type.upper() for word in _LOCALIZERS)


def is_page(header: Dataset, file: object) -> bool:
    """Whether a single-frame image is in colour, of the screen, or lies nowhere: neither position nor orientation.

    What cannot be read counts as being there.
    """
    if is_enhanced(header):
        return False
    is_colour = label(header, "SamplesPerPixel", file) == "3"
    if is_colour or "SCREEN SAVE" in label(header, "ImageType", file).upper():
        return True
    try:
        return all(value(header, one, file) is None for one in ("ImagePositionPatient", "ImageOrientationPatient"))
    except BioAttError:
        return False


def series_number(header: Dataset) -> int | None:
    """SeriesNumber, None where there is none."""
    try:
        number = float(_plain(header, "SeriesNumber"))
    except ValueError:  # missing, or no number
        return None
    return int(number) if number.is_integer() and abs(number) < _MOST_NUMBER else None


def series_table(found: dict[str, list[Found]]) -> Iterator[str]:
    """One line a series for people to choose by."""
    row = "{:>8}  {:<32}  {:>6}  {:>12}  {:<12}  {}"
    yield row.format("number", "description", "images", "thickness mm", "kernel", "SeriesInstanceUID")
    for uid, files in found.items():
        file, header = files[0]
        number = series_number(header)
        images = sum(_frames(header) for _, header in files)
        keywords = ("SeriesDescription", "SliceThickness", "ConvolutionKernel")
        description, thickness, kernel = (printable(label(header, keyword, file)) for keyword in keywords)
        yield row.format(
            "-" if number is None else number, description[:32] or "-", images, thickness or "-", kernel or "-", uid
        )


def _headers(
    path: Path, refused: list[BioAttError] | None
) -> tuple[list[Found], list[Loss], list[tuple[str, str, Path]]]:
    """Headers of the DICOM files in `path`, files that may have been some, and what its DICOMDIRs list."""
    if path.is_file() and not is_archive(path):
        header = _header(path)
        if header is None:
            _refuse_file(path)
        if not _is_dicomdir(header):
            return [(path, header)], [], []
        path = path.parent
    if not path.is_dir() and not is_archive(path):
        what = "is a broken link" if path.is_symlink() else "does not exist"
        raise BioAttError(f"{path} {what}; name a folder with a CT series, or one CT image")
    listing, found, losses, listed = walk(path), [], [], []
    for file in listing.files:
        try:
            header = _header(file)
            loss = loss_of(file) if header is None else None
        except CutError:
            header, loss = None, Loss(file, CUT)
        except BioAttError as error:
            if refused is None:
                raise
            refused.append(error)
            continue
        if loss is not None:
            losses.append(loss)
        elif header is not None and _is_dicomdir(header):
            listed += listed_images(file)
        elif header is not None:
            found.append((file, header))
    losses += listing.losses
    if not found:
        certain = [loss for loss in losses if loss.certain]
        raise BioAttError(f"{path}: {instead_of_dicom(path, listing._replace(losses=certain))}")
    return found, losses, listed


def _refuse_file(path: Path) -> NoReturn:
    """Say what a file is that is not DICOM."""
    loss = loss_of(path)
    if loss is not None and loss.certain:
        raise BioAttError(f"{path} is not a DICOM file, it {loss.what}; copy it again")
    what = instead_of_file(path) or "is not a DICOM file; name a folder with a CT series, or one CT image"
    raise BioAttError(f"{path} {what}")


def _header(file: Path) -> Dataset | None:
    return open_dicom(file, stop_before_pixels=True, specific_tags=_KEYWORDS)


def _is_dicomdir(header: Dataset) -> bool:
    return _plain(header.file_meta, "MediaStorageSOPClassUID") == _DICOMDIR


def _is_cut(header: Dataset) -> bool:
    """Whether a file ends before it says what it is, or, of a CT image, before its pixels are described."""
    last = max((tag.group for tag in header.keys()), default=0)
    sop_class = _sop_class(header)
    if sop_class not in _CT and _class_name(sop_class) != sop_class:  # of another kind
        return False
    return last < (0x0028 if sop_class in _CT else 0x0020)


def _is_ct(header: Dataset) -> bool:
    # Else it is PET, MR and more in a CT's clothes.
    return _sop_class(header) in _CT and _plain(header, "Modality").upper() in ("", "CT")


def _kind(header: Dataset) -> str:
    sop_class = _sop_class(header)
    name = _class_name(sop_class) or "no SOPClassUID"
    return f"{printable(_plain(header, 'Modality')) or 'no Modality'} ({printable(name)})"


def _sop_class(header: Dataset) -> str:
    return _plain(header, "SOPClassUID") or _plain(header.file_meta, "MediaStorageSOPClassUID")


def _class_name(sop_class: str) -> str:
    """Name of a SOP class; the UID itself where it is none that pydicom knows."""
    with quiet_pydicom():
        return UID(sop_class).name


def _frames(header: Dataset) -> int:
    frames = _plain(header, "NumberOfFrames")
    return int(frames) if frames.isdecimal() else 1


def _plain(header: Dataset, keyword: str) -> str:
    return label(header, keyword, "")
