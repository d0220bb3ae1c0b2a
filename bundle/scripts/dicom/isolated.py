"""Decode in a process of its own: a decoder that crashes, hangs or eats memory ends that one alone.

The decoders of compressed images (OpenJPEG, CharLS, GDCM, libjpeg) are C and C++: what a damaged file does to one of
them, it would do to the server that decodes for others. Slices come through a pipe, one at a time, so that no volume
is held twice; what the child logs is logged here.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import pickle
import signal
import struct
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..errors import BioAttError
from .enhanced import frame_headers
from .headers import open_header
from .padding import has_padding
from .pixels import have_same_hu, read_frames
from .read import Progress, read_slices, read_volume
from .series import Series

#: What the child may map, Python and its libraries included; one file is decoded at a time.
MEMORY_BYTES = 4 << 30
#: For the next slice; the frames of an Enhanced CT image are decoded together, a thousand in about a minute.
SECONDS = 180.0

#: What the child sends: it begins, a record, a line of the log, our error, any other error.
_BEGIN, _RECORD, _LOG, _REFUSED, _FAILED = (bytes([letter]) for letter in b"BDLRF")
_HEAD = struct.Struct("<cIQ")  # which of these, index of the record, bytes that follow
_YES = b"yes"
_PROGRAM = (
    "import pickle, sys; path, module = pickle.load(sys.stdin.buffer); sys.path[:] = path; "
    "import importlib; importlib.import_module(module).serve(*pickle.load(sys.stdin.buffer))"
)


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
    with _Child("hu", vars(series), memory_bytes, seconds) as child:
        return read_volume(series, progress, _slices(child, series))


def have_same_hu_isolated(pairs: Sequence[tuple[Path, Path]]) -> list[bool]:
    """`have_same_hu` of each pair of files, in a child process.

    Raises:
        BioAttError: as `read_volume_isolated`, with the second file of the pair.
    """
    with _Child("same", list(pairs)) as child:
        return [child.next(second)[1] == _YES for _, second in pairs]


class IsolatedFrames:
    """Stored values of those of `files` that have padding, from one child process, which the first of them starts.

    Args:
        files: in the order in which they are asked for.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self._files = list(files)
        self._child: _Child | None = None

    def read(self, file: Path, shapes: Iterable[tuple[int, int]]) -> Iterator[np.ndarray]:
        """Stored values of each frame of `file`, int64 of these `shapes` (rows, columns).

        Raises:
            BioAttError: as `read_volume_isolated`.
        """
        if self._child is None:
            self._child = _Child("padded", self._files[self._files.index(file) :])
        for shape in shapes:
            yield np.frombuffer(self._child.next(file)[1], np.int64).reshape(shape)

    def __enter__(self) -> IsolatedFrames:
        return self

    def __exit__(self, *_: object) -> None:
        if self._child is not None:
            self._child.close()


