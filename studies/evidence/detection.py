"""Detectability with power: d' of discs and of a shape at five doses, and the dose that a denoiser saves.

Every condition is seen with and without the signal on the same noise, so the difference of the means has no noise of
its own; templates never see what they score. Repeats of one background are held out, and drawn, together.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.special import ndtr
from scripts.dose import DoseSimulator
from scripts.evaluation.intervals import patient_interval
from scripts.evaluation.lesions import EDGE_SD_MM, Lesion
from scripts.evaluation.plane import Disc
from scripts.priors import SliceKey

from studies.measures.observer import (
    CHANNELS,
    Scores,
    change_of_detectability,
    channel_outputs,
    detectability,
    held_out_scores,
    laguerre_gauss_channels,
)
from studies.measures.phantoms import RodPhantom, rod_phantom

from .bench import HELD_OUT, patient_folder
from .evaluating import EvaluatedSlice, Method, with_room
from .lcd import LEAST_HALF, channel_width
from .methods import anchored, gaussians, network_method
from .patients import Patient
from .phantom import calibrated

#: Fractions of the full dose, and the one beside which the denoised ones are set.
DOSES, FULL = (1.0, 0.5, 0.4, 0.25, 0.1), 1.0
SIZE, SPACING_MM, RING_MM = 448, 0.7, 90.0
DISCS_MM, CONTRASTS_HU = (4.0, 6.0, 10.0), (10.0, 20.0, 30.0, 40.0)
#: Round against spiculated: diameter, contrast, spikes, and their height as a share of the radius.
NODULE_MM, NODULE_HU, SPIKES, SPIKE_HEIGHT = 10.0, 40.0, 8, 0.35
SHAPE = f"{NODULE_MM:g} mm, {NODULE_HU:g} HU, round or spiculated"
#: SDs in pixels by which the difference of both shapes is smoothed for the channels of that task.
SHAPE_CHANNELS = (0.0, 0.7, 1.4, 2.8)
#: Half the side of a disc's region in radii; beyond it other discs of a patient's slice begin.
REACH = 2.5
#: In patients: slices at most, how often each is seen, with other noise and other places, and insertions each time.
SLICES, SEEN, PLACED = 24, 2, 8
#: Places of a slice within one square of this side count as one background.
BLOCK_MM = 40.0
#: The input itself, and the baseline beside the network.
INPUT, BASELINE = "0 mm", "1 mm"


@dataclass(frozen=True)
class Site:
    """Where an image is asked about a signal.

    Args:
        task: name of the signal.
        image: 1 + which of the images with signals.
        part: the square around it.
        channels: of the observer, (c, n, n).
        sign: -1 for a signal darker than its surroundings.
        level: subtract the mean of the square's border first, as backgrounds of patients differ.
        unit: the background that it shares with others.
    """

    task: str
    image: int
    part: tuple[slice, slice]
    channels: np.ndarray
    sign: float = 1.0
    level: bool = False
    unit: tuple[int, ...] = ()

    def outputs(self, image_hu: np.ndarray) -> np.ndarray:
        """What the channels say of the square, (c,)."""
        region = np.asarray(image_hu[self.part], np.float64)
        if self.level:
            region = region - np.concatenate([region[[0, -1]].ravel(), region[1:-1, [0, -1]].ravel()]).mean()
        return self.sign * channel_outputs(region, self.channels)


@dataclass(frozen=True)
class Scene:
    """A slice without signals, and with those of each further image, (1 + n, H, W) in HU."""

    evaluated: EvaluatedSlice
    images: np.ndarray
    sites: Sequence[Site]


Repeat = tuple[np.ndarray, np.ndarray, tuple[int, ...]]  # channels with the signal and without, and the background
Drawn = tuple[float, np.ndarray]  # d', and d' of each draw
Insertions = list[list[Disc]]
Channels = dict[str, dict[str, list[Repeat]]]  # setting, task: repeats


def look(methods: Sequence[Method], scenes: Iterable[Scene]) -> Channels:
    """Denoise the scenes, and ask the channels at every site."""
    found: Channels = {f"{c.name}, {name}": {} for c in methods for name in c.settings}
    for number, scene in enumerate(scenes):
        for one in methods:
            for name, seen in one.results(scene.evaluated, scene.images).items():
                for site in scene.sites:
                    repeat = site.outputs(seen[site.image]), site.outputs(seen[0]), site.unit or (number,)
                    found[f"{one.name}, {name}"].setdefault(site.task, []).append(repeat)
    return found


def scored(channels: Channels, units: dict[tuple[int, ...], int] | None = None) -> dict[str, dict[str, Scores]]:
    """Held-out scores by setting and task.

    Args:
        channels: of `look`.
        units: numbers of backgrounds that other doses have given, and are to share; new ones are added.
    """
    units = {} if units is None else units
    return {
        setting: {
            task: held_out_scores(
                np.stack([a for a, _, _ in repeats]),
                np.stack([b for _, b, _ in repeats])[:, None],
                _numbered([unit for _, _, unit in repeats], units),
            )
            for task, repeats in tasks.items()
        }
        for setting, tasks in channels.items()
    }


def _numbered(units: Sequence[tuple[int, ...]], known: dict[tuple[int, ...], int]) -> np.ndarray:
    """A number for each background; `known` is filled."""
    return np.array([known.setdefault(unit, len(known)) for unit in units])


def drawn_detectability(scores: Scores, drawn: np.ndarray) -> np.ndarray:
    """d' of backgrounds drawn with replacement, (draws,): repeats of one share it, and so do those with and without.

    Args:
        scores: of n repeats, with their ``units``.
        drawn: how often each unit is taken, (draws, units).
    """
    weights = drawn[:, scores.units].astype(np.float64)
    count = weights.sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):  # a draw may hold none of a rare task
        means, variances = [], []
        for values in (scores.present, scores.absent[:, 0]):
            means.append(weights @ values / count)
            variances.append((weights @ values**2 - count * means[-1] ** 2) / (count - 1.0))
        return (means[0] - means[1]) / np.sqrt(np.mean(variances, axis=0))


def equal_dose(doses: Sequence[float], denoised: Sequence[float], wanted: float) -> float:
    """The dose at which denoised images reach the d' `wanted`, by a straight line in the logarithms of both.

    NaN where not even the full dose reaches it; the least dose where all do.
    """
    points = sorted(zip(doses, denoised, strict=True), reverse=True)
    if points[0][1] < wanted:
        return math.nan
    for (upper, above), (lower, below) in zip(points, points[1:], strict=False):
        if below < wanted:
            share = math.log(above / wanted) / math.log(above / max(below, 1e-6))
            return math.exp(math.log(upper) + share * math.log(lower / upper))
    return points[-1][0]


# In a uniform phantom.


def measure_uniform(
    methods: Sequence[Method], *, realisations: int = 200, draws: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """d' by dose, setting and task in a water cylinder, and the dose that each setting saves.

    Returns:
        ``repeats``; ``doses``: dose, setting and task to ``before``, ``after``, their ``_95``, ``change``,
        ``change_95`` and ``verdict``; ``potential``: setting to ``share``, the mean d' over that of the full dose, by
        dose, and to ``dose`` and ``dose_95``, at which the share is 1.
    """
    phantom = rod_phantom(SIZE, SPACING_MM, contrasts_hu=(0.0,))
    full, (signals, sites) = calibrated(phantom), uniform_signals(phantom)
    projected = full.geometry.project(phantom.image_hu)
    scores = {
        dose: scored(
            look(
                methods,
                _uniform_scenes(
                    phantom.image_hu,
                    replace(full, photons=full.photons * dose),
                    projected,
                    signals,
                    sites,
                    realisations,
                    np.random.default_rng([seed, number]),
                ),
            )
        )
        for number, dose in enumerate(DOSES)
    }
    return {"repeats": realisations, "draws": draws, **compare(drawn_values(scores, draws, seed))}


Values = dict[float, dict[str, dict[str, Drawn]]]  # dose, setting (input first), task


def drawn_values(
    scores: Mapping[float, Mapping[str, Mapping[str, Scores]]], draws: int, seed: int | Sequence[int]
) -> Values:
    """d' and its draws by dose, setting and task; a draw takes the same backgrounds everywhere."""
    units = 1 + max(one.units.max() for by in scores.values() for tasks in by.values() for one in tasks.values())
    drawn = np.random.default_rng(seed).multinomial(units, np.full(units, 1.0 / units), draws)
    return {
        dose: {
            setting: {task: (detectability(one), drawn_detectability(one, drawn)) for task, one in tasks.items()}
            for setting, tasks in settings.items()
        }
        for dose, settings in scores.items()
    }


