"""A CT image series, checked to be what the rest of the bundle takes it for."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydicom.dataset import Dataset

from ..errors import BioAttError
from .enhanced import frame_headers
from .geometry import SAME_POSITION_MM, UNIT_TOLERANCE, Plane, affine_ras, gaps, heights, is_axial, read_plane
from .headers import check_hu_image, is_enhanced, is_lossy, label, numbers, text
from .padding import is_wrong_padding
from .scan import Found, choose, scan, series_number

logger = logging.getLogger(__name__)


#: Elements that all images of a series share (PS3.3 A.1.2), besides their grid.
_SHARED = ("PatientID", "StudyInstanceUID", "FrameOfReferenceUID")


class _Slice(NamedTuple):
    file: Path
    frame: int
    header: Dataset
    plane: Plane


@dataclass(frozen=True, eq=False)
class Series:
    """One CT image series on disk, its slices sorted by position.

    Slices are ordered along their normal, whose largest component is positive in LPS: an axial series runs from
    inferior to superior, whatever the file order, the patient's position or the direction of rows and columns.

    Args:
        series_instance_uid: SeriesInstanceUID.
        files: the file of each slice; frames of an Enhanced CT image share one.
        sop_instance_uids: SOPInstanceUID of each slice.
        rows: pixels down.
        columns: pixels across.
        affine: 4x4, index (column, row, slice) to RAS mm, the convention of nibabel and MONAI.
        spacing: mm between columns, rows and slices, in the order of `affine`.
        is_axial: whether the slices lie across the body axis.
        frames: frame of each slice in its file, from 0.
        is_enhanced: whether the images are Enhanced CT, of many frames each.
        gaps: where the spacing of slices is not the usual one, in words.
        series_number: SeriesNumber, None where there is none.
        description: SeriesDescription, "" where there is none.
        kernel: ConvolutionKernel, "" where there is none.
        slice_thickness_mm: SliceThickness, None where it is not known.
        frame_of_reference_uid: FrameOfReferenceUID, "" where there is none.
    """

    series_instance_uid: str
    files: tuple[Path, ...]
    sop_instance_uids: tuple[str, ...]
    rows: int
    columns: int
    affine: np.ndarray
    spacing: tuple[float, float, float]
    is_axial: bool
    frames: tuple[int, ...]
    is_enhanced: bool = False
    gaps: tuple[str, ...] = ()
    series_number: int | None = None
    description: str = ""
    kernel: str = ""
    slice_thickness_mm: float | None = None
    frame_of_reference_uid: str = ""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(slices, rows, columns), the shape of `read_volume`."""
        return len(self.files), self.rows, self.columns

    @property
    def slice_names(self) -> tuple[str, ...]:
        """Each slice's SOPInstanceUID; of an enhanced image's frame, UID/frames/NUMBER as in PS3.18 10.4.1."""
        if not self.is_enhanced:
            return self.sop_instance_uids
        return tuple(f"{uid}/frames/{i + 1}" for uid, i in zip(self.sop_instance_uids, self.frames, strict=True))

    def by_file(self) -> dict[Path, dict[int, int]]:
        """For each file, which slice each of its frames is."""
        slices: dict[Path, dict[int, int]] = {}
        for i, (file, frame) in enumerate(zip(self.files, self.frames, strict=True)):
            slices.setdefault(file, {})[frame] = i
        return slices


def find_series(path: str | os.PathLike[str], refused: list[BioAttError] | None = None) -> list[Series]:
    """All CT image series in a folder, or the one slice in a file.

    Only headers are read. A folder is searched recursively, whatever the file names; hidden files and files that
    are not DICOM are passed over. Localizers (scouts), other modalities and second copies of a slice are left out,
    which is logged. Gaps between slices are logged and noted in the series.

    Args:
        path: folder, one DICOM file (a series of this slice alone), or a DICOMDIR (its folder).
        refused: where files and series that cannot be used are noted, so that the others are returned. Without it
            the first one raises.

    Returns:
        The series, sorted by SeriesNumber, then SeriesInstanceUID.

    Raises:
        BioAttError: nothing there, no CT images, or a series that is not what `Series` promises.
    """
    series = []
    for uid, found in scan(Path(path), refused=refused).items():
        try:
            series.append(_build(uid, found, allow_gaps=True))
        except BioAttError as error:
            if refused is None:
                raise
            refused.append(error)
    return series


