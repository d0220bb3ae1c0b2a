"""Several processes that work on the files of a series side by side: Python's threads do not share that work."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any

from .child import MEMORY_BYTES, SECONDS, Child

#: Files for which another process pays: its start takes as long as reading and writing twenty of them.
FILES_EACH = 40
#: Beyond these the one that puts slices in their places is what takes time.
MOST = 8


def have_same_hu_isolated(pairs: Sequence[tuple[Path, Path]]) -> list[bool]:
    """`pixels.have_same_hu` of each pair of files, in a process of its own.

    Raises:
        BioAttError: see `FileProcesses.each`, with the second file of the pair.
    """
    requests = [(second, (first, second)) for first, second in pairs]
    return [json.loads(same) for _, _, same in FileProcesses(isolated=True).each("same", requests, 1)]


class FileProcesses(AbstractContextManager["FileProcesses"]):
    """Processes that decode and write the files of a series, each a file at a time; within limits, see `Child`.

    They start when there is work for them, and end with the outermost ``with``.

    Args:
        limit: how many at most, e.g. as many as there are cores; `MOST` in any case.
        isolated: use one even where that is not faster, so that a decoder that crashes does not end this process.
        memory_bytes, seconds: see `Child`.
    """

    def __init__(
        self, limit: int = 1, *, isolated: bool = False, memory_bytes: int = MEMORY_BYTES, seconds: float = SECONDS
    ) -> None:
        self.limit = limit
        self.isolated = isolated
        self._settings = memory_bytes, seconds
        self._children: list[Child] = []
        self._depth = 0
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """What makes another one: running processes stay here."""
        memory_bytes, seconds = self._settings
        return {"limit": self.limit, "isolated": self.isolated, "memory_bytes": memory_bytes, "seconds": seconds}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)

    def count(self, files: int) -> int:
        """How many processes share the work on so many files; 0 where it is better done here."""
        several = min(self.limit, MOST, files // FILES_EACH)
        return several if several > 1 else int(self.isolated)

    def each(self, job: str, requests: Iterable[tuple[Path, Any]], files: int) -> Iterator[tuple[Path, int, bytes]]:
        """File, index and content of each record of `job`, see `jobs`, in the order in which they are ready.

        Args:
            job: what is done with each file.
            requests: each file, and what the job takes for it.
            files: how many requests there are; where `count` says 0, they are done in this process.

        Raises:
            BioAttError: what a process refused, or how it ended; the others end as well.
        """
        if not self.count(files):
            from .jobs import JOBS

            for file, given in requests:
                yield from ((file, index, payload) for index, payload in JOBS[job](given))
            return
        with self:
            ready: queue.Queue[Any] = queue.Queue(2 * MOST)
            stop = threading.Event()
            waiting, lock = iter(requests), threading.Lock()

            def put(what: Any) -> None:
                while not stop.is_set():
                    try:
                        return ready.put(what, timeout=0.1)
                    except queue.Full:
                        continue

            def next_request() -> tuple[Path, Any] | None:
                with lock:
                    return next(waiting, None)

            def work() -> None:
                try:
                    with self._lock:
                        child = self._children.pop() if self._children else None
                    if child and not child.is_alive:  # killed since its last request, e.g. for memory
                        child.close()
                        child = None
                    child = child or Child(*self._settings)
                    try:
                        while not stop.is_set() and (request := next_request()) is not None:
                            file, given = request
                            for index, payload in child.do(job, given, file):
                                put((file, index, payload))
                    except BaseException:
                        child.close()
                        raise
                    with self._lock:
                        self._children.append(child)
                    put(None)
                except BaseException as error:
                    put(error)

            threads = [threading.Thread(target=work, daemon=True) for _ in range(self.count(files))]
            for thread in threads:
                thread.start()
            try:
                running = len(threads)
                while running:
                    record = ready.get()
                    if isinstance(record, BaseException):
                        raise record
                    if record is None:
                        running -= 1
                    else:
                        yield record
            finally:
                stop.set()
                for thread in threads:
                    thread.join()

    def __enter__(self) -> FileProcesses:
        with self._lock:
            self._depth += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._depth -= 1
            children, self._children = (self._children, []) if self._depth == 0 else ([], self._children)
        for child in children:
            child.close()