def compare(values: Values) -> dict[str, Any]:
    """The table of `measure_uniform`, and the potentials."""
    reference = next(iter(values[FULL]))
    tasks = list(values[FULL][reference])

    def means(setting: str) -> np.ndarray:
        """d' over all tasks by dose, and of each draw, (doses, 1 + draws)."""
        every = [[np.append(*values[dose][setting][task]) for task in tasks] for dose in values]
        return np.array(every).mean(axis=1)

    wanted = means(reference)[list(values).index(FULL)]
    potential = {setting: _potential(means(setting), wanted, list(values)) for setting in values[FULL]}
    return {"tasks": tasks, "doses": changes(values), "potential": potential}


def changes(values: Values) -> dict[str, Any]:
    """Dose, setting and task to `change_of_detectability` from the input."""
    return {
        f"{dose:g}": {
            setting: {
                task: change_of_detectability(*zip(next(iter(settings.values()))[task], one, strict=True))
                for task, one in tasks.items()
            }
            for setting, tasks in settings.items()
        }
        for dose, settings in values.items()
    }


def pooled(patients: Sequence[Values]) -> Values:
    """The mean over patients of d' and of its draws, which are of each patient's own; of the patients with a task."""
    found: Values = {}
    for dose, settings in patients[0].items():
        for setting in settings:
            tasks = sorted({task for one in patients for task in one[dose][setting]})
            of = {task: [one[dose][setting][task] for one in patients if task in one[dose][setting]] for task in tasks}
            found.setdefault(dose, {})[setting] = {
                task: (float(np.mean([d for d, _ in every])), np.mean([drawn for _, drawn in every], axis=0))
                for task, every in of.items()
            }
    return found


