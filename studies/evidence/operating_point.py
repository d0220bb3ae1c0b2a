"""The prior as operating point: an anchor for the lungs and one for the rest, against one for all at equal noise.

The lungs are found by HU, the simplest baseline, or by the dense prior of the compact model. At equal noise left in
the body, does it help to leave more to the scanner in the lungs and less elsewhere, or the other way round?
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import binary_fill_holes, gaussian_filter
from scripts.dose.image_noise import tissue_mask
from scripts.errors import BioAttError
from scripts.evaluation.intervals import patient_interval
from scripts.evaluation.lesions import Lesion, contrast_recovery, place_lesions
from scripts.evaluation.plane import insert_discs
from scripts.evaluation.truth import BODY_HU, pooled, squared_error, truth_regions
from scripts.priors import DESCRIPTORS, make_prior

from .bench import HELD_OUT, patient_folder
from .denoisers import OpenedNetwork, open_network
from .methods import anchored
from .patients import Patient

DOSE = 0.25
#: Anchors in mm of one for all, between which equal noise is found by straight lines.
ANCHORS_MM = (0.5, 0.6, 0.7, 0.8, 0.95, 1.1, 1.25, 1.4, 1.6, 1.8, 2.2)
#: (lungs, rest) in mm: finer in the lungs, as a reader of nodules may want, and the other way round.
PAIRS_MM = ((0.8, 1.1), (0.8, 1.4), (0.6, 1.4), (1.1, 0.8), (1.4, 0.8), (1.4, 0.6))
#: Lungs by HU of the low dose smoothed by so many mm: below the first all, above the second nothing.
SMOOTH_MM, LUNG_HU = 3.0, (-600.0, -300.0)
#: Nodules in the lungs: HU and evenness of the place, contrast (ground glass), how many of each diameter.
LUNG_PLACE_HU, LUNG_EVEN_HU, NODULE_HU, NODULES = (-980.0, -600.0), 150.0, 100.0, 3
DIAMETERS_MM = (4.0, 6.0, 10.0)
#: Stands for what is outside the body where places for nodules are sought: no lung.
OUTSIDE_HU = 0.0
#: Slices of a patient at most, and the share of the body that must be lung.
SLICES, LEAST_LUNG = 6, 0.05
ONE, BY_HU, BY_PRIOR = "one anchor", "lungs by HU", "lungs by the dense prior"
LUNG, REST, BODY = "lungs", "soft tissue", "body"

Figures = dict[str, Any]


def measure_operating_point(
    data: Path, weights: Path, *, network_config: str = "", names: Sequence[str] = HELD_OUT, seed: int = 0
) -> dict[str, Any]:
    """The plane and the error of one anchor for all and of an anchor for the lungs and one for the rest.

    Returns:
        ``patients``: name to ``slices``, ``lung_pixels_found``: share of the lungs' and of the other body's pixels that
        each way takes for lung, and ``figures``: way and setting to ``noise`` left, ``contrast`` kept and ``error``
        (HU^2) by region; ``without``: patients without such a slice; ``differences``: way, setting and measure to
        `patient_interval` of the difference to one anchor with as much noise left in the body.
    """
    network = open_network(weights, network_config=network_config, prior="uniform", strength=None)
    dense = make_prior("compact", form="dense")
    patients, without = {}, []
    for name in names:
        found = patient_figures(Patient.read(patient_folder(data, name), seed), network, dense, seed)
        if found:
            patients[name] = found
        else:
            without.append(name)
    if not patients:
        raise BioAttError("no slice of these patients shows lungs and even soft tissue; name others with --patients")
    return {
        "dose_fraction": DOSE,
        "anchors_mm": list(ANCHORS_MM),
        "patients": patients,
        "without": without,
        "differences": differences({name: of["figures"] for name, of in patients.items()}),
    }


def patient_figures(patient: Patient, network: OpenedNetwork, dense: Any, seed: int) -> Figures | None:
    """A patient's part of `measure_operating_point`; None without a slice that shows lungs and has room for discs."""
    slices = chosen_slices(patient, seed)
    if not slices:
        return None
    kept: dict[str, dict[str, list[Any]]] = {}
    found: dict[str, list[tuple[float, float]]] = {}
    for index, discs in slices:
        full, lows = patient.full(index), [patient.low(index, DOSE, i) for i in (0, 1)]
        regions = body_regions(full, patient.slices.spacing_mm)
        maps = lung_maps(lows[0], patient, index, dense)
        for way, one in maps.items():
            found.setdefault(way, []).append((one[regions[LUNG]].mean(), one[regions[REST]].mean()))
        for setting, one in evaluated(network, patient, index, lows, discs, maps, regions).items():
            for measure, values in one.items():
                kept.setdefault(setting, {}).setdefault(measure, []).append(values)
    return {
        "slices": [index for index, _ in slices],
        "lung_pixels_found": {way: np.mean(shares, axis=0).tolist() for way, shares in found.items()},
        "figures": {setting: summed(of) for setting, of in kept.items()},
    }


