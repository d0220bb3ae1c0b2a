"""Whole series of patients left out: steps between neighbouring slices, and what reformats show."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scripts.evaluation.figures import picture_rows

from studies.measures.consistency import mean_changes, neighbour_steps

from .denoisers import Denoiser
from .limits import Limit
from .patients import Patient

STEP_LIMIT_HU = 0.5


def measure_volumes(
    patients: Sequence[Patient], denoiser: Denoiser, pictures: Path, *, dose_fraction: float = 0.25
) -> dict[str, Any]:
    """Steps between the slices of each patient's whole low-dose series, denoised; writes reformats as pictures.

    Returns:
        ``patients``: name to `neighbour_steps`; ``limits``; ``pictures``: file names.
    """
    steps, limits, names = {}, [], []
    for patient in patients:
        lows, outs, changes = [], [], []
        for index in range(len(patient)):
            lows.append(patient.low(index, dose_fraction))
            outs.append(denoiser(lows[-1][None], patient.slices.spacing_mm)[0])
            changes.append(mean_changes(outs[-1], lows[-1], patient.full(index)))
        steps[patient.name] = neighbour_steps(changes)
        worst = steps[patient.name]["body"]["max"]
        limits.append(Limit(f"{patient.name}: steps between slices", worst, "<", STEP_LIMIT_HU, "HU"))
        names.append(f"reformats_{patient.name}.png")
        _reformats(pictures / names[-1], patient, np.stack(lows), np.stack(outs))
    return {
        "dose_fraction": dose_fraction,
        "patients": steps,
        "limits": [one.as_dict() for one in limits],
        "pictures": names,
    }


def _reformats(path: Path, patient: Patient, low: np.ndarray, out: np.ndarray) -> None:
    """Coronal above sagittal, through the middle of the body: low dose, denoised, full dose, difference."""
    full = np.stack([patient.full(i) for i in range(len(patient))])
    body = np.argwhere(full.mean(0) > -500.0)
    row, column = map(int, body.mean(0))
    height = np.linalg.norm(np.asarray(patient.slices.meta["affine"])[:3, 2]) / patient.slices.spacing_mm
    planes = {"coronal": np.s_[::-1, row, :], "sagittal": np.s_[::-1, :, column]}
    rows = {
        name: {"low dose": low[plane], "denoised": out[plane], "full dose": full[plane]}
        for name, plane in planes.items()
    }
    picture_rows(path, rows, ("low dose", "denoised"), aspect=height)
