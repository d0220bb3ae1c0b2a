"""Studies for training: which full and low doses a data set holds, patient by patient, and what was refused and why."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..dicom import find_series
from ..errors import BioAttError
from ..progress import bar
from ..staging import staged_file
from ..volumes.formats import format_of
from ..volumes.regions import region_of_header
from .layouts import Entry, find_entries
from .pairing import Stack, dicom_stack, file_stack, pair_slices

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class Study:
    """One full-dose volume of a patient with its low dose, if that is real; known by headers alone.

    Args:
        patient: pseudonym.
        entry: where it lies.
        full, low: the volumes; no `low` means that it is simulated.
        pairs: slice indices (full, low) at the same place, from inferior to superior; without `low` all of `full`.
        region: ``head``, ``chest``, ``abdomen`` or ``pelvis`` by the header, else ``unknown``.
    """

    patient: str
    entry: Entry
    full: Stack
    low: Stack | None
    pairs: tuple[tuple[int, int], ...]
    region: str


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """What was not taken of a patient, and why; names patient and files by pseudonym and number."""

    patient: str
    what: str
    why: str

    def __str__(self) -> str:
        return f"{self.patient} {self.what}: {self.why}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Collection:
    """The studies of one data set.

    Args:
        folders: folder name of each pseudonym, refused patients included: the key, which no result shows.
    """

    source: Path
    studies: tuple[Study, ...]
    refused: tuple[Refusal, ...]
    folders: dict[str, str]

    @property
    def patients(self) -> list[str]:
        """Pseudonyms of the patients with studies, in the order of their folder names."""
        return list(dict.fromkeys(study.patient for study in self.studies))

    def of(self, patient: str) -> list[Study]:
        """Studies of one pseudonym."""
        return [study for study in self.studies if study.patient == patient]

    def pseudonyms(self, names: Sequence[str]) -> list[str]:
        """Pseudonyms of patients named by folder or pseudonym, in the same order and as often.

        Raises:
            BioAttError: there is no such patient, or nothing of them could be taken.
        """
        known = {name: pseudonym for pseudonym in self.patients for name in (pseudonym, self.folders[pseudonym])}
        missing = sorted(set(names) - set(known))
        if missing:
            refused = [str(one) for one in self.refused if {one.patient, self.folders[one.patient]} & set(missing)]
            why = f" ({'; '.join(refused)})" if refused else ""
            had = ", ".join(self.folders[pseudonym] for pseudonym in self.patients)
            raise BioAttError(f"patients {', '.join(missing)} are not in {self.source}{why}; it has {had}")
        return [known[name] for name in names]


def pseudonym_of(name: str) -> str:
    """A short stable name for a patient, e.g. ``P-3fa2c1d9``, from the name of their folder.

    A digest, so the same on every machine; whoever can guess a folder's name can check the guess.
    """
    return f"P-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def find_studies(
    dataset_dir: str | os.PathLike[str] | Sequence[Mapping[str, Any]], *, progress: bool = True
) -> Collection:
    """Find the studies of a data set in any layout of `layouts`, and pair their slices; only headers are read.

    A study that cannot be used is refused, with its reason, and the others go on; of a study some of whose slices
    have no partner, the others go on.

    Args:
        dataset_dir: folder in one of the layouts, or a MONAI datalist: its file, or items with absolute paths.

    Raises:
        BioAttError: nothing there, nothing usable, or two folder names with one pseudonym.
    """
    entries = find_entries(dataset_dir)
    folders = _key({entry.patient for entry in entries})
    studies: list[Study] = []
    refused: list[Refusal] = []
    seen: dict[str, str] = {}
    with bar(len(entries), "looking through studies", progress and len(entries) > 1, unit="study") as advance:
        for entry in entries:
            for study in _read_entry(entry, refused):
                twice = {seen[uid] for uid in study.full.uids if uid in seen}
                if twice:
                    why = f"the same images as of {', '.join(sorted(twice))}; keep one copy of them"
                    refused.append(Refusal(patient=study.patient, what=f"({entry.title})", why=why))
                    continue
                seen |= dict.fromkeys(study.full.uids, study.patient)
                studies.append(study)
            advance(1)
    source = Path(dataset_dir if isinstance(dataset_dir, (str, os.PathLike)) else "the datalist")
    if not studies:
        raise BioAttError(f"nothing in {source} can be used: {'; '.join(map(str, refused))}")
    return Collection(source=source, studies=tuple(studies), refused=tuple(refused), folders=folders)


def write_key(path: str | os.PathLike[str], collection: Collection) -> None:
    """Write pseudonym -> folder name as JSON, readable by its owner only.

    Raises:
        BioAttError: the file exists or cannot be written.
    """
    if Path(path).exists():
        raise BioAttError(f"{path} exists; name another file for the key")
    with staged_file(path) as partial:
        partial.touch(mode=0o600)
        partial.write_text(json.dumps(collection.folders, indent=2) + "\n")


def describe(collection: Collection) -> str:
    """What was found, a line a study, and what was refused, in pseudonyms."""
    rows = [("patient", "layout", "slices", "thickness", "region", "doses")]
    for study in collection.studies:
        thickness = f"{study.full.thickness_mm:g} mm" if study.full.thickness_mm else "unknown"
        rows.append(
            (
                study.patient,
                study.entry.title,
                str(len(study.pairs)),
                thickness,
                study.region,
                "full and low" if study.low else "full, low to be simulated",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.append(f"{len(collection.patients)} patients, {len(collection.studies)} studies")
    return "\n".join([*lines, *(f"refused {one}" for one in collection.refused)])


def without_names(message: str, places: Sequence[Path | None], pseudonym: str) -> str:
    """`message` with the paths of a patient's files as numbers and of their folder as `pseudonym`.

    Folder and file names may hold names and dates.
    """
    for place in (place for place in places if place is not None):
        files = sorted(place.rglob("*")) if place.is_dir() else []
        for number, file in sorted(enumerate(files, 1), key=lambda one: -len(str(one[1]))):
            message = message.replace(str(file), f"file {number} of {pseudonym}")
        message = message.replace(str(place), pseudonym)
    return message


def _key(names: set[str]) -> dict[str, str]:
    """Folder name of each pseudonym."""
    key: dict[str, str] = {}
    for name in sorted(names):
        if key.setdefault(pseudonym_of(name), name) != name:
            raise BioAttError(
                f"patients {key[pseudonym_of(name)]} and {name} have the same pseudonym {pseudonym_of(name)}; "
                "rename one of the folders"
            )
    return key


def _read_entry(entry: Entry, refused: list[Refusal]) -> Iterator[Study]:
    """The studies of one entry: one, or for a folder of several full-dose series one each."""
    patient = pseudonym_of(entry.patient)

    def refuse(why: object) -> None:
        told = without_names(str(why), (entry.low, entry.full), patient)
        refused.append(Refusal(patient=patient, what=f"({entry.title})", why=told))

    if entry.full is None:
        refuse("a low dose without its full dose; add the full dose")
        return
    problems: list[BioAttError] = []
    try:
        fulls = list(_stacks(entry.full, problems))
        low = _only(list(_stacks(entry.low, None))) if entry.low else None
        if low is not None:
            _only(fulls)
    except BioAttError as error:
        refuse(error)
        return
    for problem in problems:
        refuse(problem)
    for full in fulls:
        try:
            pairs = [(i, i) for i in range(len(full))]
            if low is not None:
                pairs, left_out = pair_slices(full, low)
                for why in left_out:
                    refuse(why)
        except BioAttError as error:
            refuse(error)
            continue
        yield Study(
            patient=patient,
            entry=entry,
            full=full,
            low=low,
            pairs=tuple(pairs),
            region=region_of_header(full.body_part),
        )


def _stacks(path: Path, problems: list[BioAttError] | None) -> Iterator[Stack]:
    """The axial volumes in a file of `formats` or a DICOM folder, of which what cannot be used goes to `problems`."""
    if format_of(path) is not None:
        yield file_stack(path)
        return
    for series in find_series(path, problems):
        try:
            stack = dicom_stack(series, path)
            # A full-dose folder may hold a download with UIDs for folder names; training would take low for full.
            if problems is not None and "low dose" in stack.description.lower():
                raise BioAttError(
                    f"series {series.series_instance_uid} calls itself low dose ({stack.description}); "
                    "download with descriptive folder names, or lay it out as docs/data.md shows"
                )
            yield stack
        except BioAttError as error:
            if problems is None:
                raise
            problems.append(error)


def _only(stacks: list[Stack]) -> Stack:
    """The one volume there must be of a dose."""
    if len(stacks) != 1:
        raise BioAttError(f"{len(stacks)} CT series where a dose has one; keep one series a folder")
    return stacks[0]
