"""Contrast of lesions put into real slices before the low dose is simulated, by size and contrast."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scripts.errors import BioAttError
from scripts.evaluation.lesions import EDGE_SD_MM, Lesion, contrast_recovery, place_lesions

from .denoisers import Denoiser
from .patients import Patient

DIAMETERS_MM = (4.0, 6.0, 10.0, 15.0)
CONTRASTS_HU = (-40.0, -20.0, 20.0, 40.0)


def measure_lesions(
    patients: Sequence[Patient], denoiser: Denoiser, *, dose_fraction: float = 0.25, slices: int = 3, seed: int = 0
) -> dict[str, Any]:
    """Contrast recovery of one lesion of each size in each slice, once with each contrast.

    Each low dose is that of the slice with the lesions. Without them is the same image less the lesions, so that both
    have one noise and their difference is the lesion's alone; a slice has noise of its own for each contrast.

    Returns:
        ``rows``: per diameter and contrast the recovery's ``mean``, ``sd``, ``min`` and ``n``; and what was done.
    """
    found: dict[tuple[float, float], list[float]] = {}
    places = []
    generator = np.random.default_rng(seed)
    for patient in patients:
        for index, lesions in _places(patient, slices, generator):
            places.append({"patient": patient.name, "slice": index, "lesions": [one.center for one in lesions]})
            profiles = [one.profile(patient.full(index).shape, patient.slices.spacing_mm) for one in lesions]
            for i, contrast in enumerate(CONTRASTS_HU):
                inserted = contrast * sum(profiles)
                low = patient.low(index, dose_fraction, i, patient.full(index) + inserted)
                with_lesions, without = denoiser(np.stack([low, low - inserted]), patient.slices.spacing_mm)
                for lesion, profile in zip(lesions, profiles, strict=True):
                    share = contrast_recovery(with_lesions - without, profile, contrast)
                    found.setdefault((lesion.diameter_mm, contrast), []).append(share)
    rows = [
        {
            "diameter_mm": diameter,
            "contrast_hu": contrast,
            "n": len(shares),
            "mean": float(np.mean(shares)),
            "sd": float(np.std(shares, ddof=1)) if len(shares) > 1 else None,
            "min": float(np.min(shares)),
        }
        for (diameter, contrast), shares in sorted(found.items())
    ]
    return {"dose_fraction": dose_fraction, "edge_sd_mm": EDGE_SD_MM, "rows": rows, "places": places, "seed": seed}


def _places(patient: Patient, count: int, generator: np.random.Generator) -> list[tuple[int, list[Lesion]]]:
    """About `count` slices, evenly spread over those with room for all lesions, and where these lie."""
    room = []
    for index in patient.chosen(4 * count):
        try:
            room.append((index, place_lesions(patient.full(index), DIAMETERS_MM, patient.slices.spacing_mm, generator)))
        except BioAttError:  # lungs, or air: not every slice has room
            continue
    if not room:
        raise BioAttError(f"{patient.name}: no slice has room for lesions; leave this patient out")
    return [room[i] for i in np.unique(np.linspace(0, len(room) - 1, count).round().astype(int))]