def select_series(
    path: str | os.PathLike[str],
    series: str | None = None,
    *,
    tell: bool = True,
    allow_gaps: bool = False,
    assume_hu: bool = False,
) -> Series:
    """The one series in `path`, or the one that `series` names; the others there are not checked.

    Args:
        path: folder, one DICOM file, or a DICOMDIR (its folder).
        series: SeriesInstanceUID or SeriesNumber.
        tell: log what is unusual; for a second look at the same series it was told already.
        allow_gaps: go on where slices are missing or their spacing changes.
        assume_hu: take values as HU where RescaleType is US (unspecified).

    Raises:
        BioAttError: several series and none named, no series of that name, or see `find_series`.
    """
    found = scan(Path(path), tell)
    uid = choose(found, Path(path), series)
    return _build(uid, found[uid], tell, allow_gaps, assume_hu)


def _build(
    uid: str, found: list[Found], tell: bool = True, allow_gaps: bool = False, assume_hu: bool = False
) -> Series:
    """Check the slices of one series against each other and put them in order."""
    if not uid:
        raise BioAttError(f"{found[0][0]}: SeriesInstanceUID is missing; export the series again with this element")
    slices = [
        _Slice(file, i, header, _checked_plane(header, file, assume_hu))
        for file, image in found
        for i, header in enumerate(frame_headers(image, file))
    ]
    _check_same_grid(uid, slices)
    slices = _without_copies(slices, tell)
    order = np.argsort(heights([one.plane for one in slices]), kind="stable")
    slices = [slices[i] for i in order]
    planes = [one.plane for one in slices]
    for i in np.flatnonzero(np.diff(heights(planes)) < SAME_POSITION_MM):
        raise BioAttError(
            f"series {uid}: two different slices at one position, {_name(slices[i])} and {_name(slices[i + 1])} "
            f"({heights(planes)[i]:.2f} mm); keep one image a position (one phase, one reconstruction)"
        )
    odd = gaps(planes)
    if odd and not allow_gaps:
        raise BioAttError(
            f"series {uid}: slices are missing or their spacing changes, {_first_five(odd)}; find the missing slices, "
            "or go on with --allow-gaps"
        )
    if tell:
        _warn(uid, slices, odd)
    file, _, header, plane = slices[0]
    affine = affine_ras(planes, _single_spacing(header, file))
    return Series(
        series_instance_uid=uid,
        files=tuple(one.file for one in slices),
        sop_instance_uids=tuple(_instance_uid(one) for one in slices),
        rows=plane.shape[0],
        columns=plane.shape[1],
        affine=affine,
        spacing=tuple(float(length) for length in np.linalg.norm(affine[:3, :3], axis=0)),
        is_axial=is_axial(plane.orientation),
        frames=tuple(one.frame for one in slices),
        is_enhanced=is_enhanced(header),
        gaps=tuple(odd),
        series_number=series_number(header),
        description=label(header, "SeriesDescription", file),
        kernel=label(header, "ConvolutionKernel", file),
        slice_thickness_mm=_length(header, "SliceThickness", file),
        frame_of_reference_uid=label(header, "FrameOfReferenceUID", file),
    )


def _checked_plane(header: Dataset, file: Path, assume_hu: bool) -> Plane:
    check_hu_image(header, file)
    if label(header, "RescaleType", file).upper() == "US" and not assume_hu:
        raise BioAttError(
            f"{file}: RescaleType is US (unspecified), wanted HU; if you know that its values are HU, go on with "
            "--assume-hu"
        )
    return read_plane(header, file)


