"""Tables of priors: one row per slice, found by SOPInstanceUID or file name, never by its place in the table."""

from __future__ import annotations

import csv
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from ..errors import BioAttError
from ..staging import staged_file
from .sources import DESCRIPTORS, PriorSource, SliceKey, check_descriptors, check_slices, digest_of

OWN_COLUMNS = ("file", "slice_index", "sop_instance_uid")
AUTHORS_COLUMNS = ("File_Path",)  # the table published with arXiv 2504.01662
SUM_TOLERANCE = 1e-3
Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class TableRow:
    """One line of a table.

    Args:
        parts: the file's path, split at either kind of separator.
        prior: one number a descriptor, in the asked order.
    """

    line: int
    parts: tuple[str, ...]
    index: int | None
    sop_instance_uid: str
    prior: tuple[float, ...]


class TablePrior:
    """Priors read from a table instead of a model.

    A slice is found by its SOPInstanceUID; where table or slice has none, by file name. Of equal file names the one
    that shares the longer tail of folders with the slice's path is taken. Rows of a volume in one file are told
    apart by slice index. What stays unclear is an error: no slice ever gets another one's prior. (The paper's data
    set looks priors up by running index, and after the first patient takes them from other slices.)

    Args:
        path: a table by `write_prior_table`, or the authors' (``File_Path``, then one column a descriptor).
        descriptors: the K words; the table must have just these, in any order.

    Raises:
        BioAttError: the table is missing or malformed (with the line), or on a call, a slice is not in it.
    """

    looks_at_slices = False

    def __init__(self, path: str | os.PathLike[str], *, descriptors: Sequence[str] = DESCRIPTORS) -> None:
        self.name = f"table:{Path(path).name}"
        self.descriptors = check_descriptors(descriptors)
        self._path = Path(path)
        data, lines = _read(self._path)
        self.digest = digest_of("table", *self.descriptors, data)
        comments = [line for line in lines if line.startswith("#")]
        made_by = comments[0].removeprefix("#").strip() if comments else "model not recorded"
        self.model = f"prior table {self._path.name} ({made_by})"
        self._by_uid: dict[str, TableRow] = {}
        self._by_file: dict[str, list[TableRow]] = {}
        for row in _read_rows(lines, self._path, self.descriptors):
            uid = row.sop_instance_uid
            if uid and self._by_uid.setdefault(uid, row).prior != row.prior:
                raise BioAttError(
                    f"prior table {self._path}, line {row.line}: SOPInstanceUID {uid} has another prior in line "
                    f"{self._by_uid[uid].line}; keep one of the two"
                )
            if row.parts:
                self._by_file.setdefault(row.parts[-1], []).append(row)

    def __call__(self, slices_hu: torch.Tensor, keys: Sequence[SliceKey]) -> torch.Tensor:
        """Return the table's priors `(n, K)` of the slices that `keys` name."""
        check_slices(slices_hu, keys)
        return torch.tensor([self.find(key).prior for key in keys], dtype=torch.float32)

    def find(self, key: SliceKey) -> TableRow:
        """Return the row of a slice.

        Raises:
            BioAttError: it is not in the table, or several rows could be meant.
        """
        if key.sop_instance_uid in self._by_uid:
            return self._by_uid[key.sop_instance_uid]
        rows = self._rows_of_file(key)
        if not rows:
            raise BioAttError(
                f"{key} is not in the prior table {self._path}; make a table of this series, or use another --prior"
            )
        if any(row.prior != rows[0].prior for row in rows):
            numbers = ", ".join(str(row.line) for row in rows[:4])
            raise BioAttError(
                f"{key} could be any of the lines {numbers} of the prior table {self._path}: same file name, other "
                "priors; write a table with SOPInstanceUIDs, or keep one patient a table"
            )
        return rows[0]

    def _rows_of_file(self, key: SliceKey) -> list[TableRow]:
        """Rows of the slice's file name, without those known to be another SOP instance.

        Of equal file names, those with the longest common tail; of one volume, the slice's index.
        """
        parts = _split(key.file)
        rows = self._by_file.get(parts[-1], []) if parts else []
        rows = [row for row in rows if not (row.sop_instance_uid and key.sop_instance_uid)]
        longest = max((_common_tail(row.parts, parts) for row in rows), default=0)
        rows = [row for row in rows if _common_tail(row.parts, parts) == longest]
        if not rows:
            return rows
        is_volume = parts[-1].lower().endswith((".nii", ".nii.gz")) or len({row.parts for row in rows}) < len(rows)
        return [row for row in rows if row.index == key.index] if is_volume else rows


