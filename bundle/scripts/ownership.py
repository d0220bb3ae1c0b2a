"""Whether a folder holds results of BioAtt alone, or a file is its report: nothing else is replaced."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from .errors import BioAttError
from .provenance import MANUFACTURER

EXPLAINED = "explain.json"  # names the files beside it
REPORT_TITLE = "CT denoising report"  # of the page that lies beside a result

_HEADERS = {".zraw": ".mhd", ".raw.gz": ".nhdr"}  # of files that hold the values alone
_SYSTEM_FILES = {".DS_Store", "Thumbs.db", "desktop.ini"}  # of file browsers
_DERIVED = re.compile(r"\d{4,}\.dcm")


def check_replaceable(target: str | os.PathLike[str]) -> None:
    """Raise if replacing the folder `target`, where there is one, would delete what BioAtt did not write.

    Results are derived DICOM files that name BioAtt among their equipment, files of other formats with the .json that
    tells what made them, and the files of `bioatt explain`.

    Raises:
        BioAttError: names the first file that is none of these.
    """
    folder = Path(target)
    if not folder.is_dir() or folder.is_symlink():
        return
    foreign = first_foreign(folder)
    if foreign is not None:
        raise BioAttError(
            f"output folder {folder} holds {foreign.relative_to(folder)}, which BioAtt did not write, and is not "
            "replaced; name another folder"
        )


def check_replaceable_report(file: str | os.PathLike[str]) -> None:
    """Raise if replacing the report `file`, where there is one, would delete what BioAtt did not write.

    Raises:
        BioAttError: it is a folder, a link, or no page of `bioatt denoise --report`.
    """
    page = Path(file)
    if not page.exists() and not page.is_symlink():
        return
    if page.is_symlink() or not page.is_file() or f"<title>{REPORT_TITLE}</title>".encode() not in _head(page):
        raise BioAttError(
            f"report {page} would replace what BioAtt did not write, and is not written; name another output folder"
        )


def first_foreign(folder: Path) -> Path | None:
    """The first thing in `folder` that is no result of BioAtt; None where there is none."""
    entries = sorted(folder.iterdir())
    names = {entry.name for entry in entries}
    explained = _explained(folder / EXPLAINED) if EXPLAINED in names else set()
    for entry in entries:
        is_of_system = entry.name in _SYSTEM_FILES or (entry.name.startswith("._") and entry.name[2:] in names)
        if is_of_system and entry.is_file():
            continue
        if not entry.is_file() or entry.is_symlink() or not (entry.name in explained or _is_result(entry)):
            return entry
    return None


def _is_result(file: Path) -> bool:
    """Whether a file is one of a derived series, a volume or the record beside it, or the values of such a header."""
    name = file.name.lower()
    if _DERIVED.fullmatch(name):
        head = _head(file)  # group 0018 stands near the beginning
        return head[128:132] == b"DICM" and MANUFACTURER.encode() in head
    if name.endswith(".json"):
        return file.with_suffix("").is_file() and _is_record(file, file.with_suffix("").name)
    for values, header in _HEADERS.items():
        if name.endswith(values):
            file = file.with_name(file.name[: -len(values)] + header)
    return _is_record(file.with_name(f"{file.name}.json"), file.name)


def _head(file: Path) -> bytes:
    """The first MiB of a file, nothing where it cannot be read."""
    try:
        with open(file, "rb") as stream:
            return stream.read(1 << 20)
    except OSError:
        return b""


def _is_record(file: Path, source: str) -> bool:
    record = _read(file)
    return record.get("source") == source and "bundle" in record and "notice" in record


def _explained(file: Path) -> set[str]:
    """Names of the files of `bioatt explain`, by its record."""
    record = _read(file)
    files, made_by = record.get("files"), record.get("made_by")
    is_ours = isinstance(made_by, dict) and "bundle" in made_by and "notice" in made_by
    return {EXPLAINED, *map(str, files)} if is_ours and isinstance(files, list) else set()


def _read(file: Path) -> dict:
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}
