"""One volume in HU from a DICOM series or a file of `formats`, with what is needed to name its slices."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.misc import is_dicom

from ..dicom import FileProcesses, KnownSeries, Series, read_volume
from ..errors import BioAttError, printable
from ..progress import bar
from .formats import format_of
from .plausible import check_hu

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Volume:
    """A CT volume in HU.

    Args:
        hu: float32, (columns, rows, slices) for DICOM, storage order for a file.
        affine: 4x4, index to RAS in mm, as NIfTI and MONAI have it.
        series: whose slices lie along the third axis; None of a file of `formats`.
    """

    hu: np.ndarray
    affine: np.ndarray
    source: Path
    series: Series | None = None


def find_inputs(path: str | os.PathLike[str], series: str = "") -> list[Path]:
    """What `path` holds to be processed: itself if it is a DICOM series or a file, else the files of `formats`, sorted.

    Args:
        path: folder or file.
        series: which DICOM series is wanted; of a folder with files of `formats` beside one it chooses the folder.

    Raises:
        BioAttError: it does not exist, is empty, or holds such files and DICOM together and no series is named.
    """
    if not str(path):
        raise BioAttError("no input given; name a folder of DICOM files or a NIfTI file (--dataset_dir PATH)")
    place = Path(path)
    if not place.exists():
        raise BioAttError(f"input {place} does not exist; name a folder of DICOM files or a NIfTI file")
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise BioAttError(f"input {place} is neither a file nor a folder; name a folder of DICOM files or a NIfTI file")
    named = sorted(p for p in place.iterdir() if format_of(p) and not p.name.startswith("."))
    if broken := [p for p in named if p.is_symlink() and not p.exists()]:
        raise BioAttError(f"input {broken[0]} is a broken link; mend it, or take it out of the folder")
    files = [p for p in named if p.is_file()]
    others = [p for p in place.iterdir() if p not in files]
    has_dicom = any(p.is_file() and is_dicom(p) for p in others)
    if not files or (series and has_dicom):
        return [place]
    if has_dicom:
        raise BioAttError(
            f"input {place} holds {format_of(files[0]).NAME} and DICOM files together; name {files[0].name} itself, or "
            "choose the DICOM series with --series UID or --series NUMBER"
        )
    if folders := sorted(p.name for p in others if p.is_dir() and not p.name.startswith(".")):
        first = printable(folders[0])
        logger.warning("%s: its subfolders are not looked into (%d, e.g. %s)", place, len(folders), first)
    return files


def load_volume(
    path: str | os.PathLike[str],
    *,
    series: str | int = "",
    assume_hu: bool = False,
    allow_gaps: bool = False,
    one_scan: bool = False,
    progress: bool = False,
    processes: FileProcesses | None = None,
    known: KnownSeries | None = None,
) -> Volume:
    """Read a DICOM series, a single DICOM file or a file of `formats` as HU.

    Args:
        path: folder or file.
        series: SeriesInstanceUID or SeriesNumber, where a folder holds several; see `select_series` for phases.
        assume_hu: take numbers as HU although they do not look like it, and DICOM's although RescaleType is US
            (unspecified) or rescale is missing.
        allow_gaps: go on where slices of a DICOM series are missing or their spacing changes.
        one_scan: take DICOM images of several studies or series as one scan where they form one regularly spaced stack.
        processes: decode a DICOM series by these, see `read_volume`.
        known: DICOM series whose headers were looked at before.

    Raises:
        BioAttError: see `scripts.dicom`, and `read` of the format.
    """
    if (file_format := format_of(path)) is not None:
        if series:
            raise BioAttError(f"--series chooses among DICOM series; {path} is a {file_format.NAME} file, leave it out")
        hu, affine = file_format.read(path)
        if not assume_hu:
            check_hu(hu, path)
        return Volume(hu=hu, affine=affine, source=Path(path))
    allowed = {"allow_gaps": allow_gaps, "assume_hu": assume_hu, "one_scan": one_scan}
    chosen = (known or KnownSeries()).select(path, str(series) or None, **allowed)
    with bar(len(chosen.files), "reading", progress) as advance:
        hu = read_volume(chosen, advance, processes, bright_padding_as_air=True).transpose(2, 1, 0)
    if not assume_hu:
        check_hu(hu, path, is_offset=chosen.is_offset, is_dicom=True)
    return Volume(hu=hu, affine=np.asarray(chosen.affine, dtype=np.float64), source=Path(path), series=chosen)
