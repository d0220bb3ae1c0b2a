"""Which patients train, which validate and which test: drawn once, kept in a file, and used again."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import BioAttError
from ..staging import write_json
from .layouts import PARTS
from .studies import Collection

logger = logging.getLogger(__name__)

BY_PATIENT = "patient"
WITHIN_PATIENT = "within_patient"
#: The config key that names the patients of a part.
KEYS = dict(zip(PARTS, ("train_patients", "validation_patients", "test_patients"), strict=True))


@dataclass(frozen=True, kw_only=True)
class Split:
    """Who is in which part.

    Args:
        kind: ``patient``, or ``within_patient``: all patients are in all parts, with other slices.
        parts: pseudonyms in ``train``, ``validate`` and ``test``; one named twice counts twice.
        fractions: of ``within_patient``, the parts' shares of each patient's slices.
    """

    kind: str
    parts: dict[str, tuple[str, ...]]
    fractions: tuple[float, ...] = ()

    def patients(self, part: str) -> tuple[str, ...]:
        """Pseudonyms of one part. Where nobody was kept for the test, it is made on those that validate.

        Raises:
            BioAttError: there are none.
        """
        found = self.parts[part]
        if not found and part == "test":
            logger.warning("no patient is left for the test, so those that validated are taken; name test_patients")
            return self.patients("validate")
        if not found:
            raise BioAttError(f"no patient is left to {part} on; name some in {KEYS[part]}, or leave others out")
        return found

    def slices(self, part: str, count: int) -> range:
        """Which of `count` slices, from inferior to superior, of each study of a patient belong to `part`."""
        if self.kind != WITHIN_PATIENT:
            return range(count)
        ends = [round(count * sum(self.fractions[: i + 1]) / sum(self.fractions)) for i in range(len(PARTS))]
        position = PARTS.index(part)
        return range(ends[position - 1] if position else 0, ends[position])


def make_split(
    studies: Collection,
    *,
    file: str | os.PathLike[str],
    split: str = BY_PATIENT,
    fractions: Sequence[float] = (0.64, 0.16, 0.2),
    seed: int = 0,
    train_patients: Sequence[str] = (),
    validation_patients: Sequence[str] = (),
    test_patients: Sequence[str] = (),
    needed: Sequence[str] = (),
) -> Split:
    """Split by patient: as named, else as `file` says, else as the datalist says, else drawn by `seed`.

    Args:
        file: JSON with the split, in pseudonyms; written where there is none, and never changed.
        split: ``patient``; or ``within_patient``, the paper's (arXiv 2504.01662): of each patient the first slices
            train, the next validate, the last test. It shows every patient in training; for reproduction only.
        fractions: shares of train, validate and test. The default is the paper's, which splits slices by it.
        train_patients, validation_patients, test_patients: folder names or pseudonyms, which override the file; once
            any are named, all others train unless `train_patients` is named too.
        needed: parts that must not be empty.

    Raises:
        BioAttError: nobody in a part that is needed; a patient in two parts, unknown or no longer there; unusable
            fractions, `split` or file.
    """
    if split not in (BY_PATIENT, WITHIN_PATIENT):
        raise BioAttError(f"split is {split!r}; use {BY_PATIENT}, or {WITHIN_PATIENT} to reproduce the paper's")
    if len(fractions) != len(PARTS) or min(fractions) < 0 or not 0 < sum(fractions) < 1.001 or not fractions[0]:
        raise BioAttError(
            f"split_fractions is {list(fractions)}; give three shares of train, validate and test that sum to 1, "
            "e.g. [0.64, 0.16, 0.2]"
        )
    named = dict(zip(PARTS, map(studies.pseudonyms, (train_patients, validation_patients, test_patients)), strict=True))
    if split == WITHIN_PATIENT:
        if any(named.values()):
            raise BioAttError(f"{WITHIN_PATIENT} takes all patients for all parts; name none, or use split=patient")
        logger.warning(
            "split within patients, as the paper does: patients that train also validate and test; results say "
            "nothing about new patients"
        )
        everyone = tuple(studies.patients)
        return Split(kind=split, parts=dict.fromkeys(PARTS, everyone), fractions=tuple(fractions))
    path = Path(file)
    kept = _read(path) if path.exists() else None
    if any(named.values()):
        kept_out = named["validate"] + named["test"]
        parts = named | {"train": named["train"] or [one for one in studies.patients if one not in kept_out]}
        if kept is not None and kept != parts:
            logger.warning("%s holds another split; the patients named override it", path)
    else:
        parts = kept or _own_split(studies) or _draw(studies.patients, fractions, seed)
    _check(parts, studies, path)
    drawn = Split(kind=split, parts={part: tuple(parts[part]) for part in PARTS})
    for part in needed:
        drawn.patients(part)
    if kept is None:
        write_json(path, parts)
    return drawn


def _own_split(studies: Collection) -> dict[str, list[str]] | None:
    """The split of a datalist, if it names who validates."""
    parts = {
        part: list(dict.fromkeys(study.patient for study in studies.studies if study.entry.part == part))
        for part in PARTS
    }
    return parts if parts["validate"] else None


def _draw(patients: Sequence[str], fractions: Sequence[float], seed: int) -> dict[str, list[str]]:
    """Draw the parts: one patient each as far as they go, the others to where most are wanting.

    Patients are put in the order of a digest with the seed: the same on every machine and with every library.
    """
    order = sorted(patients, key=lambda patient: hashlib.sha256(f"{seed}:{patient}".encode()).hexdigest())
    parts: dict[str, list[str]] = {part: [] for part in PARTS}
    wanted = {part: share * len(order) / sum(fractions) for part, share in zip(PARTS, fractions, strict=True)}
    for patient in order:
        empty = [part for part in PARTS if wanted[part] and not parts[part]]
        parts[empty[0] if empty else max(PARTS, key=lambda part: wanted[part] - len(parts[part]))].append(patient)
    return {part: sorted(chosen) for part, chosen in parts.items()}


def _check(parts: dict[str, list[str]], studies: Collection, path: Path) -> None:
    """Nobody in two parts, everybody there; say who is in none."""
    for i, one in enumerate(PARTS):
        for other in PARTS[i + 1 :]:
            both = sorted(set(parts[one]) & set(parts[other]))
            if both:
                names = ", ".join(studies.folders.get(patient, patient) for patient in both)
                raise BioAttError(f"patients {names} are in {KEYS[one]} and {KEYS[other]}; keep them in one")
    everyone = {patient for chosen in parts.values() for patient in chosen}
    missing = sorted(everyone - set(studies.patients))
    if missing:
        raise BioAttError(
            f"the split {path} names {', '.join(missing)}, not found in {studies.source}; bring the data back, or "
            "name another split_file for a new split"
        )
    left_out = sorted(set(studies.patients) - everyone)
    if left_out:
        logger.warning("in no part of the split, so not used: %s", ", ".join(left_out))


def _read(path: Path) -> dict[str, list[str]]:
    try:
        known = json.loads(path.read_text())
        parts = {part: list(known[part]) for part in PARTS}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BioAttError(
            f"split file {path} cannot be read ({error}); restore it, or name another split_file for a new split"
        ) from error
    if not all(isinstance(patient, str) for chosen in parts.values() for patient in chosen):
        raise BioAttError(f"split file {path} must list pseudonyms; restore it, or name another split_file")
    return parts
