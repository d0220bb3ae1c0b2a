"""Walk through a folder, name the files that are lost (empty, cut, broken links), and tell which look like slices."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from ..errors import BioAttError, first_few, printable
from .archive import is_archive, names_in, open_raw

_PREAMBLE = 132  # bytes up to the end of "DICM" (PS3.10 7.1)
_MAX_PATH = 4096  # bytes of a path on Linux
#: Behind the name of a slice that was packed, or that a program did not finish to fetch.
_UNFINISHED = (".gz", ".bz2", ".xz", ".zst", ".z", ".zip", ".part", ".partial", ".crdownload", ".tmp", ".download")
_UNFINISHED += (".filepart", ".icloud", ".nextcloud", ".owncloud")
#: Hidden files that a slice leaves: iCloud's in its place, rsync's while it is copied, macOS' beside it on other disks.
_LEFT_OF_SLICE = re.compile(r"\.(?P<icloud>.+)\.icloud|\.(?P<rsync>.+)\.[A-Za-z0-9]{6}|\._(?P<mac>.+)")
_DICOM_SUFFIXES = (".dcm", ".dicom", ".dic", ".ima")


class Loss(NamedTuple):
    """A file that may have been a slice, or led to some.

    Args:
        certain: it is damaged, whatever it was.
        leads_to_folder: slices of any series may lie behind it.
        series: SeriesInstanceUID of the slice that it is known to have been.
    """

    file: Path
    what: str
    certain: bool = True
    leads_to_folder: bool = False
    series: str = ""


class Listing(NamedTuple):
    """What lies below a folder: files, what can be no file, and how many hidden files and folders were passed over."""

    files: list[Path]
    losses: list[Loss]
    hidden: int


def walk(folder: Path) -> Listing:
    """Files below `folder`, or in an archive, in a fixed order, hidden ones and hidden folders passed over.

    Links to folders are followed, each folder once, so that a link to a parent ends nowhere.

    Raises:
        BioAttError: a folder cannot be read, or see `names_in`.
    """
    if is_archive(folder):
        return _walk_archive(folder)

    def refuse(error: OSError) -> None:
        raise BioAttError(f"{error.filename} cannot be read: {error.strerror}; check its permissions") from error

    files, losses, hidden, visited = [], [], 0, set()
    for parent, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        state = os.stat(parent)
        if (state.st_dev, state.st_ino) in visited:
            folders[:] = []
            continue
        visited.add((state.st_dev, state.st_ino))
        hidden += sum(name.startswith(".") for name in [*folders, *names])
        losses += _only_left(Path(parent), names)
        shown = [one for one in folders if not one.startswith(".")]
        # Links behind folders: a folder is met by its own name where it has one here.
        folders[:] = sorted(shown, key=lambda one: (os.path.islink(os.path.join(parent, one)), one))
        for file in (Path(parent, name) for name in sorted(names) if not name.startswith(".")):
            if file.is_file():
                files.append(file)
            else:
                losses.append(Loss(file, "is a broken link" if file.is_symlink() else "is not a regular file"))
    return Listing(files, losses, hidden)


def _only_left(parent: Path, names: list[str]) -> Iterator[Loss]:
    """Slices that are not there, though hidden files tell of them."""
    for name in sorted(names):
        match = _LEFT_OF_SLICE.fullmatch(name)
        slice_name = match[match.lastgroup] if match else ""
        if match and slice_name not in names and _may_be_slice(slice_name):
            yield Loss(parent / slice_name, f"is not here, only {name}", certain=False)


def _walk_archive(archive: Path) -> Listing:
    """Files in an archive; those that are not read are losses."""
    names, refused = names_in(archive)
    shown = [name for name in names if not _is_hidden(name)]
    losses = [Loss(archive / name, why) for name, why in refused.items() if not _is_hidden(name)]
    hidden = len(names) + len(refused) - len(shown) - len(losses)
    return Listing([archive / name for name in shown], losses, hidden)


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def loss_of(file: Path) -> Loss | None:
    """Why a file that is not DICOM may have been a slice: it is empty, holds zeros, is cut short, or is named so."""
    try:
        with io.BufferedReader(open_raw(file)[0]) as stream:
            head = stream.read(_MAX_PATH)
    except OSError as error:
        raise BioAttError(f"{file} cannot be read: {error.strerror}; check the file and its permissions") from error
    if not head:
        return Loss(file, "is empty (0 bytes)")
    if not any(head[:_PREAMBLE]):
        cut = f"is cut short ({len(head)} bytes)" if len(head) < _PREAMBLE else "holds zeros in place of DICOM"
        return Loss(file, cut)
    return _copied_link(file, head) or Loss(file, "is not DICOM", certain=False) if _may_be_slice(file.name) else None


def lost_slices(files: Iterable[Path], losses: Iterable[Loss], owners: Mapping[Path, set[str]], uid: str) -> list[Loss]:
    """Those of `losses` that look like slices of a series, named like its files and beside them, or like a link."""
    places: dict[Path, list[str]] = {}
    for file in files:
        places.setdefault(file.parent, []).append(file.name)
    folders = {_pattern(str(file.parent)) for file in files}
    every = [name for names in places.values() for name in names]
    found = []
    for loss in losses:
        if loss.leads_to_folder or loss.series:
            found += [loss] if loss.series in ("", uid) else []
            continue
        there = owners.get(loss.file.parent, set())
        names = places[loss.file.parent] if uid in there else every
        near = uid in there or (not there and _pattern(str(loss.file.parent)) in folders)
        if near and is_named_like(loss.file.name, names):
            found.append(loss)
    return found


def is_named_like(name: str, slices: list[str]) -> bool:
    """Whether a file is named like slices: by a pattern of letters and numbers, or by the same suffix."""
    suffixes, patterns = {_suffix(one) for one in slices}, {_pattern(one) for one in slices}
    unfinished = Path(name).suffix.lower() in _UNFINISHED
    if unfinished and name.rsplit(".", 1)[0] in slices:  # that slice is there as well
        return False
    for bare in [name, name.rsplit(".", 1)[0]] if unfinished else [name]:
        suffix = _suffix(bare)
        if suffix in suffixes and (suffix or len(patterns) > max(2, len(slices) // 2)):  # else names without a pattern
            return True
        if any(character.isdigit() for character in bare) and _pattern(bare) in patterns:
            return True
    return False


def tell_losses(losses: Iterable[Loss]) -> str:
    """The first of `losses`, in words."""
    return first_few([f"{printable(loss.file)} {loss.what}" for loss in losses], "; ")


def _may_be_slice(name: str) -> bool:
    """Whether a name claims to be a slice: by DICOM's suffixes, or as one that was packed or not fetched whole."""
    bare = name.rsplit(".", 1)[0] if Path(name).suffix.lower() in _UNFINISHED else name
    return Path(bare).suffix.lower() in _DICOM_SUFFIXES or any(letter.isdigit() for letter in bare)


