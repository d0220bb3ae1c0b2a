"""The list of a cohort: which series there are, and where their results go."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

from ..errors import BioAttError
from ..volumes.formats import suffix_of

#: In the folder of the results: a row for each series.
TABLE = "cohort.csv"


@dataclass(frozen=True, kw_only=True)
class Job:
    """One series of a cohort.

    Args:
        series: which series of the input, by UID or number, where it holds several.
        settings: config keys for this one, which go before those of all.
    """

    source: Path
    target: Path
    series: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The input, for a message."""
        return f"{self.source}, series {self.series}" if self.series else str(self.source)


def read_list(list_file: str | os.PathLike[str], output_dir: str | os.PathLike[str]) -> list[Job]:
    """The series of a list, in its order. Paths are relative to the list's folder, results to `output_dir`.

    ::

        patients/a/series3           or, as NAME.csv       input,output
        patients/b/low.nii.gz                              patients/a/series3,a
        # a comment                                        patients/b/low.nii.gz,b

    Columns may be parted by semicolons or tabs, paths may begin with ~. Without outputs, a result is named like the
    last part of its input, without the suffix of its format. A third column, series, names one of several series in a
    folder, by UID or number.

    Raises:
        BioAttError: unreadable, empty, a CSV without these columns or with rows that have more, a path of Windows that
            is none here, or two results at one place or outside.
    """
    file, root = Path(list_file), Path(output_dir)
    whole = root.absolute()
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BioAttError(f"list {file} is not text in UTF-8; save it as that") from error
    except OSError as error:
        raise BioAttError(f"list {file} cannot be read ({error}); name a text file with one path per line") from error
    first = set(re.split("[,;\t]", text.partition("\n")[0].lower()))
    if file.suffix.lower() in (".csv", ".tsv") or {"input", "output"} <= first:
        rows = _table(text, file)
    else:
        lines = map(_line, text.split("\n"))
        rows = [(line, _name(line), "") for line in lines if line and not line.startswith("#")]
    if not rows:
        raise BioAttError(f"{file} names no series; write one path per line")
    jobs, places, above = [], {}, {}  # whose result is there, and whose are below
    for source, name, series in rows:
        if "\0" in source + name:
            raise BioAttError(f"{file}: {source!r} has a zero byte, which no path has; write the list again")
        place = file.absolute().parent / os.path.expanduser(source)
        if "\\" in source and os.sep == "/" and not place.exists():
            raise BioAttError(f"{file}: {source} is a path of Windows; write it as this machine has it, with /")
        target = Path(os.path.normpath(root / name))
        if not source or not name or whole not in target.absolute().parents:
            raise BioAttError(
                f"{file}: the result of {source!r} would be {name!r}, expected a folder in {root}; name one"
            )
        if target == root / TABLE:
            raise BioAttError(f"{file}: the result of {source} would be {TABLE}, which is the table's name; change it")
        near = next((places[one] for one in (target, *target.parents) if one in places), above.get(target))
        if near is not None:
            raise BioAttError(
                f"{file}: {source} and {near} would have their results at one place, {target}; name them in "
                "a CSV with the columns input and output"
            )
        places[target] = source
        above |= dict.fromkeys(target.parents, source)
        jobs.append(Job(source=place, target=target.absolute(), series=series))
    return jobs


def _table(text: str, file: Path) -> list[tuple[str, str, str]]:
    """Input, output and series of each row of a CSV."""
    lines = text.split("\n")
    if lines[0].lower().startswith("sep="):  # Excel's own first line
        del lines[0]
    text = "\n".join(lines)
    parted = next((sign for sign in ",;\t" if sign in text.partition("\n")[0]), ",")  # as spreadsheets write
    try:
        names, *cells = csv.reader(StringIO(text), delimiter=parted, skipinitialspace=True, strict=True)
    except ValueError:  # no row at all
        names, cells = [], []
    except csv.Error as error:
        raise BioAttError(f"list {file} cannot be read ({error}); export it again as CSV") from error
    names = [name.strip().lower() for name in names]
    if not {"input", "output"} <= set(names):
        raise BioAttError(f"{file} must have the columns input and output, it has {names}; add them")
    rows = []
    for number, cell in enumerate(cells, 2):
        if any(map(str.strip, cell[len(names) :])):
            raise BioAttError(
                f"{file}: row {number} has {len(cell)} columns, the first row {len(names)}; put a path with "
                f"{parted!r} in quotes"
            )
        row = dict(zip(names, map(str.strip, cell), strict=False))
        if any(row.values()):
            rows.append((row.get("input", ""), row.get("output", ""), row.get("series", "")))
    return rows


def _line(text: str) -> str:
    """A path of a text list, without the quotes in which a file manager copies it."""
    text = text.strip()
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text


def _name(source: str) -> str:
    """Last part of a path, without the suffix of a format or of a zip."""
    name = Path(source).name
    return name[:-4] if name.lower().endswith(".zip") else name.removesuffix(suffix_of(source))
