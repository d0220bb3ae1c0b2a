"""One slice of a series, and how the slices of a series are checked against each other."""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydicom.dataset import Dataset

from ..errors import BioAttError
from .archive import open_raw
from .geometry import Plane, same_position_mm
from .headers import has_frames, is_enhanced, label, text
from .isolated import have_same_hu_isolated

logger = logging.getLogger(__name__)

#: Elements that all images of a scan share (PS3.3 A.1.2), besides its patient and grid. Some programs that remove
#: identities draw them anew for each file; positions then tell that it is one scan.
IDENTITIES = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
_SAME_DIRECTION = 1e-3  # difference of direction cosines


class Slice(NamedTuple):
    """An image, or a frame of an enhanced one: header as of `frame_headers`."""

    file: Path
    frame: int
    header: Dataset
    plane: Plane

    @property
    def name(self) -> str:
        """Its file and frame, for a message."""
        return f"{self.file}, frame {self.frame + 1}" if has_frames(self.header) else str(self.file)

    @property
    def instance_uid(self) -> str:
        """SOPInstanceUID.

        Raises:
            BioAttError: it is missing.
        """
        found = text(self.header, "SOPInstanceUID", self.file)
        if not found:
            raise BioAttError(f"{self.file}: SOPInstanceUID is missing; export the series again with this element")
        return found


def check_same_grid(uid: str, slices: Sequence[Slice]) -> dict[str, tuple[str, str]]:
    """Raise where a slice differs from the first in patient, shape, spacing or orientation.

    Returns:
        Of `IDENTITIES`, those in which slices differ, with the names of the first two that do.
    """
    first, differing = slices[0], {}
    whose = {keyword: label(first.header, keyword, first.file) for keyword in ("PatientID", *IDENTITIES)}
    for one in slices[1:]:
        for keyword, shared in whose.items():
            if label(one.header, keyword, one.file) != shared:  # the values are nobody's business
                differing.setdefault(keyword, (first.name, one.name))
        if "PatientID" in differing:
            raise BioAttError(
                f"series {uid}: PatientID differs between {first.name} and {one.name}; put slices of one scan in a "
                "folder"
            )
        if is_enhanced(first.header) != is_enhanced(one.header):
            raise BioAttError(
                f"series {uid}: SOPClassUID differs between {first.name} and {one.name}, one is Enhanced CT; put "
                "slices of one kind in a folder"
            )
        pairs = {
            "Rows": (first.plane.shape[0], one.plane.shape[0], 0),
            "Columns": (first.plane.shape[1], one.plane.shape[1], 0),
            "PixelSpacing": (first.plane.spacing, one.plane.spacing, 1e-4 * float(first.plane.spacing.max())),
            "ImageOrientationPatient": (first.plane.orientation, one.plane.orientation, _SAME_DIRECTION),
        }
        for keyword, (ours, other, tolerance) in pairs.items():
            if np.abs(np.asarray(ours, dtype=float) - np.asarray(other, dtype=float)).max() > tolerance:
                raise BioAttError(
                    f"series {uid}: {keyword} differs, {np.asarray(ours).tolist()} in {first.name} but "
                    f"{np.asarray(other).tolist()} in {one.name}; put slices of one kind in a folder"
                )
    return differing


def without_copies(slices: Sequence[Slice], tell: bool) -> list[Slice]:
    """Take each SOPInstanceUID (and frame) once; raise if it stands for images that differ in place or HU."""
    taken: dict[tuple[str, int], Slice] = {}
    copies: dict[tuple[Path, Path], str] = {}
    for one in slices:
        uid = one.instance_uid
        other = taken.setdefault((uid, one.frame), one)
        if np.abs(other.plane.position - one.plane.position).max() > same_position_mm([one.plane]):
            raise BioAttError(
                f"SOPInstanceUID {uid} stands for two slices at different positions, {other.name} and "
                f"{one.name}; export the series again"
            )
        if other is not one:
            copies[other.file, one.file] = uid
    others = [pair for pair in copies if not _hold_the_same_bytes(*pair)]  # in another encoding, perhaps
    for (first, second), same in zip(others, have_same_hu_isolated(others) if others else [], strict=True):
        if not same:
            raise BioAttError(
                f"SOPInstanceUID {copies[first, second]} stands for two images with different HU, {first} and "
                f"{second}; keep the right one"
            )
    if copies and tell:
        logger.warning("left out %d files that are second copies of a slice", len(copies))
    return list(taken.values())


def _hold_the_same_bytes(first: Path, second: Path) -> bool:
    (one, size), (other, other_size) = open_raw(first), open_raw(second)
    with io.BufferedReader(one) as one_stream, io.BufferedReader(other) as other_stream:
        return size == other_size and one_stream.read() == other_stream.read()
