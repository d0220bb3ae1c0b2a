"""All that the study's runs need, in one folder small enough to carry to a GPU: slices, noise, priors, places of discs.

::

    PACK/pairs.zip      full dose, added noise and body of each slice, boxed to the body
    PACK/slices.json    what the slices are
    PACK/labels.npz     visible (n, K) of each slice, oracle (n, K) and z_mm (n,)
    PACK/study.json     the folds, and what made all of it
    PACK/priors.npz     compact_F (n, K) and dense_F (n, K, h, w) of each slice, by fold F
    PACK/models.json    what made the priors

The last two are made of the others, by `write_priors`.

Full dose and noise are kept in steps of a third of their own noise; the low dose is the sum of what is kept, so input
and target fit exactly. What lies farther from the body than `MARGIN` is air without noise.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import binary_fill_holes, distance_transform_edt
from scripts.dicom import find_series
from scripts.errors import BioAttError
from scripts.evaluation.plane import insert_discs
from scripts.evaluation.truth import truth_regions
from scripts.priors import make_prior
from scripts.staging import staged_file, write_json
from scripts.training import find_studies, training_pairs
from scripts.training.pairs import CachedPair
from scripts.training.splits import BY_PATIENT, Split
from scripts.training.studies import Collection

from ..compact_prior_evaluation import read_labels, visible_at
from .labels import Ranges, make_folds, oracle_priors, series_folders

DOSE_FRACTION = 0.25
#: var(a) / var(n) of a low dose at `DOSE_FRACTION`.
ALPHA2 = 1.0 / DOSE_FRACTION - 1.0
AIR_HU = -1000
#: Pixels kept around the body.
MARGIN = 16
#: Steps in which full dose and noise are kept, as a share of their own noise.
STEP_SHARE = 1 / 3
ARRAYS = ("full", "noise", "body")


@dataclass(frozen=True, kw_only=True)
class PackedSlice:
    """One slice of the study.

    Args:
        name: of its arrays in pairs.zip.
        patient: their folder.
        uid: SOPInstanceUID.
        spacing_mm: of the pixels.
        shape: of the whole slice.
        corner: row and column of the box in it.
        step_full_hu, step_noise_hu: of what is kept.
        discs: diameter in mm, row, column, contrast in HU of each disc that the study puts in.
    """

    name: str
    patient: str
    uid: str
    spacing_mm: float
    shape: tuple[int, int]
    corner: tuple[int, int]
    step_full_hu: int
    step_noise_hu: int
    discs: tuple[tuple[float, int, int, float], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Pack:
    """What `make_pack` wrote, unpacked.

    Args:
        slices: of all patients.
        folds: patients of each fold; others are in none, and always train.
        pairs: file of each slice by index: ``full`` (H, W) and ``low`` (1, H, W), int16 HU, ``body`` (H, W).
        labels, priors: arrays by name, see the module; priors are empty before they are made.
        made: how it was made.
    """

    slices: tuple[PackedSlice, ...]
    folds: tuple[tuple[str, ...], ...]
    pairs: tuple[Path, ...]
    labels: Mapping[str, np.ndarray]
    priors: Mapping[str, np.ndarray]
    made: Mapping[str, Any]


def make_pack(
    data: Sequence[Path], labels: Path, work: Path, pack: Path, *, folds: int, slices: int, views: int
) -> None:
    """Simulate, and write the folder `pack` but for the priors; what is there already is not made again.

    Args:
        data: folders with one folder a patient.
        labels: labels.csv.
        work: for cached pairs.
        pack: the folder of the result.
        folds: number of folds.
        slices: of a patient, at most.
        views: projection angles of the simulation.

    Raises:
        BioAttError: a series is not labelled, or cannot be simulated.
    """
    folders = series_folders(data, labels)
    ranges = {name: own for name, own in read_labels(labels).items() if name in folders}
    studies = find_studies([str(one) for one in data] if len(data) > 1 else str(data[0]))
    items = training_pairs(
        studies,
        Split(kind=BY_PATIENT, parts={"train": tuple(studies.patients), "validate": (), "test": ()}),
        "train",
        work,
        make_prior("uniform"),
        slices_per_patient=slices,
        dose_fractions=(DOSE_FRACTION,),
        views=views,
    )
    pairs = [item["pair"] for item in items]
    made = {"dose_fraction": DOSE_FRACTION, "slices_per_patient": slices, "views": views}
    pack.mkdir(parents=True, exist_ok=True)
    _write_pairs(pack, pairs, studies.folders, made)
    by_series = {_series_uid(folders[name]): own for name, own in ranges.items()}
    _write_labels(pack / "labels.npz", [pair.uid for pair in pairs], studies, by_series)
    write_json(pack / "study.json", {"folds": make_folds(ranges, folds), "made": made | {"folds": folds}})


def read_pack(pack: Path, folder: Path) -> Pack:
    """Unpack into `folder`, unless it is there already.

    Raises:
        BioAttError: the pack is not whole.
    """
    try:
        known, listed = (
            json.loads((pack / name).read_text(encoding="utf-8")) for name in ("study.json", "slices.json")
        )
        labels, priors = (_arrays(pack / name) for name in ("labels.npz", "priors.npz"))
        listing = pack / "models.json"
        made = json.loads(listing.read_text(encoding="utf-8"))["made"] if listing.exists() else {}
        slices = tuple(PackedSlice(**{**one, "discs": tuple(map(tuple, one["discs"]))}) for one in listed["slices"])
        folder.mkdir(parents=True, exist_ok=True)
        files = tuple(folder / f"{one.name}.npz" for one in slices)
        if not all(file.exists() for file in files):
            with np.load(pack / "pairs.zip") as arrays:
                for one, file in zip(slices, files, strict=True):
                    _unpack(one, *(arrays[f"{one.name}_{array}"] for array in ARRAYS), file)
    except (OSError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise BioAttError(
            f"the pack {pack} cannot be read ({error}); make it again by `python -m studies.prior_study pack`"
        ) from error
    return Pack(
        slices=slices,
        folds=tuple(map(tuple, known["folds"])),
        pairs=files,
        labels=labels,
        priors=priors if made else {},
        made=known["made"] | made,
    )


def _arrays(path: Path) -> dict[str, np.ndarray]:
    if not path.exists():
        return {}
    with np.load(path) as kept:
        return dict(kept)


def _series_uid(folder: Path) -> str:
    """SeriesInstanceUID of the one series of a folder."""
    (series,) = find_series(folder)
    return series.series_instance_uid


def _write_labels(path: Path, uids: Sequence[str], studies: Collection, ranges: Mapping[str, Ranges]) -> None:
    rows = {}
    for study in studies.studies:
        if study.full.series_instance_uid not in ranges:
            raise BioAttError(f"{study.patient}: a series has no labels; annotate it, or leave this patient out")
        z_mm = study.full.heights_mm
        visible = visible_at(ranges[study.full.series_instance_uid], z_mm)
        rows |= dict(
            zip(study.full.uids, zip(visible.numpy(), oracle_priors(visible, z_mm), z_mm, strict=True), strict=True)
        )
    arrays = zip(*(rows[uid] for uid in uids), strict=True)
    with staged_file(path) as partial, open(partial, "wb") as file:
        np.savez_compressed(
            file, **{n: np.stack(array) for n, array in zip(("visible", "oracle", "z_mm"), arrays, strict=True)}
        )


def _write_pairs(pack: Path, pairs: Sequence[CachedPair], folders: Mapping[str, str], made: Mapping[str, Any]) -> None:
    """Write pairs.zip, then slices.json, unless they are there and made of the same."""
    listing = pack / "slices.json"
    wanted = {"made": dict(made), "uids": [pair.uid for pair in pairs]}
    if listing.exists():
        known = json.loads(listing.read_text(encoding="utf-8"))
        if {"made": known["made"], "uids": [one["uid"] for one in known["slices"]]} == wanted:
            return
        listing.unlink()
    packed = []
    with staged_file(pack / "pairs.zip") as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_BZIP2) as archive:
        for index, pair in enumerate(pairs):
            one, arrays = _pack(f"{index:04d}", pair, folders[pair.patient])
            packed.append(one)
            for name, array in zip(ARRAYS, arrays, strict=True):
                with archive.open(f"{one.name}_{name}.npy", "w") as file:
                    np.lib.format.write_array(file, array)
    write_json(listing, {"made": made, "slices": [asdict(one) for one in packed]})


def _pack(name: str, pair: CachedPair, patient: str) -> tuple[PackedSlice, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """A slice's record, and what is kept of full dose, noise and body; `_unpack` is the inverse."""
    full, (low,), _ = pair.load()
    if pair.facts.pixel_spacing_mm is None:
        raise BioAttError(f"{pair.patient}: no pixel spacing is known; leave this patient out")
    spacing_mm = float(pair.facts.pixel_spacing_mm)
    noise = low.astype(np.int32) - full
    body = binary_fill_holes(truth_regions(full, spacing_mm)["body"])
    if not body.any():
        raise BioAttError(f"{pair.patient}: a slice shows no body; leave this patient out")
    near = distance_transform_edt(~body) <= MARGIN
    box = tuple(slice(at[0], at[-1] + 1) for at in (np.flatnonzero(near.any(axis)) for axis in (1, 0)))
    noise_hu = float(noise[body].std())
    steps = [max(1, round(STEP_SHARE * sd)) for sd in (noise_hu / ALPHA2**0.5, noise_hu)]
    record = PackedSlice(
        name=name,
        patient=patient,
        uid=pair.uid,
        spacing_mm=spacing_mm,
        shape=tuple(map(int, full.shape)),
        corner=tuple(int(one.start) for one in box),
        step_full_hu=steps[0],
        step_noise_hu=steps[1],
        discs=_discs(full, box, spacing_mm, int(name)),
    )
    only_near = np.where(near, full, AIR_HU), np.where(near, noise, 0)
    kept = [np.round(array[box] / step).astype(np.int16) for array, step in zip(only_near, steps, strict=True)]
    return record, (np.diff(kept[0], axis=1, prepend=np.int16(0)), _narrow(kept[1]), body[box])


