"""Find CT image series in a folder, and choose one."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from ..errors import BioAttError, KeptWarnings, first_few
from .headers import quiet_pydicom
from .phases import comparable
from .scan import Found, Scan, scan, series_number, series_table
from .series import Series
from .stack import Allowed, build

logger = logging.getLogger(__name__)


@quiet_pydicom()
def find_series(path: str | os.PathLike[str], refused: list[BioAttError] | None = None) -> list[Series]:
    """All CT image series in a folder, or the one slice in a file.

    Only headers are read. A folder is searched recursively, whatever the file names, and through links to folders; a
    zip is read as the folder that is in it, without being unpacked. Hidden files and files that are not DICOM are
    passed over. Localizers (scouts), pages without geometry, images of another plane, other modalities and second
    copies of a slice are left out, which is logged. Gaps between slices are logged and noted in the series.

    Args:
        path: folder or zip, one DICOM file (a series of this slice alone), or a DICOMDIR (its folder).
        refused: where files and series that cannot be used are noted, so that the others are returned. Without it
            the first one raises.

    Returns:
        The series, sorted by SeriesNumber, then SeriesInstanceUID.

    Raises:
        BioAttError: nothing there, no CT images, or a series that is not what `Series` promises.
    """
    series, scanned = [], scan(Path(path), refused=refused)
    for uid in scanned.series:
        try:
            series.append(build(uid, scanned, Allowed(gaps=True)))
        except BioAttError as error:
            if refused is None:
                raise
            refused.append(error)
    return series


@quiet_pydicom()
def select_series(
    path: str | os.PathLike[str],
    series: str | None = None,
    *,
    tell: bool = True,
    allow_gaps: bool = False,
    assume_hu: bool = False,
    one_scan: bool = False,
) -> Series:
    """The one series in `path`, or the one that `series` names; the others there are not checked.

    Args:
        path: folder or zip, one DICOM file, or a DICOMDIR (its folder).
        series: SeriesInstanceUID or SeriesNumber; of a series with several phases also NAME/KEYWORD=VALUE, e.g.
            ``5/AcquisitionNumber=2``, or KEYWORD=VALUE alone where there is one series.
        tell: log what is unusual; for a second look at the same series it was told already.
        allow_gaps: go on where slices are missing or their spacing changes.
        assume_hu: take values as HU where RescaleType is US (unspecified) or rescale is missing.
        one_scan: take images of several StudyInstanceUIDs or SeriesInstanceUIDs, of a PatientID a file, or without
            SOPInstanceUIDs of their own as one scan, where grid and positions form one regularly spaced stack; `series`
            then names a SeriesNumber that they share.

    Raises:
        BioAttError: several series and none named, no series of that name, or see `find_series`.
    """
    scanned = scan(Path(path), tell)
    name, phase = _parts(series)
    uid = None
    if one_scan:
        scanned, uid = _joined(scanned, name)
    if uid is None:
        uid = _choose(scanned, Path(path), name)
    selector = (name or "") if one_scan else uid
    allowed = Allowed(gaps=allow_gaps, no_rescale=assume_hu, one_scan=one_scan, tell=tell)
    return build(uid, scanned, allowed, "/".join(part for part in (selector, phase) if part), phase)


#: Warnings that are kept, at most: who serves others never takes them.
MOST_TOLD = 1000


class KnownSeries:
    """`select_series`, which looks at the headers of a series once: a run checks it, reads it, and derives another.

    What was found is given again while none of its files has changed. What the looks warned of is kept for `take_told`.

    Example:
        >>> known = KnownSeries()
        >>> known.select("study", "5") is known.select("study", "5")
        True
    """

    def __init__(self) -> None:
        self._found: dict[tuple[str, str, bool], tuple[Series, tuple[tuple[int, int], ...]]] = {}
        self._told: list[logging.LogRecord] = []

    def select(
        self, path: str | os.PathLike[str], series: str | None = None, *, one_scan: bool = False, **more: bool
    ) -> Series:
        """What `select_series` finds, by the same arguments; a second look tells and refuses nothing.

        Raises:
            BioAttError: see `select_series`.
        """
        place = os.path.abspath(path)
        found, seen = self._found.get((place, series or "", one_scan), (None, ()))
        if found is not None and _stamps(found) == seen:
            return found
        heard = KeptWarnings()
        package = logging.getLogger(__name__.rpartition(".")[0])
        package.addHandler(heard)
        try:
            found = select_series(path, series, one_scan=one_scan, **more)
        finally:
            package.removeHandler(heard)
        self._told = [*self._told, *heard.records][-MOST_TOLD:]
        for name in {series or "", found.selector}:
            self._found[place, name, one_scan] = found, _stamps(found)
        return found

    def take_told(self) -> list[logging.LogRecord]:
        """What was warned of since this was last asked."""
        told, self._told = self._told, []
        return told


def _stamps(series: Series) -> tuple[tuple[int, int], ...]:
    """Time and size of each file; those of the zip that holds it, or of the folder where it is gone."""
    places = (next(place for place in (file, *file.absolute().parents) if place.exists()) for file in series.by_file())
    return tuple((now.st_mtime_ns, now.st_size) for now in map(os.stat, places))


def _parts(series: str | None) -> tuple[str | None, str]:
    """Name of a series, and KEYWORD=VALUE of one of its phases."""
    name = str(series).strip() if series is not None else ""
    if "=" not in name:
        return name or None, ""
    before, slash, behind = name.partition("/")
    if "=" in before:  # a value may hold a slash
        return None, name
    return before or None, behind


def _joined(scanned: Scan, name: str | None) -> tuple[Scan, str | None]:
    """All series as one, or those of a SeriesNumber, and the UID of the first of them; None where there is one."""
    chosen = sorted(uid for uid, files in scanned.series.items() if name is None or _has_number(files, name))
    if len(chosen) < 2:
        return scanned, None
    joined = {chosen[0]: [one for uid in chosen for one in scanned.series[uid]]}
    others = {uid: files for uid, files in scanned.series.items() if uid not in chosen}
    return scanned._replace(series=joined | others), chosen[0]


def _choose(scanned: Scan, path: Path, name: str | None) -> str:
    """SeriesInstanceUID of the only series, or of the one that `name` names by UID or SeriesNumber."""
    found = scanned.series
    if name is None:
        chosen, what = list(found), f"holds {len(found)} CT series"
    else:
        chosen = [name] if name in found else [uid for uid, files in found.items() if _has_number(files, name)]
        what = f"holds {len(chosen) or 'no'} CT series {name}"
    if len(chosen) == 1:
        return chosen[0]
    for line in series_table(found):
        logger.warning("%s", line)
    every = [(uid, series_number(files[0][1])) for uid, files in found.items()]
    listing = first_few([f"{uid or 'no UID'} ({'no number' if n is None else f'number {n}'})" for uid, n in every])
    numbers = [number for _, number in every]
    by_number = " or --series NUMBER" if len(set(numbers)) == len(numbers) and None not in numbers else ""
    all_of_them = "" if name else ", or take each: bioatt denoise --all-series"
    raise BioAttError(
        f"{path} {what}; it has {listing}{_look_like_one(scanned, chosen)}; choose one with --series UID{by_number}"
        f"{all_of_them}"
    )


def _has_number(files: Sequence[Found], name: str) -> bool:
    """Whether `name` is the SeriesNumber of these files, however it is written: 3, 003, 3.0."""
    return comparable(str(series_number(files[0][1]))) == comparable(name)


def _look_like_one(scanned: Scan, uids: Sequence[str]) -> str:
    """The option that joins series which form one regularly spaced stack; "" where none do."""
    numbers = dict.fromkeys(str(series_number(scanned.series[uid][0][1])) for uid in uids)
    for name in [None, *numbers] if len(uids) > 1 else []:
        joined, uid = _joined(scanned, name)
        if uid is None or len(joined.series[uid]) < 3:
            continue
        try:
            taken = set(build(uid, joined, Allowed(no_rescale=True, one_scan=True, tell=False, offer=False)).files)
        except BioAttError:
            continue
        parted = set(scanned.series) - set(joined.series) | {uid}
        if any(taken.isdisjoint(file for file, _ in scanned.series[one]) for one in parted):  # a scout, left out
            continue
        option = "--one-scan" if name is None else f"--one-scan --series {name}"
        what = f"{len(parted)} of them look like one series of {len(joined.series[uid])} images"
        return f"; {what}: to take them as one, go on with {option}"
    return ""
