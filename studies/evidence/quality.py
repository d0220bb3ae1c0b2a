"""Quality at low dose on patients left out, beside the baselines, against the limits; and the same at several doses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scripts.dose.image_noise import TISSUES_HU, flat_soft_tissue
from scripts.evaluation.quality import METRICS, slice_measures
from scripts.evaluation.results import mean_measures

from studies.measures.baselines import gain_cap_db
from studies.measures.edges import edge_widths

from .denoisers import Denoiser
from .limits import Limit
from .methods import Smoothing
from .patients import Patient

DOSES = (1.0, 0.5, 0.25, 0.1)
#: The denoiser that is evaluated, by its name in the results.
NETWORK = "network"
#: The Gaussian that leaves as much noise as the network, chosen for each slice.
SMOOTH = "Gaussian of equal noise"


def measure_quality(
    patients: Sequence[Patient], denoisers: Sequence[Denoiser], *, dose_fraction: float = 0.25, slices: int = 10
) -> dict[str, Any]:
    """Every measure of low dose and of each denoiser against the full dose.

    Args:
        patients: left out of the training.
        denoisers: the first is `NETWORK`.
        dose_fraction: of the input.
        slices: about so many a patient.

    Returns:
        ``patients``: name to ``slices`` and, by image, the mean of each measure; ``slices``: the same for each slice
        by its number; ``gain``: by patient and image the gain in PSNR and its share of the cap; ``limits``. `SMOOTH` is
        among the images.
    """
    rows = {patient.name: _slices(patient, denoisers, dose_fraction, slices) for patient in patients}
    means = {name: mean_measures(list(of.values())) for name, of in rows.items()}
    cap = gain_cap_db(dose_fraction)
    gain = {
        name: {
            image: {"psnr_db": (g := mean[image]["psnr_db"] - mean["low"]["psnr_db"]), "share_of_cap": g / cap}
            for image in mean
            if image not in ("slices", "low")
        }
        for name, mean in means.items()
    }
    limits = [limit for name, mean in means.items() for limit in quality_limits(name, mean)]
    return {
        "dose_fraction": dose_fraction,
        "slices_per_patient": slices,
        "cap_db": cap,
        "patients": means,
        "gain": gain,
        "slices": rows,
        "limits": [one.as_dict() for one in limits],
    }


def _slices(patient: Patient, denoisers: Sequence[Denoiser], dose: float, count: int) -> dict[int, dict[str, Any]]:
    rows = {}
    for index in patient.chosen(count):
        low = patient.low(index, dose)
        spacing_mm = patient.slices.spacing_mm
        ours, *others = denoisers
        images = {"low": low, ours.name: ours(low[None], spacing_mm)[0]}
        images[SMOOTH] = Smoothing(low, flat_soft_tissue(low), spacing_mm).like(images[ours.name])
        images |= {one.name: one(low[None], spacing_mm)[0] for one in others}
        rows[index] = slice_measures(images, patient.full(index), METRICS)
    return rows


def quality_limits(patient: str, mean: dict[str, Any]) -> list[Limit]:
    """The limits on one patient's means."""
    out, nlm, smooth = mean[NETWORK], mean["nlm"], mean[SMOOTH]
    limits = [
        Limit(f"{patient}: PSNR over non-local means", out["psnr_db"] - nlm["psnr_db"], ">=", 0.5, "dB"),
        Limit(f"{patient}: SSIM above non-local means", nlm["ssim"] - out["ssim"], "<", 0.0, "(theirs less ours)"),
        Limit(f"{patient}: PSNR over a Gaussian of equal noise", out["psnr_db"] - smooth["psnr_db"], ">=", 0.0, "dB"),
    ]
    for tissue in TISSUES_HU:
        bias = out[f"bias_{tissue.replace(' ', '_')}_hu"]
        if not math.isnan(bias):
            limits.append(Limit(f"{patient}: HU of {tissue} kept", abs(bias), "<", 2.0, "HU"))
    return limits


def measure_doses(patients: Sequence[Patient], strengths: Mapping[str, Denoiser], *, slices: int = 4) -> dict[str, Any]:
    """What the network does from full dose, where it should do little, to a tenth, where it should still help.

    Args:
        patients: held out.
        strengths: name of the strength to the network at it.
        slices: of each patient.

    Returns:
        ``rows``: per patient, dose and strength the means over slices of input (``low``), output (``out``) and the
        Gaussian that leaves as much noise (``gaussian``) against the full dose; at full dose that is the input itself.
        ``edges_mm``: the width of the mean profile across body and bone.
    """
    rows = []
    for patient in patients:
        spacing_mm, chosen = patient.slices.spacing_mm, patient.chosen(slices)
        fulls = [patient.full(index) for index in chosen]
        for dose in DOSES:
            lows = [patient.low(index, dose) for index in chosen]
            smoothings = [Smoothing(low, flat_soft_tissue(low), spacing_mm) for low in lows]
            for strength, denoiser in strengths.items():
                outs = [denoiser(low[None], spacing_mm)[0] for low in lows]
                images = {"low": lows, "out": outs}
                images["gaussian"] = [one.like(out) for one, out in zip(smoothings, outs, strict=True)]
                rows.append(
                    {
                        "patient": patient.name,
                        "dose_fraction": dose,
                        "strength": strength,
                        **_compared(images, fulls),
                        "edges_mm": edge_widths(fulls, {"full": fulls, **images}, spacing_mm),
                    }
                )
    return {"rows": rows}


def _compared(images: Mapping[str, list[np.ndarray]], fulls: list[np.ndarray]) -> dict[str, Any]:
    measured = [
        slice_measures({name: of[i] for name, of in images.items()}, full, METRICS) for i, full in enumerate(fulls)
    ]
    return mean_measures(measured)