def _narrow(array: np.ndarray) -> np.ndarray:
    """As bytes where the values allow it: they compress better."""
    return array.astype(np.int8) if np.abs(array).max() < 128 else array


def _unpack(one: PackedSlice, full_steps: np.ndarray, noise: np.ndarray, body: np.ndarray, file: Path) -> None:
    box = tuple(slice(at, at + length) for at, length in zip(one.corner, body.shape, strict=True))
    full, low, mask = (np.full(one.shape, fill, kind) for fill, kind in ((AIR_HU, "i2"), (AIR_HU, "i2"), (False, "?")))
    full[box] = np.cumsum(full_steps, axis=1, dtype=np.int16) * one.step_full_hu
    low[box] = full[box] + noise.astype(np.int16) * one.step_noise_hu
    mask[box] = body
    with staged_file(file) as partial, open(partial, "wb") as opened:
        np.savez(opened, full=full, low=low[None], body=mask)


def _discs(
    full_hu: np.ndarray, box: tuple[slice, slice], spacing_mm: float, seed: int
) -> tuple[tuple[float, int, int, float], ...]:
    """Discs of all diameters in even soft tissue; none where there is no room."""
    try:
        discs = insert_discs(full_hu[box], spacing_mm, np.random.default_rng(seed))
    except BioAttError:
        return ()
    starts = [int(one.start) for one in box]
    places = [[start + int(at) for start, at in zip(starts, one.lesion.center, strict=True)] for one in discs]
    return tuple((one.lesion.diameter_mm, *place, one.contrast_hu) for one, place in zip(discs, places, strict=True))
