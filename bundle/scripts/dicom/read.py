"""A CT series as a volume in HU."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import BioAttError, first_few, printable
from ..hu import VALID_RANGE_HU
from .child import END
from .headers import quiet_pydicom, rescale
from .padding import bright_padding
from .pixels import read_frames
from .processes import FileProcesses
from .series import Series

logger = logging.getLogger(__name__)

MAX_VOXELS = (1 << 31) - 1  # of one series: 8 GiB as float32, and what one PixelData element can hold


@quiet_pydicom()
def read_volume(
    series: Series,
    progress: Callable[[int], object] | None = None,
    processes: FileProcesses | None = None,
    *,
    bright_padding_as_air: bool = False,
) -> np.ndarray:
    """HU of a series, float32 `(slices, rows, columns)`, each slice with its own rescale.

    Padding is kept as stored: its value is PixelPaddingValue * slope + intercept.

    Args:
        series: from `find_series` or `select_series`.
        progress: called with the number of slices just done.
        processes: read by these, where they are several or isolated; the same HU, bit by bit.
        bright_padding_as_air: padding above all tissue becomes the lowest valid HU, so that a network meets air and no
            bright rim.

    Raises:
        BioAttError: 2**31 voxels or more, or see `read_frames`.
    """
    if np.prod(series.shape, dtype=np.int64) > MAX_VOXELS:
        raise BioAttError(
            f"series {series.series_instance_uid} is (slices, rows, columns) {series.shape}, 2**31 voxels or more; "
            "split it"
        )
    volume = np.empty(series.shape, dtype=np.float32)
    files, shape = series.by_file(), series.shape[1:]
    faults, empty = Counter[str](), list[str]()
    requests = ((file, (file, slices, shape, bright_padding_as_air)) for file, slices in files.items())
    for _, index, payload in (processes or FileProcesses()).each("hu", requests, len(files)):
        if index == END:
            noted, names = json.loads(payload)
            faults.update(noted)
            empty += names
            continue
        volume[index] = np.frombuffer(payload, np.float32).reshape(shape)
        if progress is not None:
            progress(1)
    _tell(series, faults, sorted(empty))
    return volume


def _tell(series: Series, faults: Mapping[str, int], empty: Sequence[str]) -> None:
    """Log what is odd about files of a series but does not keep them from being read, a line for each kind."""
    if empty and len(empty) < len(series.files):
        logger.warning(
            "series %s: %d slices hold one value in all pixels, perhaps copied half: %s",
            *(series.series_instance_uid, len(empty), first_few(empty)),
        )
    for fault, files in sorted(faults.items()):
        logger.warning("series %s, %d files: %s", series.series_instance_uid, files, fault)


def read_file(
    file: Path, slices: Mapping[int, int], shape: tuple[int, int], bright_padding_as_air: bool
) -> Iterator[tuple[int, Any]]:
    """Index and HU, float32 `(rows, columns)`, of each frame of a file, as bytes; see `read_volume`.

    Last comes, with the index `END`, what is odd: faults that were got over, in words, and the file's name for each
    slice of one value in all pixels, as JSON.

    Args:
        slices: which slice each of its frames is; others are left out.
    """
    done, faults, empty = 0, set[str](), []
    for frame, (stored, header) in enumerate(read_frames(file, faults, slices)):
        if frame not in slices:
            continue
        if stored.shape != tuple(shape):
            raise BioAttError(f"{file} is not what it was a moment ago: it changed while it was used; start again")
        if stored.size > 1 and stored.min() == stored.max():
            empty.append(printable(file.name))
        hu = _hu(stored, *rescale(header, file))
        if bright_padding_as_air and (outside := bright_padding(header, stored)) is not None:
            hu[outside] = VALID_RANGE_HU[0]
        yield slices[frame], np.ascontiguousarray(hu, np.float32).data.cast("B")
        done += 1
    if done != len(slices):
        raise BioAttError(f"{file} lost frames while it was used; start again")
    yield END, json.dumps([sorted(faults), empty]).encode()


def _hu(stored: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    """``stored * slope + intercept`` as it is in float64; in float32 where that has the same numbers, as mostly."""
    if slope == 1.0 and intercept == int(intercept) and abs(intercept) < 1 << 23 and stored.dtype == np.int32:
        return np.add(stored, np.float32(intercept), dtype=np.float32)  # whole numbers below 2**24
    return stored * slope + intercept
