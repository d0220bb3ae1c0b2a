"""Read files where they lie: on the disk, or in a zip, which is never unpacked.

A file in an archive has the path of the archive followed by its name there, e.g. ``study.zip/series3/IM0001``. It is
inflated as it is read, and nothing is written anywhere: no path in an archive can lead out of it, and one that grows
without end costs no disk, and no more memory than one of its files may have.
"""

from __future__ import annotations

import errno
import io
import os
import re
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ..errors import BioAttError

#: Of a file that is inflated; one that is stored as it is has no limit but the size of its archive.
MAX_INFLATED_BYTES = 1 << 29
MAX_FILES = 200_000  # a study of CT has some thousands
_SUFFIX = ".zip"
_ENCRYPTED = 1  # bit of the flags of a file (APPNOTE.TXT 4.4.4)


class _Archive(NamedTuple):
    """An open zip, its files by name, and those that are not read, with the reason."""

    zip: zipfile.ZipFile
    files: dict[str, zipfile.ZipInfo]
    refused: dict[str, str]


def is_archive(path: Path) -> bool:
    """Whether `path` is a file that is a zip by its name."""
    return path.suffix.lower() == _SUFFIX and path.is_file()


def names_in(archive: Path) -> tuple[list[str], dict[str, str]]:
    """Names of the files in an archive, sorted, and of those that are not read, with the reason.

    Raises:
        BioAttError: it is damaged, locked, or holds what only a hostile one does: a path that leads out of it, the same
            path twice, more than `MAX_FILES` files.
    """
    opened = _open(archive)
    return sorted(opened.files), opened.refused


def open_raw(file: Path) -> tuple[io.RawIOBase, int]:
    """A file on the disk or in an archive, open to be read, and its size in bytes.

    Raises:
        OSError: it cannot be read, or is damaged in its archive.
        BioAttError: see `names_in`.
    """
    archive = _archive_of(file)
    if archive is None:
        stream = io.FileIO(file)
        return stream, os.fstat(stream.fileno()).st_size
    opened = _open(archive)
    info = opened.files.get(file.relative_to(archive).as_posix())
    if info is None:
        raise FileNotFoundError(errno.ENOENT, "the archive holds no such file", str(file))
    try:
        with _damage_told():
            return _Inflated(opened.zip.open(info), str(file)), info.file_size
    except ValueError as error:  # its table leads to a place before the file's begin
        raise _damage() from error


class _Inflated(io.RawIOBase):
    """A file in an archive as a stream; damage is an OSError, as on a disk."""

    def __init__(self, stream: zipfile.ZipExtFile, name: str) -> None:
        super().__init__()
        self._stream, self.name = stream, name

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        with _damage_told():
            return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        with _damage_told():
            return self._stream.readinto1(buffer)

    def close(self) -> None:
        self._stream.close()
        super().close()


@contextmanager
def _damage_told() -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise _damage() from error
    except OSError as error:
        raise (_damage() if error.errno == errno.EINVAL else error) from error


def _damage() -> OSError:
    return OSError(errno.EIO, "it is damaged in its archive, copy that again")


def _archive_of(file: Path) -> Path | None:
    """The archive that a path leads into; None for a path on the disk."""
    if _SUFFIX not in str(file).lower():
        return None
    return next((parent for parent in file.parents if is_archive(parent)), None)


def _open(archive: Path) -> _Archive:
    try:
        state = archive.stat()
        # A process made by fork would share the place in the file with its parent, so each opens its own.
        return _opened(str(archive.resolve()), state.st_mtime_ns, state.st_size, os.getpid())
    except OSError as error:
        raise BioAttError(f"{archive} cannot be read: {error.strerror}; check the file and its permissions") from error
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError) as error:
        raise BioAttError(f"{archive} is not a zip file, or is damaged; copy it again, or unpack it") from error


@lru_cache(maxsize=8)
def _opened(archive: str, changed: int, size: int, process: int) -> _Archive:
    """Open an archive and look through its table once, however many of its files are read."""
    opened = zipfile.ZipFile(archive)
    entries = [info for info in opened.infolist() if not info.is_dir()]
    if len(entries) > MAX_FILES:
        raise BioAttError(f"{archive} holds {len(entries)} files, expected at most {MAX_FILES}; unpack what you need")
    files: dict[str, zipfile.ZipInfo] = {}
    refused: dict[str, str] = {}
    for info in entries:
        name = _name(info, archive)
        if name in files or name in refused:
            raise BioAttError(f"{archive} holds {name} twice; pack it again")
        if info.flag_bits & _ENCRYPTED:
            raise BioAttError(f"{archive} is locked by a password; unpack it, and name the folder")
        if why := _refusal(info):
            refused[name] = why
        else:
            files[name] = info
    return _Archive(opened, files, refused)


def _name(info: zipfile.ZipInfo, archive: str) -> str:
    """The path of a file below its archive."""
    path = PurePosixPath(info.filename.replace("\\", "/"))  # as some programs of Windows write it
    if path.is_absolute() or ".." in path.parts or re.match("$|[A-Za-z]:", path.as_posix()):  # C:, as Windows has it
        raise BioAttError(f"{archive} holds a path that leads out of it; do not trust it, ask where it is from")
    return path.as_posix()


def _refusal(info: zipfile.ZipInfo) -> str:
    """Why a file is not read; "" where it is."""
    if stat.S_ISLNK(info.external_attr >> 16):
        return "is a link, which leads nowhere in an archive"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "is compressed by a method that is not read here; unpack the archive"
    if info.compress_type == zipfile.ZIP_DEFLATED and info.file_size > MAX_INFLATED_BYTES:
        return f"grows beyond {MAX_INFLATED_BYTES >> 20} MiB when it is inflated; unpack the archive if you trust it"
    return ""