def write_prior_table(
    path: str | os.PathLike[str], rows: Iterable[tuple[SliceKey, torch.Tensor]], source: PriorSource
) -> Path:
    """Write a table that `TablePrior` reads back exactly (float32); the file appears whole or not at all.

    Args:
        rows: each slice's key and prior `(K,)`.
        source: what made the priors; its model and digest go into the first line.

    Raises:
        BioAttError: a row is no prior over the source's descriptors, or the place cannot be written.
    """
    target = Path(path)
    title = f"# {source.model}; digest {source.digest}".replace("\r", " ").replace("\n", " ")
    with staged_file(target) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        file.write(title + "\n")
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*OWN_COLUMNS, *source.descriptors])
        for key, prior in rows:
            numbers = [float(value) for value in prior.detach().to("cpu", torch.float32)]
            _check_prior(numbers, len(source.descriptors), str(key))
            writer.writerow([key.file, key.index, key.sop_instance_uid, *map(repr, numbers)])
    return target


def _read(path: Path) -> tuple[bytes, list[str]]:
    """What the file holds, and its lines."""
    try:
        data = path.read_bytes()
        return data, data.decode("utf-8-sig").splitlines()
    except OSError as error:
        raise BioAttError(f"prior table {path} cannot be read: {error.strerror}; give a CSV file") from error
    except UnicodeDecodeError as error:
        raise BioAttError(f"prior table {path} is no UTF-8 text; give a CSV file") from error


def _read_rows(lines: list[str], path: Path, descriptors: tuple[str, ...]) -> Iterator[TableRow]:
    """Yield the rows of a table of either form, each checked."""
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip() and not line.startswith("#")]
    if len(numbered) < 2:
        raise BioAttError(f"prior table {path} holds no rows; give a table with one row per slice")
    first = numbered[0][1]
    # As spreadsheets of some countries write them: semicolons, and then perhaps a comma before the decimals.
    delimiter = ";" if first.count(";") > first.count(",") else ","
    header = next(csv.reader([first], delimiter=delimiter))
    names = AUTHORS_COLUMNS if header[0] == AUTHORS_COLUMNS[0] else OWN_COLUMNS
    _check_header(header, names, descriptors, f"prior table {path}, line {numbered[0][0]}")
    for number, line in numbered[1:]:
        where = f"prior table {path}, line {number}"
        cells = next(csv.reader([line], delimiter=delimiter))
        if len(cells) != len(header):
            raise BioAttError(f"{where}: {len(cells)} columns where {len(header)} are named; correct it")
        row = dict(zip(header, cells, strict=True))
        if delimiter == ";":
            row |= {word: row[word].replace(",", ".") for word in descriptors}
        numbers = [_number(float, row[word], word, where) for word in descriptors]
        _check_prior(numbers, len(descriptors), where)
        # Rounded here once, so that a row compares equal to what was written.
        prior = tuple(torch.tensor(numbers, dtype=torch.float32).tolist())
        cell = row.get("slice_index", "").strip()
        index = _number(int, cell, "slice_index", where) if cell else None
        yield TableRow(number, _split(row[names[0]]), index, row.get("sop_instance_uid", "").strip(), prior)


def _check_header(header: list[str], names: tuple[str, ...], descriptors: tuple[str, ...], where: str) -> None:
    missing = [name for name in names if name not in header]
    if missing:
        raise BioAttError(
            f"{where}: the columns {', '.join(missing)} are missing; a table begins with File_Path, or with "
            f"{', '.join(OWN_COLUMNS)}, followed by one column per descriptor"
        )
    words = [name for name in header if name not in names]
    if sorted(words) != sorted(descriptors):
        raise BioAttError(
            f"{where}: the table is about {len(words)} descriptors ({', '.join(words)}), asked for are "
            f"{len(descriptors)} ({', '.join(descriptors)}); make a table for these"
        )


def _number(kind: type[Number], cell: str, word: str, where: str) -> Number:
    try:
        return kind(cell)
    except ValueError as error:
        what = "a whole number" if kind is int else "a number"
        raise BioAttError(f"{where}: {word} is {cell!r}, not {what}; correct it") from error


def _check_prior(numbers: Sequence[float], count: int, where: str) -> None:
    if len(numbers) != count:
        raise BioAttError(f"{where}: {len(numbers)} numbers for {count} descriptors; give one for each")
    if not all(math.isfinite(number) and number >= 0 for number in numbers):
        raise BioAttError(f"{where}: a prior must be finite and not negative, got {list(numbers)}; correct it")
    if abs(sum(numbers) - 1) > SUM_TOLERANCE:
        raise BioAttError(f"{where}: a prior must sum to 1, got {sum(numbers):.6g}; correct it")


def _split(path: str) -> tuple[str, ...]:
    return tuple(part for part in re.split(r"[\\/]+", path.strip()) if part not in ("", "."))


def _common_tail(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    return len(os.path.commonprefix([one[::-1], other[::-1]]))
