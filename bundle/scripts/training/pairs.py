"""What training reads: pairs of full and low dose, real or simulated, with the priors of their slices, on disk."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import multiprocessing
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..dose import NoiseMatch
from ..errors import BioAttError
from ..hu import VALID_RANGE_HU, in_valid_range
from ..priors import PriorSource, SliceKey
from ..progress import bar
from ..staging import make_folder, staged_file
from ..volumes.orientation import RadiologicalSlices, radiological_slices
from ..volumes.regions import UNKNOWN, region_of_prior
from ..volumes.scope import Facts
from .pairing import Stack
from .scope import facts_of_study
from .simulated import find_match, match_as_json, read_match, simulate, simulation_recipe
from .splits import Split
from .studies import Collection, Study, without_names

#: Part of the key of cached real pairs; raise it when what is written of them changes.
REAL_VERSION = 1
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CachedPair:
    """One full-dose slice and its low-dose realisations on disk.

    Args:
        path: .npz with ``full`` (H, W) and ``low`` (R, H, W), int16 HU; R is 1 where the low dose is real; and
            ``inside``, the bits of what the method gives.
        priors: (R, K), or dense (R, K, h, w), one per realisation, of the whole low-dose slice.
        patient: pseudonym.
        key: the slice whose priors these are: of the low dose if that is real, else of the full dose.
        uid: its SOPInstanceUID, or what stands for it where there is none.
        region: ``head``, ``chest``, ``abdomen``, ``pelvis`` or ``unknown``.
        dose_fractions: (R,), of the simulated realisations; none where the low dose is real.
        real_dose_fraction: of a real low dose, where the data set tells it, see `Entry`.
    """

    path: Path
    priors: np.ndarray
    patient: str
    key: SliceKey
    uid: str = ""
    region: str = UNKNOWN
    facts: Facts = Facts()
    dose_fractions: tuple[float, ...] = ()
    real_dose_fraction: float | None = None

    def alpha_squared(self, realisation: int) -> float:
        """Variance of the added noise over that of the full dose's own: 1/k - 1 if it is simulated, else infinite."""
        return 1.0 / self.dose_fractions[realisation] - 1.0 if self.dose_fractions else math.inf

    def added_noise(self, realisation: int) -> float:
        """`alpha_squared`, also of a real low dose whose fraction is known; NaN where it is not, or without noise."""
        fraction = self.dose_fractions[realisation] if self.dose_fractions else self.real_dose_fraction
        return 1.0 / fraction - 1.0 if fraction is not None and fraction < 1.0 else math.nan

    def load(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return full (H, W) and low (R, H, W) in HU, int16, and the priors (R, K).

        Raises:
            BioAttError: the file is damaged or gone.
        """
        return (*_whole_pair(self.path), self.priors)

    def inside(self) -> np.ndarray:
        """Where denoising is wanted, (H, W): not where padding or metal was, cached at the ends of the valid range.

        By the HU of the low dose if that is real, else of the full dose; everywhere in a file of 0.7.0 or older.
        """
        full = _whole_pair(self.path)[0]
        with np.load(self.path, allow_pickle=False) as arrays:
            if "inside" not in arrays:
                return np.ones(full.shape, bool)
            return np.unpackbits(arrays["inside"], count=full.size).reshape(full.shape).astype(bool)


def training_pairs(
    studies: Collection,
    split: Split,
    part: str,
    cache_dir: str | os.PathLike[str],
    prior_source: PriorSource,
    *,
    slices_per_patient: int = 0,
    dose_fractions: Sequence[float] = (0.2, 0.2, 0.2),
    views: int = 600,
    seed: int = 0,
    processes: int = 1,
) -> list[dict[str, Any]]:
    """Make, or find in the cache, the pairs of one part, as ``{"pair", "patient", "region", "uid"}`` a slice.

    A real low dose is its one realisation. Where there is none, low doses are simulated, one realisation for each of
    `dose_fractions`, with the filter and the photons that make the noise of the series itself (`match_noise`). Every
    slice is its own file, written whole, under its SOPInstanceUID and a digest of what decides its content: an
    interrupted run goes on where it stopped, and a damaged file is made again.

    Args:
        part: ``train``, ``validate`` or ``test``.
        slices_per_patient: take at most about so many, evenly spread; 0 takes all.
        dose_fractions: one realisation each, in (0, 1].
        views: projection angles over 180 degrees.
        seed: of the noise; the slice's UID goes into it too, so a slice's noise hangs on nothing else.
        processes: how many simulate at a time, each a study.

    Raises:
        BioAttError: the part is empty, a volume cannot be read or holds NaN, a prior is missing, or the disk is full.
            What was cached before is kept.
    """
    patients = split.patients(part)
    for one in studies.refused:
        if one.patient in patients:
            logger.warning("%s %s: refused in part or whole; `bioatt data` says why", one.patient, one.what)
    recipe = simulation_recipe(tuple(dose_fractions), views, seed)
    wanted: list[tuple[Study, list[tuple[int, int]]]] = []
    for patient in dict.fromkeys(patients):
        slices = [
            (study, study.pairs[i]) for study in studies.of(patient) for i in split.slices(part, len(study.pairs))
        ]
        every = math.ceil(len(slices) / slices_per_patient) if slices_per_patient else 1
        slices = slices[every // 2 :: every]
        wanted += [(study, [one for owner, one in slices if owner is study]) for study in studies.of(patient)]
    maker = _Maker(Path(cache_dir), recipe)
    _make_all(maker, wanted, processes)
    made: dict[str, list[CachedPair]] = {patient: [] for patient in patients}
    for study, indices in wanted:
        made[study.patient] += _cached(maker, study, indices, prior_source)
    for patient in made:
        logger.info("%s: %d slices to %s on", patient, len(made[patient]), part)
    if not any(made.values()):
        raise BioAttError(f"the patients to {part} on have too few slices for a split within patients; add slices")
    return [
        {"pair": pair, "patient": pair.patient, "region": pair.region, "uid": pair.uid}
        for patient in patients
        for pair in made[patient]
    ]


def _make_all(maker: _Maker, wanted: list[tuple[Study, list[tuple[int, int]]]], processes: int) -> None:
    """Make the pairs that are not there yet, in several processes if asked to."""
    jobs = [(study, missing) for study, indices in wanted if (missing := maker.missing(study, indices))]
    if processes == 1 or len(jobs) < 2:
        for study, missing in jobs:
            maker.make(study, missing)
        return
    jobs.sort(key=lambda job: -len(job[1]))  # the longest first, so that none runs alone at the end
    with (
        bar(len(jobs), "simulating", unit="study") as advance,
        ProcessPoolExecutor(min(processes, len(jobs)), multiprocessing.get_context("spawn")) as pool,
    ):
        for _ in pool.map(maker.make, *zip(*jobs, strict=True)):
            advance(1)


@dataclass(frozen=True)
class _Maker:
    """Where pairs are kept, and how one is made; small, so that it can be handed to another process."""

    place: Path
    recipe: dict[str, Any]

    def path(self, study: Study, full: int, low: int) -> Path:
        """Where a pair is kept: by the UIDs of its slices, under a digest of what else decides its content."""
        recipe = self.recipe
        name = _file_name(study.full.uids[full])
        if study.low:
            recipe, name = {"real": REAL_VERSION}, f"{_file_name(study.low.uids[low])}_{name}"
        folder = make_folder(self.place / hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:16])
        return folder / f"{name}.npz"

    def missing(self, study: Study, indices: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """The slices of a study whose pairs are not there, or not whole."""
        realisations = 1 if study.low else len(self.recipe["doses"])
        kept = ((pair, _read_pair(self.path(study, *pair))) for pair in indices)
        return [pair for pair, arrays in kept if arrays is None or len(arrays[1]) != realisations]

    def make(self, study: Study, missing: list[tuple[int, int]]) -> None:
        """Write pairs of a study; reads its volumes once."""
        with _told_without_names(study), bar(len(missing), f"simulating {study.patient}") as advance:
            fulls = _volume(study.full, "full")
            lows = _volume(study.low, "low") if study.low else None
            match = None if study.low else self.match(study, fulls)
            for full, low in missing:
                source = fulls[full] if lows is None else lows[low]
                if match is None:
                    made = _stored(source)[None]
                else:
                    simulated = simulate(fulls[full], match, self.recipe, _file_name(study.full.uids[full]))
                    made = simulated.round().clip(-32768, 32767).astype(np.int16)
                arrays = {"full": _stored(fulls[full]), "low": made, "inside": np.packbits(in_valid_range(source))}
                _write(self.path(study, full, low), partial(np.savez, **arrays))
                advance(1)

    def match(self, study: Study, fulls: RadiologicalSlices) -> NoiseMatch:
        """How the noise of a study is simulated: kept on disk, since to find it takes as long as some slices."""
        digest = hashlib.sha256(" ".join(study.full.uids).encode()).hexdigest()[:32]
        kept = self.path(study, 0, 0).parent / f"{digest}.noise.json"
        known = read_match(kept, float(np.linalg.norm(study.full.steps_mm[0])), self.recipe)
        if known is None:
            known = find_match(fulls, self.recipe)
            _write(kept, lambda file: file.write(match_as_json(known).encode()))
            logger.info("%s: noise %s", study.patient, known)
        return known


@contextmanager
def _told_without_names(study: Study) -> Iterator[None]:
    """Errors about a study, in its pseudonym."""
    try:
        yield
    except (BioAttError, ValueError) as error:
        places = [study.full.path, study.low.path if study.low else None]
        told = without_names(str(error), places, study.patient)
        why = told if isinstance(error, BioAttError) else f"{told}; leave this patient out"
        raise BioAttError(f"{study.patient}: no pairs can be made: {why}") from error


def _cached(maker: _Maker, study: Study, indices: list[tuple[int, int]], source: PriorSource) -> list[CachedPair]:
    """The pairs of one study at the slice indices (full, low), inferior to superior; priors not there are made."""
    stack, paths, facts = study.low or study.full, [maker.path(study, *pair) for pair in indices], facts_of_study(study)
    found = []
    are_missing = not all(_prior_path(path, source).exists() for path in paths)
    with _told_without_names(study), bar(len(paths), f"priors {study.patient}", are_missing) as advance:
        for path, (full, low) in zip(paths, indices, strict=True):
            index = low if study.low else full  # of the slice which names the priors
            priors = _priors(path, stack.keys[index], source)
            found.append(
                CachedPair(
                    path=path,
                    priors=priors,
                    patient=study.patient,
                    key=stack.keys[index],
                    uid=stack.uids[index],
                    region=_region(study, priors, source),
                    facts=facts,
                    dose_fractions=() if study.low else tuple(maker.recipe["doses"]),
                    real_dose_fraction=study.entry.dose_fraction if study.low else None,
                )
            )
            advance(1)
    return found


def _region(study: Study, priors: np.ndarray, source: PriorSource) -> str:
    """By the header, or by the priors (R, K) or (R, K, h, w) of a source that looks at the slice."""
    if study.region != UNKNOWN or source.name.partition(":")[0] in ("uniform", "random"):
        return study.region
    return region_of_prior(priors.mean(axis=(0, *range(2, priors.ndim))), source.descriptors)


def _priors(path: Path, key: SliceKey, source: PriorSource) -> np.ndarray:
    """Priors of the low-dose realisations (R, K), kept beside the pair under the digest of what made them."""
    kept = _prior_path(path, source)
    try:
        return np.load(kept, allow_pickle=False)
    except (OSError, ValueError, EOFError):  # not there yet, or damaged
        pass
    low = torch.from_numpy(_whole_pair(path)[1].astype(np.float32))
    priors = source(low, [key] * len(low)).numpy()
    _write(kept, partial(np.save, arr=priors))
    return priors


def _prior_path(path: Path, source: PriorSource) -> Path:
    return path.with_suffix(f".{source.digest[:16]}.prior.npy")


def _volume(stack: Stack, dose: str) -> RadiologicalSlices:
    """The slices of a stack."""
    # Each slice is paired by its own position, so gaps do no harm.
    volume = radiological_slices(stack.path, series=stack.series_instance_uid, allow_gaps=True)
    for i in range(len(volume)):
        if not np.isfinite(volume[i]).all():
            raise BioAttError(
                f"the {dose} dose holds NaN or infinite values in the slice at {stack.heights_mm[i]:.2f} mm "
                f"({stack.uids[i]}); export it again, or leave this patient out"
            )
    return volume


def _stored(hu: np.ndarray) -> np.ndarray:
    """HU as they are cached: whole numbers in the valid range."""
    return hu.clip(*VALID_RANGE_HU).round().astype(np.int16)


def _file_name(uid: str) -> str:
    """The UID if it is one (PS3.5 9.1), or is one of ours, and so can be a file's name; else its digest."""
    return uid if re.fullmatch(r"[0-9a-f.-]{1,64}", uid) else hashlib.sha256(uid.encode()).hexdigest()


def _read_pair(path: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """Full (H, W) and low (R, H, W); None if the file is not there or not whole."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            full, low = arrays["full"], arrays["low"]
    except Exception:  # numpy and zipfile raise many kinds of errors on damaged files
        return None
    return (full, low) if low.shape[1:] == full.shape and low.ndim == 3 else None


def _whole_pair(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """`_read_pair` of a file that must be there.

    Raises:
        BioAttError: it is damaged or gone.
    """
    if (read := _read_pair(path)) is None:
        raise BioAttError(f"cached pair {path} is damaged or gone; run again to recreate it")
    return read


def _write(path: Path, save: Callable[[Any], None]) -> None:
    """Write the file whole or not at all."""
    with staged_file(path) as staged, open(staged, "wb") as file:
        save(file)
