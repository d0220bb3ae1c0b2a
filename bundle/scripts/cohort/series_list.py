"""The list of a cohort: which series there are, and where their results go."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
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

    Columns may be parted by semicolons or tabs. Without outputs, a result is named like the last part of its input,
    without the suffix of its format. A third column, series, names one of several series in a folder, by UID or number.

    Raises:
        BioAttError: unreadable, empty, a CSV without these columns, or two results at one place or outside.
    """
    file, root = Path(list_file), Path(output_dir)
    whole = root.absolute()
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BioAttError(f"list {file} is not text in UTF-8; save it as that") from error
    except OSError as error:
        raise BioAttError(f"list {file} cannot be read ({error}); name a text file with one path per line") from error
    if file.suffix.lower() in (".csv", ".tsv"):
        lines = text.splitlines() or [""]
        parted = next((sign for sign in ",;\t" if sign in lines[0]), ",")  # as spreadsheets of several countries write
        try:
            names, *cells = csv.reader(lines, delimiter=parted, skipinitialspace=True)
        except csv.Error as error:
            raise BioAttError(f"list {file} cannot be read ({error}); export it again as CSV") from error
        names = [name.strip().lower() for name in names]
        if not {"input", "output"} <= set(names):
            raise BioAttError(f"{file} must have the columns input and output, it has {names}; add them")
        table = [dict(zip(names, map(str.strip, row), strict=False)) for row in cells if any(map(str.strip, row))]
        rows = [tuple(row.get(name, "") for name in ("input", "output", "series")) for row in table]
    else:
        lines = (line.strip() for line in text.splitlines())
        rows = [(line, _name(line), "") for line in lines if line and not line.startswith("#")]
    if not rows:
        raise BioAttError(f"{file} names no series; write one path per line")
    jobs, places, above = [], {}, {}  # whose result is there, and whose are below
    for source, name, series in rows:
        if "\0" in source + name:
            raise BioAttError(f"{file}: {source!r} has a zero byte, which no path has; write the list again")
        target = Path(os.path.normpath(root / name))
        if not source or not name or whole not in target.absolute().parents:
            raise BioAttError(
                f"{file}: the result of {source!r} would be {name!r}, wanted a folder in {root}; name one"
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
        jobs.append(Job(source=file.absolute().parent / source, target=target.absolute(), series=series))
    return jobs


def _name(source: str) -> str:
    """Last part of a path, without the suffix of a format."""
    return Path(source).name.removesuffix(suffix_of(source))
