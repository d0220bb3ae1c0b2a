"""A process of its own that works on DICOM files, and what is said between it and us.

The decoders of compressed images (OpenJPEG, CharLS, GDCM, libjpeg) are C and C++: what a damaged file does to one of
them, it would do to the server that decodes for others. Records come through a pipe, one at a time, so that no volume
is held twice; what the child logs is logged here.
"""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import pickle
import signal
import struct
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from ..device import keep_freed_memory
from ..errors import BioAttError, causes

#: What a child may map, Python and its libraries included; one file is decoded at a time.
MEMORY_BYTES = 4 << 30
#: For the next record; the frames of an Enhanced CT image are decoded together, a thousand in about a minute.
SECONDS = 180.0
#: Linux's most for any user; a slice fits in, so that neither side waits for each 64 KiB of it.
_PIPE_BYTES = 1 << 20
#: How often the time is looked at.
_WATCH_SECONDS = 0.5
#: Index of the last record of a request; the payload tells what there is to tell at its end.
END = 2**32 - 1

#: What the child sends: it begins, a record, a line of the log, our error, any other error.
_BEGIN, _RECORD, _LOG, _REFUSED, _FAILED = (bytes([letter]) for letter in b"BDLRF")
_HEAD = struct.Struct("<cIQ")  # which of these, index of the record, bytes that follow
_PROGRAM = (
    "import pickle, sys; path, module = pickle.load(sys.stdin.buffer); sys.path[:] = path; "
    "import importlib; importlib.import_module(module).serve(pickle.load(sys.stdin.buffer))"
)


class Child:
    """A process that does requests, one after another, each a name in `jobs` and what that job takes.

    Args:
        memory_bytes: address space of the process (RLIMIT_AS; Windows has no such limit).
        seconds: how long to wait for the next record.

    Raises:
        BioAttError: it does not start.
    """

    def __init__(self, memory_bytes: int = MEMORY_BYTES, seconds: float = SECONDS) -> None:
        self._memory_bytes, self._seconds = memory_bytes, seconds
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),  # each maps memory
        )
        self._deadline, self._late, self._closed = math.inf, False, threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()
        for pipe in (self._process.stdin, self._process.stdout):
            _enlarge(pipe)
        try:
            self._tell((sys.path, __name__))
            self._tell(memory_bytes)
            if self._next(max(seconds, SECONDS)) is None:  # a busy machine takes its time
                raise BioAttError(
                    f"the process that decodes cannot start ({self._end()}); give it more memory, or read the series "
                    "without it"
                )
        except BaseException:
            self.close()
            raise

    def do(self, job: str, given: Any, file: Path) -> Iterator[tuple[int, bytes]]:
        """Index and content of each record that `job` makes of what is `given`; the last index is `END`.

        Args:
            job: a key of `jobs.JOBS`.
            given: what the job takes; plain values where a server may have reloaded classes.

        Raises:
            BioAttError: what the child refused; or it ended, with the name of the file.
        """
        self._tell((job, given))
        index = 0
        while index != END:
            record = self._next(self._seconds)
            if record is None:
                raise BioAttError(
                    f"{file} ended the process that decoded it: {self._end()}, within "
                    f"{self._memory_bytes >> 20} MiB and {self._seconds:g} s; copy the file again, or leave it out"
                )
            index = record[0]
            yield record

    @property
    def is_alive(self) -> bool:
        """Whether it can be given another request."""
        return self._process.poll() is None

    def close(self) -> None:
        """End the process, whatever it does."""
        self._closed.set()
        self._process.kill()
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def _tell(self, what: Any) -> None:
        with suppress(BrokenPipeError):  # a child that died is seen where it is read
            pickle.dump(what, self._process.stdin, pickle.HIGHEST_PROTOCOL)
            self._process.stdin.flush()

    def _next(self, seconds: float) -> tuple[int, bytes] | None:
        """`_next_record`, if it comes within `seconds`; else the process is killed."""
        self._deadline = time.monotonic() + seconds
        try:
            return _next_record(self._process.stdout)
        finally:
            self._deadline = math.inf

    def _watch(self) -> None:
        """Kill the process when its time is over; one thread for all records, since a thread takes as long as one."""
        while not self._closed.wait(_WATCH_SECONDS):
            if time.monotonic() > self._deadline:
                self._late = True
                self._process.kill()
                return

    def _end(self) -> str:
        """How the process ended, in words."""
        code = self._process.wait()
        if self._late:
            return "it took too long"
        if code == errno.ENOMEM:
            return "it ran out of memory"
        if code >= 0:
            return f"exit code {code}"
        with suppress(ValueError):
            return f"killed by {signal.Signals(-code).name}"
        return f"killed by signal {-code}"


def _enlarge(pipe: IO[bytes]) -> None:
    """Let a pipe hold a slice, where the system has that and allows it."""
    with suppress(ImportError, AttributeError, OSError):
        import fcntl

        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


def _next_record(stream: IO[bytes]) -> tuple[int, bytes] | None:
    """Index and content of the next record, or of the begin; None where the child ended."""
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


def serve(memory_bytes: int) -> None:
    """What the child does: the requests that come, whose records go to the standard output."""
    _limit_memory(memory_bytes)
    keep_freed_memory()
    stream = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # decoders print
    from .headers import quiet_pydicom
    from .jobs import JOBS

    package = logging.getLogger(__package__.rpartition(".")[0])
    package.addHandler(_Sender(stream))
    package.setLevel(logging.INFO)
    try:
        _send(stream, _BEGIN)
        with quiet_pydicom():
            for job, given in _requests(sys.stdin.buffer):
                for index, payload in JOBS[job](given):
                    _send(stream, _RECORD, payload, index)
    except BrokenPipeError:
        raise SystemExit(1) from None  # nobody wants it any more
    except Exception as error:
        if any(isinstance(one, MemoryError) for one in causes(error)):
            raise SystemExit(errno.ENOMEM) from None
        if isinstance(error, BioAttError):
            _send(stream, _REFUSED, str(error).encode())
            return
        _send(stream, _FAILED, traceback.format_exc().encode())


def _requests(stream: IO[bytes]) -> Iterator[tuple[str, Any]]:
    """What is asked, until nobody asks any more."""
    with suppress(EOFError):
        while True:
            yield pickle.load(stream)


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