def _check_same_grid(uid: str, slices: list[_Slice]) -> None:
    """Raise where a slice differs from the first in patient, study, shape, spacing, orientation or reference."""
    first = slices[0]
    whose = [label(first.header, keyword, first.file) for keyword in _SHARED]
    for one in slices[1:]:
        for keyword, shared in zip(_SHARED, whose, strict=True):
            if label(one.header, keyword, one.file) != shared:  # the values are nobody's business
                raise BioAttError(
                    f"series {uid}: {keyword} differs between {_name(first)} and {_name(one)}; "
                    "put slices of one scan in a folder"
                )
        pairs = {
            "SOPClassUID": (is_enhanced(first.header), is_enhanced(one.header), 0),
            "Rows": (first.plane.shape[0], one.plane.shape[0], 0),
            "Columns": (first.plane.shape[1], one.plane.shape[1], 0),
            "PixelSpacing": (first.plane.spacing, one.plane.spacing, 1e-4 * float(first.plane.spacing.max())),
            "ImageOrientationPatient": (first.plane.orientation, one.plane.orientation, UNIT_TOLERANCE),
        }
        for keyword, (ours, other, tolerance) in pairs.items():
            if np.abs(np.asarray(ours, dtype=float) - np.asarray(other, dtype=float)).max() > tolerance:
                raise BioAttError(
                    f"series {uid}: {keyword} differs, {np.asarray(ours).tolist()} in {_name(first)} but "
                    f"{np.asarray(other).tolist()} in {_name(one)}; put slices of one kind in a folder"
                )


def _without_copies(slices: list[_Slice], tell: bool) -> list[_Slice]:
    """Take each SOPInstanceUID (and frame) once; raise if it stands for slices at different places."""
    taken: dict[tuple[str, int], _Slice] = {}
    for one in slices:
        uid = _instance_uid(one)
        other = taken.setdefault((uid, one.frame), one)
        if np.abs(other.plane.position - one.plane.position).max() > SAME_POSITION_MM:
            raise BioAttError(
                f"SOPInstanceUID {uid} stands for two slices at different positions, {_name(other)} and "
                f"{_name(one)}; export the series again"
            )
    if len(taken) < len(slices) and tell:
        logger.warning("left out %d files that are second copies of a slice", len(slices) - len(taken))
    return list(taken.values())


def _warn(uid: str, slices: list[_Slice], odd: list[str]) -> None:
    """Log what is unusual but can be worked with."""
    if odd:
        logger.warning("series %s: irregular slice spacing, %s", uid, _first_five(odd))
    if any(label(one.header, "RescaleType", one.file).upper() == "US" for one in slices):
        logger.warning("series %s: RescaleType is US (unspecified); its values are taken as HU", uid)
    if any(label(one.header, "PhotometricInterpretation", one.file) == "MONOCHROME1" for one in slices):
        logger.warning("series %s: MONOCHROME1 is about display only; its values are taken as HU, not inverted", uid)
    if any(is_lossy(one.header, one.file) for one in slices):
        logger.warning("series %s: lossy compressed; its noise and detail are not those of the scanner", uid)
    if any(_has_wrong_padding(one) for one in slices):
        logger.warning("series %s: PixelPaddingValue is a value that tissue has; it is ignored", uid)


def _has_wrong_padding(one: _Slice) -> bool:
    try:
        return is_wrong_padding(one.header)
    except BioAttError:  # bits are checked when pixels are read
        return False


def _first_five(odd: list[str]) -> str:
    return "; ".join(odd[:5]) + (f" and {len(odd) - 5} more places" if len(odd) > 5 else "")


def _name(one: _Slice) -> str:
    return f"{one.file}, frame {one.frame + 1}" if is_enhanced(one.header) else str(one.file)


def _instance_uid(one: _Slice) -> str:
    found = text(one.header, "SOPInstanceUID", one.file)
    if not found:
        raise BioAttError(f"{one.file}: SOPInstanceUID is missing; export the series again with this element")
    return found


def _single_spacing(header: Dataset, file: Path) -> float:
    return _length(header, "SpacingBetweenSlices", file) or _length(header, "SliceThickness", file) or 1.0


def _length(header: Dataset, keyword: str, file: Path) -> float | None:
    """A length in mm, None where it is missing, unreadable or 0."""
    try:
        length = abs(float(numbers(header, keyword, 1, file)[0]))
    except BioAttError:
        return None
    return length if length > 0 else None