def chosen_slices(patient: Patient, seed: int) -> list[tuple[int, list[tuple[str, Lesion, float]]]]:
    """Slices evenly spread over those with lungs and room, each with (region, disc, contrast in HU)."""
    spacing_mm, room = patient.slices.spacing_mm, []
    for index in range(0, len(patient), max(1, len(patient) // (3 * SLICES))):
        full, generator = patient.full(index), np.random.default_rng([seed, index])
        regions = body_regions(full, spacing_mm)
        if regions[LUNG].sum() < LEAST_LUNG * regions[BODY].sum():
            continue
        inside = np.where(regions[BODY], full, OUTSIDE_HU)  # couch and air are as light as lungs
        wanted = [d for d in DIAMETERS_MM for _ in range(NODULES)]
        nodules = place_lesions(inside, wanted, spacing_mm, generator, tissue_hu=LUNG_PLACE_HU, even_hu=LUNG_EVEN_HU)
        try:
            soft = insert_discs(full, spacing_mm, generator)
        except BioAttError:  # no even soft tissue
            continue
        if nodules:
            discs = [(LUNG, one, NODULE_HU) for one in nodules]
            discs += [(REST, one.lesion, one.contrast_hu) for one in soft if one.lesion.diameter_mm in DIAMETERS_MM]
            room.append((index, discs))
    return [room[i] for i in np.unique(np.linspace(0, len(room) - 1, min(SLICES, len(room))).round().astype(int))]


def body_regions(full_hu: np.ndarray, spacing_mm: float) -> dict[str, np.ndarray]:
    """Masks (H, W) of lungs and soft tissue, by the 9x9 mean of the full dose, and of the whole body."""
    body = binary_fill_holes(truth_regions(full_hu, spacing_mm)["body"])
    return {LUNG: tissue_mask(full_hu, "lung") & body, REST: tissue_mask(full_hu, "soft tissue") & body, BODY: body}


def lung_maps(low_hu: np.ndarray, patient: Patient, index: int, dense: Any) -> dict[str, np.ndarray]:
    """How much of each pixel (H, W) each way takes for lung, 0 to 1; the prior's is scaled to 1 where it is surest."""
    import torch
    from torch.nn.functional import interpolate

    smooth = gaussian_filter(low_hu, SMOOTH_MM / patient.slices.spacing_mm)
    body = binary_fill_holes(smooth > BODY_HU)
    by_hu = ((LUNG_HU[1] - smooth) / (LUNG_HU[1] - LUNG_HU[0])).clip(0.0, 1.0) * body
    prior = dense(torch.from_numpy(np.array(low_hu[None], np.float32)), [patient.keys[index]])
    place = prior[:, DESCRIPTORS.index("lungs")][:, None]
    by_prior = interpolate(place, size=low_hu.shape, mode="bilinear", align_corners=False)[0, 0].numpy()
    return {BY_HU: by_hu, BY_PRIOR: by_prior / max(float(by_prior.max()), 1e-6)}


def evaluated(
    network: OpenedNetwork,
    patient: Patient,
    index: int,
    lows: Sequence[np.ndarray],
    discs: Sequence[tuple[str, Lesion, float]],
    maps: Mapping[str, np.ndarray],
    regions: Mapping[str, np.ndarray],
) -> dict[str, Figures]:
    """Of a slice, by setting: noise as (sum of squares out, in), error as (value, pixels), and shares of contrast."""
    spacing_mm, full = patient.slices.spacing_mm, patient.full(index)
    profiles = [one.profile(full.shape, spacing_mm) for _, one, _ in discs]
    inserted = sum((hu * profile for (_, _, hu), profile in zip(discs, profiles, strict=True)), np.zeros(full.shape))
    images = [*lows, lows[0] + inserted]
    prior = network.prior(lows[0], patient.keys[index])
    outputs = [network.output(image, prior) for image in images]
    at = {
        mm: [anchored(mm)(image, out, spacing_mm) for image, out in zip(images, outputs, strict=True)]
        for mm in sorted({*ANCHORS_MM, *(mm for pair in PAIRS_MM for mm in pair)})
    }
    results = {f"{ONE}, {mm:g} mm": at[mm] for mm in ANCHORS_MM}
    for way, lung in maps.items():
        for fine, rest in PAIRS_MM:
            mixed = [lung * a + (1.0 - lung) * b for a, b in zip(at[fine], at[rest], strict=True)]
            results[f"{way}, {fine:g} and {rest:g} mm"] = mixed
    added, alpha2 = lows[0] - full, 1.0 / DOSE - 1.0
    noise_in = lows[0] - lows[1]
    return {
        setting: {
            "noise": {
                region: (float(((a - b)[mask] ** 2).sum()), float((noise_in[mask] ** 2).sum()))
                for region, mask in regions.items()
            },
            "error": {region: squared_error(a, full, added, alpha2, mask) for region, mask in regions.items()},
            "contrast": [
                (region, one.diameter_mm, contrast_recovery(with_discs - a, profile, hu))
                for (region, one, hu), profile in zip(discs, profiles, strict=True)
            ],
        }
        for setting, (a, b, with_discs) in results.items()
    }


def summed(of: Mapping[str, list[Any]]) -> Figures:
    """A patient's figures of those of the slices."""
    regions = list(of["noise"][0])
    noise = {region: [sum(one[region][i] for one in of["noise"]) for i in (0, 1)] for region in regions}
    discs = [disc for one in of["contrast"] for disc in one]
    return {
        "noise": {region: math.sqrt(out / into) if into else math.nan for region, (out, into) in noise.items()},
        "error": {region: pooled(one[region] for one in of["error"]) for region in regions},
        "contrast": {
            region: {
                f"{d:g}": float(np.mean(shares)) if shares else math.nan
                for d in DIAMETERS_MM
                for shares in [[share for where, mm, share in discs if (where, mm) == (region, d)]]
            }
            for region in (LUNG, REST)
        },
        "discs": {region: sum(where == region for where, _, _ in discs) for region in (LUNG, REST)},
    }


def measures(one: Figures) -> dict[str, float]:
    """What is compared at equal noise: contrast in points, errors in dB."""
    found = {f"contrast, {region}, {d} mm": 100.0 * x for region, of in one["contrast"].items() for d, x in of.items()}
    found |= {f"error, {region}": 10.0 * math.log10(x) if x > 0.0 else math.nan for region, x in one["error"].items()}
    return found | {f"noise, {region}": 100.0 * x for region, x in one["noise"].items() if region != BODY}


def at_equal_noise(figures: Mapping[str, Figures], noise: float) -> dict[str, float]:
    """`measures` of one anchor for all that leaves so much noise in the body, by straight lines between anchors."""
    curve = sorted((of["noise"][BODY], measures(of)) for name, of in figures.items() if name.startswith(ONE))
    for (lower, below), (upper, above) in pairwise(curve):
        if lower <= noise <= upper:
            share = (noise - lower) / (upper - lower)
            return {name: (1.0 - share) * below[name] + share * above[name] for name in below}
    return dict.fromkeys(curve[0][1], math.nan)


def differences(patients: Mapping[str, Mapping[str, Figures]]) -> dict[str, dict[str, Any]]:
    """Setting and measure to `patient_interval` of the difference to one anchor of equal noise."""
    settings = [name for name in next(iter(patients.values())) if not name.startswith(ONE)]
    found: dict[str, dict[str, Any]] = {}
    for setting in settings:
        by: dict[str, dict[str, float]] = {}
        for patient, figures in patients.items():
            plain = at_equal_noise(figures, figures[setting]["noise"][BODY])
            for measure, value in measures(figures[setting]).items():
                by.setdefault(measure, {})[patient] = value - plain[measure]
        found[setting] = {measure: patient_interval(values) for measure, values in by.items()}
    return found
