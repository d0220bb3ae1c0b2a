"""Which images a DICOMDIR says there are (PS3.3 F.3): one that is not found was lost on the way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..errors import BioAttError
from .headers import items, label, open_dicom


def listed_images(dicomdir: Path) -> Iterator[tuple[str, str, Path]]:
    """SeriesInstanceUID, SOPInstanceUID and place of each image that a DICOMDIR lists; none where it is damaged."""
    try:
        records = items(open_dicom(dicomdir) or {}, "DirectoryRecordSequence", dicomdir)
    except BioAttError:  # the files themselves are what counts
        return
    series = ""
    for record in records:
        kind = label(record, "DirectoryRecordType", dicomdir)
        if kind in ("PATIENT", "STUDY", "SERIES"):
            series = label(record, "SeriesInstanceUID", dicomdir)
        instance = label(record, "ReferencedSOPInstanceUIDInFile", dicomdir)
        if kind == "IMAGE" and series and instance:
            yield series, instance, dicomdir.parent.joinpath(*label(record, "ReferencedFileID", dicomdir).split("\\"))
