"""The node's queue on disk: every state of a series is a folder, every step a rename, so that a kill loses nothing."""

from __future__ import annotations

import filecmp
import json
import logging
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

from ...errors import BioAttError

logger = logging.getLogger(__name__)

_UID = re.compile(r"[0-9][0-9.]{0,63}")  # PS3.5 9.1
_OPEN = ".open"  # in the folder of a series whose association has not ended by A-RELEASE


def is_uid(text: str) -> bool:
    """Whether it is of the form of a UID, and so a safe name of a file."""
    return _UID.fullmatch(text) is not None


@dataclass(frozen=True, kw_only=True)
class Completeness:
    """When a series that is being received counts as complete.

    Args:
        quiet_s: seconds since its last image, longer than any pause of a sender.
        at_release: at the end of its association, without the quiet time.
        patience_s: seconds to wait for the sender to come again where an association was aborted; then the series is
            taken as it is, with a warning.
    """

    quiet_s: float = 30.0
    at_release: bool = False
    patience_s: float = 300.0


@dataclass
class _Arrival:
    last_s: float
    open: set[int] = field(default_factory=set)
    broken: int = 0  # an association was aborted; one of a higher number must be released before all is well again

    def waits_s(self, when: Completeness) -> float | None:
        """Seconds from the last image to complete; None while its association must end first."""
        if self.broken:
            return when.patience_s
        if when.at_release:
            return None if self.open else 0.0
        return when.quiet_s


