"""Several phases, reconstructions or ranges in one series: tell them apart by one element or by place, and take one."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from ..errors import BioAttError
from .geometry import even_runs, heights, same_position_mm
from .headers import has_frames, label
from .processes import have_same_hu_isolated
from .slices import Image, Slice

logger = logging.getLogger(__name__)

#: Elements that tell the images of one position apart where a series holds several phases or reconstructions; the
#: last three stand in the frames of an enhanced image.
PHASES = (
    "AcquisitionNumber TemporalPositionIdentifier NominalPercentageOfCardiacPhase TriggerTime KVP ConvolutionKernel "
    "FilterType ScanOptions ContrastBolusAgent SliceThickness ImageType IrradiationEventUID AcquisitionDateTime "
    "AcquisitionTime ContentTime SeriesDescription ProtocolName ReconstructionDiameter TemporalPositionIndex "
    "FrameAcquisitionNumber StackID"
).split()
#: What chooses slices by their place: range=FIRST..LAST, in mm along the normal, as messages give positions.
RANGE = "range"
_LEAST_RANGE, _MOST_RANGES = 3, 5  # slices of a range that is offered, and such ranges
_MOST_OFFERED = 5  # values that are written out
#: Elements that all slices of one reconstruction share, and those that slices of one step of a scan share.
_OF_ONE_RECONSTRUCTION = "KVP ConvolutionKernel FilterType SliceThickness ReconstructionDiameter".split()
_OF_STEPS = "AcquisitionNumber TemporalPositionIdentifier NominalPercentageOfCardiacPhase".split()


def what_differs(one: Slice, other: Slice) -> str:
    """Which elements tell two slices of one position apart, in words."""
    words = [k for k in PHASES if label(one.header, k, one.file) != label(other.header, k, other.file)]
    return f", which differ in {', '.join(words)}" if words else ""


def what_is_mixed(slices: Sequence[Slice]) -> list[str]:
    """Elements that say that sorted slices at different places are not of one reconstruction or acquisition.

    Acquisitions of a scan in several steps lie one behind the other: only where one comes back, they are mixed.
    """
    mixed = []
    for keyword in (*_OF_ONE_RECONSTRUCTION, *_OF_STEPS):
        values = [comparable(label(one.header, keyword, one.file)) for one in slices]
        runs = 1 + sum(one != other for one, other in pairwise(values))
        if runs > (len(set(values)) if keyword in _OF_STEPS else 1):
            mixed.append(keyword)
    return mixed


def without_twins(slices: Sequence[Slice], tell: bool) -> list[Slice]:
    """Take one of two sorted slices that have the same place, phase and HU under two SOPInstanceUIDs.

    Archives store an image again under a new UID when somebody edits its header. Where the first two of a place
    differ, the others are not decoded.
    """
    planes = [one.plane for one in slices]
    together = np.flatnonzero(np.diff(heights(planes)) <= same_position_mm(planes))
    pairs = [(slices[i], slices[i + 1]) for i in together]
    files = [(one.file, other.file) for one, other in pairs if not what_differs(one, other)]
    if not files or any(has_frames(one.header) for one in slices) or not all(have_same_hu_isolated(files[:1])):
        return list(slices)
    twins = {other for (_, other), is_same in zip(files, have_same_hu_isolated(files), strict=True) if is_same}
    if tell:
        logger.warning("left out %d files that repeat a slice under another SOPInstanceUID", len(twins))
    return [one for one in slices if one.file not in twins]


def choices(
    images: Sequence[Image | Slice],
    is_stack: Callable[[Sequence[Image]], bool],
    parts_wanted: int | None = None,
    least: int = _LEAST_RANGE,
) -> dict[str, int]:
    """KEYWORD=VALUE of each phase and its number of images, where one element separates them into stacks, else {}.

    Where no element separates all of them so, but one separates off what is no stack (slices that watched the contrast
    come, repeated slices), its values that are a stack are offered, if it is known how many parts there must be.

    Args:
        images: of the series.
        is_stack: whether images make a regularly spaced stack.
        parts_wanted: how many slices share a position, at most: as many phases there must be; None for any number.
        least: images of a phase.
    """
    stacks: dict[str, int] = {}
    for keyword in PHASES:
        parts = _parts(images, keyword)
        whole = {f"{keyword}={value}": len(part) for value, part in parts.items() if len(part) >= least}
        if len(parts) == 1 or not whole or any("'" in name or not name.isprintable() for name in whole):
            continue
        if parts_wanted is None and len(whole) < len(parts):
            continue
        whole = {name: count for name, count in whole.items() if is_stack(parts[name.partition("=")[2]])}
        if len(whole) == len(parts) and parts_wanted in (None, len(parts)):
            return whole
        stacks = stacks or whole
    return {} if parts_wanted is None else stacks


def ranges(slices: Sequence[Slice]) -> dict[str, int]:
    """range=FIRST..LAST of each part of sorted slices that is even by itself, and its number of slices; else none."""
    planes = [one.plane for one in slices]
    runs = even_runs(planes)
    if not 2 <= len(runs) <= _MOST_RANGES or min(stop - start for start, stop in runs) < _LEAST_RANGE:
        return {}
    along = heights(planes)
    digits = 2 if float(np.diff(along).min()) >= 0.1 else 4
    return {f"{RANGE}={along[start]:.{digits}f}..{along[stop - 1]:.{digits}f}": stop - start for start, stop in runs}


def offer(uid: str, offered: dict[str, int]) -> str:
    """The options that choose one of these phases or ranges, in words."""
    every = [f"--series '{uid}/{phase}' ({count} images)" for phase, count in offered.items()]
    more = len(every) - _MOST_OFFERED
    return " or ".join(every[:_MOST_OFFERED]) + (f" or one of {more} more values" if more > 0 else "")


def take_phase(uid: str, images: Sequence[Image], phase: str) -> list[Image]:
    """Those of the images of series `uid` that have this KEYWORD=VALUE.

    Raises:
        BioAttError: a keyword that phases are not chosen by, or no image of this value.
    """
    keyword, _, value = (part.strip() for part in phase.partition("="))
    if keyword not in PHASES:
        raise BioAttError(
            f"--series .../{phase}: phases are chosen by {', '.join(PHASES)}, and slices by {RANGE}=FIRST..LAST in mm; "
            "name one of them"
        )
    parts = _parts(images, keyword)
    chosen = value if value in parts else next((one for one in parts if comparable(one) == comparable(value)), None)
    if chosen is None:
        raise BioAttError(
            f"series {uid} has no image with {keyword} {value!r}; it has {', '.join(map(repr, parts))}; choose one"
        )
    return parts[chosen]


def take_range(uid: str, slices: Sequence[Slice], phase: str) -> list[Slice]:
    """Those of sorted slices that lie in range=FIRST..LAST, in mm along their normal, both included.

    Raises:
        BioAttError: it is no range, or no slice lies there.
    """
    match = re.fullmatch(rf"{RANGE}\s*=\s*(-?[\d.]+?)\s*\.\.\s*(-?[\d.]+)", phase)
    try:
        low, high = sorted(map(float, match.groups() if match else ()))
    except ValueError:
        raise BioAttError(
            f"--series .../{phase}: expected {RANGE}=FIRST..LAST in mm, e.g. {RANGE}=-120.00..80.00"
        ) from None
    planes = [one.plane for one in slices]
    along, rounding = heights(planes), 2 * same_position_mm(planes)
    chosen = [one for one, place in zip(slices, along, strict=True) if low - rounding <= place <= high + rounding]
    if not chosen:
        raise BioAttError(
            f"series {uid} has no slice from {low:g} to {high:g} mm; its slices lie from {along[0]:.2f} to "
            f"{along[-1]:.2f} mm; choose among them"
        )
    return chosen


def is_range(phase: str) -> bool:
    """Whether it chooses by place."""
    return phase.partition("=")[0].strip() == RANGE


def _parts(images: Sequence[Image | Slice], keyword: str) -> dict[str, list[Image]]:
    parts: dict[str, list[Image]] = {}
    for file, frame, header, *_ in images:
        parts.setdefault(label(header, keyword, file), []).append(Image(file, frame, header))
    return dict(sorted(parts.items()))


def comparable(value: str) -> str:
    """The same words for a number however it is written."""
    try:
        return str(float(value))
    except ValueError:
        return value
