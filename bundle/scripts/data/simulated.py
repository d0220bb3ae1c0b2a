"""Training pairs from full-dose series alone: low doses simulated once and kept on disk."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..dose import DoseSimulator, ParallelBeam, calibrate_photons
from ..dose.image_noise import flat_soft_tissue, noise_sd_hu
from ..errors import BioAttError
from ..hu import VALID_RANGE_HU
from ..priors import PriorSource, SliceKey
from ..progress import bar
from ..staging import staged_file
from .orientation import radiological_slices
from .reader import slice_keys_from_meta
from .volume import series_folders

#: Part of the cache's key; raise it when the simulation changes.
CACHE_VERSION = 1
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CachedPair:
    """One full-dose slice and its low-dose realisations on disk.

    Args:
        path: .npz with ``full`` (H, W) and ``low`` (R, H, W), int16 HU.
        priors: (R, K), one per realisation, of the whole low-dose slice.
        patient, key: whose slice and which.
    """

    path: Path
    priors: np.ndarray
    patient: str
    key: SliceKey

    def load(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return full (H, W) and low (R, H, W) in HU, int16, and the priors (R, K)."""
        with np.load(self.path) as arrays:
            return arrays["full"], arrays["low"], self.priors


def simulated_pairs(
    dataset_dir: str | os.PathLike[str],
    cache_dir: str | os.PathLike[str],
    prior_source: PriorSource,
    *,
    patients: Sequence[str] = (),
    without: Sequence[str] = (),
    slices_per_patient: int = 0,
    dose_fractions: Sequence[float] = (0.5, 0.25, 0.1),
    filter_names: Sequence[str] = ("hann", "hamming", "cosine"),
    views: int = 600,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Make, or find in the cache, the pairs of `patients`, and return them as ``{"pair", "patient"}``.

    The photons of each patient are calibrated on the noise of their own middle slices. Each realisation has one of
    `dose_fractions` and a reconstruction filter drawn from `filter_names`. Every slice is its own file, written
    whole, so an interrupted run goes on where it stopped.

    Args:
        dataset_dir: one folder per patient, each with one full-dose DICOM series.
        cache_dir: where the pairs are kept; made if missing.
        prior_source: gives the prior of each low-dose slice.
        patients: folder names; all if empty.
        without: folder names to leave out, e.g. those that validate.
        slices_per_patient: take at most about so many, evenly spread; 0 takes all.
        dose_fractions: one realisation each, in (0, 1].
        filter_names: reconstruction filters of the noise, as scikit-image names them.
        views: projection angles over 180 degrees.
        seed: of the noise; the slice's UID goes into it too, so a slice's noise hangs on nothing else.

    Raises:
        BioAttError: a patient is not there, or a series cannot be read.
    """
    folders = series_folders(dataset_dir)
    missing = sorted((set(patients) | set(without)) - set(folders))
    if missing:
        raise BioAttError(f"patients {', '.join(missing)} are not in {dataset_dir}; it has {', '.join(folders)}")
    recipe = {
        "version": CACHE_VERSION,
        "doses": list(dose_fractions),
        "filters": list(filter_names),
        "views": views,
        "seed": seed,
    }
    place = Path(cache_dir) / hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:16]
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BioAttError(f"cache {cache_dir} cannot be made: {error.strerror}; name another with cache_dir") from error
    chosen = [name for name in patients or folders if name not in without]
    if not chosen:
        raise BioAttError(f"no patients of {dataset_dir} are left to make pairs of; leave fewer out")
    pairs = []
    for patient in chosen:
        try:
            pairs += _patient_pairs(patient, folders[patient], place, prior_source, slices_per_patient, recipe)
        except ValueError as error:
            raise BioAttError(f"{patient}: no low dose can be simulated: {error}; leave this patient out") from error
    return [{"pair": pair, "patient": pair.patient} for pair in pairs]


def _patient_pairs(
    patient: str, folder: Path, place: Path, prior_source: PriorSource, slices_per_patient: int, recipe: dict[str, Any]
) -> list[CachedPair]:
    """Pairs of one patient, slices from inferior to superior."""
    volume = radiological_slices(folder)
    keys = slice_keys_from_meta(volume.meta, len(volume))
    every = math.ceil(len(volume) / slices_per_patient) if slices_per_patient else 1
    chosen = list(range(every // 2, len(volume), every))
    paths = {i: place / f"{_safe_name(keys[i].sop_instance_uid) or f'{patient}-{i:04d}'}.npz" for i in chosen}
    missing = [i for i in chosen if not paths[i].exists()]
    if missing:
        simulator = _calibrated(volume, recipe)
        with bar(len(missing), f"simulating {patient}") as advance:
            for i in missing:
                _write_pair(paths[i], *_simulate(volume[i], simulator, recipe, paths[i].stem))
                advance(1)
    logger.info("%s: %d slices with %d realisations each", patient, len(chosen), len(recipe["doses"]))
    return [
        CachedPair(path=paths[i], priors=_priors(paths[i], prior_source, keys[i]), patient=patient, key=keys[i])
        for i in chosen
    ]


def _safe_name(uid: str) -> str:
    """The UID if it is one (PS3.5 9.1) and so can be a file's name, else nothing."""
    return uid if re.fullmatch(r"[0-9.]{1,64}", uid) else ""


def _calibrated(volume: Any, recipe: dict[str, Any]) -> DoseSimulator:
    """A simulator whose photons explain the noise of the series: the median over up to nine slices."""
    simulator = DoseSimulator(geometry=ParallelBeam(views=recipe["views"], spacing_mm=volume.spacing_mm))
    photons = []
    for i in np.unique(np.linspace(0, len(volume) - 1, 9).astype(int)):
        mask = flat_soft_tissue(volume[i])
        if mask.any():
            generator = np.random.default_rng(0)
            measured = calibrate_photons(simulator, volume[i], lambda x, m=mask: noise_sd_hu(x, m), generator)
            photons.append(measured.photons)
    if not photons:
        raise BioAttError(f"{volume.source} shows no soft tissue to measure its noise in; leave it out of the training")
    return DoseSimulator(geometry=simulator.geometry, photons=float(np.median(photons)))


def _simulate(
    full_hu: np.ndarray, simulator: DoseSimulator, recipe: dict[str, Any], name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Full (H, W) and low (R, H, W) of one slice, int16 HU."""
    generator = np.random.default_rng([recipe["seed"], zlib.crc32(name.encode())])
    full_hu = full_hu.clip(*VALID_RANGE_HU)
    line_integrals = simulator.geometry.project(full_hu)
    lows = [
        simulator.low_dose(full_hu, dose, generator, str(generator.choice(recipe["filters"])), line_integrals)
        for dose in recipe["doses"]
    ]
    stored = np.stack([full_hu, *lows]).round().clip(-32768, 32767).astype(np.int16)
    return stored[0], stored[1:]


def _write_pair(path: Path, full: np.ndarray, low: np.ndarray) -> None:
    """Write the file whole or not at all."""
    with staged_file(path) as partial, open(partial, "wb") as file:
        np.savez(file, full=full, low=low)


def _priors(path: Path, prior_source: PriorSource, key: SliceKey) -> np.ndarray:
    """Priors of the low-dose realisations (R, K), kept beside the pair under the digest of what made them."""
    kept = path.with_suffix(f".{prior_source.digest[:16]}.prior.npy")
    if kept.exists():
        return np.load(kept, allow_pickle=False)
    with np.load(path) as arrays:
        low = torch.from_numpy(arrays["low"].astype(np.float32))
    priors = prior_source(low, [key] * len(low)).numpy()
    with staged_file(kept) as partial, open(partial, "wb") as file:
        np.save(file, priors)
    return priors
