"""Frames of an Enhanced CT image, each as a header of its own that reads like one of a single-frame CT image."""

from __future__ import annotations

from pathlib import Path

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from ..errors import BioAttError
from .headers import is_enhanced, items, label, text, value, whole_number

#: Functional groups (PS3.3 C.7.6.16.2 and C.8.15.3) and what is taken from them.
_GROUPS = {
    "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelValueTransformationSequence": ("RescaleIntercept", "RescaleSlope", "RescaleType"),
    "CTReconstructionSequence": ("ConvolutionKernel",),
    "CTImageFrameTypeSequence": ("FrameType",),
    "DerivationImageSequence": ("DerivationCodeSequence",),
    "FrameContentSequence": ("TemporalPositionIndex", "FrameAcquisitionNumber"),
}


def frame_headers(dataset: Dataset, where: Path) -> list[Dataset]:
    """One header a frame: the image's own elements, and those of its functional groups lifted out.

    What stands for a frame goes before what all frames share. FrameType becomes ImageType. A single-frame image is
    its own only header.

    Raises:
        BioAttError: several frames in a class that has one, or functional groups that do not fit NumberOfFrames.
    """
    frames = 1 if value(dataset, "NumberOfFrames", where) is None else whole_number(dataset, "NumberOfFrames", where)
    if not is_enhanced(dataset):
        if frames != 1:
            raise BioAttError(
                f"{where}: NumberOfFrames is {frames} in CT Image Storage, which has one; "
                "convert the image to Enhanced CT or to single frames"
            )
        return [dataset]
    own = items(dataset, "PerFrameFunctionalGroupsSequence", where)
    if frames < 1 or len(own) != frames:
        raise BioAttError(
            f"{where}: NumberOfFrames is {frames}, but PerFrameFunctionalGroupsSequence has {len(own)} items; "
            "export the image again"
        )
    shared = items(dataset, "SharedFunctionalGroupsSequence", where) or [Dataset()]
    label(dataset, "SeriesDescription", where)  # decoded here, where its character set is known
    common = Dataset()
    common.update({tag: dataset.get_item(tag) for tag in dataset.keys() if tag.group < 0x5200})
    _lift(shared[0], common, where)
    headers = []
    for groups in own:
        header = Dataset()
        header.update(common)
        header.file_meta = dataset.file_meta
        _lift(groups, header, where)
        headers.append(header)
    return headers


def _lift(groups: Dataset, header: Dataset, where: Path) -> None:
    """Put the elements of functional groups into `header`."""
    if items(groups, "RealWorldValueMappingSequence", where):  # a group that single-frame images have as it is
        header["RealWorldValueMappingSequence"] = groups["RealWorldValueMappingSequence"]
    for group, keywords in _GROUPS.items():
        for item in items(groups, group, where)[:1]:
            for keyword in keywords:
                if keyword == "FrameType" and keyword in item:
                    header["ImageType"] = DataElement("ImageType", "CS", text(item, keyword, where).split("\\"))
                elif value(item, keyword, where) is not None:
                    header[keyword] = item[keyword]
