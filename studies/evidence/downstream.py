"""What comes after denoising: features of fixed regions, and segmentation by threshold, against the full dose."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import kurtosis, skew
from scipy.stats import t as student
from scripts.dose.image_noise import noise_sd_hu
from scripts.evaluation.intervals import FEWEST_PATIENTS, patient_interval
from scripts.hu import VALID_RANGE_HU

from .bench import Bench
from .evaluating import EvaluatedSlice, Method
from .methods import Smoothing

#: Width of a grey level of the texture features, as radiomics bins CT (IBSI: fixed bin size), and their range.
BIN_HU, RANGE_HU = 25.0, (-200.0, 300.0)
#: Masks by threshold in HU: (lower, upper).
THRESHOLDS_HU = {"bone": (200.0, VALID_RANGE_HU[1]), "lung": (-950.0, -500.0), "body": (-500.0, VALID_RANGE_HU[1])}
#: Fewest pixels of a mask in the full dose that are compared.
FEWEST = 100
FULL, LOW = "full dose", "low dose"
#: Coefficients are kept this far from -1 and 1, where Fisher's z is infinite.
CLEAR = 1e-9

Features = Mapping[str, Sequence[Mapping[str, float]]]  # of each patient's regions


def measure_downstream(bench: Bench, network: Method) -> dict[str, Any]:
    """Features and masks of the low dose and of what is made of it, beside those of the full dose.

    Args:
        bench: the patients.
        network: at its strengths; beside each stands the Gaussian that leaves as much noise in the slice.

    Returns:
        ``regions``: how many flat squares of how many patients; ``concordance``: image to feature to Lin's coefficient
        with the full dose over all squares, and ``concordance_95`` to its interval, see `agreement`; ``more_than``:
        image to the other image (the low dose, or the Gaussian beside it) to feature to the interval of the difference,
        see `difference`; ``dice``: image to mask to `patient_interval`; ``noise_hu``: image to `patient_interval` of
        the noise in flat soft tissue.
    """
    features: dict[str, dict[str, list[dict[str, float]]]] = {}
    dice: dict[str, dict[str, dict[str, list[float]]]] = {}
    noise: dict[str, dict[str, list[float]]] = {}
    for patient in bench.patients:
        for one in patient.slices:
            for name, image in outputs(one, network).items():
                found = features.setdefault(name, {}).setdefault(patient.name, [])
                found.extend(region_features(image[part]) for part in one.plane.squares)
                noise.setdefault(name, {}).setdefault(patient.name, []).append(noise_sd_hu(image, one.plane.flat))
                for mask, value in overlaps(one.full_hu, image).items():
                    dice.setdefault(name, {}).setdefault(mask, {}).setdefault(patient.name, []).append(value)
    agreements = {name: agreement(features[FULL], of) for name, of in features.items() if name != FULL}
    return {
        "regions": sum(map(len, features[FULL].values())),
        "patients": len(bench.patients),
        "concordance": {name: {f: value for f, (value, _) in of.items()} for name, of in agreements.items()},
        "concordance_95": {name: {f: interval for f, (_, interval) in of.items()} for name, of in agreements.items()},
        "more_than": {
            f"{network.name}, {name}": {
                other: difference(features[FULL], features[f"{network.name}, {name}"], features[other])
                for other in (LOW, f"Gaussian, as {name}")
            }
            for name in network.settings
        },
        "dice": {
            name: {mask: patient_interval(_means(by_patient)) for mask, by_patient in of.items()}
            for name, of in dice.items()
            if name != FULL
        },
        "noise_hu": {name: patient_interval(_means(of)) for name, of in noise.items()},
    }


def agreement(full: Features, of: Features) -> dict[str, tuple[float, list[float] | None]]:
    """Feature to `concordance` of the same regions of all patients, with its 95% interval.

    Regions of one patient are alike, so the interval is a jackknife over patients: each is left out in turn, on
    Fisher's z, with Student's t of one degree of freedom less than patients; None below three patients.
    """
    found = {}
    for feature, (value, *without) in _in_turn(full, of).items():
        ends = _jackknife(_fisher_z([value, *without]))
        found[feature] = (value, ends and np.tanh(ends).tolist())
    return found


def difference(full: Features, of: Features, other: Features) -> dict[str, list[float] | None]:
    """Feature to the 95% interval of how much better `of` agrees with `full` than `other` does, on Fisher's z.

    The same jackknife as in `agreement`, of the difference, so what both images share widens nothing.
    """
    sides = [_in_turn(full, one) for one in (of, other)]
    return {
        feature: _jackknife(np.subtract(*(_fisher_z(side[feature]) for side in sides)).tolist()) for feature in sides[0]
    }


def _in_turn(full: Features, of: Features) -> dict[str, list[float]]:
    """Feature to `concordance` over all patients, then without each of them; the first alone below three patients."""
    patients = [patient for patient, regions in full.items() if regions]
    enough = len(patients) >= FEWEST_PATIENTS
    groups = [patients, *([one for one in patients if one != left_out] for left_out in patients if enough)]

    def over(chosen: Sequence[str], feature: str) -> float:
        a, b = ([region[feature] for patient in chosen for region in side[patient]] for side in (full, of))
        return concordance(a, b)

    return {feature: [over(chosen, feature) for chosen in groups] for feature in full[patients[0]][0]}


def _fisher_z(values: Sequence[float]) -> list[float]:
    """Coefficients on the scale on which their errors are nearly normal."""
    return np.arctanh(np.clip(values, CLEAR - 1.0, 1.0 - CLEAR)).tolist()


def _jackknife(values: Sequence[float]) -> list[float] | None:
    """95% interval of the first of `values` from the others, without each patient in turn; None without any."""
    middle, *others = values
    n = len(others)
    if not n:
        return None
    error = math.sqrt((n - 1) / n * float(((others - np.mean(others)) ** 2).sum()))
    half = float(student.ppf(0.975, n - 1)) * error
    return [middle - half, middle + half]


def outputs(one: EvaluatedSlice, network: Method) -> dict[str, np.ndarray]:
    """The slice at full and low dose; what the network makes of the low one; and the Gaussians of equal noise."""
    found = {FULL: one.full_hu, LOW: one.low_hu}
    smoothing = Smoothing(one.low_hu, one.plane.flat, one.spacing_mm)
    for name, (result,) in network.results(one, [one.low_hu]).items():
        found[f"{network.name}, {name}"] = result
        found[f"Gaussian, as {name}"] = smoothing.like(result)
    return found


def region_features(region_hu: np.ndarray) -> dict[str, float]:
    """First-order and co-occurrence features of a region (N, N) in HU.

    Co-occurrence at one pixel, mean over four directions, of grey levels of `BIN_HU`. Source: Haralick et al., 1973;
    the bins as the Image Biomarker Standardisation Initiative has them for CT.
    """
    from skimage.feature import graycomatrix, graycoprops

    values = np.asarray(region_hu, np.float64)
    levels = int((RANGE_HU[1] - RANGE_HU[0]) / BIN_HU)
    binned = ((values.clip(*RANGE_HU) - RANGE_HU[0]) / BIN_HU).astype(np.uint8).clip(max=levels - 1)
    share = np.bincount(binned.ravel(), minlength=levels) / binned.size
    angles = [0.0, math.pi / 4, math.pi / 2, 3 * math.pi / 4]
    matrix = graycomatrix(binned, [1], angles, levels=levels, symmetric=True, normed=True)
    return {
        "mean": float(values.mean()),
        "SD": float(values.std()),
        "10th percentile": float(np.quantile(values, 0.1)),
        "90th percentile": float(np.quantile(values, 0.9)),
        "skewness": float(skew(values, axis=None)),
        "kurtosis": float(kurtosis(values, axis=None)),
        "entropy": float(-(share[share > 0] * np.log2(share[share > 0])).sum()),
        **{
            f"co-occurrence {name}": float(graycoprops(matrix, name).mean())
            for name in ("contrast", "homogeneity", "energy", "correlation")
        },
    }


def concordance(reference: Sequence[float], values: Sequence[float]) -> float:
    """Lin's concordance correlation coefficient, 1 for equal values (Lin, Biometrics 45 (1989) 255)."""
    a, b = np.asarray(reference, np.float64), np.asarray(values, np.float64)
    spread = a.var() + b.var() + (a.mean() - b.mean()) ** 2
    return float(2.0 * ((a - a.mean()) * (b - b.mean())).mean() / spread) if spread else 1.0


def overlaps(full_hu: np.ndarray, image_hu: np.ndarray) -> dict[str, float]:
    """Dice coefficient of each mask of `THRESHOLDS_HU` with that of the full dose; masks that are there alone."""
    found = {}
    for name, (lower, upper) in THRESHOLDS_HU.items():
        wanted, got = ((image > lower) & (image <= upper) for image in (full_hu, image_hu))
        if wanted.sum() >= FEWEST:
            found[name] = float(2.0 * (wanted & got).sum() / (wanted.sum() + got.sum()))
    return found


def _means(by_patient: dict[str, list[float]]) -> dict[str, float]:
    return {patient: float(np.nanmean(of)) for patient, of in by_patient.items()}
