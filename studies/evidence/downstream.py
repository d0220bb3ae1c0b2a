"""What comes after denoising: features of fixed regions, and segmentation by threshold, against the full dose."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import kurtosis, skew
from scripts.dose.image_noise import noise_sd_hu
from scripts.evaluation.intervals import patient_interval
from scripts.hu import VALID_RANGE_HU

from .bench import Bench
from .evaluating import EvaluatedSlice, Method

#: Width of a grey level of the texture features, as radiomics bins CT (IBSI: fixed bin size), and their range.
BIN_HU, RANGE_HU = 25.0, (-200.0, 300.0)
#: Masks by threshold in HU: (lower, upper).
THRESHOLDS_HU = {"bone": (200.0, VALID_RANGE_HU[1]), "lung": (-950.0, -500.0), "body": (-500.0, VALID_RANGE_HU[1])}
#: Fewest pixels of a mask in the full dose that are compared.
FEWEST = 100
FULL, LOW = "full dose", "low dose"


def measure_downstream(bench: Bench, methods: Sequence[Method]) -> dict[str, Any]:
    """Features and masks of the low dose and of each method's output, beside those of the full dose.

    Returns:
        ``regions``: how many flat squares of how many patients; ``concordance``: image to feature to Lin's coefficient
        with the full dose over all squares; ``dice``: image to mask to `patient_interval`; ``noise_hu``: image to
        `patient_interval` of the noise in flat soft tissue.
    """
    features: dict[str, list[dict[str, float]]] = {}
    dice: dict[str, dict[str, dict[str, list[float]]]] = {}
    noise: dict[str, dict[str, list[float]]] = {}
    for patient in bench.patients:
        for one in patient.slices:
            for name, image in outputs(one, methods).items():
                features.setdefault(name, []).extend(region_features(image[part]) for part in one.plane.squares)
                noise.setdefault(name, {}).setdefault(patient.name, []).append(noise_sd_hu(image, one.plane.flat))
                for mask, value in overlaps(one.full_hu, image).items():
                    dice.setdefault(name, {}).setdefault(mask, {}).setdefault(patient.name, []).append(value)
    return {
        "regions": len(features[FULL]),
        "patients": len(bench.patients),
        "concordance": {name: _agreement(features[FULL], of) for name, of in features.items() if name != FULL},
        "dice": {
            name: {mask: patient_interval(_means(by_patient)) for mask, by_patient in of.items()}
            for name, of in dice.items()
            if name != FULL
        },
        "noise_hu": {name: patient_interval(_means(of)) for name, of in noise.items()},
    }


def _agreement(full: Sequence[Mapping[str, float]], of: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Feature to `concordance` of the same regions."""
    return {feature: concordance([one[feature] for one in full], [one[feature] for one in of]) for feature in of[0]}


def outputs(one: EvaluatedSlice, methods: Sequence[Method]) -> dict[str, np.ndarray]:
    """The slice at full and low dose, and what each method makes of the low one at each setting."""
    found = {FULL: one.full_hu, LOW: one.low_hu}
    for method in methods:
        for name, (result,) in method.results(one, [one.low_hu]).items():
            found[f"{method.name}, {name}"] = result
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