class _Child:
    """A process that does one of `_JOBS` and sends what it makes, one record after another.

    Args:
        job: a key of `_JOBS`.
        given: what the job takes; plain values, since a server may have reloaded classes.
        memory_bytes: address space of the process.
        seconds: how long to wait for the next record.
    """

    def __init__(self, job: str, given: Any, memory_bytes: int = MEMORY_BYTES, seconds: float = SECONDS) -> None:
        self._memory_bytes, self._seconds = memory_bytes, seconds
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),  # each maps memory
        )
        try:
            with suppress(BrokenPipeError):  # a child that died at once is seen where it is read
                pickle.dump((sys.path, __name__), self._process.stdin)
                pickle.dump((job, given, memory_bytes), self._process.stdin)
                self._process.stdin.close()
            self._begin()
        except BaseException:
            self.close()
            raise

    def next(self, file: Path) -> tuple[int, bytes]:
        """Index and content of the next record, which is made of `file`.

        Raises:
            BioAttError: what the child refused; or it ended, with the name of the file.
        """
        with _time_limit(self._process, self._seconds) as late:
            record = _next_record(self._process.stdout)
        if record is None:
            raise BioAttError(
                f"{file} ended the process that decoded it: {_end_of(self._process, late)}, within "
                f"{self._memory_bytes >> 20} MiB and {self._seconds:g} s; copy the file again, or leave it out"
            )
        return record

    def close(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.stdout.close()
        self._process.wait()

    def _begin(self) -> None:
        with _time_limit(self._process, max(self._seconds, SECONDS)) as late:  # a busy machine takes its time
            record = _next_record(self._process.stdout)
        if record is None:
            raise BioAttError(
                f"the process that decodes cannot start ({_end_of(self._process, late)}); give it more memory, or read "
                "the series without it"
            )

    def __enter__(self) -> _Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _slices(child: _Child, series: Series) -> Iterator[tuple[int, np.ndarray]]:
    """What `read_slices` yields, from the child."""
    for file, slices in series.by_file().items():
        for _ in slices:
            index, payload = child.next(file)
            yield index, np.frombuffer(payload, np.float32).reshape(series.rows, series.columns)


def _next_record(stream: IO[bytes]) -> tuple[int, bytes] | None:
    """Index and content of the next record, or of the begin; None where the child ended.

    Raises:
        BioAttError: what the child refused.
        RuntimeError: an error of ours in the child, with its traceback.
    """
    while len(head := stream.read(_HEAD.size)) == _HEAD.size:
        kind, index, size = _HEAD.unpack(head)
        payload = stream.read(size)
        if len(payload) < size:
            break
        if kind == _REFUSED:
            raise BioAttError(payload.decode())
        if kind == _FAILED:
            raise RuntimeError(f"reading in a process of its own failed:\n{payload.decode()}")
        if kind != _LOG:
            return index, payload
        name, level, message, given = json.loads(payload)
        logging.getLogger(name).log(level, message, *given)
    return None


@contextmanager
def _time_limit(child: subprocess.Popen[bytes], seconds: float) -> Iterator[threading.Event]:
    """Kill the child if the block takes longer; yield what tells whether that happened."""
    late = threading.Event()

    def end() -> None:
        late.set()
        child.kill()

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield late
    finally:
        timer.cancel()


def _end_of(child: subprocess.Popen[bytes], late: threading.Event) -> str:
    """How the child ended, in words."""
    code = child.wait()
    if late.is_set():
        return "it took too long"
    if code == errno.ENOMEM:
        return "it ran out of memory"
    if code >= 0:
        return f"exit code {code}"
    with suppress(ValueError):
        return f"killed by {signal.Signals(-code).name}"
    return f"killed by signal {-code}"


def _hu(fields: dict[str, Any]) -> Iterator[tuple[int, bytes]]:
    """HU of each slice of the series of these `fields`."""
    for index, hu in read_slices(Series(**fields)):
        yield index, np.ascontiguousarray(hu, np.float32).tobytes()


def _padded(files: list[Path]) -> Iterator[tuple[int, bytes]]:
    """Stored values of each frame of those files that have padding."""
    for file in files:
        if has_padding(frame_headers(open_header(file), file)):
            for frame, (stored, _) in enumerate(read_frames(file)):
                yield frame, np.ascontiguousarray(stored, np.int64).tobytes()


def _same(pairs: list[tuple[Path, Path]]) -> Iterator[tuple[int, bytes]]:
    """Whether two files hold the same HU, of each pair."""
    for i, pair in enumerate(pairs):
        yield i, _YES if have_same_hu(*pair) else b""


#: What a child can do: of what it was given, index and content of each record.
_JOBS = {"hu": _hu, "padded": _padded, "same": _same}


def serve(job: str, given: Any, memory_bytes: int) -> None:
    """What the child does: one of `_JOBS`, whose records go to the standard output."""
    _limit_memory(memory_bytes)
    stream = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # decoders print
    package = logging.getLogger(__package__.rpartition(".")[0])
    package.addHandler(_Sender(stream))
    package.setLevel(logging.INFO)
    try:
        _send(stream, _BEGIN)
        for index, payload in _JOBS[job](given):
            _send(stream, _RECORD, payload, index)
    except BrokenPipeError:
        raise SystemExit(1) from None  # nobody wants it any more
    except Exception as error:
        if _is_memory(error):
            raise SystemExit(errno.ENOMEM) from None
        if isinstance(error, BioAttError):
            _send(stream, _REFUSED, str(error).encode())
            return
        _send(stream, _FAILED, traceback.format_exc().encode())


def _is_memory(error: BaseException | None) -> bool:
    """Whether an error is, or comes from, one of memory."""
    while error is not None and not isinstance(error, MemoryError):
        error = error.__cause__ or error.__context__
    return error is not None


def _limit_memory(memory_bytes: int) -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    limit = memory_bytes if most == resource.RLIM_INFINITY else min(memory_bytes, most)
    resource.setrlimit(resource.RLIMIT_AS, (limit, most))


class _Sender(logging.Handler):
    """Sends log records to the parent."""

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__(logging.INFO)
        self._stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        """Send one, its arguments as numbers and text."""
        told = [record.name, record.levelno, str(record.msg), list(record.args or ())]
        _send(self._stream, _LOG, json.dumps(told, default=str).encode())


def _send(stream: IO[bytes], kind: bytes, payload: bytes = b"", index: int = 0) -> None:
    stream.write(_HEAD.pack(kind, index, len(payload)))
    stream.write(payload)
    stream.flush()