class StorageQueue:
    """The folder of a node. Only one node may use it at a time.

    ::

        QUEUE/
          lock                      held by the running node
          scratch/                  what may be deleted at any time
          receiving/UID/source/     images of a series that still arrives, SOPInstanceUID.dcm
          waiting/UID/source/       a complete series
          waiting/UID/tries.json    how often it was begun and sent, when next, why
          waiting/UID/result/       its derived series, to be sent
          failed/UID/               source, result if there is one, and why.json
          sent.jsonl                a line for each series that was sent on

    Args:
        root: the folder; made, readable by its owner alone, since images of patients lie in it.
        clock: seconds that never go back.
    """

    def __init__(self, root: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.root = root.absolute()
        self.scratch, self.receiving, self.waiting, self.failed = (
            self.root / name for name in ("scratch", "receiving", "waiting", "failed")
        )
        self._clock = clock
        self._guard = threading.RLock()
        self._arrivals: dict[str, _Arrival] = {}
        self._numbers = count()

    def open(self) -> None:
        """Take it for this process: make the folders, clear what a kill left half done, find what was being received.

        Raises:
            BioAttError: another node uses it, or it cannot be made.
        """
        from filelock import FileLock, Timeout

        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = FileLock(self.root / "lock")
            self._lock.acquire(timeout=2)
            shutil.rmtree(self.scratch, ignore_errors=True)
            for folder in (self.scratch, self.receiving, self.waiting, self.failed):
                folder.mkdir(mode=0o700, exist_ok=True)
        except Timeout as error:
            raise BioAttError(f"a node runs on queue {self.root}; stop it, or choose another --queue") from error
        except OSError as error:
            raise BioAttError(f"queue {self.root} cannot be made ({error.strerror}); choose another folder") from error
        now = self._clock()
        for folder in self.receiving.iterdir():
            self._arrivals[folder.name] = _Arrival(now, broken=-1 if (folder / _OPEN).exists() else 0)

    def close(self) -> None:
        """Let another node have it."""
        self._lock.release()

    def free_bytes(self) -> int:
        """Room on the disk."""
        return shutil.disk_usage(self.root).free

    def new_file(self) -> Path:
        """A path of its own for a file that is being received."""
        with self._guard:
            return self.scratch / f"{next(self._numbers)}.dcm"

    def store(self, file: Path, series_uid: str, instance_uid: str, association: int) -> None:
        """Take a received file into its series; when this returns, it survives a kill and a power cut.

        The same instance once more replaces the first.

        Args:
            file: closed and synced, of `new_file`.
            association: number of the association that it came by.

        Raises:
            BioAttError: a UID is none.
            OSError: the disk does not take it.
        """
        for uid in (series_uid, instance_uid):
            if not is_uid(uid):
                raise BioAttError("SeriesInstanceUID or SOPInstanceUID is not a UID; expected digits and dots")
        with self._guard:
            folder = self.receiving / series_uid
            arrival = self._arrivals.get(series_uid) or _Arrival(self._clock())
            if association not in arrival.open:
                (folder / "source").mkdir(mode=0o700, parents=True, exist_ok=True)
                (folder / _OPEN).touch()
                sync_folder(folder)
                sync_folder(self.receiving)
                arrival.open.add(association)
            self._arrivals[series_uid] = arrival  # now that it has a folder, which a full disk may not give
            target = folder / "source" / f"{instance_uid}.dcm"
            if target.exists() and not filecmp.cmp(file, target, shallow=False):
                logger.warning("series %s: %s came again with other content, which counts", series_uid, instance_uid)
            os.replace(file, target)
            sync_folder(folder / "source")
            arrival.last_s = self._clock()

    def end_association(self, association: int, *, released: bool) -> None:
        """Note that an association ended: by A-RELEASE, or broken off."""
        with self._guard:
            for uid, arrival in self._arrivals.items():
                if association in arrival.open:
                    if not released:
                        arrival.broken = max(arrival.open)
                    elif association > arrival.broken:
                        arrival.broken = 0
                    arrival.open.discard(association)
                    if not arrival.broken and not arrival.open:
                        (self.receiving / uid / _OPEN).unlink(missing_ok=True)

    def take_complete(self, when: Completeness) -> list[str]:
        """Move each series that is complete to those that wait; return their names."""
        moved = []
        with self._guard:
            for uid, arrival in list(self._arrivals.items()):
                wait = arrival.waits_s(when)
                if wait is not None and self._clock() - arrival.last_s >= wait and self._move(uid, arrival):
                    del self._arrivals[uid]
                    moved.append(uid)
        return moved

    def jobs(self) -> list[Job]:
        """The series that wait, longest first."""
        found = []
        for folder in self.waiting.iterdir():
            try:
                found.append((folder.stat().st_mtime, folder))
            except FileNotFoundError:  # sent just now
                continue
        return [Job(self, folder) for _, folder in sorted(found)]

    def retry_failed(self) -> int:
        """Let all that failed wait again; return how many there are."""
        again = [folder for folder in self.failed.iterdir() if not (self.waiting / folder.name).exists()]
        for folder in again:
            os.rename(folder, self.waiting / folder.name)
        return len(again)

    def discard(self, folder: Path) -> None:
        """Remove a folder in one step."""
        grave = self.new_file()
        os.rename(folder, grave)
        shutil.rmtree(grave, ignore_errors=True)

    def _move(self, uid: str, arrival: _Arrival) -> bool:
        """Move a received series on, to the rest of it if that waits; False while work on that has begun."""
        folder, target = self.receiving / uid, self.waiting / uid
        if not any((folder / "source").glob("*.dcm")):  # a kill came before its first image
            self.discard(folder)
            return True
        if Job(self, target).is_begun:
            if not _same_files(folder / "source", target / "source"):
                return False
            logger.info("series %s: received again, the same files as those waiting", uid)
            self.discard(folder)
            return True
        if arrival.broken:
            logger.warning("series %s: it broke off and was not sent again; taken as it is", uid)
        if target.exists():
            for file in (folder / "source").iterdir():
                os.replace(file, target / "source" / file.name)
            sync_folder(target / "source")
            self.discard(folder)
            return True
        (folder / _OPEN).unlink(missing_ok=True)
        os.rename(folder, target)
        sync_folder(self.waiting)
        return True


@dataclass(frozen=True)
class Job:
    """A series that waits for being denoised or sent."""

    queue: StorageQueue
    folder: Path

    @property
    def name(self) -> str:
        """SeriesInstanceUID, with a number where it failed before."""
        return self.folder.name

    @property
    def source(self) -> Path:
        """Its images as received."""
        return self.folder / "source"

    @property
    def result(self) -> Path:
        """Its derived series; the folder is there when it is complete."""
        return self.folder / "result"

    @property
    def is_begun(self) -> bool:
        """Whether work on it has begun, so that nothing can join it."""
        return self.result.exists() or bool(self.tries().get("begun"))

    @property
    def is_to_denoise(self) -> bool:
        """Whether it has no result, and no more of it arrives; one that was sent just now has no source either."""
        arrives = (self.queue.receiving / self.name).exists() and not self.is_begun
        return not self.result.exists() and self.source.exists() and not arrives

    def tries(self) -> dict[str, Any]:
        """What was tried so far."""
        try:
            return json.loads((self.folder / "tries.json").read_text())
        except (OSError, ValueError):  # none yet; or cut short by a power failure
            return {}

    def note(self, **known: Any) -> None:
        """Keep what was tried, beside what is known already."""
        with synced(self.folder / "tries.json", self.queue.new_file()) as file:
            file.write(json.dumps(self.tries() | known).encode())

    def is_due(self, now: float, longest_s: float) -> bool:
        """Whether it may be tried now, of `time.time`; a clock that was set back makes it wait `longest_s` at most."""
        return not 0 < self.tries().get("next", 0) - now <= longest_s

    def fail(self, why: str) -> None:
        """Put it among the failed, with the reason; nothing of it is deleted."""
        logger.error("series %s: failed, %s", self.name, why)
        for left in ("tries.json", _OPEN):
            (self.folder / left).unlink(missing_ok=True)
        with synced(self.folder / "why.json", self.queue.new_file()) as file:
            file.write(json.dumps({"why": why, "at": time.strftime("%Y-%m-%dT%H:%M:%S%z")}, indent=2).encode() + b"\n")
        target, numbers = self.queue.failed / self.name, count(2)
        while target.exists():
            target = self.queue.failed / f"{self.name}-{next(numbers)}"
        os.rename(self.folder, target)
        sync_folder(self.queue.failed)

    def finish(self, **record: Any) -> None:
        """Write it into the book of what was sent, and remove it.

        A disk that is too full for the book does not keep it: it would be sent again and again, and never make room.
        """
        try:
            with (self.queue.root / "sent.jsonl").open("a") as book:
                book.write(json.dumps({"series": self.name, **record}) + "\n")
                book.flush()
                os.fsync(book.fileno())
        except OSError as error:
            logger.error("series %s: sent, but sent.jsonl cannot be written (%s)", self.name, error.strerror)
        self.queue.discard(self.folder)


@contextmanager
def synced(target: Path, partial: Path) -> Iterator[BinaryIO]:
    """Yield `partial`, open for writing; when the block ends it is on the disk, and takes the place of `target`.

    An error removes it, and leaves `target` as it was.
    """
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def sync_folder(folder: Path, *, files: bool = False) -> None:
    """Have the disk know the names in a folder, and what is in its files."""
    for path in [*(sorted(folder.iterdir()) if files else ()), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _same_files(one: Path, other: Path) -> bool:
    """Whether two folders hold the same files."""
    names = {path.name for path in one.iterdir()}
    _, *unlike = filecmp.cmpfiles(one, other, names, shallow=False)
    return names == {path.name for path in other.iterdir()} and not any(unlike)
