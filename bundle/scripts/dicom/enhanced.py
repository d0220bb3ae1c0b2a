"""Frames of an Enhanced CT image, each as a header of its own that reads like one of a single-frame CT image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from ..errors import BioAttError
from .headers import is_enhanced, items, label, numbers, text, value, whole_number

MAX_FRAMES = 1 << 16  # of CT Image Storage
#: What FrameIncrementPointer names where frames follow in space: GridFrameOffsetVector, SliceLocation, its vector, and
#: SpacingBetweenSlices or ImagePositionPatient, which some programs put there.
_PLACES = ("(3004,000C)", "(3004,000c)", "(0020,1041)", "(0018,2005)", "(0018,0088)", "(0020,0032)")
_CONCATENATION = (
    "ConcatenationUID SOPInstanceUIDOfConcatenationSource InConcatenationNumber InConcatenationTotalNumber "
    "ConcatenationFrameOffsetNumber"
).split()

#: Functional groups (PS3.3 C.7.6.16.2 and C.8.15.3) and what is taken from them.
_GROUPS = {
    "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelValueTransformationSequence": ("RescaleIntercept", "RescaleSlope", "RescaleType"),
    "CTReconstructionSequence": ("ConvolutionKernel", "ReconstructionDiameter"),
    "CTImageFrameTypeSequence": ("FrameType",),
    "DerivationImageSequence": ("DerivationCodeSequence",),
    "FrameContentSequence": ("StackID", "TemporalPositionIndex", "FrameAcquisitionNumber"),
    "CardiacSynchronizationSequence": ("NominalPercentageOfCardiacPhase",),
    "CTXRayDetailsSequence": ("KVP", "FilterType"),
}


def frame_headers(dataset: Dataset, where: Path) -> list[Dataset]:
    """One header a frame: the image's own elements, and those of its functional groups lifted out.

    What stands for a frame goes before what all frames share. FrameType becomes ImageType. A single-frame image is
    its own only header.

    Raises:
        BioAttError: several frames that nothing places, or functional groups that do not fit NumberOfFrames.
    """
    frames = 1 if value(dataset, "NumberOfFrames", where) is None else whole_number(dataset, "NumberOfFrames", where)
    if frames == 0 and not is_enhanced(dataset):  # some programs write it into single-frame images
        frames = 1
    has_groups = bool(items(dataset, "PerFrameFunctionalGroupsSequence", where))
    if not is_enhanced(dataset) and not (frames > 1 and has_groups):
        return [dataset] if frames == 1 else _placed_frames(dataset, frames, where)
    own = items(dataset, "PerFrameFunctionalGroupsSequence", where)
    if frames < 1 or len(own) != frames:
        raise BioAttError(
            f"{where}: NumberOfFrames is {frames}, but PerFrameFunctionalGroupsSequence has {len(own)} items; "
            "export the image again"
        )
    shared = items(dataset, "SharedFunctionalGroupsSequence", where) or [Dataset()]
    label(dataset, "SeriesDescription", where)  # decoded here, where its character set is known
    common = _lift(shared[0], _before_pixels(dataset), where)
    return [_lift(groups, _before_pixels(common), where) for groups in own]


def keep_frames(dataset: Dataset, frames: Sequence[int]) -> None:
    """Leave all but these frames, counted from 0, out of the header of an image, in place.

    A part of a concatenation whose frames are not all there is none (PS3.3 C.7.6.16.2.2.4), and a
    RepresentativeFrameNumber counts the frames that were there.
    """
    own = dataset["PerFrameFunctionalGroupsSequence"].value
    if len(frames) == len(own):
        return
    dataset["PerFrameFunctionalGroupsSequence"].value = [own[i] for i in frames]
    dataset.NumberOfFrames = len(frames)
    for keyword in (*_CONCATENATION, "RepresentativeFrameNumber"):
        dataset.pop(keyword, None)


def _placed_frames(dataset: Dataset, frames: int, where: Path) -> list[Dataset]:
    """Frames of CT Image Storage, which should have one; dental scanners and workstations write several all the same.

    They follow each other along the normal (rows x columns) of the first, by GridFrameOffsetVector or
    SpacingBetweenSlices.
    """
    pointers = text(dataset, "FrameIncrementPointer", where)
    if pointers and not any(pointer in pointers for pointer in _PLACES):
        raise BioAttError(
            f"{where}: NumberOfFrames is {frames} in CT Image Storage, and its frames follow each other by "
            f"{pointers} (FrameIncrementPointer), not in space; take images of one time, each a file or an Enhanced CT"
        )
    offsets = _frame_offsets(dataset, frames, where)
    if offsets is None:
        raise BioAttError(
            f"{where}: NumberOfFrames is {frames} in CT Image Storage, and nothing says where its frames lie (no "
            "SpacingBetweenSlices, no GridFrameOffsetVector); convert the image to Enhanced CT or to single frames"
        )
    first = numbers(dataset, "ImagePositionPatient", 3, where)
    orientation = numbers(dataset, "ImageOrientationPatient", 6, where)
    normal = np.cross(orientation[:3], orientation[3:])
    headers = []
    for offset in offsets:
        header = _before_pixels(dataset)
        position = [round(float(one), 6) for one in first + offset * normal]
        header["ImagePositionPatient"] = DataElement("ImagePositionPatient", "DS", list(map(str, position)))
        headers.append(header)
    return headers


def _frame_offsets(dataset: Dataset, frames: int, where: Path) -> np.ndarray | None:
    """Way of each frame along the normal in mm; None where it is not known."""
    if frames < 1 or frames > MAX_FRAMES:
        return None
    try:
        along = numbers(dataset, "GridFrameOffsetVector", frames, where)
    except BioAttError:
        try:
            along = np.arange(frames) * numbers(dataset, "SpacingBetweenSlices", 1, where)[0]
        except BioAttError:
            return None
    return along - along[0] if np.all(np.diff(along) != 0) else None


def _before_pixels(dataset: Dataset) -> Dataset:
    """A header with the elements of `dataset`, not decoded, up to the functional groups of frames."""
    header = Dataset()
    header.update({tag: dataset.get_item(tag) for tag in dataset.keys() if tag.group < 0x5200})
    header.file_meta = dataset.file_meta
    return header


def _lift(groups: Dataset, header: Dataset, where: Path) -> Dataset:
    """Put the elements of functional groups into `header`, and return it."""
    if items(groups, "RealWorldValueMappingSequence", where):  # a group that single-frame images have as it is
        header["RealWorldValueMappingSequence"] = groups["RealWorldValueMappingSequence"]
    for group, keywords in _GROUPS.items():
        for item in items(groups, group, where)[:1]:
            for keyword in keywords:
                if keyword == "FrameType" and keyword in item:
                    header["ImageType"] = DataElement("ImageType", "CS", text(item, keyword, where).split("\\"))
                elif value(item, keyword, where) is not None:
                    header[keyword] = item[keyword]
    return header
