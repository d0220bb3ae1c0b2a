"""Check the slices of one series against each other and put them in order."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydicom.dataset import Dataset

from ..errors import BioAttError, first_few
from .concatenation import lost_parts
from .enhanced import frame_headers
from .folder import tell_losses
from .geometry import Plane, affine_ras, gaps, heights, is_axial, read_plane, same_position_mm
from .headers import has_frames, is_enhanced, is_lossy, label, lacks_rescale, magnitude, rescale
from .leave_out import without_localizers, without_other_planes, without_pages
from .padding import is_wrong_padding
from .phases import choices, is_range, offer, ranges, take_phase, take_range, what_differs, what_is_mixed, without_twins
from .quantity import check_hu_image, rescale_type
from .scan import Scan
from .series import Series
from .slices import Image, Slice, check_same_grid, without_copies

logger = logging.getLogger(__name__)

#: Elements that go with an identity, which the derived images have in common as its images have it in common.
_WITH_IDENTITY = {
    "PatientID": "PatientID IssuerOfPatientID PatientName PatientBirthDate PatientSex".split(),
    "StudyInstanceUID": (
        "StudyInstanceUID StudyDate StudyTime StudyID AccessionNumber StudyDescription ReferringPhysicianName"
    ).split(),
    "SeriesInstanceUID": ["SeriesNumber", "SeriesDescription"],
    "FrameOfReferenceUID": ["FrameOfReferenceUID", "PositionReferenceIndicator"],
    "SOPInstanceUID": [],
}


#: Values of ImageType of images that are made of several slices (PS3.3 C.8.16.1.4, and what vendors write).
_SLABS = {"MAX_IP", "MIN_IP", "MIP", "MINIP", "PROJECTION IMAGE"}


class Allowed(NamedTuple):
    """What is gone on with.

    Args:
        gaps: slices that are missing or lost, or whose spacing changes.
        no_rescale: RescaleType US (unspecified), or no rescale: values are taken as HU.
        one_scan: images of several studies or series.
        tell: log what is unusual.
        offer: where the slices are no regularly spaced stack, look for phases or ranges to choose from.
    """

    gaps: bool = False
    no_rescale: bool = False
    one_scan: bool = False
    tell: bool = True
    offer: bool = True


def build(uid: str, scanned: Scan, allowed: Allowed, selector: str | None = None, phase: str = "") -> Series:
    """The series `uid` of a scan, its slices in order.

    Args:
        uid: SeriesInstanceUID.
        scanned: what was found.
        allowed: what is gone on with.
        selector: what `select_series` takes to find the series again; None for `uid`.
        phase: KEYWORD=VALUE or range=FIRST..LAST of the images that are taken; "" for all.

    Raises:
        BioAttError: it is not what `Series` promises.
    """
    found = scanned.series[uid]
    if not uid and not allowed.one_scan:
        raise BioAttError(
            f"{found[0][0]}: SeriesInstanceUID is missing; export the series again with this element, or, if all its "
            "files are of one scan, go on with --one-scan"
        )
    images = [
        Image(file, i, header)
        for file, image in without_pages(uid, found, allowed.tell)
        for i, header in enumerate(frame_headers(image, file))
    ]
    parts = lost_parts(images)
    if phase and not is_range(phase):
        images = take_phase(uid, images, phase)
    lost = scanned.lost_from(uid, {one.file for one in images} if phase else None) + parts
    if lost and not allowed.gaps:
        raise BioAttError(
            f"series {uid}: slices are lost, {tell_losses(lost)}; copy or unpack them again, take out what is "
            "no slice, or go on without them with --allow-gaps"
        )
    certain = [one for one in scanned.losses if one.certain]
    slices, odd, differing = _stack(uid, images, allowed, phase, tell_losses(certain) if certain else "")
    planes = [one.plane for one in slices]
    if allowed.tell:
        if lost:
            logger.warning("series %s: slices are lost, %s", uid, tell_losses(lost))
        _warn(uid, slices, odd, differing)
    file, _, header, plane = slices[0]
    names = [(one.instance_uid, one.frame) for one in slices]
    count = Counter(names)
    thickness_mm = magnitude(header, "SliceThickness", file)
    affine = affine_ras(planes, magnitude(header, "SpacingBetweenSlices", file) or thickness_mm or 1.0)
    return Series(
        series_instance_uid=uid,
        files=tuple(one.file for one in slices),
        sop_instance_uids=tuple(name[0] if count[name] == 1 else "" for name in names),
        rows=plane.shape[0],
        columns=plane.shape[1],
        affine=affine,
        spacing=tuple(float(length) for length in np.linalg.norm(affine[:3, :3], axis=0)),
        is_axial=is_axial(plane.orientation),
        frames=tuple(one.frame for one in slices),
        is_multiframe=has_frames(header),
        is_offset=any(rescale(one.header, one.file)[1] != 0 for one in slices),
        gaps=tuple(odd),
        description=label(header, "SeriesDescription", file),
        kernel=label(header, "ConvolutionKernel", file),
        slice_thickness_mm=thickness_mm,
        selector=uid if selector is None else selector,
        one_scan=allowed.one_scan,
        unified=tuple(keyword for one in differing for keyword in _WITH_IDENTITY[one]),
    )


def _stack(
    uid: str, images: Sequence[Image], allowed: Allowed, phase: str = "", cause: str = ""
) -> tuple[list[Slice], list[str], dict[str, str]]:
    """The slices of a series in order, where they are not even, and the identities in which they differ.

    Args:
        uid: of the series.
        images: of the series, or of one of its phases.
        allowed: what is gone on with.
        phase: what chose them; ranges are taken here.
        cause: of missing slices, in words.

    Raises:
        BioAttError: they are no regularly spaced stack.
    """
    images = without_other_planes(uid, without_localizers(uid, images, allowed.tell), allowed.tell)
    slices = [Slice(file, i, header, _checked_plane(header, file, allowed.no_rescale)) for file, i, header in images]
    separate = all(is_enhanced(one.header) or not has_frames(one.header) for one in slices)  # each says where it lies
    if is_range(phase):
        if not separate:
            raise BioAttError(f"series {uid}: frames of CT Image Storage are counted, and cannot be taken by {phase}")
        slices = take_range(uid, _in_order(slices), phase)
    offers = allowed.offer and not phase and separate
    try:
        differing = check_same_grid(uid, slices)
    except BioAttError as error:
        offered = choices(slices, partial(_is_stack, uid)) if offers else {}
        if not offered:
            raise
        raise BioAttError(f"{error}, or choose one part with {offer(uid, offered)}") from error
    slices = _in_order(without_copies(slices, differing, allowed.tell))
    if allowed.offer:
        slices = without_twins(slices, allowed.tell)
    planes = [one.plane for one in slices]
    _check_positions(uid, slices, differing, offers)
    odd = gaps(planes)
    _check_one_scan(uid, differing, bool(odd), allowed.one_scan)
    if odd and not allowed.gaps:
        offered = (choices(slices, partial(_is_stack, uid)) or ranges(slices)) if offers else {}
        parts = f", go on with one even part with {offer(uid, offered)}" if offered else ""
        raise BioAttError(
            f"series {uid}: slices are missing or their spacing changes, {first_few(odd, '; ')}; find the missing "
            f"slices{f' (perhaps {cause})' if cause else ''}{parts}, or go on with --allow-gaps"
        )
    return slices, odd, differing


def _in_order(slices: list[Slice]) -> list[Slice]:
    """Slices sorted along their normal."""
    order = np.argsort(heights([one.plane for one in slices]), kind="stable")
    return [slices[i] for i in order]


def _check_positions(uid: str, slices: Sequence[Slice], differing: dict[str, str], offers: bool) -> None:
    """Raise where two slices share a position; say which phases could be chosen."""
    planes = [one.plane for one in slices]
    along = heights(planes)
    together = np.diff(along) <= same_position_mm(planes)
    if not together.any():
        return
    i = int(np.argmax(together))
    one, other = slices[i : i + 2]
    remedy = "keep one image a position (one phase, one reconstruction)"
    if offers and not differing:
        starts = np.concatenate([[0], np.flatnonzero(~together) + 1, [len(slices)]])
        at_most, positions = int(np.diff(starts).max()), len(starts) - 1
        offered = choices(slices, partial(_is_stack, uid), at_most, positions // 2 + 1)
        if offered:
            remedy = f"choose one phase with {offer(uid, offered)}"
        elif positions == 1:
            remedy = f"so have all {len(slices)}: they follow in time, or lost their positions; export the series again"
    are_told = set(differing) - {"SOPInstanceUID"}
    apart = f", which differ in {' and '.join(differing)}" if are_told else what_differs(one, other)
    raise BioAttError(
        f"series {uid}: two different slices at one position, {one.name} and {other.name} ({along[i]:.2f} mm){apart}; "
        f"{remedy}"
    )


def _is_stack(uid: str, part: Sequence[Image]) -> bool:
    """Whether images make a regularly spaced stack by themselves."""
    try:
        _stack(uid, part, Allowed(no_rescale=True, tell=False, offer=False))
    except BioAttError:
        return False
    return True


def _check_one_scan(uid: str, differing: dict[str, str], is_odd: bool, one_scan: bool) -> None:
    """Raise where slices of several identities are no regularly spaced stack, or nobody said that they are one scan."""
    for keyword, what in differing.items():
        where = f"series {uid}: {what}"
        if is_odd:
            raise BioAttError(
                f"{where}, and slices are missing or their spacing changes; put slices of one scan in a folder, or "
                "export them again"
            )
        if keyword != "FrameOfReferenceUID" and not one_scan:
            raise BioAttError(
                f"{where}, though grid and positions form one regularly spaced stack; if it is one scan, go on with "
                "--one-scan, else put slices of one scan in a folder"
            )


def _checked_plane(header: Dataset, file: Path, assume_hu: bool) -> Plane:
    check_hu_image(header, file)
    missing = lacks_rescale(header, file)
    if missing and not assume_hu:
        raise BioAttError(
            f"{file}: {missing} is missing, so stored values cannot be turned into HU; use the series as the scanner "
            "exported it, or, if you know that its values are HU, go on with --assume-hu"
        )
    if rescale_type(header, file) == "US" and not assume_hu:
        raise BioAttError(
            f"{file}: RescaleType is US (unspecified), expected HU; if you know that its values are HU, go on with "
            "--assume-hu"
        )
    return read_plane(header, file)


def _warn(uid: str, slices: list[Slice], odd: list[str], differing: dict[str, str]) -> None:
    """Log what is unusual but can be worked with."""
    if differing:
        words = "; ".join(differing.values())
        logger.warning(
            "series %s: %s; grid and positions form one regularly spaced stack: it is taken as one scan", uid, words
        )
    if mixed := what_is_mixed(slices):
        names = ", ".join(mixed)
        logger.warning("series %s: its slices differ in %s, though they form one regularly spaced stack", uid, names)
    promised = {label(one.header, "ImagesInAcquisition", one.file) for one in slices}
    if len(promised) == 1 and (said := promised.pop()).isdecimal() and int(said) > len(slices):
        logger.warning(
            "series %s: ImagesInAcquisition is %s, and %d images are here: some may be missing at an end",
            uid,
            int(said),
            len(slices),
        )
    if any(_SLABS.intersection(label(one.header, "ImageType", one.file).upper().split("\\")) for one in slices):
        logger.warning("series %s: ImageType says that it is a projection; its noise is not that of CT images", uid)
    if odd:
        logger.warning("series %s: irregular slice spacing, %s", uid, first_few(odd, "; "))
    if any(lacks_rescale(one.header, one.file) for one in slices):
        logger.warning("series %s: rescale is missing; its values are taken as HU", uid)
    if any(rescale_type(one.header, one.file) == "US" for one in slices):
        logger.warning("series %s: RescaleType is US (unspecified); its values are taken as HU", uid)
    if any(label(one.header, "PhotometricInterpretation", one.file) == "MONOCHROME1" for one in slices):
        logger.warning("series %s: MONOCHROME1 affects display only; its values are taken as HU, not inverted", uid)
    if any(is_lossy(one.header, one.file) for one in slices):
        logger.warning("series %s: lossy compressed; its noise and detail are not those of the scanner", uid)
    if any(is_wrong_padding(one.header) for one in slices):
        logger.warning("series %s: PixelPaddingValue is a value that tissue has; it is ignored", uid)
