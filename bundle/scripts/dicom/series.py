"""Find CT image series on disk and check that they are what the rest of the bundle takes them for."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import UID

from ..errors import BioAttError
from .geometry import SAME_POSITION_MM, UNIT_TOLERANCE, Plane, affine_ras, gaps, heights, is_axial, read_plane
from .headers import CT_IMAGE_STORAGE, ENHANCED_CT, check_hu_image, label, numbers, open_dicom, text

logger = logging.getLogger(__name__)

_KEYWORDS = (
    "ImageType SOPClassUID SOPInstanceUID Modality SeriesDescription SliceThickness KVP SpacingBetweenSlices "
    "ConvolutionKernel StudyInstanceUID SeriesInstanceUID SeriesNumber ImagePositionPatient ImageOrientationPatient "
    "FrameOfReferenceUID SamplesPerPixel PhotometricInterpretation NumberOfFrames Rows Columns PixelSpacing "
    "RescaleIntercept RescaleSlope RescaleType"
).split()

_Found = tuple[Path, Dataset]


@dataclass(frozen=True, eq=False)
class Series:
    """One CT image series on disk, its slices sorted by position.

    Slices are ordered along their normal, whose largest component is positive in LPS: an axial series runs from
    inferior to superior, whatever the file order, the patient's position or the direction of rows and columns.

    Args:
        series_instance_uid: SeriesInstanceUID.
        files: one file a slice.
        sop_instance_uids: SOPInstanceUID of each slice.
        rows: pixels down.
        columns: pixels across.
        affine: 4x4, index (column, row, slice) to RAS mm, the convention of nibabel and MONAI.
        spacing: mm between columns, rows and slices, in the order of `affine`.
        is_axial: whether the slices lie across the body axis.
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
    description: str = ""
    kernel: str = ""
    slice_thickness_mm: float | None = None
    frame_of_reference_uid: str = ""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(slices, rows, columns), the shape of `read_volume`."""
        return len(self.files), self.rows, self.columns


def find_series(path: str | os.PathLike[str], refused: list[BioAttError] | None = None) -> list[Series]:
    """All CT image series in a folder, or the one slice in a file.

    Only headers are read. A folder is searched recursively, whatever the file names; hidden files and files that
    are not DICOM are passed over. Localizers (scouts), other modalities and second copies of a slice are left out,
    which is logged.

    Args:
        path: folder, or one DICOM file: then a series of this slice alone.
        refused: where series that cannot be used are noted, so that the others are returned. Without it the
            first such series raises.

    Returns:
        The series, sorted by SeriesNumber, then SeriesInstanceUID.

    Raises:
        BioAttError: nothing there, no CT images, or a series that is not what `Series` promises.
    """
    found = []
    for uid, slices in _scan(Path(path)).items():
        try:
            found.append(_build(uid, slices))
        except BioAttError as error:
            if refused is None:
                raise
            refused.append(error)
    return found


def select_series(path: str | os.PathLike[str], series_uid: str | None = None, *, tell: bool = True) -> Series:
    """The one series in `path`, or the one named `series_uid`; the others there are not checked.

    Args:
        path: folder, or one DICOM file.
        series_uid: SeriesInstanceUID.
        tell: log what is unusual; for a second look at the same series it was told already.

    Raises:
        BioAttError: several series and none named, no series of that name, or see `find_series`.
    """
    found = _scan(Path(path), tell)
    if series_uid is None and len(found) > 1:
        raise BioAttError(f"{path} holds {len(found)} CT series: {_listing(found)}; choose one with --series UID")
    uid = next(iter(found)) if series_uid is None else str(series_uid).strip()
    if uid not in found:
        raise BioAttError(f"{path} holds no CT series {uid}, but {_listing(found)}; choose one with --series UID")
    return _build(uid, found[uid], tell)


def _scan(path: Path, tell: bool = True) -> dict[str, list[_Found]]:
    """Headers of the CT images in `path` by SeriesInstanceUID, localizers left out."""
    headers = _headers(path)
    images = [(file, header) for file, header in headers if _is_ct(header)]
    if not images:
        kinds = Counter(_kind(header) for _, header in headers)
        listing = ", ".join(f"{count} x {kind}" for kind, count in kinds.most_common())
        raise BioAttError(f"{path} holds DICOM but no CT image: {listing}; name a folder with a CT series")
    slices = [(file, header) for file, header in images if not _is_localizer(header)]
    if not slices:
        raise BioAttError(f"{path} holds only CT localizers (scouts), wanted slices; name a folder with a CT series")
    for count, what in (len(headers) - len(images), "not CT"), (len(images) - len(slices), "CT localizers"):
        if count and tell:
            logger.info("%s: left out %d files that are %s", path, count, what)
    series: dict[str, list[_Found]] = {}
    for file, header in slices:
        series.setdefault(_uid(header, "SeriesInstanceUID", file), []).append((file, header))
    return dict(sorted(series.items(), key=lambda item: (_series_number(item[1][0][1]), item[0])))


def _headers(path: Path) -> list[_Found]:
    if path.is_file():
        header = open_dicom(path, stop_before_pixels=True, specific_tags=_KEYWORDS)
        if header is None:
            raise BioAttError(f"{path} is not a DICOM file; name a folder with a CT series, or one CT image")
        return [(path, header)]
    if not path.is_dir():
        raise BioAttError(f"{path} does not exist; name a folder with a CT series, or one CT image")
    files, found = 0, []
    for file in _files(path):
        files += 1
        header = open_dicom(file, stop_before_pixels=True, specific_tags=_KEYWORDS)
        if header is not None:
            found.append((file, header))
    if not found:
        what = f"no DICOM in {files} files" if files else "no files"
        raise BioAttError(f"{path}: {what}; name a folder with a CT series")
    return found


def _files(folder: Path) -> Iterator[Path]:
    """Files below `folder` in a fixed order, hidden ones and hidden folders passed over."""

    def refuse(error: OSError) -> None:
        raise BioAttError(f"{error.filename} cannot be read: {error.strerror}; check its permissions") from error

    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files = (Path(parent, name) for name in sorted(names) if not name.startswith("."))
        yield from (file for file in files if file.is_file())


def _is_ct(header: Dataset) -> bool:
    return str(header.get("SOPClassUID", "")) in ENHANCED_CT | {CT_IMAGE_STORAGE}


def _is_localizer(header: Dataset) -> bool:
    return "LOCALIZER" in str(header.get("ImageType", "")).upper()


def _kind(header: Dataset) -> str:
    sop_class = header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID") or ""
    return f"{header.get('Modality') or 'no Modality'} ({UID(sop_class).name or 'no SOPClassUID'})"


def _series_number(header: Dataset) -> int:
    try:
        return int(header.get("SeriesNumber"))
    except (TypeError, ValueError):
        return 0


def _listing(found: dict[str, list[_Found]]) -> str:
    return ", ".join(
        f"{uid} ({label(slices[0][1], 'SeriesDescription', slices[0][0]) or 'no description'}, {len(slices)} slices)"
        for uid, slices in found.items()
    )


def _uid(header: Dataset, keyword: str, file: Path) -> str:
    found = text(header, keyword, file)
    if not found:
        raise BioAttError(f"{file}: {keyword} is missing; export the series again with this element")
    return found


def _build(uid: str, found: list[_Found], tell: bool = True) -> Series:
    """Check the slices of one series against each other and put them in order."""
    for file, header in found:
        check_hu_image(header, file)
    slices = [(file, header, read_plane(header, file)) for file, header in found]
    _check_same_grid(uid, slices)
    slices = _without_copies(slices, tell)
    order = np.argsort(heights([plane for _, _, plane in slices]), kind="stable")
    slices = [slices[i] for i in order]
    planes = [plane for _, _, plane in slices]
    for i in np.flatnonzero(np.diff(heights(planes)) < SAME_POSITION_MM):
        raise BioAttError(
            f"series {uid}: two different slices at one position, {slices[i][0]} and {slices[i + 1][0]} "
            f"({heights(planes)[i]:.2f} mm); keep one image a position (one phase, one reconstruction)"
        )
    if tell:
        _warn(uid, slices)
    file, header, plane = slices[0]
    affine = affine_ras(planes, _single_spacing(header, file))
    return Series(
        series_instance_uid=uid,
        files=tuple(file for file, _, _ in slices),
        sop_instance_uids=tuple(_uid(header, "SOPInstanceUID", file) for file, header, _ in slices),
        rows=plane.shape[0],
        columns=plane.shape[1],
        affine=affine,
        spacing=tuple(float(length) for length in np.linalg.norm(affine[:3, :3], axis=0)),
        is_axial=is_axial(plane.orientation),
        description=label(header, "SeriesDescription", file),
        kernel=label(header, "ConvolutionKernel", file),
        slice_thickness_mm=_length(header, "SliceThickness", file),
        frame_of_reference_uid=label(header, "FrameOfReferenceUID", file),
    )


def _check_same_grid(uid: str, slices: list[tuple[Path, Dataset, Plane]]) -> None:
    """Raise where a slice differs from the first in shape, spacing, orientation or frame of reference."""
    first_file, first_header, first = slices[0]
    for file, header, plane in slices[1:]:
        pairs = {
            "Rows": (first.shape[0], plane.shape[0], 0),
            "Columns": (first.shape[1], plane.shape[1], 0),
            "PixelSpacing": (first.spacing, plane.spacing, 1e-4 * float(first.spacing.max())),
            "ImageOrientationPatient": (first.orientation, plane.orientation, UNIT_TOLERANCE),
        }
        for keyword, (one, other, tolerance) in pairs.items():
            if np.abs(np.asarray(one) - np.asarray(other)).max() > tolerance:
                raise BioAttError(
                    f"series {uid}: {keyword} differs, {np.asarray(one).tolist()} in {first_file} but "
                    f"{np.asarray(other).tolist()} in {file}; put slices of one kind in a folder"
                )
        if (first_header.get("FrameOfReferenceUID") or "") != (header.get("FrameOfReferenceUID") or ""):
            raise BioAttError(
                f"series {uid}: FrameOfReferenceUID differs between {first_file} and {file}, so their positions "
                "cannot be compared; put slices of one scan in a folder"
            )


def _without_copies(slices: list[tuple[Path, Dataset, Plane]], tell: bool) -> list[tuple[Path, Dataset, Plane]]:
    """Take each SOPInstanceUID once; raise if it stands for slices at different places."""
    taken: dict[str, tuple[Path, Dataset, Plane]] = {}
    for one in slices:
        uid = _uid(one[1], "SOPInstanceUID", one[0])
        file, _, plane = taken.setdefault(uid, one)
        if np.abs(plane.position - one[2].position).max() > SAME_POSITION_MM:
            raise BioAttError(
                f"SOPInstanceUID {uid} stands for two slices at different positions, {file} and {one[0]}; "
                "export the series again"
            )
    if len(taken) < len(slices) and tell:
        logger.warning("left out %d files that are second copies of a slice", len(slices) - len(taken))
    return list(taken.values())


def _warn(uid: str, slices: list[tuple[Path, Dataset, Plane]]) -> None:
    """Log what is unusual but can be worked with."""
    odd = gaps([plane for _, _, plane in slices])
    if odd:
        more = f" and {len(odd) - 5} more places" if len(odd) > 5 else ""
        logger.warning("series %s: irregular slice spacing, %s%s", uid, "; ".join(odd[:5]), more)
    headers = [header for _, header, _ in slices]
    if any(header.get("RescaleType") == "US" for header in headers):
        logger.warning("series %s: RescaleType is US (unspecified); its values are taken as HU", uid)
    if any(header.get("PhotometricInterpretation") == "MONOCHROME1" for header in headers):
        logger.warning("series %s: MONOCHROME1 is about display only; its values are taken as HU, not inverted", uid)


def _single_spacing(header: Dataset, file: Path) -> float:
    return _length(header, "SpacingBetweenSlices", file) or _length(header, "SliceThickness", file) or 1.0


def _length(header: Dataset, keyword: str, file: Path) -> float | None:
    """A length in mm, None where it is missing, unreadable or 0."""
    try:
        length = abs(float(numbers(header, keyword, 1, file)[0]))
    except BioAttError:
        return None
    return length if length > 0 else None
