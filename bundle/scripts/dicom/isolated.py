"""Decode in a process of its own: a decoder that crashes, hangs or eats memory ends that one alone; see `child`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .child import MEMORY_BYTES, SECONDS
from .processes import FileProcesses
from .read import Progress, read_volume
from .series import Series


def read_volume_isolated(
    series: Series, progress: Progress | None = None, *, memory_bytes: int = MEMORY_BYTES, seconds: float = SECONDS
) -> np.ndarray:
    """`read_volume` in a child process with a memory limit and a time limit: the same HU, bit by bit.

    It costs the start of a Python process, about a second. A thread or a process of any kind may call it.

    Args:
        series: from `find_series` or `select_series`.
        progress: called with (slices done, slices in all).
        memory_bytes: address space of the child (RLIMIT_AS; Windows has no such limit).
        seconds: how long to wait for the next slice.

    Raises:
        BioAttError: the child crashed, ran out of memory or took too long, with the file that it was decoding; or as
            `read_volume`.
    """
    return read_volume(series, progress, FileProcesses(isolated=True, memory_bytes=memory_bytes, seconds=seconds))


def have_same_hu_isolated(pairs: Sequence[tuple[Path, Path]]) -> list[bool]:
    """`have_same_hu` of each pair of files, in a child process.

    Raises:
        BioAttError: as `read_volume_isolated`, with the second file of the pair.
    """
    requests = [(second, (first, second)) for first, second in pairs]
    return [json.loads(same) for _, _, same in FileProcesses(isolated=True).each("same", requests, 1)]