def _potential(denoised: np.ndarray, wanted: np.ndarray, doses: Sequence[float]) -> dict[str, Any]:
    """The equal dose with its 95% interval; a draw that never reaches the full dose counts as above it."""
    value, *found = [equal_dose(doses, of, full) for of, full in zip(denoised.T, wanted, strict=True)]
    interval = np.quantile([math.inf if math.isnan(one) else one for one in found], [0.025, 0.975], method="nearest")
    return {
        "share": (denoised[:, 0] / wanted[0]).tolist(),
        "dose": None if math.isnan(value) else value,
        "dose_95": [None if math.isinf(one) else float(one) for one in interval],
    }


def uniform_signals(phantom: RodPhantom) -> tuple[np.ndarray, list[Site]]:
    """What is added to the water without and with the signals, (2, H, W) in HU, and where: on one ring."""
    shape, middle = phantom.image_hu.shape, (SIZE - 1) / 2
    names = [(d, hu) for d in DISCS_MM for hu in CONTRASTS_HU]
    without, present, sites = np.zeros(shape), np.zeros(shape), []
    for i in range(len(names) + 1):
        angle = 2 * math.pi * i / (len(names) + 1)
        center = tuple(round(middle + RING_MM / SPACING_MM * turn(angle)) for turn in (math.sin, math.cos))
        if i < len(names):
            diameter, hu = names[i]
            present += hu * Lesion(diameter, center).profile(shape, SPACING_MM)
            part, channels = disc_channels(diameter, center, SPACING_MM)
            sites.append(Site(f"{diameter:g} mm, {hu:g} HU", 1, part, channels))
        else:
            round_one, spiculated = (NODULE_HU * nodule(shape, center, height) for height in (0.0, SPIKE_HEIGHT))
            without, present = without + round_one, present + spiculated
            part, _ = disc_channels(NODULE_MM, center, SPACING_MM)
            difference = (spiculated - round_one)[part]
            channels = np.stack([gaussian_filter(difference, sd) for sd in SHAPE_CHANNELS])
            sites.append(Site(SHAPE, 1, part, channels / np.linalg.norm(channels, axis=(1, 2), keepdims=True)))
    return np.stack([without, present]), sites


