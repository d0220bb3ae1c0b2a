"""A CT image series, checked to be what the rest of the bundle takes it for."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from ..errors import BioAttError
from .derived import was_denoised
from .enhanced import frame_headers
from .folder import tell_losses
from .geometry import SAME_POSITION_MM, Plane, affine_ras, gaps, heights, is_axial, read_plane
from .headers import is_enhanced, is_lossy, label, numbers
from .padding import is_wrong_padding
from .quantity import check_hu_image
from .scan import Scan, choose, scan, series_number
from .slices import Slice, check_same_grid, what_differs, without_copies

logger = logging.getLogger(__name__)


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
    series, found = [], scan(Path(path), refused=refused)
    for uid in found.series:
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
    uid = choose(found.series, Path(path), series)
    return _build(uid, found, tell, allow_gaps, assume_hu)


def _build(uid: str, scanned: Scan, tell: bool = True, allow_gaps: bool = False, assume_hu: bool = False) -> Series:
    """Check the slices of one series against each other and put them in order."""
    found = scanned.series[uid]
    if not uid:
        raise BioAttError(f"{found[0][0]}: SeriesInstanceUID is missing; export the series again with this element")
    slices = [
        Slice(file, i, header, _checked_plane(header, file, assume_hu))
        for file, image in found
        for i, header in enumerate(frame_headers(image, file))
    ]
    lost = scanned.lost_from(uid)
    if lost and not allow_gaps:
        raise BioAttError(
            f"series {uid}: slices are lost, {tell_losses(lost)}; copy or unpack them again, take out what is "
            "no slice, or go on without them with --allow-gaps"
        )
    check_same_grid(uid, slices)
    slices = without_copies(slices, tell)
    order = np.argsort(heights([one.plane for one in slices]), kind="stable")
    slices = [slices[i] for i in order]
    planes = [one.plane for one in slices]
    for i in np.flatnonzero(np.diff(heights(planes)) < SAME_POSITION_MM):
        one, other = slices[i : i + 2]
        raise BioAttError(
            f"series {uid}: two different slices at one position, {one.name} and {other.name} "
            f"({heights(planes)[i]:.2f} mm){what_differs(one, other)}; keep one image a position (one phase, one "
            "reconstruction)"
        )
    odd = gaps(planes)
    if odd and not allow_gaps:
        cause = (
            f" (perhaps {tell_losses(certain)})" if (certain := [one for one in scanned.losses if one.certain]) else ""
        )
        raise BioAttError(
            f"series {uid}: slices are missing or their spacing changes, {_first_five(odd)}; find the missing slices"
            f"{cause}, or go on with --allow-gaps"
        )
    if tell and lost:
        logger.warning("series %s: slices are lost, %s", uid, tell_losses(lost))
    if tell:
        _warn(uid, slices, odd)
        if any(was_denoised(image) for _, image in found):
            logger.warning("series %s: BioAtt denoised it before; denoise the original, or its detail goes twice", uid)
    file, _, header, plane = slices[0]
    affine = affine_ras(planes, _single_spacing(header, file))
    return Series(
        series_instance_uid=uid,
        files=tuple(one.file for one in slices),
        sop_instance_uids=tuple(one.instance_uid for one in slices),
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


def _warn(uid: str, slices: list[Slice], odd: list[str]) -> None:
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


def _has_wrong_padding(one: Slice) -> bool:
    try:
        return is_wrong_padding(one.header)
    except BioAttError:  # bits are checked when pixels are read
        return False


def _first_five(odd: list[str]) -> str:
    return "; ".join(odd[:5]) + (f" and {len(odd) - 5} more places" if len(odd) > 5 else "")


def _single_spacing(header: Dataset, file: Path) -> float:
    return _length(header, "SpacingBetweenSlices", file) or _length(header, "SliceThickness", file) or 1.0


def _length(header: Dataset, keyword: str, file: Path) -> float | None:
    """A length in mm, None where it is missing, unreadable or 0."""
    try:
        length = abs(float(numbers(header, keyword, 1, file)[0]))
    except BioAttError:
        return None
    return length if length > 0 else None
