"""Results are made beside their place and moved there whole: a folder is either the old or the new one.

A folder that is there and empty, such as a mount point, stays itself: it is filled from a hidden folder in it when all
is made.
"""

from __future__ import annotations

import ctypes
import errno
import json
import math
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import BioAttError, causes

_LEFT = re.compile(r"\.partial-[0-9a-f]{16}")
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of Linux: paths from the working folder; let two names change places


def check_output_folder(target: str | os.PathLike[str], overwrite: bool) -> Path:
    """Return `target` as a path if results may be put there.

    Raises:
        BioAttError: it exists with something in it (and `overwrite` is false), is a file, or cannot be written.
    """
    folder = Path(target)
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise BioAttError(f"output {folder} is not a folder; name a folder that does not exist yet")
    if _is_empty(folder):
        if not os.access(folder, os.W_OK | os.X_OK):
            raise BioAttError(f"output folder {folder} cannot be written: no permission; choose another place")
        return folder
    if folder.exists() and not overwrite:
        raise BioAttError(f"output folder {folder} exists; name another one, or replace it whole with --overwrite")
    parent = next(p for p in folder.absolute().parents if p.exists())
    if not parent.is_dir():
        raise BioAttError(f"output folder {folder} cannot be created: {parent} is a file; choose another place")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise BioAttError(f"output folder {folder} cannot be created: no permission to write in {parent}")
    return folder


def _is_empty(folder: Path) -> bool:
    """Whether a folder is there and holds nothing but what a run left that was killed."""
    if not folder.is_dir():
        return False
    try:
        return all(_LEFT.fullmatch(entry.name) for entry in folder.iterdir())
    except OSError:  # who may not look into it learns that from the check of its permissions
        return True


def check_output_file(
    target: str | os.PathLike[str], overwrite: bool, read: Callable[[Path], object] | None = None, what: str = ""
) -> Path:
    """Return `target` as a path if a file may be put there.

    Args:
        read: reads a file that may be replaced, `what` it is; none where any may be.

    Raises:
        BioAttError: it exists (and `overwrite` is false, or `read` does not take it), or its folder does not.
    """
    file = Path(target)
    if file.exists() and not overwrite:
        raise BioAttError(f"{file} exists; name another file, or replace it with --overwrite")
    if read is not None and file.exists():
        try:
            read(file)
        except BioAttError as error:
            raise BioAttError(f"{file} is not {what}, and is not replaced; name another file") from error
    if not file.absolute().parent.is_dir():
        raise BioAttError(f"{file} cannot be written: its folder does not exist; make it, or choose another place")
    return file


def make_folder(folder: Path) -> Path:
    """Make `folder` and those above it, where they are not there yet, and return it.

    Raises:
        BioAttError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BioAttError(f"folder {folder} cannot be made: {error.strerror}; name another") from error
    return folder


@contextmanager
def staged_folder(target: str | os.PathLike[str], overwrite: bool = False) -> Iterator[Path]:
    """Yield an empty folder beside `target` that takes its place when the block ends without an error.

    An existing `target` is replaced whole, and only then. On an error, or on a full disk, nothing of the new
    folder is left and the old one is untouched. A process that is killed may leave a hidden folder
    ``.NAME.partial-...`` beside `target`, which nothing reads and anyone may delete.

    A `target` that is there and empty is filled instead, file by file, from a hidden folder in it: it may be a mount
    point, and what is beside it may be read-only. A process that is killed before leaves ``.partial-...`` in it, which
    the next run passes over; one that is killed while the files are moved leaves some of them.

    Raises:
        BioAttError: see `check_output_folder`, also where another run made `target` meanwhile; or the disk is full or
            the place not writable.
    """
    folder = check_output_folder(target, overwrite)
    is_filled = _is_empty(folder)
    staging = _named(folder.absolute(), "partial") if is_filled else _beside(folder.absolute(), "partial")
    try:
        staging.parent.mkdir(parents=True, exist_ok=True)
        staging.mkdir()
    except OSError as error:
        raise BioAttError(
            f"output folder {folder} cannot be created: {error.strerror}; choose another place"
        ) from error
    try:
        yield staging
        if is_filled:
            _fill(check_output_folder(folder, overwrite=False), staging)
        else:
            _swap(staging, check_output_folder(folder, overwrite))
    except OSError as error:
        raise BioAttError(f"writing {folder} failed: {_why(error)}; nothing was written there") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def staged_file(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a path beside `target` that takes its place when the block ends without an error.

    The path is that of this call alone: several threads, processes or hosts may write one file, the last one stays.

    Raises:
        BioAttError: the folder does not exist, is not writable, or the disk is full.
    """
    file = check_output_file(target, overwrite=True)
    partial = _beside(file, "partial")
    try:
        yield partial
        os.replace(partial, file)
    except OSError as error:
        raise BioAttError(f"writing {file} failed: {_why(error)}; choose another place") from error
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: str | os.PathLike[str], document: dict[str, Any]) -> None:
    """Write `document` whole; NaN and infinity, which JSON has not, become null.

    Raises:
        BioAttError: see `make_folder` and `staged_file`.
    """
    make_folder(Path(path).parent)
    text = json.dumps(_finite(document), indent=2, allow_nan=False) + "\n"
    with staged_file(path) as partial:
        partial.write_text(text)


def _fill(folder: Path, staging: Path) -> None:
    """Move what is in `staging` to `folder`, or, if that fails, nothing of it."""
    moved = []
    try:
        for entry in sorted(staging.iterdir()):
            os.rename(entry, folder / entry.name)
            moved.append(entry)
    except BaseException:
        for entry in moved:
            os.rename(folder / entry.name, entry)
        raise


def is_about_the_disk(error: BaseException | None) -> bool:
    """Whether an error is, or comes from, one of the place where results go: full, broken or read-only."""
    numbers = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)
    return any(isinstance(one, OSError) and one.errno in numbers for one in causes(error))


def _why(error: BaseException) -> str:
    """What the system said; libraries that write files put it into words, and a traceback, of their own."""
    said = (one.strerror for one in causes(error) if isinstance(one, OSError) and one.strerror)
    return next(said, " ".join(str(error).split()))


def _swap(staging: Path, folder: Path) -> None:
    """Move `staging` to `folder`; what stood there is deleted, or put back if the move fails."""
    if not folder.exists():
        os.rename(staging, folder)
        return
    if _exchange(staging, folder):
        return  # what stood there is now at `staging`, which the caller deletes
    old = _beside(folder, "old")  # not there yet: Windows renames onto no folder, not even an empty one
    os.rename(folder, old)
    try:
        os.rename(staging, folder)
    except BaseException:
        os.rename(old, folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Let two folders change places in one step, so that a kill finds the old or the new one; False if unsupported.

    Linux has renameat2, on local file systems. Elsewhere two renames follow each other, and a kill just between them
    leaves the old folder beside its place, as ``.NAME.old-...``.
    """
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError, TypeError):  # another system, or an older C library
        return False
    return renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0


def _beside(place: Path, what: str) -> Path:
    """A hidden name beside `place` that nobody else has."""
    return _named(place.parent, f"{place.name}.{what}")


def _named(folder: Path, what: str) -> Path:
    """A hidden name in `folder` that nobody else has."""
    return folder / f".{what}-{uuid.uuid4().hex[:16]}"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