def nodule(shape: tuple[int, int], center: tuple[int, int], height: float) -> np.ndarray:
    """A nodule with spikes so high, as a share of its radius, 0 to 1 in (H, W); the area does not depend on them."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    y, x = (rows - center[0]) * SPACING_MM, (columns - center[1]) * SPACING_MM
    radius = NODULE_MM / 2 / math.sqrt(1 + height**2 / 2) * (1 + height * np.cos(SPIKES * np.arctan2(y, x)))
    return ndtr((radius - np.hypot(y, x)) / EDGE_SD_MM)


def disc_channels(
    diameter_mm: float, center: tuple[int, int], spacing_mm: float
) -> tuple[tuple[slice, slice], np.ndarray]:
    """The square around a disc, its middle the disc's, and the Laguerre-Gauss channels on it."""
    radius = diameter_mm / 2 / spacing_mm
    half = max(LEAST_HALF, round(REACH * radius))
    part = tuple(slice(middle - half, middle + half + 1) for middle in center)
    return part, laguerre_gauss_channels(2 * half + 1, channel_width(radius))


def _uniform_scenes(
    image_hu: np.ndarray,
    simulator: DoseSimulator,
    projected: np.ndarray,
    signals: np.ndarray,
    sites: Sequence[Site],
    count: int,
    generator: np.random.Generator,
) -> Iterator[Scene]:
    """The phantom at a dose, `count` times: the noise of a dose is that of so many photons."""
    key = SliceKey(index=0, sop_instance_uid="")
    for _ in range(count):
        # From a dose to its half, as much noise is added as the dose itself has.
        noisy = simulator.low_dose(image_hu, 0.5, generator, line_integrals=projected)
        images = (noisy + signals).astype(np.float32)
        evaluated = EvaluatedSlice(
            index=0, key=key, full_hu=images[0], low_hu=images[0], spacing_mm=SPACING_MM, insertions=[]
        )
        yield Scene(evaluated, images, sites)


# In patients: the signal is known exactly, the background varies.


