"""A CT series as a volume in HU."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from ..errors import BioAttError
from .headers import rescale
from .pixels import read_frames
from .series import Series

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]  # slices done, slices in all

_NAMED = 5  # files in a message

MAX_VOXELS = (1 << 31) - 1  # of one series: 8 GiB as float32, and what one PixelData element can hold


def read_volume(
    series: Series, progress: Progress | None = None, slices: Iterable[tuple[int, np.ndarray]] | None = None
) -> np.ndarray:
    """HU of a series, float32 `(slices, rows, columns)`, each slice with its own rescale.

    Padding is kept as stored: its value is PixelPaddingValue * slope + intercept.

    Args:
        series: from `find_series` or `select_series`.
        progress: called with (slices done, slices in all).
        slices: where they come from, by default `read_slices`; see `isolated` for another.

    Raises:
        BioAttError: 2**31 voxels or more, or see `read_frames`.
    """
    if np.prod(series.shape, dtype=np.int64) > MAX_VOXELS:
        raise BioAttError(
            f"series {series.series_instance_uid} is (slices, rows, columns) {series.shape}, 2**31 voxels or more; "
            "split it"
        )
    volume = np.empty(series.shape, dtype=np.float32)
    for done, (index, hu) in enumerate(read_slices(series) if slices is None else slices, 1):
        volume[index] = hu
        if progress is not None:
            progress(done, len(series.files))
    return volume


def read_slices(series: Series) -> Iterator[tuple[int, np.ndarray]]:
    """Index and HU `(rows, columns)` of each slice, in the order of `series.by_file`; see `read_volume`."""
    notes: Counter[str] = Counter()
    empty: list[str] = []
    for file, slices in series.by_file().items():
        done, found = 0, set()
        for frame, (stored, header) in enumerate(read_frames(file, found)):
            if stored.shape != (series.rows, series.columns) or frame not in slices:
                raise BioAttError(f"{file} is not what it was a moment ago: it changed while it was used; start again")
            if stored.size > 1 and stored.min() == stored.max():
                empty.append(file.name)
            yield slices[frame], _hu(stored, *rescale(header, file))
            done += 1
        if done != len(slices):
            raise BioAttError(f"series {series.series_instance_uid} lost frames while it was used; start again")
        notes.update(found)
    if empty and len(empty) < len(series.files):
        logger.warning(
            "series %s: %d slices hold one value in all pixels, perhaps copied half: %s%s",
            series.series_instance_uid,
            len(empty),
            ", ".join(empty[:_NAMED]),
            " and more" if len(empty) > _NAMED else "",
        )
    for note, files in notes.items():
        logger.warning("series %s, %d files: %s", series.series_instance_uid, files, note)


def _hu(stored: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    """``stored * slope + intercept`` as it is in float64; in float32 where that has the same numbers, as mostly."""
    if slope == 1.0 and intercept == int(intercept) and abs(intercept) < 1 << 23 and stored.dtype == np.int32:
        return np.add(stored, np.float32(intercept), dtype=np.float32)  # whole numbers below 2**24
    return stored * slope + intercept
