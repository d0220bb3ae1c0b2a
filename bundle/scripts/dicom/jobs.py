"""What is done with a file, here or in a process of its own: decode, compare, or write what is derived from it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .child import END
from .pixels import have_same_hu, read_frames
from .read import read_file
from .write import write_file


def _same(pair: tuple[Path, Path]) -> Iterator[tuple[int, bytes]]:
    """Whether two files hold the same HU."""
    yield END, json.dumps(have_same_hu(*pair)).encode()


def _stored(file: Path) -> Iterator[tuple[int, bytes]]:
    """Stored values of each frame of a file."""
    for frame, (stored, _) in enumerate(read_frames(file, wanted=())):
        yield frame, np.ascontiguousarray(stored, np.int64).data.cast("B")
    yield END, b""


def _written(given: tuple[Any, ...]) -> Iterator[tuple[int, bytes]]:
    """What `write_file` returns for its arguments."""
    yield END, json.dumps(write_file(*given)).encode()


#: Of what each was given: index and content of the records, the last of them with the index `END`.
JOBS = {"hu": lambda given: read_file(*given), "same": _same, "stored": _stored, "written": _written}