def measure_patients(
    data: Path, methods: Sequence[Method], *, names: Sequence[str] = HELD_OUT, draws: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """d' by patient in real slices; a patient's is the mean over diameters and contrasts.

    Returns:
        ``patients``: patient to ``repeats`` and ``backgrounds`` by task, and to what `measure_uniform`
        gives, ``potential`` with it; ``pooled``: ``doses`` as there, of the mean over patients, and ``patients`` by
        task; ``mean``: setting to dose to `patient_interval` of d' over that of the full dose.
    """
    scores = {name: patient_scores(Patient.read(patient_folder(data, name), seed), methods, seed) for name in names}
    return patients_compared(scores, draws, seed)


def patient_scores(
    patient: Patient, methods: Sequence[Method], seed: int = 0
) -> dict[float, dict[str, dict[str, Scores]]]:
    """Scores of a patient by dose, setting and task."""
    spacing_mm = patient.slices.spacing_mm
    rooms = [with_room(len(patient), patient.full, spacing_mm, SLICES, seed + i, PLACED) for i in range(SEEN)]
    scores, units = {}, {}
    for dose in DOSES:
        channels = look(methods, patient_scenes(patient, rooms, dose))
        scores[dose] = scored(
            {setting: {task: r for task, r in of.items() if enough(r)} for setting, of in channels.items()}, units
        )
    return scores


def patients_compared(
    scores: Mapping[str, Mapping[float, Mapping[str, Mapping[str, Scores]]]], draws: int, seed: int
) -> dict[str, Any]:
    """What `measure_patients` returns, of the scores of each patient."""
    patients, values = {}, []
    for number, (name, by_dose) in enumerate(scores.items()):
        values.append(drawn_values(by_dose, draws, [seed, number]))
        found = next(iter(by_dose[FULL].values()))
        patients[name] = {
            "repeats": {task: len(one.present) for task, one in found.items()},
            "backgrounds": {task: len(np.unique(one.units)) for task, one in found.items()},
            **compare(values[-1]),
        }
    settings = next(iter(patients.values()))["potential"]
    mean = {
        setting: {
            f"{dose:g}": patient_interval({p: of["potential"][setting]["share"][i] for p, of in patients.items()})
            for i, dose in enumerate(DOSES)
        }
        for setting in settings
    }
    every = Counter(task for of in patients.values() for task in of["tasks"])
    return {
        "slices": SLICES,
        "seen": SEEN,
        "insertions": PLACED,
        "block_mm": BLOCK_MM,
        "draws": draws,
        "patients": patients,
        "pooled": {"patients": dict(sorted(every.items())), "doses": changes(pooled(values))},
        "mean": mean,
    }


def enough(repeats: Sequence[Repeat]) -> bool:
    """Whether a task is seen on backgrounds enough for a template and an interval."""
    return len({unit for _, _, unit in repeats}) > 3 * CHANNELS


def patient_scenes(patient: Patient, rooms: Sequence[Sequence[tuple[int, Insertions]]], dose: float) -> Iterator[Scene]:
    """Slices of a patient at a dose, as they are and with discs put in; the full dose is the series itself.

    Args:
        patient: with its noise.
        rooms: slices with their insertions, for each realisation of the noise.
        dose: fraction of the full dose.
    """
    for realisation, room in enumerate(rooms):
        for index, insertions in room:
            evaluated = EvaluatedSlice(
                index=index,
                key=patient.keys[index],
                full_hu=patient.full(index),
                low_hu=patient.low(index, dose, realisation),
                spacing_mm=patient.slices.spacing_mm,
                insertions=insertions,
            )
            yield Scene(evaluated, evaluated.plane.images(), list(_sites(evaluated)))


def _sites(one: EvaluatedSlice) -> Iterator[Site]:
    """Where the discs of a slice are looked for, those whose square lies within it."""
    for i, discs in enumerate(one.insertions):
        for disc in discs:
            diameter, center = disc.lesion.diameter_mm, disc.lesion.center
            part, channels = disc_channels(diameter, center, one.spacing_mm)
            if all(0 <= p.start and p.stop <= n for p, n in zip(part, one.low_hu.shape, strict=True)):
                yield Site(
                    task=f"{diameter:g} mm, {abs(disc.contrast_hu):g} HU",
                    image=1 + i,
                    part=part,
                    channels=channels,
                    sign=math.copysign(1.0, disc.contrast_hu),
                    level=True,
                    unit=(one.index, *(int(middle * one.spacing_mm // BLOCK_MM) for middle in center)),
                )


def methods_of(
    weights: Path, strengths: Mapping[str, tuple[float, float]], prior: str, network_config: str
) -> list[Method]:
    """The input, a Gaussian, and the network at its strengths."""
    plain = gaussians()
    plain = replace(plain, settings={name: plain.settings[name] for name in (INPUT, BASELINE)})
    settings = {name: anchored(*one) for name, one in strengths.items()}
    network = network_method("network", weights, settings, network_config=network_config, prior=prior)
    return [plain, network]
