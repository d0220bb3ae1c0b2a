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
from .processes import have_same_hu_isolated

logger = logging.getLogger(__name__)

#: Elements that all images of a scan share (PS3.3 A.1.2), besides its patient and grid. Some programs that remove
#: identities draw them anew for each file; positions then tell that it is one scan.
IDENTITIES = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
_LEAST_SLICES = 4  # of as many PatientIDs, to be believed one patient
_SAME_DIRECTION = 1e-3  # difference of direction cosines


class Image(NamedTuple):
    """An image, or a frame of an enhanced one: header as of `frame_headers`."""

    file: Path
    frame: int
    header: Dataset

    @property
    def name(self) -> str:
        """Its file, and its frame where it has several, for a message."""
        return f"{self.file}, frame {self.frame + 1}" if has_frames(self.header) else str(self.file)


class Slice(NamedTuple):
    """An `Image`, and where it lies."""

    file: Path
    frame: int
    header: Dataset
    plane: Plane

    name = Image.name

    @property
    def instance_uid(self) -> str:
        """SOPInstanceUID, "" where it is missing."""
        return text(self.header, "SOPInstanceUID", self.file)


def check_same_grid(uid: str, slices: Sequence[Slice]) -> dict[str, str]:
    """Raise where a slice differs from the first in patient, shape, spacing or orientation.

    Returns:
        Of PatientID and `IDENTITIES`, those in which slices differ, with words that name the first two that do. A
        PatientID does only where each file has one of its own: two patients are never one scan.
    """
    first, differing = slices[0], {}
    whose = {keyword: label(first.header, keyword, first.file) for keyword in ("PatientID", *IDENTITIES)}
    files = {one.file: label(one.header, "PatientID", one.file) for one in slices}
    own = len(set(files.values())) == len(files) >= _LEAST_SLICES
    for one in slices[1:]:
        for keyword, shared in whose.items():
            if label(one.header, keyword, one.file) != shared:  # the values are nobody's business
                differing.setdefault(keyword, f"{keyword} differs between {first.name} and {one.name}")
        if "PatientID" in differing and not own:
            raise BioAttError(
                f"series {uid}: {differing['PatientID']}; put each patient's slices in a folder, or, if they are one "
                "patient's, write the same PatientID into all"
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


def without_copies(slices: Sequence[Slice], differing: dict[str, str], tell: bool) -> list[Slice]:
    """Take each SOPInstanceUID (and frame) once; raise if it stands for images at one place that differ in HU.

    Where it is missing, or stands for slices at different places, it names none: those are noted in `differing`, and
    all of them are taken.
    """
    taken: dict[tuple[str, int], Slice] = {}
    copies: dict[tuple[Path, Path], str] = {}
    for one in slices:
        uid = one.instance_uid
        other = taken.setdefault((uid or str(one.file), one.frame), one)
        if not uid:
            differing.setdefault("SOPInstanceUID", f"SOPInstanceUID is missing, e.g. from {one.name}")
        elif np.abs(other.plane.position - one.plane.position).max() > same_position_mm([one.plane]):
            shared = f"SOPInstanceUID stands for slices at different positions, e.g. {other.name} and {one.name}"
            differing.setdefault("SOPInstanceUID", shared)
            taken[f"{uid} {one.file}", one.frame] = one
        elif other is not one:
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
