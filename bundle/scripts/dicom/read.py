"""A CT series as a volume in HU."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from ..errors import BioAttError, printable
from ..hu import VALID_RANGE_HU
from .child import END
from .headers import quiet_pydicom, rescale
from .padding import bright_padding
from .pixels import read_frames
from .processes import FileProcesses
from .series import Series

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]  # slices done, slices in all

_NAMED = 5  # files in a message

MAX_VOXELS = (1 << 31) - 1  # of one series: 8 GiB as float32, and what one PixelData element can hold


class Notes:
    """What is odd about files of a series but does not keep them from being read; told once for all of them."""

    def __init__(self) -> None:
        self._faults: Counter[str] = Counter()
        self._empty: list[str] = []

    def add(self, faults: Iterable[str], empty: Iterable[str]) -> None:
        """Note the faults of a file, in words, and its name for each slice of one value in all pixels."""
        self._faults.update(faults)
        self._empty += empty

    def to_json(self) -> bytes:
        """What `add_json` of another takes."""
        return json.dumps([list(self._faults.elements()), self._empty]).encode()

    def add_json(self, text: bytes) -> None:
        """Note what another noted."""
        self.add(*json.loads(text))

    def tell(self, series: Series) -> None:
        """Log a line for each kind."""
        empty = sorted(self._empty)
        if empty and len(empty) < len(series.files):
            logger.warning(
                "series %s: %d slices hold one value in all pixels, perhaps copied half: %s%s",
                series.series_instance_uid,
                len(empty),
                ", ".join(empty[:_NAMED]),
                " and more" if len(empty) > _NAMED else "",
            )
        for note, files in sorted(self._faults.items()):
            logger.warning("series %s, %d files: %s", series.series_instance_uid, files, note)


@quiet_pydicom()
def read_volume(
    series: Series,
    progress: Progress | None = None,
    processes: FileProcesses | None = None,
    *,
    bright_padding_as_air: bool = False,
) -> np.ndarray:
    """HU of a series, float32 `(slices, rows, columns)`, each slice with its own rescale.

    Padding is kept as stored: its value is PixelPaddingValue * slope + intercept.

    Args:
        series: from `find_series` or `select_series`.
        progress: called with (slices done, slices in all).
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
    files, notes = series.by_file(), Notes()
    apart = processes is not None and processes.count(len(files)) > 0
    requests = [(file, slices, series.shape[1:], bright_padding_as_air) for file, slices in files.items()]
    slices = _slices_apart(processes, requests, notes) if apart else _slices_here(requests, notes)
    for done, (index, hu) in enumerate(slices, 1):
        volume[index] = hu
        if progress is not None:
            progress(done, len(series.files))
    notes.tell(series)
    return volume


Request = tuple[Path, Mapping[int, int], tuple[int, int], bool]  # what `read_file` takes, but the notes


def _slices_here(requests: Sequence[Request], notes: Notes) -> Iterator[tuple[int, np.ndarray]]:
    """Index and HU `(rows, columns)` of each slice."""
    for request in requests:
        yield from read_file(*request, notes)


def _slices_apart(
    processes: FileProcesses, requests: Sequence[Request], notes: Notes
) -> Iterator[tuple[int, np.ndarray]]:
    """The same, by `processes`."""
    shape = requests[0][2]
    for _, index, payload in processes.each("hu", ((one[0], one) for one in requests), len(requests)):
        if index == END:
            notes.add_json(payload)
        else:
            yield index, np.frombuffer(payload, np.float32).reshape(shape)


def read_file(
    file: Path, slices: Mapping[int, int], shape: tuple[int, int], bright_padding_as_air: bool, notes: Notes
) -> Iterator[tuple[int, np.ndarray]]:
    """Index and HU `(rows, columns)` of each frame of a file; see `read_volume`.

    Args:
        slices: which slice each of its frames is; others are left out.
        notes: where it is put what is odd.
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
        yield slices[frame], hu
        done += 1
    if done != len(slices):
        raise BioAttError(f"{file} lost frames while it was used; start again")
    notes.add(faults, empty)


def _hu(stored: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    """``stored * slope + intercept`` as it is in float64; in float32 where that has the same numbers, as mostly."""
    if slope == 1.0 and intercept == int(intercept) and abs(intercept) < 1 << 23 and stored.dtype == np.int32:
        return np.add(stored, np.float32(intercept), dtype=np.float32)  # whole numbers below 2**24
    return stored * slope + intercept
