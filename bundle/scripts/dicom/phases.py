"""Several phases or reconstructions at one position in one series: tell them apart by one element, and take one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import numpy as np

from ..errors import BioAttError
from .geometry import heights, same_position_mm
from .headers import has_frames, label
from .processes import have_same_hu_isolated
from .scan import Found, Scan
from .slices import Slice

logger = logging.getLogger(__name__)

#: Elements that tell the images of one position apart where a series holds several phases or reconstructions.
PHASES = (
    "AcquisitionNumber TemporalPositionIdentifier NominalPercentageOfCardiacPhase TriggerTime KVP ConvolutionKernel "
    "FilterType ScanOptions ContrastBolusAgent SliceThickness ImageType IrradiationEventUID AcquisitionDateTime "
    "AcquisitionTime ContentTime SeriesDescription ProtocolName ReconstructionDiameter"
).split()
#: Elements that all slices of one reconstruction share, and those that slices of one step of a scan share.
_OF_ONE_RECONSTRUCTION = "KVP ConvolutionKernel FilterType SliceThickness ReconstructionDiameter".split()
_OF_STEPS = "AcquisitionNumber TemporalPositionIdentifier NominalPercentageOfCardiacPhase".split()
#: Elements that differ between phases too, but no phase is chosen by: they stand in frames.
_HINTS = "FrameAcquisitionNumber TemporalPositionIndex".split()


def what_differs(one: Slice, other: Slice) -> str:
    """Which elements tell two slices of one position apart, in words."""
    words = [k for k in (*PHASES, *_HINTS) if label(one.header, k, one.file) != label(other.header, k, other.file)]
    return f", which differ in {', '.join(words)}" if words else ""


def what_is_mixed(slices: Sequence[Slice]) -> list[str]:
    """Elements that say that sorted slices at different places are not of one reconstruction or acquisition.

    Acquisitions of a scan in several steps lie one behind the other: only where one comes back, they are mixed.
    """
    mixed = []
    for keyword in (*_OF_ONE_RECONSTRUCTION, *_OF_STEPS):
        values = [_comparable(label(one.header, keyword, one.file)) for one in slices]
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
    found: Sequence[Found], at_one_position: int, positions: int, is_stack: Callable[[list[Found]], bool]
) -> dict[str, int]:
    """KEYWORD=VALUE of each phase and its number of files, where one element parts them into whole stacks, else none.

    Where no element parts all of them so, but one parts off what is no stack (slices that watched the contrast come,
    repeated slices), its values that are a stack of more than half of the positions are offered.

    Args:
        found: the files of the series.
        at_one_position: how many slices share a position, at most: as many phases there must be.
        positions: how many different ones there are.
        is_stack: whether files make an even stack.
    """
    if any(has_frames(header) for _, header in found):  # one file may hold frames of several phases
        return {}
    stacks = {}
    for keyword in PHASES:
        parts = dict(_parts(found, keyword))
        whole = {f"{keyword}={one}": len(files) for one, files in parts.items() if 2 * len(files) > positions}
        if len(parts) == 1 or not whole or any("'" in name or not name.isprintable() for name in whole):
            continue
        whole = {name: count for name, count in whole.items() if is_stack(parts[name.partition("=")[2]])}
        if len(whole) == len(parts) == at_one_position:
            return whole
        stacks = stacks or whole
    return stacks


def take_phase(scanned: Scan, uid: str, phase: str) -> Scan:
    """`scanned` with only those files of series `uid` that have this KEYWORD=VALUE.

    Raises:
        BioAttError: a keyword that phases are not chosen by, or no image of this value.
    """
    keyword, _, value = (part.strip() for part in phase.partition("="))
    if keyword not in PHASES:
        raise BioAttError(f"--series .../{phase}: phases are chosen by {', '.join(PHASES)}; name one of them")
    parts = dict(_parts(scanned.series[uid], keyword))
    chosen = [part for part in parts if part == value] or [
        part for part in parts if _comparable(part) == _comparable(value)
    ]
    if not chosen:
        raise BioAttError(
            f"series {uid} has no image with {keyword} {value!r}; it has {', '.join(map(repr, parts))}; choose one"
        )
    return scanned._replace(series=scanned.series | {uid: parts[chosen[0]]})


def _parts(found: Sequence[Found], keyword: str) -> Iterator[tuple[str, list[Found]]]:
    parts: dict[str, list[Found]] = {}
    for file, header in found:
        parts.setdefault(label(header, keyword, file), []).append((file, header))
    yield from sorted(parts.items())


def _comparable(value: str) -> str:
    """The same words for a number however it is written."""
    try:
        return str(float(value))
    except ValueError:
        return value