def _copied_link(file: Path, head: bytes) -> Loss | None:
    """A link that was copied as what it says, as git and archives leave them where links are not allowed."""
    if file.suffix.lower() == ".lnk":
        return Loss(file, "is a shortcut of Windows, which is not followed")
    lines = head.splitlines()
    is_mac = lines[0] == b"XSym" and len(lines) > 3  # magic, length, checksum, target
    if len(head) >= _MAX_PATH or not (is_mac or len(lines) == 1):
        return None
    line = lines[3] if is_mac else lines[0]
    if b"/" not in line or not line.isascii():
        return None
    target = file.parent / line.decode("ascii").strip()
    try:
        if not target.exists():
            return None
        return Loss(file, "is the text of a link; make it a link, or a copy", leads_to_folder=target.is_dir())
    except (OSError, ValueError):  # no path after all
        return None


def _suffix(name: str) -> str:
    """Suffix in small letters; "" where what follows the last dot is a number, as in a UID."""
    suffix = Path(name).suffix.lower()
    return "" if suffix[1:].isdigit() else suffix


def _pattern(name: str) -> str:
    """`name` with each run of digits, and of hexadecimal ones among them, replaced."""
    return re.sub(r"[0-9A-Fa-f-]*\d[0-9A-Fa-f-]*", "#", name)
