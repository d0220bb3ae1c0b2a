"""How a denoiser is evaluated on a patient: its place in the plane, its error against the truth, PSNR, and HU kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from scripts.dose.image_noise import TISSUES_HU, noise_sd_hu, tissue_mask
from scripts.errors import BioAttError
from scripts.evaluation import image_quality
from scripts.evaluation.lesions import Lesion
from scripts.evaluation.plane import INSERTIONS, Disc, PlanePoint, PlaneSlice, insert_discs
from scripts.evaluation.truth import BODY_HU, pooled, region_errors, truth_regions
from scripts.hu import VALID_RANGE_HU
from scripts.priors import SliceKey
from scripts.staging import staged_file
from scripts.volumes import radiological_slices
from scripts.volumes.reader import slice_keys_from_meta

from studies.measures.edges import edge_widths

from .patients import Patient

#: An image (H, W) in HU to one of the same shape.
Filter = Callable[[np.ndarray], np.ndarray]
#: What a setting makes of (input, output, spacing in mm): anchoring, a blend, or the output as it is.
Setting = Callable[[np.ndarray, np.ndarray, float], np.ndarray]


def as_it_is(image_hu: np.ndarray, output_hu: np.ndarray, spacing_mm: float) -> np.ndarray:
    """The output itself."""
    return output_hu


@dataclass(frozen=True, kw_only=True)
class Method:
    """A denoiser with the settings it is evaluated at.

    Args:
        name: in tables and results.
        tuned_to: given a noisy slice and its key, the filter for it: with the slice's prior, or its noise, found once,
            so that the slice with discs is denoised just as the slice without.
        settings: by name; all work on one output of the filter, so they cost little.
        insertions: how many of a slice's insertions are denoised; all by default.
        edges: whether the widths of edges are measured too.
    """

    name: str
    tuned_to: Callable[[EvaluatedSlice], Filter]
    settings: Mapping[str, Setting] = field(default_factory=lambda: {"": as_it_is})
    insertions: int | None = None
    edges: bool = False

    def results(self, one: EvaluatedSlice, images: Sequence[np.ndarray]) -> dict[str, list[np.ndarray]]:
        """What each setting makes of images (H, W) of a slice; the filter is asked once for each image."""
        filtered = self.tuned_to(one)
        outputs = [filtered(image) for image in images]
        return {
            name: [setting(x, y, one.spacing_mm) for x, y in zip(images, outputs, strict=True)]
            for name, setting in self.settings.items()
        }


@dataclass(frozen=True, kw_only=True)
class EvaluatedSlice:
    """A slice to evaluate on: its noisy image, the discs, and what makes the error against the truth known.

    Args:
        index: in the series.
        key: of its prior.
        full_hu, low_hu: (H, W) in HU.
        spacing_mm: of the pixels.
        insertions: see `insert_discs`.
        alpha2: var(low - full) / var(noise of full); NaN for a real pair, whose noises are not of one scan.
        window: the part that is looked at, for what is slow; filters may leave the rest as it is.
    """

    index: int
    key: SliceKey
    full_hu: np.ndarray
    low_hu: np.ndarray
    spacing_mm: float
    insertions: Sequence[Sequence[Disc]]
    alpha2: float = math.nan
    window: tuple[slice, slice] = (slice(None), slice(None))

    @cached_property
    def plane(self) -> PlaneSlice:
        """Its noise and discs."""
        return PlaneSlice(
            low_hu=self.low_hu,
            anatomy_hu=self.full_hu,
            spacing_mm=self.spacing_mm,
            insertions=self.insertions,
            window=self.window,
        )

    @cached_property
    def regions(self) -> dict[str, np.ndarray]:
        """Where the error is measured."""
        regions = truth_regions(self.full_hu, self.spacing_mm)
        return {name: mask & self.plane.seen for name, mask in regions.items()}

    @cached_property
    def tissues(self) -> dict[str, np.ndarray]:
        """Where the HU of a tissue should be kept."""
        return {tissue: tissue_mask(self.full_hu, tissue) & self.plane.seen for tissue in TISSUES_HU}

    def measure(self, outputs_hu: Sequence[np.ndarray]) -> SliceFigures:
        """What became of ``plane.images()``."""
        out = outputs_hu[0]
        errors = {}
        if not math.isnan(self.alpha2):
            errors = region_errors(out, self.full_hu, self.low_hu - self.full_hu, self.alpha2, self.regions)
        change = np.asarray(out, np.float64) - self.low_hu
        return SliceFigures(
            index=self.index,
            point=self.plane.measure(outputs_hu),
            errors=errors,
            psnr_db=image_quality(out[self.window], self.full_hu[self.window], "abdomen", ["psnr"])["psnr_db"],
            bias_hu={
                tissue: (float(change[x].mean()) if x.any() else math.nan, int(x.sum()))
                for tissue, x in self.tissues.items()
            },
            output_hu=out,
        )


@dataclass(frozen=True, kw_only=True)
class SliceFigures:
    """What was measured on one slice; (value, pixels) where pixels count."""

    index: int
    point: PlanePoint
    errors: Mapping[str, tuple[float, int]]
    psnr_db: float
    bias_hu: Mapping[str, tuple[float, int]]
    output_hu: np.ndarray


def patient_figures(slices: Sequence[SliceFigures]) -> dict[str, Any]:
    """Of a patient: `PlanePoint.summary`, ``error_hu2`` by region, ``psnr_db``, ``bias_hu`` by tissue, ``slices``."""
    regions = slices[0].errors
    point = sum((one.point for one in slices[1:]), slices[0].point)
    return {
        "slices": [one.index for one in slices],
        **point.summary(),
        "contrast_by_hu": contrast_by_hu(point),
        "error_hu2": {region: pooled(one.errors[region] for one in slices) for region in regions},
        "psnr_db": float(np.mean([one.psnr_db for one in slices])),
        "bias_hu": {tissue: pooled(one.bias_hu[tissue] for one in slices) for tissue in TISSUES_HU},
    }


def contrast_by_hu(point: PlanePoint) -> dict[str, dict[str, float]]:
    """Mean share of the contrast that is kept, by diameter and contrast of the discs; keys are strings, as in JSON."""
    shares: dict[str, dict[str, list[float]]] = {}
    for diameter, contrast, share in sorted(point.shares):
        shares.setdefault(f"{diameter:g}", {}).setdefault(f"{contrast:g}", []).append(share)
    return {d: {c: float(np.mean(of)) for c, of in by.items()} for d, by in shares.items()}


def edge_figures(slices: Sequence[EvaluatedSlice], found: Sequence[SliceFigures]) -> dict[str, list[float]]:
    """10-90% width in mm of body and bone edges, input and output; kinds of which there are too few are left out."""
    images = {"in": [one.low_hu for one in slices], "out": [one.output_hu for one in found]}
    widths = edge_widths([one.full_hu for one in slices], images, slices[0].spacing_mm)
    return {edge: [of["in"], of["out"]] for edge, of in widths.items()}


def evaluate(method: Method, slices: Iterable[EvaluatedSlice]) -> dict[str, list[SliceFigures]]:
    """Denoise and measure: by setting, the figures of each slice."""
    found: dict[str, list[SliceFigures]] = {name: [] for name in method.settings}
    for one in slices:
        images = one.plane.images()[: None if method.insertions is None else 1 + method.insertions]
        for name, results in method.results(one, images).items():
            found[name].append(one.measure(results))
    return found


@dataclass(frozen=True, kw_only=True)
class EvaluatedPatient:
    """Slices of a patient left out, chosen by rule: evenly spread over those with room for the discs.

    Args:
        name: in the tables.
        slices: to evaluate on.
        dose_fraction: of the low dose; None for real pairs.
        alpha2: var(a) / var(n), nominal and as it was measured in flat tissue; NaN for real pairs.
        noise: how it was simulated, in words.
    """

    name: str
    slices: Sequence[EvaluatedSlice]
    dose_fraction: float | None = None
    alpha2: tuple[float, float] = (math.nan, math.nan)
    noise: str = ""

    def about(self) -> dict[str, Any]:
        """For the results."""
        return {
            "slices": [one.index for one in self.slices],
            "spacing_mm": self.slices[0].spacing_mm,
            "alpha2": self.alpha2[0],
            "alpha2_measured": self.alpha2[1],
            "noise": self.noise,
        }


def simulated_patient(
    folder: Path, count: int, *, dose_fraction: float = 0.25, seed: int = 0, window: int = 0
) -> EvaluatedPatient:
    """A series at full dose, and low doses whose noise matches its own (`match_noise`).

    Args:
        folder: of the series.
        count: slices at most.
        dose_fraction: k; alpha2 is ``1 / k - 1``.
        seed: of noise and places.
        window: side of the square in the middle of the body that is looked at, in pixels; 0 for all.
    """
    patient = Patient.read(folder, seed)
    spacing_mm, alpha2 = patient.slices.spacing_mm, 1.0 / dose_fraction - 1.0

    def anatomy(index: int) -> np.ndarray:
        full = patient.full(index)
        image, seen = np.full_like(full, -1000.0), middle_window(full, window)
        image[seen] = full[seen]
        return image

    slices, measured = [], []
    for index, insertions in with_room(len(patient), anatomy, spacing_mm, count, seed):
        full = patient.full(index)
        (added,) = patient.match.noise(full, [dose_fraction], np.random.default_rng([seed, index]))
        one = EvaluatedSlice(
            index=index,
            key=patient.keys[index],
            full_hu=full,
            low_hu=full + added,
            spacing_mm=spacing_mm,
            insertions=insertions,
            alpha2=alpha2,
            window=middle_window(full, window),
        )
        slices.append(one)
        measured.append(measured_alpha2(one.full_hu, added, one.plane.flat))
    return EvaluatedPatient(
        name=folder.name,
        slices=slices,
        dose_fraction=dose_fraction,
        alpha2=(alpha2, float(np.nanmedian(measured))),
        noise=str(patient.match),
    )


def middle_window(full_hu: np.ndarray, side: int) -> tuple[slice, slice]:
    """A square of `side` pixels in the middle of the body, within the slice (H, W); all of it for 0."""
    if not side:
        return slice(None), slice(None)
    middle = np.argwhere(full_hu > BODY_HU).mean(axis=0) if (full_hu > BODY_HU).any() else np.array(full_hu.shape) / 2
    starts = [
        int(np.clip(round(m) - side // 2, 0, max(0, n - side))) for m, n in zip(middle, full_hu.shape, strict=True)
    ]
    return slice(starts[0], starts[0] + side), slice(starts[1], starts[1] + side)


def real_patient(low_folder: Path, full_folder: Path, count: int, *, seed: int = 0) -> EvaluatedPatient:
    """A pair of real doses of one scan, slice by slice; discs are put into the real low dose, so no truth is needed.

    Args:
        low_folder, full_folder: the two series.
        count: slices at most.
        seed: of the places.

    Raises:
        BioAttError: the series do not lie on one grid.
    """
    low, full = radiological_slices(low_folder), radiological_slices(full_folder)
    grids = [np.asarray(series.meta["affine"], np.float64) for series in (low, full)]
    if len(low) != len(full) or low[0].shape != full[0].shape or not np.allclose(*grids, atol=0.01):
        raise BioAttError(
            f"{low_folder.name} and {full_folder.name} are no pair: {len(low)} and {len(full)} slices, or other "
            "places; give two reconstructions of one scan"
        )
    keys = slice_keys_from_meta(low.meta, len(low))
    slices = [
        EvaluatedSlice(
            index=index,
            key=keys[index],
            full_hu=full[index].clip(*VALID_RANGE_HU),
            low_hu=low[index].clip(*VALID_RANGE_HU),
            spacing_mm=low.spacing_mm,
            insertions=insertions,
        )
        for index, insertions in with_room(
            len(full), lambda i: full[i].clip(*VALID_RANGE_HU), full.spacing_mm, count, seed
        )
    ]
    return EvaluatedPatient(name=low_folder.name, slices=slices)


def insert_several(
    full_hu: np.ndarray, spacing_mm: float, generator: np.random.Generator, insertions: int = INSERTIONS
) -> list[list[Disc]]:
    """Discs of several insertions, each with places of its own.

    Args:
        full_hu, spacing_mm: see `insert_discs`.
        insertions: how many; of those beyond `INSERTIONS`, as many as there is room for.

    Raises:
        BioAttError: there is no room for the discs.
    """
    rounds = []
    for turn in range(insertions):
        try:
            rounds.append(insert_discs(full_hu, spacing_mm, generator, turn))
        except BioAttError:
            if turn < INSERTIONS:
                raise
    return rounds


def with_room(
    total: int,
    full: Callable[[int], np.ndarray],
    spacing_mm: float,
    count: int,
    seed: int,
    insertions: int = INSERTIONS,
) -> list[tuple[int, list[list[Disc]]]]:
    """About `count` slices, evenly spread over those with room for the discs, and the discs.

    Raises:
        BioAttError: no slice has room.
    """
    room = []
    every = max(1, total // (3 * count))
    for index in range(every // 2, total, every):
        generator = np.random.default_rng([seed, index])
        try:
            room.append((index, insert_several(full(index), spacing_mm, generator, insertions)))
        except BioAttError:  # lungs, or air
            continue
    if not room:
        raise BioAttError("no slice has room for the discs in even soft tissue; leave this series out")
    return [room[i] for i in np.unique(np.linspace(0, len(room) - 1, min(count, len(room))).round().astype(int))]


#: Names the noise model in the names of kept files: a change of it needs another name here.
NOISE = "matched-2"


def kept_patient(
    folder: Path, count: int, work: Path, *, dose_fraction: float = 0.25, seed: int = 0, window: int = 0
) -> EvaluatedPatient:
    """`simulated_patient`, kept in a file under `work` for the next time."""
    path = work / f"{folder.name}-{NOISE}-{count}-{dose_fraction:g}-{seed}-{window}.npz"
    if not path.is_file():
        _keep(path, simulated_patient(folder, count, dose_fraction=dose_fraction, seed=seed, window=window))
    with np.load(path) as kept:
        spacing_mm = float(kept["spacing_mm"])
        slices = [
            EvaluatedSlice(
                index=int(index),
                key=SliceKey(index=int(index), sop_instance_uid=str(uid)),
                full_hu=full,
                low_hu=low,
                spacing_mm=spacing_mm,
                insertions=_discs(kept["discs"][kept["discs"][:, 0] == index]),
                alpha2=float(kept["alpha2"][0]),
                window=middle_window(full, window),
            )
            for index, uid, full, low in zip(kept["index"], kept["uid"], kept["full"], kept["low"], strict=True)
        ]
        alpha2, noise = (float(kept["alpha2"][0]), float(kept["alpha2"][1])), str(kept["noise"])
    return EvaluatedPatient(name=folder.name, slices=slices, dose_fraction=dose_fraction, alpha2=alpha2, noise=noise)


def _keep(path: Path, patient: EvaluatedPatient) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    discs = [
        (one.index, i, disc.lesion.diameter_mm, *disc.lesion.center, disc.contrast_hu)
        for one in patient.slices
        for i, insertion in enumerate(one.insertions)
        for disc in insertion
    ]
    with staged_file(path) as part, open(part, "wb") as file:
        np.savez(
            file,
            index=[one.index for one in patient.slices],
            uid=[one.key.sop_instance_uid for one in patient.slices],
            full=[one.full_hu for one in patient.slices],
            low=[one.low_hu for one in patient.slices],
            discs=np.array(discs, np.float64),
            spacing_mm=patient.slices[0].spacing_mm,
            alpha2=patient.alpha2,
            noise=patient.noise,
        )


def _discs(rows: np.ndarray) -> list[list[Disc]]:
    """Insertions from rows of (slice, insertion, diameter, row, column, contrast)."""
    return [
        [Disc(Lesion(d, (int(row), int(column))), contrast) for _, i, d, row, column, contrast in rows if i == number]
        for number in np.unique(rows[:, 1])
    ]


def measured_alpha2(full_hu: np.ndarray, added_hu: np.ndarray, flat: np.ndarray) -> float:
    """var(a) / var(n) in flat soft tissue, to be set beside the nominal one; NaN where there is none."""
    own = noise_sd_hu(full_hu, flat)
    return (noise_sd_hu(added_hu, flat) / own) ** 2 if own > 0.0 else math.nan
